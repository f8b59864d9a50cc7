//! Containers: regular ones and init containers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, Volume};

use super::probes::{self, Context, Kind};
use super::problems::Problems;
use super::{env, mounts, names, resources, security};

/// The parts of the pod that containers refer to.
pub(super) struct Surroundings<'a> {
    pub(super) context: Context<'a>,
    /// The volumes that are right.
    pub(super) volumes: &'a BTreeMap<&'a str, &'a Volume>,
    /// The names of the pod's resource claims.
    pub(super) claims: BTreeSet<String>,
    /// Whether the pod has the users of the host.
    pub(super) host_users: bool,
    pub(super) restart_policy: &'a str,
}

pub(super) fn regular(problems: &mut Problems, spec: &PodSpec, around: &Surroundings<'_>) {
    if spec.containers.is_empty() {
        return problems.required("spec.containers");
    }
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        common(problems, &path, container, around);
        if !seen.insert(container.name.as_str()) {
            problems.duplicate(format!("{path}.name"), &container.name);
        }
        handlers(problems, &path, container, around.context);
        restarts(problems, &path, container);
    }

    let mut ports = BTreeSet::new();
    host_ports(problems, "spec.containers", &spec.containers, &mut ports);
}

pub(super) fn init(problems: &mut Problems, spec: &PodSpec, around: &Surroundings<'_>) {
    const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";

    let mut seen: BTreeSet<&str> =
        spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{index}]");
        common(problems, &path, container, around);
        let policy = container.restart_policy.as_deref();
        match policy {
            Some(_) => restarts(problems, &path, container),
            None if container
                .restart_policy_rules
                .as_ref()
                .is_some_and(|found| !found.is_empty()) =>
            {
                let why = "must specify restartPolicy when restart rules are used";
                problems.required_for(format!("{path}.restartPolicy"), why);
            }
            None => {}
        }
        if seen.contains(container.name.as_str()) {
            problems.duplicate(format!("{path}.name"), &container.name);
        } else if !container.name.is_empty() {
            seen.insert(&container.name);
        }
        // One init container after the other runs: each has the ports for itself. Upstream counts
        // from zero in each.
        let alone = std::slice::from_ref(container);
        host_ports(problems, "spec.initContainers", alone, &mut BTreeSet::new());

        let is_sidecar = policy == Some("Always");
        if is_sidecar {
            handlers(problems, &path, container, around.context);
            continue;
        }
        for (field, present) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if present {
                problems.forbidden(format!("{path}.{field}"), ONLY_SIDECARS);
            }
        }
        for (number, policy) in container.resize_policy.iter().flatten().enumerate() {
            if policy.restart_policy == "RestartContainer" {
                let path = format!("{path}.resizePolicy[{number}].restartPolicy");
                let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                problems.invalid(path, &policy.restart_policy, why);
            }
        }
    }
}

/// Checks what all containers have in common.
fn common(problems: &mut Problems, path: &str, container: &Container, around: &Surroundings<'_>) {
    if container.name.is_empty() {
        problems.required(format!("{path}.name"));
    } else {
        problems.name(format!("{path}.name"), &container.name, names::label);
    }
    if container.image.as_deref().unwrap_or_default().is_empty() {
        problems.required(format!("{path}.image"));
    }
    let policy = container.termination_message_policy.as_deref();
    let policies = ["File", "FallbackToLogsOnError"];
    problems.one_of(format!("{path}.terminationMessagePolicy"), policy, &policies);
    ports(problems, path, container.ports.as_deref().unwrap_or_default());
    env::env(problems, path, container);
    mounts::mounts(problems, path, container, around.volumes);
    mounts::devices(problems, path, container, around.volumes);
    let policy = container.image_pull_policy.as_deref();
    pull_policy(problems, &format!("{path}.imagePullPolicy"), policy);
    if let Some(found) = &container.resources {
        resources::container(problems, &format!("{path}.resources"), found, &around.claims);
    }
    resize_policy(problems, &format!("{path}.resizePolicy"), container, around.restart_policy);
    if let Some(context) = &container.security_context {
        let path = format!("{path}.securityContext");
        security::container(problems, &path, context, around.host_users);
    }
}

