//! Reads tar streams: v7, ustar, GNU and PAX.
//!
//! Own code and not the `tar` crate: the index needs the place of every byte in the stream, also
//! of sparse files in all four of GNU tar's forms (the crate knows the oldest), times before the
//! epoch and to the nanosecond, and errors that name the place in the stream.
//!
//! Authority: POSIX `pax` (ustar interchange format, pax header block), the GNU tar manual
//! ("Basic Tar Format", "Storing Sparse Files"). Where they leave room we do what Go's
//! `archive/tar` does, because Docker, containerd and buildah read layers with it: global PAX
//! headers have no effect, links have no content, the first zero block ends the archive.

mod header;
mod pax;
mod sparse;
pub(super) mod writer;

use std::io::{self, Read};

use super::index::Extent;
use super::{Device, Entry, Kind};
pub(super) use header::BLOCK;
use header::{Header, TypeFlag};
use pax::Pax;

/// A header that describes the next one (PAX records, GNU long names) may not be larger, in
/// bytes. Go's reader has the same limit.
const MAX_META: u64 = 1 << 20;
/// Linux' limit for a name in a directory, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Linux' limit for a path or link target, with its final NUL (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
#[error("tar header at byte {offset}{}: {what}", of(path))]
pub struct TarError {
    /// Where the header starts in the uncompressed stream.
    pub offset: u64,
    /// The entry's name, as far as it was read.
    pub path: Vec<u8>,
    /// The problem.
    pub what: Problem,
}

fn of(path: &[u8]) -> String {
    if path.is_empty() { String::new() } else { format!(" ({})", path.escape_ascii()) }
}

/// The problem with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The stream ends in the middle.
    #[error("the stream ends in the middle of it")]
    Truncated,
    /// The header's sum is wrong.
    #[error("its checksum is wrong, this is no tar header")]
    Checksum,
    /// A number cannot be read or is out of range.
    #[error("bad number for {0}")]
    Number(&'static str),
    /// A PAX record cannot be read.
    #[error("bad PAX record")]
    Pax,
    /// A sparse map does not fit its file.
    #[error("bad map of a sparse file")]
    Sparse,
    /// A PAX header or long name is unreasonably long.
    #[error("{0} bytes of PAX records or long name, more than {MAX_META}")]
    TooMuchMeta(u64),
    /// The name has a `..` component.
    #[error("its name leads out of the layer with '..'")]
    DotDot,
    /// The name has a NUL byte.
    #[error("its name has a NUL byte")]
    Nul,
    /// A name is longer than Linux allows.
    #[error(
        "its name is longer than Linux allows ({MAX_NAME} bytes a component, {MAX_PATH} in all)"
    )]
    LongName,
    /// A link without a target.
    #[error("it is a link without a target")]
    NoTarget,
    /// Only a directory may be the root.
    #[error("it has no name")]
    NoName,
    /// An xattr with a name that PAX has no form for.
    #[error("its extended attribute {0} has a name that cannot be stored")]
    XattrName(String),
    /// An entry type that no layer has.
    #[error("entries of type {0:?} are not allowed in a layer")]
    Type(char),
    /// The input failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An entry and where its content lies.
#[derive(Debug)]
pub struct Member {
    /// The entry.
    pub entry: Entry,
    /// The extents of a file, in the order of their file offsets.
    pub extents: Vec<Extent>,
}

/// Reads the members of a tar stream; contents are skipped.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Bytes of content and padding of the last member that are still to be skipped.
    left: u64,
}

