//! Where the image comes from in a measurement: its registry, or a registry that is made here of
//! an image on this machine.
//!
//! That registry knows one image and reads only what clients ask for: manifest and blobs, whole or
//! a range (OCI distribution spec, "Pulling").

use std::io::{self, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use kfs_fs::blob::BlobSource;
use kfs_fs::oci::Image;
use kfs_fs::oci::manifest::MANIFEST;

use crate::http::{Head, pass};

/// Bytes of a blob that are read at once.
const PIECE: usize = 256 << 10;

/// A registry with one image. It ends with its value.
#[derive(Debug)]
pub struct Origin(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    image: Image,
    ends: AtomicBool,
}

/// An answer.
struct Answer {
    status: &'static str,
    fields: Vec<(&'static str, String)>,
    body: Content,
}

enum Content {
    None,
    Bytes(Vec<u8>),
    Blob { blob: Arc<dyn BlobSource>, start: u64, len: u64 },
}

impl Origin {
    /// Serves an image at a free port of this machine, under any name.
    pub fn start(image: Image) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { address, image, ends: AtomicBool::new(false) });
        let origin = Self(shared.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ends.load(SeqCst) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || {
                    // A client that goes away in the middle is no fault.
                    drop(shared.serve(&client));
                    drop(client.shutdown(Shutdown::Both));
                });
            }
        });
        Ok(origin)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.0.ends.store(true, SeqCst);
        // Wakes the thread that listens.
        drop(TcpStream::connect(self.0.address));
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut requests = BufReader::new(client);
        while let Some(request) = Head::read(&mut requests)? {
            pass(&mut requests, request.request_body(), &mut |_| Ok(()))?;
            self.answer(&request).write(client, request.word(0) == "HEAD")?;
        }
        Ok(())
    }

    fn answer(&self, request: &Head) -> Answer {
        let target = request.word(1).split('?').next().unwrap_or_default();
        if !matches!(request.word(0), "GET" | "HEAD") {
            return Answer::plain("405 Method Not Allowed");
        }
        if matches!(target, "/v2" | "/v2/") {
            return Answer::plain("200 OK");
        }
        let Some((_, kind, reference)) = split(target) else {
            return Answer::plain("404 Not Found");
        };
        match kind {
            "manifests" => self.manifest(reference),
            _ => self.blob(reference, request.get("Range")),
        }
    }

    /// Whatever the tag is; a digest has to be the right one.
    fn manifest(&self, reference: &str) -> Answer {
        let digest = self.image.digest.to_string();
        if reference.contains(':') && reference != digest {
            return Answer::plain("404 Not Found");
        }
        let kind = self.image.manifest.media_type.clone().unwrap_or_else(|| MANIFEST.to_owned());
        let fields = vec![("Content-Type", kind), ("Docker-Content-Digest", digest)];
        let body = Content::Bytes(self.image.manifest_json.clone());
        Answer { status: "200 OK", fields, body }
    }

    fn blob(&self, digest: &str, range: Option<&str>) -> Answer {
        if self.image.manifest.config.digest.to_string() == digest {
            let body = Content::Bytes(self.image.config_json.clone());
            return Answer { status: "200 OK", fields: Vec::new(), body };
        }
        let layers = &self.image.layers;
        let found = layers.iter().find(|layer| layer.descriptor.digest.to_string() == digest);
        let Some(layer) = found else { return Answer::plain("404 Not Found") };
        let (blob, size) = (layer.blob.clone(), layer.blob.size());
        let Some((start, end)) = range.and_then(|range| bounds(range, size)) else {
            let body = Content::Blob { blob, start: 0, len: size };
            return Answer { status: "200 OK", fields: Vec::new(), body };
        };
        if start >= end {
            let fields = vec![("Content-Range", format!("bytes */{size}"))];
            return Answer { status: "416 Range Not Satisfiable", fields, body: Content::None };
        }
        let fields = vec![("Content-Range", format!("bytes {start}-{}/{size}", end - 1))];
        let body = Content::Blob { blob, start, len: end - start };
        Answer { status: "206 Partial Content", fields, body }
    }
}

/// Repository, `manifests` or `blobs`, and reference of `/v2/REPOSITORY/KIND/REFERENCE`.
fn split(target: &str) -> Option<(&str, &str, &str)> {
    let (rest, reference) = target.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    matches!(kind, "manifests" | "blobs").then_some((repository, kind, reference))
}

/// Start and end of a single range of so many bytes (RFC 9110, 14.1.2); none for what is to be
/// ignored: several ranges, or another unit.
fn bounds(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", suffix) => Some((size.saturating_sub(suffix.parse().ok()?), size)),
        (first, "") => Some((first.parse().ok()?, size)),
        (first, last) => {
            let last: u64 = last.parse().ok()?;
            Some((first.parse().ok()?, last.saturating_add(1).min(size)))
        }
    }
}

impl Answer {
    fn plain(status: &'static str) -> Self {
        Self { status, fields: Vec::new(), body: Content::None }
    }

    fn write(self, client: &TcpStream, head_only: bool) -> io::Result<()> {
        let length = match &self.body {
            Content::None => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Blob { len, .. } => *len,
        };
        let length = length.to_string();
        let mut fields = vec![("Content-Length", length.as_str()), ("Accept-Ranges", "bytes")];
        fields.extend(self.fields.iter().map(|(name, value)| (*name, value.as_str())));
        let mut client = client;
        Head::new(format!("HTTP/1.1 {}", self.status), &fields).write(&mut client)?;
        match self.body {
            _ if head_only => Ok(()),
            Content::None => Ok(()),
            Content::Bytes(bytes) => client.write_all(&bytes),
            Content::Blob { blob, start, len } => copy(blob.as_ref(), start, len, client),
        }
    }
}

fn copy(blob: &dyn BlobSource, mut at: u64, len: u64, mut to: &TcpStream) -> io::Result<()> {
    let end = at + len;
    let mut buffer = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    while at < end {
        let n = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        blob.read_exact_at(at, &mut buffer[..n])?;
        to.write_all(&buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (range, expected) in [
            ("bytes=0-0", Some((0, 1))),
            ("bytes=5-", Some((5, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=5-99", Some((5, 10))),
            ("bytes=10-", Some((10, 10))),
            ("bytes=0-1,4-5", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(bounds(range, 10), expected, "{range}");
        }
    }

    #[test]
    fn targets_are_split_from_their_end() {
        assert_eq!(
            split("/v2/a/manifests/b/blobs/sha256:x"),
            Some(("a/manifests/b", "blobs", "sha256:x"))
        );
        assert_eq!(split("/v2/_catalog"), None);
    }
}
