//! `kfs registry serve`: the container images of a cluster image as a registry, read only, straight
//! out of the (lazily read) image or directory.
//!
//! The OCI distribution API 1.1 as far as it pulls: manifests, blobs with ranges, tags, the
//! catalog, empty referrers. A mirror's `?ns=HOST` is not looked at: the tree keeps no hosts.
//!
//! ```text
//! accept -> connection -> answer::of (what is asked?) -> registry_tree, on a thread that may block
//!                                                        again for each piece of a blob
//! ```
//!
//! A manifest is verified before it is sent, a whole blob while it is sent: the connection is cut
//! before its last bytes if they are not what the digest says.

mod answer;
mod login;
mod path;
mod patience;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kfs_fs::filesystem::ImageFs;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

pub use login::{HtpasswdError, Logins};
use patience::Patient;
pub use tls::TlsError;

use super::files::{Files, FilesError};
use super::registry_tree::RegistryTree;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Threads that may block.
const THREADS: usize = 32;
/// Pieces of blobs that are read at a time: the other threads find out what is asked.
const READERS: usize = 24;
/// Passwords that are checked at a time, which costs a tenth of a second of a core each.
const CHECKS: usize = 2;
/// How long a client may take for a request's head, for TLS, or to take anything of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the images are.
#[derive(Debug)]
pub enum Served {
    /// A directory: a cluster image's root, its `registry/`, or another registry's storage.
    Directory(PathBuf),
    /// An image.
    Image(Box<ImageFs>),
}

impl Served {
    fn tree(&self) -> Result<Option<RegistryTree<'_>>, FilesError> {
        RegistryTree::find(match self {
            Self::Directory(path) => Files::Directory(path),
            Self::Image(fs) => Files::Image(fs),
        })
    }
}

/// How to serve.
#[derive(Debug, Default)]
pub struct Options {
    /// Who may pull; everybody without.
    pub logins: Option<Logins>,
    /// Certificate chain and key, both PEM files; plain HTTP without.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no tree.
    #[error("there is no registry/ in it")]
    NoRegistry,
    /// The files cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Certificate or key will not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened at.
    #[error("listen at {address}: {source}")]
    Listen {
        /// As it was given.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The server cannot be started.
    #[error("start the server: {0}")]
    Start(io::Error),
}

/// A server that runs in threads of its own until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts to serve at an address; port 0 takes a free one.
    pub fn start(
        served: Served,
        address: SocketAddr,
        options: Options,
    ) -> Result<Self, ServeError> {
        if served.tree()?.is_none() {
            return Err(ServeError::NoRegistry);
        }
        let tls = options.tls.map(|(chain, key)| tls::acceptor(&chain, &key)).transpose()?;
        Self::run(Host::new(served, options.logins), address, tls)
    }

    fn run(host: Host, address: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Self, ServeError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(THREADS)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        runtime.spawn(accept(listener, Arc::new(host), tls));
        Ok(Self { address: bound, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Host {
    served: Served,
    logins: Option<Logins>,
    /// For [`READERS`].
    reading: Semaphore,
    /// For [`CHECKS`].
    checking: Semaphore,
}

impl Host {
    fn new(served: Served, logins: Option<Logins>) -> Self {
        let (reading, checking) = (Semaphore::new(READERS), Semaphore::new(CHECKS));
        Self { served, logins, reading, checking }
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>, tls: Option<TlsAcceptor>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (host, tls) = (host.clone(), tls.clone());
                tokio::spawn(async move {
                    connection(stream, host, tls).await;
                    drop(place);
                });
            }
            Err(error) => {
                // For want of descriptors, mostly: others have to end first.
                tracing::warn!("accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, host: Arc<Host>, tls: Option<TlsAcceptor>) {
    let stream = Patient::new(stream, PATIENCE);
    let Some(tls) = tls else { return requests(stream, host).await };
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, host).await,
        Ok(Err(error)) => tracing::debug!("TLS: {error}"),
        Err(_) => tracing::debug!("TLS: the client takes too long"),
    }
}

async fn requests<S>(stream: S, host: Arc<Host>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| answer::of(request, host.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("connection: {error}");
    }
}

#[cfg(test)]
mod tests;
