//! What the API server would have refused: a static pod comes to the kubelet unchecked.
//!
//! Pure. The checks of core/v1 that protect a kubelet from a manifest which cannot work, in the
//! API's words: field path, kind of problem, value. Not every check of the API server is here: what
//! the runtime refuses anyway, it refuses.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, LifecycleHandler, PodSpec, Probe, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::Pod;
use crate::model::quantity::Amount;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// Collects problems under field paths.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn required(&mut self, path: &str) {
        self.0.push(format!("{path}: Required value"));
    }

    fn invalid(&mut self, path: &str, value: impl std::fmt::Debug, why: &str) {
        self.0.push(format!("{path}: Invalid value: {value:?}: {why}"));
    }

    fn duplicate(&mut self, path: &str, value: &str) {
        self.0.push(format!("{path}: Duplicate value: {value:?}"));
    }

    fn one_of(&mut self, path: &str, value: Option<&str>, supported: &[&str]) {
        let Some(value) = value else { return };
        if !supported.contains(&value) {
            let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
            self.0.push(format!(
                "{path}: Unsupported value: {value:?}: supported values: {}",
                list.join(", ")
            ));
        }
    }

    fn not_negative(&mut self, path: &str, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }
}

/// Every problem of the pod; none: it may run.
pub fn pod(pod: &Pod) -> Vec<String> {
    let mut problems = Problems::default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if !is_subdomain(name) {
        problems.invalid("metadata.name", name, SUBDOMAIN);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if !is_label(namespace) {
        problems.invalid("metadata.namespace", namespace, LABEL);
    }
    match &pod.spec {
        None => problems.required("spec"),
        Some(spec) => self::spec(&mut problems, spec),
    }
    problems.0
}

fn spec(problems: &mut Problems, spec: &PodSpec) {
    let restart = spec.restart_policy.as_deref();
    problems.one_of("spec.restartPolicy", restart, &["Always", "Never", "OnFailure"]);
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    problems.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &dns);
    problems
        .not_negative("spec.terminationGracePeriodSeconds", spec.termination_grace_period_seconds);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|seconds| *seconds < 1) {
        problems.invalid(
            "spec.activeDeadlineSeconds",
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    if spec.dns_policy.as_deref() == Some("None")
        && spec
            .dns_config
            .as_ref()
            .is_none_or(|config| config.nameservers.as_ref().is_none_or(Vec::is_empty))
    {
        problems.required("spec.dnsConfig.nameservers");
    }
    if let Some(hostname) =
        spec.hostname.as_deref().filter(|hostname| !hostname.is_empty() && !is_label(hostname))
    {
        problems.invalid("spec.hostname", hostname, LABEL);
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        problems.0.push("spec.ephemeralContainers: Forbidden: cannot be set on create".to_owned());
    }
    let volumes = volumes(problems, spec.volumes.as_deref().unwrap_or_default());
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    if spec.containers.is_empty() {
        problems.required("spec.containers");
    }
    let host_network = spec.host_network == Some(true);
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{index}]");
        self::container(problems, &path, container, &volumes, &mut names);
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if !sidecar {
            for (field, present) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if present {
                    problems.0.push(format!(
                        "{path}.{field}: Forbidden: may not be set for init containers without restartPolicy=Always"
                    ));
                }
            }
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        self::container(problems, &path, container, &volumes, &mut names);
        for (number, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{path}.ports[{number}]");
            host_port(problems, &path, port, host_network, &mut host_ports);
        }
    }
}

fn volumes(problems: &mut Problems, volumes: &[Volume]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        if volume.name.is_empty() {
            problems.required(&format!("{path}.name"));
        } else if !is_label(&volume.name) {
            problems.invalid(&format!("{path}.name"), &volume.name, LABEL);
        }
        if !names.insert(volume.name.clone()) {
            problems.duplicate(&format!("{path}.name"), &volume.name);
        }
        let sources = serde_json::to_value(volume).ok().and_then(|value| {
            value.as_object().map(|fields| fields.keys().filter(|name| *name != "name").count())
        });
        if sources.is_some_and(|count| count > 1) {
            problems.0.push(format!("{path}: Forbidden: may not specify more than 1 volume type"));
        }
        if let Some(host_path) = &volume.host_path {
            if host_path.path.is_empty() {
                problems.required(&format!("{path}.hostPath.path"));
            }
            if host_path.path.split('/').any(|part| part == "..") {
                problems.invalid(
                    &format!("{path}.hostPath.path"),
                    &host_path.path,
                    "must not contain '..'",
                );
            }
            let kinds = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            problems.one_of(&format!("{path}.hostPath.type"), host_path.type_.as_deref(), &kinds);
        }
    }
    names
}

