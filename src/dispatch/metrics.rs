//! The gauges of pods and containers: counted from the views at each scrape, so that an idle node
//! does nothing. The names are upstream's, but for `rkubelet_pod_blocked`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handle::{Counts, Returns};
use super::{PodView, PodsHandle, ViewState};
use crate::desired;
use crate::model::{ContainerState, SandboxState, pod};
use crate::resources::allocation::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use crate::telemetry::metrics::{Collected, Kind, Registry};

/// The states of a container, as upstream names them.
const STATES: [&str; 4] = ["created", "running", "exited", "unknown"];

/// The phases of a pod's life on the node, as upstream's pod workers name them.
const LIFECYCLES: [&str; 3] = ["sync", "terminating", "terminated"];

/// Registers upstream's gauges of pods, and the gauge of pods that wait.
pub fn register(registry: &Registry, pods: PodsHandle, desired: desired::Handle) {
    registry.on_collect(move |out| {
        let (views, wanted) = (pods.views(), desired.pods());
        running(out, &views);
        let statics = wanted.iter().filter(|pod| pod::is_static(pod)).count();
        by_source(
            out,
            "kubelet_desired_pods",
            "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
            [wanted.len() - statics, statics],
        );
        let active = |is_static| {
            let counts =
                |view: &&PodView| view.is_active() && pod::is_static(&view.pod) == is_static;
            views.iter().filter(counts).count()
        };
        by_source(
            out,
            "kubelet_active_pods",
            "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
            [active(false), active(true)],
        );
        let help = "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
        let mirrors =
            wanted.iter().filter(|pod| desired.mirror_of(&pod::uid(pod)).is_some()).count();
        out.family("kubelet_mirror_pods", help, Kind::Gauge, &[], &[(&[], number(mirrors))]);
        let help = "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.";
        let count = wanted.iter().map(|pod| pod::ephemeral_containers(pod).len()).sum();
        let name = "kubelet_managed_ephemeral_containers";
        out.family(name, help, Kind::Gauge, &[], &[(&[], number(count))]);
        working(out, &views, &desired);
        blocked(out, &views);
        decided(out, &pods.counts());
        resizes(out, &views);
        returned(out, pods.returns());
    });
}

/// The reasons of rejections that have a label of their own, as upstream's.
const REJECTIONS: [&str; 21] = [
    "AppArmor",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "PodOSNotSupported",
    "InvalidNodeInfo",
    "InitContainerRestartPolicyForbidden",
    "SupplementalGroupsPolicyNotSupported",
    "UnexpectedAdmissionError",
    "UnknownReason",
    "UnexpectedPredicateFailureType",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfephemeral-storage",
    "OutOfpods",
    "PodLevelResourcesNotSupported",
    "PodFeatureUnsupported",
    "node(s) had taints that the pod didn't tolerate",
    "Evicted",
    "SysctlForbidden",
    "TopologyAffinityError",
    "NodeShutdown",
    "VolumeAttachmentLimitExceeded",
];

/// The label of a rejection: there are as many as upstream has, whatever the reasons.
pub(super) fn rejection_label(reason: &str) -> &'static str {
    let known = REJECTIONS.iter().find(|known| **known == reason);
    let other = if reason.starts_with("OutOf") { "OutOfExtendedResources" } else { "Other" };
    known.copied().unwrap_or(other)
}

/// The counters of decisions. Upstream has each family from its first sample on.
fn decided(out: &mut Collected, counts: &Counts) {
    counter(
        out,
        "kubelet_admission_rejections_total",
        "[ALPHA] Cumulative number pod admission rejections by the Kubelet.",
        &["reason"],
        counts.rejections.iter().map(|(label, count)| ([*label], *count)),
    );
    counter(
        out,
        "kubelet_container_requested_resizes_total",
        "[ALPHA] Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.",
        &["resource", "requirement", "operation"],
        counts.requested.iter().map(|(labels, count)| (*labels, *count)),
    );
    counter(
        out,
        "kubelet_pod_infeasible_resizes_total",
        "[ALPHA] Number of infeasible resizes for pods.",
        &["reason_detail"],
        counts.infeasible.iter().map(|(label, count)| ([*label], *count)),
    );
    counter(
        out,
        "kubelet_pod_deferred_accepted_resizes_total",
        "[ALPHA] Cumulative number of resizes that were accepted after being deferred.",
        &["retry_trigger"],
        counts.accepted.iter().map(|(label, count)| ([*label], *count)),
    );
}

fn counter<'a, const N: usize>(
    out: &mut Collected,
    name: &str,
    help: &str,
    labels: &[&str; N],
    samples: impl Iterator<Item = ([&'a str; N], u64)>,
) {
    #[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
    let samples: Vec<([&str; N], f64)> =
        samples.map(|(labels, count)| (labels, count as f64)).collect();
    let samples: Vec<(&[&str], f64)> =
        samples.iter().map(|(labels, count)| (labels.as_slice(), *count)).collect();
    if !samples.is_empty() {
        out.family(name, help, Kind::Counter, labels, &samples);
    }
}

/// The resizes that wait or are being carried out, by the conditions that pods show.
fn resizes(out: &mut Collected, views: &[PodView]) {
    let conditions = |of: &'static str| {
        let all = views.iter().flat_map(|view| view.status.conditions.iter().flatten());
        all.filter(move |condition| condition.type_ == of && condition.status == "True")
    };
    let mut pending: BTreeMap<String, usize> = BTreeMap::new();
    for condition in conditions(RESIZE_PENDING) {
        let reason = condition.reason.as_deref().unwrap_or_default();
        *pending.entry(reason.to_lowercase()).or_default() += 1;
    }
    if !pending.is_empty() {
        let samples: Vec<([&str; 1], f64)> =
            pending.iter().map(|(reason, count)| ([reason.as_str()], number(*count))).collect();
        let help = "[ALPHA] Number of pending resizes for pods.";
        show(out, "kubelet_pod_pending_resizes", help, &["reason"], &samples);
    }
    let help = "[ALPHA] Number of in-progress resizes for pods.";
    let count = number(conditions(RESIZE_IN_PROGRESS).count());
    let name = "kubelet_pod_in_progress_resizes";
    out.family(name, help, Kind::Gauge, &[], &[(&[], count)]);
}

