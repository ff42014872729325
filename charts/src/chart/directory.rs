//! The files of a chart's directory.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::ignore::Rules;
use super::{Budget, File, MAX_FILE};
use crate::Error;

/// The file that says which others are not part of the chart.
const IGNORE: &str = ".helmignore";

/// Directories within one another; links can make a circle.
const MAX_DEPTH: usize = 64;

/// Files of a chart.
const MAX_FILES: usize = 20_000;

/// All that `.helmignore` leaves, by name. Links are followed within `root`.
pub(super) fn files(path: &Path, root: &Path, budget: &mut Budget) -> Result<Vec<File>, Error> {
    let real =
        |path: &Path| path.canonicalize().map_err(|source| Error::Io { path: path.into(), source });
    let file = path.join(IGNORE);
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
    let mut walk = Walk { top: path.clone(), root, rules, files: Vec::new(), budget };
    walk.directory(&path, "", 0)?;
    Ok(walk.files)
}

/// What `.helmignore` leaves of files that are read elsewhere, by name. They are given by their
/// names and sizes in bytes.
pub(super) fn given<E: From<Error>>(
    place: &str,
    files: impl IntoIterator<Item = (String, u64)>,
    mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
    budget: &mut Budget,
) -> Result<Vec<File>, E> {
    let mut sizes: BTreeMap<String, u64> = files.into_iter().collect();
    let invalid = |name: &str, message: String| {
        let file = if name.is_empty() { place.into() } else { format!("{place}/{name}") };
        Error::Invalid { file, message }
    };
    let text = match sizes.get(IGNORE) {
        Some(size) if *size <= MAX_FILE => read(IGNORE)?,
        // Too big to be one, which the budget tells.
        Some(_) | None => Vec::new(),
    };
    let rules = Rules::parse(&String::from_utf8_lossy(&text));
    let rules = rules.map_err(|message| invalid(IGNORE, message))?;
    sizes.retain(|name, _| !rules.ignores_file(name));
    if sizes.len() > MAX_FILES {
        return Err(invalid("", format!("more than {MAX_FILES} files")).into());
    }
    let mut given = Vec::new();
    for (name, size) in sizes {
        if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(
                invalid(&name, "the name is not one of a file below the chart".into()).into()
            );
        }
        budget.file(|| format!("{place}/{name}"), size)?;
        let data = read(&name)?;
        let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
        given.push(File { name, data: data.into() });
    }
    Ok(given)
}

struct Walk<'b> {
    top: PathBuf,
    root: PathBuf,
    rules: Rules,
    files: Vec<File>,
    budget: &'b mut Budget,
}

impl Walk<'_> {
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
        self.budget.file(|| path.display().to_string(), size)?;
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
