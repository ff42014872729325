//! Reads tar streams: v7, ustar, GNU and PAX.
//!
//! Own code and not the `tar` crate: the index needs the place of every byte in the stream, also
//! of sparse files in all four of GNU tar's forms (the crate knows the oldest), times before the
//! epoch and to the nanosecond, and errors that name the place in the stream.
//!
//! Authority: POSIX `pax` (ustar interchange format, pax header block), the GNU tar manual
//! ("Basic Tar Format", "Storing Sparse Files"). Where they leave room we do what Go's
//! `archive/tar` does, because Docker, containerd and buildah read layers with it: global PAX
//! headers have no effect; links, directories, devices have no content, whatever their size says; a
//! zero block ends the archive, and then either another one or nothing follows; the padding of
//! the last file and the zero blocks may be missing.

mod header;
mod pax;
mod sparse;
pub(super) mod writer;

use std::io::{self, Read};

use super::index::Extent;
use super::{Device, Entry, Kind, Timestamp};
use crate::oci::archive::Magic;
use crate::printable;
pub(super) use header::BLOCK;
use header::{Header, TypeFlag};
use pax::Pax;
use sparse::Form;

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
    // It may be as long as a PAX header.
    match path {
        [] => String::new(),
        path => format!(" ({})", printable::start_of(path)),
    }
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
    /// The stream is compressed, which none may be any more.
    #[error("this is no tar stream, it looks like {0}")]
    Compressed(&'static str),
    /// The end of the archive, but there is more.
    #[error("there is a zero block in front of it, which only the end of a layer may have")]
    LoneZeros,
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
    /// More extended attributes than Linux takes.
    #[error("its extended attributes have more than Linux allows (64 KiB a value, and of names)")]
    LargeXattrs,
    /// An entry type that no layer has.
    #[error("entries of type {0:?} are not allowed in a layer")]
    Type(char),
    /// The input failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Linux' limits for an xattr's value, and for the list of names of a file (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`).
const MAX_XATTR: usize = 64 << 10;

/// Holds names and values against Linux' limits.
pub(super) fn check_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Problem> {
    let names: usize = xattrs.iter().map(|(name, _)| name.len() + 1).sum();
    let fits = names <= MAX_XATTR && xattrs.iter().all(|(_, value)| value.len() <= MAX_XATTR);
    if fits { Ok(()) } else { Err(Problem::LargeXattrs) }
}

/// An entry and where its content lies.
#[derive(Debug)]
pub struct Member {
    /// The entry.
    pub entry: Entry,
    /// The extents of a file, in the order of their file offsets.
    pub extents: Vec<Extent>,
    /// Bytes of content that lie in the stream; fewer than the file's size if it is sparse.
    pub stored: u64,
    /// What else the headers say.
    pub spelling: Spelling,
}

impl Member {
    /// Whether the content in the stream is the file's, without holes.
    pub fn is_plain(&self) -> bool {
        match &self.extents[..] {
            [] => self.entry.size == 0 && self.stored == 0,
            [extent] => extent.file_offset == 0 && extent.len == self.entry.size,
            _ => false,
        }
    }
}

/// What an [`Entry`] does not keep of the headers, but a table of contents repeats: it has to be
/// what Go's `archive/tar` makes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    /// The name as the headers have it: `./a`, `a/`.
    pub name: Vec<u8>,
    /// The target as the headers have it; empty if it is no link.
    pub link: Vec<u8>,
    /// The mode with all of its bits, of which some are no permissions.
    pub mode: u32,
    /// Time of the last access, if there is one.
    pub atime: Option<Timestamp>,
    /// Time of the last change of the inode, if there is one.
    pub ctime: Option<Timestamp>,
    /// Whether there was a header that other readers take for an entry (a global PAX header, a
    /// volume label) or type flags that some do not know.
    pub odd: bool,
}

/// Reads the members of a tar stream; contents are skipped.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Where the last header starts.
    header_offset: u64,
    /// Bytes of content of the last member that are still to be skipped.
    left: u64,
}

/// What the headers before a member said of it.
#[derive(Debug, Default)]
struct Before {
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    odd: bool,
}

