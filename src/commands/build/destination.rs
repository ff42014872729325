//! Places that are written when the build is done, looked at before it begins.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kfs_fs::error::AtPath as _;
use nix::unistd::{AccessFlags, eaccess};

use crate::report::Failure;

/// How a place is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// A file that is opened and filled.
    InPlace,
    /// A file that takes the place of one that is there.
    Whole,
    /// A directory, made with those that it lies in.
    Directory,
}

/// Fails if a place that an option names cannot be written. Nothing is opened there: a pipe would
/// wait for who reads it.
pub(super) fn check(option: &str, path: &Path, written: Written) -> Result<(), Failure> {
    let looked = look(path, written).at("write", path);
    looked.map_err(|error| Failure::new(format!("{option}: {error}")))
}

fn look(path: &Path, written: Written) -> io::Result<()> {
    let is_directory = written == Written::Directory;
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(path, written),
        found => found?,
    };
    if found.is_dir() != is_directory {
        let kind = match is_directory {
            true => io::ErrorKind::NotADirectory,
            false => io::ErrorKind::IsADirectory,
        };
        return Err(kind.into());
    }
    match written {
        Written::Directory => may(path, AccessFlags::W_OK | AccessFlags::X_OK),
        Written::Whole if found.is_file() => {
            look(directory_of(&fs::canonicalize(path)?), Written::Directory)
        }
        Written::Whole | Written::InPlace => may(path, AccessFlags::W_OK),
    }
}

/// As [`look`], of what is not there yet.
fn make(path: &Path, written: Written) -> io::Result<()> {
    let directory = directory_of(path);
    if written != Written::Directory {
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        fs::metadata(directory)?;
    }
    look(directory, Written::Directory)
}

fn may(path: &Path, access: AccessFlags) -> io::Result<()> {
    Ok(eaccess(path, access)?)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_made_and_what_not() {
        use Written::{Directory, InPlace, Whole};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink("dir", path("link")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, written) in [
            ("new", InPlace),
            ("file", InPlace),
            ("pipe", InPlace),
            ("link/new", Whole),
            ("file", Whole),
            ("pipe", Whole),
            ("dir", Directory),
            ("link", Directory),
            ("new/in/new", Directory),
        ] {
            assert!(look(&path(name), written).is_ok(), "{name} {written:?}");
        }
        for (name, written, kind) in [
            ("new/file", InPlace, io::ErrorKind::NotFound),
            ("new/file", Whole, io::ErrorKind::NotFound),
            ("new/", Whole, io::ErrorKind::IsADirectory),
            ("link", Whole, io::ErrorKind::IsADirectory),
            ("file/new", InPlace, io::ErrorKind::NotADirectory),
            ("file", Directory, io::ErrorKind::NotADirectory),
            ("pipe", Directory, io::ErrorKind::NotADirectory),
            ("file/new/new", Directory, io::ErrorKind::NotADirectory),
        ] {
            let error = look(&path(name), written).unwrap_err();
            assert_eq!(error.kind(), kind, "{name} {written:?}: {error}");
        }
        assert_eq!(directory_of(Path::new("new")), Path::new("."));
    }
}
