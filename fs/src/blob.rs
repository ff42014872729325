//! Where the bytes of a blob come from: a file, a member of an archive, a registry (see
//! `oci::registry`).
//!
//! A source hands out bytes as they lie there. It verifies nothing: whoever reads holds the
//! digest (see `layer`). Retries, if a source needs them, live inside it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{AtPath, PathError};

/// Bytes with a known size that can be read at any offset.
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// Size in bytes, as stored.
    fn size(&self) -> u64;

    /// Reads at `offset` into `buf`, returns how many bytes; 0 only at or past the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Where the bytes lie, for messages.
    fn location(&self) -> String;

    /// Whether a read is a round trip over a network, so that few large reads are better than
    /// many small ones and what was read is worth keeping.
    fn is_remote(&self) -> bool {
        false
    }

    /// The bytes from `offset` to the end, if the source has a better way to them than one
    /// [`BlobSource::read_at`] after the other. A source that is remote has: a single request.
    fn stream(&self, _offset: u64) -> Option<Box<dyn Read + Send>> {
        None
    }

    /// Which of several places the source reads from: a number that only grows. Mirrors have one
    /// each.
    fn place(&self) -> usize {
        0
    }

    /// What was read since the source was at `place` is not what it should be, as `why` tells:
    /// from now on another place is read from. `false` if there is none.
    fn distrust(&self, _place: usize, _why: &dyn fmt::Display) -> bool {
        false
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the blob is shorter.
    fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(offset, buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    offset += n as u64;
                    buf = &mut buf[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Does what reads and verifies a source. If what it reads `is_damaged`, it is done again with the
/// bytes of the source's next place, as long as there is one.
pub fn from_any_place<T, E: fmt::Display>(
    source: &dyn BlobSource,
    is_damaged: impl Fn(&E) -> bool,
    mut read: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        let place = source.place();
        match read() {
            Err(error) if is_damaged(&error) && source.distrust(place, &error) => {}
            result => return result,
        }
    }
}

/// A blob that is a file, or a range of one (a member of an archive).
#[derive(Debug)]
pub struct FileBlob {
    file: File,
    path: PathBuf,
    start: u64,
    size: u64,
}

impl FileBlob {
    /// The whole of the regular file at `path`.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let file = open_regular(path)?;
        let size = file.metadata().at("stat", path)?.len();
        Ok(Self { file, path: path.to_owned(), start: 0, size })
    }

    /// `size` bytes at `start` of an open file; `path` is for messages.
    pub fn range(file: File, path: &Path, start: u64, size: u64) -> Self {
        Self { file, path: path.to_owned(), start, size }
    }
}

/// Opens a file of a layout, which somebody else may have made: a FIFO there would hold up
/// open(2) for ever, a device would never end.
pub(crate) fn open_regular(path: &Path) -> Result<File, PathError> {
    let file = open_at_once(path).at("open", path)?;
    if file.metadata().at("stat", path)?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is not a regular file")).at("open", path)
}

/// Opens whatever is there without waiting for the other end of a FIFO. Reads of regular files
/// are not affected.
pub(crate) fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

impl BlobSource for FileBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = buf.len().min(left);
        if n == 0 {
            return Ok(0);
        }
        self.file.read_at(&mut buf[..n], self.start + offset)
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}

/// Reads a source from its start to its end.
pub struct BlobReader {
    source: Arc<dyn BlobSource>,
    offset: u64,
    /// The source's own way, once it was asked for.
    stream: Option<Option<Box<dyn Read + Send>>>,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobReader({:?} at {})", self.source, self.offset)
    }
}

impl BlobReader {
    /// A reader at the start of `source`.
    pub fn new(source: Arc<dyn BlobSource>) -> Self {
        Self::starting_at(source, 0)
    }

    /// A reader that starts at `offset`.
    pub(crate) fn starting_at(source: Arc<dyn BlobSource>, offset: u64) -> Self {
        Self { source, offset, stream: None }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream.get_or_insert_with(|| self.source.stream(self.offset));
        let n = match stream {
            Some(stream) => stream.read(buf)?,
            None => self.source.read_at(self.offset, buf)?,
        };
        self.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_it_should() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        std::fs::write(&path, b"0123456789").unwrap();
        let blob = FileBlob::range(File::open(&path).unwrap(), &path, 2, 5);
        let mut buf = [0; 10];
        assert_eq!(blob.read_at(3, &mut buf).unwrap(), 2);
        assert_eq!(&buf[..2], b"56");
        for past in [5, 9, u64::MAX] {
            assert_eq!(blob.read_at(past, &mut buf).unwrap(), 0);
        }
        let error = blob.read_exact_at(0, &mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut all = Vec::new();
        BlobReader::new(Arc::new(blob)).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"23456");
    }
}
