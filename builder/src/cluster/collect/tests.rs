use super::*;

/// Files of a directory that goes away with the value.
fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn found(files: &[(&str, &str)]) -> Collection {
    let dir = context(files);
    collect(&Files::Directory(dir.path()), Scope::ALL, &ChartSettings::default()).unwrap()
}

/// What is found in one manifest: the images, and what was left out.
fn in_manifest(text: &str) -> (Vec<String>, Vec<String>) {
    let collection = found(&[("manifests/a.yaml", text)]);
    let images = collection.images.keys().map(ImageName::to_string).collect();
    (images, collection.skipped.into_iter().map(|skipped| skipped.text).collect())
}

#[test]
fn manifests_are_decoded() {
    let cases: [(&str, &[&str]); 22] = [
        ("image: nginx", &["docker.io/library/nginx:latest"]),
        ("image: 'a.b/c:1' # why", &["a.b/c:1"]),
        ("{\"image\": \"a.b/c:1\"}", &["a.b/c:1"]),
        ("spec: {containers: [{image: a/b:1, name: image}]}", &["docker.io/a/b:1"]),
        ("image: >-\n  a/b:1\n", &["docker.io/a/b:1"]),
        ("image: &i a/b:1\nother: {image: *i}", &["docker.io/a/b:1"]),
        ("a: 1\n---\nimage: a/b:1\n---\n", &["docker.io/a/b:1"]),
        (
            "brokerImage: a/b:1\npullImage: never\nicon-image: img/x.png\nc-image: d/e",
            &["docker.io/a/b:1", "docker.io/d/e:latest"],
        ),
        (
            "env:\n- name: RELATED_IMAGE_X\n  value: a/b:1\n- name: X\n  value: c/d:1",
            &["docker.io/a/b:1"],
        ),
        ("image: {registry: q.io, repository: a/b, tag: 1.2}", &["q.io/a/b:1.2"]),
        ("data:\n  x.yaml: |\n    image: a/b:1\n    # image: c/d:1\n", &["docker.io/a/b:1"]),
        ("imagePullPolicy: IfNotPresent\nimageRepository: k8s.gcr.io", &[]),
        (
            "spec: {imageName: 'q.io/a/b:16', defaultImageRef: c:1, X_IMAGE_NAME: 'd/e@DIGEST'}",
            &["docker.io/d/e@DIGEST", "docker.io/library/c:1", "q.io/a/b:16"],
        ),
        (
            "images: [a/b:1, c, {image: d:1}, 'e:2']\nrelatedImages: {x: f/g:1}",
            &["docker.io/a/b:1", "docker.io/library/d:1", "docker.io/library/e:2"],
        ),
        (
            "imagePullSecrets: [{name: a/b:1}, regcred]\nimagePullSecret: regcred\nimageTag: v1:2",
            &[],
        ),
        ("imageRegistry: 'a.b:5000'\nimages: ['localhost:5000', a.b/c]\nimageProxy: 'p:3128'", &[]),
        ("enableImages: true\nimageUrl: 'https://a.b/c:1'\nimageType: image/png", &[]),
        (
            "args: [--solver-image=q.io/a/b:1, '--x=q.io/c@DIGEST', '--a=0.0.0.0:80', --b=a/b:1]\n\
             command: [x, Y=localhost/d:v1, '--url=http://a.b/c:1', --dir=/a.b/c:1, --to=a.b/c]",
            &["localhost/d:v1", "q.io/a/b:1", "q.io/c@DIGEST"],
        ),
        (
            "args: [--t=node.example/master:NoSchedule, --image=a.b/agent:NoExecute, --t=a.b/c:port,\n\
             --t=a.b/c:8080, --config-reloader=q.io/a/b:v0.7, --Image=a.b/c:latest, --x=q.io/d:1.2]",
            &["a.b/c:latest", "q.io/a/b:v0.7", "q.io/d:1.2"],
        ),
        ("updater.example/image-list: 'q.io/a/b:1.x'\nx.example/images: ['q.io/a/b:1']", &[]),
        ("data:\n  images.yaml: |\n    image: a/b:1\n    x: 1\n", &["docker.io/a/b:1"]),
        ("args: [a, \"b\\nimage: a/b:1\\n\"]", &["docker.io/a/b:1"]),
    ];
    let digest = format!("sha256:{}", "0a".repeat(32));
    for (text, expected) in cases {
        let found = in_manifest(&text.replace("DIGEST", &digest)).0;
        assert_eq!(
            found,
            Vec::from_iter(expected.iter().map(|e| e.replace("DIGEST", &digest))),
            "{text}"
        );
    }
    assert_eq!(in_manifest("imageName: a.b/c\nimageX: c/d").1, ["a.b/c"]);
}

