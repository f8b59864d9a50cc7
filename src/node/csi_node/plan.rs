//! Computes what a CSI driver changes on the Node and the CSINode. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};

/// The annotation of the Node that maps drivers to their names of the node, as JSON.
pub(super) const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// The annotation of the CSINode that names the in-tree plugins which CSI drivers stand in for.
pub(super) const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// The value of [`MIGRATED`]: all of them, as in upstream.
pub(super) const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,\
    kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,\
    kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";

/// A driver's description of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DriverNode {
    /// The driver's name.
    pub(super) driver: String,
    /// The driver's name of the node.
    pub(super) node_id: String,
    /// How many volumes the driver can have here; 0: it does not say.
    pub(super) limit: i64,
    /// Where the node lies, as labels of the Node.
    pub(super) topology: BTreeMap<String, String>,
}

/// The reasons why the Node cannot show a driver. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(
        "failed to parse node's \"csi.volume.kubernetes.io/nodeid\" annotation value ({value:?}) err={source}"
    )]
    Annotation { value: String, source: serde_json::Error },
    #[error(
        "detected topology value collision: driver reported {key:?}:{wanted:?} but existing label is {key:?}:{present:?}"
    )]
    Collision { key: String, wanted: String, present: String },
}

/// Returns the Node as it shows a driver: the annotation with its name of the node, its topology as
/// labels.
pub(super) fn with_driver(node: &Node, driver: &DriverNode) -> Result<Node, PlanError> {
    let mut node = node.clone();
    let mut ids = node_ids(&node)?;
    ids.insert(driver.driver.clone(), driver.node_id.clone());
    set_node_ids(&mut node, &ids);

    let labels = node.metadata.labels.get_or_insert_default();
    for (key, wanted) in &driver.topology {
        match labels.get(key) {
            Some(present) if present != wanted => {
                let (key, wanted, present) = (key.clone(), wanted.clone(), present.clone());
                return Err(PlanError::Collision { key, wanted, present });
            }
            Some(_) => {}
            None => drop(labels.insert(key.clone(), wanted.clone())),
        }
    }
    Ok(node)
}

/// Returns the Node without a driver's name of it. The topology's labels stay, as upstream leaves
/// them.
pub(super) fn without_driver(node: &Node, driver: &str) -> Result<Node, PlanError> {
    let mut node = node.clone();
    let mut ids = node_ids(&node)?;
    if ids.remove(driver).is_some() {
        set_node_ids(&mut node, &ids);
    }
    Ok(node)
}

fn node_ids(node: &Node) -> Result<BTreeMap<String, String>, PlanError> {
    let annotations = node.metadata.annotations.as_ref();
    match annotations
        .and_then(|annotations| annotations.get(NODE_ID))
        .filter(|text| !text.is_empty())
    {
        None => Ok(BTreeMap::new()),
        Some(value) => serde_json::from_str(value)
            .map_err(|source| PlanError::Annotation { value: value.clone(), source }),
    }
}

fn set_node_ids(node: &mut Node, ids: &BTreeMap<String, String>) {
    let annotations = node.metadata.annotations.get_or_insert_default();
    if ids.is_empty() {
        annotations.remove(NODE_ID);
    } else {
        annotations.insert(NODE_ID.to_owned(), serde_json::json!(ids).to_string());
    }
}

/// Returns the CSINode's new list of drivers with this one; `None` if it is right already.
pub(super) fn drivers_with(present: &CSINode, driver: &DriverNode) -> Option<Vec<CSINodeDriver>> {
    let topology_keys: BTreeSet<&String> = driver.topology.keys().collect();
    let limit = (driver.limit > 0).then(|| i32::try_from(driver.limit).unwrap_or(i32::MAX));
    let is_it = |entry: &CSINodeDriver| {
        let count = entry.allocatable.as_ref().and_then(|allocatable| allocatable.count);
        let keys: BTreeSet<&String> = entry.topology_keys.iter().flatten().collect();
        entry.node_id == driver.node_id && keys == topology_keys && count == limit
    };
    let known = present.spec.drivers.iter().find(|entry| entry.name == driver.driver);
    if known.is_some_and(is_it) {
        return None;
    }

    let others = present.spec.drivers.iter().filter(|entry| entry.name != driver.driver);
    let mut drivers: Vec<CSINodeDriver> = others.cloned().collect();
    drivers.push(CSINodeDriver {
        name: driver.driver.clone(),
        node_id: driver.node_id.clone(),
        topology_keys: Some(topology_keys.into_iter().cloned().collect()),
        allocatable: limit.map(|count| VolumeNodeResources { count: Some(count) }),
    });
    Some(drivers)
}

