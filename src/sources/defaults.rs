//! The defaults that the API server would have applied: a static pod comes to the kubelet without
//! them.
//!
//! Pure. core/v1's defaulting: all of it but for ephemeral containers, which a static pod cannot
//! have, and for the sums of pod-level resources, which admission here computes. The UID of the pod
//! depends on every default.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, PodSpec, Probe, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::images::reference::is_latest;
use crate::model::Pod;

/// Applies them.
pub fn apply(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container);
        requests_from_limits(container.resources.as_mut());
        if host_network {
            for port in container.ports.iter_mut().flatten() {
                if port.host_port.unwrap_or_default() == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        self::ephemeral(ephemeral);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    pod_requests(spec);
    self::spec(spec);
}

fn spec(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
}

fn container(container: &mut Container) {
    pull_policy(&mut container.image_pull_policy, container.image.as_deref());
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
    }
    container.env.iter_mut().flatten().for_each(env);
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        self::probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        self::lifecycle(lifecycle);
    }
    if let Some(resources) = &mut container.resources
        && resources.limits.is_none()
        && resources.requests.is_none()
        && resources.claims.is_none()
    {
        container.resources = None;
    }
}

fn ephemeral(container: &mut EphemeralContainer) {
    pull_policy(&mut container.image_pull_policy, container.image.as_deref());
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    container.env.iter_mut().flatten().for_each(env);
}

fn env(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        field_ref(field);
    }
    if let Some(file) = &mut source.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    fill(&mut field.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        self::http(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    let handlers: [Option<&mut LifecycleHandler>; 2] =
        [lifecycle.post_start.as_mut(), lifecycle.pre_stop.as_mut()];
    for handler in handlers.into_iter().flatten() {
        if let Some(http) = &mut handler.http_get {
            self::http(http);
        }
    }
}

fn http(action: &mut HTTPGetAction) {
    fill(&mut action.path, "/");
    fill(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;

    let has_source = serde_json::to_value(&*volume)
        .ok()
        .and_then(|value| value.as_object().map(|fields| fields.keys().any(|name| name != "name")))
        .unwrap_or(true);

    if !has_source {
        volume.empty_dir.get_or_insert_default();
    }

    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.image {
        pull_policy(&mut source.pull_policy, source.reference.as_deref());
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(MODE);
        source
            .items
            .iter_mut()
            .flatten()
            .filter_map(|item| item.field_ref.as_mut())
            .for_each(field_ref);
    }

    remote_volume(volume);
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(MODE);
        for projection in source.sources.iter_mut().flatten() {
            if let Some(downward) = &mut projection.downward_api {
                downward
                    .items
                    .iter_mut()
                    .flatten()
                    .filter_map(|item| item.field_ref.as_mut())
                    .for_each(field_ref);
            }
            if let Some(token) = &mut projection.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
}

/// Defaults of the kinds that this kubelet does not mount.
fn remote_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        fill(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        fill(&mut source.pool, "rbd");
        fill(&mut source.user, "admin");
        fill(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        source.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        source.fs_type.get_or_insert_with(|| "ext4".to_owned());
        source.read_only.get_or_insert(false);
        source.kind.get_or_insert_with(|| "Shared".to_owned());
    }
    if let Some(source) = &mut volume.scale_io {
        fill(&mut source.storage_mode, "ThinProvisioned");
        fill(&mut source.fs_type, "xfs");
    }
    if let Some(template) =
        volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut())
    {
        template.spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    }
}

/// A limit without a request is the request.
fn requests_from_limits(resources: Option<&mut ResourceRequirements>) {
    let Some(resources) = resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// A pod-level limit without a pod-level request is the request, unless containers ask for that
/// resource themselves: then the API server sums those up, which admission here does anyway.
fn pod_requests(spec: &mut PodSpec) {
    let asks = |name: &str| {
        let asks_in = |resources: &Option<ResourceRequirements>| {
            let requests: Option<&BTreeMap<String, Quantity>> =
                resources.as_ref().and_then(|r| r.requests.as_ref());
            requests.is_some_and(|requests| requests.contains_key(name))
        };
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .any(|c| asks_in(&c.resources))
    };
    let limits = spec.resources.as_ref().and_then(|resources| resources.limits.clone());
    let missing: Vec<_> = limits
        .into_iter()
        .flatten()
        .filter(|(name, _)| match name.as_str() {
            "cpu" | "memory" => !asks(name),
            name => name.starts_with("hugepages-"),
        })
        .collect();
    if let Some(resources) = spec.resources.as_mut().filter(|_| !missing.is_empty()) {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in missing {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn pull_policy(policy: &mut Option<String>, image: Option<&str>) {
    let latest = image.is_some_and(is_latest);
    fill(policy, if latest { "Always" } else { "IfNotPresent" });
}

fn fill(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn fill_number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(default);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::apply;
    use crate::model::Pod;

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn check(spec: Value, pointer: &str, expected: Value) {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec}))
            .expect("a pod");
        apply(&mut pod);
        let value = serde_json::to_value(&pod).expect("JSON");
        assert_eq!(value.pointer(pointer).cloned().unwrap_or(Value::Null), expected, "{pointer}");
        let again = pod.clone();
        apply(&mut pod);
        assert_eq!(pod, again, "twice is once");
    }

    fn with(container: Value) -> Value {
        let mut container = container;
        container["name"] = json!("c");
        json!({"containers": [container]})
    }

    #[test]
    fn of_the_pod() {
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v"}]});
        for (pointer, expected) in [
            ("/spec/restartPolicy", json!("Always")),
            ("/spec/dnsPolicy", json!("ClusterFirst")),
            ("/spec/terminationGracePeriodSeconds", json!(30)),
            ("/spec/schedulerName", json!("default-scheduler")),
            ("/spec/enableServiceLinks", json!(true)),
            ("/spec/securityContext", json!({})),
            ("/spec/volumes/0/emptyDir", json!({})),
            ("/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/containers/0/terminationMessagePolicy", json!("File")),
        ] {
            check(spec.clone(), pointer, expected);
        }
        check(
            json!({"containers": [], "terminationGracePeriodSeconds": 0}),
            "/spec/terminationGracePeriodSeconds",
            json!(0),
        );
    }

    #[test]
    fn of_containers() {
        let probe = json!({"livenessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 5}});
        check(with(probe.clone()), "/spec/containers/0/livenessProbe/periodSeconds", json!(10));
        check(with(probe.clone()), "/spec/containers/0/livenessProbe/timeoutSeconds", json!(5));
        check(with(probe), "/spec/containers/0/livenessProbe/httpGet/path", json!("/"));
        check(
            with(json!({"ports": [{"containerPort": 1}]})),
            "/spec/containers/0/ports/0/protocol",
            json!("TCP"),
        );
        let limits = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}});
        let expected = json!({"cpu": "500m", "memory": "1Gi"});
        check(with(limits), "/spec/containers/0/resources/requests", expected);
        let env = json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
        check(with(env), "/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion", json!("v1"));
    }
}
