//! Numbers, durations and what needs a gate, in upstream's order.

use super::{Report, quoted};
use crate::config::gates::{FeatureGates, Gate};
use crate::config::types::{GoDuration, KubeletConfiguration};
use crate::config::validate::labels;

const SECOND: GoDuration = GoDuration::from_secs(1);
const DEFAULT_QUOTA_PERIOD: GoDuration = GoDuration::from_millis(100);

pub(super) fn check(config: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    basics(config, gates, report);
    images(config, gates, report);
    limits(config, report);
    pulls(config, gates, report);
    taints(config, report);
    topology(config, report);
    shutdown(config, gates, report);
    swap_and_back_off(config, gates, report);
}

fn is_port(port: i32) -> bool {
    (1..=65_535).contains(&port)
}

fn basics(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    report.require(c.node_lease_duration_seconds > 0, || {
        "nodeLeaseDurationSeconds must be greater than 0".into()
    });
    report.require(c.system_cgroups.is_empty() || !c.cgroup_root.is_empty(), || {
        "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified".into()
    });
    not_negative(report, "eventBurst (--event-burst)", c.event_burst.into());
    not_negative(report, "eventRecordQPS (--event-qps)", c.event_record_qps.into());
    report.require(c.healthz_port == 0 || is_port(c.healthz_port), || {
        format!(
            "healthzPort (--healthz-port) {} must be between 1 and 65535, inclusive",
            c.healthz_port
        )
    });
    let period = c.cpu_cfs_quota_period;
    if gates.enabled(Gate::CUSTOM_CPU_CFS_QUOTA_PERIOD) {
        report.require((GoDuration::from_millis(1)..=SECOND).contains(&period), || {
            format!("cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {{{period}}} must be between 1ms and 1sec, inclusive")
        });
    } else {
        report.require(period == DEFAULT_QUOTA_PERIOD, || {
            format!(
                "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {{{period}}} requires feature gate CustomCPUCFSQuotaPeriod"
            )
        });
    }
}

fn not_negative(report: &mut Report, name: &str, value: i64) {
    report.require(value >= 0, || format!("{name} {value} must not be a negative number"));
}

fn images(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    const HIGH: &str = "imageGCHighThresholdPercent (--image-gc-high-threshold)";
    const LOW: &str = "imageGCLowThresholdPercent (--image-gc-low-threshold)";
    let (high, low) = (c.image_gc_high_threshold_percent, c.image_gc_low_threshold_percent);
    for (name, value) in [(HIGH, high), (LOW, low)] {
        report.require((0..=100).contains(&value), || {
            format!("{name} {value} must be between 0 and 100, inclusive")
        });
    }
    report.require(low < high, || format!("{LOW} {low} must be less than {HIGH} {high}"));
    let (youngest, oldest) = (c.image_minimum_gc_age, c.image_maximum_gc_age);
    report.require(oldest == GoDuration::ZERO || gates.enabled(Gate::IMAGE_MAXIMUM_GC_AGE), || {
        "ImageMaximumGCAge feature gate is required for Kubelet configuration option imageMaximumGCAge".into()
    });
    report.require(youngest >= GoDuration::ZERO, || {
        format!("imageMinimumGCAge {youngest} must not be negative")
    });
    report.require(oldest >= GoDuration::ZERO, || {
        format!("imageMaximumGCAge {oldest} must not be negative")
    });
    report.require(oldest <= GoDuration::ZERO || oldest > youngest, || {
        format!("imageMaximumGCAge {oldest} must be greater than imageMinimumGCAge {youngest}")
    });
}

fn limits(c: &KubeletConfiguration, report: &mut Report) {
    for (name, bit) in [
        ("iptablesDropBit (--iptables-drop-bit)", c.iptables_drop_bit),
        ("iptablesMasqueradeBit (--iptables-masquerade-bit)", c.iptables_masquerade_bit),
    ] {
        report.require((0..=31).contains(&bit), || {
            format!("{name} {bit} must be between 0 and 31, inclusive")
        });
    }

    not_negative(report, "kubeAPIBurst (--kube-api-burst)", c.kube_api_burst.into());
    not_negative(report, "kubeAPIQPS (--kube-api-qps)", c.kube_api_qps.into());
    report.require(c.node_status_max_images >= -1, || {
        format!(
            "nodeStatusMaxImages (--node-status-max-images) {} must be -1 or greater",
            c.node_status_max_images
        )
    });
    not_negative(report, "maxOpenFiles (--max-open-files)", c.max_open_files);
    not_negative(report, "maxPods (--max-pods)", c.max_pods.into());
    report.require((-1000..=1000).contains(&c.oom_score_adj), || {
        format!(
            "oomScoreAdj (--oom-score-adj) {} must be between -1000 and 1000, inclusive",
            c.oom_score_adj
        )
    });
    not_negative(report, "podsPerCore (--pods-per-core)", c.pods_per_core.into());
    report.require(is_port(c.port), || {
        format!("port (--port) {} must be between 1 and 65535, inclusive", c.port)
    });
    report.require(c.read_only_port == 0 || is_port(c.read_only_port), || {
        format!(
            "readOnlyPort (--read-only-port) {} must be between 0 and 65535, inclusive",
            c.read_only_port
        )
    });
}