#[test]
fn what_is_found_by_its_look_alone_is_a_guess() {
    let text = "args: [--x-image=q.io/arg:1, --y-image=q.io/both:1]\nimageName: q.io/key:1\n\
        images: [q.io/item:1]\nx-image: q.io/field:1\nimage: q.io/both:1\n\
        env: [{name: RELATED_IMAGE_X, value: 'q.io/variable:1'}]\n";
    let collection = found(&[("manifests/a.yaml", text)]);
    let guessed = collection.images.keys().filter(|image| collection.is_guessed(image));
    let guessed: Vec<&str> = guessed.map(ImageName::as_str).collect();
    assert_eq!(guessed, ["q.io/arg:1", "q.io/item:1", "q.io/key:1"]);
    assert_eq!(collection.images.len(), 6);
}

#[test]
fn references_of_all_forms_are_taken_whole_or_told() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let with_digest = format!("a.b:5000/c/d:1@{digest}");
    let only_digest = format!("a.b/c@{digest}");
    for (text, expected) in [
        ("localhost/a:1", Some("localhost/a:1")),
        ("localhost:5000/a", Some("localhost:5000/a:latest")),
        ("10.0.0.1:5000/a/b:1.2_x-y", Some("10.0.0.1:5000/a/b:1.2_x-y")),
        ("a.b:443/c__d/e-f.g:V1", Some("a.b:443/c__d/e-f.g:V1")),
        (&with_digest, Some(&with_digest)),
        (&only_digest, Some(&only_digest)),
        ("REG.example:1/a:1", Some("REG.example:1/a:1")),
        ("a.b/C:1", None),
        ("Nginx", None),
        ("a.b:port/c:1", None),
        ("a.b/c:1:2", None),
        ("a.b/c:", None),
        ("a.b/c@sha256:12", None),
        ("a.b/../c:1", None),
        ("https://a.b/c:1", None),
        ("a b:1", None),
        ("-a:1", None),
    ] {
        let (images, skipped) = in_manifest(&format!("image: {text:?}"));
        let found: Vec<&str> = images.iter().map(String::as_str).collect();
        assert_eq!(found, Vec::from_iter(expected), "{text}");
        assert_eq!(skipped.is_empty(), expected.is_some(), "{text}: {skipped:?}");
    }
    let (images, skipped) = in_manifest(&format!("image: a/{}:1", "b".repeat(70_000)));
    assert!(images.is_empty() && skipped.len() == 1);
}

#[test]
fn templates_are_read_by_their_lines() {
    let text = "{{ if .a }}\n\
        - image: a/b:1 # the first\n\
        # image: c/d:1\n\
        - {name: x, image: \"e/f:1\", command: [y]}\n\
        vm-image: g/h:1\n\
        \"image\": i/j:1,\n\
        initimage: k/l:1\n\
        image: {{ .image }}\n\
        image: \"q/{{ .x }}\"\n\
        {{ end }}\n";
    let (images, skipped) = in_manifest(text);
    let names = ["a/b", "e/f", "g/h", "i/j", "k/l"].map(|name| format!("docker.io/{name}:1"));
    assert_eq!(images, names);
    assert_eq!(skipped, ["q/{{ .x }}", "{{ .image }}"]);
}

#[test]
fn what_is_left_out_says_where_and_why() {
    let text = "a: 1\nimage: a/UPPER\n---\nimage: $(X)/y\n";
    let collection = found(&[("manifests/a.yaml", text)]);
    assert!(collection.images.is_empty());
    let told: Vec<String> = collection
        .skipped
        .iter()
        .map(|s| format!("{}:{} {} {}", s.place.file, s.place.line.unwrap(), s.text, s.reason))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("manifests/a.yaml:4 $(X)/y it has variables"), "{told:?}");
    assert!(told[1].starts_with("manifests/a.yaml:2 a/UPPER "), "{told:?}");
}

