//! Sources and contexts that lie in git repositories or archives elsewhere.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};

use crate::remote::Server;
use crate::skip::skip;
use crate::workshop::{Workshop, run};

/// `git daemon` on loopback, for the repositories in a directory.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn new(root: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut daemon = git(root);
        daemon.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", root.display()));
        daemon.arg("--").arg(root).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = daemon.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "git daemon does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }

    fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        killpg(group, Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
        // The processes that it started end in their own time.
        let deadline = Instant::now() + Duration::from_secs(20);
        while killpg(group, None).is_ok() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// git in a directory, as nobody's settings have it.
fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@b");
        git.env(format!("GIT_{who}_DATE"), "1500000000 +0000");
    }
    git.args(["-c", "init.defaultBranch=main", "-c", "core.autocrlf=false"]);
    git
}

/// A repository with branches `main` and `other`, a tag, links and programs.
struct Repository<'a>(&'a Workshop);

impl<'a> Repository<'a> {
    fn new(shop: &'a Workshop) -> Self {
        let root = shop.path("served/project.git");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        let new = Self(shop);
        new.git(&["init", "-q"]);
        fs::write(root.join("README"), "read me\n").unwrap();
        fs::write(root.join("sub/file"), "one\n").unwrap();
        fs::write(root.join("sub/deep/run"), "#!/bin/sh\n").unwrap();
        let program = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o775);
        fs::set_permissions(root.join("sub/deep/run"), program).unwrap();
        symlink("file", root.join("sub/link")).unwrap();
        new.commit();
        new.git(&["tag", "-a", "-m", "first", "v1"]);
        new.git(&["checkout", "-q", "-b", "other"]);
        fs::write(root.join("sub/file"), "other\n").unwrap();
        new.commit();
        new.git(&["checkout", "-q", "main"]);
        new
    }

    fn git(&self, args: &[&str]) -> String {
        run(git(&self.0.path("served/project.git")).args(args)).trim_end().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path("served/project.git").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "x"]);
        // For servers that only hand out files.
        self.git(&["update-server-info"]);
    }
}

fn workshop() -> Option<(Workshop, Daemon)> {
    if Command::new("git").arg("daemon").arg("-h").output().is_err() {
        skip("needs git");
        return None;
    }
    let shop = Workshop::new()?;
    Repository::new(&shop);
    let daemon = Daemon::new(&shop.path("served"));
    Some((shop, daemon))
}

#[test]
fn a_repository_is_added_at_the_commit_that_is_named() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let url = daemon.url("project.git");
    let first = repository.git(&["rev-parse", "main"]);
    shop.build(&format!(
        "FROM scratch\nADD {url} /head/\nADD {url}#other /other\nADD {url}#v1:sub /v1\n\
         ADD --chown=1:2 --exclude=deep {url}#{first}:/sub/ /commit/\n\
         ADD {url}#refs/heads/other:sub/deep /deep\n"
    ));
    let files = shop.files("new");
    let tree = ["README", "sub/", "sub/deep/", "sub/deep/run", "sub/file", "sub/link"];
    let of = |at: &str| -> Vec<_> {
        let below = files.iter().filter_map(|file| file.strip_prefix(at));
        below.filter(|file| !file.is_empty()).collect()
    };
    assert_eq!((of("head/"), of("other/")), (tree.to_vec(), tree.to_vec()));
    assert_eq!(of("v1/"), ["deep/", "deep/run", "file", "link"]);
    assert_eq!((of("commit/"), of("deep/")), (vec!["file", "link"], vec!["run"]));
    shop.mounted("new", |root| {
        let text = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(
            (text("head/sub/link"), text("other/sub/file")),
            ("one\n".into(), "other\n".into())
        );
        assert_eq!(text("v1/file"), "one\n");
        for (name, mode) in [("v1/file", 0o100_644), ("deep/run", 0o100_755), ("v1/deep", 0o40_755)]
        {
            let metadata = root.join(name).symlink_metadata().unwrap();
            assert_eq!((metadata.mode(), metadata.mtime()), (mode, 1_500_000_000), "{name}");
        }
        let owned = fs::metadata(root.join("commit/file")).unwrap();
        assert_eq!((owned.uid(), owned.gid()), (1, 2));
    });
    drop(daemon);
    shop.assert_nothing_left();
}

