//! `RUN --mount`: options as they are written, and the typed mount that they say once their
//! variables are expanded.

use crate::kubefile::error::did_you_mean;

/// `--mount=[type=TYPE,]KEY[=VALUE],...`
///
/// | type | options |
/// |---|---|
/// | `bind` (the default) | `target` (needed), `source`, `from`, `rw` |
/// | `cache` | `target` (needed), `id`, `ro`, `sharing`, `from`, `source`, `mode`, `uid`, `gid` |
/// | `tmpfs` | `target` (needed), `size` |
/// | `secret`, `ssh` | `id`, `target`, `required`, `mode`, `uid`, `gid`; a secret also `env` |
///
/// `target` is also called `dst` and `destination`, `source` `src`, `ro` `readonly`, `rw`
/// `readwrite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Keys in lower case, one without `=` has no value.
    pub options: Vec<(String, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Something that is mounted while a RUN runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// A directory or file of the context, a stage or an image.
    Bind(BindMount),
    /// A directory that is kept from build to build.
    Cache(CacheMount),
    /// A file system in memory.
    Tmpfs(TmpfsMount),
    /// A file, or variable, with what the user passes as a secret.
    Secret(FileMount),
    /// A socket that leads to the user's SSH agent.
    Ssh(FileMount),
}

/// `type=bind`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// In the image, relative to WORKDIR.
    pub target: String,
    /// In what is mounted; its root without.
    pub source: Option<String>,
    /// A stage, named context or image; the context without.
    pub from: Option<String>,
    /// Can be written; what is written is thrown away.
    pub writable: bool,
}

/// `type=cache`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// In the image, relative to WORKDIR.
    pub target: String,
    /// Which cache; the target without.
    pub id: Option<String>,
    /// Cannot be written.
    pub read_only: bool,
    /// What happens if two RUNs want it at once.
    pub sharing: Sharing,
    /// A stage, named context or image with the first content; empty without.
    pub from: Option<String>,
    /// A directory in that.
    pub source: Option<String>,
    /// Permission bits of a new directory.
    pub mode: u32,
    /// Owner of a new directory.
    pub uid: u32,
    /// Group of a new directory.
    pub gid: u32,
}

/// `sharing=` of a cache, the strictest way last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// All write to it at once.
    #[default]
    Shared,
    /// Each gets its own.
    Private,
    /// One waits for the other.
    Locked,
}

/// `type=tmpfs`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpfsMount {
    /// In the image, relative to WORKDIR.
    pub target: String,
    /// The most it may hold, in bytes.
    pub size: Option<u64>,
}

/// `type=secret` and `type=ssh`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMount {
    /// Which secret or agent. Of a secret none only where `target` is not: then the target's last
    /// component. Of ssh none means `default`.
    pub id: Option<String>,
    /// In the image; `/run/secrets/ID` for a secret without `env`, else nowhere;
    /// `/run/buildkit/ssh_agent.N` for ssh.
    pub target: Option<String>,
    /// A variable with the content of the secret.
    pub env: Option<String>,
    /// The build fails if the user passes none.
    pub required: bool,
    /// Permission bits: 0400, of ssh 0600, if it does not say.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Mount {
    /// The stage, named context or image that it takes files from.
    pub fn from(&self) -> Option<&str> {
        match self {
            Self::Bind(BindMount { from, .. }) | Self::Cache(CacheMount { from, .. }) => {
                from.as_deref()
            }
            Self::Tmpfs(_) | Self::Secret(_) | Self::Ssh(_) => None,
        }
    }
}

