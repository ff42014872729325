//! A program in a root file system, and when it was executed.
//!
//! As chroot(8), in a process that is this program again. Its standard input is a pipe: no byte
//! comes through it, but its other end is told when the program has been executed, as the pipe
//! is closed by that.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chroot, getgid, getuid};
use serde::{Deserialize, Serialize};

/// The first argument of a process that enters a root file system; the second is an [`Entry`].
pub const ARGUMENT: &str = "__bench-enter";

/// What is executed, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The root file system.
    pub root: PathBuf,
    /// The directory in it.
    pub directory: String,
    /// All of the environment.
    pub env: Vec<(String, String)>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Such a process: it does not return unless something fails.
#[allow(clippy::print_stderr)] // It has no other way to say why.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let entry = args.last().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let result = entry.ok_or_else(|| io::Error::other("no entry is given")).and_then(enter);
    if let Err(error) = result {
        eprintln!("{error}");
    }
    ExitCode::from(127)
}

/// Returns only with an error.
fn enter(entry: Entry) -> io::Result<()> {
    // Closed by exec.
    let told = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    if !getuid().is_root() {
        become_root()?;
    }
    chroot(&entry.root)?;
    std::env::set_current_dir(&entry.directory)?;
    let [program, args @ ..] = &entry.command[..] else {
        return Err(io::Error::other("no command is given"));
    };
    let error = Command::new(program).args(args).env_clear().envs(entry.env).stdin(nothing).exec();
    drop(told);
    Err(io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// Root of a namespace in which nobody else is.
fn become_root() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    write("setgroups", "deny")?;
    write("uid_map", &format!("0 {uid} 1"))?;
    write("gid_map", &format!("0 {gid} 1"))
}

fn write(name: &str, text: &str) -> io::Result<()> {
    fs::write(format!("/proc/self/{name}"), text)
}
