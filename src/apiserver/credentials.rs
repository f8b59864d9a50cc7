//! Who we are and whom we trust: the client certificate (replaceable while running), the bearer
//! token, the server check.
//!
//! Fed by the kubeconfig at start and by `certs` when a certificate is rotated. Secrets never reach
//! `Debug`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::exec;
use super::kubeconfig::{Access, Bearer, Identity};
use super::transport::TransportError;
use crate::clock::Clock;
use crate::model::Mono;

/// How old a token read from a file may get before it is read again; upstream's period.
const TOKEN_MAX_AGE: Duration = Duration::from_secs(60);
/// Where distributions keep the certificates to trust when a kubeconfig names none (Go's list).
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The certificate or its key.
    #[error("the client certificate cannot be used")]
    Identity(#[source] rustls::Error),
    /// The certificates to trust.
    #[error("a certificate of the authority cannot be used")]
    Roots(#[source] rustls::Error),
    /// The TLS library's own set-up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The token cannot be a header.
    #[error("the bearer token holds characters that a header may not hold")]
    Token,
}

/// The credentials that all lanes share.
pub struct Credentials {
    identity: RwLock<Option<Arc<CertifiedKey>>>,
    bearer: Bearer,
    cached: RwLock<Option<(HeaderValue, Mono)>>,
    plugin: Option<exec::Source>,
    /// What the plug-in gave last, to see whether its certificate is another one.
    given: RwLock<Option<Arc<exec::Given>>>,
    provider: Arc<CryptoProvider>,
    clock: Clock,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.identity.read().is_some())
            .field("bearer", &self.bearer)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes the identity and the token out of `access`.
    pub fn new(access: &mut Access, clock: Clock) -> Result<Arc<Self>, CredentialsError> {
        let bearer = std::mem::replace(&mut access.bearer, Bearer::None);
        if let Bearer::Token(token) = &bearer {
            header_value(token).ok_or(CredentialsError::Token)?;
        }
        let plugin = access.plugin.take().map(|plugin| exec::Source::new(plugin, clock));
        let credentials = Self {
            identity: RwLock::new(None),
            bearer,
            cached: RwLock::new(None),
            plugin,
            given: RwLock::new(None),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            clock,
        };
        if let Some(identity) = access.identity.take() {
            credentials.replace_identity(identity)?;
        }
        Ok(Arc::new(credentials))
    }

    /// Puts another client certificate in place; connections made from now on use it.
    pub fn replace_identity(&self, identity: Identity) -> Result<(), CredentialsError> {
        let key = CertifiedKey::from_der(identity.chain, identity.key, &self.provider)
            .map_err(CredentialsError::Identity)?;
        *self.identity.write() = Some(Arc::new(key));
        Ok(())
    }

    /// The `Authorization` header, if a token is used. An unreadable file is no failure while an
    /// older token is known.
    pub async fn bearer(&self) -> Result<Option<HeaderValue>, TransportError> {
        let file = match &self.bearer {
            Bearer::None => return self.plugin_header().await,
            Bearer::Token(token) => return Ok(header_value(token)),
            Bearer::Basic(both) => return Ok(sensitive(&format!("Basic {both}"))),
            Bearer::File(file) => file,
        };
        let now = self.clock.now().mono;
        if let Some((value, read)) = &*self.cached.read()
            && now.since(*read) < TOKEN_MAX_AGE
        {
            return Ok(Some(value.clone()));
        }
        match self.read_token(file, now).await {
            Ok(value) => Ok(Some(value)),
            Err(error) => match &*self.cached.read() {
                Some((value, _)) => Ok(Some(value.clone())),
                None => Err(error),
            },
        }
    }

    /// The header that the plug-in gives, if there is one; its certificate is put in place.
    async fn plugin_header(&self) -> Result<Option<HeaderValue>, TransportError> {
        let Some(plugin) = &self.plugin else { return Ok(None) };
        let given = plugin.get().await.map_err(TransportError::Plugin)?;
        let known = self.given.read().as_ref().is_some_and(|known| Arc::ptr_eq(known, &given));
        if !known {
            if let Some(identity) = &given.identity {
                self.replace_identity(identity.clone_key())?;
            }
            *self.given.write() = Some(Arc::clone(&given));
        }
        Ok(given.bearer.clone())
    }

    /// Notes that the API server has refused a request with this header: the plug-in is asked
    /// again.
    pub async fn refused(&self, header: Option<&HeaderValue>) {
        if let Some(plugin) = &self.plugin {
            plugin.refused(header).await;
        }
    }

    /// The certificate that new connections show.
    pub fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.identity.read().clone()
    }

    async fn read_token(&self, file: &PathBuf, now: Mono) -> Result<HeaderValue, TransportError> {
        let fail = |source| TransportError::Token { file: file.clone(), source };
        let text = tokio::fs::read_to_string(file).await.map_err(fail)?;
        let value =
            header_value(text.trim()).filter(|_| !text.trim().is_empty()).ok_or_else(|| {
                fail(std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no token"))
            })?;
        *self.cached.write() = Some((value.clone(), now));
        Ok(value)
    }

    /// The TLS configuration for new connections.
    pub fn tls(self: &Arc<Self>, access: &Access) -> Result<ClientConfig, CredentialsError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(CredentialsError::Tls)?;
        let builder = if access.insecure {
            let verifier = Arc::new(TrustAnything(Arc::clone(&self.provider)));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(access.roots.as_deref())?)
        };
        Ok(builder.with_client_cert_resolver(Arc::new(Resolver(Arc::clone(self)))))
    }
}

/// A TLS configuration that trusts the system's certificates and shows none of ours.
pub fn anonymous_tls() -> Result<ClientConfig, CredentialsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CredentialsError::Tls)?;
    Ok(builder.with_root_certificates(roots(None)?).with_no_client_auth())
}

pub(super) fn header_value(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn roots(
    configured: Option<&[CertificateDer<'static>]>,
) -> Result<RootCertStore, CredentialsError> {
    use rustls::pki_types::pem::PemObject as _;
    let mut store = RootCertStore::empty();
    if let Some(certificates) = configured {
        for certificate in certificates {
            store.add(certificate.clone()).map_err(CredentialsError::Roots)?;
        }
        return Ok(store);
    }
    let system = SYSTEM_ROOTS.iter().find_map(|file| std::fs::read(file).ok()).unwrap_or_default();
    // As Go does: what the system has and cannot be read as a certificate is left out.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&system).filter_map(Result::ok));
    Ok(store)
}

#[derive(Debug)]
struct Resolver(Arc<Credentials>);

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.identity.read().clone()
    }

    fn has_certs(&self) -> bool {
        // A plug-in may give one at any time.
        self.0.identity.read().is_some() || self.0.plugin.is_some()
    }
}

/// `insecure-skip-tls-verify`.
#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
