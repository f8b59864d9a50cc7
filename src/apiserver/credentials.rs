//! TLS and credentials towards the API server: the client certificate, the bearer token, the check
//! of the server's certificate.
//!
//! Fed by the kubeconfig at start. Three kinds of client certificate change later:
//!
//! - One that is named by files is read again when they change: an agent or upstream's kubelet may
//!   renew it. The files are looked at when a request is made, at most once in [`LOOK_AGAIN`].
//! - One that a plug-in gives (`exec`) changes when the plug-in gives another one.
//! - One that this kubelet rotates itself comes on a `watch`. Until there is one, requests wait.
//!
//! A file of authorities is read again in the same way. Connections that were made with an older
//! certificate, or by older authorities, get no new requests. Secrets never reach `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::access::{Access, Bearer};
use super::authorization::{bearer_header, sensitive};
use super::exec::ExecError;
use super::identity::{Identity, IdentityFiles, Rotated};
use super::trust::{self, Trust};
use super::{crypto, exec};
use crate::clock::Clock;
use crate::linux::stamp::Stamp;
use crate::model::Mono;

/// How old a token read from a file may get before it is read again; upstream's period.
const TOKEN_MAX_AGE: Duration = Duration::from_secs(60);
/// How often the files of the client certificate are looked at, at most.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
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

