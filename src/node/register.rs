//! Computes the Node object to create, and the corrections of an existing one. Pure.
//!
//! `task` makes the requests.

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
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

/// Returns an existing object with the labels, the annotation and the resources that this kubelet
/// sets. `initial` is this kubelet's own description, with its status.
pub fn reconciled(config: &NodeConfig, initial: &Node, existing: &Node) -> Node {
    let mut node = existing.clone();
    resources(config, initial, &mut node);
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

/// Sets the resources that must not be taken over from an earlier machine of the same name:
///
/// - extended resources begin at zero until their device plugins have registered;
/// - huge pages are those of this machine.
fn resources(config: &NodeConfig, initial: &Node, node: &mut Node) {
    let of_machine = initial.status.clone().unwrap_or_default();
    let status = node.status.get_or_insert_default();
    let capacity =
        status.capacity.get_or_insert_with(|| of_machine.capacity.clone().unwrap_or_default());
    let allocatable = status
        .allocatable
        .get_or_insert_with(|| of_machine.allocatable.clone().unwrap_or_default());

    if config.resets_extended_resources {
        let names: Vec<String> =
            capacity.keys().filter(|name| is_extended(name)).cloned().collect();
        for name in names {
            let zero = Quantity("0".to_owned());
            capacity.insert(name.clone(), zero.clone());
            allocatable.insert(name, zero);
        }
    }

    for (resources, own) in [(capacity, of_machine.capacity), (allocatable, of_machine.allocatable)]
    {
        let own = own.unwrap_or_default();
        let is_huge = |name: &str| name.starts_with("hugepages-");
        resources.retain(|name, _| !is_huge(name) || own.contains_key(name));
        resources.extend(own.into_iter().filter(|(name, _)| is_huge(name)));
    }
}

/// Returns true for a resource that is not one of Kubernetes itself.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
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
        let node = reconciled(&config(), &initial(&config(), &info()), &existing);
        let labels = node.metadata.labels.expect("labels");
        assert_eq!(labels["kubernetes.io/hostname"], "n");
        assert_eq!((labels["mine"].as_str(), labels["pool"].as_str()), ("x", "b"));
        assert_eq!(node.metadata.annotations.expect("annotations").len(), 2);
        let without = NodeConfig { controller_attach_detach: false, ..config() };
        let bare = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a node");
        let node = reconciled(&without, &initial(&without, &info()), &bare);
        assert_eq!(node.metadata.annotations, None);
    }

    #[test]
    fn a_new_machine_has_not_the_devices_of_the_old_one() {
        let existing = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {
            "capacity": {"example.com/gpu": "4", "cpu": "8", "hugepages-1Gi": "2Gi", "hugepages-2Mi": "4Mi"},
            "allocatable": {"example.com/gpu": "3", "cpu": "7", "hugepages-1Gi": "2Gi", "hugepages-2Mi": "4Mi"},
        }}))
        .expect("a node");
        let own = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {
            "capacity": {"cpu": "2", "hugepages-2Mi": "2Mi"},
            "allocatable": {"cpu": "2", "hugepages-2Mi": "0"},
        }}))
        .expect("a node");
        let resources = |resets| {
            let config = NodeConfig { resets_extended_resources: resets, ..config() };
            let status = reconciled(&config, &own, &existing).status.expect("a status");
            json!([status.capacity, status.allocatable])
        };
        assert_eq!(
            resources(true),
            json!([
                {"example.com/gpu": "0", "cpu": "8", "hugepages-2Mi": "2Mi"},
                {"example.com/gpu": "0", "cpu": "7", "hugepages-2Mi": "0"},
            ])
        );
        assert_eq!(resources(false)[1]["example.com/gpu"], "3", "after a restart");
    }
}
