//! COPY: where things land, with what properties, and what is said of it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::workshop::{Workshop, run};

const SAYS_BOTH: &str = "by the kubefile rule";

fn workshop() -> Option<Workshop> {
    let shop = Workshop::new()?;
    shop.write("apollo/Chart.yaml", "chart");
    shop.write("imageList", "list");
    shop.write("charts/x/Chart.yaml", "chart");
    Some(shop)
}

/// What a file of this name makes of the lines, and what it says.
#[track_caller]
fn made(shop: &Workshop, file: &str, text: &str, args: &[&str]) -> (Vec<String>, String) {
    let output = shop.try_build(file, text, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}\n{said}");
    let files = shop.files("new");
    (files.into_iter().filter(|path| !path.ends_with('/')).collect(), said)
}

/// A socket; one that is bound could not have a path as long as it may be here.
fn make_socket(path: &Path) {
    use nix::sys::stat::{Mode, SFlag, mknod};
    mknod(path, SFlag::S_IFSOCK, Mode::from_bits_truncate(0o755), 0).unwrap();
}

#[test]
fn both_rules_can_be_had_in_every_way() {
    let Some(shop) = workshop() else { return };
    let text = "FROM scratch\nCOPY apollo charts\nCOPY imageList manifests\n";
    let kubefile = ["charts/apollo/Chart.yaml", "manifests/imageList"];
    let docker = ["charts/Chart.yaml", "manifests"];
    let head = |rule: &str| format!("# copy={rule}\n{text}");
    for (file, text, args, expected) in [
        ("Kubefile", text, &[][..], kubefile),
        ("my.Kubefile", text, &[], kubefile),
        ("Dockerfile", text, &[], docker),
        ("Kubefile", &head("docker"), &[], docker),
        ("Dockerfile", &head("kubefile"), &[], kubefile),
        ("Kubefile", text, &["--copy-semantics", "docker"], docker),
        ("Dockerfile", text, &["--copy-semantics", "kubefile"], kubefile),
        ("Kubefile", &head("kubefile"), &["--copy-semantics", "docker"], docker),
    ] {
        let (files, said) = made(&shop, file, text, args);
        assert_eq!(files, expected, "{file} {args:?} {text}");
        assert!(file == "Dockerfile" || said.contains(SAYS_BOTH), "{said}");
    }
    // Nothing is said where there is nothing to choose.
    let text = "FROM scratch\nCOPY charts charts\nCOPY imageList manifests/\n";
    let (files, said) = made(&shop, "Kubefile", text, &[]);
    assert_eq!(files, ["charts/x/Chart.yaml", "manifests/imageList"]);
    assert!(!said.contains("rule"), "{said}");
}

#[test]
fn a_copy_goes_where_the_steps_before_lead() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    let text = "\
FROM base
RUN mkdir -p /real/dir && ln -s /real /link && ln -s nowhere /dangling && mkdir /gone /file-to-be
RUN rmdir /gone /file-to-be && echo x >/file-to-be && ln -s real/../real/dir /round
RUN ln -s far/away /away
COPY file /link/dir/
COPY file /round/below/
COPY file /dangling
COPY file /gone
COPY file /file-to-be
COPY file /bin/copied
WORKDIR /away/x
RUN test -L /link && test -L /round && test -L /dangling && cat /nowhere /gone /file-to-be && pwd
";
    assert_eq!(shop.build(text).last_run(), "filefilefile/far/away/x");
    let files = shop.files("new");
    for path in ["real/dir/file", "real/dir/below/file", "usr/bin/copied", "nowhere", "gone"] {
        assert!(files.iter().any(|file| file == path), "{path}: {files:?}");
    }
    let said = shop.fails("FROM base\nRUN ln -s l /l\nCOPY file /l/\n", &[]);
    assert!(said.contains("Dockerfile:3:") && said.contains("symbolic links"), "{said}");
    let said = shop.fails("FROM base\nRUN echo x >/f\nCOPY file /f/below/\n", &[]);
    assert!(said.contains("Dockerfile:3:") && said.contains("\"f\" is not a directory"), "{said}");
}

