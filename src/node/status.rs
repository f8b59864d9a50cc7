//! Computes the Node object from the configuration, the machine, the facts of other subsystems and
//! the present object. Pure.
//!
//! `conditions` computes the conditions, `resources` the resources. Reasons and messages are
//! upstream's. Fields of other writers (NetworkUnavailable, a cloud provider's addresses, attached
//! volumes) are left as they are.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};

use super::info::MachineInfo;
use super::status_input::{StatusEvent, StatusInput};
use super::{NodeConfig, conditions, resources};
use crate::cri::{RuntimeCondition, RuntimeIdentity};
use crate::images::NodeImage;
use crate::model::EventType;

/// The names that are reported of an image, at most; upstream's limit.
const MAX_NAMES: usize = 5;
/// `containerRuntimeVersion` before the runtime has reported its version; upstream's.
const UNKNOWN_RUNTIME: &str = "containerd://Unknown";
/// The annotation by which an external cloud provider learns `--node-ip`.
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// Returns the Node object with its present status, and the events that the change causes.
pub fn build(input: StatusInput<'_>, present: &Node) -> (Node, Vec<StatusEvent>) {
    let mut node = present.clone();
    let mut events = Vec::new();
    labels(&mut node, input.info);
    provided_ip(&mut node, input.config);
    let status = node.status.get_or_insert_default();
    if let Ok(addresses) = input.addresses {
        status.addresses = Some(addresses.clone());
    }

    machine(status, input, &mut events);
    endpoints(status, input.config);
    status.images = Some(images(input.config, &input.facts.images));
    runtime(status, &input.facts.runtime);
    let declared = &input.config.declared_features;
    status.declared_features = (!declared.is_empty()).then(|| declared.clone());
    conditions::apply(status, input, &mut events);
    if let Some(volumes) = &input.facts.volumes_in_use {
        status.volumes_in_use = (!volumes.is_empty()).then(|| volumes.clone());
    }

    (node, events)
}

/// Returns true if the two differ in more than heartbeats.
pub fn differs(old: &Node, new: &Node) -> bool {
    without_heartbeats(old) != without_heartbeats(new)
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
}

/// Returns true if the two differ in conditions, addresses, the runtime or resources, which are
/// reported at once. A change of images can wait.
pub fn differs_urgently(old: &Node, new: &Node) -> bool {
    let urgent = |node: &Node| {
        let mut status = without_heartbeats(node);
        status.images = None;
        status
    };
    urgent(old) != urgent(new)
}

/// Returns the status without the times of heartbeats.
fn without_heartbeats(node: &Node) -> NodeStatus {
    let mut status = node.status.clone().unwrap_or_default();
    if let Some(conditions) = &mut status.conditions {
        for condition in conditions.iter_mut() {
            condition.last_heartbeat_time = None;
        }
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }

    // The API omits empty lists.
    status.images = status.images.filter(|images| !images.is_empty());
    status.runtime_handlers = status.runtime_handlers.filter(|handlers| !handlers.is_empty());
    status
}

