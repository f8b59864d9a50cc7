//! The settings of static pods' sources from the kubelet's configuration.
//!
//! Pure.

use std::path::PathBuf;

use super::static_pod::References;
use super::{http, manifests};
use crate::config::{Gate, Loaded};

/// A header of `staticPodURLHeader` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpConfigError {
    /// A header's name.
    #[error("staticPodURLHeader {name:?}")]
    HeaderName {
        /// As configured.
        name: String,
        /// Why.
        #[source]
        source: ::http::header::InvalidHeaderName,
    },
    /// A header's value, which may be secret.
    #[error("staticPodURLHeader {name}: a value is not allowed in a header")]
    HeaderValue {
        /// The header.
        name: ::http::HeaderName,
        /// Why.
        #[source]
        source: ::http::header::InvalidHeaderValue,
    },
}

impl manifests::Config {
    /// The folder of manifests; `None` without `staticPodPath`.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Option<Self> {
        let path = &loaded.config.static_pod_path;
        (!path.is_empty()).then(|| Self {
            path: PathBuf::from(path),
            check_frequency: loaded.config.file_check_frequency.to_std(),
            node_name: node_name.to_owned(),
            references: references(loaded),
        })
    }
}

impl http::Config {
    /// The URL of manifests; `None` without `staticPodURL`.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Result<Option<Self>, HttpConfigError> {
        let config = &loaded.config;
        if config.static_pod_url.is_empty() {
            return Ok(None);
        }
        let mut headers = ::http::HeaderMap::new();
        for (name, values) in &config.static_pod_url_header.0 {
            let name = ::http::HeaderName::try_from(name)
                .map_err(|source| HttpConfigError::HeaderName { name: name.clone(), source })?;
            for value in values {
                let value = ::http::HeaderValue::from_str(value).map_err(|source| {
                    HttpConfigError::HeaderValue { name: name.clone(), source }
                })?;
                headers.append(name.clone(), value);
            }
        }

        Ok(Some(Self {
            url: config.static_pod_url.clone(),
            headers,
            check_frequency: config.http_check_frequency.to_std(),
            node_name: node_name.to_owned(),
            references: references(loaded),
            proxies: loaded.proxies.clone(),
        }))
    }
}

/// Whether static pods may refer to objects of the API.
fn references(loaded: &Loaded) -> References {
    if loaded.gates.enabled(Gate::PREVENT_STATIC_POD_API_REFERENCES) {
        References::Refused
    } else {
        References::Taken
    }
}