fn container(
    problems: &mut Problems,
    path: &str,
    container: &Container,
    volumes: &BTreeSet<String>,
    names: &mut BTreeSet<String>,
) {
    if container.name.is_empty() {
        problems.required(&format!("{path}.name"));
    } else if !is_label(&container.name) {
        problems.invalid(&format!("{path}.name"), &container.name, LABEL);
    }
    if !names.insert(container.name.clone()) {
        problems.duplicate(&format!("{path}.name"), &container.name);
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        problems.required(&format!("{path}.image"));
    } else if image.trim() != image {
        problems.invalid(
            &format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    problems.one_of(
        &format!("{path}.imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &policies,
    );
    let messages = ["FallbackToLogsOnError", "File"];
    let message_policy = container.termination_message_policy.as_deref();
    problems.one_of(&format!("{path}.terminationMessagePolicy"), message_policy, &messages);
    ports(problems, path, container.ports.as_deref().unwrap_or_default());
    env(problems, path, container);
    mounts(problems, path, container, volumes);
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            self::probe(problems, &format!("{path}.{field}"), probe, field != "readinessProbe");
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        for (field, handler) in
            [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)]
        {
            if let Some(handler) = handler {
                self::handler(problems, &format!("{path}.lifecycle.{field}"), handler);
            }
        }
    }
    if let Some(resources) = &container.resources {
        let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
        for (list, quantities) in lists {
            for (name, quantity) in quantities.iter().flatten() {
                self::quantity(problems, &format!("{path}.resources.{list}[{name}]"), quantity);
            }
        }
        for (name, request) in resources.requests.iter().flatten() {
            let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
            if let (Ok(request_amount), Some(Ok(limit_amount))) =
                (Amount::parse(&request.0), limit.map(|limit| Amount::parse(&limit.0)))
                && request_amount > limit_amount
            {
                let why = format!("must be less than or equal to {name} limit of {limit_amount}");
                problems.invalid(&format!("{path}.resources.requests"), &request.0, &why);
            }
        }
    }
}

fn ports(problems: &mut Problems, path: &str, ports: &[ContainerPort]) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        number(problems, &format!("{path}.containerPort"), port.container_port);
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            number(problems, &format!("{path}.hostPort"), host_port);
        }
        problems.one_of(
            &format!("{path}.protocol"),
            port.protocol.as_deref(),
            &["SCTP", "TCP", "UDP"],
        );
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
            && !names.insert(name)
        {
            problems.duplicate(&format!("{path}.name"), name);
        }
    }
}

fn host_port(
    problems: &mut Problems,
    path: &str,
    port: &ContainerPort,
    host_network: bool,
    seen: &mut BTreeSet<(i32, String, String)>,
) {
    let Some(host_port) = port.host_port.filter(|port| *port != 0) else { return };
    if host_network && host_port != port.container_port {
        problems.invalid(
            &format!("{path}.hostPort"),
            host_port,
            "must match `containerPort` when `hostNetwork` is true",
        );
    }
    let key = (
        host_port,
        port.protocol.clone().unwrap_or_default(),
        port.host_ip.clone().unwrap_or_default(),
    );
    let text = format!("{}/{}/{host_port}", key.1, key.2);
    if !seen.insert(key) {
        problems.duplicate(&format!("{path}.hostPort"), &text);
    }
}

fn env(problems: &mut Problems, path: &str, container: &Container) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{index}]");
        if variable.name.is_empty() {
            problems.required(&format!("{path}.name"));
        } else if variable.name.contains('=')
            || !variable.name.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            problems.invalid(&format!("{path}.name"), &variable.name, why);
        }
        if variable.value_from.is_some()
            && variable.value.as_deref().is_some_and(|value| !value.is_empty())
        {
            problems.invalid(
                &format!("{path}.valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            );
        }
    }
}

fn mounts(problems: &mut Problems, path: &str, container: &Container, volumes: &BTreeSet<String>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if mount.name.is_empty() {
            problems.required(&format!("{path}.name"));
        } else if !volumes.contains(&mount.name) {
            problems.0.push(format!("{path}.name: Not found: {:?}", mount.name));
        }
        if mount.mount_path.is_empty() {
            problems.required(&format!("{path}.mountPath"));
        }
        if !paths.insert(mount.mount_path.as_str()) {
            problems.invalid(&format!("{path}.mountPath"), &mount.mount_path, "must be unique");
        }
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        if sub_path.starts_with('/') {
            problems.invalid(&format!("{path}.subPath"), sub_path, "must be a relative path");
        }
        if sub_path.split('/').any(|part| part == "..") {
            problems.invalid(&format!("{path}.subPath"), sub_path, "must not contain '..'");
        }
        let modes = ["Bidirectional", "HostToContainer", "None"];
        problems.one_of(
            &format!("{path}.mountPropagation"),
            mount.mount_propagation.as_deref(),
            &modes,
        );
    }
}

