//! Choices, enforcement, logging, tracing and the machine, in upstream's order.

use std::path::{Component, Path};

use super::Report;
use crate::config::gates::{FeatureGates, Gate};
use crate::config::types::{GoDuration, KubeletConfiguration};
use crate::config::{Host, machine};
use crate::model::quantity::Amount;

/// Identifiers per pod come in units of this many.
const USER_NAMESPACE_UNIT: i64 = 65_536;
const LARGEST_SAMPLING_RATE: i32 = 1_000_000;
const LARGEST_VERBOSITY: u32 = i32::MAX.unsigned_abs();

pub(super) fn check(
    config: &KubeletConfiguration,
    gates: &FeatureGates,
    host: Host,
    report: &mut Report,
) {
    enforcement(config, report);
    report.require(matches!(config.hairpin_mode.as_str(), "none" | "hairpin-veth" | "promiscuous-bridge"), || {
        format!(
            "option {:?} specified for hairpinMode (--hairpin-mode). Valid options are \"none\", \"hairpin-veth\" or \
             \"promiscuous-bridge\"",
            config.hairpin_mode
        )
    });
    pulled_images(config, gates, report);
    reserved_cpus(config, report);
    reserved_memory(config, report);
    self::host(config, host, report);
    if !matches!(config.show_hidden_metrics_for_version.as_str(), "" | "1.35") {
        report.add(format!(
            "invalid showHiddenMetricsForVersion: showHiddenMetricsForVersion: Invalid value: {:?}: must be omitted or \
             have the value '1.35'; only the previous minor version is allowed",
            config.show_hidden_metrics_for_version
        ));
    }
    logging(config, gates, report);
    tracing(config, report);
    memory_qos(config, gates, report);
    container_logs(config, gates, report);
}

fn enforcement(c: &KubeletConfiguration, report: &mut Report) {
    const FIELD: &str = "enforceNodeAllocatable (--enforce-node-allocatable)";
    let levels = &c.enforce_node_allocatable;
    for name in ["system-reserved", "kube-reserved"] {
        let compressible = format!("{name}-compressible");
        report.require(
            !(levels.iter().any(|l| l == name) && levels.contains(&compressible)),
            || {
                format!(
                    "both {name:?} and {compressible:?} cannot be specified together in {FIELD}"
                )
            },
        );
    }

    for (index, level) in levels.iter().enumerate() {
        if levels[..index].contains(level) {
            report.require(false, || format!("duplicated enforcements {level:?} in {FIELD}"));
            continue;
        }

        match level.as_str() {
            "pods" => {}
            "system-reserved" | "system-reserved-compressible" => {
                report.require(!c.system_reserved_cgroup.is_empty(), || {
                    format!(
                        "systemReservedCgroup (--system-reserved-cgroup) must be specified when \"system-reserved\" or \
                         \"system-reserved-compressible\" included in {FIELD}"
                    )
                });
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                report.require(!c.kube_reserved_cgroup.is_empty(), || {
                    format!(
                        "kubeReservedCgroup (--kube-reserved-cgroup) must be specified when \"kube-reserved\" or \
                         \"kube-reserved-compressible\" included in {FIELD}"
                    )
                });
            }
            "none" => {
                report.require(levels.len() == 1, || {
                    format!(
                        "{FIELD} may not contain additional enforcements when \"none\" is specified"
                    )
                });
                continue;
            }
            other => {
                report.require(false, || {
                    format!(
                        "option {other:?} specified for {FIELD}. Valid options are \"pods\", \"system-reserved\", \
                         \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \
                         \"none\""
                    )
                });
                continue;
            }
        }

        report.require(c.cgroups_per_qos, || {
            format!("cgroupsPerQOS (--cgroups-per-qos) must be set to true when {level:?} contained in {FIELD}")
        });
    }
}

fn pulled_images(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let policy = c.image_pull_credentials_verification_policy.as_str();
    let allowlist = &c.preloaded_images_verification_allowlist;
    if !gates.enabled(Gate::KUBELET_ENSURE_SECRET_PULLED_IMAGES) {
        for (name, set) in [
            ("imagePullCredentialsVerificationPolicy", !policy.is_empty()),
            ("preloadedImagesVerificationAllowlist", !allowlist.is_empty()),
        ] {
            report.require(!set, || {
                format!("`{name}` must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled")
            });
        }
        return;
    }
    report.require(
        matches!(
            policy,
            "NeverVerify" | "NeverVerifyPreloadedImages" | "NeverVerifyAllowlistedImages" | "AlwaysVerify"
        ),
        || {
            format!(
                "option {policy:?} specified for imagePullCredentialsVerificationPolicy. Valid options are \
                 \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\""
            )
        },
    );
    report.require(allowlist.is_empty() || policy == "NeverVerifyAllowlistedImages", || {
        "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \
         \"NeverVerifyAllowlistedImages\""
            .into()
    });
}

