//! Each request of the kernel as a call of [`ImageFs`], and the answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::libc;
use nix::sys::stat::SFlag;

use super::through::Through;
use crate::filesystem::{Attr, DirEntry, ImageFs, Ino, ReadError};
use crate::layer::Timestamp;

/// How long the kernel may keep names, misses and attributes: 136 years, for ever to a kernel.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The largest read request, in bytes: half of what the kernel reads ahead, so that two threads
/// verify it side by side, and the first half can be used while the second is under way.
const MAX_REQUEST: u32 = 256 << 10;

/// Unit of `st_blksize` and of the block counts of `statfs`, in bytes.
const BLOCK: u32 = 4096;

/// Translates for the FUSE library.
#[derive(Debug)]
pub(super) struct Adapter(Arc<ImageFs>, Option<Arc<Through>>);

/// The errno of `error`, which is logged here and nowhere else.
fn errno(request: &str, ino: INodeNo, error: &ReadError) -> Errno {
    let errno = Errno::from_i32(error.errno());
    if errno.code() == Errno::ENOENT.code() {
        tracing::debug!("{request} of inode {ino}: {error}");
    } else {
        tracing::warn!("{request} of inode {ino}: {error}");
    }
    errno
}

fn file_type(mode: u32) -> FileType {
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => FileType::Directory,
        SFlag::S_IFLNK => FileType::Symlink,
        SFlag::S_IFCHR => FileType::CharDevice,
        SFlag::S_IFBLK => FileType::BlockDevice,
        SFlag::S_IFIFO => FileType::NamedPipe,
        SFlag::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

/// Times that the system's clock type cannot hold become the epoch.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        // An image records no other time than this one.
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.mode),
        perm: u16::try_from(attr.mode & 0o7777).expect("twelve bits"),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The answer to a lookup that found nothing: inode 0 with a validity, which the kernel keeps,
/// where it would not keep ENOENT.
fn no_entry() -> FileAttr {
    file_attr(&Attr {
        ino: Ino(0),
        size: 0,
        blocks: 0,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        mtime: Timestamp::default(),
    })
}

/// Sends a value, or its length to whoever asks with a buffer of no size.
fn send_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}

impl Adapter {
    /// With `through`, the kernel reads large files by itself.
    pub(super) fn new(fs: Arc<ImageFs>, through: Option<Arc<Through>>) -> Self {
        Self(fs, through)
    }

    /// `.` and `..` are asked for by whoever opens by file handle (overlayfs, NFS).
    fn look_up(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>, ReadError> {
        match name {
            b"." => self.0.attr(parent).map(Some),
            b".." => self.0.attr(self.0.parent(parent)?).map(Some),
            _ => self.0.lookup(parent, name),
        }
    }

    /// The entry at a place of a directory as the kernel counts: 0 is `.`, 1 is `..`, and the
    /// children follow in the order of their names. The cookie of a place never changes.
    fn entry_at(&self, dir: Ino, place: u64) -> Result<Option<DirEntry<'_>>, ReadError> {
        let mode = SFlag::S_IFDIR.bits();
        match place {
            0 => Ok(Some(DirEntry { name: b".", ino: dir, mode })),
            1 => Ok(Some(DirEntry { name: b"..", ino: self.0.parent(dir)?, mode })),
            _ => self.0.entry_at(dir, place - 2),
        }
    }