fn pulls(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    not_negative(report, "registryBurst (--registry-burst)", c.registry_burst.into());
    not_negative(report, "registryPullQPS (--registry-qps)", c.registry_pull_qps.into());
    if let Some(pulls) = c.max_parallel_image_pulls {
        report.require(pulls >= 1, || {
            format!("maxParallelImagePulls {pulls} must be a positive number")
        });
        report.require(!c.serialize_image_pulls || pulls <= 1, || {
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set \
             to false"
                .into()
        });
    }
    report.require(
        !c.server_tls_bootstrap || gates.enabled(Gate::ROTATE_KUBELET_SERVER_CERTIFICATE),
        || "serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate".into(),
    );
    report.require(!c.run_once, || {
        "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set".into()
    });
}

fn taints(c: &KubeletConfiguration, report: &mut Report) {
    for taint in &c.register_with_taints {
        let value = taint.value.as_deref().unwrap_or_default();
        let valid = labels::name_problems(&taint.key).is_empty()
            && labels::value_problems(value).is_empty()
            && (taint.effect.is_empty() || labels::is_taint_effect(&taint.effect));
        if !valid {
            report.add(format!("invalid taint: {{{} {value} {} <nil>}}", taint.key, taint.effect));
        }
        report.require(taint.time_added.is_none(), || "taint.TimeAdded is not nil".into());
    }
}

fn topology(c: &KubeletConfiguration, report: &mut Report) {
    const POLICIES: [&str; 4] = ["none", "best-effort", "restricted", "single-numa-node"];
    report.require(POLICIES.contains(&c.topology_manager_policy.as_str()), || {
        format!(
            "topologyManagerPolicy (--topology-manager-policy) {:?} must be one of: {}",
            c.topology_manager_policy,
            quoted(&POLICIES)
        )
    });
    report.require(matches!(c.topology_manager_scope.as_str(), "container" | "pod"), || {
        format!(
            "topologyManagerScope (--topology-manager-scope) {:?} must be one of: \"container\", or \"pod\"",
            c.topology_manager_scope
        )
    });
}

fn shutdown(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let (whole, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let is_grace = |grace| grace == GoDuration::ZERO || grace >= SECOND;
    let any = whole > GoDuration::ZERO || critical > GoDuration::ZERO;
    if gates.enabled(Gate::GRACEFUL_NODE_SHUTDOWN) {
        report.require(critical <= whole, || {
            format!("shutdownGracePeriodCriticalPods {{{critical}}} must be <= shutdownGracePeriod {{{whole}}}")
        });
        for (name, grace) in
            [("shutdownGracePeriod", whole), ("shutdownGracePeriodCriticalPods", critical)]
        {
            report.require(is_grace(grace), || {
                format!("{name} {{{grace}}} must be either zero or otherwise >= 1 sec")
            });
        }
    } else {
        report.require(!any, || {
            "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate \
             GracefulNodeShutdown"
                .into()
        });
    }
    let by_priority = !c.shutdown_grace_period_by_pod_priority.is_empty();
    if gates.enabled(Gate::GRACEFUL_NODE_SHUTDOWN_BASED_ON_POD_PRIORITY) {
        report.require(!(by_priority && any), || {
            "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into()
        });
    } else {
        report.require(!by_priority, || {
            "Specifying shutdownGracePeriodByPodPriority requires feature gate GracefulNodeShutdownBasedOnPodPriority"
                .into()
        });
    }
}

fn swap_and_back_off(c: &KubeletConfiguration, gates: &FeatureGates, report: &mut Report) {
    let behavior = c.memory_swap.swap_behavior.as_str();
    if gates.enabled(Gate::NODE_SWAP) {
        report.require(matches!(behavior, "" | "NoSwap" | "LimitedSwap"), || {
            format!("memorySwap.swapBehavior {behavior:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")
        });
    } else {
        report.require(behavior.is_empty(), || {
            "memorySwap.swapBehavior cannot be set when NodeSwap feature flag is disabled".into()
        });
    }
    let longest = c.crash_loop_back_off.max_container_restart_period;
    match (gates.enabled(Gate::KUBELET_CRASH_LOOP_BACK_OFF_MAX), longest) {
        (true, None) => report.require(false, || {
            "FeatureGate KubeletCrashLoopBackOffMax is enabled, CrashLoopBackOff.MaxContainerRestartPeriod must be set"
                .into()
        }),
        (true, Some(longest)) => {
            let allowed = SECOND..=GoDuration::from_secs(300);
            report.require(allowed.contains(&longest), || {
                format!(
                    "CrashLoopBackOff.MaxContainerRestartPeriod (got: {} seconds) must be set between 1s and 300s",
                    longest.to_std().as_secs_f64()
                )
            });
        }
        (false, Some(_)) => report.require(false, || {
            "FeatureGate KubeletCrashLoopBackOffMax not enabled, CrashLoopBackOff.MaxContainerRestartPeriod must not \
             be set"
                .into()
        }),
        (false, None) => {}
    }
}
