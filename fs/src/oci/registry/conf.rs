//! `registries.conf`, version 2 (containers-registries.conf(5)), and the certificates of
//! `certs.d` (containers-certs.d(5), also Docker's).
//!
//! Short names go to Docker Hub as Docker has it: `unqualified-search-registries` and
//! `short-name-mode` are read over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{AtPath, PathError};

/// A configuration larger than this is none, in bytes.
const MAX_CONF: u64 = 1 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// A file cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; names the line.
        reason: String,
    },
}

/// What `registries.conf` says.
#[derive(Clone, Debug, Default)]
pub(super) struct Conf {
    registries: Vec<Registry>,
}

/// A place where a repository can be had, or where it is a mirror of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `host[:port]`.
    pub(super) host: String,
    /// The repository there.
    pub(super) repository: String,
    /// Whether http, or https with any certificate, will do.
    pub(super) insecure: bool,
    /// Which requests a mirror is for.
    pub(super) serves: Serves,
    /// Whether it is a mirror, which nothing is pushed to.
    pub(super) is_mirror: bool,
}

/// Where a repository can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Mirrors first, the registry itself last.
    pub(super) open: Vec<Place>,
    /// The file that blocks the registry itself, which then is not among them.
    pub(super) blocked: Option<PathBuf>,
}

/// Which requests a place is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Serves {
    /// All.
    #[default]
    All,
    /// Those that name a digest.
    DigestOnly,
    /// Those that name a tag.
    TagOnly,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default, rename = "registry")]
    registries: Vec<Registry>,
    /// Of version 1.
    #[serde(rename = "registries")]
    version_1: Option<toml::Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
    /// Where it stands.
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Serves,
}

impl Conf {
    /// Reads the first of `files` that is there, and the `*.conf` of its drop-in directory
    /// (`registries.conf.d` beside it), in order of their names.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, ConfError> {
        let Some(main) = files.iter().find(|file| file.exists()) else {
            return Ok(Self::default());
        };
        let mut registries = read_file(main)?;
        let drop_ins = main.with_extension("conf.d");
        for path in sorted(&drop_ins)?.iter().filter(|path| has_extension(path, "conf")) {
            for registry in read_file(path)? {
                registries.retain(|earlier| earlier.prefix != registry.prefix);
                registries.push(registry);
            }
        }
        Ok(Self { registries })
    }

    /// Whether a registry as a whole may be spoken to without proof of what it is.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let named = self.registries.iter().find(|registry| registry.prefix == host);
        named.is_some_and(|registry| registry.insecure)
    }

    /// Where `host/repository` can be had. As with the containers tools, a registry that is blocked
    /// may have mirrors, and a mirror that is blocked under its own name is left out.
    pub(super) fn places(&self, host: &str, repository: &str) -> Places {
        let name = format!("{host}/{repository}");
        let Some((covered, registry)) = self.fitting(&name) else {
            let (host, repository) = (host.to_owned(), repository.to_owned());
            let (serves, is_mirror) = (Serves::All, false);
            let own = Place { host, repository, insecure: false, serves, is_mirror };
            return Places { open: vec![own], blocked: None };
        };
        let place = |location: &str, insecure, serves, is_mirror| {
            let whole = match location {
                "" => name.clone(),
                location => format!("{location}{}", &name[covered..]),
            };
            let (host, repository) = whole.split_once('/').unwrap_or((&whole, repository));
            let (host, repository) = (host.to_owned(), repository.to_owned());
            Place { host, repository, insecure, serves, is_mirror }
        };
        let mirrors = registry.mirrors.iter().map(|mirror| {
            let serves = match registry.mirror_by_digest_only {
                true => Serves::DigestOnly,
                false => mirror.pull_from_mirror,
            };
            place(&mirror.location, mirror.insecure, serves, true)
        });
        let mut open: Vec<_> = mirrors.filter(|mirror| self.blocking(mirror).is_none()).collect();
        let own = place(&registry.location, registry.insecure, Serves::All, false);
        let itself = registry.blocked.then_some(registry);
        let blocked = itself.or_else(|| self.blocking(&own)).map(|by| by.path.clone());
        if blocked.is_none() {
            open.push(own);
        }
        Places { open, blocked }
    }

    /// The registry whose prefix covers most of a name, and how many bytes of it.
    fn fitting(&self, name: &str) -> Option<(usize, &Registry)> {
        let fitting = self
            .registries
            .iter()
            .filter_map(|registry| Some((covered(&registry.prefix, name)?, registry)));
        fitting.max_by_key(|(covered, _)| *covered)
    }

    /// What blocks a place under its own name.
    fn blocking(&self, place: &Place) -> Option<&Registry> {
        let (_, registry) = self.fitting(&format!("{}/{}", place.host, place.repository))?;
        registry.blocked.then_some(registry)
    }
}