/// Why a request cannot be given an `Authorization` header.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The plug-in gives no credentials.
    #[error("getting credentials: {0}")]
    Plugin(#[source] ExecError),
    /// The certificate that the plug-in gave cannot be used.
    #[error("getting credentials: {0}")]
    Credentials(#[from] CredentialsError),
    /// The bearer token cannot be read.
    #[error("cannot read the token file {file}")]
    Token {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The credentials that all lanes share.
pub struct Credentials {
    identity: RwLock<Option<Arc<CertifiedKey>>>,
    /// The files of the certificate, if it is named by files.
    files: Option<Mutex<WatchedFiles>>,
    /// The certificate that is rotated, if it is.
    rotated: Option<Mutex<Rotated>>,
    /// The check of the server's certificate, if a file names the authorities.
    trust: Option<Arc<Trust>>,
    /// Counts the changes of both: each connection belongs to one.
    generation: AtomicU64,
    bearer: Bearer,
    cached: RwLock<Option<(HeaderValue, Mono)>>,
    plugin: Option<exec::Source>,
    /// What the plug-in gave last, to see whether its certificate is another one.
    given: RwLock<Option<Arc<exec::Given>>>,
    provider: Arc<CryptoProvider>,
    clock: Clock,
}

/// The files of a client certificate, as they were when last looked at.
#[derive(Debug)]
struct WatchedFiles {
    files: IdentityFiles,
    stamps: [Stamp; 2],
    looked: Mono,
}

impl IdentityFiles {
    fn stamps(&self) -> [Stamp; 2] {
        [Stamp::of(&self.certificate), Stamp::of(&self.key)]
    }

    fn read(&self) -> Result<Identity, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let identity = Identity::from_pem(&read(&self.certificate)?, &read(&self.key)?);
        identity.map_err(|error| error.to_string())
    }
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
            bearer_header(token).ok_or(CredentialsError::Token)?;
        }

        let plugin = access.plugin.take().map(|plugin| exec::Source::new(plugin, clock));
        let provider = crypto::provider();

        let rotated = access.rotated.take();
        let identity = match &rotated {
            None => access.identity.take(),
            Some(rotated) => rotated.borrow().as_ref().map(|identity| identity.clone_key()),
        };
        let now = clock.now().mono;
        let files = identity.as_ref().and_then(|identity| identity.files.clone());
        let files = files.map(|files| {
            let stamps = files.stamps();
            Mutex::new(WatchedFiles { files, stamps, looked: now })
        });
        let identity = identity.map(|identity| certified(identity, &provider)).transpose()?;

        let trust = match (access.roots_file.take(), &access.roots) {
            (Some(file), Some(roots)) => {
                let trust = Trust::new(file, roots, Arc::clone(&provider), now);
                Some(trust.map_err(CredentialsError::Roots)?)
            }
            _ => None,
        };

        Ok(Arc::new(Self {
            identity: RwLock::new(identity),
            files,
            rotated: rotated.map(Mutex::new),
            trust,
            generation: AtomicU64::new(0),
            bearer,
            cached: RwLock::new(None),
            plugin,
            given: RwLock::new(None),
            provider,
            clock,
        }))
    }

    /// The number of the present client certificate and authorities. It changes when their files
    /// have changed, and when the plug-in has given another certificate. Files that cannot be used
    /// leave the old ones in force: they may be half written.
    pub fn generation(&self) -> u64 {
        let now = self.clock.now().mono;
        if self.trust.as_ref().is_some_and(|trust| trust.look(now, LOOK_AGAIN)) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(rotated) = &self.rotated {
            self.take_rotated(&mut rotated.lock());
        }
        if let Some(watched) = &self.files {
            let mut watched = watched.lock();
            if now.since(watched.looked) >= LOOK_AGAIN {
                watched.looked = now;
                let stamps = watched.files.stamps();
                if stamps != watched.stamps {
                    watched.stamps = stamps;
                    self.renew(&watched.files);
                }
            }
        }
        self.generation.load(Ordering::Acquire)
    }

    /// Puts the newest rotated certificate in place.
    fn take_rotated(&self, rotated: &mut Rotated) {
        if !rotated.has_changed().unwrap_or(false) {
            return;
        }

        let newest = rotated.borrow_and_update().clone();
        let key = newest.map(|newest| certified(newest.clone_key(), &self.provider)).transpose();
        match key {
            Ok(key) => {
                tracing::info!("certificate rotation detected: new connections use the new one");
                self.renewed(key);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the new client certificate cannot be used; the old stays");
            }
        }
    }

    /// Returns true if this kubelet requests and rotates the client certificate itself.
    pub fn is_rotated(&self) -> bool {
        self.rotated.is_some()
    }

    /// Waits for the first client certificate, if it is one that is rotated and not there yet.
    /// Requests without one would be refused, and retried late. Cancel-safe.
    pub async fn wait_for_certificate(&self) {
        let Some(rotated) = &self.rotated else { return };
        if self.identity.read().is_some() {
            return;
        }

        let mut rotated = rotated.lock().clone();
        if rotated.wait_for(Option::is_some).await.is_err() {
            // Nothing rotates it any more: the process ends.
            std::future::pending::<()>().await;
        }
    }

    fn renew(&self, files: &IdentityFiles) {
        let found = files.read().and_then(|identity| {
            certified(identity, &self.provider).map_err(|error| error.to_string())
        });
        let file = files.certificate.display();
        match found {
            Ok(key) => {
                tracing::info!(
                    %file,
                    "certificate rotation detected, shutting down client connections to start \
                     using new credentials"
                );
                self.renewed(Some(key));
            }
            Err(problem) => tracing::error!(
                %file,
                problem,
                "the changed client certificate cannot be used; the old one stays"
            ),
        }
    }

    /// Puts another certificate in place. Connections of the old one get no new requests.
    fn renewed(&self, key: Option<Arc<CertifiedKey>>) {
        *self.identity.write() = key;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The `Authorization` header, if a token is used. An unreadable file is no failure while an
    /// older token is known.
    pub async fn bearer(&self) -> Result<Option<HeaderValue>, BearerError> {
        let file = match &self.bearer {
            Bearer::None => return self.plugin_header().await,
            Bearer::Token(token) => return Ok(bearer_header(token)),
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
    async fn plugin_header(&self) -> Result<Option<HeaderValue>, BearerError> {
        let Some(plugin) = &self.plugin else { return Ok(None) };
        let given = plugin.get().await.map_err(BearerError::Plugin)?;
        self.take_certificate(&given)?;
        Ok(given.bearer.clone())
    }

    /// Puts the certificate that the plug-in has given in place. A token alone renews nothing: the
    /// connections stay.
    fn take_certificate(&self, given: &Arc<exec::Given>) -> Result<(), CredentialsError> {
        let is_known = |known: &Arc<exec::Given>| Arc::ptr_eq(known, given);
        if self.given.read().as_ref().is_some_and(is_known) {
            return Ok(());
        }

        // Held until the certificate is in place: requests at the same time renew it once.
        let mut known = self.given.write();
        let before = known.as_ref().and_then(|known| known.identity.as_ref());
        let now = given.identity.as_ref();
        if before != now {
            let key = now.map(|now| certified(now.clone_key(), &self.provider)).transpose()?;
            self.renewed(key);
        }
        *known = Some(Arc::clone(given));
        Ok(())
    }

    /// Notes that the API server has refused a request with this header: the plug-in is asked
    /// again.
    pub async fn refused(&self, header: Option<&HeaderValue>) {
        if let Some(plugin) = &self.plugin {
            plugin.refused(header).await;
        }
    }

    async fn read_token(&self, file: &PathBuf, now: Mono) -> Result<HeaderValue, BearerError> {
        let fail = |source| BearerError::Token { file: file.clone(), source };
        let text = tokio::fs::read_to_string(file).await.map_err(fail)?;
        let value =
            bearer_header(text.trim()).filter(|_| !text.trim().is_empty()).ok_or_else(|| {
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
        } else if let Some(trust) = &self.trust {
            builder.dangerous().with_custom_certificate_verifier(trust.clone())
        } else {
            builder.with_root_certificates(roots(access.roots.as_deref())?)
        };
        let resolver = Arc::new(Resolver(Arc::clone(self)));
        let mut config = builder.with_client_cert_resolver(resolver);
        // A resumed session would carry the identity of the certificate that it began with.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

fn certified(
    identity: Identity,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, CredentialsError> {
    CertifiedKey::from_der(identity.chain, identity.key, provider)
        .map(Arc::new)
        .map_err(CredentialsError::Identity)
}

/// Checks that the certificate can be shown and that its key fits it.
pub(super) fn check_identity(identity: &Identity) -> Result<(), rustls::Error> {
    let Identity { chain, key, .. } = identity.clone_key();
    CertifiedKey::from_der(chain, key, &crypto::provider()).map(drop)
}

/// Checks that there is a certificate that can be trusted.
pub(super) fn check_roots(roots: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
    trust::authorities(roots).map(drop)
}

/// A TLS configuration that trusts the system's certificates and shows none of ours.
pub fn anonymous_tls() -> Result<ClientConfig, CredentialsError> {
    let provider = crypto::provider();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CredentialsError::Tls)?;
    Ok(builder.with_root_certificates(roots(None)?).with_no_client_auth())
}

fn roots(
    configured: Option<&[CertificateDer<'static>]>,
) -> Result<RootCertStore, CredentialsError> {
    if let Some(certificates) = configured {
        return trust::authorities(certificates).map_err(CredentialsError::Roots);
    }
    let mut store = RootCertStore::empty();
    let system = SYSTEM_ROOTS.iter().find_map(|file| std::fs::read(file).ok()).unwrap_or_default();
    // The system may have none, or none that can be used: then nobody is trusted.
    store.add_parsable_certificates(trust::certificates(&system));
    Ok(store)
}

#[derive(Debug)]
struct Resolver(Arc<Credentials>);

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.identity.read().clone()
    }

    fn has_certs(&self) -> bool {
        // A plug-in may give one at any time, and so may a rotation.
        let may_come = self.0.plugin.is_some() || self.0.rotated.is_some();
        may_come || self.0.identity.read().is_some()
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
