//! Values of flags that say several things at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kfs_builder::build::Secret;
use kfs_builder::context::Context as BuildContext;
use kfs_builder::exec::{Limits, World, parse_ulimit};
use kfs_fs::error::AtPath as _;
use kfs_fs::oci::manifest::Platform;
use kfs_fs::oci::reference::Name;

use crate::report::{Failure, USAGE};

fn usage(message: String) -> Failure {
    Failure::new(message).code(USAGE)
}

/// `KEY=VALUE`, with a value that may be empty.
pub(super) fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        None if !text.is_empty() => Ok((text.to_owned(), String::new())),
        _ => Err(usage(format!("--{flag} {text}: the name is empty"))),
    }
}

/// The fields of `KEY=VALUE,...`; keys in lower case.
pub(super) fn fields(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.split(',').map(|field| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        (key.trim().to_ascii_lowercase(), value)
    })
}

/// `--cache-from` and `--cache-to`: `REPOSITORY`, or as docker writes it,
/// `type=registry,ref=REPOSITORY`.
pub(super) fn repositories(flag: &str, texts: &[String]) -> Result<Vec<Name>, Failure> {
    texts.iter().map(|text| repository(flag, text)).collect()
}

fn repository(flag: &str, text: &str) -> Result<Name, Failure> {
    let mut wanted = text;
    if text.contains('=') {
        let bad = || {
            usage(format!("--{flag} {text}: only a registry can have the cache"))
                .hint("write the repository alone, like registry.local/cache")
        };
        wanted = "";
        for (key, value) in fields(text) {
            match (key.as_str(), value) {
                ("type", "registry") | ("mode", _) => {}
                ("ref", value) => wanted = value,
                _ => return Err(bad()),
            }
        }
    }
    let name: Name = wanted.parse()?;
    let has_tag = wanted.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag && wanted.contains('/') || name.digest().is_some() {
        return Err(usage(format!("--{flag} {text}: a repository has no tag and no digest"))
            .hint("each step has a tag of its own there"));
    }
    Ok(name)
}

/// `--secret id=ID[,src=FILE|,env=NAME]`; without either it is the variable ID, else the file ID.
pub(super) fn secrets(texts: &[String]) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let (mut id, mut file, mut variable) = (None, None, None);
        for (key, value) in fields(text) {
            match key.as_str() {
                "id" => id = Some(value.to_owned()),
                "src" | "source" => file = Some(PathBuf::from(value)),
                "env" => variable = Some(value.to_owned()),
                "type" if matches!(value, "file" | "env") => {}
                _ => {
                    return Err(usage(format!("--secret has no field {key}"))
                        .hint("write --secret id=ID,src=FILE or --secret id=ID,env=NAME"));
                }
            }
        }
        let id = id.or_else(|| Some(file.as_ref()?.file_name()?.to_string_lossy().into_owned()));
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            return Err(usage(format!("--secret {text} has no id")));
        };
        let from_environment = |name: &str| {
            use std::os::unix::ffi::OsStringExt;
            std::env::var_os(name).map(OsStringExt::into_vec)
        };
        let content = match (&file, &variable) {
            (Some(path), _) => std::fs::read(path).at("read the secret", path)?,
            (None, Some(name)) => from_environment(name).ok_or_else(|| {
                usage(format!("--secret {text}: the environment has no variable {name}"))
            })?,
            (None, None) => match from_environment(&id) {
                Some(value) => value,
                None => std::fs::read(&id).at("read the secret", Path::new(&id))?,
            },
        };
        secrets.insert(id, Secret(content));
    }
    Ok(secrets)
}

/// `--ssh ID[=SOCKET]`; without a socket it is that of `SSH_AUTH_SOCK`.
pub(super) fn agents(texts: &[String]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, PathBuf::from(path)),
            None => match std::env::var_os("SSH_AUTH_SOCK") {
                Some(path) => (text.as_str(), PathBuf::from(path)),
                None => {
                    return Err(usage(format!("--ssh {text}: SSH_AUTH_SOCK is not set"))
                        .hint("start an agent, or name its socket: --ssh ID=SOCKET"));
                }
            },
        };
        let metadata = path.metadata().at("find the SSH agent at", &path)?;
        if !metadata.file_type().is_socket() {
            return Err(usage(format!("--ssh {text}: {} is no socket", path.display()))
                .hint("keys are taken from an agent alone: ssh-add KEY, then --ssh ID"));
        }
        agents.insert(id.to_owned(), path);
    }
    Ok(agents)
}

/// `--build-context NAME=DIRECTORY`.
pub(super) fn contexts(texts: &[String]) -> Result<BTreeMap<String, BuildContext>, Failure> {
    let mut contexts = BTreeMap::new();
    for text in texts {
        let (name, place) = pair("build-context", text)?;
        let directory = Path::new(&place);
        let context = BuildContext::open(directory)?;
        // It has an ignore file of its own.
        let context = context.with_ignore_file(&directory.join("Dockerfile"))?;
        contexts.insert(name.to_ascii_lowercase(), context);
    }
    Ok(contexts)
}

