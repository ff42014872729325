//! Lists of images: one reference a line.

use super::Found;
use super::reference;

/// Takes one line of a list.
pub(super) fn line(number: usize, line: &str, found: &mut Found<'_>) {
    if let Some(name) = name(line) {
        found.certain(name, Some(number));
    }
}

/// The references of a list that was read as a whole.
pub(super) fn names(text: &str) -> Vec<String> {
    text.lines().filter_map(name).map(str::to_owned).collect()
}

/// Takes one line of Sealos's list of archives: `docker-archive:FILE@NAME` or
/// `oci-archive:FILE@NAME`.
pub(super) fn archive(number: usize, line: &str, found: &mut Found<'_>) {
    let Some(text) = name(line) else { return };
    let known = ["docker-archive:", "oci-archive:"];
    let parts =
        known.iter().find_map(|kind| text.strip_prefix(kind)).and_then(|r| r.split_once('@'));
    let Some((_, image)) = parts else {
        return found.skip(
            text,
            Some(number),
            "expected docker-archive:FILE@NAME or oci-archive:FILE@NAME",
        );
    };
    match reference::read(image) {
        Ok(Some(image)) => {
            found.collection.archives.insert(image, text.to_owned());
        }
        Ok(None) => found.skip(text, Some(number), "there is no name behind the @"),
        Err(reason) => found.skip(text, Some(number), &reason),
    }
}

/// What a line names, if it is neither empty nor a comment. Both originals take off quotes.
fn name(line: &str) -> Option<&str> {
    let line = line.trim_start_matches('\u{feff}').trim();
    let name = line.split(" #").next().unwrap_or(line).trim().trim_matches(['"', '\'']);
    (!name.is_empty() && !name.starts_with('#')).then_some(name)
}
