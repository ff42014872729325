//! What a step is done again for, and what not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::workshop::Workshop;

const TEXT: &str = "\
FROM base
ARG VERSION=1
ENV GREETING=hello
WORKDIR /works
COPY --chown=app file dir/
RUN echo $GREETING >said
COPY tree /tree
RUN ls /tree >listed
";

fn workshop() -> Option<Workshop> {
    let shop = Workshop::with_base()?;
    shop.write("file", "file");
    shop.write("tree/one", "one");
    shop.write("other", "not copied");
    Some(shop)
}

/// Layers: WORKDIR, COPY, RUN, COPY, RUN.
#[test]
fn steps_are_done_again_from_the_first_that_differs() {
    let Some(shop) = workshop() else { return };
    assert_eq!(shop.build(TEXT).cached(), 0);
    assert_eq!(shop.build(TEXT).cached(), 5);
    let edited = |from: &str, to: &str| {
        assert!(TEXT.contains(from));
        TEXT.replace(from, to)
    };
    for (text, cached, why) in [
        (edited("GREETING=hello", "GREETING=bye"), 2, "a RUN sees the environment"),
        (edited("VERSION=1", "VERSION=2"), 2, "a RUN sees an ARG"),
        (edited("/works", "/elsewhere"), 0, "COPY and RUN work in another directory"),
        (edited("=app", "=1:1"), 1, "another owner"),
        (edited("dir/", "dir/file"), 1, "another line"),
        (edited("RUN echo", "RUN  echo -n"), 2, "another command"),
        (edited("COPY tree", "USER 0:0\nCOPY tree"), 4, "COPY needs no user, a RUN does"),
        (edited("WORKDIR", "LABEL a=b\nCMD [\"x\"]\nWORKDIR"), 5, "only the config"),
        (edited("WORKDIR", "# a comment\n\nWORKDIR"), 5, "no instruction"),
    ] {
        assert_eq!(shop.build(&text).cached(), cached, "{why}\n{text}");
        assert_eq!(shop.build(&text).cached(), 5, "the second time: {why}");
    }
    assert_eq!(shop.build_with(TEXT, &["--build-arg", "VERSION=3"]).cached(), 2);
    assert_eq!(shop.build_with(TEXT, &["--build-arg", "VERSION=1"]).cached(), 5);
    assert_eq!(shop.build_with(TEXT, &["--no-cache"]).cached(), 0);
    // What a Dockerfile has anyway.
    assert_eq!(shop.build_with(TEXT, &["--isolation", "container"]).cached(), 5);
    assert_eq!(shop.build_with(TEXT, &["--compression", "gzip"]).cached(), 0);
    assert_eq!(shop.build_with(TEXT, &["--copy-semantics", "kubefile"]).cached(), 1);
    assert_eq!(shop.build_with(TEXT, &["--build-arg", "http_proxy=http://x"]).cached(), 5);
}

