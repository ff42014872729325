//! What the command line asks for beside the file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::workshop::{Workshop, run};

const TEXT: &str = "\
FROM base
LABEL a=file b=file
COPY tree /tree
RUN rm /tree/one && echo more >/tree/more && rm -r /tmp && mkdir /tmp && touch /tmp/new
ENV X=y
RUN ln /tree/two /tree/linked && setfattr -n user.k -v v /tree/two
CMD [\"x\"]
";

fn workshop() -> Option<Workshop> {
    let shop = Workshop::with_base()?;
    shop.write("tree/one", "one");
    shop.write("tree/two", "two");
    Some(shop)
}

fn layers(shop: &Workshop, image: &str) -> usize {
    shop.inspect(image)["layers"].as_array().unwrap().len()
}

/// All that tar says of the files of an image.
#[track_caller]
fn listed(shop: &Workshop, image: &str) -> String {
    shop.mounted(image, |root| {
        let mut find = Command::new("find");
        find.arg(root).args(["-printf", "%P %y %m %U:%G %s %n %l %T@\\n"]);
        let mut lines: Vec<_> = run(&mut find).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    })
}

#[test]
fn new_layers_become_one_and_the_base_can_be_left_out() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    let before = listed(&shop, "new");
    assert_eq!(layers(&shop, "new"), 4);
    shop.build_with(TEXT, &["--squash"]);
    assert_eq!(layers(&shop, "new"), 2);
    assert_eq!(listed(&shop, "new"), before);
    let inspected = shop.inspect("new");
    let history = inspected["config"]["history"].as_array().unwrap();
    let with_layer = history.iter().filter(|step| step["empty_layer"] != true).count();
    assert_eq!(with_layer, 2, "{history:?}");
    assert_eq!(inspected["config"]["config"]["Cmd"][0], "x");
    shop.mounted("new", |root| {
        assert_eq!(xattr::get(root.join("tree/linked"), "user.k").unwrap().unwrap(), b"v");
    });
    // Once more, and it is the same image.
    let digest = inspected["digest"].clone();
    shop.build_with(TEXT, &["--squash"]);
    assert_eq!(shop.inspect("new")["digest"], digest);
    for (args, count) in [(&["--base=false"][..], 3), (&["--base=false", "--squash"], 1)] {
        shop.build_with(TEXT, args);
        assert_eq!(layers(&shop, "new"), count, "{args:?}");
        let files = shop.files("new");
        assert!(files.contains(&"tree/more".to_owned()), "{files:?}");
        assert!(!files.iter().any(|file| file.starts_with("usr/")), "{files:?}");
    }
    shop.assert_nothing_left();
}

#[test]
fn labels_annotations_and_the_id() {
    let Some(shop) = workshop() else { return };
    let args = [
        "--label",
        "b=option",
        "--label",
        "c",
        "--annotation",
        "org.example=yes",
        "--iidfile",
        "id",
    ];
    let built = shop.build_with(TEXT, &args);
    let inspected = shop.inspect("new");
    let labels = &inspected["config"]["config"]["Labels"];
    assert_eq!(
        (&labels["a"], &labels["b"], &labels["c"]),
        (&"file".into(), &"option".into(), &"".into())
    );
    assert_eq!(inspected["manifest"]["annotations"]["org.example"], "yes");
    assert_eq!(inspected["digest"], built.digest.as_str());
    let id = fs::read_to_string(shop.path("id")).unwrap();
    assert_eq!(inspected["manifest"]["config"]["digest"], id.as_str());
    // No step is done again for them.
    assert_eq!(built.cached(), 0);
    assert_eq!(shop.build(TEXT).cached(), 3);
    for bad in ["--label", "--annotation"] {
        assert!(shop.fails(TEXT, &[bad, "=x"]).contains("the name is empty"));
    }
}

