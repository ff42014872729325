//! Copies files out of an image.
//!
//! Nothing is written outside the destination: names of the image are single components, existing
//! symlinks at the destination are replaced and not followed, and files appear under their name
//! only when they are whole.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, fchown, lchown, symlink};
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
    /// Owner, setuid bits, devices, xattrs and hard links too.
    All,
    /// As [`All`](Self::All), without what the system refuses to this user, and without the setuid
    /// bits of files that have another owner then.
    Allowed,
}

/// How much was not kept because the system refused it: owners, devices and xattrs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused(pub usize);

/// Copies the inode `ino` and all below it to `target`, which gets its name.
pub fn extract(
    image: &ImageFs,
    ino: Ino,
    target: &Path,
    keep: Keep,
) -> Result<Refused, ExtractError> {
    let mut extractor = Extractor { image, keep, refused: Refused::default() };
    // Directories get their times and permissions last, the inner ones first.
    let mut finish = Vec::new();
    let mut first_names: HashMap<Ino, PathBuf> = HashMap::new();
    let mut pending = vec![(ino, target.to_owned())];
    while let Some((ino, path)) = pending.pop() {
        let attr = read(&path, image.attr(ino))?;
        if attr.mode & S_IFMT != S_IFDIR {
            if let Some(first) = first_names.get(&ino) {
                link(first, &path)?;
            } else if extractor.leaf(&attr, &path)? && keep != Keep::Content && attr.nlink > 1 {
                first_names.insert(ino, path);
            }
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
        extractor.set_metadata(attr, &dir, path)?;
    }
    Ok(extractor.refused)
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

/// Gives a file that was written another name.
fn link(first: &Path, path: &Path) -> Result<(), ExtractError> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let (found, wanted) = ("a directory", "a file");
        return Err(ExtractError::InTheWay { path: path.to_owned(), found, wanted });
    }
    remove(path)?;
    Ok(fs::hard_link(first, path).at("link", path)?)
}

fn remove(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("replace", path),
    }
}

struct Extractor<'a> {
    image: &'a ImageFs,
    keep: Keep,
    refused: Refused,
}

