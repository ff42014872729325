//! Credential helpers: programs `docker-credential-NAME` that keep secrets elsewhere
//! (docker-credential-helpers). What they are asked goes through standard input, never through
//! arguments, where others could see it.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::auth::AuthError;

/// A helper may ask a person (a key ring that is locked), but not for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Helpers answer with a few hundred bytes.
const LONGEST: u64 = 64 << 10;
/// What helpers say when they have nothing (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// User name and secret for a registry, if the helper has them.
pub(super) fn get(name: &str, server: &str) -> Result<Option<(String, String)>, AuthError> {
    let answer = match run(name, "get", server.as_bytes()) {
        Ok(answer) => answer,
        Err(AuthError::Helper { reason, .. }) if reason.contains(NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let entry: Entry = serde_json::from_slice(&answer)
        .map_err(|_| failed(name, "its answer is not JSON with Username and Secret"))?;
    Ok(Some((entry.username, entry.secret)))
}

/// Hands a secret to the helper.
pub(super) fn store(
    name: &str,
    server: &str,
    username: &str,
    secret: &str,
) -> Result<(), AuthError> {
    let entry = Entry {
        server_url: server.to_owned(),
        username: username.to_owned(),
        secret: secret.to_owned(),
    };
    let json = serde_json::to_vec(&entry).expect("three texts");
    run(name, "store", &json).map(drop)
}

/// Makes the helper forget.
pub(super) fn erase(name: &str, server: &str) -> Result<(), AuthError> {
    run(name, "erase", server.as_bytes()).map(drop)
}

fn failed(name: &str, reason: impl Into<String>) -> AuthError {
    AuthError::Helper { program: format!("docker-credential-{name}"), reason: reason.into() }
}

fn run(name: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, AuthError> {
    // The name stands in a file: it may not lead out of PATH.
    if name.is_empty() || name.contains('/') {
        return Err(failed(name, "its name is not that of a program"));
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(name, error.to_string()))?;
    let mut stdin = child.stdin.take().expect("it was piped");
    // A helper that does not read ends with its own words.
    if let Err(error) = stdin.write_all(input) {
        tracing::debug!("credential helper {name}: {error}");
    }
    drop(stdin);
    let stdout = child.stdout.take().expect("it was piped");
    let reading = std::thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.take(LONGEST).read_to_end(&mut answer).map(|_| answer)
    });
    let status = wait(&mut child, name)?;
    let answer = reading.join().expect("reading does not panic");
    let answer = answer.map_err(|error| failed(name, error.to_string()))?;
    if status.success() {
        return Ok(answer);
    }
    // Helpers say on standard output why they failed; only what is known to be harmless is shown.
    let not_found = String::from_utf8_lossy(&answer).contains(NOT_FOUND);
    Err(failed(name, if not_found { NOT_FOUND.to_owned() } else { format!("{action}: {status}") }))
}

fn wait(child: &mut Child, name: &str) -> Result<std::process::ExitStatus, AuthError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(None) => {
                // It may have ended just now.
                drop(child.kill());
                drop(child.wait());
                return Err(failed(name, format!("no answer in {} s", PATIENCE.as_secs())));
            }
            Err(error) => return Err(failed(name, error.to_string())),
        }
    }
}
