//! Computes the conditions of the Node: the three pressures and Ready. Pure.
//!
//! Each input is a field of [`Facts`]. Reasons, messages and events are upstream's. Conditions of
//! other writers (NetworkUnavailable) are never touched.

use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::NodeConfig;
use super::sources::Facts;
use super::status_input::{StatusEvent, StatusInput};
use crate::model::{EventType, Mono, Pressure, Wall};

/// One of the three conditions of pressure, in both states.
struct Shortage {
    type_: &'static str,
    is_short: bool,
    /// Reason, message and event while the node is short of it.
    yes: (&'static str, &'static str, &'static str),
    /// Reason, message and event while the node has enough.
    no: (&'static str, &'static str, &'static str),
}

/// Sets this kubelet's conditions and appends the events that their changes cause. Conditions of
/// others keep their place and value.
pub(super) fn apply(
    status: &mut NodeStatus,
    input: StatusInput<'_>,
    events: &mut Vec<StatusEvent>,
) {
    let missing = missing_capacity(status, input.config);
    let now = input.now.wall;
    let conditions = status.conditions.get_or_insert_default();

    for shortage in shortages(input.facts.pressure) {
        let (reason, message, event) = if shortage.is_short { shortage.yes } else { shortage.no };
        let value = if shortage.is_short { "True" } else { "False" };
        let changed = set(conditions, shortage.type_, value, now, |condition, changed| {
            // Upstream leaves reason and message alone while the status stays.
            if changed {
                condition.reason = Some(reason.to_owned());
                condition.message = Some(message.to_owned());
            }
        });

        if changed != Transition::None {
            events.push(status_event(input.config, event));
        }
    }

    let problem = join(problems(input.facts, input.now.mono, &missing));
    let (value, reason, message) = match &problem {
        None => ("True", "KubeletReady", "kubelet is posting ready status"),
        Some(problem) => ("False", "KubeletNotReady", problem.as_str()),
    };
    let changed = set(conditions, "Ready", value, now, |condition, _| {
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.to_owned());
    });

    if changed == Transition::Changed {
        let event = if problem.is_none() { "NodeReady" } else { "NodeNotReady" };
        events.push(status_event(input.config, event));
    }
}

/// Returns upstream's three conditions of pressure, in its order.
fn shortages(pressure: Pressure) -> [Shortage; 3] {
    [
        Shortage {
            type_: "MemoryPressure",
            is_short: pressure.memory,
            yes: (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
                "NodeHasInsufficientMemory",
            ),
            no: (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
                "NodeHasSufficientMemory",
            ),
        },
        Shortage {
            type_: "DiskPressure",
            is_short: pressure.disk,
            yes: ("KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"),
            no: (
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
                "NodeHasNoDiskPressure",
            ),
        },
        Shortage {
            type_: "PIDPressure",
            is_short: pressure.pid,
            yes: (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
                "NodeHasInsufficientPID",
            ),
            no: (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
                "NodeHasSufficientPID",
            ),
        },
    ]
}

/// The way in which a condition's status has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    None,
    New,
    Changed,
}

/// Sets a condition in its place, or appends it.
fn set(
    conditions: &mut Vec<NodeCondition>,
    type_: &str,
    value: &str,
    now: Wall,
    describe: impl FnOnce(&mut NodeCondition, bool),
) -> Transition {
    // The API keeps seconds: a finer time would look like a change.
    let now = Time(Wall::from_second(now.as_second()).unwrap_or(now));
    let position = conditions.iter().position(|condition| condition.type_ == type_);
    let index = position.unwrap_or_else(|| {
        conditions.push(NodeCondition { type_: type_.to_owned(), ..NodeCondition::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[index];
    let changed = condition.status != value;
    condition.last_heartbeat_time = Some(now.clone());

    if changed {
        value.clone_into(&mut condition.status);
        condition.last_transition_time = Some(now);
    }

    describe(condition, changed);
    match (position, changed) {
        (None, _) => Transition::New,
        (Some(_), true) => Transition::Changed,
        (Some(_), false) => Transition::None,
    }
}

/// Returns the resources that are missing from the capacity and without which a node is not ready.
fn missing_capacity(status: &NodeStatus, config: &NodeConfig) -> Vec<&'static str> {
    let mut required = vec!["cpu", "memory", "pods"];
    if config.local_storage {
        required.push("ephemeral-storage");
    }
    required.retain(|name| {
        status.capacity.as_ref().is_none_or(|capacity| !capacity.contains_key(*name))
    });
    required
}

/// Lists the reasons why the node is not ready, in upstream's order: the runtime's silence, PLEG,
/// the runtime's own condition, its network, storage, a shutdown, capacity.
fn problems(facts: &Facts, now: Mono, missing: &[&str]) -> [Option<String>; 7] {
    let missing = (!missing.is_empty())
        .then(|| format!("missing node capacity for resources: {}", missing.join(", ")));
    [
        facts.runtime.silence(now).map(str::to_owned),
        facts.pleg.err().map(|problem| problem.to_string()),
        facts.runtime.runtime.clone().err(),
        facts.runtime.network.clone().err(),
        facts.storage.clone(),
        facts.shutdown.map(|_| "node is shutting down".to_owned()),
        missing,
    ]
}

/// Joins problems as upstream does. A single one stays as it is; several become a list in brackets
/// without repetitions. Returns `None` if there is no problem.
fn join(problems: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let mut list: Vec<String> = Vec::new();
    for problem in problems.into_iter().flatten() {
        if !list.contains(&problem) {
            list.push(problem);
        }
    }
    if list.len() < 2 { list.pop() } else { Some(format!("[{}]", list.join(", "))) }
}

/// Returns upstream's event for a reason without a message of its own.
fn status_event(config: &NodeConfig, reason: &'static str) -> StatusEvent {
    let message = format!("Node {} status is now: {reason}", config.node_name);
    StatusEvent { event_type: EventType::Normal, reason, message }
}
