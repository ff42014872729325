//! Reading files: what is at hand at once, the rest when it has been fetched.
//!
//! A read goes through its file from the first byte to the last. Where it meets a span that is
//! not there it stops, asks for it, and goes on from the same place when the span comes: each
//! wait brings it forward, so that it ends however little memory there is.

use std::ops::Range;
use std::sync::Arc;

use super::{ImageFs, Ino, ReadError};
use crate::span::{SpanError, SpanId};
use crate::tree::{Extent, Inode, InodeKind};

/// What a read has so far.
struct Reply {
    /// Where in the file it starts.
    offset: u64,
    /// The bytes, zeros where nothing was copied yet; empty until something is.
    bytes: Vec<u8>,
    /// How many there will be.
    size: usize,
    /// How many there are.
    filled: usize,
}

/// A span that just came.
type Arrived<'a> = Option<(SpanId, &'a [u8])>;

impl ImageFs {
    /// `size` bytes at `offset` of a file, fewer only at its end. Waits for what has to be
    /// fetched.
    pub fn read(&self, ino: Ino, offset: u64, size: usize) -> Result<Vec<u8>, ReadError> {
        let (inode, mut reply) = self.begin(ino, offset, size)?;
        let mut arrived = None;
        loop {
            let span =
                arrived.as_ref().map(|(id, content): &(_, Arc<Vec<u8>>)| (*id, &content[..]));
            match self.fill(&inode, &mut reply, span)? {
                None => return Ok(reply.bytes),
                Some(id) => {
                    let rest = self.rest(&inode, id, &reply);
                    arrived = Some((id, self.content.wait(id, rest)?));
                }
            }
        }
    }

    /// As [`ImageFs::read`], but never waits: `done` is called with the result before this
    /// returns, if all is at hand, or later by another thread.
    pub fn read_then(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        size: usize,
        done: impl FnOnce(Result<Vec<u8>, ReadError>) + Send + 'static,
    ) {
        if let Some(first_reads) = &self.first_reads {
            first_reads.note(ino, offset, size as u64);
        }
        match self.begin(ino, offset, size) {
            Ok((inode, reply)) => self.go_on(inode, reply, None, done),
            Err(error) => done(Err(error)),
        }
    }

    /// As [`ImageFs::read`], but `None` where something has to be fetched.
    pub(super) fn read_at_hand(
        &self,
        ino: Ino,
        offset: u64,
        size: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let (inode, mut reply) = self.begin(ino, offset, size)?;
        let missing = self.fill(&inode, &mut reply, None)?;
        Ok(missing.is_none().then_some(reply.bytes))
    }

    fn begin(&self, ino: Ino, offset: u64, size: usize) -> Result<(Inode, Reply), ReadError> {
        let inode = self.inode(ino)?;
        match inode.kind {
            InodeKind::File => {}
            InodeKind::Directory => return Err(ReadError::IsADirectory(ino.0)),
            InodeKind::Symlink | InodeKind::Special => return Err(ReadError::WrongKind(ino.0)),
        }
        let left = inode.size.saturating_sub(offset);
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        Ok((inode, Reply { offset, bytes: Vec::new(), size, filled: 0 }))
    }

    fn go_on(
        self: &Arc<Self>,
        inode: Inode,
        mut reply: Reply,
        arrived: Arrived<'_>,
        done: impl FnOnce(Result<Vec<u8>, ReadError>) + Send + 'static,
    ) {
        let id = match self.fill(&inode, &mut reply, arrived) {
            Ok(None) => return done(Ok(reply.bytes)),
            Ok(Some(id)) => id,
            Err(error) => return done(Err(error)),
        };
        let rest = self.rest(&inode, id, &reply);
        let parked = reply.filled > 0 && self.content.may_park(reply.size);
        if !parked {
            // Begins anew when the span comes: what is there now will hardly have to be fetched.
            reply.bytes = Vec::new();
            reply.filled = 0;
        }
        let fs = self.clone();
        let size = reply.size;
        self.content.want(
            id,
            rest,
            Box::new(move |content| {
                if parked {
                    fs.content.leave(size);
                }
                match content {
                    Ok(content) => fs.go_on(inode, reply, Some((id, &content)), done),
                    Err(error) => done(Err(error.into())),
                }
            }),
        );
    }

