//! One pass over the headers of a tar on disk: which members there are, and where their content
//! lies. The content itself is not read.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{ArchiveError, Place};
use crate::error::AtPath;
use crate::oci::manifest::MAX_JSON;

/// The unit of a tar, in bytes.
const BLOCK: u64 = 512;
/// An archive of images has a few members an image and layer; a file system's tar has more.
const MAX_MEMBERS: usize = 100_000;
/// Long names and PAX headers larger than this, in bytes, are refused.
const MAX_EXTENSION: u64 = 1 << 20;
/// Linux' limit for a path or link target, with its final NUL (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// All names and link targets together, in bytes: they are kept in memory. Real ones have some
/// hundred bytes a member.
const MAX_NAMES: usize = 32 << 20;
/// Links from member to member are followed this far; Docker's have one level.
const MAX_LINKS: u32 = 8;

/// The members of a tar, by their cleaned name; of several with one name the last counts.
#[derive(Debug)]
pub(super) struct Members {
    file: File,
    path: PathBuf,
    size: u64,
    names: HashMap<Vec<u8>, Member>,
}

/// A member of a tar, as far as archives of images have them.
#[derive(Debug)]
pub(super) enum Member {
    /// A file whose content lies in one piece.
    File {
        /// Offset of the content.
        start: u64,
        /// Size in bytes.
        size: u64,
    },
    /// A symbolic or hard link to this member.
    Link(Vec<u8>),
    /// A file with holes, whose content lies in pieces.
    Sparse,
}

impl Member {
    pub(super) fn place(&self) -> Option<Place> {
        match *self {
            Self::File { start, size } => Some(Place::Range { start, size }),
            Self::Link(_) | Self::Sparse => None,
        }
    }
}

