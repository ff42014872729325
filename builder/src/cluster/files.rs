//! The files that are searched: a directory of this machine, or an image.
//!
//! Names are relative, with `/`, and in order. Symlinks inside a directory are followed as long as
//! they lead to a place inside it; in an image they cannot lead elsewhere.

mod walk;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::filesystem::{ImageFs, Ino, ReadError, Resolved};
use kfs_fs::layer::Kind;

use crate::interrupt::Interrupted;
use crate::view::{ImageFile, Seen, View};

use walk::MAX_LINKED;

/// A text file larger than this is not read as a whole, in bytes.
const MAX_TEXT: u64 = 64 << 20;
/// A line longer than this is cut, in bytes: no reference is as long.
const MAX_LINE: usize = 64 << 10;
/// How much of a file of an image is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Where the files are.
#[derive(Clone, Copy, Debug)]
pub enum Files<'a> {
    /// A directory.
    Directory(&'a Path),
    /// An image's merged tree.
    Image(&'a ImageFs),
    /// What a build has made.
    Built(&'a View),
}

/// Why a file cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or directory of this machine cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file of the image cannot be read.
    #[error("{file} in the image: {source}")]
    Image {
        /// The file.
        file: String,
        /// Why.
        source: ReadError,
    },
    /// Symlinks that lead to symlinks that lead to symlinks.
    #[error("{0}: symlinks lead to more than {MAX_LINKED} directories")]
    Links(String),
    /// A signal wants the search to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file is too large to be a list or a manifest.
    #[error("{file} has {size} bytes, too many to be searched for images")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size in bytes.
        size: u64,
    },
}

/// A regular file to be read at any place.
#[derive(Debug)]
pub struct OpenFile<'a> {
    from: From<'a>,
    size: u64,
}

#[derive(Debug)]
enum From<'a> {
    File(File),
    Image(&'a ImageFs, Ino),
    Built(ImageFile),
}

impl OpenFile<'_> {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// At most `len` bytes at `offset`; none only at or behind the end.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.from {
            From::Image(fs, ino) => fs.read(*ino, offset, len).map_err(io::Error::other),
            From::Built(file) => file.read(offset, len).map_err(io::Error::other),
            From::File(file) => {
                let mut data = vec![0; len];
                let n = file.read_at(&mut data, offset)?;
                data.truncate(n);
                Ok(data)
            }
        }
    }
}

/// What is at a name.
enum At {
    Nothing,
    File(u64),
    Directory,
}

impl<'a> Files<'a> {
    /// Whether there is a regular file of this name.
    pub fn is_file(&self, file: &str) -> Result<bool, FilesError> {
        Ok(matches!(self.at(file)?, At::File(_)))
    }

    /// Whether there is a directory of this name.
    pub fn is_directory(&self, file: &str) -> Result<bool, FilesError> {
        Ok(matches!(self.at(file)?, At::Directory))
    }

    /// Size of a regular file in bytes, 0 if there is none.
    pub fn size(&self, file: &str) -> Result<u64, FilesError> {
        Ok(if let At::File(size) = self.at(file)? { size } else { 0 })
    }

