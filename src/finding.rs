//! How images are found that are not in the store: what the command line says, and what is kept
//! where docker, podman and skopeo look. The one place where the environment is asked for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kfs_fs::content::Options;
use kfs_fs::oci::find::{Lookup, Pull, Wanted};
use kfs_fs::oci::image::ImageError;
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::registry::auth::AuthFiles;
use kfs_fs::oci::registry::{Proxies, Registries, Settings};
use kfs_fs::oci::store::{Part, Store, StoreError};

use crate::reading::ReadArgs;
use crate::report::{Failure, NOT_FOUND};

/// Options of all commands that take an image.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Registry options")]
pub(crate) struct FindArgs {
    /// When to ask the registry of an image
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        env = "KFS_PULL",
        hide_env_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always"
    )]
    pull: Option<PullWhen>,

    /// The platform for which an image is wanted [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Wanted>,

    #[command(flatten)]
    read: ReadArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Options of all commands that talk to registries.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Registry options")]
pub(crate) struct ConnectArgs {
    /// Speak http with registries, not https
    #[arg(long)]
    plain_http: bool,

    /// How long a read may wait for its registry before it fails [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    read_timeout: Option<Duration>,
}

/// Options of commands that take whole images from one place to another.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TransferArgs {
    /// Take the images for all platforms
    #[arg(long, conflicts_with = "platform")]
    pub(crate) all_platforms: bool,

    #[command(flatten)]
    pub(crate) find: FindArgs,
}

impl TransferArgs {
    /// Says of an image that is not there for all platforms how it can be had.
    pub(crate) fn explain(&self, error: StoreError) -> Failure {
        let lacks = match &error {
            StoreError::Layout(LayoutError::Image { source, .. }) => {
                matches!(**source, ImageError::Missing { .. })
            }
            _ => false,
        };
        let failure = Failure::from(error);
        match lacks && self.all_platforms {
            true => failure.code(NOT_FOUND).hint(
                "the image was taken for some platforms only: leave out --all-platforms, or fetch \
                 it with `kfs pull --all-platforms`",
            ),
            false => failure,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PullWhen {
    /// If the store does not have it (the default)
    Missing,
    /// Each time
    Always,
    /// Each time, and what the store has if the registry cannot be asked
    Newer,
    /// Not at all
    Never,
}

impl FindArgs {
    /// What the environment says to commands that have no such options; what it says wrongly ends
    /// the process, as it does where there are some.
    pub(crate) fn of_environment() -> Self {
        #[derive(clap::Parser)]
        struct Environment {
            #[command(flatten)]
            find: FindArgs,
        }
        let parsed = <Environment as clap::Parser>::try_parse_from(["kfs"]);
        parsed.unwrap_or_else(|error| error.exit()).find
    }

    /// The platform that is wanted, if one is named.
    pub(crate) fn platform(&self) -> Option<&Wanted> {
        self.platform.as_ref()
    }

    /// What these options mean for the store in this directory.
    pub(crate) fn lookup(&self, store: &Path) -> Lookup {
        let pull = match self.pull {
            None | Some(PullWhen::Missing) => Pull::Missing,
            Some(PullWhen::Always) => Pull::Always,
            Some(PullWhen::Newer) => Pull::Newer,
            Some(PullWhen::Never) => Pull::Never,
        };
        let registries = Some(self.connect.registries(store));
        let platform = self.platform.clone();
        Lookup { registries, pull, platform, whole: false, layers: false }
    }

    /// How the content of what is found is read.
    pub(crate) fn reading(&self, store: &Path) -> Options {
        let options = self.read.options(store);
        let timeout = self.connect.read_timeout.unwrap_or(options.timeout);
        Options { timeout, ..options }
    }

    /// The options for a process that opens an image that this one has found. They hold no
    /// secrets: those are read again.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args = vec![OsString::from("--pull=never")];
        if let Some(platform) = &self.platform {
            args.extend(["--platform".into(), platform.to_string().into()]);
        }
        args.extend(self.read.to_args());
        args.extend(self.connect.to_args());
        args
    }
}

/// A time for which a registry may be waited for.
fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= Settings::LONGEST_TIMEOUT {
        true => Ok(time),
        false => Err("it is more than a day".to_owned()),
    }
}

impl ConnectArgs {
    /// The options for another process.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        if self.plain_http {
            args.push("--plain-http".into());
        }
        if let Some(time) = self.read_timeout {
            let time = humantime::format_duration(time).to_string();
            args.extend(["--read-timeout".into(), time.into()]);
        }
        args
    }

    /// Whether all registries speak http.
    pub(crate) fn plain_http(&self) -> bool {
        self.plain_http
    }

    /// A client for registries, with its temporary files in this store.
    pub(crate) fn registries(&self, store: &Path) -> Registries {
        Registries::new(self.settings(store))
    }

    /// The settings of such a client.
    pub(crate) fn settings(&self, store: &Path) -> Settings {
        let mut settings = Settings::new(Store::open_readonly(store).dir(Part::Tmp));
        if let Some(time) = self.read_timeout {
            settings = settings.with_read_timeout(time);
        }
        settings.plain_http = self.plain_http;
        let home = path("HOME");
        let config = path("XDG_CONFIG_HOME")
            .or_else(|| home.as_ref().map(|home| home.join(".config")))
            .map(|config| config.join("containers"));
        let system = PathBuf::from("/etc/containers");
        settings.registries_conf = path("CONTAINERS_REGISTRIES_CONF")
            .into_iter()
            .chain(config.iter().chain([&system]).map(|dir| dir.join("registries.conf")))
            .collect();
        settings.certs_dirs = config
            .iter()
            .chain([&system, &PathBuf::from("/etc/docker")])
            .map(|dir| dir.join("certs.d"))
            .collect();
        settings.auth = auth_files(config, home);
        settings.proxies = proxies();
        settings
    }
}

/// Where credentials are: in the file that the environment names, else where podman (first, for
/// new ones) and docker keep them.
fn auth_files(config: Option<PathBuf>, home: Option<PathBuf>) -> AuthFiles {
    if let Some(file) = path("REGISTRY_AUTH_FILE") {
        return AuthFiles { files: vec![file], given: Vec::new() };
    }
    let runtime = path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let config = config.map(|dir| dir.join("auth.json"));
    let docker = path("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
    let docker = docker.map(|dir| dir.join("config.json"));
    AuthFiles {
        files: [runtime, config, docker].into_iter().flatten().collect(),
        given: Vec::new(),
    }
}

/// As curl and Go read them; this machine is never behind a proxy.
fn proxies() -> Proxies {
    let text = |name: &str| {
        let either = [name.to_ascii_lowercase(), name.to_ascii_uppercase()];
        let found = either.iter().find_map(|name| std::env::var(name).ok());
        found.filter(|text| !text.is_empty())
    };
    let all = text("all_proxy");
    let here = "localhost,127.0.0.0/8,::1";
    let no_proxy =
        text("no_proxy").map_or_else(|| here.to_owned(), |list| format!("{list},{here}"));
    Proxies {
        http: text("http_proxy").or_else(|| all.clone()),
        https: text("https_proxy").or(all),
        no_proxy: Some(no_proxy),
    }
}

/// A variable that names a file or directory.
fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
