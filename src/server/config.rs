//! Where the kubelet's API is served, with which certificate, and who may use it, from the
//! kubelet's configuration.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{AuthenticationSettings, AuthorizationMode, TlsError, TlsSettings, self_signed};
use crate::config::Loaded;
use crate::model::Wall;

/// Why an address of the configuration cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// `address` is none.
    #[error("address: {text:?} is not an IP address")]
    Ip {
        /// As configured.
        text: String,
        /// Why.
        #[source]
        source: AddrParseError,
    },
    /// A port is none.
    #[error("{field}: {number} is not a port")]
    Port {
        /// The field.
        field: &'static str,
        /// As configured.
        number: i32,
        /// Why.
        #[source]
        source: std::num::TryFromIntError,
    },
}

/// Where the servers listen.
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
    /// The certificate that is configured, or a self-signed one of `host` in `--cert-dir`, which is
    /// made if it is not there. Blocks.
    pub fn from_loaded(
        loaded: &Loaded,
        host: &str,
        addresses: &[IpAddr],
        today: Wall,
    ) -> Result<Self, TlsError> {
        let config = &loaded.config;
        let client_ca = &config.authentication.x509.client_ca_file;
        let is_configured =
            !config.tls_cert_file.is_empty() || !config.tls_private_key_file.is_empty();
        let (cert_file, key_file) = if is_configured {
            (PathBuf::from(&config.tls_cert_file), PathBuf::from(&config.tls_private_key_file))
        } else {
            self_signed(Path::new(&loaded.flags.cert_dir), host, addresses, today)?
        };
        Ok(Self {
            cert_file,
            key_file,
            client_ca_file: (!client_ca.is_empty()).then(|| PathBuf::from(client_ca)),
            only_tls13: config.tls_min_version == "VersionTLS13",
        })
    }
}

impl From<&Loaded> for AuthenticationSettings {
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