fn labels(node: &mut Node, info: &MachineInfo) {
    let labels = node.metadata.labels.get_or_insert_default();
    for (name, value) in [("kubernetes.io/os", "linux"), ("kubernetes.io/arch", info.architecture)]
    {
        if labels.get(name).is_none_or(|present| present != value) {
            labels.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn provided_ip(node: &mut Node, config: &NodeConfig) {
    let specified: Vec<String> = config
        .node_ips
        .iter()
        .filter(|address| !address.is_unspecified())
        .map(ToString::to_string)
        .collect();
    if config.external_cloud_provider && !specified.is_empty() {
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVIDED_IP.to_owned(), specified.join(","));
    } else if let Some(annotations) = &mut node.metadata.annotations {
        annotations.remove(PROVIDED_IP);
    }
}

/// Sets capacity, allocatable and the machine's identity; a changed boot id causes an event.
fn machine(status: &mut NodeStatus, input: StatusInput<'_>, events: &mut Vec<StatusEvent>) {
    let StatusInput { config, info, facts, .. } = input;
    let capacity = resources::capacity(config, info, &facts.devices);
    let allocatable = resources::allocatable(config, &capacity, &facts.devices);
    let before = status.capacity.take().unwrap_or_default();
    let before_allocatable = status.allocatable.take().unwrap_or_default();

    // Resources that others advertise on the object (extended resources set by hand) stay. Page
    // sizes that the kernel no longer has go.
    let foreign = |name: &String| name.contains('/') && !capacity.contains_key(name);
    let kept = before.into_iter().filter(|(name, _)| foreign(name));
    let kept_allocatable = before_allocatable.into_iter().filter(|(name, _)| foreign(name));
    status.capacity = Some(kept.chain(capacity.clone()).collect());
    status.allocatable = Some(kept_allocatable.chain(allocatable).collect());

    let known_boot =
        status.node_info.as_ref().map(|info| info.boot_id.as_str()).unwrap_or_default();
    if !known_boot.is_empty() && known_boot != info.boot_id {
        let message =
            format!("Node {} has been rebooted, boot id: {}", config.node_name, info.boot_id);
        events.push(StatusEvent { event_type: EventType::Warning, reason: "Rebooted", message });
    }

    status.node_info = Some(NodeSystemInfo {
        architecture: info.architecture.to_owned(),
        boot_id: info.boot_id.clone(),
        container_runtime_version: facts
            .runtime
            .identity
            .as_ref()
            .map_or_else(|| UNKNOWN_RUNTIME.to_owned(), RuntimeIdentity::node_info),
        kernel_version: info.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: config.kubelet_version.clone(),
        machine_id: info.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: info.os_image.clone(),
        swap: (info.swap > 0).then(|| NodeSwapStatus { capacity: i64::try_from(info.swap).ok() }),
        system_uuid: info.system_uuid.clone(),
    });
}

fn endpoints(status: &mut NodeStatus, config: &NodeConfig) {
    let endpoint = DaemonEndpoint { port: i32::from(config.port) };
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(endpoint) });
}

/// Lists the images, the largest first, each with at most [`MAX_NAMES`] names.
fn images(config: &NodeConfig, known: &[NodeImage]) -> Vec<ContainerImage> {
    let mut images: Vec<&NodeImage> = known.iter().collect();
    images.sort_by_cached_key(|image| (Reverse(image.size), digests(image)));

    let limit = usize::try_from(config.max_images).unwrap_or(usize::MAX);
    images
        .into_iter()
        .take(limit)
        .map(|image| ContainerImage {
            names: Some(image.names.iter().take(MAX_NAMES).cloned().collect()),
            size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
        })
        .collect()
}

/// Returns the names with a digest, e.g. `docker.io/library/nginx@sha256:…`.
fn digests(image: &NodeImage) -> Vec<String> {
    image.names.iter().filter(|name| name.contains('@')).cloned().collect()
}

