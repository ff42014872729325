//! The server's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file holds no certificates, or none that can be read.
    #[error("certificate {}: {reason}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file holds no key, or none that can be read.
    #[error("key {}: {reason}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The two do not fit.
    #[error("certificate and key do not go together: {0}")]
    Pair(rustls::Error),
}

pub(super) fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let bad_chain = |reason: String| TlsError::Certificate { file: chain.to_owned(), reason };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| bad_chain(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad_chain("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::Key { file: key.to_owned(), reason: error.to_string() })?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(TlsError::Pair)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