/// The images among the `--build-context NAME=IMAGE`, by name; and what is left are directories.
pub(super) fn split_contexts(texts: &[String]) -> (Vec<String>, BTreeMap<String, String>) {
    let (mut directories, mut images) = (Vec::new(), BTreeMap::new());
    for text in texts {
        let image = text.split_once('=').and_then(|(name, place)| {
            let store =
                place.strip_prefix("docker-image://").or_else(|| place.strip_prefix("store:"));
            let layout = place.strip_prefix("oci-layout://").map(|rest| format!("oci:{rest}"));
            let known = ["oci:", "oci-archive:", "docker-archive:", "docker://"];
            let as_is =
                known.iter().any(|scheme| place.starts_with(scheme)).then(|| place.to_owned());
            let image = store.map(str::to_owned).or(layout).or(as_is)?;
            Some((name.to_ascii_lowercase(), image))
        });
        match image {
            Some((name, image)) => drop(images.insert(name, image)),
            None => directories.push(text.clone()),
        }
    }
    (directories, images)
}

/// `OS/ARCHITECTURE[/VARIANT]`.
pub(super) fn platform(text: &str, host: &Platform) -> Result<Platform, Failure> {
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.split('/');
    let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
    let bad = || {
        usage(format!("--platform {text} is no platform"))
            .hint("write OS/ARCHITECTURE[/VARIANT], like linux/arm64; one platform a build")
    };
    if text.contains(',') || parts.next().is_some() {
        return Err(bad());
    }
    let normal = |name: &str| match name {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        name => name.to_owned(),
    };
    match (os, architecture) {
        (Some(os), Some(architecture)) if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform {
                architecture: normal(architecture),
                os: os.to_owned(),
                variant: variant.filter(|variant| !variant.is_empty()).map(str::to_owned),
                extra: host.extra.clone(),
            })
        }
        _ => Err(bad()),
    }
}

/// What RUN sees.
pub(super) fn world(args: &super::Args) -> Result<World, Failure> {
    let host = |text: &String| match text.split_once([':', '=']) {
        Some((name, address)) if !name.is_empty() => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            match address.parse::<IpAddr>() {
                Ok(address) => Ok((address.to_string(), name.to_owned())),
                Err(_) => Err(usage(format!("--add-host {text}: {address} is no IP address"))),
            }
        }
        _ => Err(usage(format!("--add-host {text}: write NAME:ADDRESS"))),
    };
    let ulimits = args.ulimit.iter().map(|text| parse_ulimit(text));
    Ok(World {
        no_network: args.network == super::NetworkArg::None,
        hosts: args.add_host.iter().map(host).collect::<Result<_, _>>()?,
        shm_size: args.shm_size.as_deref().map(|text| bytes("shm-size", text)).transpose()?,
        ulimits: ulimits.collect::<Result<_, _>>().map_err(|e| usage(format!("--ulimit: {e}")))?,
        ..World::default()
    })
}

/// What all RUNs may take together.
pub(super) fn limits(args: &super::Args) -> Result<Limits, Failure> {
    if args.cpus.is_some_and(|cpus| !(cpus.is_finite() && cpus >= 0.01)) {
        return Err(usage("--cpus needs a number from 0.01".to_owned()));
    }
    Ok(Limits {
        memory: args.memory.as_deref().map(|text| bytes("memory", text)).transpose()?,
        cpus: args.cpus,
        pids: args.pids_limit,
    })
}

/// A number of bytes, with a unit of 1024 as Docker writes it: `64m`, `1.5g`, `512`.
fn bytes(flag: &str, text: &str) -> Result<u64, Failure> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: Option<u64> = match &lower[number.len()..] {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        "t" | "tb" | "tib" => Some(1 << 40),
        _ => None,
    };
    let number: Option<f64> = number.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
    match (number, unit) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It saturates.
        (Some(number), Some(unit)) => Ok((number * unit as f64) as u64),
        _ => Err(usage(format!("--{flag} {text} is no size"))
            .hint("write a number with b, k, m or g behind it, like 512m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [("64m", 64 << 20), ("1.5g", 3 << 29), ("512", 512), ("2KiB", 2048)]
        {
            assert_eq!(bytes("memory", text).ok(), Some(expected), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "nan", "1 m"] {
            assert!(bytes("memory", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contexts_are_directories_or_images() {
        let texts = ["a=dir", "B=docker-image://x:1", "c=oci-layout://d", "e=oci:f:1"];
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let (directories, images) = split_contexts(&texts);
        assert_eq!(directories, ["a=dir"]);
        let image = |name: &str| images.get(name).map(String::as_str);
        assert_eq!(
            (image("b"), image("c"), image("e")),
            (Some("x:1"), Some("oci:d"), Some("oci:f:1"))
        );
    }
}