#[test]
fn a_copy_is_done_again_for_what_it_copies_and_nothing_else() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    let path = |name: &str| shop.path("context").join(name);
    let cached = || shop.build(TEXT).cached();
    let touch = |name: &str| {
        let file = fs::File::options().append(true).open(path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    touch("tree/one");
    shop.write("other", "changed");
    assert_eq!(cached(), 5, "a time, or another file, is no change");
    shop.write("tree/one", "ONE");
    assert_eq!(cached(), 3, "content");
    fs::set_permissions(path("tree/one"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(cached(), 3, "mode");
    shop.write("tree/two", "");
    assert_eq!(cached(), 3, "another name");
    fs::rename(path("tree/two"), path("tree/zwei")).unwrap();
    assert_eq!(cached(), 3, "its name");
    fs::remove_file(path("tree/zwei")).unwrap();
    fs::create_dir(path("tree/zwei")).unwrap();
    assert_eq!(cached(), 3, "its kind");
    xattr::set(path("tree/one"), "user.x", b"y").unwrap();
    assert_eq!(cached(), 3, "an attribute");
    shop.write("file", "FILE");
    assert_eq!(cached(), 1);
    // All of that was done before.
    shop.write("file", "file");
    assert_eq!(cached(), 5);
}

#[test]
fn another_base_is_another_image_under_the_same_name() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    shop.ok(&["tag", "base", "old"]);
    shop.build("FROM old\nRUN echo new >/new\n");
    shop.ok(&["tag", "new", "base"]);
    assert_eq!(shop.build(TEXT).cached(), 0);
    shop.ok(&["tag", "old", "base"]);
    assert_eq!(shop.build(TEXT).cached(), 5);
}

#[test]
fn a_build_from_the_cache_gives_the_same_image() {
    let Some(shop) = workshop() else { return };
    let text = format!("{TEXT}LABEL made=yes\nENTRYPOINT [\"x\"]\n");
    let first = shop.build(&text).digest;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(shop.build(&text).digest, first);
    // A name that moves on leaves the other image without one.
    assert_eq!(shop.ok(&["images"]).lines().count(), 3, "{}", shop.ok(&["images"]));
    let created = shop.inspect("new")["config"]["created"].clone();
    let history = shop.inspect("new")["config"]["history"].clone();
    assert_eq!(history.as_array().unwrap().last().unwrap()["created"], created);
    assert_ne!(shop.build_with(&text, &["--no-cache"]).digest, first);
}

#[test]
fn layers_that_were_removed_are_made_again() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    shop.ok(&["rmi", "new"]);
    assert_eq!(shop.build(TEXT).cached(), 0);
    // Some are still there for another image.
    let (first, _) = TEXT.split_at(TEXT.find("COPY tree").unwrap());
    shop.build(first);
    shop.ok(&["tag", "new", "first"]);
    shop.build(TEXT);
    shop.ok(&["rmi", "new"]);
    assert_eq!(shop.build(TEXT).cached(), 3);
    // Indexes are made again where they lack.
    fs::remove_dir_all(shop.path("store/indexes")).unwrap();
    let text = format!("{TEXT}RUN cat listed\n");
    assert_eq!(shop.build(&text).last_run(), "one");
    // A record that is none is a miss.
    for record in fs::read_dir(shop.path("store/build-cache")).unwrap() {
        let path = record.unwrap().path();
        if path.is_file() {
            fs::write(path, "{\"layer\":").unwrap();
        }
    }
    assert_eq!(shop.build(TEXT).cached(), 0);
}

#[test]
fn builds_at_the_same_time_do_not_disturb_each_other() {
    let Some(shop) = workshop() else { return };
    let text = format!("{TEXT}RUN dd if=/dev/urandom of=/random bs=65536 count=16 2>/dev/null\n");
    fs::write(shop.path("Dockerfile"), text).unwrap();
    let start = |number: usize| {
        let tag = format!("many:{number}");
        let no_cache = if number.is_multiple_of(2) { "--no-cache" } else { "-q" };
        let mut command = shop.kfs(&["build", "-t", &tag, "-f", "Dockerfile", no_cache, "context"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builds: Vec<_> = (0..6).map(start).collect();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(shop.ok(&["images"]).matches("many").count(), 6);
    for number in 0..6 {
        let image = format!("many:{number}");
        assert_eq!(shop.ok(&["cat", &image, "/works/said", "/works/listed"]), "hello\none\n");
        assert_eq!(shop.ok(&["cat", &image, "/tree/one"]), "one");
    }
    shop.assert_nothing_left();
}

#[test]
fn a_time_that_is_given_is_the_only_one() {
    let Some(shop) = workshop() else { return };
    let copies =
        "FROM scratch\nWORKDIR /new/dir\nCOPY file tree ./\nCOPY <<E /heredoc\nx\nE\nLABEL a=b\n";
    let at = ["--timestamp", "1500000000", "--no-cache"];
    let first = shop.build_with(copies, &at).digest;
    assert_eq!(shop.build_with(copies, &at).digest, first);
    assert_eq!(shop.build_with(copies, &at[..2]).digest, first);
    let config = shop.inspect("new")["config"].clone();
    assert_eq!(config["created"], "2017-07-14T02:40:00Z");
    for step in config["history"].as_array().unwrap() {
        assert_eq!(step["created"], "2017-07-14T02:40:00Z", "{step}");
    }
    let mut build = shop.kfs(&["build", "-q", "-f", "Dockerfile", "--no-cache", "context"]);
    let output = build.env("SOURCE_DATE_EPOCH", "1500000000").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), first);
    // Another time is in what has no time of its own.
    let other = ["--timestamp", "1600000000"];
    let fresh = shop.build_with(copies, &[&other[..], &["--no-cache"]].concat()).digest;
    assert_eq!(shop.build_with(copies, &at[..2]).digest, first);
    assert_eq!(shop.build_with(copies, &other).digest, fresh);
    let sources = "FROM base\nCOPY file /\nCOPY tree /tmp/\n";
    shop.build_with(sources, &at[..2]);
    assert_eq!(shop.build_with(sources, &other).cached(), 2, "no time is made up");
    // What the file system adds by itself is not part of an image.
    assert_ne!(shop.build_with(copies, &["--no-cache"]).digest, first);
}

#[test]
fn an_unchanged_context_is_not_read() {
    let Some(shop) = workshop() else { return };
    // Until then a file may change without getting another time.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let text = "FROM base\nCOPY tree /tree\nCOPY file /\n";
    assert_eq!(shop.build(text).cached(), 0);
    let opened = || {
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=openat,open", "-o", "trace"]);
        let build = shop.kfs(&["build", "-t", "new", "-f", "Dockerfile", "context"]);
        strace.arg(build.get_program()).args(build.get_args());
        strace.current_dir(shop.path(".")).env("KFS_ROOT", shop.path("store"));
        let output = strace.output().ok()?;
        assert!(output.status.success(), "{output:?}");
        let trace = fs::read_to_string(shop.path("trace")).unwrap();
        let is_of_context =
            |line: &&str| line.contains("context/tree/one") || line.contains("context/file");
        Some(trace.lines().filter(is_of_context).count())
    };
    let Some(count) = opened() else { return crate::skip::skip("needs strace") };
    assert_eq!(count, 0);
    assert_eq!(shop.build(text).cached(), 2);
    // The same size and time, but another content.
    let path = shop.path("context/file");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "FILE").unwrap();
    fs::File::options().append(true).open(&path).unwrap().set_modified(before).unwrap();
    assert_eq!(shop.build(text).cached(), 1);
    assert_eq!(shop.ok(&["cat", "new", "/file"]), "FILE");
}
