//! The files of a chart's archive.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::{File, MAX_CHART, MAX_FILE};
use crate::Error;

/// Members of an archive, headers and directories too.
const MAX_MEMBERS: usize = 50_000;

/// The files of a gzip'd tar below its one directory; `archive` is what errors call it.
pub(super) fn files(archive: &str, stored: impl std::io::BufRead) -> Result<Vec<File>, Error> {
    let fault = |message: String| Error::Archive { archive: archive.into(), message };
    let broken = |error: std::io::Error| fault(error.to_string());
    // Headers count too, as does what is skipped.
    let mut tar = tar::Archive::new(MultiGzDecoder::new(stored).take(2 * MAX_CHART));
    let mut files = Vec::new();
    let mut left = MAX_CHART;
    for (count, member) in tar.entries().map_err(broken)?.enumerate() {
        if count >= MAX_MEMBERS {
            return Err(fault(format!("more than {MAX_MEMBERS} members")));
        }
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
        let size = member.size();
        if size > MAX_FILE {
            return Err(Error::TooBig {
                name: format!("{archive}: {stored_name}"),
                limit: MAX_FILE,
            });
        }
        left = left
            .checked_sub(size)
            .ok_or_else(|| Error::TooBig { name: archive.into(), limit: MAX_CHART })?;
        let mut data = Vec::new();
        member.take(MAX_FILE).read_to_end(&mut data).map_err(broken)?;
        let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
        files.push(File { name, data: data.into() });
    }
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
