//! Computes the conditions of a pod. Pure.
//!
//! The kubelet's conditions are made anew each time, with the time of the last change carried over.
//! Those of other writers are left as they are.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::input::{ComputeInput, PendingResize, ResizeInProgress, ResizeState};
use super::phase::PhaseDecision;
use super::restart::{self, ALL_RESTARTING};
use crate::model::phase::is_terminal;
use crate::model::{Lifecycle, Now, Phase, ResizeVerdict, SandboxState, TerminationCause, pod};

/// The pod has a node. Set by the scheduler, kept by the kubelet.
pub const POD_SCHEDULED: &str = "PodScheduled";
/// The pod has a sandbox with a network.
pub const READY_TO_START: &str = "PodReadyToStartContainers";
/// The init containers have completed.
pub const INITIALIZED: &str = "Initialized";
/// Every container is ready.
pub const CONTAINERS_READY: &str = "ContainersReady";
/// Every container is ready, and so is every readiness gate.
pub const READY: &str = "Ready";
/// The pod is ended for a reason that is not its own fault.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// A resize has to wait.
pub(super) const RESIZE_PENDING: &str = crate::resources::allocation::RESIZE_PENDING;
/// A resize is being carried out.
pub(super) const RESIZE_IN_PROGRESS: &str = crate::resources::allocation::RESIZE_IN_PROGRESS;
/// The reason of a resize that failed and is tried again.
const RESIZE_ERROR: &str = "Error";

const TRUE: &str = "True";
const FALSE: &str = "False";

/// The reason of disruptions by the node.
pub const TERMINATION_BY_KUBELET: &str = "TerminationByKubelet";
const PREEMPTED_MESSAGE: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
const SHUTDOWN_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

impl ResizeState {
    /// Reads the two conditions of a resize from a status.
    pub fn recorded(status: Option<&api::PodStatus>) -> Self {
        let pending = status.and_then(|status| find(status, RESIZE_PENDING)).map(|found| {
            let (reason, message) = (found.reason.as_deref(), found.message.as_deref());
            PendingResize {
                verdict: ResizeVerdict::recorded(reason, message),
                generation: found.observed_generation,
            }
        });
        let in_progress = status.and_then(|status| find(status, RESIZE_IN_PROGRESS));
        let in_progress = in_progress.map(|found| ResizeInProgress {
            error: (found.reason.as_deref() == Some(RESIZE_ERROR))
                .then(|| found.message.clone().unwrap_or_default()),
            generation: found.observed_generation,
        });
        Self { pending, in_progress }
    }
}

/// Returns true if the kubelet writes and removes the condition.
pub fn is_ours(condition: &str) -> bool {
    matches!(
        condition,
        POD_SCHEDULED
            | READY
            | INITIALIZED
            | CONTAINERS_READY
            | READY_TO_START
            | ALL_RESTARTING
            | RESIZE_PENDING
            | RESIZE_IN_PROGRESS
    )
}

/// Returns the conditions of other writers.
pub fn foreign(status: &api::PodStatus) -> Vec<api::PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| !is_ours(&condition.type_))
        .cloned()
        .collect()
}

