//! The digest of what a COPY copies, as one stream or in one pass with the copying.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kfs_fs::digest::Digest;
use kfs_fs::error::PathError;
use kfs_fs::layer::Entry;

use super::StepError;
use crate::copy::CopyItem;
use crate::interrupt::Interrupts;

/// The digest of what a COPY copies: paths, kinds, modes, owners, contents; not times, as Docker
/// has it, so that a fresh checkout finds the cache.
pub(super) struct ItemsDigest<'a> {
    hasher: kfs_fs::digest::Hasher,
    items: std::slice::Iter<'a, CopyItem>,
    /// Content of the current file that is still to come.
    left: u64,
}

impl<'a> ItemsDigest<'a> {
    pub(super) fn new(items: &'a [CopyItem]) -> Self {
        let mut digest = Self { hasher: Default::default(), items: items.iter(), left: 0 };
        digest.next_file();
        digest
    }

    /// Hashes the metadata of items up to the next one with content.
    fn next_file(&mut self) {
        while self.left == 0 {
            let Some(CopyItem { entry, .. }) = self.items.next() else { return };
            let Entry { path, kind, mode, uid, gid, size, xattrs, mtime: _ } = entry;
            let text = format!("{path:?} {kind:?} {mode:o} {uid} {gid} {size} {xattrs:?}\n");
            self.hasher.update(text.as_bytes());
            self.left = *size;
        }
    }

    pub(super) fn content(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.next_file();
    }

    pub(super) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

/// Reads all files of a COPY for their digest.
pub(super) fn digest_of(items: &[CopyItem], interrupts: &Interrupts) -> Result<Digest, StepError> {
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
