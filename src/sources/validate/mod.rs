//! Checks a static pod as the API server would have checked it: it comes to the kubelet unchecked.
//!
//! Pure. Field paths, their order and the texts are those of upstream's validation, which
//! `testdata/problems.txt` holds as upstream's own code has said them (`tests/static-uids` writes
//! it). Left out are:
//!
//! - the inside of `resourceClaims`: no static pod can have any;
//! - `managedFields`, which are dropped, and `schedulingGroup`, whose gate is off;
//! - the words about tolerations in an annotation that are no JSON.

mod claims;
mod containers;
mod env;
mod files;
mod metadata;
mod mounts;
mod names;
mod probes;
mod problems;
mod projected;
mod remote;
mod resources;
mod scheduling;
mod security;
mod visit;
mod volumes;
mod windows;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use self::containers::Surroundings;
use self::problems::Problems;
use crate::model::Pod;

/// The most name servers that resolvers use.
const MOST_NAMESERVERS: usize = 3;
/// The most search paths of a pod.
const MOST_SEARCHES: usize = 32;
/// The longest list of search paths, with a space between two of them.
const LONGEST_SEARCH_LIST: usize = 2048;
/// The longest name of a host that Linux takes.
const LONGEST_HOSTNAME: usize = 64;

/// Returns every problem of the pod. Without any it may run.
pub fn pod(pod: &Pod) -> Vec<String> {
    let mut problems = Problems::default();
    metadata::object(&mut problems, &pod.metadata);
    match &pod.spec {
        None => problems.required("spec"),
        Some(spec) => {
            metadata::of_pods(&mut problems, &pod.metadata, spec);
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            self::spec(&mut problems, name, spec);
        }
    }
    problems.0
}

fn spec(problems: &mut Problems, name: &str, spec: &PodSpec) {
    let host_users = spec.host_users != Some(false);
    let claims = spec.resource_claims.iter().flatten().map(|claim| claim.name.clone()).collect();
    let volumes = volumes::volumes(problems, name, spec.volumes.as_deref().unwrap_or_default());
    let around = Surroundings {
        context: probes::Context {
            grace: spec.termination_grace_period_seconds,
            os: spec.os.as_ref().map(|os| os.name.as_str()),
        },
        volumes: &volumes,
        claims,
        host_users,
        restart_policy: spec.restart_policy.as_deref().unwrap_or_default(),
    };
    containers::regular(problems, spec, &around);
    containers::init(problems, spec, &around);
    resources::pod(problems, spec);

    host_network_ports(problems, spec);
    let restart = spec.restart_policy.as_deref();
    problems.one_of("spec.restartPolicy", restart, &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    problems.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &dns);
    if let Some(selector) = &spec.node_selector {
        scheduling::labels(problems, "spec.nodeSelector", selector);
    }
    security::pod(problems, "spec.securityContext", spec);
    scheduling::affinity(problems, spec);
    dns_config(problems, spec);
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = format!("spec.readinessGates[{index}].conditionType");
        problems.name(path, &gate.condition_type, names::qualified);
    }
    scheduling::gates(problems, spec);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    scheduling::spreading(problems, constraints);
    windows::host_process(problems, spec);
    if !host_users {
        user_namespace(problems, spec);
    }
    hostname_override(problems, spec);
    plain_fields(problems, spec);
    file_key_volumes(problems, spec);
    only_for_pods(problems, spec);
}

