//! Who may use the kubelet's API, from the kubelet's configuration.
//!
//! Pure.

use super::{AuthenticationSettings, AuthorizationMode};
use crate::config::Loaded;

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