#[test]
fn an_unchanged_repository_is_not_fetched() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let url = daemon.url("project.git");
    let text = format!("FROM scratch\nADD {url}#main /x\n");
    assert_eq!(shop.build(&text).cached(), 0);
    assert_eq!(shop.build(&text).cached(), 1);
    // In another place the repository of the cache is enough, whatever is there.
    let objects = shop.path("served/project.git/.git/objects");
    fs::rename(&objects, shop.path("elsewhere")).unwrap();
    fs::create_dir(&objects).unwrap();
    let head = repository.git(&["rev-parse", "main"]);
    let moved = format!("FROM scratch\nADD {url}#{head} /y\n");
    assert_eq!(shop.build(&moved).cached(), 0);
    fs::remove_dir(&objects).unwrap();
    fs::rename(shop.path("elsewhere"), &objects).unwrap();
    // Another branch is none of it; another commit is.
    repository.git(&["branch", "more", "other"]);
    assert_eq!(shop.build(&text).cached(), 1);
    repository.write("sub/file", "two\n");
    repository.commit();
    assert_eq!(shop.build(&text).cached(), 0);
    assert_eq!(shop.ok(&["cat", "new", "/x/sub/file"]), "two\n");
    assert_eq!(shop.build(&moved).cached(), 1, "a commit stays what it is");
    // What git left half-made is made anew.
    let caches = shop.path("store/build-cache/mounts");
    let cache = fs::read_dir(&caches).unwrap().next().unwrap().unwrap().path().join("data-0");
    fs::write(cache.join("shallow.lock"), "").unwrap();
    repository.write("sub/file", "three\n");
    repository.commit();
    shop.build(&text);
    assert_eq!(shop.ok(&["cat", "new", "/x/sub/file"]), "three\n");
    // It goes with the build cache.
    shop.ok(&["prune", "--all", "--force"]);
    assert_eq!(fs::read_dir(&caches).unwrap().count(), 0);
    drop(daemon);
    shop.assert_nothing_left();
}

#[test]
fn the_git_directory_is_kept_if_it_is_asked_for() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let url = daemon.url("project.git");
    for (reference, branch, tag) in [("main", "main", ""), ("v1", "", "v1")] {
        shop.build(&format!("FROM scratch\nADD --keep-git-dir {url}#{reference} /x\n"));
        shop.mounted("new", |root| {
            let place = root.join("x");
            let git = |args: &[&str]| {
                let mut git = git(&place);
                run(git.args(["-c", "safe.directory=*"]).args(args)).trim_end().to_owned()
            };
            let commit = repository.git(&["rev-parse", &format!("{reference}^{{commit}}")]);
            assert_eq!(git(&["rev-parse", "HEAD"]), commit);
            assert_eq!(git(&["branch", "--show-current"]), branch);
            assert_eq!(git(&["tag", "--points-at", "HEAD"]), tag);
            assert_eq!(git(&["remote", "get-url", "origin"]), url);
            assert_eq!(git(&["--no-optional-locks", "status", "--porcelain"]), "");
        });
    }
}

#[test]
fn a_server_that_only_hands_out_files_is_enough() {
    let Some((shop, _daemon)) = workshop() else { return };
    let server = Server::new(&shop.path("served"));
    let url = server.url("project.git/.git");
    shop.build(&format!("FROM scratch\nADD {url}#v1:sub /x\n"));
    assert_eq!(shop.ok(&["cat", "new", "/x/file"]), "one\n");
}

#[test]
fn what_git_cannot_give_is_told() {
    let Some((shop, daemon)) = workshop() else { return };
    let url = daemon.url("project.git");
    let commit = "0123456789012345678901234567890123456789";
    for (source, message) in [
        (format!("{url}#nothing"), "has no branch, tag or commit nothing".to_owned()),
        (format!("{url}#{commit}"), format!("has no branch, tag or commit {commit}")),
        (format!("{url}#main:none"), "has no directory none".to_owned()),
        (format!("{url}#main:README"), "has no directory README".to_owned()),
        (format!("{url}#main:../x"), "is not one in the repository".to_owned()),
        (format!("{url}#--upload-pack=x"), "cannot be a branch, tag or commit".to_owned()),
        (daemon.url("none.git"), "access denied or repository not exported".to_owned()),
        ("git://127.0.0.1:1/x".to_owned(), "Connection refused".to_owned()),
    ] {
        let said = shop.fails(&format!("FROM scratch\nADD {source} /x\n"), &[]);
        assert!(
            said.contains("kfs: Dockerfile:2: ") && said.contains(&message),
            "{source}: {said}"
        );
    }
    let head = Repository(&shop).git(&["rev-parse", "main"]);
    shop.build(&format!("FROM scratch\nADD --checksum={} {url} /x\n", &head[..12]));
    for (sum, message) in [("0123456", "is at the commit"), ("sha256:0", "is no commit of git")] {
        let said = shop.fails(&format!("FROM scratch\nADD --checksum={sum} {url} /x\n"), &[]);
        assert!(said.contains(message), "{said}");
    }
    // A program of this name that is not there.
    fs::write(shop.path("Dockerfile"), format!("FROM scratch\nADD {url} /x\n")).unwrap();
    let mut build = shop.kfs(&["build", "-f", "Dockerfile", "context"]);
    let output = build.env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("git is needed for git://127.0.0.1"), "{said}");
    assert!(said.contains("hint: install it"), "{said}");
    drop(daemon);
    shop.assert_nothing_left();
}

