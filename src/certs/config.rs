//! The settings of certificates from the kubelet's configuration.

use std::path::PathBuf;

use crate::apiserver::ClientConfig;
use crate::apiserver::kubeconfig::IdentityFiles;
use crate::config::{Gate, Loaded};

/// How the client certificate comes about.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The clients of the API server.
    pub client: ClientConfig,
    /// `--bootstrap-kubeconfig`: the credentials for the first request.
    pub bootstrap: Option<PathBuf>,
    /// `--cert-dir`.
    pub directory: PathBuf,
    /// `rotateCertificates`.
    pub is_rotated: bool,
}

impl Settings {
    /// Reads the configuration of the node `node_name`; `None` without `--kubeconfig`.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Option<Self> {
        let bootstrap = &loaded.flags.bootstrap_kubeconfig;
        Some(Self {
            client: ClientConfig::from_loaded(loaded, node_name)?,
            bootstrap: (!bootstrap.is_empty()).then(|| bootstrap.into()),
            directory: (&loaded.flags.cert_dir).into(),
            is_rotated: loaded.config.rotate_certificates,
        })
    }
}

/// How the serving certificate comes about.
#[derive(Clone, Debug)]
pub struct ServingSettings {
    /// This node's name.
    pub node_name: String,
    /// `--cert-dir`.
    pub directory: PathBuf,
    /// `tlsCertFile` and `tlsPrivateKeyFile`: the pair for as long as none has been requested.
    pub configured: Option<IdentityFiles>,
    /// Requests a certificate for a node that has a name and no address (gate
    /// `AllowDNSOnlyNodeCSR`).
    pub dns_only: bool,
}

impl ServingSettings {
    /// Reads the configuration; `None` unless the certificate is to be requested.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Option<Self> {
        let config = &loaded.config;
        let is_wanted = config.enable_server
            && config.server_tls_bootstrap
            && loaded.gates.enabled(Gate::ROTATE_KUBELET_SERVER_CERTIFICATE);
        let (certificate, key) = (&config.tls_cert_file, &config.tls_private_key_file);
        let has_files = !certificate.is_empty() && !key.is_empty();
        is_wanted.then(|| Self {
            node_name: node_name.to_owned(),
            directory: (&loaded.flags.cert_dir).into(),
            configured: has_files
                .then(|| IdentityFiles { certificate: certificate.into(), key: key.into() }),
            dns_only: loaded.gates.enabled(Gate::ALLOW_DNS_ONLY_NODE_CSR),
        })
    }
}
