//! A file behind a URL: fetched once, kept as a blob, asked for again by what the server said.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use kfs_fs::digest::Digest;
use kfs_fs::error::AtPath;
use kfs_fs::oci::manifest::Descriptor;
use kfs_fs::oci::registry::Registries;
use kfs_fs::oci::registry::download::{Download, Validators, file_name};
use kfs_fs::oci::store::{Expected, StoreError, Writer};
use serde::{Deserialize, Serialize};

use super::{Depot, RemoteError, Wish};
use crate::context::Context;
use crate::interrupt::Interrupts;

/// Permission bits of what comes from a URL (Dockerfile reference, "ADD").
const MODE: u32 = 0o600;

/// How long is waited before each further attempt.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2)];

/// A file that the store has.
#[derive(Debug)]
pub(super) struct HttpFile {
    /// The last name of the URL's path.
    pub(super) name: String,
    pub(super) digest: Digest,
    etag: Option<String>,
    /// `Last-Modified`; none if the server does not say.
    modified: Option<SystemTime>,
}

/// What the build cache knows of a URL.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The blob, under the name by which `kfs prune` finds what a record needs.
    layer: Descriptor,
    #[serde(flatten)]
    validators: Validators,
}

impl HttpFile {
    pub(super) fn fetch(url: &str, wish: Wish<'_>, depot: Depot<'_>) -> Result<Self, RemoteError> {
        let name = file_name(url).or_else(|| name_of_dest(wish.dest));
        let name = name.ok_or_else(|| RemoteError::NoName(url.to_owned()))?;
        let key = Digest::of(format!("kfs-download-1\n{url}").as_bytes());
        let known = depot.cache.note::<Record>(key)?.filter(|record| {
            let path = depot.writer.blob_path(record.layer.digest);
            path.metadata().is_ok_and(|metadata| metadata.len() == record.layer.size)
        });
        let file = |record: &Record| {
            let modified = record.validators.modified();
            let etag = record.validators.etag.clone();
            Self { name: name.clone(), digest: record.layer.digest, etag, modified }
        };
        if let Some(known) = &known
            && wish.checksum == Some(known.layer.digest)
        {
            return Ok(file(known));
        }
        // What another checksum is wanted of must be another file.
        let known = known.filter(|_| wish.checksum.is_none());
        let Some(client) = &depot.writer.lookup().registries else {
            return Err(RemoteError::NoClient(url.to_owned()));
        };
        let get = || match ask(client, url, known.as_ref())? {
            Some(download) => receive(url, download, wish, depot).map(Some),
            None => Ok(None),
        };
        let Some(record) = patiently(get, depot.interrupts)? else {
            return Ok(file(known.as_ref().expect("only what is known is not sent")));
        };
        depot.cache.put_note(key, &record)?;
        Ok(file(&record))
    }

    /// What tells it from what was there before.
    pub(super) fn version(&self) -> String {
        match &self.etag {
            Some(etag) => format!("{} (ETag {etag})", self.digest),
            None => self.digest.to_string(),
        }
    }

    /// Puts the file alone into a new directory.
    pub(super) fn lay_out(&self, place: &Path, writer: &Writer) -> Result<Context, RemoteError> {
        fs::create_dir(place).at("make directory", place)?;
        let (blob, path) = (writer.blob_path(self.digest), place.join(&self.name));
        fs::copy(&blob, &path).at("copy", &blob)?;
        fs::set_permissions(&path, Permissions::from_mode(MODE)).at("chmod", &path)?;
        if let Some(modified) = self.modified {
            let set = File::options().write(true).open(&path);
            set.and_then(|file| file.set_modified(modified)).at("set time of", &path)?;
        }
        Ok(Context::open(place)?)
    }
}

/// Tries again what a server or the network may do better the next time.
fn patiently<T>(
    mut get: impl FnMut() -> Result<T, RemoteError>,
    interrupts: &Interrupts,
) -> Result<T, RemoteError> {
    for pause in PAUSES {
        let error = match get() {
            Err(error) if may_pass(&error) => error,
            result => return result,
        };
        tracing::warn!("{error}; trying again");
        let over = Instant::now() + pause;
        while Instant::now() < over {
            interrupts.check()?;
            thread::sleep(Duration::from_millis(20));
        }
    }
    get()
}

/// Whether an error is of the network, or of a server that says that it cannot answer now.
fn may_pass(error: &RemoteError) -> bool {
    match error {
        RemoteError::Download(error) => error.is_transient,
        // The body breaks off.
        RemoteError::Store(StoreError::Input { .. }) => true,
        _ => false,
    }
}

/// What the server sends; none if that is what is known.
fn ask(
    client: &Registries,
    url: &str,
    known: Option<&Record>,
) -> Result<Option<Download>, RemoteError> {
    let validators = known.map(|known| known.validators.clone()).unwrap_or_default();
    Ok(client.download(url, &validators)?)
}

fn receive(
    url: &str,
    download: Download,
    wish: Wish<'_>,
    depot: Depot<'_>,
) -> Result<Record, RemoteError> {
    let Download { validators, body } = download;
    let body = Interruptible { body, interrupts: depot.interrupts };
    let stored = depot.writer.put_blob(body, Expected::default(), url);
    depot.interrupts.check()?;
    let (digest, size) = stored?;
    if let Some(expected) = wish.checksum.filter(|expected| *expected != digest) {
        return Err(RemoteError::Checksum { url: url.to_owned(), found: digest, expected });
    }
    Ok(Record { layer: Descriptor::new("application/octet-stream", digest, size), validators })
}

/// The last name of a destination that is no directory.
fn name_of_dest(dest: &str) -> Option<String> {
    let name = dest.rsplit('/').next().unwrap_or_default();
    let is_name = !matches!(name, "" | "." | "..");
    is_name.then(|| name.to_owned())
}

/// A body that ends with the build.
pub(super) struct Interruptible<'i> {
    pub(super) body: Box<dyn Read + Send>,
    pub(super) interrupts: &'i Interrupts,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupts.check().map_err(io::Error::other)?;
        self.body.read(buf)
    }
}
