//! Credentials as docker, podman and skopeo keep them: `config.json` and `auth.json`
//! (containers-auth.json(5)), and the helper programs that those name.
//!
//! The values are secret: they have no `Debug` that shows them, and go nowhere but into a
//! request's header, a helper's standard input, or a file that only its owner can read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::helper;
use crate::error::{AtPath, PathError};

/// The key under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that says that the secret is an identity token (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";
/// A file of credentials larger than this is none, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What proves who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
    /// A bearer token to be used as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// Credentials, and where they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What proves who asks.
    pub credentials: Credentials,
    /// The file or the helper, for messages.
    pub place: String,
}

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; quotes nothing of the file.
        reason: String,
    },
    /// A credential helper did not do its work.
    #[error("credential helper {program}: {reason}")]
    Helper {
        /// `docker-credential-x`.
        program: String,
        /// What went wrong.
        reason: String,
    },
}

/// The files that may hold credentials; the first that has some for a registry wins.
#[derive(Clone, Debug, Default)]
pub struct AuthFiles {
    /// In the order in which they are asked. They need not be there.
    pub files: Vec<PathBuf>,
    /// Credentials for registries that are not in a file (yet).
    pub given: Vec<(String, Credentials)>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auths: BTreeMap<String, Auth>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creds_store: Option<String>,
    /// All else, kept as it was.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Auth {
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identitytoken: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registrytoken: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(..)")
    }
}

impl AuthFiles {
    /// The credentials for a repository of a registry, as the user names both.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Found>, AuthError> {
        if let Some((_, given)) = self.given.iter().find(|(name, _)| name == host) {
            let place = "what was given".to_owned();
            return Ok(Some(Found { credentials: given.clone(), place }));
        }
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else { continue };
            if let Some(found) = file.find(path, host, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry in the first file, or with the helper that it names.
    /// Returns where they are now.
    pub fn store(&self, host: &str, credentials: &Credentials) -> Result<String, AuthError> {
        let path = self.first()?;
        let mut file = AuthFile::read(path)?.unwrap_or_default();
        if let Some(program) = file.helper(host) {
            let (username, secret) = match credentials {
                Credentials::Password { username, password } => (username.as_str(), password),
                Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => {
                    (TOKEN_USER, token)
                }
            };
            helper::store(&program, key(host), username, secret)?;
            return Ok(format!("credential helper {program}"));
        }
        let mut auth = Auth::default();
        match credentials {
            Credentials::Password { username, password } => {
                auth.auth = Some(BASE64.encode(format!("{username}:{password}")));
            }
            Credentials::IdentityToken(token) => auth.identitytoken = Some(token.clone()),
            Credentials::RegistryToken(token) => auth.registrytoken = Some(token.clone()),
        }
        file.auths.insert(key(host).to_owned(), auth);
        file.write(path)?;
        Ok(path.display().to_string())
    }

    /// Forgets the credentials for a registry, in all files and with their helpers. Returns where
    /// there were some.
    pub fn erase(&self, host: &str) -> Result<Vec<String>, AuthError> {
        let mut erased = Vec::new();
        for path in &self.files {
            let Some(mut file) = AuthFile::read(path)? else { continue };
            if let Some(program) = file.helper(host)
                && helper::get(&program, key(host))?.is_some()
            {
                helper::erase(&program, key(host))?;
                erased.push(format!("credential helper {program}"));
            }
            let before = file.auths.len();
            file.auths.retain(|name, _| normal(name) != host);
            if file.auths.len() < before {
                file.write(path)?;
                erased.push(path.display().to_string());
            }
        }
        Ok(erased)
    }

    fn first(&self) -> Result<&PathBuf, AuthError> {
        self.files.first().ok_or_else(|| AuthError::Malformed {
            path: PathBuf::new(),
            reason: "there is no place for credentials".to_owned(),
        })
    }
}

impl AuthFile {
    fn read(path: &Path) -> Result<Option<Self>, AuthError> {
        let malformed = |reason: String| AuthError::Malformed { path: path.to_owned(), reason };
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("stat", path).map_err(Into::into),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(malformed(format!("larger than {MAX_FILE} bytes")));
            }
            Ok(_) => fs::read(path).at("read", path)?,
        };
        // Of a file that skopeo made for a test, or that a container was given as /dev/null.
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Self::default()));
        }
        // serde_json's messages quote values: only the place is told.
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            malformed(format!("malformed JSON at line {line}, column {column}"))
        })
    }

    fn write(&self, path: &Path) -> Result<(), AuthError> {
        let target = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            target => target.at("resolve", path)?,
        };
        let dir = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).at("create", dir)?;
        let json = serde_json::to_vec_pretty(self).expect("names and texts");
        // Only for its owner, whatever the umask.
        let mut builder = tempfile::Builder::new();
        builder.prefix(".auth-").permissions(fs::Permissions::from_mode(0o600));
        let mut file = builder.tempfile_in(dir).at("create", &target)?;
        file.write_all(&json).at("write", &target)?;
        file.as_file().sync_all().at("write", &target)?;
        file.persist(&target).map_err(|error| error.error).at("write", &target)?;
        Ok(())
    }

    fn helper(&self, host: &str) -> Option<String> {
        let own = self.cred_helpers.iter().find(|(name, _)| normal(name) == host);
        own.map(|(_, program)| program).or(self.creds_store.as_ref()).cloned()
    }

    /// A helper for this host is asked first, then the entries from the repository up to the
    /// registry, then the helper for all.
    fn find(&self, path: &Path, host: &str, repository: &str) -> Result<Option<Found>, AuthError> {
        if let Some((_, program)) = self.cred_helpers.iter().find(|(name, _)| normal(name) == host)
        {
            return ask_helper(program, host);
        }
        let mut name = format!("{host}/{repository}");
        loop {
            let entry = self.auths.iter().find(|(key, _)| normal(key) == name);
            if let Some((_, auth)) = entry
                && let Some(credentials) = auth.credentials(path)?
            {
                return Ok(Some(Found { credentials, place: path.display().to_string() }));
            }
            match name.rfind('/') {
                Some(slash) => name.truncate(slash),
                None => break,
            }
        }
        match &self.creds_store {
            Some(program) => ask_helper(program, host),
            None => Ok(None),
        }
    }
}