#[test]
fn what_is_copied_keeps_its_properties() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("tree/file", "file");
    shop.write("tree/empty", "");
    shop.write("tree/setuid", "x");
    let path = |name: &str| shop.path("context/tree").join(name);
    fs::set_permissions(path("setuid"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(path(""), fs::Permissions::from_mode(0o750)).unwrap();
    fs::hard_link(path("file"), path("hard")).unwrap();
    symlink("/no/where", path("dangling")).unwrap();
    xattr::set(path("file"), "user.note", b"kept").unwrap();
    run(Command::new("setcap").arg("cap_net_raw+ep").arg(path("file")));
    run(Command::new("mkfifo").arg(path("pipe")));
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n\x01 \\name");
    fs::write(path("").join(odd), "odd").unwrap();
    run(Command::new("find").arg(path("")).args([
        "-exec",
        "touch",
        "-hd",
        "@1234567890.5",
        "{}",
        "+",
    ]));
    make_socket(&path("socket"));

    let built = shop.build("FROM base\nCOPY tree /a/b\nCOPY --chown=app:0 --chmod=640 tree /c\n");
    assert!(built.said.contains("Dockerfile:2: socket tree/socket is left out"), "{}", built.said);
    shop.mounted("new", |root| {
        let stat = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
        let (file, setuid) = (stat("a/b/file"), stat("a/b/setuid"));
        assert_eq!((file.mtime(), file.mtime_nsec()), (1_234_567_890, 500_000_000));
        assert_eq!(setuid.mode(), 0o106_751);
        assert_eq!((file.uid(), file.gid(), file.len()), (0, 0, 4));
        assert_eq!(fs::read(root.join("a/b").join(odd)).unwrap(), b"odd");
        assert_eq!(fs::read_link(root.join("a/b/dangling")).unwrap(), Path::new("/no/where"));
        assert_eq!(stat("a/b/pipe").mode() & 0o170_000, 0o010_000);
        let attributes: Vec<_> = xattr::list(root.join("a/b/file")).unwrap().collect();
        assert_eq!(attributes.len(), 2, "{attributes:?}");
        assert!(!root.join("a/b/socket").exists());
        let (dir, file) = (stat("c"), stat("c/file"));
        assert_eq!((dir.uid(), dir.gid(), file.uid(), file.gid()), (1000, 0, 1000, 0));
        assert_eq!(file.mode() & 0o7777, 0o640);
    });
}

/// What an archive has files in without describing it is the image's, or is made; what it
/// describes is as it says.
#[test]
fn an_archive_changes_only_the_directories_it_describes() {
    let Some(shop) = Workshop::with_base() else { return };
    for path in ["tmp/f", "home/r/b", "mlib/q.so", "new/deep/x", "old/y"] {
        shop.write(&format!("p/{path}"), path);
    }
    let context = shop.path("context");
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(context.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("p/mlib/q.so", 0o640);
    mode("p/old", 0o755);
    let pack = |name: &str, members: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args(["--no-recursion", "--mtime=@0", "--owner=0", "--group=0", "-C"]);
        run(tar.arg(context.join("p")).arg("-cf").arg(context.join(name)).args(members));
    };
    pack("files.tar", &["tmp/f", "home/r/b", "mlib/q.so", "new/deep/x"]);
    pack("all.tar", &["old", "old/y", "mlib", "mlib/q.so"]);
    let text = "\
FROM base
RUN mkdir -p /usr/mlib /home/r && ln -s usr/mlib /mlib && ln -s in/it /old && chmod 700 /home/r
ADD --chmod=600 files.tar /
RUN stat -c '%a %F %n' /tmp /home/r /mlib /new /new/deep /usr/mlib/q.so && stat -c %Y /usr/mlib/q.so
";
    let expected = "1777 directory /tmp\n700 directory /home/r\n777 symbolic link /mlib\n\
                    755 directory /new\n755 directory /new/deep\n640 regular file /usr/mlib/q.so\n0";
    assert_eq!(shop.build(text).last_run(), expected);
    let times = "RUN test $(stat -c %Y /new) -gt 1000000000 && test $(stat -c %Y /tmp) -gt 0\n";
    shop.build(&format!("{text}{times}"));
    // A directory that it describes takes the place of a symlink, as tar has it.
    let text = format!("{text}ADD all.tar /\nRUN stat -c '%F %Y' /old /mlib && ls /usr/mlib\n");
    assert_eq!(shop.build(&text).last_run(), "directory 0\ndirectory 0\nq.so");
    let text = "FROM base\nRUN echo x >/new\nADD files.tar /\n";
    let said = shop.fails(text, &[]);
    assert!(said.contains("Dockerfile:3:") && said.contains("\"new\" is not a dir"), "{said}");
}

#[test]
fn a_pattern_beside_others_may_match_nothing() {
    let Some(shop) = workshop() else { return };
    let text = "FROM scratch\nCOPY imageList no* none? /y/\nCOPY charts apollo /z\n";
    let (files, _) = made(&shop, "Dockerfile", text, &[]);
    assert_eq!(files, ["y/imageList", "z/Chart.yaml", "z/x/Chart.yaml"]);
}

/// A COPY into a directory of the base leaves that directory as it is, for those who run in it
/// later and in the image, also when the layer comes from the cache.
#[test]
fn parents_stay_as_they_are() {
    let Some(shop) = Workshop::with(|root| {
        crate::workshop::install(root);
        fs::create_dir(root.join("owned")).unwrap();
        std::os::unix::fs::chown(root.join("owned"), Some(7), Some(8)).unwrap();
        fs::set_permissions(root.join("owned"), fs::Permissions::from_mode(0o2770)).unwrap();
        xattr::set(root.join("owned"), "user.note", b"kept").unwrap();
    }) else {
        return;
    };
    shop.write("x", "x");
    let copies = "FROM base\nCOPY x /tmp/x\nCOPY --chown=app x /owned/deep/er/x\n";
    let look =
        "stat -c '%n %a %u:%g' / /tmp /owned /owned/deep; getfattr -d --absolute-names /owned";
    let expected = "/ 755 0:0\n/tmp 1777 0:0\n/owned 2770 7:8\n/owned/deep 755 1000:1000\n\
                    # file: /owned\nuser.note=\"kept\"\n";
    for nonce in ["one", "two"] {
        let text = format!("{copies}RUN echo {nonce} >/owned/{nonce} && {look}\n");
        let built = shop.build(&text);
        assert_eq!(built.last_run(), expected);
        assert_eq!(built.cached(), if nonce == "one" { 0 } else { 2 });
    }
    let text = format!("FROM new\nRUN {look}\n");
    assert_eq!(shop.build(&text).last_run(), expected);
}

#[test]
fn what_is_ignored_is_not_there() {
    let Some(shop) = workshop() else { return };
    shop.write(
        ".dockerignore",
        "# none of these\n**/*.yaml\nDockerfile*\n.*\n!charts/*/Chart.yaml\n",
    );
    shop.write("Dockerfile", "x");
    let (files, _) = made(&shop, "Dockerfile", "FROM scratch\nCOPY . /\n", &[]);
    assert_eq!(files, ["charts/x/Chart.yaml", "imageList"]);
    let said = shop.fails("FROM scratch\nCOPY apollo/Chart.yaml /\n", &[]);
    assert!(said.contains("Dockerfile:2: source \"apollo/Chart.yaml\" is hidden by"), "{said}");
    assert!(said.contains(".dockerignore:2"), "{said}");
    let none = shop.fails("FROM scratch\nCOPY apollo/*.yaml /\n", &[]);
    assert!(none.contains("no file of the context matches"), "{none}");
    // A file beside the build file goes first.
    fs::write(shop.path("Dockerfile.dockerignore"), "charts\nDockerfile\n.*\n").unwrap();
    let (files, _) = made(&shop, "Dockerfile", "FROM scratch\nCOPY . /\n", &[]);
    assert_eq!(files, ["apollo/Chart.yaml", "imageList"]);
    fs::write(shop.path("Dockerfile.dockerignore"), "a\n[\n").unwrap();
    let said = shop.fails("FROM scratch\nCOPY . /\n", &[]);
    assert!(said.contains("Dockerfile.dockerignore:2: \"[\" is no pattern"), "{said}");
}

#[test]
fn what_cannot_be_copied_is_told() {
    let Some(shop) = workshop() else { return };
    symlink("/etc/passwd", shop.path("context/out")).unwrap();
    symlink("out", shop.path("context/chain")).unwrap();
    symlink("loop", shop.path("context/loop")).unwrap();
    symlink("imageList", shop.path("context/in")).unwrap();
    make_socket(&shop.path("context/socket"));
    for (copy, expected) in [
        ("COPY nowhere /", "source \"nowhere\" is not in the context"),
        ("COPY apollo/nothing /", "(apollo is the nearest that exists)"),
        ("COPY ../Dockerfile /", "source \"../Dockerfile\" is not in the context"),
        ("COPY out /", "which is not in the context"),
        ("COPY chain /", "which is not in the context"),
        ("COPY loop /x", "leads through too many symlinks"),
        ("COPY socket /", "is a socket, which no image can hold"),
        ("COPY apollo imageList /x", "with a / at its end"),
        ("COPY *.none /", "no file of the context matches"),
        ("COPY [ab /", "is no pattern"),
        ("COPY --chown=nobody imageList /", "the image's etc/passwd has no \"nobody\""),
        ("COPY --chmod=u+q imageList /", "write permission bits in octal"),
    ] {
        let said = shop.fails(&format!("FROM scratch\n{copy}\n"), &[]);
        assert!(said.contains("Dockerfile:2:") && said.contains(expected), "{copy}: {said}");
        assert!(said.contains(&format!("    2 | {copy}")), "{said}");
    }
    shop.assert_nothing_left();
    // A link in a directory stays one, wherever it leads.
    let (files, _) = made(&shop, "Dockerfile", "FROM scratch\nCOPY in /in\nCOPY . /all/\n", &[]);
    assert!(files.contains(&"all/out".to_owned()), "{files:?}");
    assert_eq!(shop.ok(&["cat", "new", "/in"]), "list");
}

#[test]
fn add_unpacks_archives_of_the_context() {
    let Some(shop) = Workshop::with_base() else { return };
    for (name, option) in
        [("plain.tar", "-cf"), ("a.tgz", "-czf"), ("b", "--zstd"), ("x", "-cJf"), ("y", "-cjf")]
    {
        let tree = shop.path("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub").join(name), name).unwrap();
        fs::hard_link(tree.join("sub").join(name), tree.join("link")).unwrap();
        let file = shop.path("context").join(name);
        let mut tar = Command::new("tar");
        tar.arg("--owner=5").arg("--group=6").arg("-C").arg(&tree);
        match option {
            "--zstd" => tar.args(["--zstd", "-cf"]),
            other => tar.arg(other),
        };
        run(tar.arg(&file).arg("."));
        fs::remove_dir_all(&tree).unwrap();
    }
    shop.write("text.tar", "no tar\n");
    shop.write("empty.tar", "");
    shop.write("text", "no tar\n");
    run(Command::new("xz").arg(shop.path("context/text")));
    let text = "FROM base\nADD plain.tar a.tgz /both/\nADD b /zstd\nADD x y /more/\nADD text.xz /\n\
                ADD text.tar empty.tar /\nADD --chown=7:8 plain.tar /owned\n\
                ADD --unpack=false a.tgz /kept\nCOPY b /copied\n\
                RUN stat -c '%n %u:%g %h' /both/sub/a.tgz /zstd/link /owned/link; \
                cat /both/sub/* /more/sub/*\n";
    let built = shop.build(text);
    assert_eq!(
        built.last_run(),
        "/both/sub/a.tgz 5:6 2\n/zstd/link 5:6 2\n/owned/link 7:8 2\na.tgzplain.tarxy"
    );
    assert_eq!(shop.ok(&["cat", "new", "/text.tar"]), "no tar\n");
    let packed = fs::read(shop.path("context/a.tgz")).unwrap();
    let kept = shop.kfs(&["cat", "new", "/kept"]).output().unwrap().stdout;
    assert_eq!(kept, packed);
    let packed = fs::read(shop.path("context/text.xz")).unwrap();
    assert_eq!(shop.kfs(&["cat", "new", "/text.xz"]).output().unwrap().stdout, packed);
    assert_eq!(shop.build(text).cached(), 9);
    let history = shop.inspect("new")["config"]["history"].to_string();
    assert!(history.contains("#(nop) ADD multi:"), "{history}");
    shop.ok(&["import", "context/x", "imported"]);
    assert_eq!(shop.ok(&["cat", "imported", "/sub/x"]), "x");
}

