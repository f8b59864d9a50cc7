//! Computes the API status of a pod from its observation. Pure.
//!
//! Everything that a user sees of a pod's state is decided here and in the files beside this one:
//! the phase ([`super::phase`]), the conditions ([`super::conditions`]), the statuses of containers
//! ([`super::containers`]), the resources ([`super::resources`]). A terminal phase is never left,
//! and is never entered while anything of the pod could still run.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::input::ComputeInput;
use super::phase::PhaseDecision;
use super::{conditions, containers, merge, phase, resources, terminated};
use crate::model::phase::is_terminal;
use crate::model::reason::event::EVICTED;
use crate::model::{
    ContainerState, Lifecycle, Phase, SandboxState, TerminationCause, addresses, pod,
};
use crate::resources::qos;

/// The reason of a pod that ran longer than `activeDeadlineSeconds`.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The message of such a pod.
pub const DEADLINE_EXCEEDED_MESSAGE: &str =
    "Pod was active on the node longer than the specified deadline";
/// The begin of the status message of a rejected pod.
pub const REJECTED_PREFIX: &str = "Pod was rejected: ";

/// Computes the status of a pod.
pub fn compute(input: &ComputeInput<'_>) -> api::PodStatus {
    let nothing = api::PodStatus::default();
    let recorded = input.recorded.or(input.pod.status.as_ref()).unwrap_or(&nothing);
    let of_mirror = pod::is_static(input.pod).then(|| of_mirror(recorded));
    let recorded = of_mirror.as_ref().unwrap_or(recorded);
    let old = input.previous.unwrap_or(recorded);
    let mut status = match input.lifecycle.terminating().map(|terminating| &terminating.cause) {
        Some(TerminationCause::Rejected { reason, message }) if !is_terminal(recorded) => {
            rejected(input, recorded, reason, message)
        }
        _ if was_rejected(recorded) => recorded.clone(),
        _ => observed(input, recorded, old),
    };
    let generation = input.pod.metadata.generation.into_iter().chain(old.observed_generation).max();
    status.observed_generation = generation.filter(|generation| *generation != 0);
    status.start_time = old
        .start_time
        .clone()
        .or_else(|| recorded.start_time.clone())
        .or(Some(Time(input.now.wall)));
    merge::normalize(input.pod, &mut status);
    status
}

/// Returns the parts of a mirror's status that count for its static pod.
///
/// A static pod begins as pending, as with upstream after each restart: phase, reason and message
/// are never taken from the mirror. Its containers are taken from the runtime; of those that ran,
/// only the verdicts of the probes are kept.
pub fn of_mirror(status: &api::PodStatus) -> api::PodStatus {
    let probed = |list: &Option<Vec<api::ContainerStatus>>| {
        let ran = |status: &&api::ContainerStatus| {
            status.state.as_ref().is_some_and(|state| state.running.is_some())
        };
        let probed = |status: &api::ContainerStatus| api::ContainerStatus {
            name: status.name.clone(),
            container_id: status.container_id.clone(),
            started: status.started,
            ready: status.ready,
            ..api::ContainerStatus::default()
        };
        list.as_ref().map(|list| list.iter().filter(ran).map(probed).collect())
    };
    api::PodStatus {
        container_statuses: probed(&status.container_statuses),
        init_container_statuses: probed(&status.init_container_statuses),
        ephemeral_container_statuses: None,
        phase: None,
        reason: None,
        message: None,
        ..status.clone()
    }
}

/// Returns the status of a pod that admission refused: nothing of it has ever existed here.
fn rejected(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    reason: &str,
    message: &str,
) -> api::PodStatus {
    api::PodStatus {
        phase: Some(Phase::Failed.as_str().to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("{REJECTED_PREFIX}{message}")),
        qos_class: Some(qos::of(input.pod).as_str().to_owned()),
        conditions: Some(conditions::foreign(recorded)),
        ..api::PodStatus::default()
    }
}

