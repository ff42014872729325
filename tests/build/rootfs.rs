//! What a RUN and a COPY see of the steps before them, whether those were run just now (uppers of
//! the overlay), came from the cache (layers mounted as a delta), or lie in a base image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::workshop::Workshop;

/// Prints all that can be seen of the root file system, except what belongs to the sandbox, and
/// times of directories, which differ when a step is done again.
const LIST: &str = "cd /; { find . -xdev -mindepth 1 ! -path './proc*' ! -path './dev*' \
     ! -path './sys*' ! -path ./etc/resolv.conf ! -path ./etc/hosts \
     ! -path './usr/*' ! -path './lib*' \
     \\( -type d -printf '%p/ %m %U:%G\\n' -o -printf '%p %y %m %U:%G %s %T@ %l\\n' \\); \
     find . -xdev -type f ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' \
     ! -path './usr/*' ! -path './lib*' ! -path ./etc/resolv.conf ! -path ./etc/hosts \
     -exec sha256sum {} +; \
     getfattr -R -P -h -d -m - . 2>/dev/null | tr '\\n' ' '; } | sort";

fn base(root: &Path) {
    let path = |name: &str| root.join(name);
    for dir in ["dir/sub/deep", "opaque/old", "moved/inner", "real/below", "tofile/x", "kept"] {
        fs::create_dir_all(path(dir)).unwrap();
        fs::write(path(dir).join("file"), dir).unwrap();
    }
    for file in ["todir", "tolink", "gone", "plain", "dir/a", "dir/b", "one"] {
        fs::write(path(file), file).unwrap();
    }
    fs::hard_link(path("one"), path("two")).unwrap();
    symlink("real", path("link")).unwrap();
    symlink("/real/below", path("real/abs")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    xattr::set(path("dir"), "user.dir", b"of the base").unwrap();
    xattr::set(path("plain"), "user.file", b"of the base").unwrap();
    let mut touch = std::process::Command::new("find");
    touch.arg(root).args(["-exec", "touch", "-h", "-d", "@1000000000.123456789", "{}", "+"]);
    crate::workshop::run(&mut touch);
}

/// Each is nasty in its own way to whoever merges.
const STEPS: &[&str] = &[
    "COPY new /dir/sub/",
    "RUN rm -r /dir/sub/deep && rm /gone && rm /dir/a",
    "COPY new /dir/sub/deep/er/",
    "RUN rm -r /opaque && mkdir -m 750 /opaque && echo new >/opaque/new && touch -d @1 /opaque/new",
    "RUN mv /moved /renamed && chmod 700 /renamed",
    "COPY new /moved/again",
    "RUN rm /todir && mkdir /todir && echo in >/todir/in && touch -d @2 /todir/in",
    "RUN rm -r /tofile && echo file >/tofile && touch -d @3 /tofile",
    "RUN rm /tolink && ln -s real /tolink && touch -h -d @4 /tolink",
    "COPY new /tolink/through",
    "COPY new /link/below/through",
    "RUN ln /dir/b /dir/b2 && ln /one /three && touch -d @5 /dir/b /one",
    "RUN chmod 4755 /plain && setcap cap_net_raw+ep /plain && setfattr -n user.x -v y /plain",
    "COPY new /tmp/x",
    "RUN touch -d @6.5 /tmp/y && mkdir /tmp/d && chmod 2775 /tmp/d && mkfifo /tmp/p && touch -d @6 /tmp/p",
    "COPY --chown=app tree /dir",
    "RUN rm -r /dir/sub && ln -s ../kept /dir/sub && touch -h -d @7 /dir/sub",
    "COPY new /dir/sub/",
    "RUN rm /link && mkdir /link && touch -d @8 /link/file",
    "COPY tree /link/",
    "RUN rm -r /kept && touch -d @9 /kept",
    "WORKDIR /opaque/works/dir",
    "RUN touch -d @10 here && chmod 1770 /opaque/works",
];

/// The steps with one more argument before step `at`, so that no RUN from there on is cached.
fn text(at: usize) -> String {
    let mut steps: Vec<_> = STEPS.iter().map(|step| (*step).to_owned()).collect();
    steps.insert(at, "ARG NONCE".to_owned());
    format!("FROM base\n{}\nRUN {LIST}\n", steps.join("\n"))
}

#[test]
fn a_step_sees_the_same_however_the_steps_before_came_about() {
    let Some(shop) = Workshop::with(|root| {
        crate::workshop::install(root);
        base(root);
    }) else {
        return;
    };
    shop.write("new", "new");
    shop.write("tree/inner/leaf", "leaf");
    shop.write("tree/top", "top");
    let mut touch = std::process::Command::new("find");
    touch.arg(shop.path("context")).args(["-exec", "touch", "-d", "@1234567890", "{}", "+"]);
    crate::workshop::run(&mut touch);
    let first = shop.build_with(&text(0), &["--build-arg", "NONCE=first"]).last_run();
    assert!(first.lines().count() > 60, "{first}");
    for kept in [
        "user.dir=\"of the base\"",
        "user.x=\"y\"",
        "security.capability=",
        "./tmp/ 1777 0:0",
        "./tmp/d/ 2775",
        "./opaque/works/ 1770",
        "./plain f 4755",
    ] {
        assert!(first.contains(kept), "{kept}: {first}");
    }
    for at in 1..=STEPS.len() {
        let nonce = format!("NONCE=at {at}");
        let again = shop.build_with(&text(at), &["--build-arg", &nonce]);
        assert_same(&again.last_run(), &first, at);
    }
    // All of it in one base image.
    let from_image = shop.build_with(&format!("FROM new\nRUN {LIST}\n"), &[]);
    assert_same(&from_image.last_run(), &first, STEPS.len());
    shop.assert_nothing_left();
}

#[track_caller]
fn assert_same(now: &str, first: &str, at: usize) {
    let only = |of: &str, not: &str| {
        let lines = of.lines().filter(|line| !not.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (new, lost) = (only(now, first), only(first, now));
    assert!(new.is_empty() && lost.is_empty(), "step {at}: now {new:#?} at first {lost:#?}");
}
