//! What instructions change in an image's config, as Docker does it, and history texts.
//!
//! CMD and ENTRYPOINT are stored by dialect:
//!
//! | written | Dockerfile | Kubefile |
//! |---|---|---|
//! | `CMD ["a","b"]` | `["a","b"]`: arguments | `["a","b"]`: two shell lines |
//! | `CMD a b` | `["/bin/sh","-c","a b"]` (SHELL) | `["a b"]`: one shell line |
//! | a second CMD | replaces | appends |
//! | the base's CMD | replaced by the first | replaced by the first |
//!
//! This is the form that `sealos run` reads: it runs every element of Entrypoint and then of Cmd as
//! a shell line.

pub mod history;
mod port;

use std::collections::BTreeMap;

use kfs_fs::oci::manifest::{ContainerConfig, ImageConfig};
use serde_json::{Map, Value, json};

use crate::cluster::extension::{CNI_LABEL, CSI_LABEL, KUBE_VERSION_LABEL};
use crate::cluster::kube_version::{BadRange, KubeVersions, NothingInCommon};
use crate::kubefile::{Command, Dialect, Healthcheck, Instruction, Pair};
pub(crate) use port::published;

/// What shell forms are handed to when neither the base image nor SHELL says otherwise.
pub const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Docker's and buildah's PATH for an image whose base sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a value cannot stand in a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a port, range or protocol.
    #[error("{0:?} is no port: write PORT[-PORT][/tcp|/udp|/sctp] with ports from 1 to 65535")]
    Port(String),
    /// Not a signal.
    #[error("{0:?} is no signal: write a name like SIGTERM or a number from 1 to 64")]
    Signal(String),
    /// ENV or LABEL whose name is empty once variables are expanded.
    #[error("{0} has an empty name")]
    EmptyName(&'static str),
    /// KUBEVERSION is no range.
    #[error(transparent)]
    KubeVersion(#[from] BadRange),
    /// KUBEVERSIONs that have nothing in common.
    #[error(transparent)]
    NoKubeVersion(#[from] Box<NothingInCommon>),
    /// A value that became empty when variables were expanded.
    #[error("{0} is empty")]
    Empty(&'static str),
}

/// The config of a stage while its steps are applied.
#[derive(Clone, Debug)]
pub struct StageConfig {
    image: ImageConfig,
    dialect: Dialect,
    /// A CMD of this stage was applied: ENTRYPOINT keeps it, a Kubefile's next CMD appends.
    cmd_set: bool,
}

/// Fields of a base's config that tell how the base itself was made by Docker's old builder.
const STALE: [&str; 6] =
    ["container", "container_config", "docker_version", "id", "parent", "throwaway"];

impl StageConfig {
    /// Begins a stage on a base's config; for `FROM scratch` one that only names the platform.
    /// PATH is set if the base has none; what is true of the base's own making is dropped.
    pub fn new(base: ImageConfig, dialect: Dialect) -> Self {
        let mut image = base;
        STALE.iter().for_each(|key| drop(image.extra.shift_remove(*key)));
        image.config.extra.shift_remove("OnBuild");
        if lookup(&image.config.env, "PATH").is_none() {
            image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        Self { image, dialect, cmd_set: false }
    }

    /// The config as it is now.
    pub fn image(&self) -> &ImageConfig {
        &self.image
    }

    /// The config when all steps are applied.
    pub fn into_image(self) -> ImageConfig {
        self.image
    }

    /// The value of a variable of the image's environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        lookup(&self.image.config.env, name)
    }

    /// The directory that relative paths start from, absolute.
    pub fn working_dir(&self) -> &str {
        match self.image.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// What shell forms are handed to: of SHELL, of the base, or [`DEFAULT_SHELL`].
    pub fn shell(&self) -> Vec<String> {
        let shell = self.image.config.extra.get("Shell").and_then(Value::as_array);
        let words: Option<Vec<String>> =
            shell.map(|words| words.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        words
            .filter(|words| !words.is_empty())
            .unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec())
    }

    /// Changes the config as the instruction says, whose variables are expanded. FROM, ARG, ADD,
    /// COPY and RUN change nothing, nor does what the plan refuses.
    pub fn apply(&mut self, instruction: &Instruction) -> Result<(), ConfigError> {
        match instruction {
            Instruction::From(_)
            | Instruction::Arg(_)
            | Instruction::Add(_)
            | Instruction::Copy(_)
            | Instruction::Run(_)
            | Instruction::App(_)
            | Instruction::AppCmds(_)
            | Instruction::AppEnv(_)
            | Instruction::Cmds(_)
            | Instruction::Launch(_) => {}
            Instruction::Cni(app) => self.plugin(CNI_LABEL, &app.name),
            Instruction::Csi(app) => self.plugin(CSI_LABEL, &app.name),
            Instruction::KubeVersion(version) => self.kube_version(&version.range)?,
            Instruction::Healthcheck(check) => self.set("Healthcheck", healthcheck(check)),
            Instruction::Onbuild(onbuild) => {
                let mut triggers = triggers(&self.image);
                triggers.push(onbuild.text.clone());
                self.set("OnBuild", Value::from(triggers));
            }
            Instruction::Cmd(cmd) => self.cmd(&cmd.command),
            Instruction::Entrypoint(entrypoint) => self.entrypoint(&entrypoint.command),
            Instruction::Env(env) => set_env(&mut self.image.config.env, &env.pairs)?,
            Instruction::Label(label) => self.label(&label.pairs)?,
            Instruction::Maintainer(maintainer) => {
                self.image.author = Some(maintainer.name.clone());
            }
            Instruction::User(user) => self.image.config.user = not_empty("USER", &user.user)?,
            Instruction::Workdir(workdir) => {
                // Empty, it stays what it is.
                if !workdir.path.is_empty() {
                    self.image.config.working_dir = join(self.working_dir(), &workdir.path);
                }
            }
            Instruction::Expose(expose) => {
                let mut ports = Vec::new();
                for text in &expose.ports {
                    ports.extend(port::expand(text)?);
                }
                insert_keys(&mut self.image.config, "ExposedPorts", ports);
            }
            Instruction::Volume(volume) => {
                for path in &volume.paths {
                    not_empty("VOLUME", path)?;
                }
                insert_keys(&mut self.image.config, "Volumes", volume.paths.iter().cloned());
            }
            Instruction::StopSignal(stop) => {
                if !is_signal(&stop.signal) {
                    return Err(ConfigError::Signal(stop.signal.clone()));
                }
                self.set("StopSignal", Value::from(stop.signal.as_str()));
            }
            Instruction::Shell(shell) => self.set("Shell", Value::from(shell.arguments.clone())),
        }
        Ok(())
    }

    fn label(&mut self, pairs: &[Pair]) -> Result<(), ConfigError> {
        for Pair { key, value } in pairs {
            if key.is_empty() {
                return Err(ConfigError::EmptyName("LABEL"));
            }
            self.image.config.labels.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    /// Sealer has a label for each plugin; its `inspect` makes a list of them.
    fn plugin(&mut self, label: &str, name: &str) {
        self.image.config.labels.insert(format!("{label}-{name}"), "true".to_owned());
    }

    /// Several KUBEVERSIONs, those of bases included, mean the versions that all allow (seed
    /// document 3). What a base says that is no range is as good as nothing.
    fn kube_version(&mut self, text: &str) -> Result<(), ConfigError> {
        let range = KubeVersions::parse(text)?;
        let labels = &mut self.image.config.labels;
        let before = labels.get(KUBE_VERSION_LABEL);
        let known = before.and_then(|text| KubeVersions::parse(text).ok());
        let label = match known {
            None => text.to_owned(),
            Some(known) if known == range => return Ok(()),
            Some(known) => match known.intersection(&range) {
                Some(both) => both.to_string(),
                None => {
                    let before = before.cloned().unwrap_or_default();
                    return Err(Box::new(NothingInCommon { range: text.to_owned(), before }).into());
                }
            },
        };
        labels.insert(KUBE_VERSION_LABEL.to_owned(), label);
        Ok(())
    }

    fn set(&mut self, field: &str, value: Value) {
        self.image.config.extra.insert(field.to_owned(), value);
    }

    fn cmd(&mut self, command: &Command) {
        let mut elements = self.elements(command);
        if self.cmd_set && self.dialect == Dialect::Kubefile {
            let mut before = self.image.config.cmd.take().unwrap_or_default();
            before.append(&mut elements);
            elements = before;
        }
        // `CMD []` takes the base's CMD away.
        self.image.config.cmd = (!elements.is_empty()).then_some(elements);
        self.cmd_set = true;
    }

    fn entrypoint(&mut self, command: &Command) {
        let elements = self.elements(command);
        self.image.config.entrypoint = (!elements.is_empty()).then_some(elements);
        // The base's CMD was made for the base's ENTRYPOINT.
        if !self.cmd_set {
            self.image.config.cmd = None;
        }
    }

    fn elements(&self, command: &Command) -> Vec<String> {
        match (command, self.dialect) {
            (Command::Exec(elements), _) => elements.clone(),
            (Command::Shell(text), Dialect::Kubefile) => vec![text.clone()],
            (Command::Shell(text), Dialect::Dockerfile) => {
                let mut elements = self.shell();
                elements.push(text.clone());
                elements
            }
        }
    }
}

/// The form of Docker's config: durations in nanoseconds, what is not said left out.
fn healthcheck(check: &Healthcheck) -> Value {
    let check = match check {
        Healthcheck::None => return json!({ "Test": ["NONE"] }),
        Healthcheck::Check(check) => check,
    };
    let test: Vec<&str> = match &check.command {
        Command::Shell(line) => vec!["CMD-SHELL", line],
        Command::Exec(arguments) => {
            ["CMD"].into_iter().chain(arguments.iter().map(String::as_str)).collect()
        }
    };
    let mut value = Map::from_iter([("Test".to_owned(), json!(test))]);
    for (name, duration) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if let Some(duration) = duration {
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            value.insert(name.to_owned(), Value::from(nanoseconds));
        }
    }
    if let Some(retries) = check.retries {
        value.insert("Retries".to_owned(), Value::from(retries));
    }
    Value::Object(value)
}

/// The ONBUILD triggers that a config keeps for images on top of it.
pub fn triggers(config: &ImageConfig) -> Vec<String> {
    let triggers = config.config.extra.get("OnBuild").and_then(Value::as_array);
    let texts = triggers.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn lookup<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// A name that is there keeps its place.
fn set_env(env: &mut Vec<String>, pairs: &[Pair]) -> Result<(), ConfigError> {
    for Pair { key, value } in pairs {
        if key.is_empty() {
            return Err(ConfigError::EmptyName("ENV"));
        }
        let line = format!("{key}={value}");
        let same = |old: &String| old.split_once('=').map_or(old.as_str(), |(k, _)| k) == key;
        match env.iter_mut().find(|old| same(old)) {
            Some(old) => *old = line,
            None => env.push(line),
        }
    }
    Ok(())
}

fn not_empty(what: &'static str, value: &str) -> Result<String, ConfigError> {
    if value.trim().is_empty() {
        return Err(ConfigError::Empty(what));
    }
    Ok(value.to_owned())
}

/// Adds keys to a set that Docker stores as `{"key":{}}`, sorted.
fn insert_keys(config: &mut ContainerConfig, field: &str, keys: impl IntoIterator<Item = String>) {
    let empty = || Value::Object(Map::new());
    let mut set: BTreeMap<String, Value> = match config.extra.shift_remove(field) {
        Some(Value::Object(old)) => old.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    set.extend(keys.into_iter().map(|key| (key, empty())));
    config.extra.insert(field.to_owned(), Value::Object(set.into_iter().collect()));
}

/// The absolute path of `path` seen from `dir`, without `.`, `..` and doubled slashes.
pub fn join(dir: &str, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { dir };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The names of Linux's signals without `SIG`, and RTMIN, RTMAX with an offset.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR \
                         QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM \
                         WINCH XCPU XFSZ RTMIN RTMAX";
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |prefix| {
        let offset: Option<u8> = name.strip_prefix(prefix).and_then(|n: &str| n.parse().ok());
        offset.is_some_and(|n| n <= 30)
    };
    NAMES.split_whitespace().any(|known| known == name)
        || real_time("RTMIN+")
        || real_time("RTMAX-")
}

#[cfg(test)]
mod tests;
