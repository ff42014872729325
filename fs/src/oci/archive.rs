//! Images in a tar, read where they lie: a tar of an OCI layout, or what `docker save`,
//! `podman save` and skopeo write. Either becomes a [`Layout`]; for Docker's own format the
//! manifests are made up here, from its `manifest.json` and the members it names.

mod docker;
pub mod load;
mod members;
pub mod save;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::{self, Blobs, Layout, LayoutError};
use super::manifest::{Compression, REF_NAME};
use crate::blob::{BlobSource, FileBlob, open_at_once};
use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::gunzip::Gunzip;
use members::Members;
pub(crate) use members::checksum;

/// The annotation in which containerd and Docker keep an image's whole name; `ref.name` is then
/// only the tag (containerd, `images/annotations.go`).
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The two kinds of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A tar of an OCI layout.
    Oci,
    /// Docker's format, with a `manifest.json`.
    Docker,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Oci => "oci-archive",
            Self::Docker => "docker-archive",
        })
    }
}

/// Why a file is no archive of images.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A directory, pipe or device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Compressed as a whole, so nothing in it can be read where it lies.
    #[error("{} is compressed with {how}, an archive is used in place only uncompressed", path.display())]
    Compressed {
        /// The archive.
        path: PathBuf,
        /// `gzip`, `zstd`, ...
        how: &'static str,
    },
    /// No tar at all.
    #[error("{} is not a tar archive", .0.display())]
    NotATar(PathBuf),
    /// A tar without images.
    #[error("{} holds no images: it has neither index.json with oci-layout nor manifest.json", .0.display())]
    NoImages(PathBuf),
    /// The other kind of archive.
    #[error("{} is of the kind {found}, not {wanted}", path.display())]
    WrongFormat {
        /// The archive.
        path: PathBuf,
        /// The kind that was asked for.
        wanted: Format,
        /// The kind that it is.
        found: Format,
    },
    /// It ends too early.
    #[error("{} is truncated: {what} needs {needed} bytes, the file has {size}", path.display())]
    Truncated {
        /// The archive.
        path: PathBuf,
        /// The member, or the header at an offset.
        what: String,
        /// Where the member ends, in bytes.
        needed: u64,
        /// The archive's size in bytes.
        size: u64,
    },
    /// A header that makes no sense.
    #[error("{} has a malformed tar header at byte {offset}: {reason}", path.display())]
    Header {
        /// The archive.
        path: PathBuf,
        /// Where the header starts.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// More members than an archive of images has.
    #[error("{} has more than {limit} members, it is no archive of images", path.display())]
    TooManyMembers {
        /// The archive.
        path: PathBuf,
        /// How many are read.
        limit: usize,
    },
    /// A member that is named by another one is not there, or is no file.
    #[error("{}: {wanted_by} needs {member:?}, which {problem}", path.display())]
    Member {
        /// The archive.
        path: PathBuf,
        /// The member that is needed.
        member: String,
        /// The member that needs it.
        wanted_by: String,
        /// Why it cannot be had.
        problem: &'static str,
    },
    /// A JSON member of the wrong shape.
    #[error("{}: {member:?} is malformed: {source}", path.display())]
    Json {
        /// The archive.
        path: PathBuf,
        /// The member.
        member: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Config and layer list do not fit.
    #[error("{}: manifest.json lists {layers} layers for {config:?}, which has {diff_ids} diff_ids", path.display())]
    LayerCount {
        /// The archive.
        path: PathBuf,
        /// The config's member.
        config: String,
        /// How many layers are listed.
        layers: usize,
        /// How many diffIDs the config has.
        diff_ids: usize,
    },
}

/// The blobs of an archive, by digest.
#[derive(Debug)]
pub(crate) struct ArchiveBlobs {
    file: File,
    path: PathBuf,
    places: HashMap<Digest, Place>,
}

/// Where a blob of an archive is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A member's content.
    Range {
        /// Offset in the archive.
        start: u64,
        /// Size in bytes.
        size: u64,
    },
    /// Made up here.
    Memory(Arc<[u8]>),
}

impl ArchiveBlobs {
    pub(crate) fn blob(&self, digest: Digest) -> Result<Option<Arc<dyn BlobSource>>, PathError> {
        Ok(match self.places.get(&digest) {
            None => None,
            Some(Place::Memory(bytes)) => {
                Some(Arc::new(MemoryBlob { bytes: bytes.clone(), path: self.path.clone() }))
            }
            Some(&Place::Range { start, size }) => {
                let file = self.file.try_clone().at("open", &self.path)?;
                Some(Arc::new(FileBlob::range(file, &self.path, start, size)))
            }
        })
    }
}

/// A manifest that was made up for an archive.
#[derive(Debug)]
struct MemoryBlob {
    bytes: Arc<[u8]>,
    path: PathBuf,
}

impl BlobSource for MemoryBlob {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let n = buf.len().min(self.bytes.len() - start);
        buf[..n].copy_from_slice(&self.bytes[start..start + n]);
        Ok(n)
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}