impl Auth {
    /// None for the empty entry that `docker login` leaves beside a helper.
    fn credentials(&self, path: &Path) -> Result<Option<Credentials>, AuthError> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(token)));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        let Some(auth) = filled(&self.auth) else { return Ok(None) };
        let malformed = || AuthError::Malformed {
            path: path.to_owned(),
            reason: "an auth entry is not base64 of name:password".to_owned(),
        };
        let plain = BASE64.decode(auth.trim()).map_err(|_| malformed())?;
        let plain = String::from_utf8(plain).map_err(|_| malformed())?;
        let (username, password) = plain.split_once(':').ok_or_else(malformed)?;
        // Docker once padded with NUL.
        let password = password.trim_end_matches('\0');
        Ok(Some(from_helper((username.to_owned(), password.to_owned()))))
    }
}

fn ask_helper(program: &str, host: &str) -> Result<Option<Found>, AuthError> {
    let place = || format!("credential helper {program}");
    let found = helper::get(program, key(host))?;
    Ok(found.map(|found| Found { credentials: from_helper(found), place: place() }))
}

fn from_helper((username, secret): (String, String)) -> Credentials {
    match username.as_str() {
        TOKEN_USER => Credentials::IdentityToken(secret),
        _ => Credentials::Password { username, password: secret },
    }
}

/// The key under which a registry's credentials are kept.
fn key(host: &str) -> &str {
    match host {
        "docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// A key without what old programs wrote around the host.
fn normal(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let Some(rest) = rest else {
        return if key == "index.docker.io" { "docker.io" } else { key };
    };
    let host = rest.split('/').next().unwrap_or(rest);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password { username: username.into(), password: password.into() }
    }

    fn files(json: &str) -> (tempfile::TempDir, AuthFiles) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, json).unwrap();
        (dir, AuthFiles { files: vec![path], given: Vec::new() })
    }

    #[test]
    fn the_nearest_entry_wins() {
        let entry = |text: &str| format!(r#"{{"auth":"{}"}}"#, BASE64.encode(text));
        let (_dir, files) = files(&format!(
            r#"{{"auths":{{"a.test":{},"a.test/x":{},"https://index.docker.io/v1/":{},
                "https://b.test/v2/":{},"c.test":{{"identitytoken":"t","auth":""}},"d.test":{{}}}}}}"#,
            entry("all:1"),
            entry("x:pass:word"),
            entry("hub:3"),
            entry("b:4"),
        ));
        let find = |host, repository| files.find(host, repository).unwrap().map(|f| f.credentials);
        assert_eq!(find("a.test", "y"), Some(password("all", "1")));
        assert_eq!(find("a.test", "x/z"), Some(password("x", "pass:word")));
        assert_eq!(find("a.test", "xz"), Some(password("all", "1")));
        assert_eq!(find("docker.io", "library/x"), Some(password("hub", "3")));
        assert_eq!(find("b.test", "x"), Some(password("b", "4")));
        assert_eq!(find("c.test", "x"), Some(Credentials::IdentityToken("t".into())));
        assert_eq!(find("d.test", "x"), None);
        assert_eq!(find("e.test", "x"), None);
    }

    #[test]
    fn what_was_stored_is_found_and_erased_and_the_rest_is_kept() {
        let (_dir, files) =
            files(r#"{"auths":{"o.test":{"auth":"bzpw","email":"e"}},"psFormat":"x"}"#);
        files.store("r.test:5000", &password("u", "p:w")).unwrap();
        let found = files.find("r.test:5000", "a").unwrap().unwrap();
        assert_eq!(found.credentials, password("u", "p:w"));
        assert_eq!(found.place, files.files[0].display().to_string());
        let path = &files.files[0];
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("psFormat") && text.contains("email"), "{text}");
        assert_eq!(files.erase("r.test:5000").unwrap().len(), 1);
        assert_eq!(files.find("r.test:5000", "a").unwrap(), None);
        assert!(files.erase("r.test:5000").unwrap().is_empty());
        let found = files.find("o.test", "a").unwrap().unwrap();
        assert_eq!(found.credentials, password("o", "p"));
    }

    #[test]
    fn errors_and_debug_tell_no_secret() {
        let (_dir, files) = files(r#"{"auths":{"a.test":{"auth":12345678}}}"#);
        let error = files.find("a.test", "x").unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("12345678"), "{error}");
        assert_eq!(format!("{:?}", password("u", "secret")), "Password(..)");
    }
}
