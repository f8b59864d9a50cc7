//! What upstream refuses when it starts its parts, and not when it validates the file: flags, the
//! managers of cpus, memory and topology, and values that are parsed late.
//!
//! Pure, and about the configuration alone; `config::machine` checks what depends on the machine.
//! The texts and their order are upstream's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Report;
use crate::config::gates::{FeatureGates, Gate};
use crate::config::types::{GoDuration, KubeletConfiguration};
use crate::config::{Flags, Host};
use crate::model::quantity::Amount;

/// The lowest value of `max-allowable-numa-nodes`; upstream's.
const LEAST_NUMA_LIMIT: i64 = 8;

/// Everything that makes the parts refuse to start.
pub(super) fn check(
    flags: &Flags,
    config: &KubeletConfiguration,
    gates: &FeatureGates,
    host: Host,
    report: &mut Report,
) {
    if flags.exit_on_lock_contention && flags.lock_file.is_empty() {
        report.add("cannot exit on lock file contention: no lock file specified".into());
    }
    if !flags.hostname_override.is_empty() && flags.hostname_override.trim().is_empty() {
        report.add("empty hostname is invalid".into());
    }

    standalone(flags, config, report);
    qos_reserved(config, report);
    topology(config, gates, report);

    if !host.cgroup_v2 && config.memory_swap.swap_behavior == "LimitedSwap" {
        report.add(
            "swap feature is enabled and LimitedSwap but it is only supported with cgroupv2".into(),
        );
    }

    cpus(config, gates, report);
    memory(config, report);
    node_ips(flags, report);

    if !flags.root_dir.starts_with('/') {
        report.add(if flags.root_dir.is_empty() {
            "failed to create kubelet: invalid root directory \"\"".to_owned()
        } else {
            format!("cannot find mount point for {:?}", flags.root_dir)
        });
    }

    periods(config, report);
    if !matches!(flags.cloud_provider.as_str(), "" | "external") {
        report.add(format!(
            "failed to create kubelet: cloud provider {:?} was specified, but built-in cloud \
             providers are disabled. Please set --cloud-provider=external and migrate to an \
             external cloud provider",
            flags.cloud_provider
        ));
    }

    log_size(&config.container_log_max_size, report);
    change_detection(flags, config, report);
    curves(config, report);
    serving_pair(config, report);
}

/// Checks that certificate and key are both configured, or neither. Upstream would run without its
/// API; here a missing one is an error of the start.
fn serving_pair(c: &KubeletConfiguration, report: &mut Report) {
    let (certificate, key) = (
        ("tlsCertFile (--tls-cert-file)", &c.tls_cert_file),
        ("tlsPrivateKeyFile (--tls-private-key-file)", &c.tls_private_key_file),
    );
    for ((missing, empty), (given, file)) in [(certificate, key), (key, certificate)] {
        if empty.is_empty() && !file.is_empty() {
            report.add(format!("{missing} must be specified beside {given} {file:?}"));
        }
    }
}

/// Checks that no setting asks an API server about callers without a kubeconfig. Upstream stops at
/// the first.
fn standalone(flags: &Flags, config: &KubeletConfiguration, report: &mut Report) {
    match config.authorization.mode.as_str() {
        "AlwaysAllow" | "Webhook" => {}
        "" => report.add("no authorization mode specified".into()),
        mode => report.add(format!("unknown authorization mode {mode}")),
    }
    if !flags.kubeconfig.is_empty() {
        return;
    }
    if config.authentication.webhook.enabled {
        report.add("no client provided, cannot use webhook authentication".into());
    } else if config.authorization.mode == "Webhook" {
        report.add("no client provided, cannot use webhook authorization".into());
    }
}

/// Shares of the node's memory that are kept for pods of higher quality.
fn qos_reserved(c: &KubeletConfiguration, report: &mut Report) {
    const ERROR: &str = "--qos-reserved value failed to parse: ";

    for (resource, text) in &c.qos_reserved {
        if resource != "memory" {
            report.add(format!("{ERROR}cannot reserve {resource:?} resource"));
        } else if let Err(problem) = percentage(text) {
            report.add(format!(
                "{ERROR}failed to parse percentage {text:?} for {resource:?} resource: {problem}"
            ));
        }
    }
}