/// Returns the CSINode's new list of drivers without this one; `None` if it is not there.
pub(super) fn drivers_without(present: &CSINode, driver: &str) -> Option<Vec<CSINodeDriver>> {
    let drivers = &present.spec.drivers;
    let rest: Vec<CSINodeDriver> =
        drivers.iter().filter(|entry| entry.name != driver).cloned().collect();
    (rest.len() < drivers.len()).then_some(rest)
}

/// Returns true if the CSINode belongs to the Node of this name and UID.
pub(super) fn is_owned(present: &CSINode, name: &str, uid: &str) -> bool {
    present
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "Node" && owner.name == name && owner.uid == uid)
}

/// Returns true if the CSINode names the in-tree plugins that drivers stand in for.
pub(super) fn is_annotated(present: &CSINode) -> bool {
    let annotations = present.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(MIGRATED)).map(String::as_str)
        == Some(MIGRATED_PLUGINS)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use k8s_openapi::api::storage::v1::CSINode;
    use serde_json::json;

    use super::{DriverNode, drivers_with, drivers_without, is_owned, with_driver, without_driver};

    fn driver(limit: i64) -> DriverNode {
        DriverNode {
            driver: "d.io".to_owned(),
            node_id: "id-1".to_owned(),
            limit,
            topology: [("d.io/zone".to_owned(), "a".to_owned())].into(),
        }
    }

    fn node(metadata: &serde_json::Value) -> Node {
        serde_json::from_value(json!({"metadata": metadata})).expect("a node")
    }

    #[test]
    fn the_node_shows_drivers_until_they_leave() {
        let both = with_driver(
            &node(&json!({"annotations": {"csi.volume.kubernetes.io/nodeid": "{\"a.io\":\"x\"}"}})),
            &driver(0),
        )
        .expect("shown");
        let annotations = both.metadata.annotations.clone().expect("annotations");
        assert_eq!(annotations["csi.volume.kubernetes.io/nodeid"], r#"{"a.io":"x","d.io":"id-1"}"#);
        assert_eq!(both.metadata.labels.as_ref().expect("labels")["d.io/zone"], "a");

        let one = without_driver(&both, "a.io").expect("hidden");
        let none = without_driver(&one, "d.io").expect("hidden");
        assert!(none.metadata.annotations.expect("a map").is_empty());
        assert_eq!(none.metadata.labels, both.metadata.labels, "labels stay");
    }

    #[test]
    fn another_place_and_nonsense_are_refused() {
        let elsewhere = node(&json!({"labels": {"d.io/zone": "b"}}));
        assert_eq!(
            with_driver(&elsewhere, &driver(0)).expect_err("refused").to_string(),
            "detected topology value collision: driver reported \"d.io/zone\":\"a\" but existing label is \
             \"d.io/zone\":\"b\""
        );
        let nonsense = node(&json!({"annotations": {"csi.volume.kubernetes.io/nodeid": "x"}}));
        let text = with_driver(&nonsense, &driver(0)).expect_err("refused").to_string();
        assert!(text.starts_with("failed to parse node's"), "{text}");
    }

    #[test]
    fn the_csi_node_is_changed_only_when_a_driver_says_something_new() {
        let mut present = CSINode::default();
        let drivers = drivers_with(&present, &driver(7)).expect("new");
        assert_eq!(
            serde_json::to_value(&drivers).expect("JSON"),
            json!([{"name": "d.io", "nodeID": "id-1", "topologyKeys": ["d.io/zone"],
                "allocatable": {"count": 7}}])
        );
        present.spec.drivers = drivers;
        assert_eq!(drivers_with(&present, &driver(7)), None);
        let more = drivers_with(&present, &driver(1 << 40)).expect("another limit");
        assert_eq!(more[0].allocatable.as_ref().and_then(|some| some.count), Some(i32::MAX));
        let any = drivers_with(&present, &driver(0)).expect("no limit");
        assert_eq!(any[0].allocatable, None);
        assert_eq!(drivers_without(&present, "d.io"), Some(vec![]));
        assert_eq!(drivers_without(&present, "other"), None);
    }

    #[test]
    fn the_csi_node_belongs_to_one_node_object() {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]);
        let present: CSINode = serde_json::from_value(
            json!({"metadata": {"ownerReferences": owner}, "spec": {"drivers": []}}),
        )
        .expect("a CSINode");
        assert!(is_owned(&present, "n", "u"));
        assert!(!is_owned(&present, "n", "u2") && !is_owned(&CSINode::default(), "n", "u"));
    }
}
