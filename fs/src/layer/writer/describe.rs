//! An entry in the words of a table of contents.

use super::Plain;
use super::frames::Shape;
use crate::layer::tar::Spelling;
use crate::layer::toc::{Base64, TocEntry, TocTime};
use crate::layer::{Device, Entry, Kind, Timestamp};

/// What the table says of an entry, without its content.
///
/// For zstd:chunked it is to the letter what `containers/storage` makes of the tar headers: its
/// reader compares. eStargz has no fractions of a second and leaves 1970 out.
pub(super) fn toc_entry(
    entry: &Entry,
    spelling: &Spelling,
    shape: Shape,
) -> Result<TocEntry, Plain> {
    let path = || entry.path.clone();
    if spelling.odd {
        return Err(Plain::Odd(path()));
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Plain::Name(path()));
    let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| Ok((text(name)?, Base64(value.clone())));
    let (kind, device) = kind(&entry.kind);
    let size = if entry.kind == Kind::File { entry.size } else { 0 };
    let mut toc = TocEntry {
        kind: kind.to_owned(),
        name: text(&spelling.name)?,
        link_name: text(&spelling.link)?,
        mode: u64::from(spelling.mode),
        size,
        uid: u64::from(entry.uid),
        gid: u64::from(entry.gid),
        dev_major: u64::from(device.major),
        dev_minor: u64::from(device.minor),
        xattrs: entry.xattrs.iter().map(xattr).collect::<Result<_, _>>()?,
        ..TocEntry::default()
    };
    if shape == Shape::Members {
        let mtime = Timestamp { nanos: 0, ..entry.mtime };
        toc.mtime = (mtime != Timestamp::default()).then_some(TocTime(mtime));
    } else {
        toc.mtime = Some(TocTime(entry.mtime));
        toc.atime = spelling.atime.map(TocTime);
        toc.ctime = spelling.ctime.map(TocTime);
    }
    let times = [toc.mtime, toc.atime, toc.ctime];
    if times.into_iter().flatten().all(TocTime::has_form) {
        Ok(toc)
    } else {
        Err(Plain::Time(path()))
    }
}

fn kind(kind: &Kind) -> (&'static str, Device) {
    let none = Device { major: 0, minor: 0 };
    match kind {
        Kind::File => ("reg", none),
        Kind::Directory => ("dir", none),
        Kind::Symlink(_) => ("symlink", none),
        Kind::Hardlink(_) => ("hardlink", none),
        Kind::CharDevice(device) => ("char", *device),
        Kind::BlockDevice(device) => ("block", *device),
        Kind::Fifo => ("fifo", none),
    }
}