/// Why options are no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Not a type.
    #[error("there is no mount type {0}")]
    Type(String),
    /// Not an option of any type.
    #[error("a mount has no option {0}")]
    Option(String),
    /// Not an option of this type.
    #[error("a mount of type {kind} has no option {key}")]
    OptionOfType {
        /// The type.
        kind: &'static str,
        /// The option.
        key: String,
    },
    /// An option without a value that needs one, or with one that it cannot have.
    #[error("the mount option {key} cannot be {value:?}: {expected} is expected")]
    Value {
        /// The option.
        key: String,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The target, which the type needs.
    #[error("a mount of type {0} needs a target")]
    NoTarget(&'static str),
    /// A secret of which nothing says which.
    #[error("a mount of type secret needs an id or a target")]
    NoId,
    /// There are quotes that are not closed, or stand in the middle.
    #[error("the quotes in the mount options are not those of a CSV line")]
    Quotes,
}

impl MountError {
    /// What was most likely meant, if that can be guessed.
    pub fn did_you_mean(&self) -> Option<&'static str> {
        match self {
            Self::Type(word) => did_you_mean(word, Kind::ALL.iter().map(|kind| kind.as_str())),
            Self::Option(word) => did_you_mean(word, KEYS.iter().copied()),
            Self::OptionOfType { .. }
            | Self::Value { .. }
            | Self::NoTarget(_)
            | Self::NoId
            | Self::Quotes => None,
        }
    }

    /// The word of the options that is wrong, if it is one.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Type(word) | Self::Option(word) | Self::OptionOfType { key: word, .. } => {
                Some(word)
            }
            Self::Value { value, key, .. } => Some(if value.is_empty() { key } else { value }),
            Self::NoTarget(_) | Self::NoId | Self::Quotes => None,
        }
    }
}

impl Kind {
    const ALL: [Self; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Bind => &["target", "source", "from", "ro", "rw"],
            Self::Cache => {
                &["target", "id", "ro", "rw", "sharing", "from", "source", "mode", "uid", "gid"]
            }
            Self::Tmpfs => &["target", "size"],
            Self::Secret => &["id", "target", "env", "required", "mode", "uid", "gid"],
            Self::Ssh => &["id", "target", "required", "mode", "uid", "gid"],
        }
    }
}

/// All options under all their names.
const KEYS: [&str; 19] = [
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "ro",
    "readonly",
    "rw",
    "readwrite",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
    "required",
    "type",
];

/// The one name of an option.
fn canonical(key: &str) -> &str {
    match key {
        "dst" | "destination" => "target",
        "src" => "source",
        "readonly" => "ro",
        "readwrite" => "rw",
        key => key,
    }
}

