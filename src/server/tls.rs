//! The TLS configuration of the kubelet's API: serving certificate, key, client CA.
//!
//! 1. The certificate is read from the files that are configured, else from a self-signed pair in
//!    `--cert-dir`, which is made if it is not there.
//! 2. The files are looked at when a connection arrives, and read again if they have changed.
//!    Nothing watches or polls.
//! 3. Files that have changed and cannot be used leave the old configuration in force.
//! 4. A certificate that is requested from the API server comes on a `watch` instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::client_ca::ClientCa;
use super::pem_file::{NamedFile, TlsError, certificates, read};
use crate::apiserver::crypto;
use crate::apiserver::identity::Rotated;
use crate::clock::Clock;
use crate::linux::fs::{WriteOptions, write_atomic_with};
use crate::linux::stamp::Stamp;
use crate::model::Wall;

/// The files of certificates, and the limits of the protocol.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The serving certificate (chain), PEM.
    pub cert_file: NamedFile,
    /// Its key, PEM.
    pub key_file: NamedFile,
    /// The certificate that is requested from the API server, in place of the files.
    pub requested: Option<Rotated>,
    /// The CA of client certificates, PEM; `None`: client certificates are not looked at.
    pub client_ca_file: Option<NamedFile>,
    /// Only TLS 1.3 (`tlsMinVersion: VersionTLS13`).
    pub only_tls13: bool,
    /// Reads a changed certificate again (gate `ReloadKubeletServerCertificateFile`).
    pub reload_certificate: bool,
    /// Reads a changed client CA again (gate `ReloadKubeletClientCAFile`).
    pub reload_client_ca: bool,
}

/// The server's TLS configuration, renewed when its files change.
#[derive(Debug)]
pub struct TlsSource {
    settings: TlsSettings,
    client_ca: Option<Arc<ClientCa>>,
    current: Mutex<Loaded>,
    clock: Clock,
}

#[derive(Debug)]
struct Loaded {
    /// `None` until the requested certificate is there.
    served: Option<Served>,
    requested: Option<Rotated>,
    stamps: Vec<Stamp>,
}

/// A certificate, and the configuration that serves it.
#[derive(Debug)]
struct Served {
    pair: Pair,
    config: Arc<ServerConfig>,
    /// The end of a requested certificate. One of the operator's own files is served whatever it
    /// says, as upstream.
    until: Option<Wall>,
}

/// A certificate chain and its key.
#[derive(Debug)]
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    /// Returns the newest requested pair; else reads the files.
    fn find(
        settings: &TlsSettings,
        requested: Option<&mut Rotated>,
    ) -> Result<Option<Self>, TlsError> {
        let Some(requested) = requested else { return Self::read(settings).map(Some) };
        let newest = requested.borrow_and_update();
        Ok(newest
            .as_ref()
            .map(|found| Self { chain: found.chain.clone(), key: found.key.clone_key() }))
    }

    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let chain = certificates(&settings.cert_file, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&read(&settings.key_file)?).map_err(|_| {
            TlsError::Content { what: "private key", file: settings.key_file.clone() }
        })?;
        Ok(Self { chain, key })
    }
}

impl Clone for Pair {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl TlsSource {
    /// Reads the files.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let stamps = stamps(&settings);
        let reload = settings.reload_client_ca;
        let client_ca = settings.client_ca_file.as_ref();
        let client_ca = client_ca.map(|file| ClientCa::load(file, reload)).transpose()?;
        let client_ca = client_ca.map(Arc::new);
        let mut requested = settings.requested.clone();
        let pair = Pair::find(&settings, requested.as_mut())?;
        let served = pair.map(|pair| Served::new(&settings, pair, client_ca.as_deref()));
        let loaded = Loaded { served: served.transpose()?, requested, stamps };
        let clock = Clock::system();
        Ok(Self { settings, client_ca, current: Mutex::new(loaded), clock })
    }

    /// The authorities of client certificates, if certificates are looked at.
    pub fn client_ca(&self) -> Option<Arc<ClientCa>> {
        self.client_ca.clone()
    }

