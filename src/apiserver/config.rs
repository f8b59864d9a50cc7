//! The settings of the API server's clients from the kubelet's configuration.

use std::path::PathBuf;

use tokio::sync::watch;

use super::ClientConfig;
use super::nodes::NodeView;
use super::objects::ChangeDetection;
use crate::config::Loaded;

impl ClientConfig {
    /// The clients of the node `node_name`; `None` without `--kubeconfig`.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Option<Self> {
        let config = &loaded.config;
        let kubeconfig = &loaded.flags.kubeconfig;
        (!kubeconfig.is_empty()).then(|| Self {
            kubeconfig: PathBuf::from(kubeconfig),
            node_name: node_name.to_owned(),
            qps: f64::from(config.kube_api_qps),
            burst: u32::try_from(config.kube_api_burst).unwrap_or(0),
            event_qps: f64::from(config.event_record_qps),
            event_burst: u32::try_from(config.event_burst).unwrap_or(0),
            disable_http2: loaded.disable_http2,
            proxies: loaded.proxies.clone(),
        })
    }
}

impl ChangeDetection {
    /// Reads `configMapAndSecretChangeDetectionStrategy`. `node` is the Node's view, whose TTL the
    /// strategy `Cache` follows.
    pub fn from_loaded(loaded: &Loaded, node: watch::Receiver<NodeView>) -> Self {
        let sync = loaded.config.sync_frequency.to_std();
        match loaded.config.config_map_and_secret_change_detection_strategy.as_str() {
            "Get" => Self::Get(sync),
            "Cache" => Self::Cache { sync, node },
            _ => Self::Watch,
        }
    }
}