/// Opens an archive in place. `wanted` is the kind that the user named, if any; an archive that
/// is both (Docker's newer ones) is read as an OCI layout, which knows the real manifests.
pub fn open(path: &Path, wanted: Option<Format>) -> Result<Layout, LayoutError> {
    open_file(open_at_once(path).at("open", path)?, path, wanted)
}

/// As [`open`]; `path` is for messages.
pub(crate) fn open_file(
    file: File,
    path: &Path,
    wanted: Option<Format>,
) -> Result<Layout, LayoutError> {
    let metadata = file.metadata().at("stat", path)?;
    if !metadata.is_file() {
        return Err(ArchiveError::NotAFile(path.to_owned()).into());
    }
    if let Some(how) = Magic::of_file(&file).at("read", path)?.compression_name() {
        return Err(ArchiveError::Compressed { path: path.to_owned(), how }.into());
    }
    let members = Members::scan(file, path, metadata.len())?;
    let is_layout = members.has("oci-layout") && members.has("index.json");
    let is_docker = members.has("manifest.json");
    match (wanted, is_layout, is_docker) {
        (_, false, false) => Err(ArchiveError::NoImages(path.to_owned()).into()),
        (Some(wanted @ Format::Oci), false, true) => {
            Err(wrong_format(path, wanted, Format::Docker).into())
        }
        (Some(wanted @ Format::Docker), true, false) => {
            Err(wrong_format(path, wanted, Format::Oci).into())
        }
        (None | Some(_), true, _) => open_layout(members, path),
        (None | Some(_), false, true) => Ok(docker::open(members, path)?),
    }
}

fn wrong_format(path: &Path, wanted: Format, found: Format) -> ArchiveError {
    ArchiveError::WrongFormat { path: path.to_owned(), wanted, found }
}

fn open_layout(members: Members, path: &Path) -> Result<Layout, LayoutError> {
    let member_path = |member: &str| path.join(member);
    let marker = members.json("oci-layout", "the layout")?;
    layout::check_version(path, &member_path("oci-layout"), &marker)?;
    let bytes = members.json("index.json", "the layout")?;
    let (file, names) = members.into_parts();
    let places = names
        .into_iter()
        .filter_map(|(name, member)| {
            let hex = std::str::from_utf8(name.strip_prefix(b"blobs/sha256/")?).ok()?;
            let digest = format!("sha256:{hex}").parse().ok()?;
            Some((digest, member.place()?))
        })
        .collect();
    let blobs = Blobs::Archive(Arc::new(ArchiveBlobs { file, path: path.to_owned(), places }));
    let mut layout = Layout::with_index(path, &member_path("index.json"), &bytes, blobs)?;
    for descriptor in &mut layout.index.manifests {
        if let Some(name) = descriptor.annotations.remove(CONTAINERD_NAME) {
            descriptor.annotations.insert(REF_NAME.to_owned(), name);
        }
    }
    Ok(layout)
}

/// What the first bytes of a file say about its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Magic {
    /// None that is known: a tar, or nonsense.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878, also its skippable frames.
    Zstd,
    /// The .xz file format, 1.2.1.
    Xz,
    /// bzip2.
    Bzip2,
    /// Recognised for the sake of a clear error.
    Unsupported(&'static str),
}

impl Magic {
    /// How many first bytes are looked at.
    pub(crate) const SIZE: usize = 6;

    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Self::Xz,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Unsupported("lz4"),
            _ => Self::Plain,
        }
    }

    fn of_file(file: &File) -> io::Result<Self> {
        use std::os::unix::fs::FileExt as _;
        let mut head = [0; Self::SIZE];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(&mut head[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(Self::of(&head[..filled]))
    }

    /// The compression, as users call it.
    pub(crate) fn compression_name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
            Self::Xz => Some("xz"),
            Self::Bzip2 => Some("bzip2"),
            Self::Unsupported(name) => Some(name),
        }
    }
}

/// A stream, decompressed as its first bytes say. What is not known is passed on: whoever reads it
/// as something refuses it.
fn decompressed_as_found<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    reader.by_ref().take(Magic::SIZE as u64).read_to_end(&mut head)?;
    let magic = Magic::of(&head);
    unpacked(io::Cursor::new(head).chain(reader), magic)
}

/// The tar stream of a layer, decompressed as it is read.
pub(crate) fn decompressed<'a>(
    reader: impl Read + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(Gunzip::new(io::BufReader::new(reader))),
        Compression::Zstd => Box::new(zstd::Decoder::new(reader)?),
    })
}

/// What may be taken for the dictionary of an xz file, in KiB: `xz -9` needs 64 MiB.
const MAX_XZ: u32 = 256 << 10;

/// What is in a file that begins like this, decompressed as it is read; what is not known comes as
/// it is.
pub(crate) fn unpacked<'a>(reader: impl Read + 'a, magic: Magic) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match magic {
        Magic::Plain | Magic::Unsupported(_) => Box::new(reader),
        Magic::Gzip => decompressed(reader, Compression::Gzip)?,
        Magic::Zstd => decompressed(reader, Compression::Zstd)?,
        Magic::Xz => {
            let reader = io::BufReader::new(reader);
            Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, MAX_XZ))
        }
        Magic::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(reader)),
    })
}

#[cfg(test)]
mod tests;