impl<R: Read> TarReader<R> {
    /// A reader at the start of a stream.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, header_offset: 0, left: 0 }
    }

    /// The next member; `None` at the end of the archive. What lies behind the end is not read.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut before = Before::default();
        loop {
            self.skip_content().map_err(|what| self.error(Vec::new(), what))?;
            self.header_offset = self.offset;
            let header = self.header().map_err(|what| self.error(Vec::new(), what))?;
            let Some(header) = header else { return Ok(None) };
            match self.take(&header, &mut before) {
                Ok(Some(member)) => return Ok(Some(member)),
                Ok(None) => {}
                Err(what) => {
                    let path = before.name.unwrap_or_else(|| header.name());
                    return Err(self.error(path, what));
                }
            }
        }
    }

    /// Reads content of the last member, as it is stored; nothing at its end. What is not read is
    /// skipped.
    pub fn read_content(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let read = read_full(&mut self.input, &mut buf[..limit]);
        let n = read.map_err(|error| self.error(Vec::new(), error.into()))?;
        (self.offset, self.left) = (self.offset + n as u64, self.left - n as u64);
        if n < limit { Err(self.error(Vec::new(), Problem::Truncated)) } else { Ok(n) }
    }

    /// Reads what lies behind the end of the archive.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let drained = io::copy(&mut self.input, &mut io::sink());
        let n = drained.map_err(|error| self.error(Vec::new(), error.into()))?;
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

    fn error(&self, path: Vec<u8>, what: Problem) -> TarError {
        TarError { offset: self.header_offset, path, what }
    }

    /// Reads a header block; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>, Problem> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Header::parse(block).map(Some).map_err(|problem| {
                let is_first = self.header_offset == 0;
                let how = Magic::of(&block).compression_name().filter(|_| is_first);
                how.map_or(problem, Problem::Compressed)
            });
        }
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(Problem::LoneZeros),
        }
    }

    /// Reads a block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Problem> {
        let mut block = [0; BLOCK];
        let n = read_full(&mut self.input, &mut block)?;
        self.offset += n as u64;
        match n {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(Problem::Truncated),
        }
    }

    /// Handles one header: remembers what it says of the next, or makes a member of it.
    fn take(&mut self, header: &Header, before: &mut Before) -> Result<Option<Member>, Problem> {
        match header.type_flag() {
            TypeFlag::Pax => before.pax = Pax::parse(&self.meta(header)?)?,
            TypeFlag::LongName => before.name = until_nul(self.meta(header)?),
            TypeFlag::LongLink => before.link = until_nul(self.meta(header)?),
            TypeFlag::PaxGlobal | TypeFlag::VolumeLabel => {
                // It is a member of its own, to which what came before belongs.
                *before = Before { odd: true, ..Before::default() };
                self.left = header.size()?;
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
        let size = usize::try_from(size).expect("at most 1 MiB");
        let mut data = vec![0; size.next_multiple_of(BLOCK)];
        self.read_exact(&mut data)?;
        data.truncate(size);
        Ok(data)
    }

    fn member(&mut self, header: &Header, before: &mut Before) -> Result<Member, Problem> {
        let pax = std::mem::take(&mut before.pax);
        let form = sparse_form(header, &pax)?;
        let sparse_name = form.and_then(|_| pax.sparse(b"name"));
        // As in Go, GNU's long names win over PAX.
        let raw_name = match (sparse_name, before.name.take(), pax.path()) {
            (Some(name), ..) | (None, None, Some(name)) => name.to_vec(),
            (None, Some(name), _) => name,
            (None, None, None) => header.name(),
        };
        let flag = match header.type_flag() {
            TypeFlag::V7File if raw_name.ends_with(b"/") => TypeFlag::Directory,
            TypeFlag::V7File => TypeFlag::File,
            flag => flag,
        };
        let path = clean_path(&raw_name);
        // For the message of an error, should there be one.
        before.name = Some(raw_name);
        let path = path?;
        if path.is_empty() && !matches!(flag, TypeFlag::Directory | TypeFlag::DumpDirectory) {
            return Err(Problem::NoName);
        }
        let link = match (before.link.take(), pax.link_path()) {
            (Some(link), _) => link,
            (None, Some(link)) => link.to_vec(),
            (None, None) => header.link_name(),
        };
        let (atime, ctime) = header.gnu_times();
        let mut spelling = Spelling {
            mode: header.mode()?,
            atime: pax.atime().or(atime),
            ctime: pax.ctime().or(ctime),
            odd: before.odd || !header.is_usual(),
            ..Spelling::default()
        };
        if matches!(flag, TypeFlag::Hardlink | TypeFlag::Symlink) {
            spelling.link.clone_from(&link);
        }
        let kind = kind(header, flag, link)?;
        let stored = pax.size()?.map_or_else(|| header.size(), Ok)?;
        let (size, extents) = match flag {
            TypeFlag::File | TypeFlag::GnuSparse => self.content(header, &pax, form, stored)?,
            TypeFlag::DumpDirectory => {
                self.left = stored;
                (0, Vec::new())
            }
            _ => (0, Vec::new()),
        };
        spelling.name = before.name.take().unwrap_or_default();
        let entry = Entry {
            path,
            kind,
            mode: spelling.mode & 0o7777,
            uid: pax.uid()?.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid()?.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime()?.map_or_else(|| header.mtime(), Ok)?,
            size,
            xattrs: pax.into_xattrs(),
        };
        check_xattrs(&entry.xattrs)?;
        // Some writers give links a size; what it means depends on the reader.
        spelling.odd |= stored > 0 && entry.kind != Kind::File;
        Ok(Member { entry, extents, stored: self.left, spelling })
    }

    /// Size and extents of a file whose content comes next and takes `stored` bytes.
    fn content(
        &mut self,
        header: &Header,
        pax: &Pax,
        form: Option<Form>,
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
        } else {
            let size = sparse::pax_size(pax)?.filter(|_| form.is_some()).unwrap_or(stored);
            let runs = match form {
                None if stored == 0 => Vec::new(),
                None => vec![sparse::Run { offset: 0, len: stored }],
                Some(Form::Inline) => sparse::inline_map(pax)?,
                Some(Form::InData) => {
                    let (runs, used) = sparse::read_map(|block| self.read_exact(block), stored)?;
                    data_len -= used;
                    runs
                }
            };
            (size, runs)
        };
        self.left = data_len;
        let extents = sparse::extents(&runs, size, data_len, self.offset)?;
        Ok((size, extents))
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), Problem> {
        let n = read_full(&mut self.input, buf)?;
        self.offset += n as u64;
        if n == buf.len() { Ok(()) } else { Err(Problem::Truncated) }
    }

    /// Skips what is left of the last member's content, and its padding, which may be missing at
    /// the end of the stream.
    fn skip_content(&mut self) -> Result<(), Problem> {
        let skipped = io::copy(&mut (&mut self.input).take(self.left), &mut io::sink())?;
        self.offset += skipped;
        if skipped < self.left {
            return Err(Problem::Truncated);
        }
        self.left = 0;
        let block = BLOCK as u64;
        let padding = self.offset.wrapping_neg() % block;
        self.offset += io::copy(&mut (&mut self.input).take(padding), &mut io::sink())?;
        Ok(())
    }
}

