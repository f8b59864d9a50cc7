//! Cuts the configuration of the Node object out of the kubelet's. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use super::addresses::Wanted;
use crate::admission::Features;
use crate::config::{Gate, KUBERNETES_VERSION, Loaded};

/// The configuration of the Node object.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name in the API.
    pub node_name: String,
    /// The value of the label `kubernetes.io/hostname` and of the Hostname address.
    pub hostname: String,
    /// `--node-ip`: none, one, or one per family; an unspecified address asks for that family's
    /// default route.
    pub node_ips: Vec<IpAddr>,
    /// `registerNode`: create the object if there is none.
    pub register: bool,
    /// `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`.
    pub taints: Vec<Taint>,
    /// `--cloud-provider=external`.
    pub external_cloud_provider: bool,
    /// `providerID`; empty for none.
    pub provider_id: String,
    /// Whether a Node that may not be created is not looked for either (gate
    /// `KubeletRegistrationGetOnExistsOnly`).
    pub get_on_exists_only: bool,
    /// Whether extended resources of a Node that exists begin at zero: the machine has no record of
    /// devices, so it is a new one under an old name.
    pub resets_extended_resources: bool,
    /// `enableControllerAttachDetach`.
    pub controller_attach_detach: bool,
    /// `maxPods`.
    pub max_pods: i64,
    /// `podsPerCore`; zero for no such limit.
    pub pods_per_core: i64,
    /// `kubeReserved` by resource name.
    pub kube_reserved: BTreeMap<String, String>,
    /// `systemReserved` by resource name.
    pub system_reserved: BTreeMap<String, String>,
    /// `evictionHard` by signal, e.g. `memory.available` → `100Mi`.
    pub eviction_hard: BTreeMap<String, String>,
    /// `localStorageCapacityIsolation`.
    pub local_storage: bool,
    /// `nodeStatusUpdateFrequency`.
    pub status_update_frequency: Duration,
    /// `nodeStatusReportFrequency`.
    pub status_report_frequency: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease_duration: Duration,
    /// `nodeStatusMaxImages`; negative for all.
    pub max_images: i64,
    /// The HTTPS server's port.
    pub port: u16,
    /// The kubelet's version, e.g. `v1.36.3`.
    pub kubelet_version: String,
    /// The features that this kubelet implements and that pods may require of a node, sorted.
    pub declared_features: Vec<String>,
    /// The kubelet's root directory: its file system is the node's ephemeral storage.
    pub root_dir: PathBuf,
}

/// The names of a node.
#[derive(Clone, Debug)]
pub struct Names {
    /// The node's name in the API.
    pub node: String,
    /// The value of the label `kubernetes.io/hostname` and of the Hostname address.
    pub host: String,
}

impl NodeConfig {
    /// Cuts the Node's part out of the configuration.
    pub fn from_loaded(loaded: &Loaded, names: Names, node_ips: Vec<IpAddr>) -> Self {
        let flags = &loaded.flags;
        let config = &loaded.config;
        let eviction_hard = if flags.experimental_allocatable_ignore_eviction {
            BTreeMap::new()
        } else {
            config.eviction_hard.clone()
        };
        let declared = Features::from(loaded).declared.unwrap_or_default();

        let lease = u64::try_from(config.node_lease_duration_seconds).unwrap_or(40);

        Self {
            node_name: names.node,
            hostname: names.host,
            node_ips,
            register: config.register_node,
            labels: flags.node_labels.clone(),
            taints: config.register_with_taints.clone(),
            external_cloud_provider: flags.cloud_provider == "external",
            provider_id: config.provider_id.clone(),
            get_on_exists_only: loaded.gates.enabled(Gate::KUBELET_REGISTRATION_GET_ON_EXISTS_ONLY),
            resets_extended_resources: false,
            controller_attach_detach: config.enable_controller_attach_detach,
            max_pods: config.max_pods.into(),
            pods_per_core: config.pods_per_core.into(),
            kube_reserved: config.kube_reserved.clone(),
            system_reserved: config.system_reserved.clone(),
            eviction_hard,
            local_storage: config.local_storage_capacity_isolation,
            status_update_frequency: config.node_status_update_frequency.to_std(),
            status_report_frequency: config.node_status_report_frequency.to_std(),
            lease_duration: Duration::from_secs(lease),
            max_images: config.node_status_max_images.into(),
            port: u16::try_from(config.port).unwrap_or(10250),
            kubelet_version: KUBERNETES_VERSION.to_owned(),
            declared_features: declared.iter().map(ToString::to_string).collect(),
            root_dir: PathBuf::from(&flags.root_dir),
        }
    }

    /// Returns the part that decides on the node's addresses.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            node_name: &self.node_name,
            hostname: &self.hostname,
            node_ips: &self.node_ips,
            external_cloud_provider: self.external_cloud_provider,
        }
    }
}