#[test]
fn a_linked_copy_depends_on_nothing_below() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    let text =
        |run: &str| format!("FROM base\nRUN {run}\nCOPY --link --chmod=g=u file /bin/new/\n");
    shop.build(&text("ln -s usr /linked"));
    // The base has a symlink there.
    assert!(shop.files("new").contains(&"bin/new/file".to_owned()));
    assert_eq!(shop.build(&text("echo other >/other")).cached(), 1);
    assert!(shop.files("new").contains(&"other".to_owned()));
}

/// The entries of a layer of `new`, written with `--compression uncompressed`, without their times.
fn entries(shop: &Workshop, layer: usize) -> Vec<String> {
    let digest = shop.inspect("new")["manifest"]["layers"][layer]["digest"].clone();
    let (_, hex) = digest.as_str().unwrap().split_once(':').unwrap();
    let blob = shop.path("store/blobs/sha256").join(hex);
    let mut list = Command::new("tar");
    list.args(["--numeric-owner", "--xattrs", "--full-time", "-tvf"]).arg(blob);
    let show = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        format!("{} {} {}", words[0].trim_end_matches('*'), words[1], words[5..].join(" "))
    };
    run(&mut list).lines().filter(|line| !line.starts_with("  ")).map(show).collect()
}

/// Whoever unpacks a layer by itself has the directories above its files from it alone.
#[test]
fn a_layer_holds_the_directories_above_its_files() {
    let Some(shop) = Workshop::with(|root| {
        crate::workshop::install(root);
        fs::create_dir_all(root.join("owned/sub")).unwrap();
        std::os::unix::fs::chown(root.join("owned"), Some(7), Some(8)).unwrap();
        fs::set_permissions(root.join("owned"), fs::Permissions::from_mode(0o2770)).unwrap();
        xattr::set(root.join("owned"), "user.note", b"kept").unwrap();
        symlink("owned/sub", root.join("link")).unwrap();
    }) else {
        return;
    };
    shop.write("x", "x");
    let text = "FROM base\nCOPY --chown=5:6 x /tmp/x\nCOPY x /link/new/x\nRUN chmod 710 /owned\n\
                WORKDIR /owned/works\nCOPY --link x /owned/linked\n";
    shop.build_with(text, &["--compression", "uncompressed"]);
    let layers = [
        &["drwxrwxrwt 0/0 tmp/", "-rw-r--r-- 5/6 tmp/x"][..],
        &[
            "drwxrws--- 7/8 owned/",
            "drwxr-xr-x 0/0 owned/sub/",
            "drwxr-xr-x 0/0 owned/sub/new/",
            "-rw-r--r-- 0/0 owned/sub/new/x",
        ],
        &["drwx--s--- 7/8 owned/"],
        &["drwx--s--- 7/8 owned/", "drwxr-xr-x 0/0 owned/works/"],
        // It knows nothing of an image.
        &["drwxr-xr-x 0/0 owned/", "-rw-r--r-- 0/0 owned/linked"],
    ];
    for (layer, expected) in (1..).zip(layers) {
        assert_eq!(entries(&shop, layer), expected);
    }
}