    /// The configuration for a new connection; `None` while there is no certificate, or while the
    /// requested one has expired and is not renewed. Changed files that cannot be used leave the
    /// old one in force.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        let stamps = stamps(&self.settings);
        let mut current = self.current.lock();
        let requested = current.requested.as_ref();
        let is_newer = requested.is_some_and(|newest| newest.has_changed().unwrap_or(false));
        if is_newer || current.stamps != stamps {
            match self.read_again(&mut current) {
                Ok(served) => {
                    tracing::info!(
                        "serving certificate or client CA has changed and was read again"
                    );
                    current.served = served;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "changed serving certificate or client CA cannot be used; the old one stays"
                    );
                }
            }
            current.stamps = stamps;
        }
        let now = self.clock.now().wall;
        let served = current.served.as_ref();
        let served = served.filter(|served| served.until.is_none_or(|until| now <= until));
        served.map(|served| Arc::clone(&served.config))
    }

    /// Makes the configuration anew. Files of the certificate are read again only if their gate is
    /// on.
    fn read_again(&self, current: &mut Loaded) -> Result<Option<Served>, TlsError> {
        let present = current.served.as_ref().map(|served| &served.pair);
        let pair = if self.settings.reload_certificate || current.requested.is_some() {
            Pair::find(&self.settings, current.requested.as_mut())?
        } else {
            present.cloned()
        };
        let client_ca = self.client_ca.as_deref();
        pair.map(|pair| Served::new(&self.settings, pair, client_ca)).transpose()
    }
}

impl Served {
    fn new(
        settings: &TlsSettings,
        pair: Pair,
        client_ca: Option<&ClientCa>,
    ) -> Result<Self, TlsError> {
        let config = Arc::new(server_config(settings, pair.clone(), client_ca)?);
        let until = pair.chain.first().filter(|_| settings.requested.is_some()).and_then(end);
        Ok(Self { pair, config, until })
    }
}