fn percentage(text: &str) -> Result<i64, String> {
    if !text.ends_with('%') {
        return Err(format!("percentage expected, got '{text}'"));
    }
    match text.trim_end_matches('%').parse::<i64>() {
        Err(_) => Err(format!("invalid number in percentage '{text}'")),
        Ok(share) if (0..=100).contains(&share) => Ok(share),
        Ok(_) => Err("percentage must be between 0 and 100".to_owned()),
    }
}

/// Checks how changes of ConfigMaps and Secrets are noticed, if there is an API server.
fn change_detection(flags: &Flags, c: &KubeletConfiguration, report: &mut Report) {
    let strategy = c.config_map_and_secret_change_detection_strategy.as_str();
    if !flags.kubeconfig.is_empty() && !matches!(strategy, "Watch" | "Cache" | "Get") {
        report.add(format!(
            "failed to create kubelet: unknown configmap and secret manager mode: {strategy}"
        ));
    }
}

/// The key exchanges of TLS, by the numbers that Go knows. Upstream stops at the first problem.
fn curves(c: &KubeletConfiguration, report: &mut Report) {
    const LARGEST: i32 = 65_535;
    const KNOWN: [i32; 7] = [23, 24, 25, 29, 4587, 4588, 4589];

    for (index, id) in c.tls_curve_preferences.iter().enumerate() {
        let problem = if !(1..=LARGEST).contains(id) {
            format!("curve preference {id} is out of range (must be 1-{LARGEST})")
        } else if c.tls_curve_preferences[..index].contains(id) {
            format!("duplicate curve preference {id}")
        } else if !KNOWN.contains(id) {
            format!("curve preference {id} is not supported by the current Go version")
        } else {
            continue;
        };
        report.add(format!("tlsCurvePreferences (--tls-curve-preferences): {problem}"));
        return;
    }
}

fn topology(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let options = &c.topology_manager_policy_options;
    if !gates.enabled(Gate::TOPOLOGY_MANAGER_POLICY_OPTIONS) && !options.is_empty() {
        report.add(format!(
            "topology manager policy options {} require feature gates \
             \"TopologyManagerPolicyOptions\" enabled",
            go_map(options)
        ));
        return;
    }
    if c.topology_manager_policy == "none" {
        return;
    }
    for (name, value) in options {
        match name.as_str() {
            "prefer-closest-numa-nodes" => boolean(name, value, "", report),
            "max-allowable-numa-nodes" => match value.parse::<i64>() {
                Err(_) => report.add(format!(
                    "unable to convert policy option to integer {name:?}: strconv.Atoi: parsing \
                     {value:?}: invalid syntax"
                )),
                Ok(limit) if limit < LEAST_NUMA_LIMIT => report.add(format!(
                    "the minimum value of {name:?} should not be less than {LEAST_NUMA_LIMIT}"
                )),
                Ok(_) => {}
            },
            _ => report.add(format!("unknown Topology Manager Policy option: {name:?}")),
        }
    }
}

fn cpus(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let options = &c.cpu_manager_policy_options;
    match c.cpu_manager_policy.as_str() {
        "none" if options.is_empty() => {}
        "none" => report.add(format!(
            "new none policy error: None policy: received unsupported options={}",
            go_map(options)
        )),
        "static" => {
            if reserved(c, "cpu").is_zero() && c.reserved_system_cpus.is_empty() {
                report.add(
                    "[cpumanager] unable to determine reserved CPU resources for static policy"
                        .into(),
                );
            }
            cpu_options(options, gates, report);
        }
        policy => report.add(format!("unknown policy: {policy:?}")),
    }
}