fn reserved_cpus(c: &KubeletConfiguration, report: &mut Report) {
    let cpus = c.reserved_system_cpus.as_str();
    if cpus.is_empty() {
        return;
    }
    report.require(c.system_reserved_cgroup.is_empty() && c.kube_reserved_cgroup.is_empty(), || {
        "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or \
         kubeReservedCgroup (--kube-reserved-cgroup)"
            .into()
    });
    if let Err(problem) = machine::cpu_list(cpus) {
        report.require(false, || {
            format!("unable to parse reservedSystemCPUs (--reserved-cpus) {cpus}, error: {problem}")
        });
    }
}

fn reserved_memory(c: &KubeletConfiguration, report: &mut Report) {
    let mut seen: Vec<(i32, &str)> = Vec::new();
    for reservation in &c.reserved_memory {
        let node = reservation.numa_node;
        for (resource, quantity) in &reservation.limits {
            report.require(resource == "memory" || resource.starts_with("hugepages-"), || {
                format!(
                    "the limit type {resource:?} for NUMA node {node} is not supported, only [memory \
                     hugepages-<HugePageSize>] is accepted"
                )
            });
            let zero = Amount::parse(&quantity.0).is_ok_and(Amount::is_zero);
            report.require(!zero, || {
                format!(
                    "reserved memory may not be zero for NUMA node {node} and resource {resource:?}"
                )
            });
            let key = (node, resource.as_str());
            report.require(!seen.contains(&key), || {
                format!("the reserved memory has a duplicate value for NUMA node {node} and resource {resource:?}")
            });
            seen.push(key);
        }
    }
}

/// What depends on the machine. Upstream stops at the first of these.
fn host(c: &KubeletConfiguration, host: Host, report: &mut Report) {
    if c.fail_cgroup_v1 && !host.cgroup_v2 {
        report.add(
            "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be \
             removed in a future release"
                .into(),
        );
    }
    report.require(host.cgroup_v2 || c.single_process_oom_kill != Some(false), || {
        "singleProcessOOMKill must not be explicitly set to false when using cgroup v1".into()
    });
    if let Some(ids) = c.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod) {
        report.require(ids >= USER_NAMESPACE_UNIT, || {
            format!("userNamespaces.idsPerPod must not be less than {USER_NAMESPACE_UNIT}")
        });
        report.require(ids % USER_NAMESPACE_UNIT == 0, || {
            format!("userNamespaces.idsPerPod must be a multiple of {USER_NAMESPACE_UNIT}")
        });
        report.require(ids <= i64::from(u32::MAX), || {
            format!("userNamespaces.idsPerPod must not be more than {}", u32::MAX)
        });
    }
}

fn logging(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let logging = &c.logging;
    if logging.flush_frequency.duration <= GoDuration::ZERO {
        let frequency = logging.flush_frequency.duration;
        report.add(format!(
            "logging.flushFrequency: Invalid value: \"{frequency}\": Must be greater than zero"
        ));
    }
    if !matches!(logging.format.as_str(), "text" | "json") {
        report.add(format!(
            "logging.format: Invalid value: {:?}: Unsupported log format",
            logging.format
        ));
    }
    if logging.format == "json" && !gates.enabled(Gate::LOGGING_BETA_OPTIONS) {
        report.add("logging.format: Forbidden: Log format json is disabled, see LoggingBetaOptions feature".into());
    }
    if logging.verbosity > LARGEST_VERBOSITY {
        report.add(too_verbose("logging.verbosity", logging.verbosity));
    }
    if !logging.vmodule.is_empty() && logging.format != "text" {
        report.add("logging.vmodule: Forbidden: Only supported for text log format".into());
    }
    for (index, item) in logging.vmodule.iter().enumerate() {
        let (field, pattern) = (format!("logging.vmodule[{index}]"), &item.file_pattern);
        if pattern.is_empty() {
            report.add(format!("{field}: Required value: File pattern must not be empty"));
        }
        if pattern.contains(['=', ',']) {
            report
                .add(format!("{field}: Invalid value: {pattern:?}: File pattern must not contain equal sign or comma"));
        }
        if item.verbosity > LARGEST_VERBOSITY {
            report.add(too_verbose(&field, item.verbosity));
        }
    }
    // A split stream without its gate is not refused upstream either: `doubtful_log` says that it
    // is ignored.
    for (name, options) in [("text", &logging.options.text), ("json", &logging.options.json)] {
        let buffered =
            Amount::parse(&options.info_buffer_size.0).is_ok_and(|amount| !amount.is_zero());
        if buffered && !gates.enabled(Gate::LOGGING_ALPHA_OPTIONS) {
            report.add(format!(
                "logging.options.{name}.infoBufferSize: Forbidden: Feature LoggingAlphaOptions is disabled"
            ));
        }
    }
}

