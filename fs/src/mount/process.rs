//! Processes: whether the one of a state still lives, and who uses a mount.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Name of its program, up to 15 bytes.
    pub name: String,
}

/// When `pid` started, in clock ticks since boot; `None` if it is gone or a zombie.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses and blanks too.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22 of proc_pid_stat(5); the state, field 3, was the first one after the name.
    fields.nth(22 - 4)?.parse().ok()
}

/// The processes, but for this one, that have their working directory, root, program, a library
/// or an open file at or below `dir`. Those that may not be looked at are not found.
pub(super) fn users_of(dir: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut users: Vec<Process> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && uses(pid, dir))
        .map(|pid| Process { pid, name: name_of(pid) })
        .collect();
    users.sort_by_key(|user| user.pid);
    users
}

fn uses(pid: u32, dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    if ["cwd", "root", "exe"].iter().any(|name| inside(&process.join(name))) {
        return true;
    }
    if let Ok(descriptors) = fs::read_dir(process.join("fd"))
        && descriptors.filter_map(Result::ok).any(|entry| inside(&entry.path()))
    {
        return true;
    }
    // address perms offset dev inode   path
    fs::read(process.join("maps")).is_ok_and(|maps| {
        maps.split(|&byte| byte == b'\n').any(|line| {
            let path = line.iter().position(|&byte| byte == b'/').map(|start| &line[start..]);
            path.is_some_and(|path| Path::new(OsStr::from_bytes(path)).starts_with(dir))
        })
    })
}

fn name_of(pid: u32) -> String {
    match fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_others_do_not() {
        assert!(start_ticks(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(u32::MAX), None);
    }

    #[test]
    fn a_user_is_found_by_its_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        assert_eq!(users_of(&dir), []);
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(&dir).spawn().unwrap();
        let users = users_of(&dir);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(users, [Process { pid: child.id(), name: "sleep".to_owned() }]);
    }
}
