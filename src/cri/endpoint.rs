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
    #[error(
        "the container runtime endpoint is empty: set containerRuntimeEndpoint, e.g. unix:///run/containerd/containerd.sock"
    )]
    Empty,
    /// The scheme is not `unix`.
    #[error(
        "container runtime endpoint {endpoint:?}: protocol {scheme:?} is not supported, only unix sockets are: write unix:///path"
    )]
    Scheme {
        /// The text.
        endpoint: String,
        /// The text's scheme.
        scheme: String,
    },
    /// The path is not absolute.
    #[error(
        "container runtime endpoint {endpoint:?}: the socket's path must be absolute: write unix:///path"
    )]
    Relative {
        /// The text.
        endpoint: String,
    },
}

impl Endpoint {
    /// Parses `unix:///path` or a bare absolute path.
    pub fn parse(endpoint: &str) -> Result<Self, EndpointError> {
        let trimmed = endpoint.trim();
        if trimmed.is_empty() {
            return Err(EndpointError::Empty);
        }

        let path = match trimmed.split_once("://") {
            Some(("unix", path)) => path,
            Some((scheme, _)) => {
                return Err(EndpointError::Scheme {
                    endpoint: endpoint.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            None => trimmed.strip_prefix("unix:").unwrap_or(trimmed),
        };
        if !path.starts_with('/') {
            return Err(EndpointError::Relative { endpoint: endpoint.to_owned() });
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

    #[track_caller]
    fn check(text: &str, path: &str) {
        assert_eq!(Endpoint::parse(text).expect("an endpoint").path(), std::path::Path::new(path));
    }

    #[test]
    fn reads_both_forms() {
        check("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock");
        check("unix:/run/crio.sock", "/run/crio.sock");
        check("/run/crio/crio.sock", "/run/crio/crio.sock");
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(Endpoint::parse(" "), Err(EndpointError::Empty));
        let refused = Endpoint::parse("tcp://127.0.0.1:1").expect_err("tcp").to_string();
        assert!(refused.contains("\"tcp\" is not supported"), "{refused}");
        let refused = Endpoint::parse("unix://run/x.sock").expect_err("relative").to_string();
        assert!(refused.contains("must be absolute"), "{refused}");
        assert!(Endpoint::parse("run/x.sock").is_err());
    }
}
