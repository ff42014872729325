//! Copies of single images to a store or to an OCI layout, from wherever they lie.
//!
//! An image appears when all its blobs are there and verified. Its bytes stay the same, and with
//! them its digest. Archives are written by `archive::save`, registries by `transfer`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::Path;

use super::image::{ImageError, choose_manifest};
use super::layout::{self, FoundBy, Layout, LayoutError, Selection};
use super::manifest::{Descriptor, Index, MAX_JSON, REF_NAME, is_index};
use super::reference::Name;
use super::store::{Expected, Store, StoreError, each_piece, put_entries};
use super::walk::whole_closure;
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::VerifyReader;
use crate::error::{AtPath, PathError};
use crate::unnamed::{HIDDEN, UnnamedFile};

/// What lies in a layout before its first `index.json`.
const UNFINISHED: [&str; 2] = ["blobs", "oci-layout"];

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
    read_index(dir)?;
    let blobs_dir = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs_dir).at("create", &blobs_dir)?;
    drop(lock_layout(dir)?);
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
    let _lock = lock_layout(dir)?;
    let mut index = read_index(dir)?;
    let name = layout::ref_name(&selection.descriptor).map(str::to_owned);
    put_entries(&mut index, vec![(name, selection.descriptor.clone())]);
    let json = serde_json::to_vec(&index).expect("an index is plain data");
    let path = dir.join("index.json");
    if json.len() as u64 > MAX_JSON {
        return Err(StoreError::Full { path });
    }
    put_file(&path, dir, &json)?;
    Ok(File::open(dir).and_then(|dir| dir.sync_all()).at("sync", dir)?)
}

/// Locks a layout, so that copies to it change its index one after the other. The lock is on the
/// file that says that it is one, which is written if it is new and never replaced.
fn lock_layout(dir: &Path) -> Result<File, PathError> {
    let path = dir.join("oci-layout");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.at("open", &path)?;
    file.lock().at("lock", &path)?;
    if file.metadata().at("stat", &path)?.len() == 0 {
        file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#).at("write", &path)?;
        file.sync_all().at("write", &path)?;
    }
    Ok(file)
}

/// What a layout lists: nothing, if its directory is to be made, is empty, or has but what a copy
/// leaves that was broken off.
fn read_index(dir: &Path) -> Result<Index, LayoutError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
        entries => entries.at("open", dir)?,
    };
    for entry in entries {
        let name = entry.at("read", dir)?.file_name();
        let name = name.to_string_lossy();
        if !UNFINISHED.contains(&name.as_ref()) && !name.starts_with(HIDDEN) {
            return Ok(Layout::open(dir)?.index);
        }
    }
    Ok(Index::default())
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
    reader: impl Read,
    what: &str,
    dir: &Path,
    path: &Path,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    let target = UnnamedFile::new_in(dir).at("create", path)?;
    each_piece(reader, what, |piece| {
        target.file().write_all(piece).at("write", path)?;
        copied(piece.len() as u64);
        Ok(())
    })?;
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::oci::fixture::Fixture;

    fn copy(fixture: &Fixture, dir: &Path, tag: &str) -> Result<(), StoreError> {
        let selection = fixture.store.layout().unwrap().select(Some("a:1"), "a:1").unwrap();
        let selection = narrow(&selection, false, Some(tag.to_owned())).unwrap();
        copy_to_layout(&selection, dir, &|_| ())
    }

    #[test]
    fn a_copy_that_was_killed_is_done_again() {
        let fixture = Fixture::new();
        fixture.image("a:1", &["x"]);
        for (number, left) in ["blobs/sha256/x", "oci-layout", ".new-1-2"].into_iter().enumerate() {
            let dir = fixture.path(&number.to_string());
            fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
            fs::write(dir.join(left), "").unwrap();
            copy(&fixture, &dir, "one").unwrap();
            assert_eq!(Layout::open(&dir).unwrap().descriptors().len(), 1, "{left}");
        }
        let dir = fixture.path("foreign");
        fs::create_dir_all(dir.join("blobs")).unwrap();
        fs::write(dir.join("x"), "").unwrap();
        assert!(copy(&fixture, &dir, "one").is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    #[test]
    fn copies_to_one_layout_all_have_their_names() {
        let fixture = Fixture::new();
        fixture.image("a:1", &["x"]);
        let dir = fixture.path("layout");
        thread::scope(|scope| {
            for number in 0..8 {
                let (fixture, dir) = (&fixture, &dir);
                scope.spawn(move || copy(fixture, dir, &format!("t{number}")).unwrap());
            }
        });
        assert_eq!(Layout::open(&dir).unwrap().descriptors().len(), 8);
    }
}
