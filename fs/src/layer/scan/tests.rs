use std::io::Write;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

use super::*;
use crate::blob::{BlobSource, FileBlob};
use crate::layer::index::ViewKind;
use crate::oci::manifest::{Descriptor, LAYER_TAR};
use crate::sys::WINDOW;

/// A layer whose blob is `data` and whose content is `content`.
fn layer(dir: &Path, data: &[u8], content: &[u8]) -> Layer {
    let path = dir.join("blob");
    std::fs::write(&path, data).unwrap();
    Layer {
        descriptor: Descriptor::of(LAYER_TAR, data),
        diff_id: DiffId::new(Digest::of(content)),
        blob: Arc::new(FileBlob::open(&path).unwrap()),
        ztoc: None,
    }
}

/// A tar of one file of `size` bytes that do not compress well, and a small one.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    })
    .take(size)
    .collect();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in [("big", &noise[..]), ("small", b"hello")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    gzip_level(data, 1)
}

fn gzip_level(data: &[u8], level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// All spans decoded and put together, each held against its hash.
fn content(layer: &Layer, index: &LayerIndex) -> Vec<u8> {
    let mut content = Vec::new();
    for number in 0..index.span_count() {
        assert_eq!(index.span(number).unwrap().content_offset, content.len() as u64);
        content.extend(crate::span::decode(index, layer.blob.as_ref(), number).unwrap());
    }
    content
}

fn check(data: &[u8], tar: &[u8], min_spans: usize) {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(dir.path(), data, tar);
    let index = open_or_scan(&layer, dir.path(), &|_| ()).unwrap();
    assert_eq!(index.len(), 2);
    let file = index.entry(1).unwrap();
    assert_eq!((file.path, file.kind, file.size), (&b"small"[..], ViewKind::File, 5));
    assert!(index.span_count() >= min_spans, "{} spans", index.span_count());
    assert!(content(&layer, &index) == tar, "the content differs");
    assert_eq!(index.summary().content_len, tar.len() as u64);
    drop(index);
    let mut broken = layer.clone();
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    broken.blob = Arc::new(FileBlob::open(&dir.path().join("empty")).unwrap());
    assert!(open_or_scan(&broken, dir.path(), &|_| ()).is_ok(), "the index was made again");
}

#[test]
fn every_coding_is_cut_into_spans_that_decode_alone() {
    let tar = sample(5 << 20);
    check(&tar, &tar, 20);
    check(&gzip_level(&tar, 6), &tar, 20);
    let frames: Vec<u8> = tar.chunks(300_000).flat_map(zstd_frame).collect();
    check(&frames, &tar, 4);
}

#[test]
fn what_has_no_place_to_start_from_is_unpacked() {
    let tar = sample(40 << 20);
    check(&zstd_frame(&tar), &tar, 100);
    // zlib-rs makes one block of it all at level 1.
    check(&gzip(&tar), &tar, 100);
}

/// A tar of one file that is made of copies of what came before, mostly not long before.
fn copies(size: usize) -> Vec<u8> {
    let noise = sample(size);
    let mut data = noise[..4096].to_vec();
    let mut numbers =
        noise.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    while data.len() < size {
        let number = numbers.next().unwrap() as usize;
        let (back, len) = (1 + number % 40_000, 3 + number % 47);
        let place = data.len().saturating_sub(back);
        data.extend_from_within(place..(place + len).min(data.len()));
        data.push(number.to_le_bytes()[0]);
    }
    data
}

#[test]
fn of_a_window_only_that_is_kept_which_its_span_needs() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let data = copies(3 << 20);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, "copies", &data[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    for level in [2, 6, 9] {
        let blob = gzip_level(&tar, level);
        let layer = layer(dir.path(), &blob, &tar);
        let index = scan(&layer, dir.path(), &|_| ()).unwrap();
        assert!(index.span_count() > 10, "level {level}: {} spans", index.span_count());
        assert!(content(&layer, &index) == tar, "level {level}: the content differs");
        let bits = (0..index.span_count()).filter(|number| index.span(*number).unwrap().bits > 0);
        assert!(bits.count() > 5, "level {level}: places inside of bytes");
        for number in 1..index.span_count() {
            let window = ::zstd::bulk::decompress(index.window(number).unwrap(), WINDOW).unwrap();
            let kept = window.iter().filter(|byte| **byte != 0).count();
            assert!((100..WINDOW / 2).contains(&kept), "level {level}: {kept} of span {number}");
        }
    }
}

fn zstd_frame(data: &[u8]) -> Vec<u8> {
    ::zstd::bulk::compress(data, 1).unwrap()
}

#[test]
fn gzip_of_several_members_with_header_fields_and_padding() {
    let tar = sample(3 << 20);
    let mut members = Vec::new();
    for (at, chunk) in tar.chunks(700_001).enumerate() {
        let mut builder = flate2::GzBuilder::new().filename(format!("part{at}")).mtime(7);
        builder = builder.comment("a comment").extra(vec![1, 2, 3]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::default());
        encoder.write_all(chunk).unwrap();
        members.extend(encoder.finish().unwrap());
        members.extend(vec![0; at * 1000]);
    }
    check(&members, &tar, 2);
}

/// A frame by hand (RFC 8878): one raw block, no checksum.
fn tiny_frame(content: &[u8]) -> Vec<u8> {
    let len = u8::try_from(content.len()).unwrap();
    let block = (u32::from(len) << 3 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, len], &block[..3], content].concat()
}

