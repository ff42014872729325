//! The log of a server that nobody watches: it must not fill the disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::{AtPath, PathError};

/// In bytes: some thousand lines.
const LIMIT: u64 = 1 << 20;

/// A file that starts over when it has grown to 1 MiB.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens `path` and goes on at its end.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let file = File::options().create(true).append(true).open(path).at("open", path)?;
        let size = file.metadata().at("stat", path)?.len();
        Ok(Self { file, size })
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size >= LIMIT {
            self.file.set_len(0)?;
            self.size = 0;
        }
        let n = self.file.write(line)?;
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        let line = [b'x'; 1000];
        for _ in 0..3000 {
            log.write_all(&line).unwrap();
        }
        let size = path.metadata().unwrap().len();
        assert!((1..=LIMIT + 1000).contains(&size), "{size}");
        let again = LogFile::open(&path).unwrap();
        assert_eq!(again.size, size);
    }
}
