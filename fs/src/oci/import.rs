//! A tar of a root file system becomes an image of one layer, as `docker import` does.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::archive::{Magic, decompressed, unpacked};
use super::image::host_architecture;
use super::manifest::{
    CONFIG, Compression, Descriptor, History, ImageConfig, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD,
    MANIFEST, Manifest, RootFs,
};
use super::store::{Expected, Stage, Store, StoreError, input_error};
use crate::blob::{FileBlob, open_regular};
use crate::digest::{DiffId, Digest, Hasher};
use crate::error::AtPath;
use crate::oci::Layer;

/// What an import makes.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// Where the tar comes from, for the history and for messages.
    pub from: &'a str,
    /// The name of the image.
    pub name: &'a str,
    /// The time that config and history show.
    pub created: SystemTime,
}

/// Stores a tar as the only layer of a new image. Compression with gzip or zstd stays as it is; a
/// tar that is compressed with xz or bzip2 becomes a plain one, as no layer may be so. Calls
/// `copied` with the number of bytes of each piece. Returns the manifest's digest.
pub fn import(
    store: &Store,
    mut reader: impl Read,
    import: &Import<'_>,
    copied: &dyn Fn(u64),
) -> Result<Digest, StoreError> {
    let name = super::store::tag_name(import.name)?;
    let mut head = Vec::new();
    let input = |error| input_error(error, import.from);
    reader.by_ref().take(Magic::SIZE as u64).read_to_end(&mut head).map_err(input)?;
    let magic = Magic::of(&head);
    if let Magic::Unsupported(how) = magic {
        let what = import.from.to_owned();
        return Err(StoreError::NotATar { what, compression: Some(how) });
    }
    let (compression, media_type) = form_of_layer(magic);
    let writer = store.writer()?;
    let mut stage = writer.stage()?;
    let mut whole: Box<dyn Read + '_> = Box::new(head.as_slice().chain(reader));
    if compression == Compression::None {
        whole = unpacked(whole, magic).map_err(input)?;
    }
    let (digest, size) = stage.put_blob(whole, Expected::default(), import.from, copied)?;
    let layer = Descriptor::new(media_type, digest, size);
    let diff_id = diff_id(&stage, digest, compression, import.from)?;
    let manifest = put_image(&mut stage, layer, diff_id, import)?;
    let digest = manifest.digest;
    stage.commit(vec![(Some(name.to_string()), manifest)])?;
    Ok(digest)
}

/// How a tar of this form is kept as a layer.
fn form_of_layer(magic: Magic) -> (Compression, &'static str) {
    match magic {
        Magic::Gzip => (Compression::Gzip, LAYER_GZIP),
        Magic::Zstd => (Compression::Zstd, LAYER_ZSTD),
        Magic::Plain | Magic::Xz | Magic::Bzip2 | Magic::Unsupported(_) => {
            (Compression::None, LAYER_TAR)
        }
    }
}

/// Hashes the tar stream of a staged layer, and makes sure that it is one.
fn diff_id(
    stage: &Stage<'_>,
    layer: Digest,
    compression: Compression,
    from: &str,
) -> Result<DiffId, StoreError> {
    let path = stage.path(layer);
    let file = File::open(&path).at("open", &path)?;
    let input = |error| input_error(error, from);
    let mut reader = decompressed(file, compression).map_err(input)?;
    let mut first = Vec::new();
    reader.by_ref().take(512).read_to_end(&mut first).map_err(input)?;
    if !is_tar_block(&first) {
        return Err(StoreError::NotATar { what: from.to_owned(), compression: None });
    }
    if compression == Compression::None {
        return Ok(DiffId::new(layer));
    }
    let mut hasher = Hasher::new();
    hasher.update(&first);
    let mut chunk = vec![0; 1 << 18];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(DiffId::new(hasher.finish())),
            Ok(n) => hasher.update(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(input(error)),
        }
    }
}

/// Whether this is a header, or the end of an empty tar.
fn is_tar_block(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(block) else { return false };
    block.iter().all(|byte| *byte == 0)
        || tar::Header::from_byte_slice(block)
            .cksum()
            .is_ok_and(|sum| sum == super::archive::checksum(block))
}