#[test]
fn lists_are_read_in_all_their_places() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let collection = found(&[
        ("manifests/imageList", "nginx:1\n\n# x:1\n'quoted:1'\nno name\n"),
        ("images/shim/appImages", &format!("r.io/a@{digest}\nr.io/b:1@{digest}\r\n")),
        ("images/shim/sub/more", "host:5000/c:1"),
        ("images/skopeo/tar.txt", "docker-archive:images/x.tar@d:1\nnonsense\n"),
        (
            "imageListWithAuth.yaml",
            "- registry: r.io\n  username: u\n  password: p\n  images: [r.io/e:1]\n",
        ),
        ("manifests/readme.txt", "image: not/this:1"),
        ("elsewhere/x.yaml", "image: not/this:1"),
    ]);
    let images: Vec<String> = collection.images.keys().map(ImageName::to_string).collect();
    let expected = [
        "docker.io/library/nginx:1".to_owned(),
        "docker.io/library/quoted:1".to_owned(),
        "host:5000/c:1".to_owned(),
        format!("r.io/a@{digest}"),
        format!("r.io/b:1@{digest}"),
        "r.io/e:1".to_owned(),
    ];
    assert_eq!(images, expected);
    let archives: Vec<String> = collection.archives.keys().map(ImageName::to_string).collect();
    assert_eq!(archives, ["docker.io/library/d:1"]);
    let skipped: Vec<&str> = collection.skipped.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(skipped, ["no name", "nonsense"]);
}

#[test]
fn a_broken_list_with_credentials_does_not_tell_them() {
    let collection = found(&[("imageListWithAuth.yaml", "- password: [secret\n  x: secret")]);
    let told = format!("{:?}", collection.skipped);
    assert!(told.contains("expected a list of items with registry"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

#[test]
fn what_is_to_be_ignored_is_compared_as_an_image() {
    let collection = found(&[
        ("manifests/a.yaml", "image: nginx\n---\nimage: b:1"),
        (".sealignore", "docker.io/library/nginx:latest\n"),
    ]);
    assert_eq!(collection.images.len(), 1);
    assert_eq!(collection.skipped.first().unwrap().reason, ".sealignore says so");
}

#[test]
fn symlinks_do_not_lead_out_of_the_directory() {
    let outside = context(&[("x.yaml", "image: out/side:1")]);
    let dir = context(&[("manifests/a.yaml", "image: in/side:1")]);
    let link = |target: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    };
    link(outside.path(), "manifests/out");
    link(&outside.path().join("x.yaml"), "manifests/out.yaml");
    link(std::path::Path::new("a.yaml"), "manifests/b.yaml");
    link(std::path::Path::new("."), "manifests/loop");
    let collection =
        collect(&Files::Directory(dir.path()), Scope::ALL, &ChartSettings::default()).unwrap();
    let images: Vec<String> = collection.images.keys().map(ImageName::to_string).collect();
    assert_eq!(images, ["docker.io/in/side:1"]);
    let places = collection.images.values().next().unwrap();
    assert!(places.iter().any(|place| place.file == "manifests/b.yaml"), "{places:?}");
}

#[test]
fn symlinks_that_multiply_are_told_and_not_followed_for_ever() {
    let link = |target: &str, name: std::path::PathBuf| {
        std::os::unix::fs::symlink(target, name).unwrap();
    };
    // In every directory several ways around.
    let dir = context(&[("manifests/a.yaml", "image: in/side:1")]);
    for name in ["one", "two", "three"] {
        link(".", dir.path().join("manifests").join(name));
    }
    let files = Files::Directory(dir.path());
    let collection = collect(&files, Scope::ALL, &ChartSettings::default()).unwrap();
    assert_eq!(collection.images.len(), 1);
    // No way around, but twice as many ways at each level.
    let dir = context(&[("manifests/0/a.yaml", "image: in/side:1")]);
    for level in 1..30 {
        let place = dir.path().join(format!("manifests/{level}"));
        std::fs::create_dir(&place).unwrap();
        for name in ["one", "two"] {
            link(&format!("../{}", level - 1), place.join(name));
        }
    }
    let files = Files::Directory(dir.path());
    let error = collect(&files, Scope::ALL, &ChartSettings::default()).unwrap_err();
    assert!(error.to_string().contains("symlinks lead to more than"), "{error}");
}

#[test]
fn bad_documents_are_searched_by_their_lines_in_bounded_time() {
    let bomb: String = std::iter::once("a0: &a0 [x, x]\n".to_owned())
        .chain((1..40).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)))
        .chain(["image: a/b:1\n".to_owned()])
        .collect();
    assert_eq!(in_manifest(&bomb).0, ["docker.io/a/b:1"]);
    let deep = "[".repeat(100_000) + "\nimage: a/b:1\n";
    assert_eq!(in_manifest(&deep).0, ["docker.io/a/b:1"]);
    let long = format!("x: \"{}\nimage: a/b:1\n", "y".repeat(17 << 20));
    assert_eq!(in_manifest(&long).0, ["docker.io/a/b:1"]);
    let hundred = "# as long as a line in a manifest\n".repeat((100 << 20) / 34);
    assert_eq!(in_manifest(&(hundred + "image: a/b:1\n")).0, ["docker.io/a/b:1"]);
}