/// A condition's status, reason and message, without its times.
struct Said {
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Said {
    fn yes() -> Self {
        Self { is_true: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str) -> Self {
        Self { is_true: false, reason, message: String::new() }
    }
}

/// Computes all conditions, in upstream's order. `status` has its container statuses.
pub fn all(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    old: &api::PodStatus,
    status: &api::PodStatus,
    decision: PhaseDecision,
) -> Vec<api::PodCondition> {
    let mut list = foreign(recorded);

    if !decision.natural.is_terminal() {
        let pending = input.resize.pending.as_ref().map(|pending| ResizeCondition {
            name: RESIZE_PENDING,
            reason: Some(pending.verdict.reason()),
            message: pending.verdict.message(),
            generation: pending.generation,
        });
        let in_progress = input.resize.in_progress.as_ref().map(|progress| ResizeCondition {
            name: RESIZE_IN_PROGRESS,
            reason: progress.error.as_ref().map(|_| RESIZE_ERROR),
            message: progress.error.as_deref().unwrap_or_default(),
            generation: progress.generation,
        });
        let said = pending.iter().chain(&in_progress);
        list.extend(said.map(|said| resize(input, old, said)));
    }

    if let Some(disrupted) = disruption(input, old, decision) {
        list.retain(|condition| condition.type_ != DISRUPTION_TARGET);
        list.push(disrupted);
    }

    // Once the end is reported, its conditions stay: computing them again must not change a word.
    if is_terminal(old) && input.previous.is_some() {
        let kept = old.conditions.iter().flatten().filter(|condition| is_ours(&condition.type_));
        list.extend(
            kept.filter(|c| c.type_ != RESIZE_PENDING && c.type_ != RESIZE_IN_PROGRESS).cloned(),
        );
        return list;
    }

    let ready = containers_ready(input.pod, status, decision.natural);
    let whole = pod_ready(input.pod, &list, &ready);

    let mut said = Vec::new();
    if !input.node.hides_ready_to_start {
        said.push((READY_TO_START, if has_sandbox(input) { Said::yes() } else { Said::no("") }));
    }
    said.extend([
        (INITIALIZED, initialized(input.pod, old, status, decision.natural)),
        (READY, whole),
        (CONTAINERS_READY, ready),
        (POD_SCHEDULED, Said::yes()),
    ]);

    if restart::could_restart_all(input.pod) {
        said.push((ALL_RESTARTING, all_restarting(input, old, decision.natural)));
    }

    list.extend(said.into_iter().map(|(name, said)| condition(input, old, name, said)));
    list
}

/// Corrects the conditions of a pod that is over, so that none says ready.
pub fn unready(status: &mut api::PodStatus, now: Now) {
    let reason = if Phase::of(status) == Some(Phase::Failed) { POD_FAILED } else { POD_COMPLETED };
    let conditions = status.conditions.iter_mut().flatten();
    let ready = [READY, CONTAINERS_READY];
    let mut both: Vec<_> =
        conditions.filter(|condition| ready.contains(&condition.type_.as_str())).collect();
    if both.iter().any(|condition| condition.status == TRUE) {
        for condition in &mut both {
            if condition.status != FALSE {
                condition.last_transition_time = Some(Time(now.wall));
            }
            FALSE.clone_into(&mut condition.status);
            condition.reason = Some(reason.to_owned());
            condition.message = None;
        }
    }
}

const UNKNOWN_STATUSES: &str = "UnknownContainerStatuses";
const POD_COMPLETED: &str = "PodCompleted";
const POD_FAILED: &str = "PodFailed";
const NOT_READY: &str = "ContainersNotReady";
const NOT_INITIALIZED: &str = "ContainersNotInitialized";
const GATES_NOT_READY: &str = "ReadinessGatesNotReady";
const RESTART_ALL_STARTED: &str = "RestartAllContainersStarted";

fn condition(
    input: &ComputeInput<'_>,
    old: &api::PodStatus,
    name: &str,
    said: Said,
) -> api::PodCondition {
    let status = if said.is_true { TRUE } else { FALSE };
    let before = find(old, name).filter(|before| before.status == status);
    // Upstream omits the generation from this one.
    let generation = input
        .pod
        .metadata
        .generation
        .filter(|generation| *generation != 0 && name != ALL_RESTARTING);
    api::PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: (!said.reason.is_empty()).then(|| said.reason.to_owned()),
        message: (!said.message.is_empty()).then_some(said.message),
        observed_generation: generation,
        last_probe_time: None,
        last_transition_time: before
            .and_then(|before| before.last_transition_time.clone())
            .or(Some(Time(input.now.wall))),
    }
}

/// One of the conditions of a resize.
struct ResizeCondition<'a> {
    name: &'static str,
    reason: Option<&'static str>,
    message: &'a str,
    generation: Option<i64>,
}

/// Computes one of the conditions of a resize. It begins anew with each reason.
fn resize(
    input: &ComputeInput<'_>,
    old: &api::PodStatus,
    said: &ResizeCondition<'_>,
) -> api::PodCondition {
    let reason = said.reason.map(str::to_owned);
    let before = find(old, said.name).filter(|before| before.reason == reason);
    let now = Some(Time(input.now.wall));
    api::PodCondition {
        type_: said.name.to_owned(),
        status: TRUE.to_owned(),
        reason,
        message: (!said.message.is_empty()).then(|| said.message.to_owned()),
        observed_generation: said.generation.filter(|generation| *generation != 0),
        last_probe_time: before
            .map_or_else(|| now.clone(), |before| before.last_probe_time.clone()),
        last_transition_time: before.and_then(|before| before.last_transition_time.clone()).or(now),
    }
}

fn find<'a>(status: &'a api::PodStatus, name: &str) -> Option<&'a api::PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == name)
}

fn status_of<'a>(status: &'a api::PodStatus, name: &str) -> Option<&'a api::ContainerStatus> {
    let mut all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.find(|status| status.name == name)
}

