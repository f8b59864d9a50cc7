//! Cuts the server's part out of the kubelet's configuration: addresses, certificates,
//! authentication, authorisation.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::tls::check_files;
use super::{
    AuthenticationConfig, AuthorizationMode, NamedFile, TlsError, TlsSettings, self_signed,
};
use crate::apiserver::identity::Rotated;
use crate::config::{Gate, Loaded};
use crate::model::Wall;

/// The error of an address that the server cannot listen on.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// `address` is not an IP address.
    #[error("address (--address) {text:?} is not an IP address")]
    Ip {
        /// As configured.
        text: String,
        /// The cause.
        #[source]
        source: AddrParseError,
    },
    /// A number is not a port.
    #[error("{field}: {number} is not a port")]
    Port {
        /// The field.
        field: &'static str,
        /// As configured.
        number: i32,
        /// The cause.
        #[source]
        source: std::num::TryFromIntError,
    },
}

/// The addresses that the servers listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The HTTPS API; `None` with `enableServer: false`.
    pub secure: Option<SocketAddr>,
    /// Its read-only twin; `None` with `readOnlyPort: 0`, and without the HTTPS API.
    pub read_only: Option<SocketAddr>,
    /// The health port: an address, or a name that is looked up. `None` with `healthzPort: 0`.
    pub health: Option<(String, u16)>,
}

impl Addresses {
    /// Reads the configuration.
    pub fn from_loaded(loaded: &Loaded) -> Result<Self, AddressError> {
        let config = &loaded.config;
        let socket = |field, port| socket(&config.address, field, port);
        let secure = config.enable_server.then(|| socket("port", config.port)).transpose()?;
        let wants_read_only = config.enable_server && config.read_only_port > 0;
        let read_only = wants_read_only.then(|| socket("readOnlyPort", config.read_only_port));
        let health = u16::try_from(config.healthz_port).ok().filter(|port| *port > 0);
        Ok(Self {
            secure,
            read_only: read_only.transpose()?,
            health: health.map(|port| (config.healthz_bind_address.clone(), port)),
        })
    }
}

fn socket(address: &str, field: &'static str, number: i32) -> Result<SocketAddr, AddressError> {
    let ip: IpAddr =
        address.parse().map_err(|source| AddressError::Ip { text: address.to_owned(), source })?;
    let port =
        u16::try_from(number).map_err(|source| AddressError::Port { field, number, source })?;
    Ok(SocketAddr::new(ip, port))
}

impl TlsSettings {
    /// The certificate that is requested, or configured, or a self-signed one of `host` in
    /// `--cert-dir`, which is made if it is not there. Blocks.
    pub fn from_loaded(
        loaded: &Loaded,
        host: &str,
        addresses: &[IpAddr],
        today: Wall,
        requested: Option<Rotated>,
    ) -> Result<Self, TlsError> {
        let gates = &loaded.gates;
        let (cert_file, key_file) = if let Some(pair) = serving_pair(loaded) {
            pair
        } else if requested.is_some() {
            let none = NamedFile { field: "serverTLSBootstrap", path: PathBuf::new() };
            (none.clone(), none)
        } else {
            let directory = Path::new(&loaded.flags.cert_dir);
            let (certificate, key) = self_signed(directory, host, addresses, today)?;
            let named = |path| NamedFile { field: "--cert-dir", path };
            (named(certificate), named(key))
        };
        Ok(Self {
            cert_file,
            key_file,
            requested,
            client_ca_file: client_ca(loaded),
            only_tls13: loaded.config.tls_min_version == "VersionTLS13",
            reload_certificate: gates.enabled(Gate::RELOAD_KUBELET_SERVER_CERTIFICATE_FILE),
            reload_client_ca: gates.enabled(Gate::RELOAD_KUBELET_CLIENT_CA_FILE),
        })
    }
}

/// Reads the TLS files and addresses that the configuration names, as the servers will, so that a
/// mistake in them ends the start before anything runs. Blocks.
pub fn check(loaded: &Loaded) -> anyhow::Result<()> {
    let pair = serving_pair(loaded).filter(|_| loaded.config.enable_server);
    let pair = pair.as_ref().map(|(certificate, key)| (certificate, key));
    check_files(pair, client_ca(loaded).as_ref())?;
    Addresses::from_loaded(loaded)?;
    Ok(())
}

/// The serving certificate and its key; `None` if neither is configured.
fn serving_pair(loaded: &Loaded) -> Option<(NamedFile, NamedFile)> {
    let config = &loaded.config;
    if config.tls_cert_file.is_empty() && config.tls_private_key_file.is_empty() {
        return None;
    }
    let named = |field, path: &str| NamedFile { field, path: PathBuf::from(path) };
    let certificate = named("tlsCertFile (--tls-cert-file)", &config.tls_cert_file);
    let key = named("tlsPrivateKeyFile (--tls-private-key-file)", &config.tls_private_key_file);
    Some((certificate, key))
}

/// The CA of client certificates; `None` if none is configured.
fn client_ca(loaded: &Loaded) -> Option<NamedFile> {
    let path = &loaded.config.authentication.x509.client_ca_file;
    let field = "authentication.x509.clientCAFile (--client-ca-file)";
    (!path.is_empty()).then(|| NamedFile { field, path: PathBuf::from(path) })
}

impl From<&Loaded> for AuthenticationConfig {
    fn from(loaded: &Loaded) -> Self {
        let authentication = &loaded.config.authentication;
        let webhook = &authentication.webhook;
        Self {
            anonymous: authentication.anonymous.enabled,
            webhook: webhook.enabled.then(|| webhook.cache_ttl.to_std()),
        }
    }
}

impl From<&Loaded> for AuthorizationMode {
    fn from(loaded: &Loaded) -> Self {
        let authorization = &loaded.config.authorization;
        match authorization.mode.as_str() {
            "AlwaysAllow" => Self::AlwaysAllow,
            _ => Self::Webhook {
                allowed_ttl: authorization.webhook.cache_authorized_ttl.to_std(),
                denied_ttl: authorization.webhook.cache_unauthorized_ttl.to_std(),
            },
        }
    }
}