/// How many bytes of `name` a prefix covers, if it is one by components.
fn covered(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split('/').next()?;
        return host.ends_with(domain).then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

fn read_file(path: &Path) -> Result<Vec<Registry>, ConfError> {
    let malformed = |reason: String| ConfError::Malformed { path: path.to_owned(), reason };
    let size = fs::metadata(path).at("stat", path)?.len();
    if size > MAX_CONF {
        return Err(malformed(format!("larger than {MAX_CONF} bytes")));
    }
    let text = fs::read_to_string(path).at("read", path)?;
    let file: File = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if file.version_1.is_some() {
        return Err(malformed("version 1 of the format is not supported".to_owned()));
    }
    let mut registries = file.registries;
    for registry in &mut registries {
        if registry.prefix.is_empty() {
            registry.prefix.clone_from(&registry.location);
        }
        if registry.prefix.is_empty() {
            return Err(malformed("a registry has neither prefix nor location".to_owned()));
        }
        path.clone_into(&mut registry.path);
    }
    Ok(registries)
}

/// Certificates for one registry.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// PEM of authorities to trust, from `*.crt`.
    pub(super) authorities: Vec<(PathBuf, Vec<u8>)>,
    /// PEM of our own certificate and key, from `*.cert` and `*.key`.
    pub(super) own: Option<(PathBuf, Vec<u8>)>,
}

/// Reads the certificates for `host[:port]` below the first of `dirs` that has any.
pub(super) fn certificates(dirs: &[PathBuf], host: &str) -> Result<Certificates, ConfError> {
    for dir in dirs {
        let dir = dir.join(host);
        let mut found = Certificates::default();
        for path in sorted(&dir)? {
            let read = |path: &Path| fs::read(path).at("read", path);
            if has_extension(&path, "crt") {
                found.authorities.push((path.clone(), read(&path)?));
            } else if has_extension(&path, "cert") {
                let mut pem = read(&path)?;
                pem.push(b'\n');
                pem.extend(read(&path.with_extension("key"))?);
                found.own = Some((path, pem));
            }
        }
        if !found.authorities.is_empty() || found.own.is_some() {
            return Ok(found);
        }
    }
    Ok(Certificates::default())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// The files of a directory, none if it is not there.
fn sorted(dir: &Path) -> Result<Vec<PathBuf>, PathError> {
    let entries = match fs::read_dir(dir) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        entries => entries.at("read", dir)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.at("read", dir)?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Result<Conf, ConfError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        fs::write(&path, text).unwrap();
        Conf::read(&[dir.path().join("none"), path])
    }

    fn shown(conf: &Conf, host: &str, repository: &str) -> Vec<String> {
        let places = conf.places(host, repository).open;
        let show = |place: &Place| {
            let mark = if place.insecure { "!" } else { "" };
            format!("{mark}{}/{}", place.host, place.repository)
        };
        places.iter().map(show).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let conf = conf(
            r#"
            unqualified-search-registries = ["docker.io"]
            short-name-mode = "permissive"
            [[registry]]
            location = "example.com"
            insecure = true
            [[registry]]
            prefix = "example.com/a"
            location = "other.test:5000/b"
            [[registry.mirror]]
            location = "mirror.test/m"
            insecure = true
            [[registry]]
            prefix = "*.corp.test"
            location = "cache.test"
            "#,
        )
        .unwrap();
        assert_eq!(shown(&conf, "example.com", "x"), ["!example.com/x"]);
        assert_eq!(shown(&conf, "example.com", "ab/x"), ["!example.com/ab/x"]);
        assert_eq!(shown(&conf, "example.com", "a/x"), ["!mirror.test/m/x", "other.test:5000/b/x"]);
        assert_eq!(shown(&conf, "hub.corp.test", "x/y"), ["cache.test/x/y"]);
        assert_eq!(shown(&conf, "elsewhere.test", "x"), ["elsewhere.test/x"]);
    }

    #[test]
    fn what_is_blocked_is_left_to_its_mirrors() {
        let conf = conf(
            r#"
            [[registry]]
            location = "bad.test"
            blocked = true
            [[registry]]
            location = "mirrored.test"
            blocked = true
            [[registry.mirror]]
            location = "bad.test/m"
            [[registry.mirror]]
            location = "mirror.test"
            [[registry]]
            location = "open.test"
            [[registry.mirror]]
            location = "bad.test/m"
            [[registry]]
            prefix = "moved.test"
            location = "bad.test"
            "#,
        )
        .unwrap();
        for (host, open, blocked) in [
            ("bad.test", &[][..], true),
            ("mirrored.test", &["mirror.test/x"], true),
            ("open.test", &["open.test/x"], false),
            ("moved.test", &[], true),
            ("else.test", &["else.test/x"], false),
        ] {
            assert_eq!(shown(&conf, host, "x"), open, "{host}");
            let file = conf.places(host, "x").blocked;
            assert_eq!(file.is_some_and(|file| file.ends_with("registries.conf")), blocked);
        }
    }

    #[test]
    fn what_is_malformed_names_file_and_line() {
        let error = conf("[[registry]]\nlocation = 3\n").unwrap_err().to_string();
        assert!(error.contains("registries.conf") && error.contains("line 2"), "{error}");
        assert!(conf("[[registry]]\ninsecure = true\n").is_err());
    }

    #[test]
    fn drop_ins_come_after_and_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        fs::write(&path, "[[registry]]\nlocation = \"a.test\"\n").unwrap();
        let drop_ins = dir.path().join("registries.conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("1.conf"), "[[registry]]\nlocation = \"a.test\"\ninsecure = true")
            .unwrap();
        fs::write(drop_ins.join("README"), "not TOML").unwrap();
        assert_eq!(shown(&Conf::read(&[path]).unwrap(), "a.test", "x"), ["!a.test/x"]);
    }
}
