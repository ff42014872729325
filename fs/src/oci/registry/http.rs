//! Single requests: which scheme, which connection, which proof of who asks.
//!
//! A request is sent to where it is addressed and nowhere else: redirects are the caller's, and
//! the proof goes only to the host that it is for.

use std::collections::HashMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Identity, Method, Proxy, StatusCode, Url, redirect};

use super::answer::Answer;
use super::conf::{self, Conf, ConfError};
use super::counters::Tally;
use super::error::RegistryError;
use super::host::Host;
use super::proxy;
use super::rest::Rests;
use super::settings::Settings;
use super::trust;

/// For a connection, its TLS handshake included.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The slowest upload that is not taken for a stall, in bytes a second.
const SLOWEST_UPLOAD: u64 = 16 << 10;
/// Idle connections are kept for the next read.
const IDLE: Duration = Duration::from_secs(90);

/// What all requests share.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) settings: Settings,
    pub(super) tally: Arc<Tally>,
    conf: OnceLock<Conf>,
    clients: Mutex<HashMap<String, Client>>,
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
    rests: Arc<Rests>,
}

/// A request to a registry.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// From `/v2/` on, or a whole URL that the registry gave.
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Path and query on the registry.
    Path(String),
    /// A location that the registry gave for an upload.
    Url(Url),
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Self {
        let target = Target::Path(path);
        Self { method, target, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

impl Http {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            tally: Arc::default(),
            conf: OnceLock::new(),
            clients: Mutex::default(),
            hosts: Mutex::default(),
            rests: Arc::default(),
        }
    }

    /// `registries.conf`, read once.
    pub(super) fn conf(&self) -> Result<&Conf, ConfError> {
        if let Some(conf) = self.conf.get() {
            return Ok(conf);
        }
        let conf = Conf::read(&self.settings.registries_conf)?;
        Ok(self.conf.get_or_init(|| conf))
    }

    /// What is known of a host.
    pub(super) fn host(&self, name: &str, insecure: bool) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry((name.to_owned(), insecure));
        host.or_insert_with(|| Arc::new(Host::new(name, insecure, self.settings.plain_http)))
            .clone()
    }

    /// Sends a request to a registry, by https or what it speaks.
    pub(super) async fn to_host(
        &self,
        host: &Host,
        request: &Request,
        proof: Option<&HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        if let Some(plain) = host.plain() {
            return match self.by_scheme(host, request, proof, plain).await {
                Ok(answer) => {
                    host.settle(plain);
                    Ok(answer)
                }
                Err(RegistryError::Unreachable { registry, reason, .. }) => {
                    let may_speak_http = !host.is_settled();
                    Err(RegistryError::Unreachable { registry, reason, may_speak_http })
                }
                Err(error) => Err(error),
            };
        }
        match self.by_scheme(host, request, proof, false).await {
            Err(RegistryError::Unreachable { registry, reason, .. }) if host.may_be_plain => {
                let error = match self.by_scheme(host, request, proof, true).await {
                    // What a server that speaks https says to http.
                    Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => reason.clone(),
                    Ok(answer) => {
                        host.settle(true);
                        return Ok(answer);
                    }
                    Err(RegistryError::Unreachable { reason: plain, .. }) => plain,
                    Err(error) => return Err(error),
                };
                let reason = match reason == error {
                    true => reason,
                    false => format!("{reason}; by plain http: {error}"),
                };
                Err(RegistryError::Unreachable { registry, reason, may_speak_http: false })
            }
            Ok(answer) => {
                host.settle(false);
                Ok(answer)
            }
            Err(error) => Err(error),
        }
    }

    async fn by_scheme(
        &self,
        host: &Host,
        request: &Request,
        proof: Option<&HeaderValue>,
        plain: bool,
    ) -> Result<Answer, RegistryError> {
        let url = match &request.target {
            Target::Url(url) => url.clone(),
            Target::Path(path) => {
                let scheme = if plain { "http" } else { "https" };
                let url = Url::parse(&format!("{scheme}://{}{path}", host.address));
                url.map_err(|error| RegistryError::Protocol {
                    registry: host.address.clone(),
                    reason: error.to_string(),
                })?
            }
        };
        self.send(request, url, host.insecure, proof).await
    }

    /// Sends a request to any URL, as a redirect needs it.
    pub(super) async fn send(
        &self,
        request: &Request,
        url: Url,
        insecure: bool,
        proof: Option<&HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        let registry = authority(&url);
        if let Some(error) = self.rests.of(&registry, Instant::now()) {
            return Err(error);
        }
        let proxy = self.settings.proxies.of(&url)?;
        let client = self.client(&url, insecure)?;
        let mut headers = request.headers.clone();
        if let Some(proof) = proof {
            headers.insert(AUTHORIZATION, proof.clone());
        }
        let uploading = Duration::from_secs(request.body.len() as u64 / SLOWEST_UPLOAD);
        let waited = self.settings.stall + uploading;
        let in_flight = self.tally.request();
        let sent = client.request(request.method.clone(), url).headers(headers);
        let sent = sent.body(request.body.clone()).send();
        let failure = match tokio::time::timeout(waited, sent).await {
            Ok(Ok(response)) => match &proxy {
                Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    let reason = format!("{} wants other credentials", proxy::shown(proxy));
                    RegistryError::Unreachable { registry, reason, may_speak_http: false }
                }
                _ => {
                    let (stall, rests) = (self.settings.stall, self.rests.clone());
                    return Ok(Answer::new(response, &registry, stall, in_flight, rests));
                }
            },
            Ok(Err(error)) => send_error(registry, proxy.as_ref(), error.without_url()),
            Err(_) => RegistryError::Stalled { registry, waited, got: 0 },
        };
        in_flight.failed();
        Err(failure)
    }

    /// The connections for a URL: shared by all hosts, but for those with certificates of their
    /// own or without trust.
    fn client(&self, url: &Url, insecure: bool) -> Result<Client, RegistryError> {
        let host = authority(url);
        let plain = url.scheme() == "http";
        let certificates = match plain {
            true => conf::Certificates::default(),
            false => conf::certificates(&self.settings.certs_dirs, &host)?,
        };
        let own = insecure || certificates.own.is_some() || !certificates.authorities.is_empty();
        let key = match (plain, own) {
            (true, _) => "http".to_owned(),
            (false, false) => "https".to_owned(),
            (false, true) => format!("{insecure} {host}"),
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(plain, insecure, certificates)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(
        &self,
        plain: bool,
        insecure: bool,
        certificates: conf::Certificates,
    ) -> Result<Client, RegistryError> {
        let set_up = |error: reqwest::Error| RegistryError::SetUp(reason(&error));
        let mut builder = Client::builder()
            .user_agent(concat!("kfs/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_PATIENCE.min(self.settings.stall))
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .referer(false)
            .no_proxy();
        let proxies = self.settings.proxies.clone();
        // Before a request, it was seen that there is no error.
        builder = builder.proxy(Proxy::custom(move |url| proxies.of(url).ok().flatten()));
        if plain {
            // The system's authorities take milliseconds to read.
            builder = builder.tls_certs_only([]);
        } else if insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else if !certificates.authorities.is_empty() {
            let config = trust::config(&certificates)?;
            return builder.tls_backend_preconfigured(config).build().map_err(set_up);
        }
        if let Some((path, pem)) = certificates.own {
            let identity = Identity::from_pem(&pem);
            let identity = identity.map_err(|error| trust::unusable(&path, reason(&error)))?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(set_up)
    }
}

/// `host[:port]` of a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether `host[:port]` is this machine.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, _)) => v6,
        None => address.split(':').next().unwrap_or(address),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn send_error(registry: String, proxy: Option<&Url>, error: reqwest::Error) -> RegistryError {
    if is_untrusted(&error) {
        return RegistryError::Untrusted { registry, reason: reason(&error) };
    }
    if error.is_builder() {
        return RegistryError::SetUp(reason(&error));
    }
    let reason = match proxy {
        Some(proxy) => format!("by {}: {}", proxy::shown(proxy), reason(&error)),
        None => reason(&error),
    };
    RegistryError::Unreachable { registry, reason, may_speak_http: false }
}

/// Whether the certificate of the other side is why there is no connection.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
        return true;
    }
    // What is in an `io::Error` is not its source, and there may be one in another.
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| is_untrusted(inner)) || error.source().is_some_and(is_untrusted)
}

/// The innermost cause: what is around it only says that a request failed.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
