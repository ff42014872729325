//! A repository on one host: requests with the proof that the host wants, got when it is first
//! asked for, and got anew once for all who find it outlived.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Answer;
use super::auth::{Credentials, Found};
use super::challenge::{self, Challenge};
use super::conf::Serves;
use super::error::RegistryError;
use super::host::{Grant, Host};
use super::http::{Http, Request, Target, authority};

/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 5;
/// A token's answer is smaller, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// What a token lives if nothing is said (distribution spec, token authentication).
const DEFAULT_LIFE: u64 = 60;

/// A repository on a host.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) http: Arc<Http>,
    pub(super) host: Arc<Host>,
    /// As `registries.conf` leaves it.
    pub(super) host_name: String,
    pub(super) repository: String,
    pub(super) serves: Serves,
    /// Whether it is a mirror.
    pub(super) is_mirror: bool,
}

impl Endpoint {
    /// The scope for these actions on the repository, and to read `from` as well.
    pub(super) fn scope(&self, actions: &str, from: Option<&str>) -> String {
        let own = format!("repository:{}:{actions}", self.repository);
        match from {
            Some(from) => format!("{own} repository:{from}:pull"),
            None => own,
        }
    }

    /// The path of something of the repository.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// Sends a request, with proof if the host wants it. Redirects are returned.
    pub(super) async fn ask(
        &self,
        scope: &str,
        request: &Request,
    ) -> Result<Answer, RegistryError> {
        let mut grant = self.current(scope).await?;
        let mut granted_anew = false;
        loop {
            let proof = grant.as_ref().map(|grant| &grant.proof);
            let mut answer = self.http.to_host(&self.host, request, proof).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED if granted_anew => {
                    let message = answer.message().await;
                    let from = grant.and_then(|grant| grant.credentials_from);
                    return Err(self.denied(message, from));
                }
                StatusCode::UNAUTHORIZED => {
                    let headers = answer.headers(&WWW_AUTHENTICATE);
                    let message = answer.message().await;
                    drop(answer);
                    let challenges = headers.iter().flat_map(|text| challenge::parse(text));
                    let challenge =
                        best(challenges.collect()).ok_or_else(|| self.denied(message, None))?;
                    grant = Some(self.grant(scope, challenge, grant).await?);
                    granted_anew = true;
                }
                StatusCode::FORBIDDEN => {
                    let message = answer.message().await;
                    let from = grant.and_then(|grant| grant.credentials_from);
                    return Err(self.denied(message, from));
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Sends a request and follows redirects. Returns the answer, and from where it came if that
    /// was not the registry itself.
    pub(super) async fn follow(
        &self,
        scope: &str,
        request: &Request,
    ) -> Result<(Answer, Option<Url>), RegistryError> {
        let mut answer = self.ask(scope, request).await?;
        let mut target = None;
        for _ in 0..MAX_REDIRECTS {
            if !answer.status().is_redirection() {
                return Ok((answer, target));
            }
            let url = self.location(&answer)?;
            answer = self.elsewhere(request, url.clone()).await?;
            target = Some(url);
        }
        Err(self.protocol("it redirects without end"))
    }

    /// Sends a request to where the registry redirected one to, without proof: the address is one.
    pub(super) async fn elsewhere(
        &self,
        request: &Request,
        url: Url,
    ) -> Result<Answer, RegistryError> {
        let insecure = self.host.insecure && authority(&url) == self.host.address;
        self.http.send(request, url, insecure, None).await
    }

    /// Where an answer points to.
    pub(super) fn location(&self, answer: &Answer) -> Result<Url, RegistryError> {
        let text = answer.header(&LOCATION);
        let text = text.ok_or_else(|| self.protocol("a redirect has no Location"))?;
        let url = answer.url().join(text);
        let url = url.map_err(|_| self.protocol("a Location is no URL"))?;
        match (answer.url().scheme(), url.scheme()) {
            ("https", "https") | ("http", "http" | "https") => Ok(url),
            _ => Err(self.protocol("it redirects to a less safe scheme")),
        }
    }

    pub(super) fn protocol(&self, reason: &str) -> RegistryError {
        RegistryError::Protocol { registry: self.host.address.clone(), reason: reason.to_owned() }
    }

    fn denied(&self, message: String, credentials_from: Option<String>) -> RegistryError {
        let registry = self.host_name.clone();
        RegistryError::Denied {
            registry,
            repository: self.repository.clone(),
            message,
            credentials_from,
        }
    }

    /// The grant for a scope; a new one in the place of one that is about to be outlived.
    async fn current(&self, scope: &str) -> Result<Option<Grant>, RegistryError> {
        match self.host.grant(scope) {
            Some(old) if old.expires.is_some_and(|expires| expires <= Instant::now()) => {
                Ok(Some(self.grant(scope, old.challenge.clone(), Some(old)).await?))
            }
            grant => Ok(grant),
        }
    }

    /// Gets a grant, unless somebody else did since `old` was used.
    async fn grant(
        &self,
        scope: &str,
        challenge: Challenge,
        old: Option<Grant>,
    ) -> Result<Grant, RegistryError> {
        let _one_at_a_time = self.host.granting.lock().await;
        let old_number = old.map(|grant| grant.number);
        let now = self.host.grant(scope);
        if let Some(now) = now.filter(|now| Some(now.number) != old_number) {
            return Ok(now);
        }
        let found = self.credentials().await?;
        let credentials_from = found.as_ref().map(|found| found.place.clone());
        let credentials = found.map(|found| found.credentials);
        let (proof, life) = match (&challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) => (format!("Bearer {token}"), None),
            (Challenge::Basic, Some(Credentials::Password { username, password })) => {
                (basic(&username, &password), None)
            }
            (Challenge::Basic, Some(Credentials::IdentityToken(_)) | None) => {
                return Err(self.denied(String::new(), credentials_from));
            }
            (Challenge::Bearer { realm, service, scope: wanted }, credentials) => {
                // Registries without repositories in their scopes say what they want.
                let scope = match wanted {
                    Some(wanted) if !wanted.starts_with("repository:") => wanted,
                    _ => scope,
                };
                let token = self.token(realm, service.as_deref(), scope, credentials).await?;
                let (token, life) =
                    token.map_err(|message| self.denied(message, credentials_from.clone()))?;
                (format!("Bearer {token}"), Some(life))
            }
        };
        let mut proof = HeaderValue::from_str(&proof)
            .map_err(|_| self.protocol("a credential does not fit into a header"))?;
        proof.set_sensitive(true);
        let number = old_number.unwrap_or(0) + 1;
        let expires = life.map(|life| Instant::now() + life);
        let grant = Grant { number, proof, challenge, expires, credentials_from };
        self.host.keep(scope, grant.clone());
        Ok(grant)
    }

    /// Reads the credentials from where they are, again each time: a login may have changed them.
    async fn credentials(&self) -> Result<Option<Found>, RegistryError> {
        let (http, host) = (self.http.clone(), self.host_name.clone());
        let repository = self.repository.clone();
        // A helper is a process that may take its time.
        let found =
            tokio::task::spawn_blocking(move || http.settings.auth.find(&host, &repository));
        let found = found.await.map_err(|error| RegistryError::SetUp(error.to_string()))?;
        Ok(found?)
    }

    /// Gets a token for a scope (distribution spec, token authentication and OAuth2), and how long
    /// to use it; inside, what the server says if it gives none.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<Credentials>,
    ) -> Result<Result<(String, Duration), String>, RegistryError> {
        let mut url = Url::parse(realm).map_err(|_| self.protocol("a realm is no URL"))?;
        if url.scheme() != "https" && self.host.plain() != Some(true) {
            return Err(self.protocol("it wants credentials to be sent without encryption"));
        }
        let mut fields = vec![("client_id", "kfs")];
        fields.extend(service.map(|service| ("service", service)));
        let mut request = Request::new(Method::GET, String::new());
        let mut proof = None;
        if let Some(Credentials::IdentityToken(token)) = &credentials {
            fields.extend([("grant_type", "refresh_token"), ("refresh_token", token)]);
            fields.push(("scope", scope));
            request.method = Method::POST;
            request.body = form(&url, &fields).into();
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
        } else {
            // Several scopes are several fields.
            let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
            fields.extend(scopes.map(|scope| ("scope", scope)));
            url.query_pairs_mut().extend_pairs(&fields);
            if let Some(Credentials::Password { username, password }) = &credentials {
                url.query_pairs_mut().append_pair("account", username);
                proof = HeaderValue::from_str(&basic(username, password)).ok();
            }
        }
        request.target = Target::Url(url.clone());
        let insecure = self.host.insecure;
        let mut answer = self.http.send(&request, url, insecure, proof.as_ref()).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Ok(Err(answer.message().await));
            }
            _ => return Err(answer.refusal("a request for a token").await),
        }
        read_token(&answer.body(MAX_TOKEN).await?)
            .map(Ok)
            .ok_or_else(|| self.protocol("a token server's answer has no token"))
    }
}

/// The token, and how long to use it: a tenth less than it lives.
fn read_token(body: &[u8]) -> Option<(String, Duration)> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let token: Token = serde_json::from_slice(body).ok()?;
    let life = token.expires_in.unwrap_or(DEFAULT_LIFE).min(24 * 3600);
    let text = token.token.or(token.access_token).filter(|token| !token.is_empty())?;
    Some((text, Duration::from_secs(life).mul_f64(0.9)))
}

fn form(url: &Url, fields: &[(&str, &str)]) -> String {
    let mut form = url.clone();
    form.set_query(None);
    form.query_pairs_mut().extend_pairs(fields);
    form.query().unwrap_or_default().to_owned()
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{username}:{password}")))
}

/// A token is better than a password with each request.
fn best(challenges: Vec<Challenge>) -> Option<Challenge> {
    let mut challenges = challenges;
    let bearer = challenges.iter().position(|challenge| *challenge != Challenge::Basic);
    let at = bearer.or(if challenges.is_empty() { None } else { Some(0) })?;
    Some(challenges.swap_remove(at))
}
