//! `kfs bench cold-start`

use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use kfs_builder::interrupt::Interrupts;
use kfs_fs::error::{AtPath as _, PathError};
use kfs_fs::oci::find::{Lookup, Pull};
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::store::Store;
use kfs_fs::oci::{self, Image, transfer};
use kfs_fs::unnamed::WholeFile;
use kfs_measure::cold::{self, Options, Tool};
use kfs_measure::origin::Origin;
use kfs_measure::proxy::Shape;
use kfs_measure::scratch::Scratch;
use nix::unistd::geteuid;

use super::{cold_table, page};
use crate::commands::{Context, ListFormat, print, print_json};
use crate::finding::ConnectArgs;
use crate::progress::Progress;
use crate::report::{Failure, USAGE};

/// Time an image from an empty store to a command's exit, beside other tools
///
/// Each run has three starts. The cold one begins with an empty store, the second one with what
/// the cold one left on disk, the warm one follows at once. The page cache is dropped before the
/// first two, which needs root. The sides take turns; each has a private store, which is gone
/// afterwards, and the store of this machine is not changed.
///
/// An image of the store, a layout or an archive is served from where it lies by a registry made
/// for that. One in a registry that speaks http is read from there; of one that speaks https a
/// copy is made first. Between all tools and the registry stands a proxy, which counts, and with
/// --net is a slow net.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs bench cold-start debian:12 -- /bin/true
  kfs bench cold-start debian:12 --against podman,skopeo+umoci --net 1gbit,20ms \\
      --html report.html -- perl -e 'print 1'")]
pub(crate) struct Args {
    /// Image of the store, a registry, or oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE
    image: Source,

    /// The command to run in it
    #[arg(last = true, required = true)]
    command: Vec<String>,

    /// Other tools to measure: podman, buildah, skopeo+umoci (root only)
    #[arg(long, value_name = "TOOL,...", value_delimiter = ',')]
    against: Vec<Tool>,

    /// Rate of the link to the registry and time of a round trip, or one of them
    #[arg(long, value_name = "RATE,TIME")]
    net: Option<Shape>,

    /// How often to measure
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// How to print what was measured
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    /// Write a page with all of it, which needs nothing else to be shown
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if !args.against.is_empty() && !geteuid().is_root() {
        return Err(Failure::new("--against needs root: other tools mount and unpack").code(USAGE));
    }
    // Before anything is copied or measured.
    args.against.iter().try_for_each(|tool| tool.versions().map(drop))?;
    let html =
        args.html.as_deref().map(|path| Ok::<_, PathError>((WholeFile::create(path)?, path)));
    let html = html.transpose()?;
    let interrupts = Interrupts::default();
    let check = || super::check(&interrupts);
    let scratch = Scratch::new()?;
    let found = find(args, context, &scratch.directory("origin")?)?;
    super::hold_signals(&interrupts)?;
    let (address, repository, _origin) = registry(&found)?;
    if !geteuid().is_root() {
        context.say("note: the page cache is not dropped: that needs root");
    }
    let options = Options {
        program: std::env::current_exe()
            .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?,
        version: format!("kfs {}", env!("CARGO_PKG_VERSION")),
        name: args.image.to_string(),
        image: &found.image,
        origin: address,
        repository,
        command: args.command.clone(),
        against: args.against.clone(),
        net: args.net.unwrap_or_default(),
        runs: args.runs.into(),
    };
    let mut tell = |step: cold::Step| {
        context.say(&format!("run {} of {}: {}", step.run, args.runs, step.tool.name()));
    };
    let report = cold::measure(&options, &scratch, &mut tell, &check)?;
    for side in &report.sides {
        if let Some(error) = &side.error {
            context.say(&format!("warning: {} failed: {error}", side.tool.name()));
        }
    }
    if let Some((file, path)) = html {
        file.file().write_all(page::page(&report).as_bytes()).at("write", path)?;
        file.finish()?;
    }
    match args.format {
        ListFormat::Table => print(&cold_table::text(&report)),
        ListFormat::Json => print_json(&report),
    }
}

/// An image, and where clients find it.
struct Found {
    image: Image,
    /// A registry that speaks http, and the image's name there; none: one is to be made.
    registry: Option<(SocketAddr, String)>,
}

/// Finds the image without a change to the user's store: what is looked up goes into `kept`.
fn find(args: &Args, context: &Context, kept: &Path) -> Result<Found, Failure> {
    let registries = args.connect.registries(kept);
    let never =
        Lookup { registries: Some(registries.clone()), pull: Pull::Never, ..Lookup::default() };
    let own = Store::open_readonly(&context.root).with_lookup(never.clone());
    let name: Name = match &args.image {
        Source::Registry(name) => name.clone(),
        source => match (oci::open(source, &own), source) {
            (Ok(image), Source::Store(name)) if is_remote(&image) => name.parse()?,
            (Err(LayoutError::NotFound { .. }), Source::Store(name)) => name.parse()?,
            (found, _) => return Ok(Found { image: found?, registry: None }),
        },
    };
    let store = Store::open(kept)?.with_lookup(Lookup { pull: Pull::Missing, ..never });
    if let Some(address) = plain_address(&name, &args.connect)? {
        let image = oci::open(&Source::Registry(name.clone()), &store)?;
        let reference = match (name.tag(), name.digest()) {
            (_, Some(digest)) => format!("@{digest}"),
            (tag, None) => format!(":{}", tag.unwrap_or("latest")),
        };
        // One on this machine may speak https all the same.
        if registries.speaks_http(&name)? == Some(true) {
            let repository = format!("{}{reference}", name.path());
            return Ok(Found { image, registry: Some((address, repository)) });
        }
    }
    let progress = Progress::new(context, &format!("Copying {name}"));
    transfer::pull(&store, &name, false, &|bytes| progress.add(bytes))?;
    drop(progress);
    Ok(Found { image: oci::open(&Source::Registry(name), &store)?, registry: None })
}

/// Whether a layer of it is not on this machine.
pub(super) fn is_remote(image: &Image) -> bool {
    image.layers.iter().any(|layer| layer.blob.is_remote())
}

/// Where the registry of a name listens, if it may speak http: one on this machine, or one of
/// which the user says so.
fn plain_address(name: &Name, connect: &ConnectArgs) -> Result<Option<SocketAddr>, Failure> {
    let domain = name.domain();
    let host = if domain.contains(':') { domain.to_owned() } else { format!("{domain}:80") };
    let addresses = host.to_socket_addrs();
    let find = |wanted: &dyn Fn(&SocketAddr) -> bool| {
        addresses.as_ref().ok().and_then(|all| all.clone().find(wanted))
    };
    match connect.plain_http() {
        false => Ok(find(&|address| address.ip().is_loopback())),
        true => match find(&|_| true) {
            Some(address) => Ok(Some(address)),
            None => Err(Failure::new(format!("there is no address of {domain}"))),
        },
    }
}

/// The registry of an image, and its name there. One that is made ends with the last value.
fn registry(found: &Found) -> Result<(SocketAddr, String, Option<Origin>), Failure> {
    if let Some((address, repository)) = &found.registry {
        return Ok((*address, repository.clone(), None));
    }
    let origin = Origin::start(found.image.clone())
        .map_err(|error| Failure::new(format!("serve the image on this machine: {error}")))?;
    Ok((origin.address(), "image:bench".to_owned(), Some(origin)))
}
