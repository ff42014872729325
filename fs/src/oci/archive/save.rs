//! Writing images to an archive. The same images give the same bytes: members in a fixed order,
//! owned by root, of the year 1970.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use super::{Format, decompressed_as_found};
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::{Digest, Hasher, VerifyReader};
use crate::error::{AtPath, PathError};
use crate::oci::image::ImageError;
use crate::oci::layout::{LayoutError, Selection};
use crate::oci::manifest::{Descriptor, Index, REF_NAME};
use crate::oci::reference::Name;
use crate::oci::store::{Store, StoreError, TempFile, each_piece, input_error};
use crate::oci::walk::closure;
use crate::oci::{Image, Layer};
use crate::unnamed::WholeFile;

/// The unit of a tar, in bytes.
const BLOCK: usize = 512;

/// Writes images to a file, which appears when it is whole. A device or pipe that is there is
/// written to, by way of a temporary file of `store`, which is asked for only then. Calls `copied`
/// with the number of bytes of each piece.
pub fn save_to_file(
    images: &[Selection],
    format: Format,
    path: &Path,
    store: &dyn Fn() -> Result<Store, StoreError>,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    let file = WholeFile::create(path)?;
    if file.is_there() {
        return pour(&spool(images, format, &store()?, copied)?, &mut file.file(), path);
    }
    write(images, format, &mut Archive { file: file.file(), path, copied })?;
    Ok(file.finish()?)
}

/// Writes images to standard output, or what stands for it, by way of a temporary file of the
/// store.
pub fn save_to_stream(
    images: &[Selection],
    format: Format,
    store: &Store,
    stream: &mut dyn Write,
    copied: &dyn Fn(u64),
) -> Result<(), StoreError> {
    pour(&spool(images, format, store, copied)?, stream, Path::new("standard output"))
}

/// An archive as a temporary file.
fn spool(
    images: &[Selection],
    format: Format,
    store: &Store,
    copied: &dyn Fn(u64),
) -> Result<TempFile, StoreError> {
    let file = store.temp_file()?;
    write(images, format, &mut Archive { file: file.file(), path: file.path(), copied })?;
    Ok(file)
}

/// Writes a whole file to a stream, which `output` names in errors.
fn pour(file: &TempFile, stream: &mut dyn Write, output: &Path) -> Result<(), StoreError> {
    let mut source = file.file();
    source.seek(SeekFrom::Start(0)).at("seek", file.path())?;
    io::copy(&mut source, stream).and_then(|_| stream.flush()).at("write", output)?;
    Ok(())
}

fn write(
    images: &[Selection],
    format: Format,
    archive: &mut Archive<'_>,
) -> Result<(), StoreError> {
    match format {
        Format::Oci => write_oci(images, archive)?,
        Format::Docker => write_docker(images, archive)?,
    }
    // Two zero blocks end a tar.
    archive.write_all(&[0; 2 * BLOCK])
}