#[test]
fn zstd_frames_of_any_size_end_where_pieces_do() {
    let mut tar = sample(2 << 20);
    tar.resize(tar.len().next_multiple_of(262_144), 0);
    for size in [tar.len(), 524_288, 262_144, 131_072, 262_143] {
        check(&tar.chunks(size).flat_map(zstd_frame).collect::<Vec<u8>>(), &tar, 1);
    }
    let frames: Vec<u8> = tar.chunks(100).flat_map(tiny_frame).collect();
    check(&frames, &tar, 1);
}

/// A frame without content (RFC 8878, section 3.1.2); number 14 is a table of the seekable format.
fn skippable(number: u8, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&[0x50 + number, 0x2a, 0x4d, 0x18], &len.to_le_bytes()[..], data].concat()
}

#[test]
fn small_and_huge_zstd_frames_and_those_without_content() {
    let tar = sample(24 << 20);
    let (start, rest) = tar.split_at(2 << 20);
    let (huge, end) = rest.split_at(20 << 20);
    let mut data = skippable(0, b"");
    data.extend(start.chunks(300_000).flat_map(zstd_frame));
    data.extend(skippable(3, &[7; 300_000]));
    data.extend(zstd_frame(b""));
    data.extend(zstd_frame(huge));
    data.extend(skippable(1, b"x"));
    data.extend(end.chunks(300_000).flat_map(zstd_frame));
    data.extend(skippable(14, &[1; 100]));
    check(&data, &tar, 20);
    // Only the frame that is too large is unpacked.
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(dir.path(), &data, &tar);
    let index = scan(&layer, dir.path(), &|_| ()).unwrap();
    let unpacked = (0..index.span_count())
        .map(|number| index.span(number).unwrap())
        .filter(|span| span.coding == Coding::Unpacked);
    let unpacked: u64 = unpacked.map(|span| span.content_len).sum();
    assert!((20 << 20..22 << 20).contains(&unpacked), "{unpacked} bytes are unpacked");
}

#[test]
fn stored_deflate_blocks_and_empty_members() {
    let tar = sample(3 << 20);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(&tar).unwrap();
    let mut data = gzip(b"");
    data.extend(encoder.finish().unwrap());
    data.extend(gzip(b""));
    check(&data, &tar, 2);
}

fn error(data: &[u8], change: impl Fn(&mut Layer, &Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let tar = sample(2 << 20);
    let mut layer = layer(dir.path(), data, &tar);
    change(&mut layer, dir.path());
    let error = open_or_scan(&layer, dir.path(), &|_| ()).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "something half-written is left: {left:?}");
    error.to_string()
}

#[test]
fn broken_blobs_are_named_and_leave_nothing() {
    let tar = sample(2 << 20);
    let good = gzip(&tar);
    let other = |data: Vec<u8>| {
        move |layer: &mut Layer, dir: &Path| {
            std::fs::write(dir.join("blob"), &data).unwrap();
            layer.blob = Arc::new(FileBlob::open(&dir.join("blob")).unwrap());
        }
    };
    let message = error(&good, other(good[..good.len() / 2].to_vec()));
    assert!(message.contains("it ends after"), "{message}");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    let message = error(&good, other(flipped));
    assert!(message.contains("is corrupt: its content has digest"), "{message}");
    let message = error(&good, other([&good[..], b"x"].concat()));
    assert!(message.contains("it is longer than its"), "{message}");
    // The digest is right, the data is not.
    let message = error(&good[..good.len() - 9], |_, _| ());
    assert!(message.contains("ends in the middle"), "{message}");
    let message = error(&[&good[..], b"x"].concat(), |_, _| ());
    assert!(message.contains("not gzip after"), "{message}");
    let message = error(&good, |layer, _| layer.diff_id = DiffId::new(Digest::of(b"")));
    assert!(message.contains("config says sha256:e3b0"), "{message}");
    let message = error(b"hello, this is no tar file at all.", |_, _| ());
    assert!(message.contains("tar header at byte 0"), "{message}");
    let message = error(&gzip(&tar[..tar.len() / 2]), |_, _| ());
    assert!(message.contains("tar header at byte") && message.contains("ends"), "{message}");
}

