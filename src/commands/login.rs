//! `kfs login` and `kfs logout`

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use kfs_fs::oci::registry::Registries;
use kfs_fs::oci::registry::auth::Credentials;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::Context;
use crate::finding::ConnectArgs;
use crate::report::{Failure, USAGE};

/// Keep the credentials for a registry
///
/// They are tried, and then kept where podman and skopeo find them as well, or with the credential
/// helper that is set there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  kfs login --username me --password-stdin registry.example.com < password")]
pub(crate) struct Args {
    /// The registry, host[:port]
    #[arg(default_value = "docker.io")]
    registry: String,

    /// The name to log in with; asked for on a terminal if it is not given
    #[arg(long, short)]
    username: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Forget the credentials for a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs logout registry.example.com")]
pub(crate) struct LogoutArgs {
    /// The registry, host[:port]
    #[arg(default_value = "docker.io")]
    registry: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    let unreadable = |error: io::Error| Failure::new(format!("read standard input: {error}"));
    let username = match &args.username {
        Some(username) => username.clone(),
        None if !args.password_stdin && io::stdin().is_terminal() => {
            ask("Username: ").map_err(unreadable)?
        }
        None => {
            return Err(Failure::new("no user name is given").hint("add --username").code(USAGE));
        }
    };
    let password = if args.password_stdin {
        let mut password = String::new();
        io::stdin().lock().take(64 << 10).read_to_string(&mut password).map_err(unreadable)?;
        password.trim_end_matches(['\r', '\n']).to_owned()
    } else if io::stdin().is_terminal() {
        ask_in_secret("Password: ").map_err(unreadable)?
    } else {
        return Err(Failure::new("there is no terminal to ask for the password")
            .hint("pipe it in with --password-stdin")
            .code(USAGE));
    };
    let mut settings = args.connect.settings(&context.root);
    let files = settings.auth.clone();
    let credentials = Credentials::Password { username, password };
    settings.auth.given = vec![(host.to_owned(), credentials.clone())];
    Registries::new(settings).check(host)?;
    let place = files.store(host, &credentials).map_err(|error| Failure::from_error(&error))?;
    context.say(&format!("Logged in to {host}; the credentials are in {place}"));
    Ok(())
}

pub(crate) fn logout(args: &LogoutArgs, context: &Context) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    let files = ConnectArgs::default().settings(&context.root).auth;
    let erased = files.erase(host).map_err(|error| Failure::from_error(&error))?;
    match erased.is_empty() {
        true => context.say(&format!("There were no credentials for {host}")),
        false => context.say(&format!("Removed the credentials for {host}")),
    }
    Ok(())
}

fn host(text: &str) -> Result<&str, Failure> {
    let host = text.trim_start_matches("https://").trim_end_matches('/');
    // A name in it shows whether it is one.
    match format!("{host}/x").parse::<kfs_fs::oci::reference::Name>() {
        Ok(name) if name.domain() == host => Ok(host),
        _ => {
            Err(Failure::new(format!("{text:?} is no registry, expected host[:port]")).code(USAGE))
        }
    }
}

fn ask(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Asks without showing what is typed.
fn ask_in_secret(question: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden)?;
    let answer = ask(question);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
    io::stderr().lock().write_all(b"\n")?;
    answer
}