/// Returns the moment until which a certificate is valid.
fn end(certificate: &CertificateDer<'_>) -> Option<Wall> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Wall::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Reads the files that the configuration names, as a server will, so that a mistake in them ends
/// the start before anything runs.
pub(super) fn check_files(
    pair: Option<(&NamedFile, &NamedFile)>,
    client_ca: Option<&NamedFile>,
) -> Result<(), TlsError> {
    if let Some((certificate, key)) = pair {
        let settings = TlsSettings {
            cert_file: certificate.clone(),
            key_file: key.clone(),
            requested: None,
            client_ca_file: None,
            only_tls13: false,
            reload_certificate: false,
            reload_client_ca: false,
        };
        server_config(&settings, Pair::read(&settings)?, None)?;
    }
    client_ca.map_or(Ok(()), |file| ClientCa::load(file, false).map(drop))
}

fn stamps(settings: &TlsSettings) -> Vec<Stamp> {
    let certificate = [&settings.cert_file, &settings.key_file];
    let is_looked_at = settings.reload_certificate && settings.requested.is_none();
    let certificate = certificate.into_iter().filter(|_| is_looked_at);
    let client_ca = settings.client_ca_file.as_ref().filter(|_| settings.reload_client_ca);
    certificate.chain(client_ca).map(|file| Stamp::of(&file.path)).collect()
}

fn server_config(
    settings: &TlsSettings,
    Pair { chain, key }: Pair,
    client_ca: Option<&ClientCa>,
) -> Result<ServerConfig, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if settings.only_tls13 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let refused = |source| TlsError::Refused { file: settings.cert_file.clone(), source };
    let builder = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(versions)
        .map_err(refused)?;
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(ca.for_handshakes()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| TlsError::Pair {
        files: Box::new((settings.cert_file.clone(), settings.key_file.clone())),
        source,
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
        move |source| TlsError::Make { step, path, source }
    };

    std::fs::create_dir_all(cert_dir).map_err(file("create", cert_dir))?;
    // A file that a power cut leaves empty would end every later start.
    write_atomic_with(&cert_file, certificate.pem(), WriteOptions::mode(0o644).synced())
        .map_err(file("write", &cert_file))?;
    write_atomic_with(&key_file, key.serialize_pem(), WriteOptions::mode(0o600).synced())
        .map_err(file("write", &key_file))?;

    Ok((cert_file, key_file))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::apiserver::kubeconfig::Identity;

    fn named(field: &'static str, path: PathBuf) -> NamedFile {
        NamedFile { field, path }
    }

    fn settings(directory: &Path) -> TlsSettings {
        let today = Clock::system().now().wall;
        let (certificate, key) = self_signed(directory, "node", &[], today).expect("a pair");
        TlsSettings {
            cert_file: named("tlsCertFile (--tls-cert-file)", certificate),
            key_file: named("tlsPrivateKeyFile (--tls-private-key-file)", key),
            requested: None,
            client_ca_file: None,
            only_tls13: false,
            reload_certificate: true,
            reload_client_ca: true,
        }
    }

    #[test]
    fn an_error_names_the_field_and_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let good = settings(directory.path());
        let missing = directory.path().join("nope");
        let text = directory.path().join("text");
        std::fs::write(&text, "no PEM").expect("written");

        for (path, problem) in
            [(&missing, "cannot be read"), (&text, "holds no usable certificate: it must be PEM")]
        {
            let cert_file = named(good.cert_file.field, path.clone());
            let error = TlsSource::load(TlsSettings { cert_file, ..good.clone() });
            let error = error.expect_err("refused").to_string();
            let expected = format!("tlsCertFile (--tls-cert-file) {path:?} {problem}");
            assert_eq!(error, expected);
        }

        let key_file = named(good.key_file.field, text.clone());
        let error = TlsSource::load(TlsSettings { key_file, ..good.clone() });
        let error = error.expect_err("refused").to_string();
        let field = "tlsPrivateKeyFile (--tls-private-key-file)";
        assert_eq!(error, format!("{field} {text:?} holds no usable private key: it must be PEM"));

        let field = "authentication.x509.clientCAFile (--client-ca-file)";
        let client_ca_file = Some(named(field, missing.clone()));
        let error = TlsSource::load(TlsSettings { client_ca_file, ..good.clone() });
        let error = error.expect_err("refused");
        assert_eq!(error.to_string(), format!("{field} {missing:?} cannot be read"));
        assert!(error.source().is_some(), "the system's reason follows");
    }

    #[test]
    fn a_serving_certificate_may_be_of_p521() {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("crt"), directory.path().join("key"));
        std::fs::write(&certificate, crypto::testing::SERVER).expect("written");
        std::fs::write(&key, crypto::testing::SERVER_KEY).expect("written");
        let pair = (&named("tlsCertFile", certificate), &named("tlsPrivateKeyFile", key));
        check_files(Some(pair), None).expect("usable");
    }

    #[test]
    fn a_changed_certificate_is_read_again_unless_the_gate_is_off() {
        for reload in [true, false] {
            let directory = tempfile::tempdir().expect("a directory");
            let settings = TlsSettings { reload_certificate: reload, ..settings(directory.path()) };
            let files = [settings.cert_file.path.clone(), settings.key_file.path.clone()];
            let source = TlsSource::load(settings).expect("usable");
            let before = source.current().expect("a certificate");
            for file in files {
                std::fs::remove_file(file).expect("removed");
            }
            let today = Clock::system().now().wall;
            self_signed(directory.path(), "other", &[], today).expect("another pair");
            assert_eq!(
                Arc::ptr_eq(&before, &source.current().expect("a certificate")),
                !reload,
                "{reload}"
            );
        }
    }

    #[test]
    fn a_changed_client_ca_does_not_read_the_certificate_again_if_its_gate_is_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let today = Clock::system().now().wall;
        let (authority, _) = self_signed(&path.join("ca"), "ca", &[], today).expect("a pair");
        let client_ca_file = Some(NamedFile { field: "clientCAFile", path: authority.clone() });
        let settings = TlsSettings { reload_certificate: false, client_ca_file, ..settings(path) };
        let files = [settings.cert_file.path.clone(), settings.key_file.path.clone()];
        let source = TlsSource::load(settings).expect("usable");
        let before = source.current().expect("a certificate");

        for file in files {
            std::fs::remove_file(file).expect("removed");
        }
        std::fs::remove_dir_all(path.join("ca")).expect("removed");
        self_signed(&path.join("ca"), "other", &[], today).expect("another authority");
        let after = source.current().expect("a certificate");
        assert!(!Arc::ptr_eq(&before, &after), "the authority was read again, the pair was not");
    }

    #[test]
    fn a_requested_certificate_is_served_when_it_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = settings(directory.path());
        let text = |file: &NamedFile| std::fs::read(&file.path).expect("text");
        let read = || {
            let (certificate, key) = (text(&files.cert_file), text(&files.key_file));
            Arc::new(Identity::from_pem(&certificate, &key).expect("a pair"))
        };
        let (sender, requested) = tokio::sync::watch::channel(None);
        let requested = Some(requested);
        let source = TlsSource::load(TlsSettings { requested, ..files.clone() }).expect("usable");
        assert!(source.current().is_none(), "not yet, whatever the files hold");

        sender.send_replace(Some(read()));
        let first = source.current().expect("a certificate");
        assert!(Arc::ptr_eq(&first, &source.current().expect("a certificate")), "read once");
        sender.send_replace(Some(read()));
        let second = source.current().expect("a certificate");
        assert!(!Arc::ptr_eq(&first, &second), "the newest is served");
    }

    #[test]
    fn a_requested_certificate_that_has_expired_is_served_no_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = settings(directory.path());
        let until = |year| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut parameters = rcgen::CertificateParams::default();
            parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = parameters.self_signed(&key).expect("a certificate").pem();
            let key = key.serialize_pem();
            Arc::new(Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair"))
        };
        let (sender, requested) = tokio::sync::watch::channel(Some(until(2020)));
        let requested = Some(requested);
        let source = TlsSource::load(TlsSettings { requested, ..files }).expect("usable");
        assert!(source.current().is_none(), "as upstream: there is no certificate");
        sender.send_replace(Some(until(2100)));
        assert!(source.current().is_some(), "it is renewed");
    }
}
