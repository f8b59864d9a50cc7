//! Parses the address of the runtime, once, at the edge.

use std::fmt;
use std::path::{Path, PathBuf};

/// The socket of a runtime or image service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
}

/// The reasons why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is empty.
    #[error("{field} is empty: set it, e.g. to unix:///run/containerd/containerd.sock")]
    Empty {
        /// The field of the configuration.
        field: &'static str,
    },
    /// The scheme is not `unix`.
    #[error(
        "{field} {endpoint:?}: protocol {scheme:?} is not supported, only unix sockets are: write unix:///path"
    )]
    Scheme {
        /// The field of the configuration.
        field: &'static str,
        /// The text.
        endpoint: String,
        /// The text's scheme.
        scheme: String,
    },
    /// The path is not absolute.
    #[error("{field} {endpoint:?}: the socket's path must be absolute: write unix:///path")]
    Relative {
        /// The field of the configuration.
        field: &'static str,
        /// The text.
        endpoint: String,
    },
}

impl Endpoint {
    /// Parses the value of a field: `unix:///path` or a bare absolute path.
    pub fn parse(field: &'static str, endpoint: &str) -> Result<Self, EndpointError> {
        let trimmed = endpoint.trim();
        if trimmed.is_empty() {
            return Err(EndpointError::Empty { field });
        }

        let path = match trimmed.split_once("://") {
            Some(("unix", path)) => path,
            Some((scheme, _)) => {
                return Err(EndpointError::Scheme {
                    field,
                    endpoint: endpoint.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            None => trimmed.strip_prefix("unix:").unwrap_or(trimmed),
        };
        if !path.starts_with('/') {
            return Err(EndpointError::Relative { field, endpoint: endpoint.to_owned() });
        }

        Ok(Self { path: PathBuf::from(path) })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, EndpointError};

    const FIELD: &str = "imageServiceEndpoint (--image-service-endpoint)";

    #[track_caller]
    fn check(text: &str, path: &str) {
        assert_eq!(
            Endpoint::parse(FIELD, text).expect("an endpoint").path(),
            std::path::Path::new(path)
        );
    }

    #[test]
    fn reads_both_forms() {
        check("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock");
        check("unix:/run/crio.sock", "/run/crio.sock");
        check("/run/crio/crio.sock", "/run/crio/crio.sock");
    }

    #[test]
    fn says_what_is_wrong() {
        let refused = |text| Endpoint::parse(FIELD, text).expect_err(text);
        assert_eq!(refused(" "), EndpointError::Empty { field: FIELD });
        for (text, problem) in [
            ("tcp://127.0.0.1:1", "protocol \"tcp\" is not supported"),
            ("unix://run/x.sock", "the socket's path must be absolute"),
            ("run/x.sock", "the socket's path must be absolute"),
        ] {
            let error = refused(text).to_string();
            assert!(error.starts_with(&format!("{FIELD} {text:?}: {problem}")), "{error}");
        }
    }
}
