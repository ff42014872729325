//! Small layers of eStargz and zstd:chunked for tests: whole and right, or with a table that the
//! test changed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::footer::{self, Position};
use super::{Base64, SKIPPABLE_MAGIC, Toc, TocEntry, TocTime, ZEROS};
use crate::blob::BlobSource;
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;
use crate::oci::Layer;
use crate::oci::manifest::{Descriptor, LAYER_GZIP, LAYER_ZSTD};

/// Which writer's form a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Estargz,
    /// Of stargz-snapshotter: chunks do not say where they end.
    StargzZstd,
    ZstdChunked,
}

pub(crate) const FORMS: [Form; 3] = [Form::Estargz, Form::StargzZstd, Form::ZstdChunked];

/// Writes a layer file by file.
pub(crate) struct Encoder {
    form: Form,
    tar: Vec<u8>,
    /// How much of `tar` is compressed in `blob`.
    packed: usize,
    pub(crate) blob: Vec<u8>,
    pub(crate) toc: Toc,
}

impl Encoder {
    pub(crate) fn new(form: Form) -> Self {
        let toc = Toc { version: 1, entries: Vec::new(), tar_split_digest: None };
        Self { form, tar: Vec::new(), packed: 0, blob: Vec::new(), toc }
    }

    /// All kinds of entries, one of each.
    pub(crate) fn sample(form: Form) -> Self {
        let mut encoder = Self::new(form);
        encoder.other("dir", "d/", "");
        encoder.file("d/small", b"hello", 4096);
        encoder.file("./d/large", &noise(20_000), 4096);
        encoder.file("empty", b"", 4096);
        encoder.other("symlink", "d/link", "../empty");
        encoder.other("hardlink", "second", "d/large");
        encoder.file("implied/parents/file", b"x", 4096);
        encoder.file("exact", &noise(4096), 4096);
        encoder.other("fifo", "fifo", "");
        encoder
    }

