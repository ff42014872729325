//! The files of a chart's archive.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::{Budget, File, MAX_FILE, MAX_MEMBERS};
use crate::Error;

/// The files of a gzip'd tar below its one directory; `archive` is what errors call it.
pub(super) fn files(
    archive: &str,
    stored: impl std::io::BufRead,
    budget: &mut Budget,
) -> Result<Vec<File>, Error> {
    let fault = |message: String| Error::Archive { archive: archive.into(), message };
    let broken = |error: std::io::Error| fault(error.to_string());
    let mut tar = tar::Archive::new(MultiGzDecoder::new(stored).take(budget.unpacked));
    let mut files = Vec::new();
    for member in tar.entries().map_err(broken)? {
        let left = budget.members.checked_sub(1);
        budget.members = left.ok_or_else(|| fault(format!("more than {MAX_MEMBERS} members")))?;
        let member = member.map_err(broken)?;
        let kind = member.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
            continue;
        }
        let stored_name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let name = file_name(&stored_name).map_err(fault)?;
        // Helm takes a link for an empty file, which no template can have meant.
        if !kind.is_file() && !kind.is_contiguous() && !kind.is_gnu_sparse() {
            return Err(fault(format!("{stored_name} is not a regular file")));
        }
        budget.file(|| format!("{archive}: {stored_name}"), member.size())?;
        let mut data = Vec::new();
        member.take(MAX_FILE).read_to_end(&mut data).map_err(broken)?;
        let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
        files.push(File { name, data: data.into() });
    }
    budget.unpacked = tar.into_inner().limit();
    if files.is_empty() {
        return Err(fault("no files in chart archive".into()));
    }
    Ok(files)
}

/// The name below the archive's directory; an error says why there is none.
fn file_name(stored: &str) -> Result<String, String> {
    let forward = if stored.contains('\\') { stored.replace('\\', "/") } else { stored.into() };
    if stored == "Chart.yaml" {
        return Err("chart yaml not in base directory".into());
    }
    let outside = || format!("{stored:?} is outside of the chart's directory");
    let (_, below) = forward.split_once('/').ok_or_else(outside)?;
    if below.starts_with('/') || forward.starts_with('/') {
        return Err(format!("{stored:?} is an absolute path"));
    }
    let name = crate::functions::clean_path(below);
    let is_drive = name.as_bytes().get(1..3) == Some(b":/");
    if name == "." || name.starts_with("..") || is_drive || name.contains('\0') {
        return Err(outside());
    }
    Ok(name)
}
