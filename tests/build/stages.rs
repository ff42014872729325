//! Files of several stages: which are built, what they hand over, and that they do not wait for
//! each other without need.

use std::fs;
use std::process::Command;

use crate::workshop::Workshop;

#[test]
fn only_what_the_target_needs_is_built() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "FROM base AS one\nRUN echo one >/one\nFROM base AS broken\nRUN exit 1\n\
                FROM one AS two\nENV A=b\nRUN cat /one >/two\nFROM nowhere\nRUN exit 1\n";
    let built = shop.build_with(text, &["--target", "two"]);
    assert!(!built.said.contains("broken") && !built.said.contains("nowhere"), "{}", built.said);
    assert!(built.said.contains("[one 2/2] RUN echo one"), "{}", built.said);
    assert!(built.said.contains("[two 3/3] RUN cat"), "{}", built.said);
    assert_eq!(shop.ok(&["cat", "new", "/two"]), "one\n");
    let config = shop.inspect("new")["config"].clone();
    assert!(config["config"]["Env"].as_array().unwrap().contains(&"A=b".into()));
    let layers = config["history"].as_array().unwrap().iter();
    assert_eq!(layers.filter(|step| step["empty_layer"] != true).count(), 3);
    assert_eq!(shop.build_with(text, &["--target", "2"]).cached(), 2);
    assert_eq!(shop.build_with(text, &["--target", "0"]).cached(), 1);
    let said = shop.fails(text, &["--target", "three"]);
    assert!(said.contains("the file has no stage three") && said.contains("one, broken, two"));
    shop.assert_nothing_left();
}

#[test]
fn files_come_from_stages_numbers_and_images() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.build("FROM scratch\nCOPY <<E /image/file\nimage\nE\n");
    shop.ok(&["tag", "new", "other"]);
    shop.write("file", "context");
    let text = "FROM base AS build\nCOPY file /tree/copied\n\
                RUN cd /tree && echo made >made && ln made linked && ln -s made soft && \
                mkfifo pipe && chown 7:8 made && chmod 4711 made && rm copied && echo new >copied && \
                setfattr -n user.x -v y made && rm /usr/bin/tr\n\
                FROM scratch\nCOPY --from=build /tree /stage/\n\
                COPY --from=0 /tree/made /number\nCOPY --from=other /image/file /image\n\
                COPY --from=BUILD --chown=1:2 --chmod=u=rw,go= /tree/made /changed\n\
                COPY --from=build /bin/s? /usr/bin/t[er] /tools/\n";
    let built = shop.build(text);
    assert!(built.said.contains("[stage-1 2/6] COPY --from=build"), "{}", built.said);
    let expected = "changed,image,number,stage/,stage/copied,stage/linked,stage/made,stage/pipe,\
                    stage/soft,tools/,tools/sh";
    assert_eq!(shop.files("new").join(","), expected);
    assert_eq!(
        shop.ok(&["cat", "new", "/stage/copied", "/number", "/image"]),
        "new\nmade\nimage\n"
    );
    shop.mounted("new", |root| {
        use std::os::unix::fs::MetadataExt as _;
        let stat = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap();
        let made = stat("stage/made");
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777, made.nlink()), (7, 8, 0o4711, 2));
        assert_eq!(made.ino(), stat("stage/linked").ino());
        assert_eq!(xattr::get(root.join("number"), "user.x").unwrap().unwrap(), b"y");
        let changed = stat("changed");
        assert_eq!((changed.uid(), changed.gid(), changed.mode() & 0o7777), (1, 2, 0o600));
        assert_eq!(stat("image").uid(), 0);
    });
    assert_eq!(shop.build(text).cached(), 7);
    // Another way to the same files: the copies need not be done again.
    let other = text.replace("mkfifo pipe", "mkfifo  pipe");
    assert_eq!(shop.build(&other).cached(), 5 + 1);
    shop.assert_nothing_left();
}

