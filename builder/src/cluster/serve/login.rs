//! Who may pull: a file of names and bcrypt hashes, as `htpasswd -B` writes it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kfs_fs::digest::Digest;
use kfs_fs::error::{AtPath, PathError};

/// A hash of a higher cost would take seconds, which is too long for a request.
const MAX_COST: u32 = 14;

/// Names and the hashes of their passwords.
pub struct Logins {
    hashes: HashMap<String, String>,
    /// Headers that were found right: a check takes a tenth of a second, on purpose. Only digests
    /// of them, so that no password stays in memory.
    right: Mutex<Vec<Digest>>,
}

/// As many right headers are remembered.
const REMEMBERED: usize = 64;

/// Why a file of logins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// It cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A line that is none of the format.
    #[error("{}:{line}: {problem}; make the file with `htpasswd -B`", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logins({} names)", self.hashes.len())
    }
}

impl Logins {
    /// Reads a file.
    pub fn open(file: &Path) -> Result<Self, HtpasswdError> {
        let text = std::fs::read_to_string(file).at("read", file)?;
        let mut hashes = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let wrong =
                |problem| HtpasswdError::Line { file: file.to_owned(), line: at + 1, problem };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').ok_or_else(|| wrong("there is no colon"))?;
            let hash = hash.trim();
            if !["$2y$", "$2a$", "$2b$"].iter().any(|kind| hash.starts_with(kind)) {
                return Err(wrong("the hash is not bcrypt"));
            }
            let cost = hash.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
            if cost.is_none_or(|cost| cost > MAX_COST) {
                return Err(wrong("the cost of the hash is malformed or above 14"));
            }
            hashes.insert(name.to_owned(), hash.to_owned());
        }
        Ok(Self { hashes, right: Mutex::default() })
    }

    /// Whether an `Authorization` header was found right before.
    pub(super) fn knows(&self, header: &[u8]) -> bool {
        let digest = Digest::of(header);
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }

    /// Whether an `Authorization` header is right. Takes its time; call it where that may be.
    pub(super) fn admit(&self, header: &[u8]) -> bool {
        if self.knows(header) {
            return true;
        }
        let digest = Digest::of(header);
        let admitted = self.check(header).unwrap_or(false);
        if admitted {
            let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            if right.len() == REMEMBERED {
                right.remove(0);
            }
            right.push(digest);
        }
        admitted
    }

    fn check(&self, header: &[u8]) -> Option<bool> {
        let (scheme, rest) = std::str::from_utf8(header).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = BASE64_STANDARD.decode(rest.trim()).ok()?;
        let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        bcrypt::verify(password, self.hashes.get(name)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(text: &str) -> Result<Logins, HtpasswdError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Logins::open(file.path())
    }

    #[test]
    fn only_the_right_password_is_admitted() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let logins = logins(&format!("# who\nada:{hash}\n\n")).unwrap();
        let admit = |text: &str| {
            let header = format!("Basic {}", BASE64_STANDARD.encode(text));
            let admitted = logins.admit(header.as_bytes());
            assert_eq!(logins.knows(header.as_bytes()), admitted);
            admitted
        };
        for _ in 0..2 {
            assert!(admit("ada:secret"));
            assert!(!admit("ada:wrong") && !admit("bob:secret") && !admit("ada"));
        }
        assert!(!logins.admit(b"Bearer x") && !logins.admit(b"\xff"));
    }

    #[test]
    fn a_file_of_another_kind_is_told() {
        for (text, expected) in [
            ("ada", ":1: there is no colon"),
            ("\nada:$apr1$x$y", ":2: the hash is not bcrypt"),
            ("ada:$2y$31$x", ":1: the cost"),
        ] {
            let error = logins(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
