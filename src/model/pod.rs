//! Reads a pod: its containers by kind, its name, and whether it is static, a mirror, or critical.
//!
//! Pure functions over the API type. Specs are read through this file so that defaults are applied
//! in one place.

use k8s_openapi::api::core::v1 as api;

use super::ids::{PodKey, PodUid};
use super::phase;
use super::restart::RestartPolicy;

/// The API's pod, without managedFields (sources strip them).
pub type Pod = api::Pod;

/// The annotation with the source of a pod (`file`, `http`, `api`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The annotation with the hash of a static pod's manifest.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// The annotation with the time at which the node first saw the pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// The annotation of a mirror pod with the hash of the static pod that it mirrors.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// The priority at and above which a pod is critical (`system-cluster-critical`).
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The four kinds of containers of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerKind {
    /// Runs to completion, in order, before the main ones.
    Init,
    /// A restartable init container: started in order, kept running, stopped last.
    Sidecar,
    /// A main container.
    Main,
    /// An ephemeral (debug) container: never restarted.
    Ephemeral,
}

/// Returns the pod's UID; the empty UID for an object that has none (sources reject those).
pub fn uid(pod: &Pod) -> PodUid {
    PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Returns the pod's namespace and name.
pub fn key(pod: &Pod) -> PodKey {
    PodKey::new(
        pod.metadata.namespace.as_deref().unwrap_or("default"),
        pod.metadata.name.as_deref().unwrap_or_default(),
    )
}

/// Returns an annotation's value.
pub fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Returns true if the pod comes from a file or URL on this node, not from the API server.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(is_of_node)
}

/// Returns true if a source of pods, as [`CONFIG_SOURCE`] names it, is this node's own.
pub fn is_of_node(source: &str) -> bool {
    source != "api"
}

/// Returns true if the pod is the API's image of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// Returns true if the pod is critical: static, mirror, or of a system priority (upstream's
/// `IsCriticalPod`).
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod)
        || is_mirror(pod)
        || pod
            .spec
            .as_ref()
            .and_then(|spec| spec.priority)
            .is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

/// Returns true if an init container is a sidecar (`restartPolicy: Always`).
pub fn is_sidecar(container: &api::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Returns the init containers (sidecars included) in spec order.
pub fn init_containers(pod: &Pod) -> &[api::Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// Returns the main containers in spec order.
pub fn main_containers(pod: &Pod) -> &[api::Container] {
    pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
}

/// Returns the ephemeral containers in spec order.
pub fn ephemeral_containers(pod: &Pod) -> &[api::EphemeralContainer] {
    pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// Converts an ephemeral container to a container, with the fields that both have.
pub fn ephemeral_as_container(container: &api::EphemeralContainer) -> api::Container {
    api::Container {
        args: container.args.clone(),
        command: container.command.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        lifecycle: container.lifecycle.clone(),
        liveness_probe: container.liveness_probe.clone(),
        name: container.name.clone(),
        ports: container.ports.clone(),
        readiness_probe: container.readiness_probe.clone(),
        resize_policy: container.resize_policy.clone(),
        resources: container.resources.clone(),
        restart_policy: container.restart_policy.clone(),
        restart_policy_rules: container.restart_policy_rules.clone(),
        security_context: container.security_context.clone(),
        startup_probe: container.startup_probe.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        tty: container.tty,
        volume_devices: container.volume_devices.clone(),
        volume_mounts: container.volume_mounts.clone(),
        working_dir: container.working_dir.clone(),
    }
}

/// Finds a container of any kind by name.
pub fn find_container<'a>(
    pod: &'a Pod,
    name: &str,
) -> Option<(ContainerKind, std::borrow::Cow<'a, api::Container>)> {
    use std::borrow::Cow;
    if let Some(found) = main_containers(pod).iter().find(|container| container.name == name) {
        return Some((ContainerKind::Main, Cow::Borrowed(found)));
    }

    if let Some(found) = init_containers(pod).iter().find(|container| container.name == name) {
        let kind = if is_sidecar(found) { ContainerKind::Sidecar } else { ContainerKind::Init };
        return Some((kind, Cow::Borrowed(found)));
    }

    ephemeral_containers(pod)
        .iter()
        .find(|container| container.name == name)
        .map(|found| (ContainerKind::Ephemeral, Cow::Owned(ephemeral_as_container(found))))
}

/// Returns the field path of a container in events: `spec.containers{name}`.
pub fn field_path(kind: ContainerKind, name: &str) -> String {
    match kind {
        ContainerKind::Init | ContainerKind::Sidecar => format!("spec.initContainers{{{name}}}"),
        ContainerKind::Main => format!("spec.containers{{{name}}}"),
        ContainerKind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// Returns the pod's restart policy; `Always` when unset.
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    let text = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    text.and_then(RestartPolicy::parse).unwrap_or(RestartPolicy::Always)
}

/// Returns true if the pod uses the node's network namespace.
pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Returns the pod's own grace period in seconds (`terminationGracePeriodSeconds`, 30 when unset).
pub fn spec_grace_seconds(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30)
}

/// Returns true if the object's status has a phase that is never left.
pub fn is_terminal(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(phase::is_terminal)
}
