//! Who a step runs as: `USER name`, `uid`, `name:group`, ... looked up in the rootfs.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use kfs_fs::error::{AtPath, PathError};
use serde::{Deserialize, Serialize};

use crate::rootfs::RootDir;

/// No account file is longer than this; the rest of a longer one is not read.
const MAX_ACCOUNT_FILE: u64 = 16 << 20;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, ascending; the primary one is among them, as containerd has it.
    pub groups: Vec<u32>,
    /// Home directory; `/` for a user number without an account.
    pub home: OsString,
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name has no account.
    #[error("user {name:?} is not in /etc/passwd of the rootfs: create it first, or use a number")]
    NoUser {
        /// As written.
        name: String,
    },
    /// The group has no entry.
    #[error("group {name:?} is not in /etc/group of the rootfs: create it first, or use a number")]
    NoGroup {
        /// As written.
        name: String,
    },
    /// The account files could not be read.
    #[error(transparent)]
    Read(#[from] PathError),
}

/// A line of /etc/passwd, as far as it matters (passwd(5)).
#[derive(Debug)]
struct Account {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

/// A line of /etc/group (group(5)).
#[derive(Debug)]
struct Group {
    name: Vec<u8>,
    gid: u32,
    members: Vec<Vec<u8>>,
}

impl User {
    /// Resolves `user[:group]` as Docker does: names come from the rootfs, a number needs no
    /// account (its group is then 0), and the groups that list the user are added only where no
    /// group is given. The empty string is root.
    pub fn resolve(root: &RootDir, text: &str) -> Result<Self, UserError> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let number = id(name.as_bytes());
        let account =
            accounts(root)?
                .into_iter()
                .find(|account| account.name == name.as_bytes())
                .map_or_else(|| account_with_uid(root, number), |account| Ok(Some(account)))?;
        let mut user = match (&account, number) {
            (Some(account), _) => Self {
                uid: account.uid,
                gid: account.gid,
                groups: Vec::new(),
                home: OsString::from_vec(account.home.clone()),
            },
            (None, Some(uid)) => Self { uid, gid: 0, groups: Vec::new(), home: "/".into() },
            (None, None) => return Err(UserError::NoUser { name: name.to_owned() }),
        };
        if user.home.is_empty() {
            user.home = "/".into();
        }
        let groups = groups(root)?;
        if let Some(group) = group {
            user.gid = groups
                .iter()
                .find(|line| line.name == group.as_bytes())
                .map(|line| line.gid)
                .or_else(|| id(group.as_bytes()))
                .ok_or_else(|| UserError::NoGroup { name: group.to_owned() })?;
        } else if let Some(account) = account {
            user.groups = groups
                .into_iter()
                .filter(|group| group.members.contains(&account.name))
                .map(|group| group.gid)
                .collect();
        }
        user.groups.push(user.gid);
        user.groups.sort_unstable();
        user.groups.dedup();
        Ok(user)
    }
}

fn account_with_uid(root: &RootDir, uid: Option<u32>) -> Result<Option<Account>, PathError> {
    let Some(uid) = uid else { return Ok(None) };
    Ok(accounts(root)?.into_iter().find(|account| account.uid == uid))
}

/// A number that may be a user or group; `u32::MAX` means "none" to the kernel.
fn id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn accounts(root: &RootDir) -> Result<Vec<Account>, PathError> {
    let parse = |fields: &[&[u8]]| {
        let [name, _, uid, gid, _, home, ..] = fields else { return None };
        Some(Account { name: name.to_vec(), uid: id(uid)?, gid: id(gid)?, home: home.to_vec() })
    };
    lines(root, "/etc/passwd", parse)
}

fn groups(root: &RootDir) -> Result<Vec<Group>, PathError> {
    let parse = |fields: &[&[u8]]| {
        let [name, _, gid, members, ..] = fields else { return None };
        let members = members.split(|byte| *byte == b',').map(<[u8]>::to_vec).collect();
        Some(Group { name: name.to_vec(), gid: id(gid)?, members })
    };
    lines(root, "/etc/group", parse)
}

/// What `parse` makes of the lines of an account file; other lines are passed over, as libc does.
fn lines<T>(
    root: &RootDir,
    path: &str,
    parse: impl Fn(&[&[u8]]) -> Option<T>,
) -> Result<Vec<T>, PathError> {
    let path = Path::new(path);
    let Some(file) = root.open_file_opt(path)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for line in BufReader::new(file.take(MAX_ACCOUNT_FILE)).split(b'\n') {
        let line = line.at("read", &root.outside(path))?;
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        found.extend(parse(&fields));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn user(root: &RootDir, text: &str) -> (u32, u32, Vec<u32>, String) {
        let user = User::resolve(root, text).unwrap();
        (user.uid, user.gid, user.groups, user.home.into_string().unwrap())
    }

    #[test]
    fn users_and_groups_resolve_as_docker_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001:App:/home/app:/bin/sh\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:root\ndisk:x:6:root,app\napp:x:1001:\naudio:x:29:app\n";
        fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        assert_eq!(user(&root, ""), (0, 0, vec![0, 6], "/root".into()));
        assert_eq!(user(&root, "app"), (1000, 1001, vec![6, 29, 1001], "/home/app".into()));
        assert_eq!(user(&root, "1000"), (1000, 1001, vec![6, 29, 1001], "/home/app".into()));
        assert_eq!(user(&root, "app:disk"), (1000, 6, vec![6], "/home/app".into()));
        assert_eq!(user(&root, "4711"), (4711, 0, vec![0], "/".into()));
        assert_eq!(user(&root, "4711:12"), (4711, 12, vec![12], "/".into()));
        let error = User::resolve(&root, "nobody").unwrap_err();
        assert!(error.to_string().contains("user \"nobody\" is not in /etc/passwd"), "{error}");
        let error = User::resolve(&root, "app:wheel").unwrap_err();
        assert!(error.to_string().contains("group \"wheel\""), "{error}");
        assert!(User::resolve(&root, "4294967295").is_err());
    }

    #[test]
    fn account_files_of_the_host_are_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("etc")).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        assert!(matches!(User::resolve(&root, "daemon"), Err(UserError::NoUser { .. })));
        assert_eq!(user(&root, "0"), (0, 0, vec![0], "/".into()));
    }
}