#[test]
fn charts_are_rendered_with_what_is_said_of_them() {
    let chart = |name: &str| format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n");
    let template = "image: {{ .Values.image }}:{{ .Chart.Version }}\n---\nimage: kube:{{ .Capabilities.KubeVersion.Major }}-{{ .Capabilities.KubeVersion.Minor }}\n";
    let dir = context(&[
        ("charts/one/Chart.yaml", &chart("one")),
        ("charts/one/values.yaml", "image: first\n"),
        ("charts/one/templates/a.yaml", template),
        ("charts/one/charts/sub/Chart.yaml", &chart("sub")),
        ("charts/one/charts/sub/templates/a.yaml", "image: sub:{{ .Release.Name }}\n"),
        ("charts/more/two/Chart.yaml", &chart("two")),
        ("charts/more/two.values.yaml", "image: beside\n"),
        ("charts/more/two/templates/a.yaml", "image: {{ .Values.image }}:2\n"),
        ("application/apps/app/Chart.yaml", &chart("app")),
        (
            "application/apps/app/templates/a.yaml",
            "image: {{ required \"no x\" .Values.x }}\n---\nimage: by/line:1\n",
        ),
    ]);
    let values = [("one".to_owned(), serde_json::json!({ "image": "set" }))].into();
    let settings = ChartSettings {
        kube_version: Some("1.22.0".to_owned()),
        values,
        ..ChartSettings::default()
    };
    let collection = collect(&Files::Directory(dir.path()), Scope::ALL, &settings).unwrap();
    let images: Vec<&str> = collection.images.keys().map(ImageName::as_str).collect();
    let expected = [
        "by/line:1",
        "library/beside:2",
        "library/kube:1-22",
        "library/set:1.0.0",
        "library/sub:release-name",
    ];
    assert_eq!(images, expected.map(|name| format!("docker.io/{name}")));
    let reasons: Vec<&str> = collection.skipped.iter().map(|s| s.reason.as_str()).collect();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("cannot be rendered") && reason.contains("no x")),
        "{reasons:?}"
    );
    let none = Scope { charts: false, ..Scope::ALL };
    let without = collect(&Files::Directory(dir.path()), none, &settings).unwrap();
    assert_eq!(without, Collection::default());
}

/// A chart with one image; its files are below `place`.
fn put_chart(dir: &std::path::Path, place: &str, image: &str) {
    let place = dir.join(place);
    std::fs::create_dir_all(place.join("templates")).unwrap();
    let name = place.file_name().unwrap().to_str().unwrap();
    let chart = format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n");
    std::fs::write(place.join("Chart.yaml"), chart).unwrap();
    std::fs::write(place.join("templates/a.yaml"), format!("image: {image}\n")).unwrap();
}