#[test]
fn outputs_of_every_kind() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    for (output, image) in [
        ("type=oci,dest=oci.tar", "oci-archive:oci.tar"),
        ("type=docker,dest=docker.tar", "docker-archive:docker.tar"),
    ] {
        assert_eq!(shop.build_with(TEXT, &["--output", output]).cached(), 3);
        assert_eq!(shop.ok(&["cat", image, "/tree/more"]), "more\n", "{output}");
    }
    shop.build_with(TEXT, &["--output", "type=tar,dest=root.tar"]);
    let list = run(Command::new("tar").arg("tf").arg(shop.path("root.tar")));
    assert!(list.lines().any(|line| line == "./tree/linked"), "{list}");
    for output in ["out", "type=local,dest=out", "type=dir,dest=out"] {
        shop.build_with(TEXT, &["-o", output]);
        let (one, two) = (shop.path("out/tree/two"), shop.path("out/tree/linked"));
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(inode(&one), inode(&two), "{output}");
        assert!(!shop.path("out/tree/one").exists());
        fs::remove_dir_all(shop.path("out")).unwrap();
    }
    // To standard output, and then nothing else.
    let output = shop.try_build("Dockerfile", TEXT, &["--output", "-"]);
    assert!(output.status.success());
    fs::write(shop.path("stdout.tar"), &output.stdout).unwrap();
    let same = run(Command::new("tar").arg("tf").arg(shop.path("stdout.tar")));
    assert_eq!(same, list);
    let said = shop.fails(TEXT, &["--output", "type=tar,dest=none/x.tar"]);
    assert!(said.contains("none/x.tar: No such file"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn several_names_and_outputs() {
    let Some(shop) = workshop() else { return };
    let outputs = ["-t", "other:2", "-o", "type=docker,dest=docker.tar", "-o", "out"];
    let built = shop.build_with(TEXT, &outputs);
    assert!(built.said.contains("Built new, other:2 in"), "{}", built.said);
    for image in ["new", "other:2"] {
        assert_eq!(shop.inspect(image)["digest"], built.digest.as_str());
        let archived = format!("docker-archive:docker.tar:{image}");
        assert_eq!(shop.ok(&["cat", &archived, "/tree/more"]), "more\n");
    }
    assert!(shop.path("out/tree/more").exists());
    let said = shop.fails(TEXT, &["-t", "Wrong"]);
    assert!(said.contains("lower-case"), "{said}");
    let said = shop.fails(TEXT, &["-o", "-", "-o", "type=oci,dest=-"]);
    assert!(said.contains("more than once"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn a_tar_that_cannot_be_written_leaves_the_old_one() {
    let Some(shop) = workshop() else { return };
    fs::write(shop.path("root.tar"), "old").unwrap();
    let mut build = shop.kfs(&["build", "-f", "Dockerfile", "-o", "type=tar,dest=root.tar"]);
    fs::write(shop.path("Dockerfile"), TEXT).unwrap();
    // No tar is there to write it.
    let output = build.arg("context").env("PATH", "/nowhere").output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(fs::read(shop.path("root.tar")).unwrap(), b"old");
}

/// All that a user other than root cannot have is left out, and that is said once.
#[test]
fn a_user_gets_what_he_may_have() {
    let Some(shop) = Workshop::new() else { return };
    shop.import("base", |root| {
        fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::chown(root.join("file"), Some(1), Some(2)).unwrap();
        fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
        run(Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]));
        xattr::set(root.join("file"), "security.capability", &[0; 20]).ok();
    });
    let script = r#"
        set -e
        chmod 755 "$1"; install -d -o 65534 -g 65534 "$1/home"; cp "$0" "$1/kfs"
        cp -r "$1/store" "$1/home/store"; chown -R 65534:65534 "$1/home"
        cd "$1/home"; export KFS_ROOT=$PWD/store KFS_PULL=never HOME=$PWD
        printf 'FROM base
COPY Dockerfile /
' >Dockerfile
        user() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        user "$1/kfs" build -t new -o out -o type=tar,dest=out.tar .
        user "$1/kfs" cp -a base /file copy
        stat -c %U:%a out/file copy; tar tf out.tar; ls out"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_kfs")]).arg(shop.path("."));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nobody:755\nnobody:755\n./\n"), "{text}");
    assert!(text.ends_with("Dockerfile\nfile\n"), "{text}");
    assert_eq!(said.matches("left out: they need root").count(), 3, "{said}");
}