fn write_oci(images: &[Selection], archive: &mut Archive<'_>) -> Result<(), StoreError> {
    let mut index = Index::default();
    let mut blobs = BTreeMap::new();
    for image in images {
        let fail = |source| image_error(image, source);
        for blob in closure(&image.layout, &image.descriptor).map_err(fail)? {
            blobs.entry(blob.digest).or_insert((image, blob));
        }
        let mut descriptor = image.descriptor.clone();
        descriptor.annotations.remove(REF_NAME);
        if let Some(name) = image.name() {
            descriptor.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        }
        if !index.manifests.contains(&descriptor) {
            index.manifests.push(descriptor);
        }
    }
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    for (digest, (image, blob)) in &blobs {
        let source = image.layout.blob_of(blob).map_err(|source| image_error(image, source))?;
        let what = source.location();
        archive.read_anywhere(source.as_ref(), |archive| {
            let reader = BlobReader::new(source.clone());
            let reader = VerifyReader::new(reader, blob.digest, blob.size);
            archive.stream(&format!("blobs/sha256/{}", digest.hex()), reader, &what).map(drop)
        })?;
    }
    let json = serde_json::to_vec(&index).expect("an index is plain data");
    archive.bytes("index.json", &json)?;
    archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

fn write_docker(images: &[Selection], archive: &mut Archive<'_>) -> Result<(), StoreError> {
    let mut listed: Vec<Listed> = Vec::new();
    let mut written = HashSet::new();
    for selection in images {
        let image = selection.image()?;
        let tag = selection.name().map(|name| Ok::<_, StoreError>(name.parse::<Name>()?));
        // The full form: podman takes a short one for its own `localhost/`.
        let tag = tag.transpose()?.map(|name| name.canonical());
        let config = format!("{}.json", image.manifest.config.digest.hex());
        if written.insert(config.clone()) {
            archive.bytes(&config, &image.config_json)?;
            for layer in &image.layers {
                if written.insert(layer_name(layer)) {
                    archive.read_anywhere(layer.blob.as_ref(), |archive| {
                        write_layer(layer, archive)
                    })?;
                }
            }
            listed.push(Listed { layers: layer_names(&image), config, repo_tags: Vec::new() });
            listed.last_mut().expect("just pushed").repo_tags.extend(tag);
        } else if let Some(same) = listed.iter_mut().find(|same| same.config == config) {
            let tag = tag.filter(|tag| !same.repo_tags.contains(tag));
            same.repo_tags.extend(tag);
        }
    }
    let json = serde_json::to_vec(&listed).expect("a list of names is plain data");
    archive.bytes("manifest.json", &json)
}

fn layer_names(image: &Image) -> Vec<String> {
    image.layers.iter().map(layer_name).collect()
}

fn layer_name(layer: &Layer) -> String {
    format!("{}.tar", layer.diff_id.digest().hex())
}

/// Docker reads layers uncompressed, under the name that `docker save` gave them. How they are
/// compressed here their first bytes say, as where they are mounted: media types may be wrong.
fn write_layer(layer: &Layer, archive: &mut Archive<'_>) -> Result<(), StoreError> {
    let Descriptor { digest, size, .. } = layer.descriptor;
    let what = format!("layer {digest} in {}", layer.blob.location());
    let mut blob = VerifyReader::new(BlobReader::new(layer.blob.clone()), digest, size);
    let unpacked = decompressed_as_found(&mut blob).map_err(|e| input_error(e, &what));
    let found = unpacked.and_then(|unpacked| archive.stream(&layer_name(layer), unpacked, &what));
    // The digest is checked at the end of the blob, which a decompressor need not reach. A blob
    // that is damaged is told as such, not by what the decompressor makes of it.
    io::copy(&mut blob, &mut io::sink()).map_err(|error| input_error(error, &what))?;
    let found = found?;
    let expected = layer.diff_id.digest();
    if found != expected {
        return Err(StoreError::DiffId { layer: digest, expected, found });
    }
    Ok(())
}

fn image_error(image: &Selection, source: ImageError) -> LayoutError {
    LayoutError::Image { name: image.typed.clone(), source: Box::new(source) }
}

/// A tar that is being written.
struct Archive<'a> {
    file: &'a File,
    /// For messages.
    path: &'a Path,
    copied: &'a dyn Fn(u64),
}

impl Archive<'_> {
    fn directory(&mut self, name: &str) -> Result<(), StoreError> {
        self.write_all(header(name, tar::EntryType::Directory, 0).as_bytes())
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.stream(name, bytes, name).map(drop)
    }

    /// Writes a file whose size is known at its end; returns its digest.
    fn stream(&mut self, name: &str, reader: impl Read, what: &str) -> Result<Digest, StoreError> {
        let start = self.position(SeekFrom::Current(0))?;
        self.write_all(&[0; BLOCK])?;
        let mut hasher = Hasher::new();
        let mut size = 0;
        each_piece(reader, what, |piece| {
            hasher.update(piece);
            self.write_all(piece)?;
            size += piece.len() as u64;
            (self.copied)(piece.len() as u64);
            Ok(())
        })?;
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.write_all(&[0; BLOCK][..usize::try_from(padding).expect("less than a block")])?;
        self.position(SeekFrom::Start(start))?;
        self.write_all(header(name, tar::EntryType::Regular, size).as_bytes())?;
        self.position(SeekFrom::End(0))?;
        Ok(hasher.finish())
    }

    /// Writes what is read of a source; anew where the source's place turns out to be damaged.
    fn read_anywhere(
        &mut self,
        source: &dyn BlobSource,
        mut write: impl FnMut(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let start = self.position(SeekFrom::Current(0))?;
        from_any_place(source, StoreError::is_corrupt, || {
            self.file.set_len(start).at("truncate", self.path)?;
            self.position(SeekFrom::Start(start))?;
            write(self)
        })
    }

    fn position(&mut self, to: SeekFrom) -> Result<u64, PathError> {
        self.file.seek(to).at("seek", self.path)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(self.file.write_all(bytes).at("write", self.path)?)
    }
}

fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    // GNU's format has no limit of 8 GiB a member, and all readers know it.
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("names of members are short and relative");
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}