fn cpu_options(options: &BTreeMap<String, String>, gates: &FeatureGates, report: &mut Report) {
    const EXCLUSIVE: [(&str, &str); 4] = [
        ("full-pcpus-only", "distribute-cpus-across-cores"),
        ("distribute-cpus-across-numa", "distribute-cpus-across-cores"),
        ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"),
        ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"),
    ];
    const ERROR: &str = "new static policy error: ";

    for (name, value) in options {
        let (level, gate) = match name.as_str() {
            "align-by-socket" | "distribute-cpus-across-cores" => {
                ("Alpha", Some(Gate::CPU_MANAGER_POLICY_ALPHA_OPTIONS))
            }
            "distribute-cpus-across-numa" => ("Beta", Some(Gate::CPU_MANAGER_POLICY_BETA_OPTIONS)),
            "full-pcpus-only" | "strict-cpu-reservation" | "prefer-align-cpus-by-uncorecache" => {
                ("", None)
            }
            _ => {
                report.add(format!("{ERROR}unknown CPU Manager Policy option: {name:?}"));
                continue;
            }
        };
        if gate.is_some_and(|gate| !gates.enabled(gate)) {
            report.add(format!(
                "{ERROR}CPU Manager Policy {level}-level Options not enabled, but option {name:?} \
                 provided"
            ));
            continue;
        }
        boolean(name, value, ERROR, report);
    }

    let is_on = |name: &str| options.get(name).and_then(|value| go_bool(value)) == Some(true);
    for (one, other) in EXCLUSIVE.iter().filter(|(one, other)| is_on(one) && is_on(other)) {
        report.add(format!(
            "{ERROR}static policy options {one} and {other} can not be used at the same time"
        ));
    }
}

fn memory(c: &KubeletConfiguration, report: &mut Report) {
    match c.memory_manager_policy.as_str() {
        "None" => {}
        "Static" => reserved_memory(c, report),
        "BestEffort" => {
            report.add("policy \"BestEffort\" is not available for platform \"linux\"".to_owned());
        }
        policy => report.add(format!("unknown policy: {policy:?}")),
    }
}

/// Checks that the memory that is reserved per NUMA node adds up to that of the node.
fn reserved_memory(c: &KubeletConfiguration, report: &mut Report) {
    let mut totals: BTreeMap<&str, Amount> = BTreeMap::new();
    let limits = c.reserved_memory.iter().flat_map(|reservation| &reservation.limits);
    for (resource, quantity) in limits {
        let total = totals.entry(resource).or_default();
        *total = *total + Amount::parse(&quantity.0).unwrap_or_default();
    }
    totals.entry("memory").or_default();
    let before = report.problems.len();
    let percentage =
        c.eviction_hard.get("memory.available").is_some_and(|text| text.ends_with('%'));
    for (resource, total) in &totals {
        // A percentage depends on the machine.
        if *resource == "memory" && percentage {
            continue;
        }
        let mut node = reserved(c, resource);
        if *resource == "memory" {
            node = node + hard_threshold(c);
        }
        if node != *total {
            report.add(format!(
                "the total amount \"{total}\" of type {resource:?} is not equal to the value \
                 \"{node}\" determined by Node Allocatable feature"
            ));
        }
    }
    if report.problems.len() == before && totals["memory"].is_zero() {
        report.add("[memorymanager] you should specify the system reserved memory".into());
    }
}

/// The hard threshold of memory if it is an amount. A percentage depends on the machine.
fn hard_threshold(c: &KubeletConfiguration) -> Amount {
    let threshold = c.eviction_hard.get("memory.available");
    threshold.and_then(|text| Amount::parse(text).ok()).unwrap_or_default()
}

/// Returns what system and Kubernetes daemons keep of a resource together.
fn reserved(c: &KubeletConfiguration, resource: &str) -> Amount {
    [&c.kube_reserved, &c.system_reserved]
        .into_iter()
        .filter_map(|reservation| Amount::parse(reservation.get(resource)?).ok())
        .sum()
}

fn node_ips(flags: &Flags, report: &mut Report) {
    let (ips, _) = split_node_ips(&flags.node_ip);
    let problem = match ips[..] {
        [one, other] if one.is_ipv6() == other.is_ipv6() => {
            "must contain either a single IP or a dual-stack pair of IPs"
        }
        [one, other] if one.is_unspecified() || other.is_unspecified() => {
            "dual-stack node IP cannot include '0.0.0.0' or '::'"
        }
        [] | [_] | [_, _] => return,
        _ => "must contain either a single IP or a dual-stack pair of IPs",
    };
    report.add(format!("bad --node-ip {:?}: {problem}", flags.node_ip));
}

