//! What a COPY copies: its digest, as one stream or in one pass with the copying, and as files.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use kfs_fs::digest::{Digest, Hasher};
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::layer::{Entry, Kind};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use super::StepError;
use crate::copy::{Content, CopyItem};
use crate::interrupt::Interrupts;

/// What of a COPY's key comes from one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMark {
    /// In the image, from its root.
    pub(super) path: String,
    /// The first digits of the digest of all that is copied there.
    pub(super) digest: String,
}

/// The digest of what a COPY copies: paths, kinds, modes, owners, contents; not times, as Docker
/// has it, so that a fresh checkout finds the cache.
pub(super) struct ItemsDigest<'a> {
    all: Hasher,
    items: std::slice::Iter<'a, CopyItem>,
    marks: Vec<FileMark>,
    /// The file whose content comes now.
    open: Option<OpenFile<'a>>,
}

struct OpenFile<'a> {
    path: &'a [u8],
    hasher: Hasher,
    /// Content that is still to come.
    left: u64,
}

impl<'a> ItemsDigest<'a> {
    pub(super) fn new(items: &'a [CopyItem]) -> Self {
        let mut digest =
            Self { all: Hasher::new(), items: items.iter(), marks: Vec::new(), open: None };
        digest.next_file();
        digest
    }

    /// Hashes the metadata of items up to the next one with content.
    fn next_file(&mut self) {
        for CopyItem { entry, .. } in self.items.by_ref() {
            let Entry { path, kind, mode, uid, gid, size, xattrs, mtime: _ } = entry;
            let text = format!("{path:?} {kind:?} {mode:o} {uid} {gid} {size} {xattrs:?}\n");
            let mut hasher = Hasher::new();
            hasher.update(text.as_bytes());
            if *size > 0 {
                self.open = Some(OpenFile { path, hasher, left: *size });
                return;
            }
            mark(&mut self.all, &mut self.marks, path, hasher);
        }
    }

    pub(super) fn content(&mut self, piece: &[u8]) {
        let Some(open) = &mut self.open else { return };
        open.hasher.update(piece);
        open.left = open.left.saturating_sub(piece.len() as u64);
        if open.left == 0
            && let Some(OpenFile { path, hasher, .. }) = self.open.take()
        {
            mark(&mut self.all, &mut self.marks, path, hasher);
            self.next_file();
        }
    }

    pub(super) fn finish(self) -> (Digest, Vec<FileMark>) {
        (self.all.finish(), self.marks)
    }
}

fn mark(all: &mut Hasher, marks: &mut Vec<FileMark>, path: &[u8], of_item: Hasher) {
    let digest = of_item.finish();
    all.update(digest.hex().as_bytes());
    let path = format!("/{}", String::from_utf8_lossy(path));
    marks.push(FileMark { path, digest: digest.short() });
}

/// Reads all files of a COPY for their digest.
pub(super) fn digest_of(
    items: &[CopyItem],
    interrupts: &Interrupts,
) -> Result<(Digest, Vec<FileMark>), StepError> {
    let mut digest = ItemsDigest::new(items);
    let mut piece = vec![0; 1 << 18];
    for item in items {
        let mut content = item.content.open()?.take(item.entry.size);
        loop {
            interrupts.check()?;
            let path = || Path::new("/").join(OsStr::from_bytes(&item.entry.path));
            let n = content.read(&mut piece).map_err(|source| PathError {
                action: "read the source of",
                path: path(),
                source,
            })?;
            if n == 0 {
                break;
            }
            digest.content(&piece[..n]);
        }
    }
    Ok(digest.finish())
}

/// A file that was changed so short a time ago may change again without getting another time: some
/// file systems count in steps of two seconds.
const RACY: Duration = Duration::from_secs(2);

/// What names the content of items without reading it: the same as long as no file of the context
/// was touched. None if there is anything of which that is not known.
pub(super) fn signature(items: &[CopyItem]) -> Option<Digest> {
    let mut hasher = Hasher::new();
    for item in items {
        let Entry { path, kind, mode, uid, gid, mtime, size, xattrs } = &item.entry;
        let text = format!("{path:?} {kind:?} {mode:o} {uid} {gid} {size} {xattrs:?}");
        hasher.update(text.as_bytes());
        match (&item.content, &item.stamp) {
            (Content::File(_), Some(stamp)) => {
                hasher.update(format!("{stamp:?} {mtime:?}\n").as_bytes());
            }
            (Content::File(_) | Content::Image(_), _) => return None,
            (Content::Inline(bytes), _) => hasher.update(bytes),
            (Content::None, _) => hasher.update(b"\n"),
        }
    }
    Some(hasher.finish())
}

/// Whether all files were as they are for long enough before `now`.
pub(super) fn is_settled(items: &[CopyItem], now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let limit = i64::try_from(now.saturating_sub(RACY).as_secs()).unwrap_or(i64::MAX);
    items.iter().filter_map(|item| item.stamp).all(|stamp| stamp.changed.0 < limit)
}

/// Writes items below a new directory.
pub(super) fn materialize(
    items: &[CopyItem],
    root: &Path,
    interrupts: &Interrupts,
) -> Result<(), StepError> {
    fs::create_dir(root).at("make directory", root)?;
    // Whatever the umask here: other users of a RUN have to get in.
    fs::set_permissions(root, Permissions::from_mode(0o755)).at("chmod", root)?;
    for item in items {
        interrupts.check()?;
        let entry = &item.entry;
        let path = root.join(OsStr::from_bytes(&entry.path));
        match &entry.kind {
            Kind::Directory => match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.at("make directory", &path)?,
            },
            Kind::File => {
                let mut content = item.content.open()?.take(entry.size);
                let mut file = File::create(&path).at("create", &path)?;
                io::copy(&mut content, &mut file).at("write", &path)?;
            }
            Kind::Symlink(target) => {
                symlink(OsStr::from_bytes(target), &path).at("make the symlink", &path)?;
            }
            Kind::Hardlink(first) => {
                let first = root.join(OsStr::from_bytes(first));
                fs::hard_link(&first, &path).at("link", &path)?;
                continue;
            }
            // What reads them would wait, or reach the host's devices.
            Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => continue,
        }
        lchown(&path, Some(entry.uid), Some(entry.gid)).at("chown", &path)?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            fs::set_permissions(&path, Permissions::from_mode(entry.mode)).at("chmod", &path)?;
        }
        let seconds = TimeSpec::new(entry.mtime.seconds, entry.mtime.nanos.into());
        let follow = UtimensatFlags::NoFollowSymlink;
        utimensat(AT_FDCWD, &path, &seconds, &seconds, follow).at("set time of", &path)?;
    }
    Ok(())
}