    /// The spans of a file from one on at which a read of it stopped, as far as they lie in the
    /// same layer.
    fn rest(&self, inode: &Inode, (layer, span): SpanId, reply: &Reply) -> Range<usize> {
        let at = reply.offset + reply.filled as u64;
        let end = self.tree.extents_from(inode, at).ok().and_then(|extents| {
            let last = extents.take_while(|extent| extent.layer == layer).last()?;
            let end = last.content_offset.saturating_add(last.len);
            self.content.index(layer)?.span_at(end.checked_sub(1)?)
        });
        span..end.unwrap_or(span).max(span) + 1
    }

    /// Copies until the reply is complete, or to the first span that has to be fetched, which is
    /// returned.
    fn fill(
        &self,
        inode: &Inode,
        reply: &mut Reply,
        arrived: Arrived<'_>,
    ) -> Result<Option<SpanId>, ReadError> {
        if reply.bytes.is_empty() {
            reply.bytes = vec![0; reply.size];
        }
        let end = reply.offset + reply.size as u64;
        for extent in self.tree.extents_from(inode, reply.offset + reply.filled as u64)? {
            if extent.file_offset >= end {
                break;
            }
            if let Some(missing) = self.fill_extent(&extent, reply, arrived)? {
                return Ok(Some(missing));
            }
        }
        reply.filled = reply.size;
        Ok(None)
    }

    fn fill_extent(
        &self,
        extent: &Extent,
        reply: &mut Reply,
        arrived: Arrived<'_>,
    ) -> Result<Option<SpanId>, ReadError> {
        let place = |file_offset: u64| {
            let place = file_offset.saturating_sub(reply.offset);
            usize::try_from(place).unwrap_or(usize::MAX).min(reply.size)
        };
        // Up to the extent there is a hole, or it was copied already.
        let start = place(extent.file_offset).max(reply.filled);
        let end = place(extent.file_offset.saturating_add(extent.len));
        reply.filled = start;
        while reply.filled < end {
            let skipped = reply.offset + reply.filled as u64 - extent.file_offset;
            let content_offset = extent.content_offset.saturating_add(skipped);
            let buf = &mut reply.bytes[reply.filled..end];
            match self.copy_span(extent.layer, content_offset, buf, arrived)? {
                Copied::Bytes(n) => reply.filled += n,
                Copied::Missing(id) => return Ok(Some(id)),
            }
        }
        Ok(None)
    }

    /// Copies from the span that holds `offset` of a layer's content.
    fn copy_span(
        &self,
        layer: usize,
        offset: u64,
        buf: &mut [u8],
        arrived: Arrived<'_>,
    ) -> Result<Copied, ReadError> {
        let index = self.content.index(layer).ok_or(ReadError::NoInode(layer as u64))?;
        let no_content = || ReadError::NoContent { layer: index.summary().digest, offset };
        let number = index.span_at(offset).ok_or_else(no_content)?;
        let start = index.span(number).map_err(SpanError::from)?.content_offset;
        let skip = usize::try_from(offset - start).map_err(|_| no_content())?;
        let id = (layer, number);
        let copied = match arrived {
            Some((arrived, content)) if arrived == id => {
                let rest = content.get(skip..).unwrap_or_default();
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Some(n)
            }
            _ => self.content.copy(id, skip, buf)?,
        };
        match copied {
            Some(0) => Err(no_content()),
            Some(n) => Ok(Copied::Bytes(n)),
            None => Ok(Copied::Missing(id)),
        }
    }
}

enum Copied {
    Bytes(usize),
    Missing(SpanId),
}
