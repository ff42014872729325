//! Large files as whole files of the cache, so that the kernel can read them without us.

use std::fs::File;
use std::sync::Arc;

use super::{ImageFs, Ino, ReadError};
use crate::cache::{Cache, CacheError, WholeFile};
use crate::error::PathError;
use crate::span::SpanId;
use crate::tree::InodeKind;

/// Files of this size and more, in bytes, are worth a file of their own: what is smaller, the
/// kernel has with one request.
const LEAST: u64 = 1 << 20;

/// Why there is no whole file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WholeError {
    /// The image has no such file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It cannot be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl ImageFs {
    /// Whether this is a file that may become a whole file of the cache.
    pub(crate) fn is_large(&self, ino: Ino) -> bool {
        let large =
            |inode: &crate::tree::Inode| inode.kind == InodeKind::File && inode.size >= LEAST;
        self.content.cache().is_some() && self.inode(ino).is_ok_and(|inode| large(&inode))
    }

    /// Whether the image has a file that may become a whole file of the cache.
    pub(crate) fn has_large(&self) -> bool {
        (0..self.tree.inode_count()).any(|place| self.is_large(Ino::of_place(place)))
    }

    /// The whole file with a file's content, checked; made if all of the content is at hand:
    /// what is remote has to be in the cache, what is not has to be `wanted`. `None` if there is
    /// none.
    pub(crate) fn whole(&self, ino: Ino, wanted: bool) -> Result<Option<File>, WholeError> {
        let Some(cache) = self.content.cache().filter(|_| self.is_large(ino)) else {
            return Ok(None);
        };
        let (whole, spans) = (self.whole_file(ino)?, self.spans_of(ino, 0, u64::MAX)?);
        if let Some(file) = cache.whole(&whole)? {
            return Ok(Some(file));
        }
        if !self.is_at_hand(&spans, wanted) || !self.make_whole(ino, &whole, cache)? {
            return Ok(None);
        }
        Ok(cache.whole(&whole)?)
    }

    fn is_at_hand(&self, spans: &[SpanId], wanted: bool) -> bool {
        spans.chunk_by(|(a, _), (b, _)| a == b).all(|of_layer| self.content.has(of_layer, wanted))
    }

    fn make_whole(
        &self,
        ino: Ino,
        whole: &WholeFile,
        cache: &Arc<Cache>,
    ) -> Result<bool, WholeError> {
        let mut piece = |offset, size| match self.read_at_hand(ino, offset, size) {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!("inode {} does not become a whole file: {error}", ino.0);
                None
            }
        };
        Ok(cache.make_whole(whole, &mut piece)?)
    }

    fn whole_file(&self, ino: Ino) -> Result<WholeFile, ReadError> {
        let inode = self.inode(ino)?;
        let mut first = None;
        let mut hasher = blake3::Hasher::new_derive_key("kfs whole file 1");
        hasher.update(&inode.size.to_le_bytes());
        for extent in self.tree.extents_from(&inode, 0)? {
            let index = self.content.index(extent.layer);
            let index = index.ok_or(ReadError::NoInode(ino.0))?;
            first.get_or_insert(index.summary().digest);
            // The table of contents, too: it says what the bytes are.
            let id = index.id().to_string();
            hasher.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
            for number in [extent.file_offset, extent.content_offset, extent.len] {
                hasher.update(&number.to_le_bytes());
            }
        }
        // A file that is one hole is of no layer.
        let layer = first.ok_or(ReadError::WrongKind(ino.0))?;
        Ok(WholeFile { layer, key: hasher.finalize(), size: inode.size })
    }
}
