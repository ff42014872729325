//! Paths in images as the commands take them: `IMAGE PATH`, two arguments everywhere, because
//! image names have colons and slashes of their own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kfs_fs::extract::{Keep, Refused, extract};
use kfs_fs::filesystem::{Attr, ImageFs, Ino, Resolved};
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::Part;
use kfs_fs::oci::{self, Image};
pub(crate) use kfs_fs::printable::name as escape;
use nix::unistd::geteuid;

use crate::commands::Context;
use crate::progress::Progress;
use crate::report::{Failure, NOT_FOUND};

/// An image opened to be looked into.
#[derive(Debug)]
pub(crate) struct Look {
    name: String,
    pub(crate) fs: ImageFs,
}

impl Look {
    /// Opens an image; the first time its layers are read and indexed.
    pub(crate) fn open(source: &Source, context: &Context) -> Result<Self, Failure> {
        let store = context.store_to_open()?;
        let image = oci::open(source, &store)?;
        let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
        Ok(Self { name: source.to_string(), fs })
    }

    /// The inode at a path.
    pub(crate) fn find(&self, path: &OsStr, follow: bool) -> Result<Ino, Failure> {
        let shown = |path: &[u8]| escape(path);
        let (at, why) = match self.fs.resolve(path.as_bytes(), follow)? {
            Resolved::Found(ino, _) => return Ok(ino),
            Resolved::Missing { parent, name, .. } => {
                let what = format!("{} has no \"{}\"", shown(&parent), escape(&name));
                (parent, what)
            }
            Resolved::NotADirectory(path) => {
                let parent = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at.max(1));
                (path[..parent].to_vec(), format!("{} is not a directory", shown(&path)))
            }
            Resolved::Loop => (b"/".to_vec(), "there are too many symbolic links in it".to_owned()),
        };
        let message =
            format!("{}: there is no {} in the image: {why}", self.name, shown(path.as_bytes()));
        let hint = format!("the nearest directory that exists is {}", shown(&at));
        Err(Failure::new(message).code(NOT_FOUND).hint(hint))
    }

    /// `stat` of an inode.
    pub(crate) fn attr(&self, ino: Ino) -> Result<Attr, Failure> {
        Ok(self.fs.attr(ino)?)
    }
}

/// Opens an image as a file system; tells when that means reading its layers.
pub(crate) fn open_fs(
    image: &Image,
    indexes: &std::path::Path,
    context: &Context,
) -> Result<ImageFs, Failure> {
    let progress = std::sync::OnceLock::new();
    let count = |bytes| {
        let start = || Progress::new(context, &format!("Indexing {}", image.name));
        progress.get_or_init(start).add(bytes);
    };
    Ok(ImageFs::open_with(image, indexes, &count, context.reading.clone())?)
}

/// Copies an inode and all below it to `target`, with all that can be kept; tells what a user
/// other than root cannot.
pub(crate) fn extract_all(
    fs: &ImageFs,
    ino: Ino,
    target: &Path,
    context: &Context,
) -> Result<(), Failure> {
    let keep = if geteuid().is_root() { Keep::All } else { Keep::Allowed };
    let Refused(count) = extract(fs, ino, target, keep)?;
    if count > 0 {
        context
            .say(&format!("note: {count} owners, devices and xattrs are left out: they need root"));
    }
    Ok(())
}

/// The type letter and permission bits as `ls -l` shows them.
pub(crate) fn mode_string(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut out = String::from(kind);
    for (shift, special, set, unset) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// A word for the type of an inode.
pub(crate) fn kind_word(mode: u32) -> &'static str {
    match mode & 0o170_000 {
        0o040_000 => "directory",
        0o120_000 => "symlink",
        0o020_000 => "char",
        0o060_000 => "block",
        0o010_000 => "fifo",
        _ => "file",
    }
}

/// Major and minor number of a device.
pub(crate) fn device(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

/// A time as RFC 3339 in UTC, with as many digits as it needs; seconds beyond the calendar as they
/// are.
pub(crate) fn time(time: kfs_fs::layer::Timestamp, digits: bool) -> String {
    let seconds = u64::try_from(time.seconds);
    let base = seconds.ok().and_then(|seconds| {
        let moment = std::time::Duration::new(seconds, time.nanos);
        std::time::SystemTime::UNIX_EPOCH.checked_add(moment)
    });
    // The formatter knows the years 1970 to 9999.
    const LAST: i64 = 253_402_300_799;
    match base {
        Some(moment) if time.seconds <= LAST => {
            if digits {
                humantime::format_rfc3339_nanos(moment).to_string()
            } else {
                humantime::format_rfc3339_seconds(moment).to_string()
            }
        }
        _ => format!("@{}.{:09}", time.seconds, time.nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kfs_fs::layer::Timestamp;

    #[test]
    fn modes_as_ls_shows_them() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_604, "-rw---Sr--"),
            (0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_string(mode), text);
        }
    }

    #[test]
    fn times_of_any_kind_are_printable() {
        assert_eq!(
            time(Timestamp { seconds: 0, nanos: 5 }, true),
            "1970-01-01T00:00:00.000000005Z"
        );
        assert_eq!(time(Timestamp { seconds: -1, nanos: 5 }, true), "@-1.000000005");
        assert_eq!(
            time(Timestamp { seconds: i64::MAX, nanos: 0 }, false),
            format!("@{}.000000000", i64::MAX)
        );
        assert_eq!(device(0x0010_0801), (8, 0x101));
    }
}
