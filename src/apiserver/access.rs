//! Access to the API server: its address, how the kubelet trusts it, and who the kubelet is.
//!
//! `kubeconfig` fills these values from files. `credentials` and `client` make connections of them.
//! `Debug` never shows a secret.

use std::fmt;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

use super::exec::Plugin;
use super::identity::{Identity, Rotated};

/// The API server's address, the trust in it, and the kubelet's own credentials.
#[derive(Debug)]
pub struct Access {
    /// `https://host:port[/prefix]`.
    pub server: http::Uri,
    /// The server as the kubeconfig writes it, for a kubeconfig that is made of this one.
    pub server_text: String,
    /// The name to check the server's certificate for, if not the host.
    pub tls_server_name: Option<String>,
    /// The certificates to trust; `None`: the system's.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// The file that they were read from, if there is one: they may change there.
    pub roots_file: Option<PathBuf>,
    /// Their PEM text, if it stands in the kubeconfig itself.
    pub roots_data: Option<Vec<u8>>,
    /// True if any certificate is trusted (`insecure-skip-tls-verify`).
    pub insecure: bool,
    /// The client certificate.
    pub identity: Option<Identity>,
    /// The client certificate that is rotated; it takes the place of `identity`.
    pub rotated: Option<Rotated>,
    /// The bearer token.
    pub bearer: Bearer,
    /// The plug-in that gives credentials; without others only.
    pub plugin: Option<Plugin>,
    /// The proxy that the kubeconfig names.
    pub proxy: Option<http::Uri>,
    /// The headers `Impersonate-…`: requests have the rights of that user.
    pub impersonation: http::HeaderMap,
}

/// The bearer token, if there is one.
#[derive(Clone, PartialEq, Eq)]
pub enum Bearer {
    /// None.
    None,
    /// A fixed one.
    Token(String),
    /// One that is read again when it is older than a minute.
    File(PathBuf),
    /// No token: a name and a password, as the header has them.
    Basic(String),
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Basic(_) => f.write_str("Basic(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}
