//! Copying the images of an archive to the store. All blobs are verified on their way; they and
//! the names appear when the last one is there.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{ArchiveError, Magic, open_file};
use crate::blob::BlobReader;
use crate::digest::{Digest, Found, Mismatch};
use crate::error::AtPath;
use crate::oci::image::{self, ImageError, MAX_DEPTH};
use crate::oci::layout::{Layout, LayoutError, label, ref_name};
use crate::oci::manifest::{Descriptor, is_index};
use crate::oci::reference::Name;
use crate::oci::store::{Expected, Stage, Store, StoreError, TempFile, input_error};
use crate::oci::walk::claims;

/// Where an archive comes from.
pub enum Input {
    /// A file; read in place if it is not compressed.
    File(PathBuf),
    /// A stream, which is stored first: what is needed first may come last in it.
    Stream(Box<dyn Read>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The name it has now; none if the archive has none for it.
    pub name: Option<String>,
    /// Digest of its manifest or index.
    pub digest: Digest,
}

/// Loads all images of an oci-archive or docker-archive, which may be compressed with gzip,
/// zstd, xz or bzip2. Calls `copied` with the number of bytes of each piece.
pub fn load(store: &Store, input: Input, copied: &dyn Fn(u64)) -> Result<Vec<Loaded>, StoreError> {
    let writer = store.writer()?;
    // Keeps a decompressed archive until it is copied.
    let mut unpacked = None;
    let layout = open_input(store, input, &mut unpacked)?;
    if layout.descriptors().is_empty() {
        return Err(LayoutError::Empty { location: layout.location }.into());
    }
    for descriptor in layout.descriptors() {
        check(&layout, descriptor, MAX_DEPTH)?;
    }
    let mut stage = writer.stage()?;
    let mut entries = Vec::new();
    for descriptor in layout.descriptors() {
        copy(&layout, descriptor, &mut stage, copied)?;
        // What is no name by Docker's rules is kept as it is, as skopeo does.
        let name = ref_name(descriptor).map(|text| {
            text.parse::<Name>().map_or_else(|_| text.to_owned(), |name| name.to_string())
        });
        entries.push((name, descriptor.clone()));
    }
    let loaded = entries
        .iter()
        .map(|(name, descriptor)| Loaded { name: name.clone(), digest: descriptor.digest })
        .collect();
    stage.commit(entries)?;
    Ok(loaded)
}

fn open_input(
    store: &Store,
    input: Input,
    unpacked: &mut Option<TempFile>,
) -> Result<Layout, StoreError> {
    let (path, reader): (PathBuf, Box<dyn Read>) = match input {
        Input::Stream(stream) => (PathBuf::from("standard input"), stream),
        Input::File(path) => {
            let file = File::open(&path).at("open", &path)?;
            let is_file = file.metadata().at("stat", &path)?.is_file();
            if file.metadata().at("stat", &path)?.is_dir() {
                return Err(ArchiveError::NotAFile(path).into());
            }
            if is_file && Magic::of_file(&file).at("read", &path)? == Magic::Plain {
                return Ok(open_file(file, &path, None)?);
            }
            (path, Box::new(file))
        }
    };
    let what = path.display().to_string();
    let mut file = store.temp_file()?;
    unpack(reader, &mut file, &what)?;
    let copy = file.file().try_clone().at("open", file.path())?;
    *unpacked = Some(file);
    Ok(open_file(copy, &path, None)?)
}

/// Copies a stream to a file, decompressed if need be.
fn unpack(reader: impl Read, file: &mut TempFile, what: &str) -> Result<(), StoreError> {
    let input = |error| input_error(error, what);
    // An unsupported compression is refused with a clear error when the file is opened.
    let mut reader = super::decompressed_as_found(reader).map_err(input)?;
    let mut chunk = vec![0; 1 << 18];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => file.write_all(&chunk[..n])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(input(error)),
        }
    }
}

/// Refuses what could not be used later, before anything is copied: images of every platform
/// are opened. Attestations, which BuildKit lists for the platform `unknown`, are no images.
fn check(layout: &Layout, descriptor: &Descriptor, depth: u32) -> Result<(), LayoutError> {
    let fail = |error: ImageError| image_error(descriptor, error);
    if !is_index(&descriptor.media_type) {
        return layout.image_at(&label(descriptor), descriptor).map(drop);
    }
    if depth == 0 {
        return Err(fail(ImageError::TooDeep { digest: descriptor.digest }));
    }
    let mut found = false;
    let index = image::read_index(layout, descriptor).map_err(fail)?;
    for child in &index.manifests {
        let unknown = child.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if !unknown && layout.blob(child.digest)?.is_some() {
            check(layout, child, depth - 1)?;
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    let digest = index.manifests.first().map_or(descriptor.digest, |child| child.digest);
    Err(fail(ImageError::Missing { digest, location: layout.location.clone() }))
}

fn copy(
    layout: &Layout,
    descriptor: &Descriptor,
    stage: &mut Stage<'_>,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    for blob in &claims(layout, descriptor).map_err(|error| image_error(descriptor, error))? {
        match stage.size_of(blob.digest) {
            Some(size) if size == blob.size => continue,
            // It is whole, so that the descriptor is wrong.
            Some(size) => {
                let found = Found::Size(blob.size, size);
                return Err(Mismatch { expected: blob.digest, found }.into());
            }
            None => {}
        }
        let source = layout.blob_of(blob).map_err(|error| image_error(descriptor, error))?;
        let what = format!("blob {} in {}", blob.digest, source.location());
        stage.put_blob(BlobReader::new(source), Expected::from(blob), &what, copied)?;
    }
    Ok(())
}

fn image_error(descriptor: &Descriptor, source: ImageError) -> LayoutError {
    LayoutError::Image { name: label(descriptor), source: Box::new(source) }
}
