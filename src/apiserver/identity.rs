//! The kubelet's client certificate with its key, and where both were read.
//!
//! Values only: `credentials` puts a certificate to use and sees when its files change. `Debug`
//! never shows a key.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::crypto;

/// A certificate that the kubelet requests and rotates itself; `None` until there is one.
pub type Rotated = watch::Receiver<Option<Arc<Identity>>>;

/// A client certificate with its key.
#[derive(PartialEq, Eq)]
pub struct Identity {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The files that both were read from, if they are files: they may be renewed there.
    pub files: Option<IdentityFiles>,
}

/// The files of a client certificate. They may be one (`kubelet-client-current.pem`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Returns a copy, the key included.
    #[must_use]
    pub fn clone_key(&self) -> Self {
        let files = self.files.clone();
        Self { chain: self.chain.clone(), key: self.key.clone_key(), files }
    }

    /// Reads a certificate chain and a key from PEM; they may be the same text
    /// (`kubelet-client-current.pem`).
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(PemError::Certificate)?;
        if chain.is_empty() {
            return Err(PemError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(PemError::Key)?;
        Ok(Self { chain, key, files: None })
    }

    /// Checks that the certificate can be shown and that the key fits it.
    pub fn check(&self) -> Result<(), rustls::Error> {
        let Self { chain, key, .. } = self.clone_key();
        CertifiedKey::from_der(chain, key, &crypto::provider()).map(drop)
    }
}

/// The error of two PEM texts that are no client certificate.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The certificate cannot be read.
    #[error("the certificate is not PEM: {0}")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// There is none.
    #[error("it holds no certificate")]
    NoCertificate,
    /// The key cannot be read, or there is none.
    #[error("no private key in PEM form: {0}")]
    Key(#[source] rustls::pki_types::pem::Error),
}
