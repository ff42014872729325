//! Copies of single images to a store or to an OCI layout, from wherever they lie.
//!
//! An image appears when all its blobs are there and verified. Its bytes stay the same, and with
//! them its digest. Archives are written by `archive::save`, registries by `transfer`.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;

use super::image::{ImageError, choose_manifest};
use super::layout::{self, FoundBy, Layout, LayoutError, Selection};
use super::manifest::{Descriptor, Index, MAX_JSON, REF_NAME, is_index};
use super::reference::Name;
use super::store::{Expected, Store, StoreError, input_error, put_entries};
use super::walk::whole_closure;
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::VerifyReader;
use crate::error::{AtPath, PathError};
use crate::unnamed::UnnamedFile;

/// How much is copied at once, in bytes.
const CHUNK: usize = 1 << 18;

/// What is copied of a selection: of an index the image for the wanted platform, or with `all` the
/// whole; under `name`, else under the name that goes with it.
pub fn narrow(
    selection: &Selection,
    all: bool,
    name: Option<String>,
) -> Result<Selection, LayoutError> {
    let top = &selection.descriptor;
    if all && is_index(&top.media_type) {
        // Whoever wants all platforms shall not get some.
        whole_closure(&selection.layout, top).map_err(|error| broken(selection, error))?;
    }
    let mut descriptor = match all {
        true => top.clone(),
        false => choose_manifest(&selection.layout, top).map_err(|e| broken(selection, e))?,
    };
    let name = name.or_else(|| selection.name().map(str::to_owned));
    descriptor.annotations.remove(REF_NAME);
    descriptor.annotations.extend(name.map(|name| (REF_NAME.to_owned(), name)));
    Ok(Selection { descriptor, by: FoundBy::Name, ..selection.clone() })
}

/// Copies an image to a store, which keeps it under the name. Calls `copied` with the number of
/// bytes of each piece.
pub fn copy_to_store(
    selection: &Selection,
    store: &Store,
    name: &Name,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    if name.digest().is_some() {
        return Err(StoreError::DigestInName(name.to_string()));
    }
    if !is_index(&selection.descriptor.media_type) {
        // It can be opened, before anything is copied.
        selection.image()?;
    }
    let writer = store.writer()?;
    let mut stage = writer.stage()?;
    for (blob, source) in blobs(selection)? {
        if !store.has(&blob) {
            let what = source.location();
            from_any_place(source.as_ref(), StoreError::is_corrupt, || {
                let reader = BlobReader::new(source.clone());
                stage.put_blob(reader, Expected::from(&blob), &what, copied)
            })?;
        }
    }
    stage.commit(vec![(Some(name.to_string()), selection.descriptor.clone())])
}

/// Copies an image to the layout in a directory, which is made if it is not there; beside the
/// images that it has, but for one of the same name, which loses it. Calls `copied` with the
/// number of bytes of each piece.
pub fn copy_to_layout(
    selection: &Selection,
    dir: &Path,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    let is_new = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let mut index = if is_new { Index::default() } else { Layout::open(dir)?.index };
    let blobs_dir = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs_dir).at("create", &blobs_dir)?;
    for (blob, source) in blobs(selection)? {
        let path = layout::blob_path(dir, blob.digest);
        let is_there = |file: fs::Metadata| file.is_file() && file.len() == blob.size;
        if !fs::metadata(&path).is_ok_and(is_there) {
            let what = source.location();
            from_any_place(source.as_ref(), StoreError::is_corrupt, || {
                let reader = BlobReader::new(source.clone());
                let reader = VerifyReader::new(reader, blob.digest, blob.size);
                put_blob(reader, &what, &blobs_dir, &path, copied)
            })?;
        }
    }
    File::open(&blobs_dir).and_then(|dir| dir.sync_all()).at("sync", &blobs_dir)?;
    let name = layout::ref_name(&selection.descriptor).map(str::to_owned);
    put_entries(&mut index, vec![(name, selection.descriptor.clone())]);
    let json = serde_json::to_vec(&index).expect("an index is plain data");
    let path = dir.join("index.json");
    if json.len() as u64 > MAX_JSON {
        return Err(StoreError::Full { path });
    }
    put_file(&dir.join("oci-layout"), dir, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(put_file(&path, dir, &json)?)
}

type Blob = (Descriptor, std::sync::Arc<dyn BlobSource>);

/// All blobs of an image.
fn blobs(selection: &Selection) -> Result<Vec<Blob>, LayoutError> {
    let layout = &selection.layout;
    let all =
        whole_closure(layout, &selection.descriptor).map_err(|error| broken(selection, error))?;
    let open = |blob: Descriptor| {
        let source = layout.blob_of(&blob).map_err(|error| broken(selection, error))?;
        Ok((blob, source))
    };
    all.into_iter().map(open).collect()
}

fn put_blob(
    mut reader: impl Read,
    what: &str,
    dir: &Path,
    path: &Path,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    let target = UnnamedFile::new_in(dir).at("create", path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(input_error(error, what)),
        };
        target.file().write_all(&chunk[..n]).at("write", path)?;
        copied(n as u64);
    }
    target.file().sync_all().at("write", path)?;
    Ok(target.persist(path).at("write", path)?)
}

fn put_file(path: &Path, dir: &Path, bytes: &[u8]) -> Result<(), PathError> {
    let target = UnnamedFile::new_in(dir).at("create", path)?;
    target.file().write_all(bytes).at("write", path)?;
    target.file().sync_all().at("write", path)?;
    target.persist(path).at("write", path)
}

fn broken(selection: &Selection, source: ImageError) -> LayoutError {
    LayoutError::Image { name: selection.typed.clone(), source: Box::new(source) }
}