/// What a tree brings goes where the image's symlinks lead.
#[test]
fn a_tree_is_laid_over_what_is_there() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("rootfs/bin/tool", "tool");
    shop.write("rootfs/var/run/deep/f", "f");
    shop.write("kube/bin/other", "other");
    symlink("elsewhere", shop.path("context/rootfs/replaced")).unwrap();
    let text = "FROM base\nRUN mkdir -p /var /real/x && ln -s /run /var/run && ln -s real /replaced && \
                echo file >/odd\n";
    let look = "RUN ls -d /bin/sh /bin/tool /usr/bin/tool /run/deep/f && readlink /bin /var/run /replaced\n";
    let built = shop.build(&format!("{text}COPY rootfs/ /\n{look}"));
    assert_eq!(
        built.last_run(),
        "/bin/sh\n/bin/tool\n/run/deep/f\n/usr/bin/tool\nusr/bin\n/run\nelsewhere"
    );
    let built =
        shop.build(&format!("{text}COPY --parents rootfs/./bin/tool /\nRUN readlink /bin\n"));
    assert_eq!(built.last_run(), "usr/bin");
    let kubefile = format!("{text}COPY kube/bin .\nRUN readlink /bin && cat /usr/bin/other\n");
    let output = shop.try_build("Kubefile", &kubefile, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("      usr/bin\n      other"), "{said}");
    shop.write("odd/odd/inside", "x");
    shop.build(&format!("{text}COPY odd/ /\nRUN cat /odd/inside\n"));
    // Symlinks that lead nowhere.
    shop.write("lost/loop", "file");
    shop.write("lost/below", "file");
    let links = "RUN ln -s loop /loop && ln -s odd/x /below\n";
    let look = "RUN cat /loop && test ! -L /loop && test ! -L /below\n";
    shop.build(&format!("{text}{links}COPY lost/ /\n{look}"));
    // What takes a directory's place, and that of all that is in it.
    shop.write("bad/real", "file");
    fs::create_dir(shop.path("context/worse")).unwrap();
    symlink("bin", shop.path("context/worse/usr")).unwrap();
    for (copy, dest) in
        [("COPY bad/ /", "real"), ("COPY bad/real /", "real"), ("COPY worse/ /", "usr")]
    {
        let said = shop.build(&format!("{text}{copy}\n")).said;
        let expected = format!("Dockerfile:3: the image's directory /{dest} is replaced");
        assert!(said.contains(&expected), "{copy}: {said}");
    }
}