fn put_big(path: std::path::PathBuf) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().set_len(70 << 20).unwrap();
}

#[test]
fn what_a_chart_leaves_out_may_be_big_and_a_chart_that_is_too_big_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let charts = dir.path().join("charts");
    for name in ["app", "big", "small"] {
        put_chart(&charts, name, &format!("a/{name}:1"));
    }
    std::fs::write(charts.join("app/.helmignore"), "registry/\n").unwrap();
    put_big(charts.join("app/registry/blob"));
    put_big(charts.join("big/registry/blob"));
    put_big(charts.join("other.tgz"));
    put_big(charts.join("small.values.yaml"));
    let files = Files::Directory(dir.path());
    let collection = collect(&files, Scope::ALL, &ChartSettings::default()).unwrap();
    let images: Vec<&str> = collection.images.keys().map(ImageName::as_str).collect();
    // What cannot be rendered is searched by its lines.
    assert_eq!(images, ["app", "big", "small"].map(|name| format!("docker.io/a/{name}:1")));
    let told: Vec<String> =
        collection.skipped.iter().map(|s| format!("{}: {}", s.place.file, s.reason)).collect();
    let expected = [
        "charts/big: the chart cannot be rendered: charts/big/registry/blob: larger than 5242880",
        "charts/other.tgz: the chart cannot be rendered: charts/other.tgz has 73400320 bytes",
        "charts/small.values.yaml: its values cannot be read: charts/small.values.yaml has 7340",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn charts_are_found_once_however_symlinks_go_round() {
    let dir = tempfile::tempdir().unwrap();
    put_chart(dir.path(), "charts/app", "in/side:1");
    for name in ["a", "b", "c", "d"] {
        std::os::unix::fs::symlink(".", dir.path().join("charts").join(name)).unwrap();
    }
    let files = Files::Directory(dir.path());
    let collection = collect(&files, Scope::ALL, &ChartSettings::default()).unwrap();
    let places: Vec<_> = collection.images.values().flatten().map(|p| p.file.as_str()).collect();
    assert_eq!(places, ["charts/app: app/templates/a.yaml"]);
}

#[test]
fn a_signal_ends_a_rendering() {
    let dir = tempfile::tempdir().unwrap();
    let loops = "{{ range 1000000000 }}{{ $x := 1 }}{{ end }}";
    put_chart(dir.path(), "charts/app", loops);
    let settings = ChartSettings::default();
    let started = std::time::Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            settings.interrupts.cancel();
        });
        collect(&Files::Directory(dir.path()), Scope::ALL, &settings).unwrap_err()
    });
    assert!(matches!(error, FilesError::Interrupted(_)), "{error}");
    let took = started.elapsed().as_secs();
    assert!(took < 2, "the signal took {took} s");
}

#[test]
fn charts_of_an_application_are_rendered() {
    let dir = tempfile::tempdir().unwrap();
    put_chart(dir.path(), "application/apps/app/c", "{{ .Chart.Name }}:{{ .Chart.Version }}");
    std::fs::write(dir.path().join("application/apps/app/d.tgz"), "no archive").unwrap();
    std::fs::write(dir.path().join("application/apps/app/x.yaml"), "image: beside:1\n").unwrap();
    let files = Files::Directory(dir.path());
    let all = |scope| {
        let collection = collect(&files, scope, &ChartSettings::default()).unwrap();
        let told = collection.skipped.iter().map(|s| s.place.file.clone());
        let told: Vec<String> = told.collect();
        let archive = scope.charts.then(|| "application/apps/app/d.tgz".to_owned());
        assert_eq!(told, Vec::from_iter(archive));
        collection.images.keys().map(ImageName::to_string).collect::<Vec<_>>()
    };
    let name = |name: &str| format!("docker.io/{name}");
    assert_eq!(all(Scope::ALL), ["library/beside:1", "library/c:1.0.0"].map(name));
    assert_eq!(all(Scope { charts: false, ..Scope::ALL }), [name("library/beside:1")]);
    assert_eq!(all(Scope { charts: true, ..Scope::NONE }), [name("library/c:1.0.0")]);
}