/// Returns true if the status is one of [`rejected`], which never changes.
fn was_rejected(recorded: &api::PodStatus) -> bool {
    let message = recorded.message.as_deref().unwrap_or_default();
    Phase::of(recorded) == Some(Phase::Failed)
        && message.starts_with(REJECTED_PREFIX)
        && recorded.container_statuses.as_ref().is_none_or(Vec::is_empty)
}

fn observed(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    old: &api::PodStatus,
) -> api::PodStatus {
    let group = containers::Groups::new(input, old);
    let mut status = api::PodStatus {
        container_statuses: Some(group.main()),
        init_container_statuses: some_list(group.init()),
        ephemeral_container_statuses: some_list(group.ephemeral()),
        qos_class: Some(qos::of(input.pod).as_str().to_owned()),
        ..api::PodStatus::default()
    };
    set_devices(input, &mut status);
    set_addresses(input, old, &mut status);
    let decision = decide_phase(input, recorded, old, &status);
    status.phase = Some(decision.reported.as_str().to_owned());
    (status.reason, status.message) = reason_and_message(input, recorded, old, decision);
    status.conditions = Some(conditions::all(input, recorded, old, &status, decision));
    if matches!(input.lifecycle, Lifecycle::Terminated(_)) {
        terminated::settle(input.pod, old, &mut status);
        if !pod::is_static(input.pod) && !is_terminal(&status) {
            status.phase = Some(Phase::Failed.as_str().to_owned());
        }
    }
    if is_terminal(&status) {
        conditions::unready(&mut status, input.now);
    }
    let was_running = Phase::of(old) == Some(Phase::Running);
    let resized_from = Some(old).filter(|_| was_running && input.resize.in_progress.is_some());
    let whole = resources::Whole { pod: input.pod, cgroup: input.cgroup, resized_from };
    resources::pod_level(whole, &mut status);
    status
}

/// Shows the health of devices: of main containers only, as upstream.
fn set_devices(input: &ComputeInput<'_>, status: &mut api::PodStatus) {
    let Some(devices) = input.devices else { return };
    for container in status.container_statuses.iter_mut().flatten() {
        container.allocated_resources_status = devices.get(&container.name).cloned();
    }
}

fn decide_phase(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    old: &api::PodStatus,
    status: &api::PodStatus,
) -> PhaseDecision {
    let over = !could_run(input);
    for known in std::iter::once(recorded).chain(input.previous) {
        if let Some(terminal) = Phase::of(known).filter(|phase| phase.is_terminal()) {
            return PhaseDecision { reported: terminal, natural: terminal, over };
        }
    }
    let is_done = matches!(input.lifecycle, Lifecycle::Terminated(_));
    let natural = match ended_by_node(input).filter(|_| over) {
        Some(EndedByNode::Deadline) => Phase::Failed,
        // As upstream, which computes the phase of such a pod once more at its end: if every
        // container has heeded the stop and ended with 0, the pod has succeeded.
        Some(EndedByNode::Stopped { .. }) => {
            match phase::of(input.pod, status, true, initialized(input)) {
                Phase::Succeeded => Phase::Succeeded,
                Phase::Pending | Phase::Running | Phase::Failed => Phase::Failed,
            }
        }
        None => phase::of(input.pod, status, is_done, initialized(input)),
    };
    let reported = if natural.is_terminal() && !over {
        Phase::of(old).unwrap_or(Phase::Pending)
    } else {
        natural
    };
    PhaseDecision { reported, natural, over }
}

/// Returns true if anything of the pod runs or could begin to run.
fn could_run(input: &ComputeInput<'_>) -> bool {
    match input.lifecycle {
        Lifecycle::Syncing => true,
        Lifecycle::Terminated(_) => false,
        Lifecycle::Terminating(_) => {
            let sandbox =
                input.observed.sandboxes.iter().any(|sandbox| sandbox.state == SandboxState::Ready);
            sandbox
                || input
                    .observed
                    .containers
                    .iter()
                    .any(|container| container.state.exit().is_none())
        }
    }
}