    fn header(&mut self, kind: tar::EntryType, name: &str, link: &str, size: usize) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        let bytes = header.as_ustar_mut().unwrap();
        bytes.name[..name.len()].copy_from_slice(name.as_bytes());
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(99);
        header.set_size(size as u64);
        header.set_cksum();
        self.tar.extend(header.as_bytes());
    }

    fn entry(kind: &str, name: &str) -> TocEntry {
        TocEntry {
            kind: kind.into(),
            name: name.into(),
            mode: 0o4755,
            uid: 7,
            gid: 8,
            mtime: Some(TocTime(Timestamp { seconds: 99, nanos: 0 })),
            ..TocEntry::default()
        }
    }

    /// Adds an entry without content.
    pub(crate) fn other(&mut self, kind: &str, name: &str, link: &str) {
        let flag = match kind {
            "dir" => tar::EntryType::Directory,
            "symlink" => tar::EntryType::Symlink,
            "hardlink" => tar::EntryType::Link,
            _ => tar::EntryType::Fifo,
        };
        self.header(flag, name, link, 0);
        self.toc.entries.push(TocEntry { link_name: link.into(), ..Self::entry(kind, name) });
    }

    /// Adds a file with chunks of this size.
    pub(crate) fn file(&mut self, name: &str, content: &[u8], chunk: usize) {
        self.header(tar::EntryType::Regular, name, "", content.len());
        let mut first = TocEntry {
            size: content.len() as u64,
            digest: Digest::of(content).to_string(),
            ..Self::entry("reg", name)
        };
        let place = self.toc.entries.len();
        let one = content.len() <= chunk;
        for (number, data) in content.chunks(chunk).enumerate() {
            self.cut();
            let mut entry = match number {
                0 => first.clone(),
                _ => TocEntry { kind: "chunk".into(), name: name.into(), ..TocEntry::default() },
            };
            entry.offset = self.blob.len() as u64;
            entry.chunk_offset = (number * chunk) as u64;
            let last = (number + 1) * chunk >= content.len();
            let zeros = self.form == Form::ZstdChunked && data.iter().all(|byte| *byte == 0);
            if !(one && self.form == Form::ZstdChunked) {
                entry.chunk_digest = Digest::of(data).to_string();
                // eStargz says nothing of the last chunk's size, unless it is the only one and
                // full.
                let said = self.form == Form::ZstdChunked || !last || data.len() == content.len();
                entry.chunk_size = if said { data.len() as u64 } else { 0 };
                entry.chunk_type = if zeros { ZEROS.into() } else { String::new() };
            }
            self.tar.extend(data);
            self.toc.entries.push(entry);
        }
        if content.is_empty() {
            first.digest = String::new();
            self.toc.entries.push(first);
        } else if self.form == Form::ZstdChunked {
            self.cut();
            self.toc.entries[place].end_offset = self.blob.len() as u64;
        }
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    /// Adds files that share one gzip member.
    pub(crate) fn together(&mut self, files: &[(&str, &[u8])]) {
        self.cut();
        let (offset, start) = (self.blob.len() as u64, self.tar.len());
        for (name, content) in files {
            self.header(tar::EntryType::Regular, name, "", content.len());
            self.toc.entries.push(TocEntry {
                size: content.len() as u64,
                offset,
                inner_offset: (self.tar.len() - start) as u64,
                digest: Digest::of(content).to_string(),
                chunk_digest: Digest::of(content).to_string(),
                ..Self::entry("reg", name)
            });
            self.tar.extend(*content);
            self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        }
        self.cut();
    }

    /// The first entry with this name.
    pub(crate) fn named(&mut self, name: &str) -> &mut TocEntry {
        self.toc.entries.iter_mut().find(|entry| entry.name == name).unwrap()
    }

    fn cut(&mut self) {
        let data = &self.tar[self.packed..];
        if !data.is_empty() {
            let packed = pack(self.form, data);
            self.blob.extend(packed);
            self.packed = self.tar.len();
        }
    }

    /// Ends the layer.
    pub(crate) fn finish(self) -> Encoded {
        let json = serde_json::to_vec(&self.toc).unwrap();
        self.finish_with(&json)
    }

    /// Ends the layer with this for a table.
    pub(crate) fn finish_with(mut self, json: &[u8]) -> Encoded {
        let mut annotations = BTreeMap::new();
        if self.form == Form::Estargz {
            self.cut();
            let toc_offset = self.blob.len() as u64;
            self.header(tar::EntryType::Regular, super::ESTARGZ_TOC_NAME, "", json.len());
            self.tar.extend(json);
            self.tar.resize(self.tar.len().next_multiple_of(512) + 1024, 0);
            self.cut();
            self.blob.extend(footer::estargz(toc_offset));
        } else {
            self.tar.resize(self.tar.len() + 1024, 0);
            self.cut();
            let packed = zstd::bulk::compress(json, 1).unwrap();
            let toc = Position {
                offset: self.blob.len() as u64 + 8,
                len: packed.len() as u64,
                uncompressed_len: json.len() as u64,
            };
            self.blob.extend(skippable(&packed));
            let footer = footer::zstd_chunked(toc, Position::default());
            self.blob.extend(skippable(&footer));
            let prefix = match self.form {
                Form::StargzZstd => super::OLD_ZSTD_CHUNKED_PREFIX,
                Form::Estargz | Form::ZstdChunked => super::ZSTD_CHUNKED_PREFIX,
            };
            let Position { offset, len, uncompressed_len } = toc;
            let position = format!("{offset}:{len}:{uncompressed_len}:1");
            annotations.insert(format!("{prefix}{}", super::MANIFEST_POSITION), position);
            let digest = Digest::of(&packed).to_string();
            annotations.insert(format!("{prefix}{}", super::MANIFEST_CHECKSUM), digest);
        }
        if self.form != Form::ZstdChunked {
            let digest = Digest::of(json).to_string();
            annotations.insert(super::ESTARGZ_TOC_DIGEST.to_owned(), digest);
        }
        Encoded { form: self.form, tar: self.tar, blob: self.blob, annotations }
    }
}

/// A layer as it would be stored.
#[derive(Clone)]
pub(crate) struct Encoded {
    pub(crate) form: Form,
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Encoded {
    pub(crate) fn layer(&self) -> (Layer, Arc<Memory>) {
        let media_type = if self.form == Form::Estargz { LAYER_GZIP } else { LAYER_ZSTD };
        let mut descriptor = Descriptor::of(media_type, &self.blob);
        descriptor.annotations = self.annotations.clone();
        let blob = Arc::new(Memory { bytes: self.blob.clone(), reads: Mutex::default() });
        let diff_id = DiffId::new(Digest::of(&self.tar));
        (Layer { descriptor, diff_id, blob: blob.clone(), ztoc: None }, blob)
    }
}

pub(crate) fn pack(form: Form, data: &[u8]) -> Vec<u8> {
    if form != Form::Estargz {
        return zstd::bulk::compress(data, 1).unwrap();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(data).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn skippable(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&SKIPPABLE_MAGIC[..], &len.to_le_bytes(), data].concat()
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(crate) fn xattrs(entries: &[(&str, &[u8])]) -> BTreeMap<String, Base64> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), Base64(value.to_vec()))).collect()
}

/// A blob in memory that is taken for a remote one, and knows what was read of it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reads: Mutex<Vec<(u64, usize)>>,
}

impl BlobSource for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let n = buf.len().min(rest.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.reads.lock().unwrap().push((offset, n));
        Ok(n)
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn is_remote(&self) -> bool {
        true
    }
}
