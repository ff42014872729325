//! Files that get a name only when they are whole, and that nothing is left of when their process
//! is killed before.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

/// How often another process may take the name between our removing and our giving it.
const TRIES: usize = 100;

/// A file without a name.
#[derive(Debug)]
pub(crate) struct UnnamedFile {
    file: File,
    /// On file systems that cannot give a nameless file a name (no `O_TMPFILE`), a hidden one.
    hidden: Option<tempfile::TempPath>,
}

impl UnnamedFile {
    /// A new file on the file system of `dir`.
    pub(crate) fn new_in(dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let unnamed = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_TMPFILE)
            .mode(0o644)
            .open(dir);
        match unnamed {
            Ok(file) => Ok(Self { file, hidden: None }),
            Err(error) if no_tmpfile(&error) => {
                let named = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
                let (file, hidden) = named.into_parts();
                Ok(Self { file, hidden: Some(hidden) })
            }
            Err(error) => Err(error),
        }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in the place of a file that has it.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        if let Some(hidden) = self.hidden {
            return hidden.persist(path).map_err(|error| error.error);
        }
        let own = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        for _ in 0..TRIES {
            match linkat(AT_FDCWD, &own, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EEXIST) => match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Whether the file system or kernel has no `O_TMPFILE` (open(2)).
fn no_tmpfile(error: &io::Error) -> bool {
    use nix::libc::{EISDIR, ENOENT, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EISDIR | ENOENT))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_takes_its_place_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for text in ["one", "two"] {
            let file = UnnamedFile::new_in(dir.path()).unwrap();
            file.file().write_all(text.as_bytes()).unwrap();
            assert!(fs::read_dir(dir.path()).unwrap().count() <= 1, "it has a name already");
            file.persist(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        drop(UnnamedFile::new_in(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = UnnamedFile::new_in(&dir.path().join("no")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