/// Each by its own commit, those in submodules too.
#[test]
fn submodules_are_files_of_the_repository() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let other = shop.path("served/parts/other.git");
    fs::create_dir_all(&other).unwrap();
    let in_other = |args: &[&str]| run(git(&other).args(args)).trim_end().to_owned();
    in_other(&["init", "-q"]);
    let link = |commit: &str, path: &str| format!("160000,{commit},{path}");
    let module =
        |path: &str, url: &str| format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
    let first = repository.git(&["rev-parse", "v1^{commit}"]);
    fs::write(other.join("part"), "part\n").unwrap();
    // The repository itself, at a commit of before.
    fs::write(other.join(".gitmodules"), module("inner", "../../project.git")).unwrap();
    in_other(&["add", "-A"]);
    in_other(&["update-index", "--add", "--cacheinfo", &link(&first, "inner")]);
    in_other(&["commit", "-q", "-m", "x"]);
    let part = in_other(&["rev-parse", "HEAD"]);
    fs::write(other.join("part"), "later\n").unwrap();
    in_other(&["commit", "-q", "-a", "-m", "y"]);
    let url = daemon.url("parts/other.git");
    repository.write(".gitmodules", &(module("sub/lib", &url) + &module("gone", "../gone.git")));
    repository.git(&["add", ".gitmodules"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &link(&part, "sub/lib")]);
    repository.git(&["commit", "-q", "-m", "with a submodule"]);
    let url = daemon.url("project.git");
    let text = format!("FROM scratch\nADD {url} /x\nADD {url}#main:sub /sub\n");
    shop.build(&text);
    for path in ["/x/sub/lib/part", "/sub/lib/part"] {
        assert_eq!(shop.ok(&["cat", "new", path]), "part\n");
    }
    assert_eq!(shop.ok(&["cat", "new", "/x/sub/lib/inner/sub/file"]), "one\n");
    assert_eq!(shop.build(&text).cached(), 2);
    // As a context, too; and one that no server has is an error.
    repository.write("Dockerfile", "FROM scratch\nCOPY sub/lib/part /part\n");
    repository.git(&["add", "Dockerfile"]);
    repository.git(&["commit", "-q", "-m", "y"]);
    assert!(build_at(&shop, &[&url]).status.success());
    assert_eq!(shop.ok(&["cat", "new", "/part"]), "part\n");
    repository.git(&["update-index", "--add", "--cacheinfo", &link(&part, "gone")]);
    repository.git(&["commit", "-q", "-m", "z"]);
    let said = shop.fails(&format!("FROM scratch\nADD {url} /x\n"), &[]);
    assert!(said.contains("Dockerfile:2:") && said.contains("/gone.git"), "{said}");
    drop(daemon);
    shop.assert_nothing_left();
}

#[test]
fn a_repository_does_nothing_but_give_its_files() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let touched = shop.path("touched");
    repository.write(".gitattributes", "*.txt filter=evil\nREADME export-ignore\n");
    repository.write("a.txt", "as it is\n");
    let module = "[submodule \"x\"]\n\tpath = x\n\turl = ext::touch touched\n";
    repository.write(".gitmodules", module);
    let head = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["add", "-A"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},x")]);
    repository.git(&["commit", "-q", "-m", "x"]);
    // The user's settings do not reach the files either.
    let config = format!(
        "[filter \"evil\"]\n\tsmudge = touch {0}\n[core]\n\thooksPath = {1}\n",
        touched.display(),
        shop.path("hooks").display()
    );
    fs::create_dir(shop.path("hooks")).unwrap();
    fs::create_dir(shop.path("home")).unwrap();
    fs::write(shop.path("home/.gitconfig"), config).unwrap();
    let text = format!("FROM scratch\nADD {} /x\n", daemon.url("project.git"));
    fs::write(shop.path("Dockerfile"), text).unwrap();
    let mut build = shop.kfs(&["build", "-t", "new", "-f", "Dockerfile", "context"]);
    build.env("HOME", shop.path("home")).env("GIT_DIR", shop.path("served/project.git/.git"));
    let output = build.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("submodules of git://") && said.contains("are left out: x"), "{said}");
    assert_eq!(shop.ok(&["cat", "new", "/x/a.txt", "/x/README"]), "as it is\nread me\n");
    assert!(!touched.exists());
}

fn build_at(shop: &Workshop, args: &[&str]) -> Output {
    shop.kfs(&[&["build", "-t", "new"], args].concat()).output().unwrap()
}

