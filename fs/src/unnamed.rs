//! Files that get a name only when they are whole, and that nothing is left of when their process
//! is killed before.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use crate::error::{AtPath, PathError};

/// As of any new file; the umask takes its part.
const MODE: u32 = 0o666;

/// How names start that files have for a moment; what is killed then leaves them.
pub(crate) const HIDDEN: &str = ".new-";

/// A file that appears at a path when it is whole, in the place of a file that is there. A link
/// stays one, and what it points to is replaced; a device or pipe is written to.
#[derive(Debug)]
pub struct WholeFile {
    target: PathBuf,
    file: Open,
}

#[derive(Debug)]
enum Open {
    /// Without a name until it is whole: nobody would remove what a killed process leaves there.
    New(UnnamedFile),
    There(File),
}

impl WholeFile {
    /// Begins a file.
    pub fn create(path: &Path) -> Result<Self, PathError> {
        let target = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            target => target.at("resolve", path)?,
        };
        let is_file = |metadata: fs::Metadata| metadata.is_file();
        let file = match fs::metadata(&target).map_or(true, is_file) {
            true => Open::New(UnnamedFile::new_in(directory_of(&target)).at("create", &target)?),
            false => {
                Open::There(fs::OpenOptions::new().write(true).open(&target).at("open", path)?)
            }
        };
        Ok(Self { target, file })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        match &self.file {
            Open::New(file) => file.file(),
            Open::There(file) => file,
        }
    }

    /// Whether it is written to what was there: a device or pipe, in which one can neither go back
    /// nor take anything back.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.file, Open::There(_))
    }

    /// Brings the content to disk and gives it its name.
    pub fn finish(self) -> Result<(), PathError> {
        let Open::New(file) = self.file else { return Ok(()) };
        let dir = directory_of(&self.target);
        file.file().sync_all().at("write", &self.target)?;
        file.persist(&self.target).at("write", &self.target)?;
        File::open(dir).and_then(|dir| dir.sync_all()).at("sync", dir)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

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
        let unnamed = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_TMPFILE)
            .mode(MODE)
            .open(dir);
        match unnamed {
            Ok(file) => Ok(Self { file, hidden: None }),
            Err(error) if no_tmpfile(&error) => {
                let mut builder = tempfile::Builder::new();
                builder.prefix(HIDDEN).permissions(Permissions::from_mode(MODE));
                let (file, hidden) = builder.tempfile_in(dir)?.into_parts();
                Ok(Self { file, hidden: Some(hidden) })
            }
            Err(error) => Err(error),
        }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in the place of a file that has it: at any moment there is the
    /// old one or this one.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        if let Some(hidden) = self.hidden {
            return hidden.persist(path).map_err(|error| error.error);
        }
        match link(&self.file, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.replace(path),
            result => result,
        }
    }

    /// linkat(2) replaces nothing, rename(2) does.
    fn replace(&self, path: &Path) -> io::Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let hidden = path.with_file_name(format!("{HIDDEN}{}-{number}", std::process::id()));
            match link(&self.file, &hidden) {
                // Left by a process with our number that was killed right here.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            }
            // Not there any more once it is renamed.
            let hidden = tempfile::TempPath::try_from_path(hidden)?;
            return hidden.persist(path).map_err(|error| error.error);
        }
    }
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(linkat(AT_FDCWD, &own, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
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
    fn a_whole_file_replaces_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("x"), dir.path().join("link"));
        std::os::unix::fs::symlink("x", &link).unwrap();
        for text in ["one", "two"] {
            fs::write(&path, "old").unwrap();
            let file = WholeFile::create(&link).unwrap();
            file.file().write_all(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "old");
            file.finish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert!(link.is_symlink());
        }
        drop(WholeFile::create(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        let null = WholeFile::create(Path::new("/dev/null")).unwrap();
        null.file().write_all(b"x").unwrap();
        null.finish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(WholeFile::create(dir.path()).is_err());
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = UnnamedFile::new_in(&dir.path().join("no")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
