//! The check of the API server's certificate by authorities that a file names.
//!
//! The file is looked at when a request is made, by [`Trust::look`]. One that has changed is read
//! again; one that cannot be used leaves the old authorities in force: it may be half written.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::linux::stamp::Stamp;
use crate::model::Mono;

/// Checks certificates by the authorities of a file.
pub(super) struct Trust {
    file: PathBuf,
    seen: Mutex<Seen>,
    verifier: RwLock<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

/// The certificates of a file, and the check by them.
type Authorities = (Vec<CertificateDer<'static>>, Arc<WebPkiServerVerifier>);

/// Why a changed file is not used.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error("{0}")]
    Authority(#[from] rustls::Error),
}

/// The file as it was when last looked at.
struct Seen {
    /// `None` until the file has been read here: it may have changed since `roots` were read.
    stamp: Option<Stamp>,
    /// The authorities in force.
    roots: Vec<CertificateDer<'static>>,
    looked: Mono,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Trust {
    /// Trusts `roots`, which were read from `file`.
    pub(super) fn new(
        file: PathBuf,
        roots: &[CertificateDer<'static>],
        provider: Arc<CryptoProvider>,
        now: Mono,
    ) -> Result<Arc<Self>, rustls::Error> {
        let verifier = verifier(roots, &provider)?;
        let seen = Mutex::new(Seen { stamp: None, roots: roots.to_vec(), looked: now });
        Ok(Arc::new(Self { file, seen, verifier: RwLock::new(verifier), provider }))
    }

    /// Looks at the file, at most once in `period`. True: other authorities are trusted now.
    pub(super) fn look(&self, now: Mono, period: Duration) -> bool {
        let mut seen = self.seen.lock();
        if now.since(seen.looked) < period {
            return false;
        }
        seen.looked = now;
        let stamp = Some(Stamp::of(&self.file));
        if std::mem::replace(&mut seen.stamp, stamp) == stamp {
            return false;
        }

        let file = self.file.display();
        match self.read() {
            // Only touched, or not changed since the start.
            Ok((roots, _)) if roots == seen.roots => false,
            Ok((roots, verifier)) => {
                seen.roots = roots;
                tracing::info!(%file, "CA content changed, updating transport");
                *self.verifier.write() = verifier;
                true
            }
            Err(problem) => {
                tracing::error!(%file, %problem, "the changed CA file cannot be used; the old one stays");
                false
            }
        }
    }

    fn read(&self) -> Result<Authorities, TrustError> {
        let pem = std::fs::read(&self.file)?;
        let roots = certificates(&pem);
        let verifier = verifier(&roots, &self.provider)?;
        Ok((roots, verifier))
    }

    fn now(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.verifier.read())
    }
}

/// Reads the certificates of a text. As Go does, whatever else is in the text is left out.
pub(super) fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Returns the authorities among `roots`. One that cannot be used is left out, as Go leaves it out
/// of a pool; the first one is refused if none can be used.
pub(super) fn authorities(
    roots: &[CertificateDer<'static>],
) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    match roots.first().filter(|_| store.is_empty()) {
        Some(unusable) => store.add(unusable.clone()).map(|()| store),
        None => Ok(store),
    }
}

fn verifier(
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let store = Arc::new(authorities(roots)?);
    WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = self.now();
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (String, CertificateDer<'static>) {
        let pair = rcgen::generate_simple_self_signed(["ca".to_owned()]).expect("a certificate");
        (pair.cert.pem(), pair.cert.der().clone())
    }

    #[test]
    fn one_bad_certificate_does_not_spoil_the_others() {
        let (first, first_der) = authority();
        let (last, last_der) = authority();
        let cut = "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n";
        // DER of an empty sequence.
        let empty = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let bundle = format!("# comment\n{first}{empty}{cut}{last}");
        let read = certificates(bundle.as_bytes());
        assert_eq!((read.first(), read.last()), (Some(&first_der), Some(&last_der)));
        assert_eq!(authorities(&read).expect("two authorities").len(), 2);

        let none = certificates(empty.as_bytes());
        authorities(&none).expect_err("nothing in it can be used");
    }
}