fn containers_ready(pod: &api::Pod, status: &api::PodStatus, phase: Phase) -> Said {
    if !has_statuses(status) {
        return Said::no(UNKNOWN_STATUSES);
    }
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    for container in sidecars.chain(pod::main_containers(pod)) {
        match status_of(status, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return Said::no(POD_COMPLETED);
    }
    if phase == Phase::Failed {
        return Said::no(POD_FAILED);
    }
    match message(&[
        ("containers with unknown status", &unknown),
        ("containers with unready status", &unready),
    ]) {
        Some(message) => Said { message, ..Said::no(NOT_READY) },
        None => Said::yes(),
    }
}

fn pod_ready(pod: &api::Pod, conditions: &[api::PodCondition], containers: &Said) -> Said {
    if !containers.is_true {
        return Said {
            is_true: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|condition| &condition.type_ == name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(condition) if condition.status != TRUE => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        Said::yes()
    } else {
        Said { message: closed.join(", "), ..Said::no(GATES_NOT_READY) }
    }
}

fn initialized(
    pod: &api::Pod,
    old: &api::PodStatus,
    status: &api::PodStatus,
    phase: Phase,
) -> Said {
    let init = pod::init_containers(pod);
    if !has_statuses(status) && !init.is_empty() {
        return Said::no(UNKNOWN_STATUSES);
    }
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in init {
        let Some(status) = status_of(status, &container.name) else {
            unknown.push(container.name.as_str());
            continue;
        };
        let is_done =
            if pod::is_sidecar(container) { status.started == Some(true) } else { status.ready };
        if !is_done {
            incomplete.push(container.name.as_str());
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return Said { is_true: true, ..Said::no(POD_COMPLETED) };
    }
    let begun = |status: &api::ContainerStatus| {
        status
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    if status.container_statuses.iter().flatten().any(begun) {
        return Said::yes();
    }
    match message(&[
        ("containers with unknown status", &unknown),
        ("containers with incomplete status", &incomplete),
    ]) {
        // A pod stays initialised, even while it is started again in place.
        Some(_) if find(old, INITIALIZED).is_some_and(|before| before.status == TRUE) => {
            Said::yes()
        }
        Some(message) => Said { message, ..Said::no(NOT_INITIALIZED) },
        None => Said::yes(),
    }
}

fn all_restarting(input: &ComputeInput<'_>, old: &api::PodStatus, phase: Phase) -> Said {
    if phase == Phase::Succeeded {
        return Said::no(POD_COMPLETED);
    }
    if phase == Phase::Failed {
        return Said::no(POD_FAILED);
    }
    let mut names = pod::main_containers(input.pod).iter().chain(pod::init_containers(input.pod));
    let is_clean = names.all(|container| input.observed.latest(&container.name).is_none());
    if is_clean || !restart::is_restarting_all(input, old) {
        return Said::no("");
    }
    Said {
        is_true: true,
        reason: RESTART_ALL_STARTED,
        message: "container exited with restart policy rule".to_owned(),
    }
}

/// Returns true if the pod has the one sandbox that it needs, with a network.
fn has_sandbox(input: &ComputeInput<'_>) -> bool {
    let Some(latest) = input.observed.latest_sandbox() else { return false };
    let ready = input
        .observed
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox.state == SandboxState::Ready)
        .count();
    let host_network = pod::is_host_network(input.pod);
    ready == 1
        && latest.state == SandboxState::Ready
        && latest.host_network == host_network
        && (host_network || !latest.ips.is_empty())
}

/// Computes the condition of a pod that the node ends. It is reported only together with the
/// terminal phase, once nothing of the pod can run.
fn disruption(
    input: &ComputeInput<'_>,
    old: &api::PodStatus,
    decision: PhaseDecision,
) -> Option<api::PodCondition> {
    let before = find(old, DISRUPTION_TARGET);
    let (Lifecycle::Terminating(stopping) | Lifecycle::Terminated(stopping)) = input.lifecycle
    else {
        return before.cloned();
    };
    let TerminationCause::Evicted { reason, message } = &stopping.cause else {
        return before.cloned();
    };
    if !decision.over || !decision.natural.is_terminal() || is_terminal(old) {
        return before.cloned();
    }
    let message = match reason.as_str() {
        "Preempting" => PREEMPTED_MESSAGE,
        "Terminated" => SHUTDOWN_MESSAGE,
        _ => message,
    };
    let since = before
        .filter(|before| before.status == TRUE)
        .and_then(|before| before.last_transition_time.clone());
    Some(api::PodCondition {
        type_: DISRUPTION_TARGET.to_owned(),
        status: TRUE.to_owned(),
        reason: Some(TERMINATION_BY_KUBELET.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: input.pod.metadata.generation.filter(|generation| *generation != 0),
        last_probe_time: None,
        last_transition_time: since.or(Some(Time(input.now.wall))),
    })
}

fn has_statuses(status: &api::PodStatus) -> bool {
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .next()
        .is_some()
}

/// Formats `LABEL: [a b], LABEL: [c]` of the lists that are not empty.
fn message(lists: &[(&str, &Vec<&str>)]) -> Option<String> {
    let parts: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(label, names)| format!("{label}: [{}]", names.join(" ")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