#[track_caller]
fn assert_builds(shop: &Workshop, args: &[&str]) {
    let output = build_at(shop, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_repository_is_a_context() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    repository.write("Dockerfile", "FROM scratch\nCOPY sub/file /file\nCOPY . /all/\n");
    repository.write(".dockerignore", "README\n");
    repository.write("sub/Dockerfile", "FROM scratch\nCOPY file /only\n");
    repository.write("sub/Other", "FROM scratch\nCOPY link /linked\n");
    repository.commit();
    let url = daemon.url("project.git");
    assert_builds(&shop, &[&url]);
    let files = shop.files("new");
    assert!(files.contains(&"all/sub/file".to_owned()), "{files:?}");
    assert!(
        !files.iter().any(|file| file.contains("README") || file.contains(".git/")),
        "{files:?}"
    );
    let directory = format!("{url}#main:sub");
    assert_builds(&shop, &[&directory]);
    assert_eq!(shop.files("new"), ["only"]);
    assert_builds(&shop, &["-f", "Other", &directory]);
    assert_eq!(shop.files("new"), ["linked"]);
    // The same content is the same step, wherever it lies.
    let output = build_at(&shop, &[&directory]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cached"));
    let output = build_at(&shop, &[&format!("{url}#v1")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has no build file"), "{said}");
    let output = build_at(&shop, &[&format!("{url}#nothing")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("kfs: git://") && said.contains("no branch"), "{said}");
    drop(daemon);
    shop.assert_nothing_left();
}

#[test]
fn a_context_cannot_have_the_hosts_files_read() {
    let Some((shop, daemon)) = workshop() else { return };
    let repository = Repository(&shop);
    let secret = shop.path("secret");
    fs::write(&secret, "SECRET\n").unwrap();
    let root = shop.path("served/project.git");
    symlink(&secret, root.join("Dockerfile")).unwrap();
    symlink(&secret, root.join("out")).unwrap();
    symlink("/dev/zero", root.join(".dockerignore")).unwrap();
    repository.commit();
    let url = daemon.url("project.git");
    for args in [&[url.as_str()][..], &["-f", "Dockerfile", &url], &["-f", "../secret", &url]] {
        let output = build_at(&shop, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("is a link out of the context") && !said.contains("SECRET"),
            "{said}"
        );
    }
    for name in ["Dockerfile", ".dockerignore"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    repository.write("Dockerfile", "FROM scratch\nCOPY out /out\n");
    repository.commit();
    let output = build_at(&shop, &[&url]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("SECRET"), "{said}");
    drop(daemon);
    shop.assert_nothing_left();
}

#[test]
fn an_archive_is_a_context() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("file", "in the archive");
    shop.write("Dockerfile", "FROM scratch\nCOPY file /\n");
    shop.write("Other", "FROM scratch\nCOPY file /other\n");
    let server = Server::new(&shop.path("served"));
    for (options, name) in [("-cf", "c.tar"), ("-czf", "c.tar.gz")] {
        let archive = shop.path("served").join(name);
        run(Command::new("tar")
            .arg(options)
            .arg(&archive)
            .arg("-C")
            .arg(shop.path("context"))
            .arg("."));
        assert_builds(&shop, &[&server.url(name)]);
        assert_eq!(shop.files("new"), ["file"]);
        assert_builds(&shop, &["-f", "Other", &server.url(name)]);
        assert_eq!(shop.files("new"), ["other"]);
        let mut build = shop.kfs(&["build", "-t", "new", "-"]);
        let output = build.stdin(fs::File::open(&archive).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(shop.files("new"), ["file"]);
    }
    shop.assert_nothing_left();
}

#[test]
fn a_build_file_alone_is_enough() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("file", "here");
    let server = Server::new(&shop.path("served"));
    server.put("Kubefile", b"FROM scratch\nCOPY <<a manifests\nx\na\n");
    assert_builds(&shop, &[&server.url("Kubefile")]);
    assert_eq!(shop.files("new"), ["manifests/", "manifests/a"]);
    for (args, expected) in [(&["-"][..], "a"), (&["-f", "-", "context"][..], "file")] {
        let text = match expected {
            "a" => "FROM scratch\nCOPY <<a /\nx\na\n",
            _ => "FROM scratch\nCOPY file /\n",
        };
        let mut build = shop.kfs(&[&["build", "-t", "new"], args].concat());
        let mut child = build.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(shop.files("new"), [expected]);
    }
    let output = build_at(&shop, &["-f", "-", "-"]);
    assert_eq!(output.status.code(), Some(2));
    let output = build_at(&shop, &[&server.url("none")]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("404"));
    shop.assert_nothing_left();
}