    /// A text file, if it is there; what is no UTF-8 is replaced.
    pub fn text(&self, file: &str) -> Result<Option<String>, FilesError> {
        Ok(self.bytes(file)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The content of a file of at most 64 MiB, if it is there.
    pub fn bytes(&self, file: &str) -> Result<Option<Vec<u8>>, FilesError> {
        self.bytes_up_to(file, MAX_TEXT)
    }

    /// The content of a file, if it is there; one that has more than `limit` bytes is an error.
    pub fn bytes_up_to(&self, file: &str, limit: u64) -> Result<Option<Vec<u8>>, FilesError> {
        let At::File(size) = self.at(file)? else { return Ok(None) };
        if size > limit {
            return Err(FilesError::TooLarge { file: file.to_owned(), size });
        }
        let mut bytes = Vec::new();
        self.reader(file)?
            .take(MAX_TEXT)
            .read_to_end(&mut bytes)
            .map_err(|e| self.failed(file, e))?;
        Ok(Some(bytes))
    }

    /// Where a regular file of a directory is on this machine, if it is there.
    pub fn path(&self, file: &str) -> Result<Option<PathBuf>, FilesError> {
        match (self, self.at(file)?) {
            (Self::Directory(root), At::File(_)) => Ok(inside(root, file)?),
            _ => Ok(None),
        }
    }

    /// A regular file to be read at any place, if it is there.
    pub fn open(&self, file: &str) -> Result<Option<OpenFile<'a>>, FilesError> {
        let At::File(size) = self.at(file)? else { return Ok(None) };
        let from = match self {
            Self::Directory(root) => {
                let Some(path) = inside(root, file)? else { return Ok(None) };
                From::File(File::open(&path).at("open", &path)?)
            }
            Self::Image(fs) => match self.find(fs, file)? {
                Some(ino) => From::Image(fs, ino),
                None => return Ok(None),
            },
            Self::Built(view) => match self.found(view, file)? {
                Some((_, file)) => From::Built(file),
                None => return Ok(None),
            },
        };
        Ok(Some(OpenFile { from, size }))
    }

    /// The names of the directories in a directory, in order; none if it is not there.
    pub fn directories(&self, directory: &str) -> Result<Vec<String>, FilesError> {
        self.names_of(directory, |at| matches!(at, At::Directory))
    }

    /// The names of the regular files in a directory, in order; none if it is not there.
    pub fn files(&self, directory: &str) -> Result<Vec<String>, FilesError> {
        self.names_of(directory, |at| matches!(at, At::File(_)))
    }

    fn names_of(
        &self,
        directory: &str,
        wanted: impl Fn(&At) -> bool,
    ) -> Result<Vec<String>, FilesError> {
        let mut found = Vec::new();
        if let At::Directory = self.at(directory)? {
            for name in self.names(directory)? {
                if wanted(&self.at(&format!("{directory}/{name}"))?) {
                    found.push(name);
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Calls `take` with each line of a file and its number, from 1.
    pub fn for_each_line(
        &self,
        file: &str,
        take: &mut dyn FnMut(usize, &str),
    ) -> Result<(), FilesError> {
        let mut reader = BufReader::with_capacity(PIECE, self.reader(file)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if !read_line(&mut reader, &mut line).map_err(|error| self.failed(file, error))? {
                break;
            }
            take(number, &String::from_utf8_lossy(&line));
        }
        Ok(())
    }

    fn at(&self, file: &str) -> Result<At, FilesError> {
        match self {
            Self::Directory(root) => {
                let Some(path) = inside(root, file)? else { return Ok(At::Nothing) };
                let meta = path.metadata().at("stat", &path)?;
                Ok(match meta.file_type() {
                    kind if kind.is_dir() => At::Directory,
                    kind if kind.is_file() => At::File(meta.len()),
                    _ => At::Nothing,
                })
            }
            Self::Image(fs) => {
                let Some(ino) = self.find(fs, file)? else { return Ok(At::Nothing) };
                let attr = fs.attr(ino).map_err(|source| self.broken(file, source))?;
                Ok(match attr.mode & 0o170_000 {
                    0o040_000 => At::Directory,
                    0o100_000 => At::File(attr.size),
                    _ => At::Nothing,
                })
            }
            Self::Built(view) => Ok(match self.found(view, file)? {
                Some((seen, _)) if seen.is_directory() => At::Directory,
                Some((seen, _)) if seen.kind == Some(Kind::File) => At::File(seen.size),
                Some(_) | None => At::Nothing,
            }),
        }
    }

    fn found(&self, view: &View, file: &str) -> Result<Option<(Seen, ImageFile)>, FilesError> {
        view.found(file.as_bytes()).map_err(|source| self.broken(file, source))
    }

    fn find(&self, fs: &ImageFs, file: &str) -> Result<Option<Ino>, FilesError> {
        match fs.resolve(file.as_bytes(), true).map_err(|source| self.broken(file, source))? {
            Resolved::Found(ino, _) => Ok(Some(ino)),
            Resolved::Missing { .. } | Resolved::NotADirectory(_) | Resolved::Loop => Ok(None),
        }
    }

    /// The permission bits of a regular file, 0 if there is none.
    pub fn permissions(&self, file: &str) -> Result<u32, FilesError> {
        let mode = match self {
            Self::Directory(root) => {
                let Some(path) = inside(root, file)? else { return Ok(0) };
                path.metadata().at("stat", &path)?.mode()
            }
            Self::Image(fs) => {
                let Some(ino) = self.find(fs, file)? else { return Ok(0) };
                fs.attr(ino).map_err(|source| self.broken(file, source))?.mode
            }
            Self::Built(view) => self.found(view, file)?.map_or(0, |(seen, _)| seen.mode),
        };
        Ok(mode & 0o7777)
    }

    /// The names in a directory; names that are no UTF-8 are left out.
    fn names(&self, directory: &str) -> Result<Vec<String>, FilesError> {
        match self {
            Self::Directory(root) => {
                let Some(path) = inside(root, directory)? else { return Ok(Vec::new()) };
                let names = std::fs::read_dir(&path).at("read", &path)?;
                let names = names.map(|entry| Ok(entry?.file_name().into_string().ok()));
                let names: io::Result<Vec<Option<String>>> = names.collect();
                let mut names: Vec<String> =
                    names.at("read", &path)?.into_iter().flatten().collect();
                names.sort_unstable();
                Ok(names)
            }
            Self::Image(fs) => {
                let Some(ino) = self.find(fs, directory)? else { return Ok(Vec::new()) };
                let mut names = Vec::new();
                let mut at = 0;
                let broken = |source| self.broken(directory, source);
                while let Some(entry) = fs.entry_at(ino, at).map_err(broken)? {
                    names.extend(String::from_utf8(entry.name.to_vec()).ok());
                    at += 1;
                }
                Ok(names)
            }
            Self::Built(view) => {
                let names = view.names(directory.as_bytes());
                let names = names.map_err(|source| self.broken(directory, source))?;
                Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
            }
        }
    }

    /// Reads a regular file, which must be there, from its start.
    pub(crate) fn reader(&self, file: &str) -> Result<Box<dyn Read + '_>, FilesError> {
        match self {
            Self::Directory(root) => {
                let path = inside(root, file)?.unwrap_or_else(|| root.join(file));
                Ok(Box::new(File::open(&path).at("open", &path)?))
            }
            Self::Image(fs) => {
                let ino = self.find(fs, file)?.ok_or_else(|| missing(file))?;
                Ok(Box::new(ImageReader { fs, ino, offset: 0 }))
            }
            Self::Built(view) => {
                let (_, found) = self.found(view, file)?.ok_or_else(|| missing(file))?;
                Ok(Box::new(found.reader()))
            }
        }
    }

    fn broken(&self, file: &str, source: ReadError) -> FilesError {
        FilesError::Image { file: file.to_owned(), source }
    }

    fn failed(&self, file: &str, error: io::Error) -> FilesError {
        match error.downcast::<ReadError>() {
            Ok(source) => self.broken(file, source),
            Err(source) => PathError { action: "read", path: PathBuf::from(file), source }.into(),
        }
    }
}

/// A name in a directory, empty for the files' own root.
pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn missing(file: &str) -> PathError {
    let source = io::ErrorKind::NotFound.into();
    PathError { action: "open", path: PathBuf::from(file), source }
}

/// Where a name of a directory leads, if that is there and inside the directory.
fn inside(root: &Path, file: &str) -> Result<Option<PathBuf>, PathError> {
    let path = root.join(file);
    let root = root.canonicalize().at("open", root)?;
    match path.canonicalize() {
        Ok(path) if path.as_os_str().as_bytes().contains(&0) => Ok(None),
        Ok(path) => Ok(path.starts_with(&root).then_some(path)),
        Err(error) => match error.raw_os_error() {
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR | nix::libc::ELOOP) => Ok(None),
            _ => Err(error).at("open", &path),
        },
    }
}

/// Reads a line without its end into `line`, or what fits of it; `false` at the end of the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut any = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        let room = MAX_LINE.saturating_sub(line.len());
        line.extend_from_slice(&piece[..piece.len().min(room)]);
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Reads a file of an image.
struct ImageReader<'a> {
    fs: &'a ImageFs,
    ino: Ino,
    offset: u64,
}

impl Read for ImageReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let data = self.fs.read(self.ino, self.offset, buf.len()).map_err(io::Error::other)?;
        buf[..data.len()].copy_from_slice(&data);
        self.offset += data.len() as u64;
        Ok(data.len())
    }
}