/// A tar on this machine as a layer that lies where the file is, or in a nameless file in `scratch`
/// where no layer can be compressed like it; none if the file is no tar, plain or compressed.
pub fn layer_of_tar(path: &Path, scratch: &Path) -> Result<Option<Layer>, StoreError> {
    let what = path.display().to_string();
    let input = |error| input_error(error, &what);
    let mut file = open_regular(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(Magic::SIZE as u64).read_to_end(&mut head).map_err(input)?;
    let magic = Magic::of(&head);
    match magic {
        Magic::Plain | Magic::Gzip | Magic::Zstd => {}
        // What unpacks archives elsewhere does not know these.
        Magic::Unsupported(_) => return Ok(None),
        Magic::Xz | Magic::Bzip2 => {
            let content = unpacked(head.as_slice().chain(file), magic).map_err(input)?;
            return unpacked_layer(content, path, scratch);
        }
    }
    let (compression, media_type) = form_of_layer(magic);
    let blob = Counted { inner: head.as_slice().chain(file), hasher: Hasher::new(), size: 0 };
    let mut blob = io::BufReader::new(blob);
    let mut hasher = Hasher::new();
    {
        let mut content = decompressed(&mut blob, compression).map_err(input)?;
        let mut chunk = vec![0; 1 << 18];
        let Some(first) = first_header(&mut content) else { return Ok(None) };
        hasher.update(&first);
        loop {
            match content.read(&mut chunk).map_err(input)? {
                0 => break,
                n => hasher.update(&chunk[..n]),
            }
        }
    }
    // What a decoder leaves belongs to the blob, too.
    io::copy(&mut blob, &mut io::sink()).map_err(input)?;
    let Counted { hasher: of_blob, size, .. } = blob.into_inner();
    let descriptor = Descriptor::new(media_type, of_blob.finish(), size);
    let diff_id = DiffId::new(hasher.finish());
    Ok(Some(Layer { descriptor, diff_id, blob: Arc::new(FileBlob::open(path)?), ztoc: None }))
}

/// The first block of a tar; none if it is no tar, or has nothing in it. Nonsense after the first
/// bytes of a compression is none either.
fn first_header(content: &mut impl Read) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    content.take(BLOCK).read_to_end(&mut first).ok()?;
    let is_header = is_tar_block(&first) && first.iter().any(|byte| *byte != 0);
    is_header.then_some(first)
}

/// A decompressed tar as a layer in a file without a name.
fn unpacked_layer(
    mut content: impl Read,
    path: &Path,
    scratch: &Path,
) -> Result<Option<Layer>, StoreError> {
    let Some(first) = first_header(&mut content) else { return Ok(None) };
    let mut file = tempfile::tempfile_in(scratch).at("create a file in", scratch)?;
    let mut whole = Counted { inner: first.chain(content), hasher: Hasher::new(), size: 0 };
    let mut chunk = vec![0; 1 << 18];
    loop {
        match whole.read(&mut chunk).map_err(|e| input_error(e, &path.display().to_string()))? {
            0 => break,
            n => file.write_all(&chunk[..n]).at("write to a file in", scratch)?,
        }
    }
    let Counted { hasher, size, .. } = whole;
    let digest = hasher.finish();
    Ok(Some(Layer {
        descriptor: Descriptor::new(LAYER_TAR, digest, size),
        diff_id: DiffId::new(digest),
        blob: Arc::new(FileBlob::range(file, path, 0, size)),
        ztoc: None,
    }))
}

/// Size of a tar header.
const BLOCK: u64 = 512;

/// Hashes and counts what is read.
struct Counted<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

fn put_image(
    stage: &mut Stage<'_>,
    layer: Descriptor,
    diff_id: DiffId,
    import: &Import<'_>,
) -> Result<Descriptor, StoreError> {
    let created = humantime::format_rfc3339_seconds(import.created).to_string();
    let config = ImageConfig {
        created: Some(created.clone()),
        architecture: host_architecture().to_owned(),
        os: "linux".to_owned(),
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History {
            created: Some(created),
            comment: Some(format!("imported from {}", import.from)),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let config = put_json(stage, CONFIG, &config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config,
        layers: vec![layer],
        annotations: Default::default(),
    };
    put_json(stage, MANIFEST, &manifest)
}

fn put_json(
    stage: &mut Stage<'_>,
    media_type: &str,
    value: &impl serde::Serialize,
) -> Result<Descriptor, StoreError> {
    let json = serde_json::to_vec(value).expect("manifests and configs are plain data");
    let descriptor = Descriptor::of(media_type, &json);
    stage.put_blob(&json[..], Expected::from(&descriptor), media_type, &|_| {})?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests;