#[test]
fn progress_of_every_kind() {
    let Some(shop) = workshop() else { return };
    let text =
        format!("FROM base AS other\nRUN echo in the other\n{TEXT}COPY --from=other /etc /etc2\n");
    let said = shop.build_with(&text, &["--progress", "json"]).said;
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((events("step"), events("done"), events("built")), (10, 10, 1), "{said}");
    let output = lines.iter().find(|line| line["event"] == "output").unwrap();
    assert_eq!((&output["stage"], &output["line"]), (&"other".into(), &"in the other".into()));
    for progress in ["plain", "tty", "auto"] {
        let said = shop.build_with(&text, &["--progress", progress]).said;
        assert!(said.contains("[other 2/2] RUN echo in the other"), "{progress}: {said}");
        assert!(said.contains("Built new in"), "{progress}: {said}");
    }
    let mut quiet = shop.kfs(&["build", "-q", "-t", "new", "-f", "Dockerfile", "context"]);
    assert_eq!(quiet.stdout(Stdio::null()).output().unwrap().stderr, b"");
}

#[test]
fn names_of_other_builders_and_the_order_of_files() {
    let Some(shop) = workshop() else { return };
    let names = ["Containerfile", "Dockerfile", "Kubefile", "Sealfile"];
    for name in names {
        shop.write(name, format!("FROM scratch\nCOPY {name} /\n"));
        shop.ok(&["build", "-t", "new", "context"]);
        assert_eq!(shop.files("new"), [name], "the last of those that there are goes first");
    }
    shop.write("Other", "FROM scratch\nCOPY Other /\n");
    for args in [
        &["--kubefile", "Other", "--imageName", "new"][..],
        &["--file", "Other", "--tag", "new"],
        &["-f", "context/Other", "-t", "new", "-b", "lite"],
        &["-f", "Other", "-t", "new", "-m", "lite", "--no-cache"],
        &["-f", "Other", "-t", "new", "--buildType", "lite", "--mode", "lite"],
        &["-f", "Other", "-t", "new", "--type", "app-installer", "--base=true"],
        &["-f", "Other", "-t", "new", "--base"],
    ] {
        let args = [&["build"], args, &["context"]].concat();
        if args.contains(&"--buildType") && args.contains(&"--mode") {
            // The same option under two names, said twice.
            assert_eq!(shop.kfs(&args).output().unwrap().status.code(), Some(2));
            continue;
        }
        shop.ok(&args);
        assert_eq!(shop.files("new"), ["Other"], "{args:?}");
    }
}

#[test]
fn contexts_by_name() {
    let Some(shop) = workshop() else { return };
    fs::create_dir_all(shop.path("more/deep")).unwrap();
    fs::write(shop.path("more/deep/file"), "in more").unwrap();
    fs::write(shop.path("more/.dockerignore"), "hidden\n").unwrap();
    fs::write(shop.path("more/hidden"), "").unwrap();
    let text = "\
FROM base AS stage
RUN touch /of-the-stage
FROM named
COPY --from=More . /more/
COPY --from=stage . /stage/
RUN --mount=from=more,target=/m cat /m/deep/file
";
    let args = [
        "--build-context",
        "more=more",
        "--build-context",
        "named=docker-image://base",
        "--build-context",
        "STAGE=context/tree",
    ];
    let built = shop.build_with(text, &args);
    assert_eq!(built.last_run(), "in more");
    assert_eq!(built.cached(), 0);
    let files = shop.files("new");
    let has = |path: &str| files.contains(&path.to_owned());
    assert!(has("more/deep/file") && !has("more/hidden"), "{files:?}");
    assert!(has("stage/one") && !has("stage/of-the-stage"), "{files:?}");
    assert_eq!(shop.build_with(text, &args).cached(), 3);
    fs::write(shop.path("more/deep/file"), "other").unwrap();
    assert_eq!(shop.build_with(text, &args).cached(), 0);
    let said = shop.fails(text, &["--build-context", "more=nowhere"]);
    assert!(said.contains("open the build context nowhere: No such file"), "{said}");
    let said = shop.fails("FROM base\nCOPY --from=none a /\n", &["--pull=never"]);
    assert!(said.contains("Dockerfile:2: no image \"none\""), "{said}");
    // A stage may begin with one.
    shop.build_with("FROM more\nENV A=b\n", &["--build-context", "more=more"]);
    assert_eq!(shop.files("new"), [".dockerignore", "deep/", "deep/file"]);
}