#[test]
fn an_empty_layer_is_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    for data in [Vec::new(), vec![0; 1024], gzip(&[0; 1024])] {
        let content = if data.starts_with(&[0x1f]) { vec![0; 1024] } else { data.clone() };
        let layer = layer(dir.path(), &data, &content);
        assert!(scan(&layer, dir.path(), &|_| ()).unwrap().is_empty());
    }
}

#[test]
fn a_bomb_takes_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(300 << 20);
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut hasher = Hasher::new();
    hasher.update(header.as_bytes());
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..300 {
        hasher.update(&[0; 1 << 20]);
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let data = encoder.finish().unwrap();
    let mut layer = layer(dir.path(), &data, b"");
    layer.diff_id = DiffId::new(hasher.finish());
    let index = scan(&layer, dir.path(), &|_| ()).unwrap();
    let largest = (0..index.span_count()).map(|n| index.span(n).unwrap().content_len).max();
    assert!(largest.unwrap() < 16 << 20, "{largest:?}");
    assert_eq!(index.entry(0).unwrap().size, 300 << 20);
}

/// A blob in memory.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl BlobSource for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.0.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let n = buf.len().min(rest.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

/// An indexed layer that something happens to.
struct Victim {
    dir: tempfile::TempDir,
    blob: Vec<u8>,
    content: Vec<u8>,
    index: LayerIndex,
}

impl Victim {
    fn new(blob: Vec<u8>, content: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = scan(&layer(dir.path(), &blob, content), dir.path(), &|_| ()).unwrap();
        Self { dir, blob, content: content.to_vec(), index }
    }

    /// Decodes every span of `blob` as `index` says; how many gave the right bytes. All others
    /// have to be errors.
    fn decode(&self, index: &LayerIndex, blob: Vec<u8>) -> usize {
        let blob = Bytes(blob);
        let mut right = 0;
        for number in 0..index.span_count() {
            if let Ok(content) = crate::span::decode(index, &blob, number) {
                let start = usize::try_from(index.span(number).unwrap().content_offset).unwrap();
                assert!(self.content.get(start..start + content.len()) == Some(&content));
                right += 1;
            }
        }
        right
    }
}

/// One a coding; gzip with checkpoints within a member, at its start, and across borders.
fn victims() -> &'static [Victim] {
    static VICTIMS: OnceLock<Vec<Victim>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        let tar = sample((5 << 20) / 2);
        let members = tar.chunks(400_000).flat_map(gzip).collect();
        let frames = tar.chunks(300_000).flat_map(zstd_frame).collect();
        let blobs = [gzip_level(&tar, 6), members, gzip_level(&tar, 0), frames, tar.clone()];
        blobs.into_iter().map(|blob| Victim::new(blob, &tar)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_blob_gives_an_error_or_the_right_bytes(
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        for victim in victims() {
            let mut blob = victim.blob.clone();
            let at = at.index(blob.len());
            blob[at] ^= flip;
            let spans = victim.index.span_count();
            let right = victim.decode(&victim.index, blob);
            // A span has at most the damage and the byte that it shares with the one before.
            prop_assert!(right + 2 >= spans, "{right} of {spans} spans");
            let cut = victim.blob[..at].to_vec();
            prop_assert!(victim.decode(&victim.index, cut) < spans);
        }
    }

    #[test]
    fn a_damaged_index_gives_an_error_or_the_right_bytes(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        for victim in victims() {
            let digest = victim.index.summary().digest;
            let mut index = std::fs::read(LayerIndex::path(victim.dir.path(), digest)).unwrap();
            for (at, flip) in &damage {
                // Half of it in the tables of entries and spans, which are small.
                let end = if flip % 2 == 0 { index.len().min(1500) } else { index.len() };
                let at = at.index(end);
                index[at] ^= flip;
            }
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(LayerIndex::path(dir.path(), digest), index).unwrap();
            if let Some(index) = LayerIndex::open(dir.path(), digest).unwrap() {
                let blob = Bytes(victim.blob.clone());
                for number in 0..index.span_count() {
                    if let Ok(content) = crate::span::decode(&index, &blob, number) {
                        let span = victim.index.span(number).unwrap();
                        let start = usize::try_from(span.content_offset).unwrap();
                        let expected = &victim.content[start..][..content.len()];
                        prop_assert!(content == expected);
                    }
                }
            }
        }
    }
}

#[test]
fn no_flip_of_a_small_blob_goes_unnoticed() {
    let tar = sample(600);
    let gzip = [gzip_level(&tar[..700], 6), gzip_level(&tar[700..], 1)].concat();
    for blob in [gzip, zstd_frame(&tar)] {
        let victim = Victim::new(blob, &tar);
        assert_eq!(victim.decode(&victim.index, victim.blob.clone()), victim.index.span_count());
        for at in 0..victim.blob.len() {
            for flip in [1, 0x80, 0xff] {
                let mut blob = victim.blob.clone();
                blob[at] ^= flip;
                victim.decode(&victim.index, blob);
            }
        }
    }
}
