//! Whom a registry with certificates in `certs.d` may be.
//!
//! webpki takes what is trusted for authorities alone. `openssl req -x509` makes one certificate
//! that is its own authority, which many a registry shows as it is: an authority used as an end
//! entity, which webpki refuses. OpenSSL and Go, and with them all who speak to registries, take a
//! certificate that is itself among the trusted. So it is here: only for the hosts that have
//! certificates of their own, and only for those very bytes; name and time have to be right.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::conf::{Certificates, ConfError};
use super::error::RegistryError;

/// TLS with a host that has these certificates: its authorities are trusted beside the system's.
pub(super) fn config(certificates: &Certificates) -> Result<ClientConfig, RegistryError> {
    let set_up = |error: Error| RegistryError::SetUp(error.to_string());
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let mut trusted = Vec::new();
    for (path, pem) in &certificates.authorities {
        trusted.extend(parsed(path, pem)?);
    }
    let chains = Verifier::new_with_extra_roots(trusted.iter().cloned(), provider.clone());
    let verifier = Trust { chains: chains.map_err(set_up)?, trusted };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(set_up)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &certificates.own {
        None => builder.with_no_client_auth(),
        Some((path, pem)) => {
            let key = PrivateKeyDer::from_pem_slice(pem);
            let key = key.map_err(|error| unusable(path, error.to_string()))?;
            let config = builder.with_client_auth_cert(parsed(path, pem)?, key);
            config.map_err(|error| unusable(path, error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of a PEM file.
fn parsed(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(|error| unusable(path, error.to_string()))
}

/// The error for a certificate or key that cannot be used.
pub(super) fn unusable(path: &Path, reason: String) -> RegistryError {
    ConfError::Malformed { path: path.to_owned(), reason }.into()
}

#[derive(Debug)]
struct Trust {
    chains: Verifier,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = self.chains.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match chain {
            Err(error) if is_of_its_issuer(&error) && self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            chain => chain,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether a certificate was refused for who vouches for it. webpki looks at its time first: one
/// that is outlived, or not yet valid, is refused for that.
fn is_of_its_issuer(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}
