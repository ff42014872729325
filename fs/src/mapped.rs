//! Files of fixed-size records that are mapped, not parsed: the frame that the layer index and
//! the image index share.
//!
//! ```text
//! 0    magic      8 bytes
//! 8    version    u32
//! 12   count      u32, number of sections
//! 16   length     u64, of the whole file
//! 24   sections   count x { offset u64, length u64 }
//! ..   checksum   blake3 of all that comes before it, 32 bytes
//! ..   sections, each at a multiple of 8
//! ..   sum        blake3 of all that comes before it, 32 bytes
//! ```
//!
//! All numbers are little-endian. The header is checked when the file is opened: another version,
//! a file cut short or a broken header means "there is no index", and it is made again. The
//! sections are not summed at open, which would cost a pass over the file at every mount (who has
//! the time asks [`MappedFile::is_intact`]); their readers check every index against the bounds, so
//! damage there can give an error, never a panic.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sys::Map;
use crate::unnamed::UnnamedFile;

/// What a file is, and of which version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) sections: usize,
}

/// Length of the checksums, in bytes.
const SUM: usize = blake3::OUT_LEN;

impl Format {
    fn header_len(self) -> usize {
        24 + self.sections * 16 + SUM
    }
}

/// An open, mapped file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Map,
    sections: Vec<(usize, usize)>,
}

impl MappedFile {
    /// Opens `path`; `None` if there is no such file or it is not a whole file of this format.
    pub(crate) fn open(path: &Path, format: Format) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let map = Map::new(&file)?;
        let sections = read_header(&map, format);
        Ok(sections.map(|sections| Self { map, sections }))
    }

    /// Whether all of the file is as it was written. Reads all of it.
    pub(crate) fn is_intact(&self) -> bool {
        let (content, sum) = self.map.split_at(self.map.len() - SUM);
        blake3::hash(content).as_bytes()[..] == *sum
    }

    /// Whether `path` is such a file, of another version.
    pub(crate) fn is_of_another_version(path: &Path, format: Format) -> io::Result<bool> {
        let mut start = Vec::new();
        File::open(path)?.take(12).read_to_end(&mut start)?;
        let is_such = start.len() == 12 && start[..8] == format.magic;
        Ok(is_such && start[8..] != format.version.to_le_bytes())
    }

    /// The bytes of a section.
    pub(crate) fn section(&self, index: usize) -> &[u8] {
        let (start, len) = self.sections[index];
        &self.map[start..start + len]
    }

    /// The records of a section; a part of a record at its end is left out.
    pub(crate) fn records<T: FromBytes + Immutable + KnownLayout>(&self, index: usize) -> &[T] {
        let section = self.section(index);
        let whole = section.len() - section.len() % size_of::<T>();
        <[T]>::ref_from_bytes(&section[..whole]).unwrap_or_default()
    }
}

fn read_header(map: &[u8], format: Format) -> Option<Vec<(usize, usize)>> {
    let header = map.get(..format.header_len())?;
    let (head, checksum) = header.split_at(header.len() - 32);
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let fits = head[..8] == format.magic
        && u32_at(8) == format.version
        && u32_at(12) as usize == format.sections
        && u64_at(16) == map.len() as u64
        && blake3::hash(head).as_bytes()[..] == *checksum;
    if !fits {
        return None;
    }
    let section = |i: usize| {
        let start = usize::try_from(u64_at(24 + 16 * i)).ok()?;
        let len = usize::try_from(u64_at(32 + 16 * i)).ok()?;
        (start.checked_add(len)? <= map.len().checked_sub(SUM)?).then_some((start, len))
    };
    (0..format.sections).map(section).collect()
}

/// A section while it is written: a file without a name, so that memory does not grow with it.
#[derive(Debug)]
pub(crate) struct Section {
    file: BufWriter<File>,
    len: u64,
}