/// Checks fields that depend on no other.
fn plain_fields(problems: &mut Problems, spec: &PodSpec) {
    let name = |problems: &mut Problems, field: &str, value: Option<&String>, form| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            problems.name(format!("spec.{field}"), value, form);
        }
    };
    let account = spec.service_account_name.as_ref();
    name(problems, "serviceAccountName", account, names::subdomain);
    // The name of the node is this kubelet's own, whatever the manifest says.
    // Upstream does not look at this one; a stop that is over before it begins has no meaning.
    let grace = spec.termination_grace_period_seconds;
    problems.not_negative("spec.terminationGracePeriodSeconds", grace);
    let deadline = spec.active_deadline_seconds;
    let longest = i64::from(i32::MAX);
    if let Some(seconds) = deadline.filter(|seconds| !(1..=longest).contains(seconds)) {
        let why = format!("must be between 1 and {longest}, inclusive");
        problems.invalid("spec.activeDeadlineSeconds", seconds, why);
    }
    name(problems, "hostname", spec.hostname.as_ref(), names::label);
    name(problems, "subdomain", spec.subdomain.as_ref(), names::label);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::tolerations(problems, "spec.tolerations", tolerations);
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("spec.hostAliases[{index}]");
        problems.name(format!("{path}.ip"), &alias.ip, names::address);
        for (index, hostname) in alias.hostnames.iter().flatten().enumerate() {
            problems.name(format!("{path}.hostnames[{index}]"), hostname, names::subdomain);
        }
    }
    name(problems, "priorityClassName", spec.priority_class_name.as_ref(), names::subdomain);
    if let Some(class) = &spec.runtime_class_name {
        problems.name("spec.runtimeClassName", class, names::subdomain);
    }
    let policies = ["PreemptLowerPriority", "Never"];
    problems.one_of("spec.preemptionPolicy", spec.preemption_policy.as_deref(), &policies);
    if let Some(overhead) = &spec.overhead {
        resources::overhead(problems, overhead);
    }
    windows::os(problems, spec);
}

/// On the host's network a container has the ports of the host.
fn host_network_ports(problems: &mut Problems, spec: &PodSpec) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        for (number, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.filter(|host_port| *host_port != 0);
            if let Some(host_port) = host_port.filter(|found| *found != port.container_port) {
                let path = format!("spec.containers[{index}].ports[{number}].hostPort");
                let why = "must match `containerPort` when `hostNetwork` is true";
                problems.invalid(path, host_port, why);
            }
        }
    }
}

fn dns_config(problems: &mut Problems, spec: &PodSpec) {
    let path = "spec.dnsConfig";
    let needs_server = spec.dns_policy.as_deref() == Some("None");
    let Some(PodDNSConfig { nameservers, searches, options }) = &spec.dns_config else {
        if needs_server {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            problems.required_for(path, why);
        }
        return;
    };
    let servers = nameservers.as_deref().unwrap_or_default();
    if needs_server && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return problems.required_for(format!("{path}.nameservers"), why);
    }

    let servers_path = format!("{path}.nameservers");
    if servers.len() > MOST_NAMESERVERS {
        let why = format!("must not have more than {MOST_NAMESERVERS} nameservers");
        problems.invalid_json(&servers_path, &servers, why);
    }
    for (index, server) in servers.iter().enumerate() {
        problems.name(format!("{servers_path}[{index}]"), server, names::address);
    }
    let searches = searches.as_deref().unwrap_or_default();
    let searches_path = format!("{path}.searches");
    if searches.len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        problems.invalid_json(&searches_path, &searches, why);
    }
    if searches.join(" ").len() > LONGEST_SEARCH_LIST {
        let why = format!(
            "must not have more than {LONGEST_SEARCH_LIST} characters (including spaces) in the \
             search list"
        );
        problems.invalid_json(&searches_path, &searches, why);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        problems.name(format!("{searches_path}[{index}]"), search, names::search_path);
    }
    for (index, option) in options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            problems.required_for(format!("{path}.options[{index}]"), "must not be empty");
        }
    }
}

/// A pod with users of its own cannot share other namespaces of the host.
fn user_namespace(problems: &mut Problems, spec: &PodSpec) {
    const WHY: &str = "when `hostUsers` is false";
    // Two of the paths have upstream's names of the fields in Go.
    for (field, shared) in
        [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)]
    {
        if shared == Some(true) {
            problems.forbidden(format!("spec.{field}"), WHY);
        }
    }
    for (path, container) in visit::containers(spec) {
        if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            problems.forbidden(format!("{path}.volumeDevices"), WHY);
        }
    }
}