/// The addresses of `--node-ip`, and what in it is none: upstream ignores that.
pub(in crate::config) fn split_node_ips(text: &str) -> (Vec<IpAddr>, Vec<&str>) {
    let mut ips = Vec::new();
    let mut others = Vec::new();
    if text.is_empty() {
        return (ips, others);
    }
    for part in text.split(',').map(str::trim) {
        match part.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => others.push(part),
        }
    }
    (ips, others)
}

fn periods(c: &KubeletConfiguration, report: &mut Report) {
    if c.sync_frequency <= GoDuration::ZERO {
        report.add(format!(
            "failed to create kubelet: invalid sync frequency {}",
            c.sync_frequency.nanos()
        ));
    }
    // With no time for an answer upstream ends at its first call of the runtime.
    if c.runtime_request_timeout <= GoDuration::ZERO {
        report.add(format!(
            "runtimeRequestTimeout (--runtime-request-timeout) {} leaves no time for an answer of \
             the container runtime",
            c.runtime_request_timeout
        ));
    }
}

/// The size at which logs are rotated is a whole number of bytes.
fn log_size(text: &str, report: &mut Report) {
    let problem = match Amount::parse(text) {
        Ok(size) if Amount::from_units(size.units()) == size => return,
        Ok(_) => "invalid max log size".to_owned(),
        Err(error) => error.to_string(),
    };
    report.add(format!(
        "failed to create kubelet: failed to initialize container log manager: failed to parse \
         container log max size {text:?}: {problem}"
    ));
}

