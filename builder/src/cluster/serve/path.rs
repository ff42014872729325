//! Paths of the distribution API (OCI distribution 1.1, "Endpoints").

use kfs_fs::digest::Digest;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether this is a registry.
    Base,
    /// The names of the repositories.
    Catalog,
    /// The tags of a repository.
    Tags(String),
    /// A manifest by its tag.
    Tagged(String, String),
    /// A manifest by its digest.
    Manifest(String, Digest),
    /// A blob.
    Blob(String, Digest),
    /// What refers to a manifest.
    Referrers(String),
}

/// Why a path cannot be answered: a code of the specification ("Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is none of the API.
    NotFound,
    /// The name breaks the grammar.
    Name,
    /// The digest is none, or of an algorithm that is not known.
    Digest,
}

/// Reads a path.
pub(super) fn read(path: &str) -> Result<Asked, Wrong> {
    let rest = path.strip_prefix("/v2").ok_or(Wrong::NotFound)?;
    match rest {
        "" | "/" => return Ok(Asked::Base),
        "/_catalog" => return Ok(Asked::Catalog),
        _ => {}
    }
    let rest = rest.strip_prefix('/').ok_or(Wrong::NotFound)?;
    let (rest, last) = rest.rsplit_once('/').ok_or(Wrong::NotFound)?;
    let (name, kind) = rest.rsplit_once('/').ok_or(Wrong::NotFound)?;
    if !is_name(name) {
        return Err(Wrong::Name);
    }
    let name = name.to_owned();
    let digest = || last.parse::<Digest>().map_err(|_| Wrong::Digest);
    match kind {
        "tags" if last == "list" => Ok(Asked::Tags(name)),
        "manifests" if last.contains(':') => Ok(Asked::Manifest(name, digest()?)),
        "manifests" if is_tag(last) => Ok(Asked::Tagged(name, last.to_owned())),
        "manifests" => Err(Wrong::NotFound),
        "blobs" => Ok(Asked::Blob(name, digest()?)),
        "referrers" => digest().map(|_| Asked::Referrers(name)),
        _ => Err(Wrong::NotFound),
    }
}

/// No component can be `..`, or one of the tree's own names, which start with `_`.
fn is_name(name: &str) -> bool {
    let component = |part: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
    };
    name.len() <= 255 && name.split('/').all(component)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let inner = |b: u8| word(b) || b == b'.' || b == b'-';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_api() {
        let digest = Digest::of(b"x");
        let name = || "a/b".to_owned();
        for (path, expected) in [
            ("/v2/".to_owned(), Ok(Asked::Base)),
            ("/v2".to_owned(), Ok(Asked::Base)),
            ("/v2/_catalog".to_owned(), Ok(Asked::Catalog)),
            ("/v2/a/b/tags/list".to_owned(), Ok(Asked::Tags(name()))),
            ("/v2/a/b/manifests/1.2-x".to_owned(), Ok(Asked::Tagged(name(), "1.2-x".into()))),
            (format!("/v2/a/b/manifests/{digest}"), Ok(Asked::Manifest(name(), digest))),
            (format!("/v2/a/b/blobs/{digest}"), Ok(Asked::Blob(name(), digest))),
            (format!("/v2/a/b/referrers/{digest}"), Ok(Asked::Referrers(name()))),
            ("/v2/a/b/blobs/sha256:00".to_owned(), Err(Wrong::Digest)),
            ("/v2/a/../b/tags/list".to_owned(), Err(Wrong::Name)),
            ("/v2/a/_layers/tags/list".to_owned(), Err(Wrong::Name)),
            ("/v2/A/tags/list".to_owned(), Err(Wrong::Name)),
            ("/v2//tags/list".to_owned(), Err(Wrong::Name)),
            ("/v2/a/manifests/..".to_owned(), Err(Wrong::NotFound)),
            ("/v2/a/manifests/%2e%2e".to_owned(), Err(Wrong::NotFound)),
            ("/v3/".to_owned(), Err(Wrong::NotFound)),
            ("/v2x".to_owned(), Err(Wrong::NotFound)),
            ("/".to_owned(), Err(Wrong::NotFound)),
        ] {
            assert_eq!(read(&path), expected, "{path}");
        }
    }
}