fn hostname_override(problems: &mut Problems, spec: &PodSpec) {
    let Some(name) = &spec.hostname_override else { return };
    let path = "spec.hostnameOverride";
    if spec.set_hostname_as_fqdn == Some(true) {
        problems.forbidden(path, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.host_network == Some(true) {
        problems.forbidden(path, "may not be specified when hostNetwork is true");
    }
    if name.len() > LONGEST_HOSTNAME {
        problems.too_long(path, LONGEST_HOSTNAME);
    }
    problems.name(path, name, names::subdomain);
}

/// A variable is read from a file of an empty directory only.
fn file_key_volumes(problems: &mut Problems, spec: &PodSpec) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for (path, container) in visit::containers(spec) {
        for (index, variable) in container.env.iter().flatten().enumerate() {
            let source = variable.value_from.as_ref();
            let Some(key) = source.and_then(|source| source.file_key_ref.as_ref()) else {
                continue;
            };
            let path = format!("{path}.env[{index}].valueFrom.fileKeyRef.volumeName");
            match volumes.iter().rfind(|volume| volume.name == key.volume_name) {
                None => problems.not_found(path, &key.volume_name),
                Some(volume) if volume.empty_dir.is_none() => {
                    let why = "referenced volume must be of type emptyDir";
                    problems.invalid(path, &key.volume_name, why);
                }
                Some(_) => {}
            }
        }
    }
}

/// Checks what the API checks in pods only, and not in templates of pods.
fn only_for_pods(problems: &mut Problems, spec: &PodSpec) {
    let has_account = spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty());
    let volumes = spec.volumes.iter().flatten().enumerate().filter(|_| !has_account);
    for (index, volume) in volumes {
        let sources = volume.projected.iter().flat_map(|found| &found.sources).flatten();
        for (number, source) in sources.enumerate() {
            if source.service_account_token.is_some() {
                let path = format!("spec.volumes[{index}].projected.sources[{number}]");
                let why = "must not be specified when serviceAccountName is not set";
                problems.forbidden(format!("{path}.serviceAccountToken"), why);
            }
        }
    }

    let (init, regular): (Vec<_>, Vec<_>) =
        visit::containers(spec).partition(|(path, _)| path.starts_with("spec.init"));
    for (path, container) in regular.into_iter().chain(init) {
        let image = container.image.as_deref().unwrap_or_default();
        if image.trim() != image {
            let why = "must not have leading or trailing whitespace";
            problems.invalid(format!("{path}.image"), image, why);
        }
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        problems.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::sources::static_pod::{ManifestError, Origin, References, read};

    /// The sections of a file: what stands below each line `=== NAME`.
    fn sections(text: &str) -> BTreeMap<&str, &str> {
        text.split("=== ").skip(1).filter_map(|section| section.split_once('\n')).collect()
    }

    #[test]
    fn finds_what_upstream_finds() {
        let cases = sections(include_str!("testdata/cases.txt"));
        let expected = sections(include_str!("testdata/problems.txt"));
        assert_eq!(cases.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());

        let mut differences = String::new();
        for (name, manifest) in cases {
            let origin = Origin::File("/etc/kubernetes/manifests/web.yaml");
            let mut found = match read(manifest.as_bytes(), origin, "n1", References::Taken) {
                Ok(_) => Vec::new(),
                Err(ManifestError::Invalid(problems)) => problems,
                Err(error) => panic!("{name}: {error}"),
            };
            found.sort();
            let wanted: Vec<&str> = expected[name].lines().collect();
            if found == wanted {
                continue;
            }
            differences.extend([name, "\n"]);
            let more = found.iter().filter(|line| !wanted.contains(&line.as_str()));
            let less = wanted.iter().filter(|line| !found.iter().any(|other| other == *line));
            differences.extend(more.map(|line| format!("  here alone: {line}\n")));
            differences.extend(less.map(|line| format!("  upstream:   {line}\n")));
        }
        assert!(differences.is_empty(), "{differences}");
    }
}
