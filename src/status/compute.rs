//! The API status of a pod, from what is observed of it. Pure.
//!
//! Everything a user sees of a pod's state is decided here and in the files beside this one: the
//! phase ([`super::phase`]), the conditions ([`super::conditions`]), the statuses of containers
//! ([`super::containers`]), the resources ([`super::resources`]). A terminal phase is never left,
//! and is never entered while anything of the pod could still run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{conditions, containers, merge, phase, resources, terminated};
use crate::model::observed::Remembered;
use crate::model::{
    ContainerId, ContainerState, Lifecycle, Now, ObservedPod, Pod, ProbeVerdicts, SandboxState,
    TerminationCause, Waiting, pod,
};
use crate::resources::qos;

/// The reason of a pod that ran longer than `activeDeadlineSeconds`.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// Its message.
pub const DEADLINE_EXCEEDED_MESSAGE: &str =
    "Pod was active on the node longer than the specified deadline";
/// What the status message of a rejected pod begins with.
pub const REJECTED_PREFIX: &str = "Pod was rejected: ";

/// Everything that a status follows from.
#[derive(Clone, Copy, Debug)]
pub struct ComputeInput<'a> {
    /// The pod as its source has it; for a static pod the static pod, not its mirror.
    pub pod: &'a Pod,
    /// Where it is in its life.
    pub lifecycle: &'a Lifecycle,
    /// What the runtime says.
    pub observed: &'a ObservedPod,
    /// The status that this process has computed last; none the first time.
    pub previous: Option<&'a api::PodStatus>,
    /// The API's status: the watched object's, a static pod's mirror's. None: the one in `pod`.
    pub recorded: Option<&'a api::PodStatus>,
    /// Why containers do not run, by the planner.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Containers whose end is not told before their successor runs, by the planner.
    pub replaced: &'a BTreeSet<ContainerId>,
    /// How far a resize is.
    pub resize: &'a ResizeState,
    /// What probes say.
    pub probes: &'a ProbeVerdicts,
    /// How containers ended that are already removed, by name.
    pub remembered: &'a BTreeMap<String, Remembered>,
    /// What is the same for all pods of the node.
    pub node: &'a NodeFacts,
    /// The time: for transition times and the start time.
    pub now: Now,
}

/// How far a resize of the pod is: the two conditions that say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeState {
    /// It has to wait.
    pub pending: Option<ResizeCondition>,
    /// It is being carried out.
    pub in_progress: Option<ResizeCondition>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeCondition {
    /// Upstream's reason; empty while all goes well.
    pub reason: String,
    /// What stands in the way.
    pub message: String,
    /// The generation of the object that it is about.
    pub generation: Option<i64>,
}

impl ResizeState {
    /// What a status says of it.
    pub fn recorded(status: Option<&api::PodStatus>) -> Self {
        let find = |name: &str| {
            let conditions = status?.conditions.as_ref()?;
            let found = conditions.iter().find(|condition| condition.type_ == name)?;
            Some(ResizeCondition {
                reason: found.reason.clone().unwrap_or_default(),
                message: found.message.clone().unwrap_or_default(),
                generation: found.observed_generation,
            })
        };
        Self {
            pending: find(conditions::RESIZE_PENDING),
            in_progress: find(conditions::RESIZE_IN_PROGRESS),
        }
    }
}

/// What statuses need to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's addresses, primary first; the second, if any, is of the other family. Empty: not
    /// known yet, or no API.
    pub host_ips: Vec<IpAddr>,
    /// Whether a pod's IPv6 address comes first: the node's configured address is IPv6.
    pub prefers_ipv6: bool,
    /// The runtime's name, e.g. `containerd`: the scheme of container ids.
    pub runtime: String,
    /// The runtime handlers that can mount read-only recursively; the default handler is the empty
    /// text.
    pub recursive_read_only: BTreeSet<String>,
}

/// Computes the status.
pub fn compute(input: &ComputeInput<'_>) -> api::PodStatus {
    let nothing = api::PodStatus::default();
    let recorded = input.recorded.or(input.pod.status.as_ref()).unwrap_or(&nothing);
    let of_mirror =
        (input.previous.is_none() && pod::is_static(input.pod)).then(|| of_mirror(recorded));
    let old = input.previous.or(of_mirror.as_ref()).unwrap_or(recorded);
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

/// What of a mirror's status counts when its static pod is adopted. Its containers are as the
/// runtime says, as with upstream, whose static pods begin without a status: of those that ran,
/// only what the probes had found is taken.
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
        ..status.clone()
    }
}

/// A pod that admission refused: it has never had anything here.
fn rejected(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    reason: &str,
    message: &str,
) -> api::PodStatus {
    api::PodStatus {
        phase: Some(phase::FAILED.into()),
        reason: Some(reason.to_owned()),
        message: Some(format!("{REJECTED_PREFIX}{message}")),
        qos_class: Some(qos::of(input.pod).as_str().to_owned()),
        conditions: Some(conditions::foreign(recorded)),
        ..api::PodStatus::default()
    }
}

