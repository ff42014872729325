//! Memory does not grow with the table of contents of a layer. One test in a process of its own:
//! what is measured is the peak of the whole process.

mod images;

use std::fs;
use std::io::{self, Read, Write};

use images::{image, index_dir, layer};
use kfs_fs::digest::Digest;
use kfs_fs::filesystem::{ImageFs, OpenError};
use kfs_fs::layer::scan::LayerError;
use kfs_fs::layer::toc::error::TocError;
use kfs_fs::layer::toc::footer::{Position, zstd_chunked};
use kfs_fs::layer::toc::{MANIFEST_CHECKSUM, SKIPPABLE_MAGIC, ZSTD_CHUNKED_PREFIX};
use kfs_fs::oci::Layer;

const MIB: u64 = 1 << 20;
const ENTRIES: u64 = 20_000;

/// A table of this many bytes: entries with a field that nobody knows, and blanks at the end.
fn table(len: u64) -> impl Read {
    let padding = "x".repeat(5000);
    let entries = (0..ENTRIES).map(move |number| {
        let comma = if number == 0 { "" } else { "," };
        format!(r#"{comma}{{"type":"fifo","name":"dir{}/{number}","x":"{padding}"}}"#, number % 99)
    });
    let texts = std::iter::once(r#"{"version":1,"entries":["#.to_owned()).chain(entries);
    let mut texts = texts.chain(std::iter::once("]}".to_owned()));
    let mut text = io::Cursor::new(Vec::new());
    let read = move |buf: &mut [u8]| loop {
        match text.read(buf)? {
            0 => match texts.next() {
                Some(next) => text = io::Cursor::new(next.into_bytes()),
                None => return Ok(0),
            },
            n => return Ok(n),
        }
    };
    Reads(read).chain(io::repeat(b' ')).take(len)
}

struct Reads<F>(F);

impl<F: FnMut(&mut [u8]) -> io::Result<usize>> Read for Reads<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (self.0)(buf)
    }
}

fn skippable(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&SKIPPABLE_MAGIC[..], &len.to_le_bytes(), data].concat()
}

/// A zstd:chunked layer with such a table.
fn layer_of(len: u64) -> Layer {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut table(len), &mut encoder).unwrap();
    encoder.flush().unwrap();
    let packed = encoder.finish().unwrap();
    let toc = Position { offset: 8, len: packed.len() as u64, uncompressed_len: len };
    let footer = skippable(&zstd_chunked(toc, Position::default()));
    let mut layer = layer([skippable(&packed), footer].concat(), b"");
    let key = format!("{ZSTD_CHUNKED_PREFIX}{MANIFEST_CHECKSUM}");
    layer.descriptor.annotations.insert(key, Digest::of(&packed).to_string());
    layer
}

/// A field of this process's status, in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_does_not_grow_with_a_table_of_contents() {
    let image_of = |len| image(vec![layer_of(len)]);
    let large = image_of(200 * MIB);
    let too_large = image_of(300 * MIB);
    // 5 sets the peak back to what is used now (proc(5), clear_refs).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let indexes = index_dir();
    let fs = ImageFs::open(&large, indexes.path(), &|_| ()).unwrap();
    assert_eq!(fs.totals().inodes, ENTRIES + 99 + 1);
    let grown = status("VmHWM").saturating_sub(before) / MIB;
    eprintln!("{grown} MiB for a table of 200 MiB");
    assert!(grown < 32, "{grown} MiB");

    let error = ImageFs::open(&too_large, indexes.path(), &|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Layer(LayerError::Toc { source: TocError::TooLarge { .. }, .. })
        ),
        "{error}"
    );
}