/// What headers of the kinds `x`, `L` and `K` say about the member behind them.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Members {
    pub(super) fn scan(file: File, path: &Path, size: u64) -> Result<Self, ArchiveError> {
        let mut members = Self { file, path: path.to_owned(), size, names: HashMap::new() };
        let mut extensions = Extensions::default();
        let (mut offset, mut names) = (0, 0);
        for _ in 0..MAX_MEMBERS {
            let Some(header) = members.header(offset)? else { return Ok(members) };
            let malformed = |error: io::Error| members.malformed(offset, error.to_string());
            let kind = header.entry_type();
            let is_extension = kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions()
                || kind.is_gnu_longname()
                || kind.is_gnu_longlink();
            let header_size = header.entry_size().map_err(malformed)?;
            let size = extensions.size.filter(|_| !is_extension).unwrap_or(header_size);
            let start = offset + BLOCK;
            let next = members.end_of(&header, start, size)?;
            if is_extension {
                members.extend(&mut extensions, kind, start, size)?;
            } else {
                names += members.insert(&header, std::mem::take(&mut extensions), start, size)?;
                if names > MAX_NAMES {
                    let reason = format!("the names up to here have more than {MAX_NAMES} bytes");
                    return Err(members.malformed(offset, reason));
                }
            }
            offset = next;
        }
        Err(ArchiveError::TooManyMembers { path: path.to_owned(), limit: MAX_MEMBERS })
    }

    /// The header at `offset`; none at the end of the archive.
    fn header(&self, offset: u64) -> Result<Option<tar::Header>, ArchiveError> {
        if offset >= self.size {
            // Archives without the two zero blocks are common enough.
            return if offset == 0 { Err(self.not_a_tar()) } else { Ok(None) };
        }
        if self.size - offset < BLOCK {
            return Err(if offset == 0 {
                self.not_a_tar()
            } else {
                self.truncated(format!("the header at byte {offset}"), offset + BLOCK)
            });
        }
        let mut header = tar::Header::new_old();
        let bytes = header.as_mut_bytes();
        self.file.read_exact_at(bytes, offset).at("read", &self.path)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = checksum(bytes);
        match header.cksum() {
            Ok(right) if right == sum => Ok(Some(header)),
            Ok(_) | Err(_) if offset == 0 => Err(self.not_a_tar()),
            Ok(_) | Err(_) => Err(self.malformed(offset, "wrong checksum".to_owned())),
        }
    }

    /// Where the header behind a content of `size` bytes starts.
    fn end_of(&self, header: &tar::Header, start: u64, size: u64) -> Result<u64, ArchiveError> {
        let name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let end = start
            .checked_add(size)
            .ok_or_else(|| self.malformed(start - BLOCK, format!("size {size}")))?;
        if end > self.size {
            return Err(self.truncated(format!("{:?}", name()), end));
        }
        Ok(end.next_multiple_of(BLOCK))
    }

    fn extend(
        &self,
        extensions: &mut Extensions,
        kind: tar::EntryType,
        start: u64,
        size: u64,
    ) -> Result<(), ArchiveError> {
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        if size > MAX_EXTENSION {
            return Err(
                self.malformed(start - BLOCK, format!("a name or PAX header of {size} bytes"))
            );
        }
        let bytes = self.read(start, size)?;
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        if kind.is_gnu_longname() {
            extensions.name = Some(text());
        } else if kind.is_gnu_longlink() {
            extensions.link = Some(text());
        } else {
            self.extend_pax(extensions, &bytes, start)?;
        }
        Ok(())
    }

    fn extend_pax(
        &self,
        extensions: &mut Extensions,
        bytes: &[u8],
        start: u64,
    ) -> Result<(), ArchiveError> {
        let malformed = |reason: String| self.malformed(start - BLOCK, reason);
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(|error| malformed(error.to_string()))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => extensions.name = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| malformed("PAX size is no number".to_owned()))?;
                    extensions.size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => extensions.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps a member; returns what its name and target take, in bytes.
    fn insert(
        &mut self,
        header: &tar::Header,
        extensions: Extensions,
        start: u64,
        size: u64,
    ) -> Result<usize, ArchiveError> {
        let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            extensions.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        if name.len().max(link.as_ref().map_or(0, Vec::len)) >= MAX_PATH {
            let reason = format!("a name or link target of {MAX_PATH} bytes or more");
            return Err(self.malformed(start - BLOCK, reason));
        }
        let kind = header.entry_type();
        let name = clean(&[], &name);
        let member = match kind {
            kind if kind.is_gnu_sparse() || extensions.sparse => Member::Sparse,
            kind if kind.is_file() || kind.is_contiguous() => Member::File { start, size },
            kind if kind.is_symlink() => {
                let parent = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                Member::Link(clean(&name[..parent], &link.unwrap_or_default()))
            }
            kind if kind.is_hard_link() => Member::Link(clean(&[], &link.unwrap_or_default())),
            // Directories and the like name nothing that is looked for.
            _ => return Ok(0),
        };
        let target = if let Member::Link(target) = &member { target.len() } else { 0 };
        let kept = name.len() + target;
        self.names.insert(name, member);
        Ok(kept)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name.as_bytes())
    }

    /// Offset and size of a member's content, links followed; `wanted_by` is for messages.
    pub(super) fn locate(&self, name: &str, wanted_by: &str) -> Result<(u64, u64), ArchiveError> {
        let problem = |problem| ArchiveError::Member {
            path: self.path.clone(),
            member: name.to_owned(),
            wanted_by: wanted_by.to_owned(),
            problem,
        };
        let mut at = clean(&[], name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.names.get(&at) {
                Some(Member::File { start, size }) => return Ok((*start, *size)),
                Some(Member::Link(target)) => at.clone_from(target),
                Some(Member::Sparse) => return Err(problem("is stored with holes (tar --sparse)")),
                None => return Err(problem("is not in the archive")),
            }
        }
        Err(problem("is a chain of links without end"))
    }

    /// The content of a small member.
    pub(super) fn json(&self, name: &str, wanted_by: &str) -> Result<Vec<u8>, ArchiveError> {
        let (start, size) = self.locate(name, wanted_by)?;
        if size > MAX_JSON {
            return Err(ArchiveError::Member {
                path: self.path.clone(),
                member: name.to_owned(),
                wanted_by: wanted_by.to_owned(),
                problem: "is too large for JSON",
            });
        }
        self.read(start, size)
    }

    /// `size` bytes at `start`; the caller has capped the size.
    pub(super) fn read(&self, start: u64, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; usize::try_from(size).expect("capped sizes fit")];
        self.file.read_exact_at(&mut bytes, start).at("read", &self.path)?;
        Ok(bytes)
    }

    /// The archive's file, and all members.
    pub(super) fn into_parts(self) -> (File, HashMap<Vec<u8>, Member>) {
        (self.file, self.names)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn not_a_tar(&self) -> ArchiveError {
        ArchiveError::NotATar(self.path.clone())
    }

    fn malformed(&self, offset: u64, reason: String) -> ArchiveError {
        ArchiveError::Header { path: self.path.clone(), offset, reason }
    }

    fn truncated(&self, what: String, needed: u64) -> ArchiveError {
        ArchiveError::Truncated { path: self.path.clone(), what, needed, size: self.size }
    }
}

/// The checksum of a header, which counts its own eight bytes as blanks (POSIX ustar).
pub(crate) fn checksum(block: &[u8; 512]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

/// `name`, relative to the directory `parent` unless absolute, without `.` and `..`.
fn clean(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    let absolute = name.first() == Some(&b'/');
    let parent = if absolute { &[] } else { parent };
    for component in parent.split(|b| *b == b'/').chain(name.split(|b| *b == b'/')) {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            component => components.push(component),
        }
    }
    components.join(&b'/')
}
