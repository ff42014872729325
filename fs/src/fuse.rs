//! The kernel's side: FUSE requests become calls of [`ImageFs`], and threads answer them.
//!
//! The only file that names the FUSE library. It translates and decides nothing: what a request
//! means is in `filesystem`, which is testable without a kernel.
//!
//! A merged tree never changes, and everything here serves one aim, that the kernel never asks
//! twice: names, attributes and misses are valid for ever, `open` and `opendir` are answered
//! ENOSYS (from then on the kernel opens on its own and keeps page and directory cache), and
//! directories are read together with the attributes of what is in them. The mount is read-only
//! for the kernel too, else each read would make it drop the attributes for the access time.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow,
    WriteFlags,
};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::SFlag;

use crate::filesystem::{Attr, DirEntry, ImageFs, Ino, ReadError};
use crate::layer::Timestamp;

/// The type of a kfs mount in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.kfs";

const DEVICE: &str = "/dev/fuse";

/// How long the kernel may keep names, misses and attributes: 136 years, for ever to a kernel.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the kernel reads ahead of a sequential reader, in KiB. Its default of 128 costs a fifth
/// of the throughput; above 1024, mapped files (which fault here and there) read too much.
const READ_AHEAD_KIB: &str = "512";

/// The largest read request, in bytes: what `fs.fuse.max_pages_limit` allows by default.
const MAX_REQUEST: u32 = 1 << 20;

/// Unit of `st_blksize` and of the block counts of `statfs`, in bytes.
const BLOCK: u32 = 4096;

/// Why an image could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel has no FUSE, or the device node is not there.
    #[error("{DEVICE} is missing: {0}")]
    NoDevice(io::Error),
    /// The device node may not be opened.
    #[error("{DEVICE} may not be opened: {0}")]
    DeviceDenied(io::Error),
    /// mount(2) or fusermount3 says no for lack of privilege.
    #[error("mounting at {} is not permitted", .0.display())]
    Denied(PathBuf),
    /// The program that mounts for users other than root is not installed.
    #[error("fusermount3 is not installed")]
    NoFusermount,
    /// Any other failure of the mount.
    #[error("mount at {}: {source}", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system, or fusermount3, said.
        source: io::Error,
    },
    /// The mount is there but the first request was not answered as it should.
    #[error("start of the FUSE session: {0}")]
    Session(io::Error),
    /// The unmount failed.
    #[error("unmount {}: {source}", mountpoint.display())]
    Unmount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The threads that answer the kernel for one image.
///
/// They end when the file system is unmounted everywhere. Dropping this does not end them.
#[derive(Debug)]
pub struct Session(BackgroundSession);

impl Session {
    /// Blocks until the file system is unmounted and its last user is gone.
    pub fn join(self) -> io::Result<()> {
        self.0.join()
    }
}

/// Answers the requests that come from `device`, an open `/dev/fuse` that is mounted already.
pub fn serve(fs: Arc<ImageFs>, device: OwnedFd) -> Result<Session, FuseError> {
    let session = fuser::Session::from_fd(Adapter(fs), device, SessionACL::All, config())
        .map_err(FuseError::Session)?;
    session.spawn().map(Session).map_err(FuseError::Session)
}

/// An image mounted and served by this process. Dropping it detaches the mount; the threads end
/// when its last user is gone.
#[derive(Debug)]
pub struct Mounted {
    /// None once it was waited for.
    session: Option<Session>,
    mountpoint: PathBuf,
    attached: bool,
}

