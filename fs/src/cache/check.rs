//! Holding all cached content against its digests: what a disk damages is found when it is read
//! anyway, but whoever checks a store wants to know before.

use std::path::{Path, PathBuf};

use super::layer::Files;
use super::{COMMAND_PATIENCE, Cache, CacheError, whole};
use crate::digest::Digest;
use crate::error::AtPath;
use crate::layer::index::{IndexId, LayerIndex, Span, SpanDigest};

/// What was looked at of a cache, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Bytes of content that are there.
    pub(crate) bytes: u64,
    pub(crate) damaged: Vec<Damaged>,
}

/// A part of a cache that is not what was written.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// The directory of a layer, or a whole file.
    pub(crate) path: PathBuf,
    pub(crate) problem: String,
}

impl Cache {
    /// Reads and verifies all that is there; with `drop_damaged`, what is damaged is not there any
    /// more after it. `progress` is called with the number of bytes just read. What lacks its
    /// index cannot be read by anybody, and is left alone.
    pub(crate) fn check(
        &self,
        drop_damaged: bool,
        progress: &dyn Fn(u64),
    ) -> Result<Checked, CacheError> {
        let mut checked = Checked::default();
        for (id, path) in self.layer_dirs()? {
            if let Some(problem) = self.check_layer(id, &path, drop_damaged, &mut |bytes| {
                checked.bytes += bytes;
                progress(bytes);
            })? {
                checked.damaged.push(Damaged { path, problem });
            }
        }
        for file in whole::kept(&self.dir)? {
            let Some(sound) = file.is_sound() else { continue };
            checked.bytes += file.bytes;
            progress(file.bytes);
            if !sound {
                if drop_damaged {
                    whole::remove_file(&file.path)?;
                }
                let problem = "it is not what was written".to_owned();
                checked.damaged.push(Damaged { path: file.path, problem });
            }
        }
        Ok(checked)
    }

    /// What is wrong with the cache of a layer.
    fn check_layer(
        &self,
        id: IndexId,
        path: &Path,
        drop_damaged: bool,
        read: &mut dyn FnMut(u64),
    ) -> Result<Option<String>, CacheError> {
        let index = LayerIndex::open(&self.indexes, id).at("read", &self.indexes)?;
        let (Some(index), Some(files)) = (index, Files::open(path).at("open", path)?) else {
            return Ok(None);
        };
        let (mut there, mut damaged) = (0, Vec::new());
        for number in 0..index.span_count() {
            // A damaged index is told of as such.
            let Ok(span) = index.span(number) else { return Ok(None) };
            match files.read_whole(number, &span) {
                Ok(None) => continue,
                Ok(Some(content)) if fits(&span, &content) => {}
                Ok(Some(_)) | Err(_) => damaged.push((number, span)),
            }
            there += 1;
            read(span.content_len);
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        if drop_damaged {
            self.locked(COMMAND_PATIENCE, |_| {
                let dropped =
                    damaged.iter().try_for_each(|(number, span)| files.forget(*number, span));
                Ok(dropped.at("write", path)?)
            })?;
        }
        Ok(Some(format!("{} of {there} chunks are not what was written", damaged.len())))
    }
}

/// Whether content is what a span should have, as far as its digest tells.
fn fits(span: &Span, content: &[u8]) -> bool {
    match span.digest {
        SpanDigest::Blake3(hash) => *blake3::hash(content).as_bytes() == hash,
        SpanDigest::Sha256(digest) => Digest::of(content) == digest,
        // Of the stored bytes, which are not here.
        SpanDigest::StoredSha256(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::WholeFile;
    use super::*;

    #[test]
    fn whole_files_are_checked_too() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), dir.path(), 100 << 20);
        for name in [b"a", b"b"] {
            let whole =
                WholeFile { layer: Digest::of(b"layer"), key: blake3::hash(name), size: 1 << 20 };
            assert!(cache.make_whole(&whole, &mut |_, len| Some(vec![7; len])).unwrap());
        }
        let check = |drop_damaged| cache.check(drop_damaged, &|_| ()).unwrap();
        assert!(check(true).damaged.is_empty());
        let file = fs::read_dir(dir.path().join("files")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        bytes[500_000] = 8;
        fs::write(&file, bytes).unwrap();
        for drop_damaged in [false, true] {
            let damaged = check(drop_damaged).damaged;
            assert_eq!(damaged.len(), 1);
            assert_eq!(damaged[0].path, file);
        }
        assert!(!file.exists());
        assert!(check(false).damaged.is_empty());
    }
}
