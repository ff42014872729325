//! The files of a chart's directory.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::ignore::Rules;
use super::{File, MAX_CHART, MAX_FILE};
use crate::Error;

/// Directories within one another; links can make a circle.
const MAX_DEPTH: usize = 64;

/// Files of a chart.
const MAX_FILES: usize = 20_000;

/// All that `.helmignore` leaves, by name. Links are followed within `root`.
pub(super) fn files(path: &Path, root: &Path) -> Result<Vec<File>, Error> {
    let real =
        |path: &Path| path.canonicalize().map_err(|source| Error::Io { path: path.into(), source });
    let file = path.join(".helmignore");
    let text = match read(&file) {
        Ok(data) => String::from_utf8_lossy(&data).into_owned(),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            String::new()
        }
        Err(error) => return Err(error),
    };
    let rules = Rules::parse(&text)
        .map_err(|message| Error::Invalid { file: file.display().to_string(), message })?;
    let (path, root) = (real(path)?, real(root)?);
    let mut walk = Walk { top: path.clone(), root, rules, files: Vec::new(), left: MAX_CHART };
    walk.directory(&path, "", 0)?;
    Ok(walk.files)
}

/// What `.helmignore` leaves of files that were read elsewhere.
pub(super) fn given(
    place: &str,
    files: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<Vec<File>, Error> {
    let mut given = Vec::new();
    let mut left = MAX_CHART;
    for (name, data) in files {
        let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if size > MAX_FILE {
            return Err(Error::TooBig { name: format!("{place}/{name}"), limit: MAX_FILE });
        }
        left = left
            .checked_sub(size)
            .ok_or_else(|| Error::TooBig { name: place.into(), limit: MAX_CHART })?;
        if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            let message = "the name is not one of a file below the chart".into();
            return Err(Error::Invalid { file: format!("{place}/{name}"), message });
        }
        let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
        given.push(File { name, data: data.into() });
    }
    let text = given.iter().find(|file| file.name == ".helmignore");
    let text = text.map(|file| String::from_utf8_lossy(&file.data).into_owned());
    let rules = Rules::parse(&text.unwrap_or_default())
        .map_err(|message| Error::Invalid { file: format!("{place}/.helmignore"), message })?;
    given.retain(|file| !rules.ignores_file(&file.name));
    given.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(given)
}

struct Walk {
    top: PathBuf,
    root: PathBuf,
    rules: Rules,
    files: Vec<File>,
    left: u64,
}

impl Walk {
    fn too_big(&self) -> Error {
        Error::TooBig { name: self.top.display().to_string(), limit: MAX_CHART }
    }

    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} directories within one another");
            return Err(Error::Invalid { file: path.display().to_string(), message });
        }
        let io = |source| Error::Io { path: path.into(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            names.push(entry.map_err(io)?.file_name());
        }
        names.sort();
        for name in names {
            let path = path.join(&name);
            let name = format!("{prefix}{}", name.to_string_lossy());
            self.entry(&path, name, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: String, depth: usize) -> Result<(), Error> {
        let io = |source| Error::Io { path: path.into(), source };
        let mut info = std::fs::symlink_metadata(path).map_err(io)?;
        if info.is_symlink() {
            // A broken link that the rules leave out does no harm.
            if self.rules.ignores(&name, false) {
                return Ok(());
            }
            let target = path.canonicalize().map_err(io)?;
            if !target.starts_with(&self.root) {
                return Err(Error::LinkOut { path: path.into(), root: self.root.clone() });
            }
            info = std::fs::metadata(&target).map_err(io)?;
        }
        if self.rules.ignores(&name, info.is_dir()) {
            return Ok(());
        }
        if info.is_dir() {
            return self.directory(path, &format!("{name}/"), depth + 1);
        }
        if !info.is_file() {
            return Err(Error::Irregular { path: path.into() });
        }
        let data = read(path)?;
        let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(size).ok_or_else(|| self.too_big())?;
        if self.files.len() >= MAX_FILES {
            let message = format!("more than {MAX_FILES} files");
            return Err(Error::Invalid { file: self.top.display().to_string(), message });
        }
        let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
        self.files.push(File { name, data: data.into() });
        Ok(())
    }
}

/// A file, if it is not too big.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut data = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_FILE + 1).read_to_end(&mut data).map_err(io)?;
    if data.len() as u64 > MAX_FILE {
        return Err(Error::TooBig { name: path.display().to_string(), limit: MAX_FILE });
    }
    Ok(data)
}