impl MountOptions {
    /// Reads the value of a `--mount` flag: fields of a CSV line. Values are not looked at, as
    /// they may hold variables; see [`mount`](Self::mount).
    pub fn parse(text: &str) -> Result<Self, MountError> {
        let mut options = Vec::new();
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
                None => (field.to_ascii_lowercase(), None),
            };
            if !KEYS.contains(&key.as_str()) {
                return Err(MountError::Option(key));
            }
            options.push((canonical(&key).to_owned(), value));
        }
        let options = Self { options };
        let is_variable = |value: Option<&str>| value.is_some_and(|text| text.contains('$'));
        if !options.last("type").is_some_and(is_variable) {
            options.kind()?;
        }
        Ok(options)
    }

    /// The type, if all options are options of it.
    fn kind(&self) -> Result<Kind, MountError> {
        let mut kind = Kind::Bind;
        if let Some(name) = self.last("type") {
            let name = name.unwrap_or_default().to_ascii_lowercase();
            let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
            kind = known.ok_or(MountError::Type(name))?;
        }
        let is_other = |key: &str| key != "type" && !kind.keys().contains(&key);
        match self.options.iter().find(|(key, _)| is_other(key)) {
            Some((key, _)) => {
                Err(MountError::OptionOfType { kind: kind.as_str(), key: key.clone() })
            }
            None => Ok(kind),
        }
    }

    /// Whether a value may hold variables, so that [`mount`](Self::mount) can fail for their sake.
    pub fn has_variables(&self) -> bool {
        self.options.iter().any(|(_, value)| value.as_ref().is_some_and(|v| v.contains('$')))
    }

    /// The mount that the options say, whose variables are expanded.
    pub fn mount(&self) -> Result<Mount, MountError> {
        let kind = self.kind()?;
        let target = || self.text("target")?.ok_or(MountError::NoTarget(kind.as_str()));
        Ok(match kind {
            Kind::Bind => Mount::Bind(BindMount {
                target: target()?,
                source: self.text("source")?,
                from: self.text("from")?,
                writable: self.writable(false)?,
            }),
            Kind::Cache => Mount::Cache(CacheMount {
                target: target()?,
                id: self.text("id")?,
                read_only: !self.writable(true)?,
                sharing: self.sharing()?,
                from: self.text("from")?,
                source: self.text("source")?,
                mode: self.mode(0o755)?,
                uid: self.number("uid")?,
                gid: self.number("gid")?,
            }),
            Kind::Tmpfs => Mount::Tmpfs(TmpfsMount { target: target()?, size: self.size()? }),
            Kind::Secret if self.text("id")?.is_none() && self.text("target")?.is_none() => {
                return Err(MountError::NoId);
            }
            Kind::Secret => Mount::Secret(self.file(0o400)?),
            Kind::Ssh => Mount::Ssh(self.file(0o600)?),
        })
    }

    fn file(&self, mode: u32) -> Result<FileMount, MountError> {
        Ok(FileMount {
            id: self.text("id")?,
            target: self.text("target")?,
            env: self.text("env")?,
            required: self.switch("required")?.unwrap_or(false),
            mode: self.mode(mode)?,
            uid: self.number("uid")?,
            gid: self.number("gid")?,
        })
    }

    /// The value of the last option with this key; the inner option is none without `=`.
    fn last(&self, key: &str) -> Option<Option<&str>> {
        let last = self.options.iter().rev().find(|(known, _)| known == key);
        last.map(|(_, value)| value.as_deref())
    }

    fn bad<T>(&self, key: &str, expected: &'static str) -> Result<T, MountError> {
        let value = self.last(key).flatten().unwrap_or_default().to_owned();
        Err(MountError::Value { key: key.to_owned(), value, expected })
    }

    fn text(&self, key: &str) -> Result<Option<String>, MountError> {
        match self.last(key) {
            None => Ok(None),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value.to_owned())),
            Some(_) => self.bad(key, "a value"),
        }
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, MountError> {
        match self.last(key) {
            None => Ok(None),
            Some(None | Some("true" | "1")) => Ok(Some(true)),
            Some(Some("false" | "0")) => Ok(Some(false)),
            Some(Some(_)) => self.bad(key, "true or false"),
        }
    }

    /// Whether the later one of `ro` and `rw` says that it can be written.
    fn writable(&self, default: bool) -> Result<bool, MountError> {
        let later = self.options.iter().rev().find(|(key, _)| key == "ro" || key == "rw");
        match later.map(|(key, _)| key.as_str()) {
            None => Ok(default),
            Some("ro") => Ok(!self.switch("ro")?.unwrap_or(true)),
            Some(_) => Ok(self.switch("rw")?.unwrap_or(true)),
        }
    }

    fn sharing(&self) -> Result<Sharing, MountError> {
        match self.text("sharing")?.map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("shared") => Ok(Sharing::Shared),
            Some("private") => Ok(Sharing::Private),
            Some("locked") => Ok(Sharing::Locked),
            Some(_) => self.bad("sharing", "shared, private or locked"),
        }
    }

    fn mode(&self, default: u32) -> Result<u32, MountError> {
        let Some(text) = self.text("mode")? else { return Ok(default) };
        match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            Ok(_) | Err(_) => self.bad("mode", "an octal number"),
        }
    }

    fn number(&self, key: &str) -> Result<u32, MountError> {
        let Some(text) = self.text(key)? else { return Ok(0) };
        text.parse().or_else(|_| self.bad(key, "a number"))
    }

    /// Bytes, or with k, m, g or t behind a multiple of 1024.
    fn size(&self) -> Result<Option<u64>, MountError> {
        let Some(text) = self.text("size")? else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
        let digits = lower.trim_end_matches(['k', 'm', 'g', 't']);
        let shift = match &lower[digits.len()..] {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return self.bad("size", "a number of bytes like 64m"),
        };
        match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
            Some(size) => Ok(Some(size)),
            None => self.bad("size", "a number of bytes like 64m"),
        }
    }
}

/// The fields of a CSV line: one may stand between double quotes, in which a doubled quote is one.
fn fields(text: &str) -> Result<Vec<String>, MountError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(MountError::Quotes);
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(MountError::Quotes),
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, &str), MountError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or(MountError::Quotes)?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests;