impl Section {
    /// An empty section, kept in a nameless file on the file system of `dir`.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(64 << 10, tempfile::tempfile_in(dir)?);
        Ok(Self { file, len: 0 })
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends bytes, returns where they start.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.len;
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(at)
    }

    /// Appends a record, returns its number.
    pub(crate) fn record<T: IntoBytes + Immutable>(&mut self, record: &T) -> io::Result<u64> {
        Ok(self.push(record.as_bytes())? / size_of::<T>() as u64)
    }

    /// What was written so far. Nothing may be written as long as the map is there, which its
    /// borrow sees to.
    pub(crate) fn map(&mut self) -> io::Result<impl Deref<Target = [u8]> + '_> {
        self.file.flush()?;
        Map::new(self.file.get_ref())
    }

    fn into_reader(self) -> io::Result<File> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// Content of a section when the file is put together.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    Section(Section),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Section(section) => section.len(),
        }
    }

    fn copy_to(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(&bytes),
            Self::Section(section) => {
                let len = section.len();
                let copied = io::copy(&mut section.into_reader()?.take(len), out)?;
                if copied == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }
}

/// Puts a file together, which gets its name when it is whole.
///
/// It is not waited for that it is on disk: an index can be made again, a mount that makes several
/// would wait for each, and on a busy disk that takes longer than all else. What a crash of the
/// machine leaves of it is shorter than its header says (file systems let a file grow when its
/// bytes are written), and so no index.
pub(crate) fn write(path: &Path, format: Format, contents: Vec<Content>) -> io::Result<()> {
    assert_eq!(contents.len(), format.sections, "as many sections as the format has");
    let dir = path.parent().expect("an index lies in a directory");
    let out = UnnamedFile::new_in(dir)?;
    let mut hasher = blake3::Hasher::new();
    let mut file =
        BufWriter::with_capacity(256 << 10, Summed { file: out.file(), hasher: &mut hasher });
    file.write_all(&header(format, &contents))?;
    let mut at = format.header_len() as u64;
    for content in contents {
        let start = at.next_multiple_of(8);
        file.write_all(&[0; 8][..usize::try_from(start - at).expect("below 8")])?;
        at = start + content.len();
        content.copy_to(&mut file)?;
    }
    file.flush()?;
    drop(file);
    out.file().write_all(hasher.finalize().as_bytes())?;
    out.persist(path)
}

/// A file that is hashed as it is written.
struct Summed<'a> {
    file: &'a File,
    hasher: &'a mut blake3::Hasher,
}

impl Write for Summed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.file.write(data)?;
        self.hasher.update(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn header(format: Format, contents: &[Content]) -> Vec<u8> {
    let mut table = Vec::with_capacity(contents.len() * 16);
    let mut at = format.header_len() as u64;
    for content in contents {
        at = at.next_multiple_of(8);
        table.extend(at.to_le_bytes());
        table.extend(content.len().to_le_bytes());
        at += content.len();
    }
    let len = at + SUM as u64;
    let mut header = format.magic.to_vec();
    header.extend(format.version.to_le_bytes());
    header.extend(u32::try_from(format.sections).expect("a handful").to_le_bytes());
    header.extend(len.to_le_bytes());
    header.extend(table);
    let checksum = blake3::hash(&header);
    header.extend(checksum.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format { magic: *b"KFSTEST\0", version: 3, sections: 2 };

    #[test]
    fn a_file_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(MappedFile::open(&path, FORMAT).unwrap().is_none());
        let mut section = Section::new(dir.path()).unwrap();
        for n in 0..1000u32 {
            assert_eq!(section.record(&n.to_le_bytes()).unwrap(), u64::from(n));
        }
        let contents = vec![Content::Bytes(b"abc".to_vec()), Content::Section(section)];
        write(&path, FORMAT, contents).unwrap();

        let file = MappedFile::open(&path, FORMAT).unwrap().unwrap();
        assert_eq!(file.section(0), b"abc");
        let records = file.records::<zerocopy::little_endian::U32>(1);
        assert_eq!(records.len(), 1000);
        assert_eq!(records[999].get(), 999);

        assert!(file.is_intact());
        let other = Format { version: 4, ..FORMAT };
        assert!(MappedFile::open(&path, other).unwrap().is_none());
        assert!(MappedFile::is_of_another_version(&path, other).unwrap());
        assert!(!MappedFile::is_of_another_version(&path, FORMAT).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, 30, 80, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(MappedFile::open(&path, FORMAT).unwrap().is_none(), "cut at {cut}");
        }
        for place in [whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let file = MappedFile::open(&path, FORMAT).unwrap().unwrap();
            assert!(!file.is_intact(), "flipped at {place}");
        }
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert!(MappedFile::open(&path, FORMAT).unwrap().is_none());
    }
}
