//! Is this configuration possible? Every reason why not, with upstream's texts.
//!
//! Upstream checks in two places: when it validates, and when parts start (reservations,
//! thresholds, TLS). Here all of it is looked at before anything starts. Pure: what the machine is
//! like comes in as [`Host`].

pub(super) mod labels;
mod policies;
mod ranges;
mod resources;
mod startup;

pub(super) use labels::node_labels;
pub(super) use startup::split_node_ips;

use super::gates::FeatureGates;
use super::types::KubeletConfiguration;
use super::{ConfigWarning, Flags, Host};

/// Lists everything that makes `config` impossible, in upstream's order.
pub(super) fn configuration(
    config: &KubeletConfiguration,
    gates: &FeatureGates,
    host: Host,
) -> Vec<String> {
    let mut report = Report::default();
    ranges::check(config, gates, &mut report);
    policies::check(config, gates, host, &mut report);
    resources::check(config, &mut report);
    // One mistake can break one rule twice.
    let mut seen = std::collections::HashSet::new();
    report.problems.retain(|problem| seen.insert(problem.clone()));
    report.problems
}

/// Lists everything that makes the parts refuse to start, in upstream's order.
pub(super) fn startup(
    flags: &Flags,
    config: &KubeletConfiguration,
    gates: &FeatureGates,
    host: Host,
) -> Vec<String> {
    let mut report = Report::default();
    startup::check(flags, config, gates, host, &mut report);
    report.problems
}

/// Returns warnings about settings that are possible but hardly meant.
pub(super) fn doubtful(config: &KubeletConfiguration, gates: &FeatureGates) -> Vec<ConfigWarning> {
    let mut texts = Vec::new();
    let reserved = &config.kube_reserved_cgroup;
    if !config.kubelet_cgroups.is_empty()
        && !reserved.is_empty()
        && !config.kubelet_cgroups.starts_with(reserved)
    {
        texts.push(
            "unsupported configuration: kubeletCgroups is not within kubeReservedCgroup".to_owned(),
        );
    }
    let no_ip = |text: &&String| text.parse::<std::net::IpAddr>().is_err();
    texts.extend(config.cluster_dns.iter().filter(no_ip).map(|text| {
        format!("clusterDNS (--cluster-dns): {text:?} is no IP address and is left out")
    }));
    texts.extend(resources::doubtful_tls(config));
    texts.extend(policies::doubtful_log(config, gates));
    texts.into_iter().map(|text| ConfigWarning { text, node_event: false }).collect()
}

/// Collects problems.
#[derive(Debug, Default)]
struct Report {
    problems: Vec<String>,
}

impl Report {
    /// Notes upstream's sentence about an invalid configuration unless `holds`.
    fn require(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(format!("invalid configuration: {}", text()));
        }
    }

    /// Notes a sentence as it is.
    fn add(&mut self, text: String) {
        self.problems.push(text);
    }
}

