//! Small charts, made here: what is in them, how they are put together, and how they are packed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use kfs_charts::{Chart, Error, Options, Role, Stop, render, to_text};
use serde_json::json;
use tempfile::TempDir;

/// The parts of a text, each below a line `-- NAME --`.
fn parts(text: &str) -> Vec<(&str, String)> {
    let mut parts: Vec<(&str, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        let name = line.trim_end().strip_prefix("-- ").and_then(|line| line.strip_suffix(" --"));
        match (name, parts.last_mut()) {
            (Some(name), _) => parts.push((name, String::new())),
            (None, Some((_, part))) => part.push_str(line),
            (None, None) => (),
        }
    }
    parts
}

fn write(dir: &Path, name: &str, data: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, data).unwrap();
}

/// A directory with one chart `c`, which has the given files.
fn chart_of(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");
    for (name, data) in files {
        write(dir.path(), &format!("c/{name}"), data);
    }
    dir
}

fn rendered(dir: &TempDir, options: &Options) -> Result<String, Error> {
    let chart = Chart::load(&dir.path().join("c"))?;
    render(&chart, options).map(|documents| to_text(&documents))
}

/// What a chart with this one template prints.
fn of_template(text: &str, values: serde_json::Value) -> Result<String, Error> {
    let dir = chart_of(&[("templates/t.yaml", text)]);
    rendered(&dir, &Options { values, ..Options::default() })
}

