//! The PEM files that the configuration names, and the error of everything that is made of them.
//!
//! `tls` reads the serving certificate here, `client_ca` the authorities of clients. Nothing is
//! kept: a file is read whenever it is asked for.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// A PEM file and the field of the configuration that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The field, e.g. `tlsCertFile (--tls-cert-file)`.
    pub field: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.field, self.path.display().to_string())
    }
}

/// The error of a TLS set-up. Each text names the field to change.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A configured file cannot be read.
    #[error("{file} cannot be read")]
    Read {
        /// The file.
        file: NamedFile,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file of the self-signed pair cannot be made.
    #[error("--cert-dir: cannot {step} {:?}", path.display().to_string())]
    Make {
        /// The step that failed, e.g. `write`.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing usable.
    #[error("{file} holds no usable {what}: it must be PEM")]
    Content {
        /// The content that was expected, e.g. `private key`.
        what: &'static str,
        /// The file.
        file: NamedFile,
    },
    /// Certificate and key do not fit, or the like.
    #[error("{} and {} cannot be used together", files.0, files.1)]
    Pair {
        /// The files of the certificate and of the key.
        files: Box<(NamedFile, NamedFile)>,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The protocol or the authorities of clients cannot be set up.
    #[error("{file} cannot be used")]
    Refused {
        /// The file.
        file: NamedFile,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// A self-signed certificate cannot be made.
    #[error("cannot make a self-signed serving certificate")]
    SelfSigned(#[source] rcgen::Error),
}

/// Reads a file of certificates. A file without one is an error; `what` names them there.
pub(super) fn certificates(
    file: &NamedFile,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = || TlsError::Content { what, file: file.clone() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|_| content())?;
    if found.is_empty() { Err(content()) } else { Ok(found) }
}

/// Reads the whole file.
pub(super) fn read(file: &NamedFile) -> Result<Vec<u8>, TlsError> {
    std::fs::read(&file.path).map_err(|source| TlsError::Read { file: file.clone(), source })
}