fn probe(problems: &mut Problems, path: &str, probe: &Probe, success_must_be_one: bool) {
    let handlers = [
        probe.exec.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
        probe.grpc.is_some(),
    ];
    count(problems, path, &handlers);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        problems.not_negative(&format!("{path}.{field}"), value.map(i64::from));
    }
    if success_must_be_one && probe.success_threshold.is_some_and(|threshold| threshold != 1) {
        problems.invalid(
            &format!("{path}.successThreshold"),
            probe.success_threshold.unwrap_or_default(),
            "must be 1",
        );
    }
    if let Some(exec) = &probe.exec
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        problems.required(&format!("{path}.exec.command"));
    }
    if let Some(http) = &probe.http_get {
        int_or_name(problems, &format!("{path}.httpGet.port"), &http.port);
        problems.one_of(
            &format!("{path}.httpGet.scheme"),
            http.scheme.as_deref(),
            &["HTTP", "HTTPS"],
        );
    }
    if let Some(tcp) = &probe.tcp_socket {
        int_or_name(problems, &format!("{path}.tcpSocket.port"), &tcp.port);
    }
    if let Some(grpc) = &probe.grpc {
        number(problems, &format!("{path}.grpc.port"), grpc.port);
    }
}

fn handler(problems: &mut Problems, path: &str, handler: &LifecycleHandler) {
    let handlers = [
        handler.exec.is_some(),
        handler.http_get.is_some(),
        handler.tcp_socket.is_some(),
        handler.sleep.is_some(),
    ];
    count(problems, path, &handlers);
    if let Some(exec) = &handler.exec
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        problems.required(&format!("{path}.exec.command"));
    }
    if let Some(http) = &handler.http_get {
        int_or_name(problems, &format!("{path}.httpGet.port"), &http.port);
    }
}

fn count(problems: &mut Problems, path: &str, handlers: &[bool]) {
    match handlers.iter().filter(|present| **present).count() {
        0 => problems.0.push(format!("{path}: Required value: must specify a handler type")),
        1 => {}
        _ => {
            problems.0.push(format!("{path}: Forbidden: may not specify more than 1 handler type"));
        }
    }
}

fn int_or_name(problems: &mut Problems, path: &str, port: &IntOrString) {
    match port {
        IntOrString::Int(port) => number(problems, path, *port),
        IntOrString::String(name) if name.is_empty() => problems.required(path),
        IntOrString::String(name) => {
            for problem in port_name_problems(name) {
                problems.invalid(path, name, problem);
            }
        }
    }
}

/// Why a text is not the name of a port; upstream's sentences.
fn port_name_problems(name: &str) -> Vec<&'static str> {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    [
        (name.len() > 15, "must be no more than 15 characters"),
        (
            !name.bytes().all(is_allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            !name.bytes().any(|byte| byte.is_ascii_lowercase()),
            "must contain at least one letter (a-z)",
        ),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen"),
    ]
    .into_iter()
    .filter_map(|(wrong, problem)| wrong.then_some(problem))
    .collect()
}

fn number(problems: &mut Problems, path: &str, port: i32) {
    if !(1..=65535).contains(&port) {
        problems.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}

fn quantity(problems: &mut Problems, path: &str, quantity: &Quantity) {
    match Amount::parse(&quantity.0) {
        Err(error) => problems.invalid(path, &quantity.0, error.problem),
        Ok(amount) if amount < Amount::ZERO => {
            problems.invalid(path, &quantity.0, "must be greater than or equal to 0");
        }
        Ok(_) => {}
    }
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::pod;

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn check(spec: Value, expected: &[&str]) {
        let value = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": spec});
        let mut problems = pod(&serde_json::from_value(value).expect("a pod"));
        for problem in &mut problems {
            problem.truncate(problem.find(": a lowercase").unwrap_or(problem.len()));
        }
        assert_eq!(problems, expected);
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn container(fields: Value, expected: &[&str]) {
        let mut container = json!({"name": "c", "image": "i"});
        for (name, value) in fields.as_object().expect("an object") {
            container[name] = value.clone();
        }
        check(json!({"containers": [container]}), expected);
    }

    #[test]
    fn of_the_pod() {
        check(json!({"containers": [{"name": "c", "image": "i"}]}), &[]);
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        let twice = json!([{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]);
        check(json!({"containers": twice}), &["spec.containers[1].name: Duplicate value: \"c\""]);
        check(
            json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Sometimes"}),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        );
        check(
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "V"}]}),
            &["spec.volumes[0].name: Invalid value: \"V\""],
        );
    }

    #[test]
    fn of_containers() {
        container(json!({"image": ""}), &["spec.containers[0].image: Required value"]);
        container(json!({"name": "C_1"}), &["spec.containers[0].name: Invalid value: \"C_1\""]);
        container(
            json!({"volumeMounts": [{"name": "no", "mountPath": "/x"}]}),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"no\""],
        );
        container(
            json!({"ports": [{"containerPort": 0}]}),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        );
        container(
            json!({"livenessProbe": {}}),
            &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        );
        container(
            json!({"resources": {"limits": {"cpu": "x"}}}),
            &["spec.containers[0].resources.limits[cpu]: Invalid value: \"x\": it has no digits"],
        );
        container(
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        );
    }
}
