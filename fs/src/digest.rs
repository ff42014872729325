//! Content digests, and a reader that refuses to end on a mismatch.
//!
//! `Digest` names bytes as they are stored (a blob); `DiffId` names the uncompressed tar stream
//! of a layer. They are two types so that one is never taken for the other.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The sha256 digest of a blob, written `sha256:<64 hex digits>` (OCI image spec, descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// The digest of a layer's uncompressed tar stream (OCI image spec, config.md, `diff_ids`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(Digest);

/// Why a string is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// Another algorithm than sha256.
    #[error("digest {0:?} uses an unsupported algorithm, only sha256 is known")]
    Algorithm(String),
    /// Not `algorithm:hex` with 64 lower-case hex digits.
    #[error("{0:?} is not a digest, expected sha256:<64 lower-case hex digits>")]
    Malformed(String),
}

impl Digest {
    /// The digest with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm: the name of the blob in an OCI layout.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The first 12 hex digits, as people are shown.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl DiffId {
    /// The diffID whose tar stream has this digest.
    pub const fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest of the tar stream.
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(text.to_owned()));
        }
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(malformed());
        }
        // A table of contents has a hundred thousand of them.
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low;
        }
        if seen == NO_NIBBLE { Err(malformed()) } else { Ok(Self(bytes)) }
    }
}

/// The values of lower-case hex digits, and of all other bytes.
static NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_NIBBLE; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};

const NO_NIBBLE: u8 = 0xff;

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes what is written to it.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// What a blob turned out to be, when it is not what its descriptor says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("blob {expected} is corrupt: {found}")]
pub struct Mismatch {
    /// The digest that the descriptor names.
    pub expected: Digest,
    /// What was found in its place.
    pub found: Found,
}

/// The part of a descriptor that did not hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Another digest.
    Digest(Digest),
    /// Another size in bytes (`expected`, `found` so far).
    Size(u64, u64),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => write!(f, "its content has digest {digest}"),
            Self::Size(want, got) if got > want => write!(f, "it is longer than its {want} bytes"),
            Self::Size(want, got) => write!(f, "it ends after {got} of {want} bytes"),
        }
    }
}

impl From<Mismatch> for io::Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(io::ErrorKind::InvalidData, mismatch)
    }
}

/// Passes bytes on and turns the end of the stream into an error unless exactly `size` bytes
/// with the expected digest went through. The check fires at EOF: a consumer that stops early has
/// to drain the reader first.
#[derive(Debug)]
pub struct VerifyReader<R> {
    inner: R,
    expected: Digest,
    size: u64,
    seen: u64,
    hasher: Option<Hasher>,
}

impl<R: Read> VerifyReader<R> {
    /// Verifies `inner` against a descriptor's digest and size.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        Self { inner, expected, size, seen: 0, hasher: Some(Hasher::new()) }
    }

    fn check_end(&mut self) -> Result<(), Mismatch> {
        // The hasher is gone once the end was checked; later reads at EOF are fine.
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if self.seen != self.size {
            return Err(self.mismatch(Found::Size(self.size, self.seen)));
        }
        let digest = hasher.finish();
        if digest != self.expected {
            return Err(self.mismatch(Found::Digest(digest)));
        }
        Ok(())
    }

    fn mismatch(&self, found: Found) -> Mismatch {
        Mismatch { expected: self.expected, found }
    }
}

impl<R: Read> Read for VerifyReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if n == 0 && !buf.is_empty() {
            self.check_end()?;
            return Ok(0);
        }
        self.seen += n as u64;
        if self.seen > self.size {
            return Err(self.mismatch(Found::Size(self.size, self.seen)).into());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips_and_rejects() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        for bad in ["", "sha256", "sha256:00", &text.to_uppercase(), &text[..70], "sha256:zz"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let sha512 = format!("sha512:{}", "0".repeat(128));
        assert_eq!(sha512.parse::<Digest>(), Err(DigestError::Algorithm(sha512)));
    }

    fn verify(data: &[u8], expected: Digest, size: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        VerifyReader::new(data, expected, size).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn verify_reader_passes_the_right_bytes_only() {
        let digest = Digest::of(b"hello");
        assert_eq!(verify(b"hello", digest, 5).unwrap(), b"hello");
        for (data, size) in [(&b"hellO"[..], 5), (b"hell", 5), (b"hello!", 5), (b"hello", 4)] {
            let error = verify(data, digest, size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains(&digest.to_string()), "{error}");
        }
    }
}