#[test]
fn a_copy_only_build_of_stages_mounts_nothing() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    let text = "FROM base AS a\nCOPY file /file\nFROM scratch\nCOPY --from=a /file /usr/bin/id /\n";
    fs::write(shop.path("Dockerfile"), text).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=mount,fsmount,unshare", "-o", "trace"]);
    let build = shop.kfs(&["build", "-q", "-t", "new", "-f", "Dockerfile", "context"]);
    strace.arg(build.get_program()).args(build.get_args());
    strace.current_dir(shop.path(".")).env("KFS_ROOT", shop.path("store"));
    match strace.output() {
        Err(error) => return crate::skip::skip(format_args!("strace: {error}")),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
    assert_eq!(fs::read_to_string(shop.path("trace")).unwrap(), "");
    assert_eq!(shop.files("new"), ["file", "id"]);
}

#[test]
fn what_stages_cannot_do_is_told_before_anything_runs() {
    let Some(shop) = Workshop::with_base() else { return };
    for (text, line, expected) in [
        (
            "FROM base AS a\nRUN exit 9\nCOPY --from=b / /\nFROM base AS b\nCOPY --from=c / /\n\
             FROM a AS c\n",
            5,
            "stages need each other: c needs a needs b needs c",
        ),
        ("FROM base AS a\nCOPY --from=a / /\n", 2, "stages need each other: a needs a"),
        ("FROM base\nRUN exit 9\nCOPY --from=nowhere / /\n", 3, "nowhere"),
        ("FROM base AS a\nRUN exit 9\nFROM a\nCOPY --from=5 / /\n", 4, "5"),
    ] {
        let said = shop.fails(text, &[]);
        let place = format!("Dockerfile:{line}:");
        assert!(said.contains(&place) && said.contains(expected), "{text}: {said}");
        assert!(!said.contains("exit status 9"), "{said}");
    }
    let said = shop.fails("FROM base AS a\nFROM scratch\nCOPY --from=a /none /\n", &[]);
    assert!(said.contains("Dockerfile:3:") && said.contains("\"/none\" is not in"), "{said}");
}

/// Each waits for a file that the other one makes: alone neither ends.
#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    let Some(shop) = Workshop::with_base() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return crate::skip::skip("needs two processors");
    }
    let wait = "i=0; while [ ! -e /cache/OTHER ]; do sleep 0.1; i=$((i+1)); [ $i -lt 400 ] || exit 3; done";
    let run = |own: &str, other: &str| {
        let wait = wait.replace("OTHER", other);
        format!(
            "RUN --mount=type=cache,target=/cache touch /cache/{own}; {wait}; echo {own} >/{own}; echo done {own}"
        )
    };
    let text = format!(
        "FROM base AS left\n{}\nFROM base AS right\n{}\nFROM scratch\n\
         COPY --from=left /l /\nCOPY --from=right /r /\n",
        run("l", "r"),
        run("r", "l")
    );
    let built = shop.build(&text);
    assert!(built.said.contains("      [left] done l\n"), "{}", built.said);
    assert!(built.said.contains("      [right] done r\n"), "{}", built.said);
    assert_eq!(shop.files("new"), ["l", "r"]);
    shop.assert_nothing_left();
}
#[test]
fn a_failing_stage_ends_the_others() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "FROM base AS slow\nRUN echo begun >/begun; sleep 1000\nFROM base AS quick\n\
                RUN sleep 1; exit 7\nFROM slow\nCOPY --from=quick /none /\n";
    let said = shop.fails(text, &[]);
    assert!(said.contains("exit status 7") && !said.contains("interrupted"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn triggers_run_in_the_image_built_on_it() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("app", "app");
    shop.build("FROM base\nONBUILD COPY app /app\nONBUILD RUN cat /app >/seen\n");
    assert!(!shop.files("new").contains(&"seen".to_owned()));
    shop.ok(&["tag", "new", "onbuild"]);
    let built = shop.build("FROM onbuild AS a\nRUN echo more >>/seen\nFROM a\nRUN cat /seen\n");
    assert_eq!(built.said.matches("RUN cat /app").count(), 1, "{}", built.said);
    assert_eq!(shop.ok(&["cat", "new", "/seen"]), "appmore\n");
    assert_eq!(shop.inspect("new")["config"]["config"].get("OnBuild"), None);
}
