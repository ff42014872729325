//! The upload of a blob as a file knows it, for the process that takes it up when this one is
//! killed: a line with the repository, and one with where the upload goes on.
//!
//! It is locked as long as the upload runs, and goes when that is done. Whatever is wrong with it
//! costs no more than a new upload: nothing here is an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Url;

/// A longer file was not written here, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// The file, and the repository that is uploaded to.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    file: File,
    path: PathBuf,
    repository: &'a str,
    /// Whether there is anything to go on with.
    is_known: bool,
}

impl<'a> Kept<'a> {
    /// None if another process uploads the blob now, or there can be no file.
    pub(super) fn lock(path: &Path, repository: &'a str) -> Option<Self> {
        let mut options = OpenOptions::new();
        // Where an upload goes on is nobody else's business.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).inspect_err(|error| complain(path, error)).ok()?;
        file.try_lock().ok()?;
        Some(Self { file, path: path.to_owned(), repository, is_known: false })
    }

    /// Where an earlier upload to the repository goes on.
    pub(super) fn url(&mut self) -> Option<Url> {
        let mut text = String::new();
        (&self.file).take(MAX_FILE).read_to_string(&mut text).ok()?;
        let (repository, url) = text.trim_end().split_once('\n')?;
        self.is_known = true;
        (repository == self.repository).then(|| Url::parse(url).ok()).flatten()
    }

    /// Notes where the upload goes on.
    pub(super) fn keep(&mut self, url: &Url) {
        self.is_known = true;
        let text = format!("{}\n{url}\n", self.repository);
        let written = self.rewrite(&text);
        written.unwrap_or_else(|error| complain(&self.path, &error));
    }

    /// The upload is done.
    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    fn rewrite(&mut self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            // Whoever has it open already shall find nothing in it.
            let gone = self.rewrite("").and_then(|()| fs::remove_file(&self.path));
            gone.unwrap_or_else(|error| complain(&self.path, &error));
        }
    }
}

fn complain(path: &Path, error: &io::Error) {
    tracing::debug!("an upload cannot be taken up: {}: {error}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_found_by_its_repository_alone_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.upload");
        let url = Url::parse("https://r.test/v2/a/blobs/uploads/1?s=2").unwrap();
        let mut kept = Kept::lock(&path, "r.test/a").unwrap();
        assert_eq!(kept.url(), None);
        kept.keep(&Url::parse("https://r.test/longer/than/what/comes/next?and=on").unwrap());
        kept.keep(&url);
        assert!(Kept::lock(&path, "r.test/a").is_none(), "another upload runs");
        drop(kept);
        assert_eq!(Kept::lock(&path, "r.test/b").unwrap().url(), None);
        let mut kept = Kept::lock(&path, "r.test/a").unwrap();
        assert_eq!(kept.url(), Some(url));
        kept.forget();
        drop(kept);
        assert!(!path.exists());
        drop(Kept::lock(&path, "r.test/a"));
        assert!(!path.exists(), "nothing was begun");
        assert!(Kept::lock(Path::new("/no/such/dir/x"), "r.test/a").is_none());
        for damaged in [&b"r.test/a"[..], b"r.test/a\nno url", b"\xff\xfe"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(Kept::lock(&path, "r.test/a").unwrap().url(), None);
        }
    }
}
