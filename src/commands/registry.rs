//! `kfs registry`

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kfs_builder::cluster::serve::{Logins, Options, Served, Server};
use nix::sys::signal::{SigSet, Signal};

use super::{Context, Out};
use crate::finding::FindArgs;
use crate::look::Look;
use crate::report::Failure;

/// Serve the container images that a cluster image carries
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(ServeArgs),
}

/// Serve the registry/ of an image or directory, read only
///
/// Clients pull from it as from any registry, also as a mirror of others: the images have the names
/// that they had there, without the host. Nothing is unpacked; of an image in a registry only what
/// is pulled crosses the network. Serves until it is ended by SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  kfs registry serve my-cluster:v1 &\n  skopeo copy --src-tls-verify=false docker://127.0.0.1:5000/library/nginx:1 dir:nginx"
)]
struct ServeArgs {
    /// A directory if there is one of this name, else an image
    #[arg(value_name = "IMAGE|DIR")]
    what: PathBuf,

    #[command(flatten)]
    find: FindArgs,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:5000")]
    addr: SocketAddr,

    /// Admit only the users of this file, made with htpasswd -B
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,

    /// Certificate chain as PEM, for HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's key as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Serve(args) => serve(args, context),
    }
}

fn serve(args: ServeArgs, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let logins = args.htpasswd.as_deref().map(Logins::open).transpose()?;
    let options = Options { logins, tls: args.tls_cert.zip(args.tls_key) };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let served = served(&args.what, context)?;
    // Before there are threads, which would be interrupted else.
    let end = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let failed = |error| Failure::new(format!("wait for a signal: {error}"));
    end.thread_block().map_err(failed)?;
    let server = Server::start(served, args.addr, options)?;
    let mut out = Out::new();
    writeln!(out, "{} is served at {scheme}://{}", args.what.display(), server.address())?;
    out.finish()?;
    end.wait().map_err(failed)?;
    drop(server);
    Ok(())
}

fn served(what: &Path, context: &Context) -> Result<Served, Failure> {
    if what.is_dir() {
        return Ok(Served::Directory(what.to_owned()));
    }
    let source = what.to_str().ok_or_else(|| {
        let what = what.display();
        Failure::new(format!("{what}: there is no such directory, and no image is called so"))
    })?;
    Ok(Served::Image(Box::new(Look::open(&source.parse()?, context)?.fs)))
}