/// What the headers before a member said of it.
#[derive(Debug, Default)]
struct Before {
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// A reader at the start of a stream.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, left: 0 }
    }

    /// The next member; `None` at the end of the archive. What lies behind the end is not read.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_content().map_err(|what| self.error_at(self.offset, what))?;
        let mut before = Before::default();
        loop {
            let start = self.offset;
            let Some(header) = self.header().map_err(|what| self.error_at(start, what))? else {
                return Ok(None);
            };
            match self.take(&header, &mut before) {
                Ok(Some(member)) => return Ok(Some(member)),
                Ok(None) => {}
                Err(what) => {
                    let path = before.name.unwrap_or_else(|| header.name());
                    return Err(TarError { offset: start, path, what });
                }
            }
        }
    }

    /// Reads what lies behind the end of the archive.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let drained = io::copy(&mut self.input, &mut io::sink());
        let n = drained.map_err(|error| self.error_at(self.offset, error.into()))?;
        self.offset += n;
        Ok(())
    }

    /// The input, wherever it stands.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The input, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn error_at(&self, offset: u64, what: Problem) -> TarError {
        TarError { offset, path: Vec::new(), what }
    }

    /// Reads a header block; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>, Problem> {
        let mut block = [0; BLOCK];
        let n = read_full(&mut self.input, &mut block)?;
        self.offset += n as u64;
        // A stream may end without end blocks, but not within a header.
        if n == 0 || (n == BLOCK && block == [0; BLOCK]) {
            return Ok(None);
        }
        if n < BLOCK {
            return Err(Problem::Truncated);
        }
        Header::parse(block).map(Some)
    }

    /// Handles one header: remembers what it says of the next, or makes a member of it.
    fn take(&mut self, header: &Header, before: &mut Before) -> Result<Option<Member>, Problem> {
        match header.type_flag() {
            TypeFlag::Pax => before.pax = Pax::parse(&self.meta(header)?)?,
            TypeFlag::LongName => before.name = Some(until_nul(self.meta(header)?)),
            TypeFlag::LongLink => before.link = Some(until_nul(self.meta(header)?)),
            TypeFlag::PaxGlobal | TypeFlag::VolumeLabel => {
                self.left = padded(header.size()?)?;
                self.skip_content()?;
            }
            _ => return self.member(header, before).map(Some),
        }
        Ok(None)
    }

    /// Reads the content of a header that describes the next one.
    fn meta(&mut self, header: &Header) -> Result<Vec<u8>, Problem> {
        let size = header.size()?;
        if size > MAX_META {
            return Err(Problem::TooMuchMeta(size));
        }
        let mut data = vec![0; usize::try_from(padded(size)?).expect("at most 1 MiB")];
        self.read_exact(&mut data)?;
        data.truncate(usize::try_from(size).expect("at most 1 MiB"));
        Ok(data)
    }

    fn member(&mut self, header: &Header, before: &mut Before) -> Result<Member, Problem> {
        let raw_name = match before.pax.sparse_name().or(before.pax.path()) {
            Some(name) => name.to_vec(),
            None => before.name.take().unwrap_or_else(|| header.name()),
        };
        let stored = before.pax.size()?.map_or_else(|| header.size(), Ok)?;
        let flag = match header.type_flag() {
            // v7 tar marks directories by a slash at the end of the name.
            TypeFlag::File if raw_name.ends_with(b"/") => TypeFlag::Directory,
            flag => flag,
        };
        let path = clean_path(&raw_name);
        // For the message of an error, should there be one.
        before.name = Some(raw_name);
        let path = path?;
        if path.is_empty() && flag != TypeFlag::Directory {
            return Err(Problem::NoName);
        }
        let link = match before.pax.link_path() {
            Some(link) => link.to_vec(),
            None => before.link.take().unwrap_or_else(|| header.link_name()),
        };
        let kind = kind(header, flag, link)?;
        let (size, extents) = match flag {
            TypeFlag::File | TypeFlag::GnuSparse => self.content(header, &before.pax, stored)?,
            // GNU's dump directories carry a list of names.
            TypeFlag::Directory => {
                self.left = padded(stored)?;
                (0, Vec::new())
            }
            _ => (0, Vec::new()),
        };
        let pax = std::mem::take(&mut before.pax);
        let entry = Entry {
            path,
            kind,
            mode: header.mode()? & 0o7777,
            uid: pax.uid()?.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid()?.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime()?.map_or_else(|| header.mtime(), Ok)?,
            size,
            xattrs: pax.into_xattrs(),
        };
        Ok(Member { entry, extents })
    }

    /// Size and extents of a file whose content comes next and takes `stored` bytes.
    fn content(
        &mut self,
        header: &Header,
        pax: &Pax,
        stored: u64,
    ) -> Result<(u64, Vec<Extent>), Problem> {
        if stored > i64::MAX as u64 {
            return Err(Problem::Number("size"));
        }
        let mut data_len = stored;
        let (size, runs) = if header.type_flag() == TypeFlag::GnuSparse {
            sparse::gnu(header, || {
                let mut block = [0; BLOCK];
                self.read_exact(&mut block)?;
                Ok(block)
            })?
        } else if let Some(map) = sparse::pax_inline(pax)? {
            map
        } else if let Some(size) = sparse::pax_in_data(pax)? {
            let (runs, used) = sparse::read_map(|block| self.read_exact(block), stored)?;
            data_len = stored - used;
            (size, runs)
        } else {
            let whole = sparse::Run { offset: 0, len: stored };
            (stored, if stored == 0 { Vec::new() } else { vec![whole] })
        };
        self.left = padded(data_len)?;
        let extents = sparse::extents(&runs, size, data_len, self.offset)?;
        Ok((size, extents))
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), Problem> {
        let n = read_full(&mut self.input, buf)?;
        self.offset += n as u64;
        if n == buf.len() { Ok(()) } else { Err(Problem::Truncated) }
    }

    fn skip_content(&mut self) -> Result<(), Problem> {
        let skipped = io::copy(&mut (&mut self.input).take(self.left), &mut io::sink())?;
        self.offset += skipped;
        if skipped < self.left {
            return Err(Problem::Truncated);
        }
        self.left = 0;
        Ok(())
    }
}

