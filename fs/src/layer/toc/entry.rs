//! An entry as a table of contents has it, before it is known to make sense.

use super::error::EntryProblem;
use crate::layer::tar::{self, Problem};
use crate::layer::{Device, Entry, Kind, Timestamp};

/// The words of a table for an entry.
#[derive(Debug)]
pub(in crate::layer) struct RawEntry<'a> {
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block` or `fifo`.
    pub(in crate::layer) kind: &'a str,
    pub(in crate::layer) name: &'a [u8],
    pub(in crate::layer) link: &'a [u8],
    /// Bits beyond the permissions have no meaning.
    pub(in crate::layer) mode: u64,
    /// Only of a file.
    pub(in crate::layer) size: u64,
    pub(in crate::layer) uid: u64,
    pub(in crate::layer) gid: u64,
    pub(in crate::layer) mtime: Timestamp,
    /// Major and minor number, only of a device.
    pub(in crate::layer) device: (u64, u64),
    /// In the order of the names.
    pub(in crate::layer) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RawEntry<'_> {
    pub(in crate::layer) fn check(self) -> Result<Entry, EntryProblem> {
        let path = tar::clean_path(self.name)?;
        let kind = self.kind()?;
        if path.is_empty() && kind != Kind::Directory {
            return Err(Problem::NoName.into());
        }
        if self.size > i64::MAX as u64 {
            return Err(EntryProblem::Number("size"));
        }
        if self.xattrs.iter().any(|(name, _)| name.is_empty() || name.contains(&0)) {
            return Err(EntryProblem::Xattr);
        }
        tar::check_xattrs(&self.xattrs)?;
        Ok(Entry {
            path,
            mode: u32::try_from(self.mode & 0o7777).expect("twelve bits"),
            uid: number(self.uid, "uid")?,
            gid: number(self.gid, "gid")?,
            mtime: self.mtime,
            size: if kind == Kind::File { self.size } else { 0 },
            kind,
            xattrs: self.xattrs,
        })
    }

    fn kind(&self) -> Result<Kind, EntryProblem> {
        let device = || -> Result<Device, EntryProblem> {
            let (major, minor) = self.device;
            Ok(Device { major: number(major, "devMajor")?, minor: number(minor, "devMinor")? })
        };
        Ok(match self.kind {
            "dir" => Kind::Directory,
            "reg" => Kind::File,
            "symlink" => {
                tar::check_target(self.link)?;
                Kind::Symlink(self.link.to_vec())
            }
            "hardlink" => {
                let target = tar::clean_path(self.link)?;
                if target.is_empty() {
                    return Err(Problem::NoTarget.into());
                }
                Kind::Hardlink(target)
            }
            "char" => Kind::CharDevice(device()?),
            "block" => Kind::BlockDevice(device()?),
            "fifo" => Kind::Fifo,
            "chunk" => return Err(EntryProblem::Orphan),
            other => return Err(EntryProblem::Kind(other.to_owned())),
        })
    }
}

fn number(n: u64, what: &'static str) -> Result<u32, EntryProblem> {
    u32::try_from(n).map_err(|_| EntryProblem::Number(what))
}