fn returned(out: &mut Collected, returns: &Returns) {
    #[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
    let help = "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    let name = "kubelet_orphaned_runtime_pods_total";
    out.family(name, help, Kind::Counter, &[], &[(&[], count(&returns.orphans))]);
    let help = "[ALPHA] Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)";
    let name = "kubelet_restarted_pods_total";
    // A pod of the API server never comes back: its UID is new.
    let samples: [(&[&str], f64); 2] = [(&[""], 0.0), (&["true"], count(&returns.restarted))];
    out.family(name, help, Kind::Counter, &["static"], &samples);
}

fn running(out: &mut Collected, views: &[PodView]) {
    let sandboxes = views.iter().filter(|view| {
        view.observed.latest_sandbox().is_some_and(|sandbox| sandbox.state == SandboxState::Ready)
    });
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    out.family("kubelet_running_pods", help, Kind::Gauge, &[], &[(&[], number(sandboxes.count()))]);
    let mut counts = [0_usize; 4];
    for container in views.iter().flat_map(|view| &view.observed.containers) {
        let place = match container.state {
            ContainerState::Created => 0,
            ContainerState::Running { .. } => 1,
            ContainerState::Exited(_) => 2,
            ContainerState::Unknown => 3,
        };
        counts[place] += 1;
    }
    let samples: Vec<([&str; 1], f64)> = STATES
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| ([*state], number(count)))
        .collect();
    let help = "[ALPHA] Number of containers currently running";
    show(out, "kubelet_running_containers", help, &["container_state"], &samples);
}

/// A gauge by source: pods of the API server have the empty label, static ones `true` (upstream's
/// choice).
fn by_source(out: &mut Collected, name: &str, help: &str, [api, statics]: [usize; 2]) {
    show(out, name, help, &["static"], &[([""], number(api)), (["true"], number(statics))]);
}

fn working(out: &mut Collected, views: &[PodView], desired: &desired::Handle) {
    let mut counts: BTreeMap<[&str; 3], usize> = BTreeMap::new();
    for lifecycle in LIFECYCLES {
        for (config, is_static) in
            [("desired", ""), ("desired", "true"), ("orphan", ""), ("orphan", "true")]
        {
            counts.insert([lifecycle, config, is_static], 0);
        }
        counts.insert([lifecycle, "runtime_only", "unknown"], 0);
    }
    for view in views {
        let lifecycle = match view.state {
            ViewState::Syncing => LIFECYCLES[0],
            ViewState::Terminating => LIFECYCLES[1],
            ViewState::Terminated => LIFECYCLES[2],
        };
        let is_static = pod::is_static(&view.pod);
        let (config, label) = if desired.get(&view.uid).is_some() {
            ("desired", if is_static { "true" } else { "" })
        } else if is_static {
            ("orphan", "true")
        } else if view.pod.metadata.resource_version.is_some() {
            ("orphan", "")
        } else {
            ("runtime_only", "unknown")
        };
        *counts.entry([lifecycle, config, label]).or_default() += 1;
    }
    let samples: Vec<([&str; 3], f64)> =
        counts.into_iter().map(|(labels, count)| (labels, number(count))).collect();
    let help = "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.";
    show(out, "kubelet_working_pods", help, &["lifecycle", "config", "static"], &samples);
}

/// Our own: how many pods wait, by what for (invariant 12).
fn blocked(out: &mut Collected, views: &[PodView]) {
    let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
    for blocked in views.iter().filter_map(|view| view.blocked.as_ref()) {
        *stages.entry(blocked.stage.as_str()).or_default() += 1;
    }
    let samples: Vec<([&str; 1], f64)> =
        stages.into_iter().map(|(stage, count)| ([stage], number(count))).collect();
    show(
        out,
        "rkubelet_pod_blocked",
        "Number of pods that wait, by what they wait for.",
        &["stage"],
        &samples,
    );
}

fn show<const N: usize>(
    out: &mut Collected,
    name: &str,
    help: &str,
    labels: &[&str; N],
    samples: &[([&str; N], f64)],
) {
    let samples: Vec<(&[&str], f64)> =
        samples.iter().map(|(values, value)| (values.as_slice(), *value)).collect();
    out.family(name, help, Kind::Gauge, labels, &samples);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has floating-point numbers only; a node has few pods"
)]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::rejection_label;

    #[test]
    fn rejections_have_the_labels_of_upstream() {
        for (reason, label) in [
            ("OutOfcpu", "OutOfcpu"),
            ("OutOfexample.com/gpu", "OutOfExtendedResources"),
            ("SysctlForbidden", "SysctlForbidden"),
            ("NodeAffinity", "Other"),
            ("NodePorts", "Other"),
        ] {
            assert_eq!(rejection_label(reason), label, "{reason}");
        }
    }
}
