//! `--output`: the image somewhere else than in the store alone.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kfs_builder::build::Built;
use kfs_fs::error::AtPath as _;
use kfs_fs::filesystem::Ino;
use kfs_fs::oci;
use kfs_fs::oci::archive::Format;
use kfs_fs::oci::archive::save::{save_to_file, save_to_stream};
use kfs_fs::oci::copy::narrow;
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::store::{Part, Store};
use kfs_fs::unnamed::WholeFile;

use super::destination::{Written, check};
use super::flags::fields;
use crate::commands::Context;
use crate::look::{extract_all, open_fs};
use crate::report::{Failure, USAGE};

/// What is written, and where; no place is standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    kind: Kind,
    dest: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An archive.
    Archive(Format),
    /// The root file system, as a directory.
    Directory,
    /// The root file system, as a tar.
    Tar,
}

impl Output {
    /// Reads `type=oci|docker|local|tar,dest=PATH`, or a directory alone; `-` is a tar to standard
    /// output.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if !text.contains('=') {
            let (kind, dest) = match text {
                "-" => (Kind::Tar, None),
                directory => (Kind::Directory, Some(PathBuf::from(directory))),
            };
            return Ok(Self { kind, dest });
        }
        let failed = |message: String| {
            Failure::new(message)
                .code(USAGE)
                .hint("write --output type=oci|docker|local|tar,dest=PATH")
        };
        let (mut kind, mut dest) = (None, None);
        for (key, value) in fields(text) {
            match (key.as_str(), value) {
                ("type", "oci") => kind = Some(Kind::Archive(Format::Oci)),
                ("type", "docker") => kind = Some(Kind::Archive(Format::Docker)),
                ("type", "local" | "dir") => kind = Some(Kind::Directory),
                ("type", "tar") => kind = Some(Kind::Tar),
                ("type", other) => return Err(failed(format!("--output has no type {other}"))),
                ("dest", "-") => dest = None,
                ("dest" | "destination", path) => dest = Some(PathBuf::from(path)),
                (other, _) => return Err(failed(format!("--output has no field {other}"))),
            }
        }
        let kind = kind.ok_or_else(|| failed("--output has no type".to_owned()))?;
        if kind == Kind::Directory && dest.is_none() {
            return Err(failed("--output type=local needs dest=DIRECTORY".to_owned()));
        }
        Ok(Self { kind, dest })
    }

    /// Whether standard output is taken.
    pub(super) fn is_stdout(&self) -> bool {
        self.dest.is_none()
    }

    /// Fails if it could not be written.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let written = match self.kind {
            Kind::Archive(_) | Kind::Tar => Written::Whole,
            Kind::Directory => Written::Directory,
        };
        self.dest.as_ref().map_or(Ok(()), |path| check("--output", path, written))
    }

    /// Writes the image that was built, whatever its names stand for by now.
    pub(super) fn write(
        &self,
        built: &Built,
        tags: &[String],
        context: &Context,
    ) -> Result<(), Failure> {
        let store = context.store()?;
        // Nobody removes what is being written.
        let _writer = store.writer()?;
        match self.kind {
            Kind::Archive(format) => self.archive(built, tags, format, &store),
            Kind::Directory | Kind::Tar => self.root(built, tags, &store, context),
        }
    }

    fn archive(
        &self,
        built: &Built,
        tags: &[String],
        format: Format,
        store: &Store,
    ) -> Result<(), Failure> {
        let digest = built.digest.to_string();
        let selection = store.layout()?.select(Some(&digest), &digest)?;
        let mut images = Vec::new();
        for tag in tags {
            let name: Name = tag.parse()?;
            images.push(narrow(&selection, true, Some(name.to_string()))?);
        }
        if images.is_empty() {
            images.push(selection);
        }
        match &self.dest {
            Some(path) => Ok(save_to_file(&images, format, path, &|| Ok(store.clone()), &|_| {})?),
            None => Ok(save_to_stream(&images, format, store, &mut io::stdout().lock(), &|_| {})?),
        }
    }

    fn root(
        &self,
        built: &Built,
        tags: &[String],
        store: &Store,
        context: &Context,
    ) -> Result<(), Failure> {
        let name = tags.first().cloned().unwrap_or_else(|| built.digest.to_string());
        let image = oci::open_manifest(&Source::Store(name), built.digest, store)?;
        let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
        if self.kind == Kind::Directory {
            let dest = self.dest.as_ref().expect("a directory has a place");
            fs::create_dir_all(dest).at("make directory", dest)?;
            // It may be a symbolic link, as nothing in it may.
            let dest = fs::canonicalize(dest).at("resolve", dest)?;
            return extract_all(&fs, Ino::ROOT, &dest, context);
        }
        let work = store.temp_dir()?;
        let root = work.path().join("root");
        extract_all(&fs, Ino::ROOT, &root, context)?;
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]);
        tar.arg(&root).args(["-c", "."]).stdin(Stdio::null());
        let file = self.dest.as_deref().map(WholeFile::create).transpose()?;
        if let (Some(file), Some(dest)) = (&file, &self.dest) {
            tar.stdout(file.file().try_clone().at("open", dest)?);
        }
        let status = tar.status().map_err(|error| Failure::new(format!("run tar: {error}")))?;
        if !status.success() {
            return Err(Failure::new(format!("tar: {status}")));
        }
        Ok(file.map_or(Ok(()), WholeFile::finish)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        let output = |text: &str| Output::parse(text).ok().map(|o| (o.kind, o.dest));
        let oci = Kind::Archive(Format::Oci);
        assert_eq!(output("type=oci,dest=x.tar"), Some((oci, Some("x.tar".into()))));
        assert_eq!(output("out"), Some((Kind::Directory, Some("out".into()))));
        assert_eq!(output("-"), Some((Kind::Tar, None)));
        assert_eq!(output("type=tar,dest=-"), Some((Kind::Tar, None)));
        for bad in ["type=local", "dest=x", "type=image,dest=x", "type=tar,mode=x"] {
            assert_eq!(output(bad), None, "{bad}");
        }
    }
}