pub(super) fn pull_policy(problems: &mut Problems, path: &str, policy: Option<&str>) {
    problems.one_of(path, policy, &["Always", "IfNotPresent", "Never"]);
}

fn handlers(problems: &mut Problems, path: &str, container: &Container, context: Context<'_>) {
    if let Some(lifecycle) = &container.lifecycle {
        probes::lifecycle(problems, &format!("{path}.lifecycle"), lifecycle, context);
    }
    for (field, probe, kind) in [
        ("livenessProbe", &container.liveness_probe, Kind::Liveness),
        ("readinessProbe", &container.readiness_probe, Kind::Readiness),
        ("startupProbe", &container.startup_probe, Kind::Startup),
    ] {
        if let Some(probe) = probe {
            probes::probe(problems, &format!("{path}.{field}"), probe, kind, context);
        }
    }
}

/// Checks the restart policy of one container, and its rules.
fn restarts(problems: &mut Problems, path: &str, container: &Container) {
    const MOST_RULES: usize = 20;
    const MOST_CODES: usize = 255;

    let policy = container.restart_policy.as_deref();
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if policy.is_none() && !rules.is_empty() {
        let why = "must specify restartPolicy when restart rules are used";
        problems.required_for(format!("{path}.restartPolicy"), why);
    }
    let policies = ["Always", "Never", "OnFailure"];
    problems.one_of(format!("{path}.restartPolicy"), policy, &policies);
    if rules.len() > MOST_RULES {
        problems.too_many(format!("{path}.restartPolicyRules"), rules.len(), MOST_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}.restartPolicyRules[{index}]");
        let actions = ["Restart", "RestartAllContainers"];
        problems.one_of(format!("{path}.action"), Some(&rule.action), &actions);
        let Some(codes) = &rule.exit_codes else {
            problems.required_for(format!("{path}.exitCodes"), "must be specified");
            continue;
        };
        let operator = Some(codes.operator.as_str());
        problems.one_of(format!("{path}.exitCodes.operator"), operator, &["In", "NotIn"]);
        let count = codes.values.as_ref().map_or(0, Vec::len);
        if count > MOST_CODES {
            problems.too_many(format!("{path}.exitCodes.values"), count, MOST_CODES);
        }
    }
}

fn resize_policy(problems: &mut Problems, path: &str, container: &Container, of_pod: &str) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        let (resource, restart) = (policy.resource_name.as_str(), policy.restart_policy.as_str());
        if !seen.insert(resource) {
            problems.duplicate(format!("{path}[{index}]"), resource);
        }
        for (value, supported) in
            [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])]
        {
            if value.is_empty() {
                problems.required(path);
            } else {
                problems.one_of(path, Some(value), &supported);
            }
        }
        if of_pod == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            problems.invalid(path, restart, why);
        }
    }
}

fn ports(problems: &mut Problems, path: &str, ports: &[ContainerPort]) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            if !names::port(name).is_empty() {
                problems.name(format!("{path}.name"), name, names::port);
            } else if !seen.insert(name) {
                problems.duplicate(format!("{path}.name"), name);
            }
        }
        if port.container_port == 0 {
            problems.required(format!("{path}.containerPort"));
        } else {
            probes::number(problems, format!("{path}.containerPort"), port.container_port);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            probes::number(problems, format!("{path}.hostPort"), host_port);
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        problems.one_of(format!("{path}.protocol"), port.protocol.as_deref(), &protocols);
    }
}

/// Refuses ports of the host that two containers want.
fn host_ports(
    problems: &mut Problems,
    path: &str,
    containers: &[Container],
    seen: &mut BTreeSet<String>,
) {
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let address = port.host_ip.as_deref().unwrap_or_default();
            let text = format!("{protocol}/{address}/{host_port}");
            if !seen.insert(text.clone()) {
                problems.duplicate(format!("{path}[{index}].ports[{number}].hostPort"), &text);
            }
        }
    }
}
