//! What a user types to name an image, and the names under which a store keeps images.
//!
//! A [`Source`] says where to look, a [`Name`] follows Docker's rules: `busybox`,
//! `busybox:latest` and `docker.io/library/busybox:latest` are one name. Parsing touches no disk.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry of names without one (distribution/reference, `normalize.go`).
const DEFAULT_DOMAIN: &str = "docker.io";
/// Where Docker Hub keeps names of one component.
const OFFICIAL: &str = "library/";
/// The longest repository name, registry included (distribution/reference, `reference.go`).
const MAX_REPOSITORY: usize = 255;
/// The longest tag (distribution/reference, `regexp.go`).
const MAX_TAG: usize = 128;

/// Where an image is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the store: a name, or the first digits of a manifest's or config's digest. Kept as
    /// typed, since a layout may hold names that are not Docker's.
    Store(String),
    /// `oci:DIR[:TAG]`: an OCI layout.
    Layout {
        /// The layout's directory.
        dir: PathBuf,
        /// Which of its images; none where it holds one.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI layout.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// Which of its images; none where it holds one.
        tag: Option<String>,
    },
    /// `docker://NAME`: a name, never an id, that is looked up in its registry.
    Registry(Name),
    /// `docker-archive:FILE[:TAG]`: what `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// Which of its images; none where it holds one.
        tag: Option<String>,
    },
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing was typed.
    #[error("the image name is empty")]
    Empty,
    /// `oci:` and nothing behind it.
    #[error("{0:?} names no file or directory")]
    NoPath(String),
    /// A scheme that skopeo or a browser knows.
    #[error(
        "{0:?} uses an unsupported transport, known are oci:, oci-archive:, docker-archive: and docker://"
    )]
    Transport(String),
    /// An upper-case letter in the repository.
    #[error("{0:?} has upper-case letters, an image's name is lower-case: {1:?}")]
    UpperCase(String, String),
    /// The registry is not `host[:port]`.
    #[error("{0:?} has a malformed registry {1:?}, expected host[:port]")]
    Registry(String, String),
    /// A component of the path breaks the grammar.
    #[error(
        "{0:?} has a malformed component {1:?}: allowed are a-z, 0-9 and single separators . _ - between them"
    )]
    Component(String, String),
    /// The tag breaks the grammar.
    #[error(
        "{0:?} has a malformed tag {1:?}: allowed are up to 128 of A-Z, a-z, 0-9, _, . and -, the first not . or -"
    )]
    Tag(String, String),
    /// The digest behind the `@` is not one.
    #[error("{0:?} has a malformed digest: {1}")]
    Digest(String, DigestError),
    /// More than 255 bytes.
    #[error("the image name of {0} bytes is longer than 255 bytes")]
    TooLong(usize),
    /// 64 hex digits, which would be taken for an id.
    #[error("{0:?} looks like an image id and cannot be a name")]
    LooksLikeId(String),
}

impl FromStr for Source {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let place = |rest: &str| {
            let (path, tag) = match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned()).filter(|tag| !tag.is_empty())),
                None => (rest, None),
            };
            match path {
                "" => Err(ReferenceError::NoPath(text.to_owned())),
                path => Ok((PathBuf::from(path), tag)),
            }
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            return place(rest).map(|(dir, tag)| Self::Layout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return place(rest).map(|(file, tag)| Self::OciArchive { file, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return place(rest).map(|(file, tag)| Self::DockerArchive { file, tag });
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return name.parse().map(Self::Registry);
        }
        let foreign = ["containers-storage:", "docker-daemon:"];
        if text.contains("://") || foreign.iter().any(|transport| text.starts_with(transport)) {
            return Err(ReferenceError::Transport(text.to_owned()));
        }
        Ok(Self::Store(text.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            Self::Store(name) => return f.write_str(name),
            Self::Registry(name) => return write!(f, "docker://{name}"),
            Self::Layout { dir, tag } => ("oci", dir, tag),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag),
            Self::DockerArchive { file, tag } => ("docker-archive", file, tag),
        };
        write!(f, "{transport}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

/// A name by Docker's rules. Two names are equal when their canonical forms are; it shows itself
/// in the familiar form (`debian:12`), tag included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    domain: String,
    path: String,
    /// `latest` where neither tag nor digest was given.
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    /// Registry and path as people write them: `debian`, `localhost/x`.
    pub fn repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL) {
            // Only a single component goes without `library/`.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Registry and path in full: `docker.io/library/debian`.
    pub fn canonical_repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Registry, path and tag in full: `docker.io/library/debian:12`.
    pub fn canonical(&self) -> String {
        let mut text = self.canonical_repository();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        text
    }

    /// The registry, `host[:port]`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in its registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; none for a name with a digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest behind the `@`.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether both name the same repository, whatever the tags.
    pub fn same_repository(&self, other: &Self) -> bool {
        (&self.domain, &self.path) == (&other.domain, &other.path)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>())),
            None => (text, None),
        };
        let digest =
            digest.transpose().map_err(|error| ReferenceError::Digest(text.to_owned(), error))?;
        // A colon before the last slash belongs to the registry's port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(text.to_owned(), tag.to_owned()));
        }
        let (domain, path) = split_domain(repository);
        check_domain(text, domain)?;
        check_path(text, path)?;
        let mut name = Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        };
        if domain == DEFAULT_DOMAIN && !path.contains('/') {
            name.path.insert_str(0, OFFICIAL);
        }
        if tag.is_none() && digest.is_none() {
            name.tag = Some("latest".to_owned());
        }
        match name.domain.len() + 1 + name.path.len() {
            length if length > MAX_REPOSITORY => Err(ReferenceError::TooLong(length)),
            _ => Ok(name),
        }
    }
}