/// Returns the warning about options of the log that have no effect.
pub(super) fn doubtful_log(c: &KubeletConfiguration, gates: &FeatureGates) -> Option<String> {
    let split = c.logging.options.text.split_stream || c.logging.options.json.split_stream;
    (split && !gates.enabled(Gate::LOGGING_ALPHA_OPTIONS)).then(|| {
        "splitStream of logging.options is ignored without the feature gate LoggingAlphaOptions"
            .to_owned()
    })
}

fn too_verbose(field: &str, level: u32) -> String {
    format!("{field}: Invalid value: {level}: Must be <= {LARGEST_VERBOSITY}")
}

fn tracing(c: &KubeletConfiguration, report: &mut Report) {
    let Some(tracing) = &c.tracing else { return };
    if let Some(rate) = tracing.sampling_rate_per_million {
        let field = "tracing.samplingRatePerMillion: Invalid value";
        if rate < 0 {
            report.add(format!("{field}: {rate}: sampling rate must be positive"));
        }
        if rate > LARGEST_SAMPLING_RATE {
            report.add(format!("{field}: {rate}: sampling rate per million must be less than or equal to one million"));
        }
    }
    if let Some(endpoint) = &tracing.endpoint {
        let scheme =
            endpoint.split_once("//").map_or("dns", |(scheme, _)| scheme.trim_end_matches(':'));
        if !matches!(scheme, "dns" | "unix" | "unix-abstract") {
            report.add(format!(
                "tracing.endpoint: Invalid value: {endpoint:?}: unsupported scheme: {scheme}.  Options are none, dns, \
                 unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
            ));
        }
    }
}

fn memory_qos(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let factor = c.memory_throttling_factor;
    report.require(factor > 0.0 && factor <= 1.0, || {
        format!(
            "memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"
        )
    });
    let policy = c.memory_reservation_policy.as_str();
    report.require(policy != "TieredReservation" || gates.enabled(Gate::MEMORY_QOS), || {
        format!("memoryReservationPolicy {policy:?} requires MemoryQoS feature gate to be enabled")
    });
    report.require(matches!(policy, "None" | "TieredReservation"), || {
        format!(
            "option {policy:?} specified for memoryReservationPolicy. Valid options are \"None\" or \
             \"TieredReservation\""
        )
    });
}

fn container_logs(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    report.require(!c.container_runtime_endpoint.is_empty(), || {
        "the containerRuntimeEndpoint was not specified or empty".into()
    });
    report.require(!c.enable_system_log_query || gates.enabled(Gate::NODE_LOG_QUERY), || {
        "NodeLogQuery feature gate is required for enableSystemLogQuery".into()
    });
    report.require(!c.enable_system_log_query || c.enable_system_log_handler, || {
        "enableSystemLogHandler is required for enableSystemLogQuery".into()
    });
    report.require(c.container_log_max_workers >= 1, || {
        "containerLogMaxWorkers must be greater than or equal to 1".into()
    });
    report.require(c.container_log_monitor_interval >= GoDuration::from_secs(3), || {
        "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".into()
    });
    report.require(c.container_log_max_files > 1, || {
        "containerLogMaxFiles must be greater than 1".into()
    });
    let dir = c.pod_logs_dir.as_str();
    report.require(!dir.is_empty(), || "podLogsDir was not specified".into());
    report.require(Path::new(dir).is_absolute(), || {
        format!("pod logs path {dir:?} must be absolute path")
    });
    report.require(is_clean(dir), || format!("pod logs path {dir:?} must be normalized"));
    report.require(dir.is_ascii(), || {
        format!("pod logs path {dir:?} mut contains ASCII characters only")
    });
}

/// Returns true if a path is its own shortest form.
fn is_clean(path: &str) -> bool {
    let parents = Path::new(path).components().any(|component| component == Component::ParentDir);
    !parents
        && !path.contains("//")
        && !path.contains("/./")
        && !path.starts_with("./")
        && !path.ends_with("/.")
        && (path == "/" || !path.ends_with('/'))
}