/// In a layer such a name would say that another file is gone.
#[test]
fn a_name_that_means_something_in_a_layer_is_refused() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("tree/.wh.etc", "x");
    for copy in ["COPY tree/ /", "COPY tree/.wh.etc /etc/", "COPY <<.wh.x /\n.wh.x"] {
        let said = shop.fails(&format!("FROM base\n{copy}\n"), &[]);
        assert!(said.contains("cannot be stored in a layer"), "{copy}: {said}");
    }
    // Nothing is made of what a bind shows.
    let built = shop.build("FROM base\nRUN --mount=target=/ctx ls -A /ctx/tree\n");
    assert_eq!(built.last_run(), ".wh.etc");
}

/// Its key has the numbers, as the image below is no part of it.
#[test]
fn a_linked_copy_for_a_name_goes_by_its_number() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = |uid: u32| {
        format!(
            "FROM base AS from\nRUN echo x >/x\nFROM base\n\
             RUN echo new:x:{uid}:{uid}::/:/bin/sh >>/etc/passwd && echo new:x:{uid}: >>/etc/group\n\
             COPY --link --chown=new:new --from=from /x /x\nRUN stat -c %u:%g /x\n"
        )
    };
    assert_eq!(shop.build(&text(70)).last_run(), "[stage-1] 70:70");
    assert_eq!(shop.build(&text(71)).last_run(), "[stage-1] 71:71");
}