/// Docker's rule: the first component is a registry if it could not be a user of Docker Hub.
fn split_domain(repository: &str) -> (&str, &str) {
    match repository.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_DOMAIN, path),
        Some((first, path))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DEFAULT_DOMAIN, repository),
    }
}

fn check_domain(text: &str, domain: &str) -> Result<(), ReferenceError> {
    let malformed = || ReferenceError::Registry(text.to_owned(), domain.to_owned());
    let (host, port) = match domain.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, rest)) => {
            v6.parse::<std::net::Ipv6Addr>().map_err(|_| malformed())?;
            ("v6", rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let port_is_right = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match port_is_right && host.split('.').all(label) {
        true => Ok(()),
        false => Err(malformed()),
    }
}

fn check_path(text: &str, path: &str) -> Result<(), ReferenceError> {
    for component in path.split('/') {
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            let lower = text.to_ascii_lowercase();
            return Err(ReferenceError::UpperCase(text.to_owned(), lower));
        }
        if !is_component(component) {
            return Err(ReferenceError::Component(text.to_owned(), component.to_owned()));
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution/reference, `regexp.go`).
fn is_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    ends && bytes.split(|b| word(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_many_spellings() {
        for (text, familiar, canonical) in [
            ("busybox", "busybox:latest", "docker.io/library/busybox"),
            ("docker.io/library/busybox:latest", "busybox:latest", "docker.io/library/busybox"),
            ("index.docker.io/busybox", "busybox:latest", "docker.io/library/busybox"),
            ("a/b:1", "a/b:1", "docker.io/a/b"),
            ("library/a/b:1", "library/a/b:1", "docker.io/library/a/b"),
            ("localhost/x:v1", "localhost/x:v1", "localhost/x"),
            ("host:5000/x__y/z-_w", "", ""),
            ("host:5000/x__y/z--w", "host:5000/x__y/z--w:latest", "host:5000/x__y/z--w"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x"),
            ("Host/x", "Host/x:latest", "Host/x"),
            ("x:V1.0_a-b", "x:V1.0_a-b", "docker.io/library/x"),
        ] {
            let Ok(name) = text.parse::<Name>() else {
                assert_eq!(familiar, "", "{text}");
                continue;
            };
            assert_eq!(name.to_string(), familiar);
            assert_eq!(name.canonical_repository(), canonical);
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
        let digest = Digest::of(b"");
        let name: Name = format!("x@{digest}").parse().unwrap();
        assert_eq!((name.tag(), name.digest()), (None, Some(digest)));
    }

    #[test]
    fn odd_names_are_refused_and_say_why() {
        let cases = [
            ("", "the image name is empty"),
            ("Busybox", r#""Busybox" has upper-case letters"#),
            ("x:", "malformed tag"),
            ("x:.a", "malformed tag"),
            ("x:ä", "malformed tag"),
            ("x//y", "malformed component"),
            ("/x", "malformed component"),
            ("x/", "malformed component"),
            ("x y", "malformed component"),
            ("x..y", "malformed component"),
            ("x___y", "malformed component"),
            ("-x", "malformed component"),
            ("ho_st.com/x", "malformed registry"),
            ("host:port/x", "malformed registry"),
            ("[::g]/x", "malformed registry"),
            ("[::1]5000/x", "malformed registry"),
            ("x@sha256:00", "malformed digest"),
            ("x@md5:00", "unsupported algorithm"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!("a".repeat(246).parse::<Name>(), Err(ReferenceError::TooLong(264)));
        assert!("0123456789abcdef".repeat(4).parse::<Name>().is_err());
        assert!(format!("x:{}", "a".repeat(129)).parse::<Name>().is_err());
    }

    #[test]
    fn a_source_says_where_to_look() {
        let parse = |text: &str| text.parse::<Source>();
        let tag = |tag: &str| Some(tag.to_owned());
        assert_eq!(parse("oci:/d"), Ok(Source::Layout { dir: "/d".into(), tag: None }));
        assert_eq!(parse("oci:d:debian:12"), {
            Ok(Source::Layout { dir: "d".into(), tag: tag("debian:12") })
        });
        assert_eq!(parse("oci-archive:a.tar:t"), {
            Ok(Source::OciArchive { file: "a.tar".into(), tag: tag("t") })
        });
        assert_eq!(parse("docker-archive:a.tar"), {
            Ok(Source::DockerArchive { file: "a.tar".into(), tag: None })
        });
        assert_eq!(parse("debian:12"), Ok(Source::Store("debian:12".to_owned())));
        assert_eq!(parse("oci::t"), Err(ReferenceError::NoPath("oci::t".to_owned())));
        assert_eq!(parse(""), Err(ReferenceError::Empty));
        assert_eq!(parse("docker://x"), Ok(Source::Registry("x".parse().unwrap())));
        for text in ["https://x", "containers-storage:x"] {
            assert_eq!(parse(text), Err(ReferenceError::Transport(text.to_owned())));
        }
        for text in ["oci:d:debian:12", "oci-archive:a.tar:t", "docker-archive:a.tar", "x"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }
}