fn boolean(name: &str, value: &str, before: &str, report: &mut Report) {
    if go_bool(value).is_none() {
        report.add(format!(
            "{before}bad value for option {name:?}: strconv.ParseBool: parsing {value:?}: invalid \
             syntax"
        ));
    }
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A map as Go's `%v` shows it: `map[a:1 b:2]`.
fn go_map(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = map.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("map[{}]", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    /// What upstream refuses, by the field or flag, its value, and what the refusal says.
    #[test]
    fn what_upstream_refuses_at_its_start_is_refused() {
        for (said, expected) in [
            ("containerLogMaxSize: 50m", "log max size \"50m\": invalid max log size"),
            ("containerLogMaxSize: 10MB", "log max size \"10MB\": "),
            ("syncFrequency: -10s", "invalid sync frequency -10000000000"),
            ("runtimeRequestTimeout: -10s", "runtimeRequestTimeout"),
            ("cpuManagerPolicy: dynamic", "unknown policy: \"dynamic\""),
            ("cpuManagerPolicy: static", "unable to determine reserved CPU resources"),
            (
                "{cpuManagerPolicy: static, kubeReserved: {cpu: '1'}, cpuManagerPolicyOptions: {foo: 'true'}}",
                "unknown CPU Manager Policy option: \"foo\"",
            ),
            (
                "{cpuManagerPolicy: static, reservedSystemCPUs: '0', cpuManagerPolicyOptions: {align-by-socket: 'true'}}",
                "Alpha-level Options not enabled",
            ),
            (
                "{cpuManagerPolicy: static, reservedSystemCPUs: '0', cpuManagerPolicyOptions: {full-pcpus-only: 'yes'}}",
                "bad value for option \"full-pcpus-only\"",
            ),
            ("cpuManagerPolicyOptions: {a: b}", "received unsupported options=map[a:b]"),
            ("memoryManagerPolicy: static", "unknown policy: \"static\""),
            ("memoryManagerPolicy: BestEffort", "not available for platform \"linux\""),
            ("memoryManagerPolicy: Static", "you should specify the system reserved memory"),
            (
                "{memoryManagerPolicy: Static, kubeReserved: {memory: 1Gi}}",
                "the total amount \"0\" of type \"memory\" is not equal",
            ),
            (
                "{topologyManagerPolicy: restricted, topologyManagerPolicyOptions: {foo: 'true'}}",
                "unknown Topology Manager Policy option: \"foo\"",
            ),
            (
                "{topologyManagerPolicy: restricted, topologyManagerPolicyOptions: {max-allowable-numa-nodes: '7'}}",
                "should not be less than 8",
            ),
            ("tlsCertFile: /a.crt", "tlsPrivateKeyFile (--tls-private-key-file) must be specified"),
            ("tlsPrivateKeyFile: /a.key", "tlsCertFile (--tls-cert-file) must be specified"),
            ("--cloud-provider=aws", "cloud provider \"aws\" was specified, but built-in"),
            (
                "--node-ip=192.0.2.10,198.51.100.7",
                "bad --node-ip \"192.0.2.10,198.51.100.7\": must",
            ),
            ("--node-ip=192.0.2.10,::", "cannot include '0.0.0.0' or '::'"),
            ("--root-dir=kubelet-data", "cannot find mount point for \"kubelet-data\""),
            ("--exit-on-lock-contention", "no lock file specified"),
            ("authentication: {webhook: {enabled: true}}", "cannot use webhook authentication"),
            ("authorization: {mode: Webhook}", "cannot use webhook authorization"),
            ("authorization: {mode: RBAC}", "unknown authorization mode RBAC"),
            ("authorization: {mode: ''}", "no authorization mode specified"),
            (
                "{qosReserved: {memory: half}}",
                "failed to parse percentage \"half\" for \"memory\" resource: percentage expected",
            ),
            ("{qosReserved: {memory: x%}}", "invalid number in percentage 'x%'"),
            ("{qosReserved: {memory: 101%}}", "percentage must be between 0 and 100"),
            ("{qosReserved: {cpu: 10%}}", "cannot reserve \"cpu\" resource"),
            ("tlsCurvePreferences: [65536]", "curve preference 65536 is out of range"),
            ("tlsCurvePreferences: [29, 29]", "duplicate curve preference 29"),
            ("tlsCurvePreferences: [30]", "curve preference 30 is not supported"),
            ("memorySwap: {swapBehavior: LimitedSwap}", "only supported with cgroupv2"),
            ("--hostname-override= ", "empty hostname is invalid"),
        ] {
            let problems = refused(said);
            let found = problems.len() == 1 && problems[0].contains(expected);
            assert!(found, "{said}: {problems:?}");
        }
    }

    #[test]
    fn what_upstream_takes_is_taken() {
        for said in [
            "containerLogMaxSize: 1000m",
            "containerLogMaxSize: '-1'",
            "{cpuManagerPolicy: static, systemReserved: {cpu: 500m}, cpuManagerPolicyOptions: {full-pcpus-only: T}}",
            "{memoryManagerPolicy: Static, kubeReserved: {memory: 1Gi}, reservedMemory: [{limits: {memory: 1Gi}}]}",
            "topologyManagerPolicyOptions: {foo: 'true'}",
            "--cloud-provider=external",
            "qosReserved: {memory: 50%}",
            "tlsCurvePreferences: [29, 23, 4588]",
            "configMapAndSecretChangeDetectionStrategy: Cache",
            "--node-ip=eth0",
            "--node-ip=192.0.2.10, 2001:db8::1",
        ] {
            assert_eq!(refused(said), [""; 0], "{said}");
        }
    }

    /// Checks one flag, or one file over the defaults of flags.
    fn refused(said: &str) -> Vec<String> {
        let args: Vec<String> =
            said.starts_with("--").then(|| said.to_owned()).into_iter().collect();
        let parsed = crate::config::flags::parse(&args, defaults::flag_defaults()).expect("flags");
        let mut document = parsed.config.to_document();
        if args.is_empty() {
            // Text that begins with a brace would be JSON.
            let text = format!("# A file.\n{said}");
            let read = crate::config::document::read(text.as_bytes()).expect("YAML");
            merge(&mut document, read.value);
        }
        let config = serde_json::from_value(document).expect("a configuration");
        let mut report = Report::default();
        let host = Host { cgroup_v2: said.starts_with("--") };
        check(&parsed.flags, &config, &FeatureGates::default(), host, &mut report);
        report.problems
    }

    fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (name, value) in from {
                    merge(into.entry(name).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }
}
