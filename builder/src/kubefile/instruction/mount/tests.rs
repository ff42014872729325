use super::*;

fn mount(text: &str) -> Result<Mount, MountError> {
    MountOptions::parse(text)?.mount()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn mounts_of_every_type() {
    let bind = BindMount { target: "/a".into(), source: None, from: None, writable: false };
    assert_eq!(mount("target=/a"), Ok(Mount::Bind(bind.clone())));
    let full = BindMount { source: text("b"), from: text("c"), writable: true, ..bind };
    for form in
        ["type=bind,source=b,from=c,dst=/a,rw", "DST=/a,from=c,src=b,readwrite=true,type=BIND"]
    {
        assert_eq!(mount(form), Ok(Mount::Bind(full.clone())), "{form}");
    }
    let cache = CacheMount {
        target: "/a".into(),
        id: None,
        read_only: false,
        sharing: Sharing::Shared,
        from: None,
        source: None,
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    assert_eq!(mount("type=cache,destination=/a"), Ok(Mount::Cache(cache.clone())));
    let full = CacheMount {
        id: text("i"),
        read_only: true,
        sharing: Sharing::Locked,
        from: text("f"),
        source: text("s"),
        mode: 0o1777,
        uid: 7,
        gid: 8,
        ..cache
    };
    let form = "type=cache,target=/a,id=i,ro,sharing=locked,from=f,source=s,mode=1777,uid=7,gid=8";
    assert_eq!(mount(form), Ok(Mount::Cache(full)));
    let tmpfs = |size| Mount::Tmpfs(TmpfsMount { target: "/a".into(), size });
    assert_eq!(mount("type=tmpfs,target=/a"), Ok(tmpfs(None)));
    assert_eq!(mount("type=tmpfs,target=/a,size=2m"), Ok(tmpfs(Some(2 << 20))));
    let file = |mode| FileMount {
        id: text("i"),
        target: None,
        env: None,
        required: false,
        mode,
        uid: 0,
        gid: 0,
    };
    assert_eq!(mount("type=secret,id=i"), Ok(Mount::Secret(file(0o400))));
    assert_eq!(mount("type=ssh,id=i"), Ok(Mount::Ssh(file(0o600))));
    let full = FileMount { env: text("E"), required: true, target: text("/t"), ..file(0o444) };
    let form = "type=secret,id=i,env=E,required,target=/t,mode=0444";
    assert_eq!(mount(form), Ok(Mount::Secret(full)));
}

#[test]
fn options_are_fields_of_a_csv_line() {
    let of = |text| fields(text);
    assert_eq!(of("a,b=c"), Ok(vec!["a".into(), "b=c".into()]));
    assert_eq!(of("\"a,b\",\"c\"\"d\""), Ok(vec!["a,b".into(), "c\"d".into()]));
    for bad in ["\"a", "a\"b", "\"a\"b", "\"a\"\"", "\""] {
        assert_eq!(of(bad), Err(MountError::Quotes), "{bad}");
    }
}

#[test]
fn bad_options_are_named() {
    for (form, message, meant) in [
        ("type=bnd,target=/a", "there is no mount type bnd", Some("bind")),
        ("type=npipe,target=/a", "there is no mount type npipe", None),
        ("type=cache,tarjet=/a", "a mount has no option tarjet", Some("target")),
        ("type=tmpfs,target=/a,id=x", "a mount of type tmpfs has no option id", None),
        ("type=cache", "a mount of type cache needs a target", None),
        ("type=secret", "a mount of type secret needs an id or a target", None),
        ("target=", "the mount option target cannot be \"\": a value is expected", None),
        ("type=cache,target=/a,sharing=some", "shared, private or locked is expected", None),
        ("type=cache,target=/a,mode=999", "an octal number is expected", None),
        ("type=cache,target=/a,uid=-1", "a number is expected", None),
        ("type=tmpfs,target=/a,size=1x", "a number of bytes like 64m is expected", None),
        ("type=tmpfs,target=/a,size=99999999t", "a number of bytes like 64m is expected", None),
        ("target=/a,rw=maybe", "true or false is expected", None),
        ("", "a mount has no option ", None),
    ] {
        let error = mount(form).expect_err(form);
        assert!(error.to_string().contains(message), "{form}: {error}");
        assert_eq!(error.did_you_mean(), meant, "{form}");
    }
}

#[test]
fn variables_are_left_for_the_plan() {
    let mut options = MountOptions::parse("type=cache,target=/$A,uid=${U}").unwrap();
    assert!(options.has_variables());
    assert!(options.mount().is_err());
    options.options = vec![("target".into(), text("/a")), ("uid".into(), text("1"))];
    assert_eq!(options.mount(), Err(MountError::OptionOfType { kind: "bind", key: "uid".into() }));
    options.options.push(("type".into(), text("Cache")));
    assert!(matches!(options.mount(), Ok(Mount::Cache(CacheMount { uid: 1, .. }))));
    // The type may be one too, and then nothing can be said of the other options.
    let options = MountOptions::parse("type=$T,target=/a,uid=1,sharing=locked").unwrap();
    assert!(options.has_variables());
    assert!(matches!(options.mount(), Err(MountError::Type(name)) if name == "$t"));
}
