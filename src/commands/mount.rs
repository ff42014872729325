//! `kfs mount`, and the hidden `kfs __serve` that it starts

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use kfs_fs::mount::{self, Access, LogFile, Mounts, Pending, Request, State};
use kfs_fs::oci;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::Part;

use super::Context;
use crate::look::open_fs;
use crate::report::Failure;

/// Mount an image
///
/// Nothing is unpacked: what is read is fetched and verified when it is read. A server in the
/// background answers until the umount, by `kfs umount DIR` or a plain `umount DIR`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs mount debian:12 /mnt && ls /mnt && kfs umount /mnt")]
pub(crate) struct Args {
    /// Image of the store, or oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE
    image: Source,

    /// An empty directory
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,

    /// Mount writable; the changes are dropped at umount
    #[arg(long)]
    rw: bool,

    /// Mount writable and keep the changes in DIR
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,

    /// Serve in this process until the umount or Ctrl-C
    #[arg(long, short)]
    foreground: bool,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let access = match (args.upper, args.rw) {
        (Some(upper), _) => Access::Upper(upper),
        (None, true) => Access::Scratch,
        (None, false) => Access::ReadOnly,
    };
    let typed = args.image.to_string();
    let store = context.store()?;
    // From the choice of the image until the mount's own lock holds it, no `rmi` takes it away.
    let writer = store.writer()?;
    let image = oci::open(&args.image, &store)?;
    let pending = Mounts::new(&context.root).prepare(Request {
        image: absolute(args.image)?.to_string(),
        manifest_digest: image.digest,
        mountpoint: args.mountpoint,
        access,
    })?;
    drop(writer);
    let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
    if args.foreground {
        log_to(io::stderr);
        pending.serve(fs, |state| {
            announce(state, context);
            Ok(())
        })?;
    } else {
        // The server maps the index again; here it was made.
        drop(fs);
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?;
        let mut server = Command::new(program);
        server.arg("--root").arg(&context.root).arg("__serve");
        server.arg("--").arg(&pending.state().id).arg(typed);
        announce(&pending.start(server)?, context);
    }
    Ok(())
}

/// `kfs mounts` is called from another directory.
fn absolute(source: Source) -> Result<Source, Failure> {
    let path = |path: PathBuf| {
        std::path::absolute(&path)
            .map_err(|error| Failure::new(format!("image {}: {error}", path.display())))
    };
    Ok(match source {
        Source::Store(name) => Source::Store(name),
        Source::Layout { dir, tag } => Source::Layout { dir: path(dir)?, tag },
        Source::OciArchive { file, tag } => Source::OciArchive { file: path(file)?, tag },
        Source::DockerArchive { file, tag } => Source::DockerArchive { file: path(file)?, tag },
    })
}

fn announce(state: &State, context: &Context) {
    let how = if state.rw { " read-write" } else { "" };
    context.say(&format!("{} is mounted{how} at {}", state.image, state.mountpoint.display()));
}

/// Serve a mount that `kfs mount` prepared
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The mount's id
    id: String,

    /// The image as the user named it, from the directory where he did
    image: Source,
}

/// The background server. Until the mount answers, what goes wrong is told to the parent.
pub(crate) fn serve(args: &ServeArgs, context: &Context) -> Result<(), Failure> {
    let pending = Pending::adopt(&Mounts::new(&context.root), &args.id)?;
    let mut ready = false;
    match serve_pending(pending, args, context, &mut ready) {
        Err(failure) if !ready => mount::report_failure(failure.into())
            .map_err(|error| Failure::new(format!("answer the parent: {error}"))),
        result => result,
    }
}

fn serve_pending(
    pending: Pending,
    args: &ServeArgs,
    context: &Context,
    ready: &mut bool,
) -> Result<(), Failure> {
    let log = Mutex::new(LogFile::open(&pending.log_path()).map_err(mount::MountError::from)?);
    log_to(log);
    let store = context.store_to_read();
    let image = oci::open(&args.image, &store)?;
    let expected = pending.state().manifest_digest;
    if image.digest != expected {
        let message = format!(
            "{} was {expected} a moment ago and is {} now",
            pending.state().image,
            image.digest
        );
        return Err(Failure::new(message).hint("mount it again"));
    }
    let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
    // A server must not keep the directory busy that it was started in.
    std::env::set_current_dir("/").map_err(|error| Failure::new(format!("enter /: {error}")))?;
    pending.serve(fs, |state| {
        mount::report_ready(state)?;
        *ready = true;
        Ok(())
    })?;
    Ok(())
}

fn log_to<W>(writer: W)
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(writer).init();
}