/// Sets the runtime's handlers and features.
fn runtime(status: &mut NodeStatus, runtime: &RuntimeCondition) {
    // The handlers are sorted by name already.
    let handlers = runtime.handlers.iter().map(|handler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    });
    status.runtime_handlers = Some(handlers.collect());

    if let Some(features) = &runtime.features {
        let known = features.supplemental_groups_policy;
        status.features = Some(NodeFeatures { supplemental_groups_policy: Some(known) });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition};

    use super::{StatusInput, build, differs, differs_urgently};
    use crate::cri::{RuntimeCondition, RuntimeIdentity};
    use crate::images::NodeImage;
    use crate::model::{Mono, Now, Pressure, Wall};
    use crate::node::NodeConfig;
    use crate::node::info::MachineInfo;
    use crate::node::sources::{Facts, Shutdown};
    use crate::pleg::Unhealthy;

    pub(in crate::node) fn config() -> NodeConfig {
        NodeConfig {
            node_name: "n".to_owned(),
            hostname: "n".to_owned(),
            node_ips: Vec::new(),
            register: true,
            labels: [("pool".to_owned(), "a".to_owned())].into(),
            taints: Vec::new(),
            external_cloud_provider: false,
            provider_id: String::new(),
            get_on_exists_only: false,
            resets_extended_resources: false,
            controller_attach_detach: true,
            max_pods: 110,
            pods_per_core: 0,
            kube_reserved: [].into(),
            system_reserved: [].into(),
            eviction_hard: [].into(),
            local_storage: true,
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            max_images: 50,
            port: 10250,
            kubelet_version: "v1.36.3".to_owned(),
            declared_features: vec!["RestartAllContainersOnContainerExits".to_owned()],
            root_dir: "/var/lib/kubelet".into(),
        }
    }

    pub(in crate::node) fn info() -> MachineInfo {
        MachineInfo {
            boot_id: "b1".to_owned(),
            cores: 2,
            memory: 8 << 30,
            storage: Some(100 << 30),
            architecture: "amd64",
            ..MachineInfo::default()
        }
    }

    /// A runtime that has said at `Mono::default()` that it is ready.
    pub(in crate::node) fn ready_runtime() -> RuntimeCondition {
        RuntimeCondition {
            network: Ok(()),
            last_ready: Some(Mono::default()),
            identity: Some(RuntimeIdentity {
                name: "containerd".to_owned(),
                version: "2.3.7".to_owned(),
                api_version: "v1".to_owned(),
            }),
            ..RuntimeCondition::default()
        }
    }

    fn ready() -> Facts {
        Facts {
            runtime: ready_runtime(),
            pleg: Ok(()),
            images: Arc::default(),
            devices: [].into(),
            pressure: Pressure::default(),
            storage: None,
            shutdown: None,
            volumes_in_use: None,
        }
    }

    fn at(seconds: i64) -> Wall {
        Wall::from_second(seconds).expect("in range")
    }

    fn step(present: &Node, facts: &Facts, now: i64) -> (Node, Vec<String>) {
        let config = config();
        let info = info();
        let addresses = Ok(vec![NodeAddress {
            type_: "InternalIP".to_owned(),
            address: "10.0.0.5".to_owned(),
        }]);
        let input = StatusInput {
            config: &config,
            info: &info,
            addresses: &addresses,
            facts,
            now: Now {
                mono: Mono(Duration::from_secs(u64::try_from(now).expect("not negative"))),
                wall: at(now),
            },
        };
        let (node, events) = build(input, present);

        (node, events.into_iter().map(|event| event.message).collect())
    }

    fn conditions(node: &Node) -> &[NodeCondition] {
        node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
    }

    #[test]
    fn a_new_node_gets_four_conditions_with_ready_last() {
        let (node, events) = step(&Node::default(), &ready(), 5);
        let texts: Vec<_> = conditions(&node)
            .iter()
            .map(|c| {
                format!(
                    "{}={} {}: {}",
                    c.type_,
                    c.status,
                    c.reason.as_deref().unwrap_or_default(),
                    c.message.as_deref().unwrap_or_default()
                )
            })
            .collect();
        assert_eq!(
            texts,
            [
                "MemoryPressure=False KubeletHasSufficientMemory: kubelet has sufficient memory available",
                "DiskPressure=False KubeletHasNoDiskPressure: kubelet has no disk pressure",
                "PIDPressure=False KubeletHasSufficientPID: kubelet has sufficient PID available",
                "Ready=True KubeletReady: kubelet is posting ready status",
            ]
        );
        assert_eq!(
            events,
            [
                "Node n status is now: NodeHasSufficientMemory",
                "Node n status is now: NodeHasNoDiskPressure",
                "Node n status is now: NodeHasSufficientPID",
            ]
        );
    }

    #[test]
    fn heartbeats_alone_are_no_change_and_transitions_keep_their_time() {
        let (first, _) = step(&Node::default(), &ready(), 5);
        let (second, events) = step(&first, &ready(), 15);
        assert!(!differs(&first, &second) && events.is_empty());
        assert_eq!(conditions(&second)[3].last_heartbeat_time.as_ref().map(|t| t.0), Some(at(15)));
        assert_eq!(conditions(&second)[3].last_transition_time.as_ref().map(|t| t.0), Some(at(5)));
        let (third, events) = step(&second, &ready(), 35);
        assert!(differs_urgently(&second, &third), "the runtime has been silent for too long");
        assert_eq!(conditions(&third)[3].last_transition_time.as_ref().map(|t| t.0), Some(at(35)));
        assert_eq!(events, ["Node n status is now: NodeNotReady"]);
    }

    #[track_caller]
    fn message(facts: &Facts, now: i64, expected: &str) {
        let (node, _) = step(&Node::default(), facts, now);
        assert_eq!(conditions(&node)[3].message.as_deref(), Some(expected));
    }

    #[test]
    fn says_why_it_is_not_ready() {
        let network = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
            message:Network plugin returns error: cni plugin not initialized";
        let mut facts = ready();
        facts.runtime.network = Err(network.to_owned());
        message(&facts, 5, network);

        let mut facts = ready();
        facts.pleg = Err(Unhealthy::NeverRelisted);
        facts.shutdown = Some(Shutdown { since: Mono::default() });
        message(
            &facts,
            30,
            "[container runtime is down, PLEG is not healthy: pleg has yet to be successful, node is shutting down]",
        );

        // Upstream's order: what the runtime says of itself comes after PLEG.
        facts.runtime.runtime = Err("container runtime not ready: y".to_owned());
        facts.storage = Some("CSINode is not yet initialized".to_owned());
        message(
            &facts,
            30,
            "[container runtime is down, PLEG is not healthy: pleg has yet to be successful, container runtime not ready: y, \
             CSINode is not yet initialized, node is shutting down]",
        );

        facts = ready();
        facts.runtime = RuntimeCondition { network: Ok(()), ..RuntimeCondition::default() };
        message(&facts, 5, "container runtime status check may not have completed yet");
    }

    #[test]
    fn pressure_is_told() {
        let pressure = Pressure { disk: true, ..Pressure::default() };
        let (node, events) = step(&Node::default(), &Facts { pressure, ..ready() }, 5);
        assert_eq!(conditions(&node)[1].status, "True");
        assert_eq!(events[1], "Node n status is now: NodeHasDiskPressure");
    }

    #[test]
    fn images_can_wait_but_are_told() {
        let (first, _) = step(&Node::default(), &ready(), 5);
        let image = |name: &str, size| NodeImage { names: vec![name.to_owned()], size };
        let facts = Facts { images: Arc::new(vec![image("small", 1), image("big", 9)]), ..ready() };
        let (second, _) = step(&first, &facts, 15);
        assert!(differs(&first, &second) && !differs_urgently(&first, &second));
        let images = second.status.and_then(|status| status.images).expect("images");
        assert_eq!(images[0].names.as_deref(), Some(&["big".to_owned()][..]));
    }

    #[test]
    fn what_others_write_stays() {
        let present: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n", "labels": {"mine": "x"}},
            "status": {
                "capacity": {"example.com/x": "3", "hugepages-16Mi": "0"},
                "allocatable": {"example.com/x": "3", "hugepages-16Mi": "0"},
                "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
                "nodeInfo": {"bootID": "b0"}
            }
        }))
        .expect("a node");
        let (node, events) = step(&present, &ready(), 5);
        assert_eq!(conditions(&node)[0].type_, "NetworkUnavailable");
        let capacity =
            node.status.as_ref().and_then(|status| status.capacity.as_ref()).expect("capacity");
        assert!(capacity.contains_key("example.com/x") && !capacity.contains_key("hugepages-16Mi"));
        assert_eq!(events[0], "Node n has been rebooted, boot id: b1");
    }
}
