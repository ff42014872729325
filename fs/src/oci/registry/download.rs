//! Files from anywhere by http and https, through the connections, proxies and certificates that
//! registries are asked with: what `ADD URL` needs.
//!
//! Redirects are followed, credentials of a URL go to its host alone. What comes is not verified
//! and not bounded here.

use std::io::Read;
use std::time::SystemTime;

use reqwest::header::{
    ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::Registries;
use super::answer::Answer;
use super::error::RegistryError;
use super::http::Request;
use super::stream::{self, Stream};

/// As many redirects as browsers and Docker follow.
const MAX_REDIRECTS: usize = 10;

/// What a server says of a file so that it can later be asked whether there is another one
/// (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl Validators {
    /// When the file was last changed, if the server says so in the form that HTTP has.
    pub fn modified(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.last_modified.as_deref()?).ok()
    }

    fn of(answer: &Answer) -> Self {
        let text = |name| answer.header(name).map(str::to_owned);
        Self { etag: text(&ETAG), last_modified: text(&LAST_MODIFIED) }
    }

    /// The headers that ask whether there is anything else than this.
    fn conditions(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let etag = self.etag.as_ref().map(|text| (IF_NONE_MATCH, text));
        let date = self.last_modified.as_ref().map(|text| (IF_MODIFIED_SINCE, text));
        let pairs = [etag, date].into_iter().flatten();
        pairs.filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?)))
    }
}

/// A file on its way.
pub struct Download {
    /// What the server says of it.
    pub validators: Validators,
    /// Its bytes. Errors of the network are [`RegistryError`]s inside.
    pub body: Box<dyn Read + Send>,
}

/// Why a URL gives no file.
#[derive(Debug, thiserror::Error)]
#[error("fetch {url}: {reason}")]
pub struct DownloadError {
    /// Without a password.
    pub url: String,
    /// Why.
    pub reason: String,
    /// Whether the server could not be asked, or cannot answer now.
    pub is_transient: bool,
}

impl Registries {
    /// Asks for the file of an `http` or `https` URL; none if it is the one that `known` says.
    pub fn download(
        &self,
        url: &str,
        known: &Validators,
    ) -> Result<Option<Download>, DownloadError> {
        let start = Url::parse(url).map_err(|error| failed(url, error.to_string(), false))?;
        let shown = shown(&start);
        let is_conditional = *known != Validators::default();
        let (client, known) = (self.clone(), known.clone());
        let asked = self.0.runtime.run(async move { client.follow(start, &known).await });
        let answer = asked.and_then(|asked| asked).map_err(|error| {
            let is_transient = error.is_transient();
            failed(&shown, reason(error), is_transient)
        })?;
        let status = answer.status();
        if status == StatusCode::NOT_MODIFIED && is_conditional {
            return Ok(None);
        }
        if status != StatusCode::OK {
            let reason = format!("the server {} answers {status}", answer.host());
            return Err(failed(&shown, reason, status.is_server_error()));
        }
        let validators = Validators::of(&answer);
        let (sender, receiver) = stream::channel();
        let started = self.0.runtime.spawn(pass_on(answer, sender));
        started.map_err(|error| failed(&shown, reason(error), false))?;
        let body = Box::new(Stream::new(receiver, self.clone()));
        Ok(Some(Download { validators, body }))
    }

    /// The answer at the end of all redirects.
    async fn follow(&self, mut url: Url, known: &Validators) -> Result<Answer, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") {
                let scheme = url.scheme();
                return Err(protocol(&url, format!("it leads to a URL of the kind {scheme}")));
            }
            let mut request = Request::new(Method::GET, String::new());
            request.headers.extend(known.conditions());
            let answer = self.0.http.send(&request, url.clone(), false, None).await?;
            let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header(&LOCATION).filter(|_| moved) else {
                return Ok(answer);
            };
            url = url.join(location).map_err(|error| {
                protocol(&url, format!("a redirect to what is no URL ({error})"))
            })?;
        }
        Err(protocol(&url, format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Sends a body to who reads it; ends when nobody does any more.
async fn pass_on(
    mut answer: Answer,
    pieces: tokio::sync::mpsc::Sender<Result<bytes::Bytes, RegistryError>>,
) {
    loop {
        let piece = match answer.chunk().await {
            Ok(None) => return,
            Ok(Some(piece)) => Ok(piece),
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// The last part of a URL's path, percent-decoded; none if it has no path that names anything.
pub fn file_name(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let path = decoded(url.path());
    let name = path.rsplit('/').find(|part| !part.is_empty())?;
    let is_name = !matches!(name, "." | "..") && !name.contains('\0');
    is_name.then(|| name.to_owned())
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A URL as it may be shown.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // It fails for URLs without a host, which have no password.
        url.set_password(Some("***")).ok();
    }
    url.to_string()
}

fn failed(url: &str, reason: String, is_transient: bool) -> DownloadError {
    DownloadError { url: url.to_owned(), reason, is_transient }
}

fn protocol(url: &Url, reason: String) -> RegistryError {
    RegistryError::Protocol { registry: super::http::authority(url), reason }
}

/// What happened, said of a server that is no registry.
fn reason(error: RegistryError) -> String {
    match error {
        RegistryError::Unreachable { registry, reason, .. } => {
            format!("{registry} cannot be reached: {reason}")
        }
        RegistryError::Untrusted { registry, reason } => {
            format!("{registry} has a certificate that is not trusted: {reason}")
        }
        RegistryError::Stalled { registry, waited, got } => {
            format!("{registry} sent {got} bytes in {} s", waited.as_secs_f32())
        }
        RegistryError::Protocol { registry, reason } => format!("{registry}: {reason}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_the_last_part_of_the_path() {
        for (url, name) in [
            ("https://x/a/b.tar.gz", Some("b.tar.gz")),
            ("https://x/a/b/?q=/c#f", Some("b")),
            ("https://x/a%20b", Some("a b")),
            ("https://x/a%2Fb%zz", Some("b%zz")),
            ("https://x/a/..%2F", None),
            ("https://x/a%00", None),
            ("https://x", None),
            ("https://x/", None),
            ("no url", None),
        ] {
            assert_eq!(file_name(url).as_deref(), name, "{url}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        let of = |text: &str| Validators { last_modified: Some(text.into()), etag: None };
        let modified = of("Sun, 06 Nov 1994 08:49:37 GMT").modified().unwrap();
        let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, 784_111_777);
        assert_eq!(of("yesterday").modified(), None);
    }

    #[test]
    fn no_password_is_shown() {
        let url = Url::parse("https://me:secret@x/y").unwrap();
        assert_eq!(shown(&url), "https://me:***@x/y");
    }
}
