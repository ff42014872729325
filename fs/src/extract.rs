//! Copies files out of an image.
//!
//! Nothing is written outside the destination: names of the image are single components, existing
//! symlinks at the destination are replaced and not followed, and files appear under their name
//! only when they are whole.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::error::{AtPath, PathError};
use crate::filesystem::{Attr, ImageFs, Ino, ReadError};
use crate::layer::Timestamp;
use crate::unnamed::UnnamedFile;

/// How much of a file is held in memory, in bytes.
const PIECE: usize = 1 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

/// Why files cannot be copied out.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The image cannot be read.
    #[error("{}: {source}", path.display())]
    Image {
        /// The path in the destination.
        path: PathBuf,
        /// The reason.
        source: ReadError,
    },
    /// The destination cannot be written.
    #[error(transparent)]
    Destination(#[from] PathError),
    /// A directory of the image meets something else at the destination, or the reverse.
    #[error("{} exists and is {found}, but the image has {wanted} there", path.display())]
    InTheWay {
        /// The path in the destination.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What should be there.
        wanted: &'static str,
    },
    /// A name that no directory can have.
    #[error("the image has a file named {:?} in {}", name, dir.display())]
    Name {
        /// The name.
        name: String,
        /// The directory in the destination.
        dir: PathBuf,
    },
}

/// What of an inode is kept besides content, permission bits and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the caller owns what is made, and setuid bits are dropped.
    Content,
    /// Owner, setuid bits, devices and xattrs too.
    All,
}

/// Copies the inode `ino` and all below it to `target`, which gets its name.
pub fn extract(image: &ImageFs, ino: Ino, target: &Path, keep: Keep) -> Result<(), ExtractError> {
    // Directories get their times and permissions last, the inner ones first.
    let mut finish = Vec::new();
    let mut pending = vec![(ino, target.to_owned())];
    while let Some((ino, path)) = pending.pop() {
        let attr = read(&path, image.attr(ino))?;
        if attr.mode & S_IFMT != S_IFDIR {
            leaf(image, &attr, &path, keep)?;
            continue;
        }
        make_directory(&path)?;
        let mut at = 0;
        while let Some(entry) = read(&path, image.entry_at(ino, at))? {
            check_name(entry.name, &path)?;
            pending.push((entry.ino, path.join(OsStr::from_bytes(entry.name))));
            at += 1;
        }
        finish.push((attr, path));
    }
    for (attr, path) in finish.iter().rev() {
        let dir = File::open(path).at("open", path)?;
        set_metadata(image, attr, &dir, path, keep)?;
    }
    Ok(())
}

fn read<T>(path: &Path, result: Result<T, ReadError>) -> Result<T, ExtractError> {
    result.map_err(|source| ExtractError::Image { path: path.to_owned(), source })
}

fn check_name(name: &[u8], dir: &Path) -> Result<(), ExtractError> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        let name = name.escape_ascii().to_string();
        return Err(ExtractError::Name { name, dir: dir.to_owned() });
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), ExtractError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).at("stat", path)?;
            if found.is_dir() {
                return Ok(());
            }
            let found = if found.is_symlink() { "a symbolic link" } else { "a file" };
            Err(ExtractError::InTheWay { path: path.to_owned(), found, wanted: "a directory" })
        }
        result => Ok(result.at("create", path)?),
    }
}

fn leaf(image: &ImageFs, attr: &Attr, path: &Path, keep: Keep) -> Result<(), ExtractError> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let (found, wanted) = ("a directory", "a file");
        return Err(ExtractError::InTheWay { path: path.to_owned(), found, wanted });
    }
    match attr.mode & S_IFMT {
        S_IFREG => file(image, attr, path, keep),
        S_IFLNK => {
            let target = OsStr::from_bytes(read(path, image.readlink(attr.ino))?);
            remove(path)?;
            symlink(target, path).at("create", path)?;
            own_link(attr, path, keep)
        }
        kind if keep == Keep::All => {
            remove(path)?;
            let kind = SFlag::from_bits_truncate(kind);
            let mode = Mode::from_bits_truncate(attr.mode & 0o7777);
            mknod(path, kind, mode, u64::from(attr.rdev)).at("create", path)?;
            own_link(attr, path, keep)
        }
        // Devices and FIFOs are not content.
        _ => Ok(()),
    }
}

fn own_link(attr: &Attr, path: &Path, keep: Keep) -> Result<(), ExtractError> {
    if keep == Keep::All {
        lchown(path, Some(attr.uid), Some(attr.gid)).at("change owner of", path)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("replace", path),
    }
}

fn file(image: &ImageFs, attr: &Attr, path: &Path, keep: Keep) -> Result<(), ExtractError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = UnnamedFile::new_in(dir).at("create", path)?;
    let mut offset = 0;
    while offset < attr.size {
        let piece = read(path, image.read(attr.ino, offset, PIECE))?;
        new.file().write_all(&piece).at("write", path)?;
        offset += piece.len().max(1) as u64;
    }
    set_metadata(image, attr, new.file(), path, keep)?;
    Ok(new.persist(path).at("write", path)?)
}

fn set_metadata(
    image: &ImageFs,
    attr: &Attr,
    file: &File,
    path: &Path,
    keep: Keep,
) -> Result<(), ExtractError> {
    let mut mode = attr.mode & 0o1777;
    if keep == Keep::All {
        mode = attr.mode & 0o7777;
        fchown(file, Some(attr.uid), Some(attr.gid)).at("change owner of", path)?;
    }
    file.set_permissions(Permissions::from_mode(mode)).at("change mode of", path)?;
    if keep == Keep::All {
        for name in read(path, image.xattr_names(attr.ino))? {
            if let Some(value) = read(path, image.xattr(attr.ino, name))? {
                let set = xattr::FileExt::set_xattr(file, OsStr::from_bytes(name), value);
                set.at("set an xattr of", path)?;
            }
        }
    }
    let time = system_time(attr.mtime);
    file.set_times(FileTimes::new().set_modified(time).set_accessed(time))
        .at("set the time of", path)?;
    Ok(())
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}
