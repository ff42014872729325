//! `kfs ls`

use std::ffi::OsString;
use std::io::Write as _;

use kfs_fs::filesystem::{Attr, Ino};
use kfs_fs::oci::reference::Source;
use serde::Serialize;

use super::{Context, ListFormat, Out};
use crate::finding::FindArgs;
use crate::look::{Look, device, escape, kind_word, mode_string, time};
use crate::report::Failure;

/// List files of an image without mounting it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs ls -l debian:12 /etc/apt")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// Paths in the image
    #[arg(default_value = "/")]
    paths: Vec<OsString>,

    /// Show type, mode, links, owner, size, time and link target
    #[arg(long, short)]
    long: bool,

    /// List directories and all that is in them
    #[arg(long, short = 'R')]
    recursive: bool,

    /// List a directory itself, not what is in it
    #[arg(long, short)]
    directory: bool,

    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    #[command(flatten)]
    find: FindArgs,
}

/// A file as JSON shows it.
#[derive(Serialize)]
pub(crate) struct Listed {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
}

impl Listed {
    pub(crate) fn new(look: &Look, path: &[u8], attr: &Attr) -> Result<Self, Failure> {
        let kind = kind_word(attr.mode);
        let (major, minor) = device(attr.rdev);
        let target = match kind {
            "symlink" => Some(escape(look.fs.readlink(attr.ino)?)),
            _ => None,
        };
        Ok(Self {
            path: escape(path),
            kind,
            mode: format!("{:04o}", attr.mode & 0o7777),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            mtime: time(attr.mtime, true),
            target,
            device: matches!(kind, "char" | "block").then(|| format!("{major}:{minor}")),
        })
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let look = Look::open(&args.image, context)?;
    let mut list = List { args, look: &look, out: Out::new(), json: Vec::new() };
    for path in &args.paths {
        // `ls -l LINK` shows the link, `ls LINK` and `ls LINK/` what it leads to, as ls does.
        let slash = path.as_encoded_bytes().ends_with(b"/");
        let ino = look.find(path, !(args.long || args.directory) || slash)?;
        list.path(path.as_encoded_bytes(), ino)?;
    }
    list.finish()
}

struct List<'a> {
    args: &'a Args,
    look: &'a Look,
    out: Out,
    json: Vec<Listed>,
}

impl List<'_> {
    fn path(&mut self, path: &[u8], ino: Ino) -> Result<(), Failure> {
        let attr = self.look.attr(ino)?;
        if kind_word(attr.mode) != "directory" || self.args.directory {
            return self.entry(path, path, &attr);
        }
        let several = self.args.recursive || self.args.paths.len() > 1;
        let mut pending = vec![(path.to_vec(), ino)];
        let mut first = true;
        while let Some((path, ino)) = pending.pop() {
            if several && self.args.format == ListFormat::Table {
                let gap = if first { "" } else { "\n" };
                writeln!(self.out, "{gap}{}:", escape(&path))?;
            }
            first = false;
            let inner = self.directory(&path, ino)?;
            if self.args.recursive {
                pending.extend(inner.into_iter().rev());
            }
        }
        Ok(())
    }

    /// Lists a directory, returns the directories in it.
    fn directory(&mut self, path: &[u8], ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>, Failure> {
        let mut inner = Vec::new();
        let mut at = 0;
        while let Some(entry) = self.look.fs.entry_at(ino, at)? {
            at += 1;
            let attr = self.look.attr(entry.ino)?;
            let slash = if path.ends_with(b"/") { &b""[..] } else { b"/" };
            let whole = [path, slash, entry.name].concat();
            self.entry(entry.name, &whole, &attr)?;
            if kind_word(attr.mode) == "directory" {
                inner.push((whole, entry.ino));
            }
        }
        Ok(inner)
    }

    fn entry(&mut self, name: &[u8], path: &[u8], attr: &Attr) -> Result<(), Failure> {
        if self.args.format == ListFormat::Json {
            self.json.push(Listed::new(self.look, path, attr)?);
            return Ok(());
        }
        if !self.args.long {
            return Ok(writeln!(self.out, "{}", escape(name))?);
        }
        let listed = Listed::new(self.look, path, attr)?;
        let size = listed.device.unwrap_or_else(|| attr.size.to_string());
        let target = listed.target.map(|target| format!(" -> {target}")).unwrap_or_default();
        let (mode, time) = (mode_string(attr.mode), time(attr.mtime, false));
        let (nlink, uid, gid) = (attr.nlink, attr.uid, attr.gid);
        let name = escape(name);
        Ok(writeln!(
            self.out,
            "{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>10} {time} {name}{target}"
        )?)
    }

    fn finish(mut self) -> Result<(), Failure> {
        if self.args.format == ListFormat::Json {
            self.out.json(&self.json)?;
        }
        self.out.finish()
    }
}