impl Extractor<'_> {
    /// Makes what is no directory; whether it is there then.
    fn leaf(&mut self, attr: &Attr, path: &Path) -> Result<bool, ExtractError> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            let (found, wanted) = ("a directory", "a file");
            return Err(ExtractError::InTheWay { path: path.to_owned(), found, wanted });
        }
        match attr.mode & S_IFMT {
            S_IFREG => self.file(attr, path)?,
            S_IFLNK => {
                let target = OsStr::from_bytes(read(path, self.image.readlink(attr.ino))?);
                remove(path)?;
                symlink(target, path).at("create", path)?;
                self.own_link(attr, path)?;
            }
            // Devices and FIFOs are not content.
            _ if self.keep == Keep::Content => return Ok(false),
            kind => {
                remove(path)?;
                let kind = SFlag::from_bits_truncate(kind);
                let mode = Mode::from_bits_truncate(attr.mode & 0o7777);
                let made = mknod(path, kind, mode, u64::from(attr.rdev));
                if !self.allowed(made.map_err(io::Error::from)).at("create", path)? {
                    return Ok(false);
                }
                self.own_link(attr, path)?;
            }
        }
        Ok(true)
    }

    /// Whether something was done. What the system refuses is counted, if that may be.
    fn allowed(&mut self, result: io::Result<()>) -> io::Result<bool> {
        use nix::libc::{EINVAL, ENOTSUP, EPERM};
        match result {
            Ok(()) => Ok(true),
            // An owner that a user namespace does not have, xattrs that a file system does not.
            Err(error)
                if self.keep == Keep::Allowed
                    && matches!(error.raw_os_error(), Some(EPERM | EINVAL | ENOTSUP)) =>
            {
                self.refused.0 += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn own_link(&mut self, attr: &Attr, path: &Path) -> Result<(), ExtractError> {
        if self.keep != Keep::Content {
            let owned = lchown(path, Some(attr.uid), Some(attr.gid));
            self.allowed(owned).at("change owner of", path)?;
        }
        Ok(())
    }

    fn file(&mut self, attr: &Attr, path: &Path) -> Result<(), ExtractError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = UnnamedFile::new_in(dir).at("create", path)?;
        // Holes stay holes: an image may claim more of them than any disk can hold.
        new.file().set_len(attr.size).at("write", path)?;
        let mut offset = 0;
        while let Some((start, end)) = read(path, self.image.next_data(attr.ino, offset))? {
            let len = usize::try_from(end - start).unwrap_or(PIECE).min(PIECE);
            let piece = read(path, self.image.read(attr.ino, start, len))?;
            new.file().write_all_at(&piece, start).at("write", path)?;
            offset = start + piece.len().max(1) as u64;
        }
        self.set_metadata(attr, new.file(), path)?;
        Ok(new.persist(path).at("write", path)?)
    }

    fn set_metadata(&mut self, attr: &Attr, file: &File, path: &Path) -> Result<(), ExtractError> {
        let mut mode = attr.mode & 0o1777;
        if self.keep != Keep::Content {
            let owned = fchown(file, Some(attr.uid), Some(attr.gid));
            if self.allowed(owned).at("change owner of", path)? {
                mode = attr.mode & 0o7777;
            }
        }
        file.set_permissions(Permissions::from_mode(mode)).at("change mode of", path)?;
        if self.keep != Keep::Content {
            let image = self.image;
            for name in read(path, image.xattr_names(attr.ino))? {
                if let Some(value) = read(path, image.xattr(attr.ino, name))? {
                    let set = xattr::FileExt::set_xattr(file, OsStr::from_bytes(name), value);
                    self.allowed(set).at("set an xattr of", path)?;
                }
            }
        }
        let time = system_time(attr.mtime);
        file.set_times(FileTimes::new().set_modified(time).set_accessed(time))
            .at("set the time of", path)?;
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::compare::compare;
    use crate::filesystem::Resolved;
    use crate::filesystem::tests::{Tar, open};

    fn sparse(data: &[u8]) -> Vec<u8> {
        let size = (1u64 << 40).to_string();
        let map = format!("{},{}", 1u64 << 39, data.len());
        let (name, blocks) = ("sparse".to_owned(), "1".to_owned());
        let records = [
            ("GNU.sparse.size", &size),
            ("GNU.sparse.numblocks", &blocks),
            ("GNU.sparse.name", &name),
            ("GNU.sparse.map", &map),
        ];
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(records.map(|(key, value)| (key, value.as_bytes()))).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, "sparse", data).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_file_of_holes_is_copied_and_compared_at_once() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = open(one.path(), &[sparse(b"data"), Tar::default().file("f", b"").done()]);
        let second = open(two.path(), &[sparse(b"Data"), Tar::default().file("f", b"").done()]);
        let Resolved::Found(ino, _) = first.resolve(b"sparse", true).unwrap() else { panic!() };
        let target = one.path().join("copy");
        extract(&first, ino, &target, Keep::Content).unwrap();
        let copied = fs::metadata(&target).unwrap();
        assert_eq!(copied.len(), 1 << 40);
        assert!(copied.blocks() < 1000, "{} blocks", copied.blocks());
        let mut data = [0; 6];
        File::open(&target).unwrap().read_exact_at(&mut data, (1 << 39) - 1).unwrap();
        assert_eq!(data, *b"\0data\0");

        let mut found = Vec::new();
        compare::<ReadError>(&first, &second, &mut |difference| {
            found.push(difference.path);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [b"/sparse"]);
    }

    #[test]
    fn nothing_is_written_through_links_at_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::default().dir("d").file("d/f", b"new").dir("d/sub").done();
        let image = open(dir.path(), &[tar]);
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), b"old").unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        symlink(outside.join("f"), target.join("f")).unwrap();
        symlink(&outside, target.join("sub")).unwrap();
        let Resolved::Found(ino, _) = image.resolve(b"d", true).unwrap() else { panic!() };
        let error = extract(&image, ino, &target, Keep::Content).unwrap_err();
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
        fs::remove_file(target.join("sub")).unwrap();
        extract(&image, ino, &target, Keep::Content).unwrap();
        assert_eq!(fs::read(outside.join("f")).unwrap(), b"old");
        assert_eq!(fs::read(target.join("f")).unwrap(), b"new");
    }
}