/// Mounts `fs` read-only at `mountpoint`, which must be a directory, and serves it with threads
/// of this process. `name` is what `df` and `mount` show as the source.
///
/// Root mounts for everybody, with set-user-id programs and device nodes as the image has them;
/// other users mount through fusermount3, for themselves alone and without either.
pub fn mount(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Mounted, FuseError> {
    let session = if nix::unistd::geteuid().is_root() {
        mount_as_root(fs, mountpoint, name)?
    } else {
        mount_as_user(fs, mountpoint, name)?
    };
    raise_read_ahead(mountpoint);
    Ok(Mounted { session: Some(session), mountpoint: mountpoint.to_owned(), attached: true })
}

impl Mounted {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Takes the mount out of the tree of this mount namespace. Whoever uses it, or mounted
    /// something on top of it, keeps it alive.
    pub fn detach(&mut self) -> Result<(), FuseError> {
        unmount(&self.mountpoint, true)?;
        self.attached = false;
        Ok(())
    }

    /// Blocks until somebody unmounted it and its last user is gone.
    pub fn wait(mut self) -> io::Result<()> {
        match self.session.take() {
            Some(session) => session.join(),
            None => Ok(()),
        }
    }

    /// Unmounts and waits for the threads. If the mount is busy that is an error, and it is
    /// detached.
    pub fn unmount(self) -> Result<(), FuseError> {
        unmount(&self.mountpoint, false)?;
        self.wait().map_err(FuseError::Session)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // When the threads have ended somebody unmounted it, and another mount may lie there now.
        let serving = self.session.as_ref().is_some_and(|session| !session.0.guard.is_finished());
        if self.attached
            && serving
            && let Err(error) = self.detach()
        {
            tracing::warn!("{error}");
        }
    }
}

/// Unmounts what is mounted at `mountpoint`; `lazy` detaches it even when it is busy.
///
/// Users other than root go through fusermount3, which unmounts only what they mounted.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), FuseError> {
    let failed = |source| FuseError::Unmount { mountpoint: mountpoint.to_owned(), source };
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match nix::mount::umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(nix::Error::EPERM) if !nix::unistd::geteuid().is_root() => {
            let mut command = std::process::Command::new("fusermount3");
            command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
            let output = command.output().map_err(failed)?;
            if output.status.success() {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let kind = if text.contains("busy") {
                io::ErrorKind::ResourceBusy
            } else {
                io::ErrorKind::Other
            };
            Err(failed(io::Error::new(kind, text)))
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn config() -> Config {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut config = Config::default();
    // More than one, so that a read that waits for the disk does not hold up a lookup; each
    // costs stack and buffer.
    config.n_threads = Some(cores.clamp(2, 4));
    config.clone_fd = true;
    config
}

fn mount_as_root(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Session, FuseError> {
    let device = open_device()?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let result = nix::mount::mount(
        Some(name),
        mountpoint,
        Some(FS_TYPE),
        MsFlags::MS_RDONLY,
        Some(options.as_str()),
    );
    match result {
        Ok(()) => {}
        Err(nix::Error::EPERM) => return Err(FuseError::Denied(mountpoint.to_owned())),
        Err(nix::Error::ENODEV) => {
            return Err(FuseError::NoDevice(nix::Error::ENODEV.into()));
        }
        Err(error) => {
            let mountpoint = mountpoint.to_owned();
            return Err(FuseError::Mount { mountpoint, source: error.into() });
        }
    }
    serve(fs, device.into()).inspect_err(|_| {
        if let Err(error) = unmount(mountpoint, true) {
            tracing::warn!("{error}");
        }
    })
}

fn mount_as_user(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Session, FuseError> {
    drop(open_device()?);
    let mut config = config();
    // fusermount3 splits its options at commas.
    let name = name.to_string_lossy().replace('\\', r"\\").replace(',', r"\,");
    config.mount_options = vec![
        MountOption::FSName(name),
        MountOption::Subtype("kfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    let session = fuser::Session::new(Adapter(fs), mountpoint, &config).map_err(|source| {
        match source.kind() {
            io::ErrorKind::NotFound => FuseError::NoFusermount,
            io::ErrorKind::PermissionDenied => FuseError::Denied(mountpoint.to_owned()),
            _ => FuseError::Mount { mountpoint: mountpoint.to_owned(), source },
        }
    })?;
    session.spawn().map(Session).map_err(FuseError::Session)
}

fn open_device() -> Result<File, FuseError> {
    File::options().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => FuseError::DeviceDenied(error),
        _ => FuseError::NoDevice(error),
    })
}

/// The kernel takes this from nobody but root, by way of sysfs; without it the mount is slower
/// to read and no less right.
fn raise_read_ahead(mountpoint: &Path) {
    let raise = || -> io::Result<()> {
        let device = nix::sys::stat::stat(mountpoint)?.st_dev;
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    };
    if let Err(error) = raise() {
        tracing::debug!("read-ahead of {} stays at its default: {error}", mountpoint.display());
    }
}

/// Translates for the FUSE library.
struct Adapter(Arc<ImageFs>);

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
            | InitFlags::FUSE_MAX_PAGES;
        let offered = wanted & config.capabilities();
        config.add_capabilities(offered).map_err(|flags| {
            io::Error::other(format!("the kernel takes back the capabilities {flags:?}"))
        })?;
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
    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
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
        match self.0.read(Ino(ino.0), offset, size.min(MAX_REQUEST) as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno("read", ino, &error)),
        }
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

    /// ENOSYS: the kernel takes files as data without holes.
    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
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
