//! An answer: its head at once, its body piece by piece, no piece later than it may be.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::counters::InFlight;
use super::error::RegistryError;
use super::rest::Rests;
use super::retry::Patience;

/// What is read of the body of a refusal, in bytes.
const MAX_MESSAGE: u64 = 16 << 10;
/// What is shown of it, in characters.
const SHOWN: usize = 300;

/// An answer whose body was not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response,
    host: String,
    patience: Patience,
    in_flight: InFlight,
    rests: Arc<Rests>,
}

impl Answer {
    pub(super) fn new(
        response: Response,
        host: &str,
        stall: Duration,
        in_flight: InFlight,
        rests: Arc<Rests>,
    ) -> Self {
        Self { response, host: host.to_owned(), patience: Patience::new(stall), in_flight, rests }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header's value, if it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub(super) fn headers(&self, name: &HeaderName) -> Vec<String> {
        let values = self.response.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    }

    /// Where this came from.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// `host[:port]` that sent it, for messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The length that the head announces, in bytes.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let failure = match self.patience.wait(&self.host, self.response.chunk()).await {
            Ok(Ok(piece)) => {
                let len = piece.as_ref().map_or(0, Bytes::len);
                self.in_flight.received(len);
                self.patience.received(len);
                return Ok(piece);
            }
            Ok(Err(error)) => RegistryError::Unreachable {
                registry: self.host.clone(),
                reason: super::http::reason(&error.without_url()),
                may_speak_http: false,
            },
            Err(stalled) => stalled,
        };
        self.in_flight.failed();
        Err(failure)
    }

    /// The whole body, if it has at most `limit` bytes; else its first `limit` bytes and more.
    pub(super) async fn body(&mut self, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk().await? {
            body.extend_from_slice(&piece);
            if body.len() as u64 > limit {
                break;
            }
        }
        Ok(body)
    }

    /// What the registry says of its refusal, after `: `; empty if it says nothing.
    pub(super) async fn message(&mut self) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Reason>,
        }
        #[derive(Deserialize)]
        struct Reason {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        // A message that does not come is no reason to hide the status.
        let body = self.body(MAX_MESSAGE).await.unwrap_or_default();
        let reasons = serde_json::from_slice(&body).map(|errors: Errors| errors.errors);
        let said = reasons.unwrap_or_default().into_iter().map(|reason| match reason.message {
            message if message.is_empty() => reason.code,
            message => message,
        });
        let said: Vec<String> = said.filter(|text| !text.is_empty()).collect();
        let said: String = said.join(", ").chars().take(SHOWN).collect();
        if said.is_empty() { said } else { format!(": {said}") }
    }

    /// The error for a status that was not expected. `request` says what was asked.
    pub(super) async fn refusal(mut self, request: &str) -> RegistryError {
        let message = self.message().await;
        let status = self.status();
        let (registry, request) = (self.host.clone(), request.to_owned());
        let passing = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        if passing || matches!(status.as_u16(), 408 | 425 | 429) {
            self.in_flight.failed();
            let status = status.as_u16();
            let after = self.header(&RETRY_AFTER).and_then(time_until).map(|after| {
                let said = (status, request.as_str(), message.as_str());
                self.rests.begin(&registry, said, after, Instant::now())
            });
            return RegistryError::Unavailable { registry, status, request, message, after };
        }
        RegistryError::Refused { registry, status: status.as_u16(), request, message }
    }
}

/// What `Retry-After` says: seconds, or a date.
fn time_until(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_a_date() {
        assert_eq!(time_until("120"), Some(Duration::from_secs(120)));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200));
        let until = time_until(&date).expect("a time");
        assert!(until > Duration::from_secs(3600) && until <= Duration::from_secs(7200));
        for none in ["", "soon", "-1", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(time_until(none), None, "{none}");
        }
    }
}