/// The form of a sparse file with PAX records; only a plain file can be one.
fn sparse_form(header: &Header, pax: &Pax) -> Result<Option<Form>, Problem> {
    match (header.type_flag(), sparse::form(pax)) {
        (TypeFlag::GnuSparse, _) | (_, None) => Ok(None),
        (TypeFlag::File | TypeFlag::V7File, form) => Ok(form),
        _ => Err(Problem::Sparse),
    }
}

fn kind(header: &Header, flag: TypeFlag, link: Vec<u8>) -> Result<Kind, Problem> {
    let device = || -> Result<Device, Problem> {
        Ok(Device { major: header.major()?, minor: header.minor()? })
    };
    Ok(match flag {
        TypeFlag::File | TypeFlag::GnuSparse => Kind::File,
        TypeFlag::Directory | TypeFlag::DumpDirectory => Kind::Directory,
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
        TypeFlag::V7File
        | TypeFlag::Pax
        | TypeFlag::PaxGlobal
        | TypeFlag::LongName
        | TypeFlag::LongLink
        | TypeFlag::VolumeLabel => unreachable!("handled before members"),
        TypeFlag::Other(flag) => return Err(Problem::Type(char::from(flag))),
    })
}

/// A symlink may have any target that Linux takes.
pub(super) fn check_target(target: &[u8]) -> Result<(), Problem> {
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

/// The text before the first NUL, if there is any.
fn until_nul(mut data: Vec<u8>) -> Option<Vec<u8>> {
    if let Some(end) = data.iter().position(|byte| *byte == 0) {
        data.truncate(end);
    }
    (!data.is_empty()).then_some(data)
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