/// A list of texts as Go's `%q` shows it.
fn quoted(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;
    use crate::config::types::GoDuration;

    #[track_caller]
    fn check(change: impl FnOnce(&mut KubeletConfiguration), expected: &[&str]) {
        let mut config = defaults::flag_defaults();
        change(&mut config);
        let mut gates = FeatureGates::default();
        gates.set_valid(&config.feature_gates);
        assert_eq!(configuration(&config, &gates, Host { cgroup_v2: true }), expected);
    }

    fn seconds(value: i64) -> GoDuration {
        GoDuration::from_secs(value)
    }

    #[test]
    fn the_defaults_are_valid() {
        check(|_| {}, &[]);
    }

    #[test]
    fn numbers() {
        check(
            |c| c.node_lease_duration_seconds = 0,
            &["invalid configuration: nodeLeaseDurationSeconds must be greater than 0"],
        );
        check(
            |c| c.port = 0,
            &["invalid configuration: port (--port) 0 must be between 1 and 65535, inclusive"],
        );
        check(
            |c| c.image_gc_low_threshold_percent = 90,
            &[
                "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than \
               imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
            ],
        );
        check(
            |c| c.cpu_cfs_quota_period = seconds(2),
            &[
                "invalid configuration: cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {2s} must be between 1ms and 1sec, \
               inclusive",
            ],
        );
        check(
            |c| c.image_maximum_gc_age = seconds(60),
            &[
                "invalid configuration: imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s",
            ],
        );
    }

    #[test]
    fn choices() {
        check(
            |c| c.topology_manager_policy = "best".into(),
            &[
                "invalid configuration: topologyManagerPolicy (--topology-manager-policy) \"best\" must be one of: \
               [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
            ],
        );
        check(
            |c| {
                c.enforce_node_allocatable =
                    vec!["system-reserved".into(), "pods".into(), "pods".into(), "x".into()];
            },
            &[
                "invalid configuration: systemReservedCgroup (--system-reserved-cgroup) must be specified when \
                 \"system-reserved\" or \"system-reserved-compressible\" included in enforceNodeAllocatable \
                 (--enforce-node-allocatable)",
                "invalid configuration: duplicated enforcements \"pods\" in enforceNodeAllocatable \
                 (--enforce-node-allocatable)",
                "invalid configuration: option \"x\" specified for enforceNodeAllocatable \
                 (--enforce-node-allocatable). Valid options are \"pods\", \"system-reserved\", \
                 \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\"",
            ],
        );
        check(
            |c| c.run_once = true,
            &[
                "invalid configuration: runOnce (--runOnce) true, Runonce mode has been deprecated and should not be \
               set",
            ],
        );
    }

    #[test]
    fn shutdown_graces() {
        check(
            |c| {
                c.shutdown_grace_period = seconds(1);
                c.shutdown_grace_period_critical_pods = seconds(2);
            },
            &[
                "invalid configuration: shutdownGracePeriodCriticalPods {2s} must be <= shutdownGracePeriod {1s}",
            ],
        );
        check(
            |c| c.shutdown_grace_period = GoDuration::from_millis(500),
            &[
                "invalid configuration: shutdownGracePeriod {500ms} must be either zero or otherwise >= 1 sec",
            ],
        );
    }

    #[test]
    fn reservations_and_thresholds() {
        check(
            |c| drop(c.kube_reserved.insert("gpu".into(), "1".into())),
            &["cannot reserve \"gpu\" resource"],
        );
        check(
            |c| drop(c.system_reserved.insert("cpu".into(), "-1".into())),
            &["resource quantity for \"cpu\" cannot be negative: -1"],
        );
        check(
            |c| {
                c.eviction_hard.insert("bogus".into(), "1".into());
                c.eviction_hard.insert("nodefs.available".into(), "120%".into());
                c.eviction_hard.insert("memory.available".into(), "0".into());
            },
            &[
                "unsupported eviction signal bogus",
                "eviction threshold memory.available must be positive: 0",
                "eviction percentage threshold nodefs.available must be <= 100%: 120%",
            ],
        );
        check(
            |c| drop(c.eviction_soft.insert("memory.available".into(), "1Gi".into())),
            &["grace period must be specified for the soft eviction threshold memory.available"],
        );
        check(
            |c| c.reserved_system_cpus = "3-1".into(),
            &[
                "invalid configuration: unable to parse reservedSystemCPUs (--reserved-cpus) 3-1, error: invalid range \
               \"3-1\" (3 > 1)",
            ],
        );
    }

    #[test]
    fn tls_and_log() {
        check(|c| c.tls_min_version = "TLS9".into(), &["unknown tls version \"TLS9\""]);
        check(
            |c| c.tls_cipher_suites = vec!["X".into()],
            &["Cipher suite X not supported or doesn't exist"],
        );
        check(
            |c| c.logging.format = "xml".into(),
            &["logging.format: Invalid value: \"xml\": Unsupported log format"],
        );
        check(
            |c| c.pod_logs_dir = "logs/../x".into(),
            &[
                "invalid configuration: pod logs path \"logs/../x\" must be absolute path",
                "invalid configuration: pod logs path \"logs/../x\" must be normalized",
            ],
        );
    }

    #[test]
    fn the_host_matters() {
        let config = defaults::flag_defaults();
        let problems = configuration(&config, &FeatureGates::default(), Host { cgroup_v2: false });
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("kubelet is configured to not run on a host using cgroup v1.")
        );
    }
}