/// Returns true if a main container of the pod's present sandbox exists: its init containers have
/// then been done once.
fn initialized(input: &ComputeInput<'_>) -> bool {
    let sandbox =
        input.observed.latest_sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready);
    sandbox.is_some_and(|sandbox| {
        input.observed.containers.iter().any(|container| {
            container.sandbox == sandbox.id
                && pod::main_containers(input.pod).iter().any(|spec| spec.name == container.name)
        })
    })
}

/// How the node has ended a pod.
#[derive(Clone, Copy, Debug)]
enum EndedByNode<'a> {
    /// The pod's `activeDeadlineSeconds` have passed: it has failed, whatever its exit codes.
    Deadline,
    /// The pod was evicted or preempted: unless all its containers ended with 0, it has failed for
    /// this reason.
    Stopped { reason: &'a str, message: &'a str },
}

impl<'a> EndedByNode<'a> {
    /// Returns the reason and the message of the pod that has failed.
    fn texts(self) -> (&'a str, &'a str) {
        match self {
            Self::Deadline => (DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE),
            Self::Stopped { reason, message } => (reason, message),
        }
    }
}

/// Returns how the node has ended the pod, if it has.
fn ended_by_node<'a>(input: &ComputeInput<'a>) -> Option<EndedByNode<'a>> {
    match &input.lifecycle.terminating()?.cause {
        TerminationCause::Evicted { reason, message } => {
            Some(EndedByNode::Stopped { reason, message })
        }
        TerminationCause::OverLimit { message } => {
            Some(EndedByNode::Stopped { reason: EVICTED, message })
        }
        TerminationCause::DeadlineExceeded => Some(EndedByNode::Deadline),
        TerminationCause::Deleted
        | TerminationCause::Removed
        | TerminationCause::Finished
        | TerminationCause::Rejected { .. } => None,
    }
}

fn reason_and_message(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    old: &api::PodStatus,
    decision: PhaseDecision,
) -> (Option<String>, Option<String>) {
    let known = [old, recorded];
    let unchanged = Phase::of(old) == Some(decision.reported);
    let kept = |field: fn(&api::PodStatus) -> &Option<String>| {
        let mut texts = known.into_iter().filter_map(|status| field(status).clone());
        texts.find(|text| !text.is_empty()).filter(|_| unchanged)
    };
    let reason = kept(|status| &status.reason);
    let message = kept(|status| &status.message);
    let is_new = decision.over && !is_terminal(recorded) && !is_terminal(old);
    match ended_by_node(input) {
        Some(end) if is_new && decision.reported == Phase::Failed => {
            let (forced, text) = end.texts();
            (Some(forced.to_owned()), Some(text.to_owned()))
        }
        Some(_) | None => (reason, message),
    }
}

/// Sets the node's addresses and the pod's: those of its sandbox while it exists, else the last
/// known ones.
fn set_addresses(input: &ComputeInput<'_>, old: &api::PodStatus, status: &mut api::PodStatus) {
    let hosts = &input.node.host_ips;
    if let Some(primary) = hosts.first() {
        status.host_ip = Some(primary.to_string());
        status.host_ips =
            Some(hosts.iter().take(2).map(|ip| api::HostIP { ip: ip.to_string() }).collect());
    } else {
        status.host_ip.clone_from(&old.host_ip);
        status.host_ips.clone_from(&old.host_ips);
    }

    let sandbox = input.observed.latest_sandbox();
    let ready = sandbox.filter(|sandbox| sandbox.state == SandboxState::Ready);
    let mut ips = addresses::ordered(
        ready.map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default(),
        input.node.prefers_ipv6,
    );
    if ips.is_empty() && pod::is_host_network(input.pod) {
        ips = hosts.iter().take(2).copied().collect();
    }

    let running = |state: &ContainerState| state.is_running();
    let lively = ready.is_some()
        || input.observed.containers.iter().any(|container| running(&container.state));
    if ips.is_empty() && !lively {
        status.pod_ip.clone_from(&old.pod_ip);
        status.pod_ips.clone_from(&old.pod_ips);
        return;
    }

    status.pod_ip = ips.first().map(IpAddr::to_string);
    let ips = ips.iter().map(|ip| api::PodIP { ip: ip.to_string() });
    status.pod_ips = some_list(ips.collect());
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
