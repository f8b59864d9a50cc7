//! The serving certificate and the client CA of the kubelet's API: read from files, self-signed
//! when there are none, read again when a file has changed (looked at when a connection arrives, so
//! nothing watches or polls).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::client_ca::ClientCa;
use crate::linux::fs::write_atomic;
use crate::linux::stamp::Stamp;

/// Where certificates come from, and the limits of the protocol.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The serving certificate (chain), PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// The CA of client certificates, PEM; `None`: client certificates are not looked at.
    pub client_ca_file: Option<PathBuf>,
    /// Only TLS 1.3 (`tlsMinVersion: VersionTLS13`).
    pub only_tls13: bool,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing usable.
    #[error("{} holds no usable {what}: it must be PEM", path.display())]
    Content {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or the like.
    #[error("TLS refuses certificate {} with its key", path.display())]
    Refused {
        /// The certificate's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// A self-signed certificate cannot be made.
    #[error("cannot make a self-signed serving certificate")]
    SelfSigned(#[source] rcgen::Error),
}

/// The server's TLS configuration, renewed when its files change.
#[derive(Debug)]
pub struct TlsSource {
    settings: TlsSettings,
    client_ca: Option<Arc<ClientCa>>,
    current: Mutex<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
}

impl TlsSource {
    /// Reads the files.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let stamps = stamps(&settings);
        let client_ca = settings.client_ca_file.as_deref().map(ClientCa::load).transpose()?;
        let client_ca = client_ca.map(Arc::new);
        let config = Arc::new(server_config(&settings, client_ca.as_deref())?);
        Ok(Self { settings, client_ca, current: Mutex::new(Loaded { config, stamps }) })
    }

    /// The authorities of client certificates, if certificates are looked at.
    pub fn client_ca(&self) -> Option<Arc<ClientCa>> {
        self.client_ca.clone()
    }

    /// The configuration for a new connection. Files that have changed and cannot be used leave the
    /// old one in force.
    pub fn current(&self) -> Arc<ServerConfig> {
        let stamps = stamps(&self.settings);
        let mut current = self.current.lock();
        if current.stamps != stamps {
            match server_config(&self.settings, self.client_ca.as_deref()) {
                Ok(config) => {
                    tracing::info!(
                        "serving certificate or client CA has changed and was read again"
                    );
                    *current = Loaded { config: Arc::new(config), stamps };
                }
                Err(error) => {
                    tracing::error!(%error, "changed serving certificate or client CA cannot be used; the old one stays");
                    current.stamps = stamps;
                }
            }
        }
        current.config.clone()
    }
}

fn stamps(settings: &TlsSettings) -> Vec<Stamp> {
    let files =
        [Some(&settings.cert_file), Some(&settings.key_file), settings.client_ca_file.as_ref()];
    files.into_iter().flatten().map(|file| Stamp::of(file)).collect()
}

fn server_config(
    settings: &TlsSettings,
    client_ca: Option<&ClientCa>,
) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&settings.cert_file, "certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key_file)?)
        .map_err(|_| TlsError::Content { what: "private key", path: settings.key_file.clone() })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] =
        if settings.only_tls13 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let refused = |source| TlsError::Refused { path: settings.cert_file.clone(), source };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(refused)?;
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(ca.for_handshakes()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(super) fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = || TlsError::Content { what, path: path.to_owned() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| content())?;
    if found.is_empty() { Err(content()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        step: "read",
        path: path.to_owned(),
        source,
    })
}

/// The self-signed pair `kubelet.crt`, `kubelet.key` in `cert_dir`, made when absent (upstream's
/// names; valid a year).
pub fn self_signed(
    cert_dir: &Path,
    host: &str,
    addresses: &[std::net::IpAddr],
    today: jiff::Timestamp,
) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert_file, key_file) = (cert_dir.join("kubelet.crt"), cert_dir.join("kubelet.key"));
    if cert_file.exists() && key_file.exists() {
        return Ok((cert_file, key_file));
    }
    let mut names = vec![host.to_owned()];
    names.extend(addresses.iter().map(ToString::to_string));
    let mut parameters = rcgen::CertificateParams::new(names).map_err(TlsError::SelfSigned)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("{host}@{}", today.as_second()));
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let date = |offset: i64| {
        let day =
            jiff::Timestamp::from_second(today.as_second() + offset).unwrap_or(today).to_string();
        let mut parts = day
            .get(..10)
            .unwrap_or("2026-01-01")
            .split('-')
            .map(|part| part.parse::<i32>().unwrap_or(1));
        let (year, month, day) = (parts.next(), parts.next(), parts.next());
        let narrow = |part: Option<i32>| part.and_then(|part| u8::try_from(part).ok()).unwrap_or(1);
        rcgen::date_time_ymd(year.unwrap_or(2026), narrow(month), narrow(day))
    };
    parameters.not_before = date(-24 * 3600);
    parameters.not_after = date(365 * 24 * 3600);
    let key = rcgen::KeyPair::generate().map_err(TlsError::SelfSigned)?;
    let certificate = parameters.self_signed(&key).map_err(TlsError::SelfSigned)?;
    let file = |step, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { step, path, source }
    };
    std::fs::create_dir_all(cert_dir).map_err(file("create", cert_dir))?;
    write_atomic(&cert_file, certificate.pem().as_bytes(), 0o644)
        .map_err(file("write", &cert_file))?;
    write_atomic(&key_file, key.serialize_pem().as_bytes(), 0o600)
        .map_err(file("write", &key_file))?;
    Ok((cert_file, key_file))
}
