//! A root file system with a shell and some tools, made from this machine's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Programs of the host that the rootfs gets.
const TOOLS: [&str; 24] = [
    "/bin/cat",
    "/bin/chmod",
    "/bin/date",
    "/bin/dd",
    "/bin/echo",
    "/bin/grep",
    "/bin/head",
    "/bin/hostname",
    "/bin/id",
    "/bin/ln",
    "/bin/ls",
    "/bin/mkdir",
    "/bin/mkfifo",
    "/bin/mknod",
    "/bin/mount",
    "/bin/mv",
    "/bin/rm",
    "/bin/sleep",
    "/bin/touch",
    "/bin/true",
    "/usr/bin/setsid",
    "/usr/bin/unshare",
    "/usr/bin/env",
    "/usr/bin/readlink",
];

/// Fills a directory with a shell, the tools and two users.
pub(crate) fn install_tools(root: &Path) {
    for directory in ["usr/bin", "usr/lib", "etc", "tmp", "lower"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    symlink("usr/bin", root.join("bin")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
        .unwrap();
    fs::copy("/bin/dash", root.join("usr/bin/dash")).unwrap();
    symlink("dash", root.join("usr/bin/sh")).unwrap();
    install_libraries(root, Path::new("/bin/dash"));
    TOOLS.map(Path::new).into_iter().for_each(|tool| install_program(root, tool));
}

/// Adds a program of the host, with its libraries.
pub(crate) fn install_program(root: &Path, program: &Path) {
    fs::copy(program, root.join("usr/bin").join(program.file_name().unwrap())).unwrap();
    install_libraries(root, program);
}

fn install_libraries(root: &Path, program: &Path) {
    let listing = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(listing.stdout).unwrap().split_ascii_whitespace() {
        if word.starts_with('/') {
            let place = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            if !place.exists() {
                fs::copy(word, place).unwrap();
            }
        }
    }
}