/// All files below `dir/c` in a gzip'd tar.
fn packed(dir: &Path) -> Vec<u8> {
    let mut tar =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    tar.append_dir_all("c", dir.join("c")).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn charts_within_charts_are_as_helm_has_them() {
    let parts = parts(include_str!("dependencies.txt"));
    let dir = TempDir::new().unwrap();
    write(dir.path(), "parent/files/b.bin", b"\xff\x00\x01");
    for (name, data) in parts.iter().filter(|(name, _)| name.starts_with("parent/")) {
        write(dir.path(), name, data);
    }
    let chart = Chart::load(&dir.path().join("parent")).unwrap();
    assert_eq!(
        (chart.name(), chart.version(), chart.app_version()),
        ("parent", "1.0.0", Some("1.1"))
    );
    let cases: Vec<_> =
        parts.iter().filter(|(name, _)| matches!(*name, "values" | "expected")).collect();
    assert_eq!(cases.len(), 6);
    for (index, pair) in cases.chunks(2).enumerate() {
        let options = Options {
            release_name: "rel".into(),
            values: serde_json::from_str(&pair[0].1).unwrap(),
            include_crds: index == 0,
            ..Options::default()
        };
        let documents = render(&chart, &options).unwrap();
        assert_same_text(&to_text(&documents), &pair[1].1);
    }
}

/// Both texts whole where they differ.
fn assert_same_text(ours: &str, helm: &str) {
    let line = ours.lines().zip(helm.lines()).position(|(ours, helm)| ours != helm);
    assert!(ours == helm, "first at line {line:?}\n--- ours\n{ours}\n--- helm\n{helm}");
}

#[test]
fn what_charts_ask_of_their_surroundings() {
    let text = "kind: X\nhas: {{ has \"apps/v1\" .Capabilities.APIVersions }}\n\
        more: {{ .Capabilities.APIVersions.Has \"x.io/v1\" }}\n\
        first: {{ first .Capabilities.APIVersions }}\n\
        go: {{ .Capabilities.HelmVersion.GoVersion | empty }}\n\
        notes: {{ toYaml .Chart.Annotations }} {{ .Chart.Annotations.a | default \"none\" }}\n\
        upgrade: {{ .Release.IsUpgrade }} {{ .Release.IsInstall }}\n";
    let dir = chart_of(&[("templates/t.yaml", text)]);
    let api_versions = vec!["x.io/v1".to_owned()];
    let options = Options { api_versions, is_upgrade: true, ..Options::default() };
    let expected = "---\n# Source: c/templates/t.yaml\nkind: X\nhas: true\nmore: true\nfirst: v1\n\
        go: false\nnotes: null none\nupgrade: true false\n";
    assert_eq!(rendered(&dir, &options).unwrap(), expected);
}

#[test]
fn changes_to_values_are_seen_where_helm_shows_them() {
    // Templates run from the last to the first, and a chart's values are those of its parent.
    let show = "kind: X\nv: {{ toJson .Values }}\n";
    let dir = chart_of(&[
        ("templates/a.yaml", show),
        ("templates/b.yaml", &format!("{{{{ $_ := set .Values \"b\" 1 }}}}{show}")),
        ("charts/d/Chart.yaml", "name: d\nversion: 1.0.0\n"),
        ("charts/d/templates/d.yaml", &format!("{{{{ $_ := set .Values \"d\" 1 }}}}{show}")),
    ]);
    let text = rendered(&dir, &Options::default()).unwrap();
    assert_eq!(text.matches(r#"{"b":1,"d":{"d":1,"global":{}}}"#).count(), 2, "{text}");
}

#[test]
fn hooks_say_when_they_run() {
    let text =
        "kind: Job\nmetadata:\n  annotations:\n    helm.sh/hook: pre-install, Post-Install\n";
    let dir = chart_of(&[("templates/t.yaml", text), ("templates/s.yaml", "kind: Service\n")]);
    let chart = Chart::load(&dir.path().join("c")).unwrap();
    let documents = render(&chart, &Options::default()).unwrap();
    let roles: Vec<&Role> = documents.iter().map(|document| &document.role).collect();
    let events = Role::Hook(vec!["pre-install".into(), "post-install".into()]);
    assert_eq!(roles, [&Role::Manifest, &events]);
    assert_eq!(documents[1].source, "c/templates/t.yaml");
    assert_eq!(documents[1].text, text);
}

#[test]
fn an_archive_is_the_directory() {
    let dir = chart_of(&[
        ("values.yaml", "a: 1\n---\na: 2\nb: {c: 3}\n"),
        ("templates/t.yaml", "kind: X\nv: {{ toJson .Values }}\nf: {{ .Files.Get \"x\" }}\n"),
        ("x", "\u{feff}data"),
    ]);
    let wanted = rendered(&dir, &Options::default()).unwrap();
    assert!(wanted.contains(r#"v: {"a":2,"b":{"c":3}}"#) && wanted.contains("f: data"), "{wanted}");
    let archive = packed(dir.path());
    write(dir.path(), "c.tgz", &archive);
    let chart = Chart::load(&dir.path().join("c.tgz")).unwrap();
    assert_eq!(to_text(&render(&chart, &Options::default()).unwrap()), wanted);

    // As a dependency of another chart.
    let outer = chart_of(&[("charts/.keep", ""), ("charts/_skipped/x", "")]);
    write(outer.path(), "c/charts/c-1.0.0.tgz", &archive);
    let text = rendered(&outer, &Options::default()).unwrap();
    assert!(text.contains("# Source: c/charts/c/templates/t.yaml"), "{text}");
}

#[test]
fn files_that_were_read_elsewhere_are_a_chart_too() {
    let file = |name: &str, data: &str| (name.to_owned(), data.to_owned());
    let files = BTreeMap::from([
        file(
            "templates/t.yaml",
            "kind: X\nv: {{ .Files.Get \"out/a\" }}{{ .Files.Get \"in/a\" }}\n",
        ),
        file("Chart.yaml", "name: c\nversion: 1.0.0\n"),
        file("charts/d/Chart.yaml", "name: d\nversion: 1.0.0\n"),
        file(".helmignore", "out/\n"),
        file("out/a", "out"),
        file("in/a", "in"),
    ]);
    let sizes = || files.iter().map(|(name, data)| (name.clone(), data.len() as u64));
    let mut asked = Vec::new();
    let read = |name: &str| {
        asked.push(name.to_owned());
        Ok::<_, Error>(files[name].as_bytes().to_vec())
    };
    // What is left out may be as big as it likes, and is not read.
    let big = |name: &str| (name.to_owned(), 60 << 20);
    let chart = Chart::from_files("where/c", sizes().chain([big("out/b")]), read).unwrap();
    let documents = render(&chart, &Options::default()).unwrap();
    assert_eq!(documents[0].text, "kind: X\nv: in\n");
    assert!(!asked.iter().any(|name| name.starts_with("out/")), "{asked:?}");
    let small = |name: &str| Ok::<_, Error>(files.get(name).map_or(vec![], |d| d.clone().into()));
    for name in ["/a", "../a", "a/../../b", "a//b", ""] {
        let sizes = sizes().chain([(name.to_owned(), 1)]);
        assert!(Chart::from_files("where/c", sizes, small).is_err(), "{name}");
    }
    let error = Chart::from_files("c", sizes().chain([big("a")]), small).unwrap_err();
    assert!(matches!(error, Error::TooBig { .. }), "{error}");
    // Many files, each of them small enough.
    let many = (0..30).map(|number| (format!("x{number}"), 4 << 20));
    let error = Chart::from_files("c", sizes().chain(many), small).unwrap_err();
    assert!(matches!(&error, Error::TooBig { limit, .. } if *limit == 100 << 20), "{error}");
    let failing = |_: &str| Err(Error::Thread);
    assert!(matches!(Chart::from_files("c", sizes(), failing), Err(Error::Thread)));
    let error = Chart::from_archive("where/c.tgz", &b"x"[..]).unwrap_err().to_string();
    assert!(error.starts_with("where/c.tgz: "), "{error}");
}

#[test]
fn links_stay_within_the_root() {
    let dir = chart_of(&[
        ("templates/t.yaml", "kind: X\nf: {{ .Files.Get \"link\" }}\n"),
        ("real", "inside"),
    ]);
    let link = |target: &Path| {
        let link = dir.path().join("c/link");
        let _gone = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(target, link).unwrap();
    };
    link(Path::new("real"));
    assert!(rendered(&dir, &Options::default()).unwrap().contains("f: inside"));

    write(dir.path(), "outside", "beside");
    link(Path::new("../outside"));
    let error = Chart::load(&dir.path().join("c")).unwrap_err();
    assert!(matches!(&error, Error::LinkOut { path, .. } if path.ends_with("c/link")), "{error}");
    let chart = Chart::load_within(&dir.path().join("c"), dir.path()).unwrap();
    assert!(to_text(&render(&chart, &Options::default()).unwrap()).contains("f: beside"));

    link(Path::new("/etc/passwd"));
    assert!(matches!(
        Chart::load_within(&dir.path().join("c"), dir.path()),
        Err(Error::LinkOut { .. })
    ));
    link(Path::new("."));
    assert!(Chart::load(&dir.path().join("c")).is_err(), "a circle of links");
}

/// An archive with one member of that name and kind beside a chart.
fn archive_with(name: &str, kind: tar::EntryType, target: Option<&str>) -> Vec<u8> {
    let mut tar =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let chart = b"apiVersion: v2\nname: c\nversion: 1.0.0\n";
    for (name, data, kind, target) in
        [("c/Chart.yaml", &chart[..], tar::EntryType::Regular, None), (name, b"x", kind, target)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        let data = if target.is_some() { &[] } else { data };
        header.set_size(data.len() as u64);
        // Written by hand: the crate refuses such names.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = target {
            header.set_link_name(target).unwrap();
        }
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn archives_that_reach_out_are_refused() {
    use tar::EntryType::{Regular, Symlink};
    let dir = TempDir::new().unwrap();
    let load = |archive: &[u8]| {
        write(dir.path(), "c.tgz", archive);
        Chart::load(&dir.path().join("c.tgz"))
    };
    load(&archive_with("c/a/../b", Regular, None)).unwrap();
    for name in
        ["c/../../x", "c/..", "c//etc/x", "/x", "x", "c/../x", "..\\..\\x", "c/c:/x", "Chart.yaml"]
    {
        let error = load(&archive_with(name, Regular, None)).unwrap_err();
        assert!(matches!(error, Error::Archive { .. }), "{name}: {error}");
    }
    for target in ["/etc/passwd", "Chart.yaml"] {
        let error = load(&archive_with("c/link", Symlink, Some(target))).unwrap_err();
        assert!(error.to_string().contains("c/link is not a regular file"), "{error}");
    }
    for broken in [&b"no archive"[..], b"", &archive_with("c/x", Regular, None)[..100]] {
        assert!(load(broken).is_err());
    }
}

#[test]
fn what_is_too_big_is_not_read() {
    let dir = chart_of(&[]);
    let file = std::fs::File::create(dir.path().join("c/big")).unwrap();
    file.set_len(100 << 20).unwrap();
    let error = Chart::load(&dir.path().join("c")).unwrap_err();
    assert!(matches!(&error, Error::TooBig { limit, .. } if *limit == 5 << 20), "{error}");
    let archive = packed(dir.path());
    write(dir.path(), "c.tgz", archive);
    assert!(matches!(Chart::load(&dir.path().join("c.tgz")), Err(Error::TooBig { .. })));

    // Many files, each of them small enough.
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    for number in 0..30 {
        header.set_path(format!("c/file{number}")).unwrap();
        header.set_size(4 << 20);
        header.set_mode(0o644);
        header.set_cksum();
        packer.write_all(header.as_bytes()).unwrap();
        packer.write_all(&vec![0; 4 << 20]).unwrap();
    }
    write(dir.path(), "c.tgz", packer.finish().unwrap());
    let error = Chart::load(&dir.path().join("c.tgz")).unwrap_err();
    assert!(matches!(&error, Error::TooBig { limit, .. } if *limit == 100 << 20), "{error}");
}

#[test]
fn archives_in_archives_have_one_limit() {
    let chart = |name: &str, files: &[(&str, &[u8])]| {
        let dir = chart_of(&[]);
        write(
            dir.path(),
            "c/Chart.yaml",
            format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n"),
        );
        files.iter().for_each(|(name, data)| write(dir.path(), &format!("c/{name}"), data));
        dir
    };
    let big = vec![0; 5 << 20];
    let files = ["a", "b", "c", "d", "e"].map(|name| (name, &big[..]));
    let inner = packed(chart("inner", &files).path());
    let outer = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("charts/{number}.tgz")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &inner[..])).collect();
        packed(chart("outer", &files).path())
    };
    Chart::from_archive("c", &outer(3)[..]).unwrap();
    let error = Chart::from_archive("c", &outer(5)[..]).unwrap_err();
    assert!(matches!(&error, Error::TooBig { limit, .. } if *limit == 100 << 20), "{error}");
}

#[test]
fn a_rendering_that_is_not_wanted_any_more_ends() {
    let dir = chart_of(&[("templates/t.yaml", "{{ range until 900000 }}{{ end }}")]);
    let options = |wanted: bool| Options { stop: Stop::when(move || wanted), ..Options::default() };
    rendered(&dir, &options(false)).unwrap();
    let error = rendered(&dir, &options(true)).unwrap_err().to_string();
    assert!(error.contains("t.yaml:1: ") && error.contains("stopped"), "{error}");
}

#[test]
fn charts_that_are_none_are_refused() {
    let cases = [
        ("", "name is required"),
        ("name: c", "version is required"),
        ("name: c\nversion: x", "version"),
        ("name: a/b\nversion: 1.0.0", "invalid"),
        ("name: c\nversion: 1.0.0\ntype: x", "application or library"),
        ("name: c\nversion: 1.0.0\ndependencies: [{name: x, alias: a/b}]", "alias"),
        ("name: c\nversion: 1.0.0\ndependencies: [{name: x}, {name: x}]", "more than one"),
        ("name: [c]\nversion: 1.0.0", "name is no string"),
        ("- c", "no map"),
        ("name: \"c", "quote"),
    ];
    for (text, message) in cases {
        let dir = chart_of(&[("Chart.yaml", text)]);
        let error = Chart::load(&dir.path().join("c")).unwrap_err().to_string();
        assert!(error.contains("c/Chart.yaml") && error.contains(message), "{text}: {error}");
    }
    let dir = TempDir::new().unwrap();
    assert!(matches!(Chart::load(&dir.path().join("none")), Err(Error::Io { .. })));
    assert!(Chart::load(dir.path()).unwrap_err().to_string().contains("Chart.yaml"));
    let dir = chart_of(&[("values.yaml", "- a\n")]);
    assert!(Chart::load(&dir.path().join("c")).unwrap_err().to_string().contains("values.yaml"));
}

#[test]
fn options_and_charts_must_fit() {
    let with = |chart: &str, options: Options| {
        let dir =
            chart_of(&[("templates/t.yaml", "kind: X\nv: {{ .Capabilities.KubeVersion }}\n")]);
        write(dir.path(), "c/Chart.yaml", format!("name: c\nversion: 1.0.0\n{chart}"));
        rendered(&dir, &options)
    };
    let kube = |version: &str| Options { kube_version: Some(version.into()), ..Options::default() };
    assert!(with("", kube("1.29.3-gke.1")).unwrap().contains("v: v1.29.3\n"));
    assert!(matches!(with("", kube("x")), Err(Error::Option { .. })));
    assert!(with("kubeVersion: '>=1.28'", kube("v1.28.0-eks-1")).is_ok());
    assert!(matches!(
        with("kubeVersion: '>=1.28'", kube("1.27.0")),
        Err(Error::KubeVersion { .. })
    ));
    assert!(matches!(with("type: library", Options::default()), Err(Error::Library { .. })));
    let missing = with("dependencies: [{name: x, version: '1'}]", Options::default());
    assert!(matches!(missing, Err(Error::MissingDependencies { missing, .. }) if missing == ["x"]));
    for name in ["", "A", "-a", "a..b", &"a".repeat(54)] {
        let options = Options { release_name: name.into(), ..Options::default() };
        assert!(matches!(with("", options), Err(Error::Option { .. })), "{name}");
    }
    let options = Options { values: json!([1]), ..Options::default() };
    assert!(matches!(with("", options), Err(Error::Option { .. })));
}

#[test]
fn schemas_of_all_charts_are_asked() {
    let dir = chart_of(&[
        ("values.schema.json", r#"{"properties": {"port": {"type": "integer"}}}"#),
        ("templates/t.yaml", "kind: X\n"),
        ("charts/d/Chart.yaml", "name: d\nversion: 1.0.0\n"),
        ("charts/d/values.schema.json", r#"{"required": ["name"]}"#),
    ]);
    let with = |values| rendered(&dir, &Options { values, ..Options::default() });
    assert!(with(json!({"port": 1, "d": {"name": "x"}})).is_ok());
    let error = with(json!({"port": "1", "d": {"name": "x"}})).unwrap_err();
    assert!(error.to_string().contains("c:\n- port: got string, want integer"), "{error}");
    let error = with(json!({})).unwrap_err();
    assert!(matches!(&error, Error::Schema { chart, .. } if chart == "c/charts/d"), "{error}");
    let options = Options { skip_schema: true, ..Options::default() };
    assert!(rendered(&dir, &options).is_ok());
}

#[test]
fn errors_say_where_and_from_where() {
    let dir = chart_of(&[
        (
            "templates/_h.tpl",
            "{{ define \"h\" }}\n{{ required \"give a name\" .Values.name }}{{ end }}",
        ),
        ("templates/t.yaml", "kind: X\n\nv: {{ include \"h\" . }}\n"),
    ]);
    let error = rendered(&dir, &Options::default()).unwrap_err().to_string();
    let expected = "c/templates/_h.tpl:2: error calling required: give a name\n  called from c/templates/t.yaml:3";
    assert_eq!(error, expected);

    let error = of_template("a\n{{ if }}", json!({})).unwrap_err().to_string();
    assert!(error.starts_with("c/templates/t.yaml:2: "), "{error}");
    let error = of_template("a: {{ .Values.x }}: b", json!({"x": 1})).unwrap_err();
    assert!(
        matches!(&error, Error::Document { file, .. } if file == "c/templates/t.yaml"),
        "{error}"
    );
    let error = of_template("{{ .Values.a.b.c }}", json!({})).unwrap_err().to_string();
    assert!(error.contains("nil pointer evaluating interface {}.b"), "{error}");
}

#[test]
fn chance_and_time_can_be_fixed() {
    let text = "kind: X\nr: {{ randAlphaNum 20 }} {{ uuidv4 }} {{ now | date \"2006\" }}\n";
    let dir = chart_of(&[("templates/t.yaml", text)]);
    let with = |seed| {
        let now = Some(std::time::UNIX_EPOCH);
        rendered(&dir, &Options { seed, now, ..Options::default() }).unwrap()
    };
    assert_eq!(with(Some([1; 32])), with(Some([1; 32])));
    assert_ne!(with(Some([1; 32])), with(Some([2; 32])));
    assert_ne!(with(None), with(None));
    assert!(with(None).contains(" 1970\n"));
}