    fn seek(&self, ino: Ino, offset: i64, whence: i32) -> Result<Option<i64>, ReadError> {
        let size = self.0.attr(ino)?.size;
        let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset < size) else {
            return Ok(None);
        };
        let found = match whence {
            libc::SEEK_DATA => self.0.next_data(ino, offset)?.map(|(start, _)| start),
            libc::SEEK_HOLE => Some(self.0.next_hole(ino, offset)?),
            _ => None,
        };
        Ok(found.and_then(|found| i64::try_from(found).ok()))
    }

    fn fill(&self, dir: Ino, mut place: u64, reply: &mut ReplyDirectory) -> Result<(), ReadError> {
        while let Some(entry) = self.entry_at(dir, place)? {
            place += 1;
            let (ino, kind) = (INodeNo(entry.ino.0), file_type(entry.mode));
            if reply.add(ino, place, kind, OsStr::from_bytes(entry.name)) {
                break;
            }
        }
        Ok(())
    }

    fn fill_plus(
        &self,
        dir: Ino,
        mut place: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), ReadError> {
        while let Some(entry) = self.entry_at(dir, place)? {
            place += 1;
            let attr = file_attr(&self.0.attr(entry.ino)?);
            let name = OsStr::from_bytes(entry.name);
            if reply.add(attr.ino, place, name, &FOREVER, &attr, Generation(0)) {
                break;
            }
        }
        Ok(())
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_HAS_RESEND;
        let passthrough = self.1.iter().map(|_| InitFlags::FUSE_PASSTHROUGH);
        let wanted = passthrough.fold(wanted, InitFlags::union);
        let offered = wanted & config.capabilities();
        config.add_capabilities(offered).map_err(|flags| {
            io::Error::other(format!("the kernel takes back the capabilities {flags:?}"))
        })?;
        if offered.contains(InitFlags::FUSE_PASSTHROUGH) {
            // What the kernel reads from lies on no stacked file system, so that one can go on
            // top of this.
            config.set_max_stack_depth(1).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        // The answers of these are the values in use; the maxima are far above what is set.
        config.set_max_write(MAX_REQUEST).map_err(|_| io::ErrorKind::InvalidInput)?;
        config.set_max_background(64).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(Ino(parent.0), name.as_bytes()) {
            Ok(Some(attr)) => reply.entry(&FOREVER, &file_attr(&attr), Generation(0)),
            Ok(None) => reply.entry(&FOREVER, &no_entry(), Generation(0)),
            Err(error) => reply.error(errno("lookup", parent, &error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(error) => reply.error(errno("getattr", ino, &error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.readlink(Ino(ino.0)) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(errno("readlink", ino, &error)),
        }
    }

    /// ENOSYS: "open without me, and keep the page cache".
    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match &self.1 {
            Some(through) => through.open(Ino(ino.0), reply),
            None => reply.error(Errno::ENOSYS),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(through) = &self.1 {
            through.release(Ino(ino.0));
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size.min(MAX_REQUEST) as usize;
        if let Some(through) = &self.1 {
            through.note_read(Ino(ino.0), size);
        }
        // What has to be fetched is answered by the thread that fetches: this one goes on.
        self.0.read_then(Ino(ino.0), offset, size, move |data| match data {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno("read", ino, &error)),
        });
    }

    /// ENOSYS: "open without me, and keep the directory cache".
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fill(Ino(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("readdir", ino, &error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.fill_plus(Ino(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("readdirplus", ino, &error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.0.totals();
        let blocks = totals.bytes.div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, totals.inodes, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.0.xattr(Ino(ino.0), name.as_bytes()) {
            Ok(Some(value)) => send_xattr(value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno("getxattr", ino, &error)),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.0.xattr_names(Ino(ino.0)) {
            Ok(names) => {
                let list: Vec<u8> =
                    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
                send_xattr(&list, size, reply);
            }
            Err(error) => reply.error(errno("listxattr", ino, &error)),
        }
    }

    /// ENOSYS: the kernel checks by mode, owner and group (`default_permissions`).
    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// ENOSYS: nothing to flush; the kernel does not ask again.
    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel asks for data and holes only.
    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(Ino(ino.0), offset, whence) {
            Ok(Some(found)) => reply.offset(found),
            // Nothing of the kind comes after the offset (lseek(2)).
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno("lseek", ino, &error)),
        }
    }

    // The kernel refuses all that follows by itself, until somebody remounts read-write.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        let time = system_time(Timestamp { seconds: -2, nanos: 999_999_999 });
        let before = SystemTime::UNIX_EPOCH.duration_since(time).unwrap();
        assert_eq!(before, Duration::new(1, 1));
        let time = system_time(Timestamp { seconds: 3, nanos: 4 });
        assert_eq!(time.duration_since(SystemTime::UNIX_EPOCH).unwrap(), Duration::new(3, 4));
        for seconds in [i64::MIN, i64::MAX] {
            system_time(Timestamp { seconds, nanos: 999_999_999 });
        }
    }

    #[test]
    fn each_file_type_is_told_apart() {
        let types = [
            (0o140755, FileType::Socket),
            (0o120777, FileType::Symlink),
            (0o104755, FileType::RegularFile),
            (0o060600, FileType::BlockDevice),
            (0o040755, FileType::Directory),
            (0o020600, FileType::CharDevice),
            (0o010644, FileType::NamedPipe),
        ];
        for (mode, expected) in types {
            assert_eq!(file_type(mode), expected, "{mode:o}");
        }
    }
}