/// Whether the status is one of [`rejected`]: there is never more to say of such a pod.
fn was_rejected(recorded: &api::PodStatus) -> bool {
    let message = recorded.message.as_deref().unwrap_or_default();
    recorded.phase.as_deref() == Some(phase::FAILED)
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
    addresses(input, old, &mut status);
    let decision = decide_phase(input, recorded, old, &status);
    status.phase = Some(decision.reported.clone());
    (status.reason, status.message) = reason_and_message(input, recorded, old, &decision);
    status.conditions = Some(conditions::all(input, recorded, old, &status, &decision));
    if matches!(input.lifecycle, Lifecycle::Terminated(_)) {
        terminated::settle(input.pod, old, &mut status);
        if !pod::is_static(input.pod) && !is_terminal(&status) {
            status.phase = Some(phase::FAILED.into());
        }
    }
    if is_terminal(&status) {
        conditions::unready(&mut status, input.now);
    }
    resources::pod_level(input.pod, &mut status);
    status
}

/// The phase that is reported and the one that conditions are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseDecision {
    /// What the status says.
    pub reported: String,
    /// What the containers' states amount to: runs ahead of `reported` while something of the pod
    /// could still run.
    pub natural: String,
    /// Whether the pod is over and nothing of it can run: disruption is told only then.
    pub over: bool,
}

fn decide_phase(
    input: &ComputeInput<'_>,
    recorded: &api::PodStatus,
    old: &api::PodStatus,
    status: &api::PodStatus,
) -> PhaseDecision {
    let over = !could_run(input);
    // A static pod that is started anew may find the mirror of its former life.
    let recorded = if pod::is_static(input.pod) { None } else { Some(recorded) };
    for known in recorded.into_iter().chain(input.previous) {
        if let Some(terminal) = known.phase.as_deref().filter(|phase| phase::is_terminal(phase)) {
            return PhaseDecision {
                reported: terminal.to_owned(),
                natural: terminal.to_owned(),
                over,
            };
        }
    }
    let is_done = matches!(input.lifecycle, Lifecycle::Terminated(_));
    let mut natural = phase::of(input.pod, status, is_done, initialized(input)).to_owned();
    if over && forced_reason(input).is_some() {
        phase::FAILED.clone_into(&mut natural);
    }
    let reported = if phase::is_terminal(&natural) && !over {
        old.phase
            .clone()
            .filter(|phase| !phase.is_empty())
            .unwrap_or_else(|| phase::PENDING.to_owned())
    } else {
        natural.clone()
    };
    PhaseDecision { reported, natural, over }
}

/// Whether anything of the pod runs or could begin to.
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

/// Whether a main container of the pod's present sandbox exists: then its init containers were done
/// once.
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

/// The reason and message of a pod that the node has ended, whatever its containers' exit codes.
fn forced_reason<'a>(input: &ComputeInput<'a>) -> Option<(&'a str, &'a str)> {
    match &input.lifecycle.terminating()?.cause {
        TerminationCause::Evicted { reason, message } => Some((reason, message)),
        TerminationCause::DeadlineExceeded => Some((DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE)),
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
    decision: &PhaseDecision,
) -> (Option<String>, Option<String>) {
    let known = [old, recorded];
    let unchanged = old.phase.as_deref().unwrap_or_default() == decision.reported;
    let kept = |field: fn(&api::PodStatus) -> &Option<String>| {
        let mut texts = known.into_iter().filter_map(|status| field(status).clone());
        texts.find(|text| !text.is_empty()).filter(|_| unchanged)
    };
    let (reason, message) = (kept(|status| &status.reason), kept(|status| &status.message));
    match forced_reason(input) {
        Some((forced, text)) if decision.over && !is_terminal(recorded) && !is_terminal(old) => {
            (Some(forced.to_owned()), Some(text.to_owned()))
        }
        _ => (reason, message),
    }
}

/// The node's addresses and the pod's: those of its sandbox while there is one, else the last known
/// ones.
fn addresses(input: &ComputeInput<'_>, old: &api::PodStatus, status: &mut api::PodStatus) {
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
    let mut ips = ordered(
        ready.map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default(),
        input.node.prefers_ipv6,
    );
    if ips.is_empty() && pod::is_host_network(input.pod) {
        ips = hosts.iter().take(2).map(IpAddr::to_string).collect();
    }
    let running = |state: &ContainerState| state.is_running();
    let lively = ready.is_some()
        || input.observed.containers.iter().any(|container| running(&container.state));
    if ips.is_empty() && !lively {
        status.pod_ip.clone_from(&old.pod_ip);
        status.pod_ips.clone_from(&old.pod_ips);
        return;
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = some_list(ips.into_iter().map(|ip| api::PodIP { ip }).collect());
}

/// The first address of the preferred family, then the first of the other.
pub fn ordered(ips: &[IpAddr], prefers_ipv6: bool) -> Vec<String> {
    let first = |v6: bool| ips.iter().find(|ip| ip.is_ipv6() == v6).map(IpAddr::to_string);
    first(prefers_ipv6).into_iter().chain(first(!prefers_ipv6)).collect()
}

/// Whether the status has a terminal phase.
pub(super) fn is_terminal(status: &api::PodStatus) -> bool {
    status.phase.as_deref().is_some_and(phase::is_terminal)
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