fn kind(header: &Header, flag: TypeFlag, link: Vec<u8>) -> Result<Kind, Problem> {
    let device = || -> Result<Device, Problem> {
        Ok(Device { major: header.major()?, minor: header.minor()? })
    };
    Ok(match flag {
        TypeFlag::File | TypeFlag::GnuSparse => Kind::File,
        TypeFlag::Directory => Kind::Directory,
        TypeFlag::Hardlink => {
            let target = clean_path(&link)?;
            if target.is_empty() {
                return Err(Problem::NoTarget);
            }
            Kind::Hardlink(target)
        }
        TypeFlag::Symlink => {
            check_target(&link)?;
            Kind::Symlink(link)
        }
        TypeFlag::CharDevice => Kind::CharDevice(device()?),
        TypeFlag::BlockDevice => Kind::BlockDevice(device()?),
        TypeFlag::Fifo => Kind::Fifo,
        TypeFlag::Pax
        | TypeFlag::PaxGlobal
        | TypeFlag::LongName
        | TypeFlag::LongLink
        | TypeFlag::VolumeLabel => unreachable!("handled before members"),
        TypeFlag::Other(flag) => return Err(Problem::Type(char::from(flag))),
    })
}

fn check_target(target: &[u8]) -> Result<(), Problem> {
    match target.len() {
        0 => Err(Problem::NoTarget),
        len if len >= MAX_PATH => Err(Problem::LongName),
        _ if target.contains(&0) => Err(Problem::Nul),
        _ => Ok(()),
    }
}

/// A name without leading slashes, `.` and empty components; `..` is refused, as there is no
/// layer that needs it and it could only lead out.
pub(super) fn clean_path(raw: &[u8]) -> Result<Vec<u8>, Problem> {
    if raw.contains(&0) {
        return Err(Problem::Nul);
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Problem::DotDot),
            name if name.len() > MAX_NAME => return Err(Problem::LongName),
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    if path.len() >= MAX_PATH { Err(Problem::LongName) } else { Ok(path) }
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|byte| *byte == 0) {
        data.truncate(end);
    }
    data
}

fn padded(size: u64) -> Result<u64, Problem> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or(Problem::Number("size"))
}

/// Fills `buf` as far as the input goes.
fn read_full(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match input.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(got) => n += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests;
