//! The proxy as a registry that wants bearer tokens, and as the server that gives them: a token is
//! outlived after some uses, whatever its answer said.

use super::{Connection, lock};
use crate::http::Head;

/// Where tokens are had.
const PATH: &str = "/token";

/// The tokens that were given.
#[derive(Debug)]
pub(super) struct Passes {
    uses: u32,
    /// How often each may still be used.
    left: Vec<u32>,
}

impl Passes {
    pub(super) fn new(uses: u32) -> Self {
        Self { uses, left: Vec::new() }
    }

    fn give(&mut self) -> usize {
        self.left.push(self.uses);
        self.left.len() - 1
    }

    fn take(&mut self, proof: &str) -> bool {
        let number = proof.strip_prefix("Bearer token-").and_then(|text| text.parse().ok());
        let left = number.and_then(|number: usize| self.left.get_mut(number));
        left.is_some_and(|left| match left.checked_sub(1) {
            Some(after) => {
                *left = after;
                true
            }
            None => false,
        })
    }
}

impl Connection<'_> {
    /// The answer to a request for a token, or to one that lacks one. A request with a token is
    /// passed on without it.
    pub(super) fn token_answer(&self, request: &mut Head) -> Option<(Head, String)> {
        let mut passes = lock(&self.shared.passes);
        let passes = passes.as_mut()?;
        if request.word(1).starts_with(PATH) {
            let body = format!("{{\"token\":\"token-{}\",\"expires_in\":300}}", passes.give());
            let length = body.len().to_string();
            let head = Head::new("HTTP/1.1 200 OK".to_owned(), &[("Content-Length", &length)]);
            return Some((head, body));
        }
        let good = request.get("Authorization").is_some_and(|proof| passes.take(proof));
        request.remove("Authorization");
        if good || !request.word(1).starts_with("/v2/") {
            return None;
        }
        let address = self.shared.address;
        let realm = format!("Bearer realm=\"http://{address}/token\",service=\"kfs\"");
        let fields = [("WWW-Authenticate", realm.as_str()), ("Content-Length", "0")];
        Some((Head::new("HTTP/1.1 401 Unauthorized".to_owned(), &fields), String::new()))
    }
}
