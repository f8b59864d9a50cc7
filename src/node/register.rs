//! Computes the Node object to create, and the corrections of an existing one. Pure.
//!
//! `task` makes the requests.

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::NodeConfig;
use super::info::MachineInfo;

/// The annotation that has the controller, and not the node, attach volumes.
const CONTROLLER_ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// The labels that this kubelet enforces on an existing object; others are the administrator's.
const DEFAULT_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Returns the object to create, without its status.
pub fn initial(config: &NodeConfig, info: &MachineInfo) -> Node {
    let mut labels: std::collections::BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", info.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", info.architecture),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    labels.extend(config.labels.clone());

    let mut taints = config.taints.clone();
    if config.external_cloud_provider {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }

    let annotations = config
        .controller_attach_detach
        .then(|| [(CONTROLLER_ATTACH.to_owned(), "true".to_owned())].into());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: (!config.provider_id.is_empty()).then(|| config.provider_id.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Returns an existing object with the labels and the annotation that this kubelet sets.
pub fn reconciled(initial: &Node, existing: &Node) -> Node {
    let mut node = existing.clone();
    let wanted = initial.metadata.labels.clone().unwrap_or_default();
    let labels = node.metadata.labels.get_or_insert_default();

    for name in DEFAULT_LABELS {
        match wanted.get(name) {
            Some(value) if value.is_empty() => {
                labels.remove(name);
            }
            Some(value) => {
                labels.insert(name.to_owned(), value.clone());
            }
            None => {}
        }
    }

    let attach = initial
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(CONTROLLER_ATTACH));
    if let Some(value) = attach {
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(CONTROLLER_ATTACH.to_owned(), value.clone());
    } else if let Some(annotations) = &mut node.metadata.annotations {
        annotations.remove(CONTROLLER_ATTACH);
    }

    node
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{initial, reconciled};
    use crate::node::NodeConfig;
    use crate::node::status::tests::{config, info};

    #[test]
    fn a_new_node() {
        let cloud = NodeConfig {
            external_cloud_provider: true,
            provider_id: "p://1".to_owned(),
            ..config()
        };
        let node = serde_json::to_value(initial(&cloud, &info())).expect("JSON");
        assert_eq!(node["metadata"]["labels"]["pool"], "a");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/arch"], "amd64");
        assert_eq!(node["metadata"]["annotations"][super::CONTROLLER_ATTACH], "true");
        assert_eq!(
            node["spec"]["taints"][0]["key"],
            "node.cloudprovider.kubernetes.io/uninitialized"
        );
        assert_eq!(node["spec"]["providerID"], "p://1");
    }

    #[test]
    fn an_existing_node_keeps_what_is_not_ours() {
        let existing = serde_json::from_value(json!({"metadata": {"name": "n",
            "labels": {"kubernetes.io/hostname": "other", "mine": "x", "pool": "b"}, "annotations": {"k": "v"}}}))
        .expect("a node");
        let node = reconciled(&initial(&config(), &info()), &existing);
        let labels = node.metadata.labels.expect("labels");
        assert_eq!(labels["kubernetes.io/hostname"], "n");
        assert_eq!((labels["mine"].as_str(), labels["pool"].as_str()), ("x", "b"));
        assert_eq!(node.metadata.annotations.expect("annotations").len(), 2);
        let without = NodeConfig { controller_attach_detach: false, ..config() };
        let bare = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a node");
        assert_eq!(reconciled(&initial(&without, &info()), &bare).metadata.annotations, None);
    }
}
