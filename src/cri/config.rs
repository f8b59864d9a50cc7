//! Cuts the client's settings out of the kubelet's configuration. Pure.

use super::Config;
use crate::config::Loaded;

impl From<&Loaded> for Config {
    fn from(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let image = &config.image_service_endpoint;
        Self {
            runtime_endpoint: config.container_runtime_endpoint.clone(),
            image_endpoint: (!image.is_empty()).then(|| image.clone()),
            request_timeout: config.runtime_request_timeout.to_std(),
        }
    }
}
