//! What the API's last status of a pod says that the node may no longer know: read once, when the
//! pod is adopted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::memory::facts::Recorded;
use crate::model::observed::{Exit, Remembered};
use crate::model::{ContainerId, ObservedSandbox, Phase, Wall, reason};
use crate::probes;

/// Terminal phase, finished init containers, start time.
pub fn recorded(status: Option<&PodStatus>) -> Recorded {
    let Some(status) = status else { return Recorded::default() };
    let done: Vec<_> = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter_map(|status| Some((status, status.state.as_ref()?.terminated.as_ref()?)))
        .filter(|(_, ended)| ended.exit_code == 0)
        .collect();
    Recorded {
        terminal_phase: Phase::of(status).filter(|phase| phase.is_terminal()),
        init_done: done.iter().map(|(status, _)| status.name.clone()).collect(),
        init_began: done.iter().filter_map(|(_, ended)| Some(ended.started_at.as_ref()?.0)).min(),
        sandbox: None,
        start_time: status.start_time.as_ref().map(|time| time.0),
    }
}

/// Whether containers that began then can have run in that sandbox. The API has whole seconds.
pub fn is_of(began: Option<Wall>, sandbox: &ObservedSandbox) -> bool {
    began.is_none_or(|began| sandbox.created_at.as_second() <= began.as_second())
}

/// Restart counts and exits of containers that have run: the runtime may have lost them (reboot).
pub fn remembered(status: Option<&PodStatus>, now: Wall) -> BTreeMap<String, Remembered> {
    let Some(status) = status else { return BTreeMap::new() };
    all(status)
        .filter(|status| status.container_id.as_deref().is_some_and(|id| !id.is_empty()))
        .filter_map(|status| {
            let restart_count = u32::try_from(status.restart_count).ok()?;
            if never_started(status) {
                // Made and never started: it counts for nothing, only those before it do.
                let before = restart_count.checked_sub(1)?;
                return Some((
                    status.name.clone(),
                    Remembered { restart_count: before, exit: None },
                ));
            }
            Some((status.name.clone(), Remembered { restart_count, exit: exit(status, now) }))
        })
        .collect()
}

/// Whether the container that a status names had been made and not been started: it waits, and is
/// not the one that ended.
fn never_started(status: &ContainerStatus) -> bool {
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    waits && last.and_then(|ended| ended.container_id.as_ref()) != status.container_id.as_ref()
}

/// Returns the end of a container that the runtime no longer has, if the API's status has it.
fn exit(status: &ContainerStatus, now: Wall) -> Option<Exit> {
    let state = status.state.as_ref()?;
    if let Some(ended) = &state.terminated {
        return Some(Exit {
            started_at: ended.started_at.as_ref().map(|time| time.0),
            finished_at: ended.finished_at.as_ref().map_or(now, |time| time.0),
            exit_code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
        });
    }
    state.running.is_some().then(|| unknown_exit(now))
}

/// The exit of a container that vanished while it ran; upstream's words.
pub fn unknown_exit(now: Wall) -> Exit {
    Exit {
        started_at: None,
        finished_at: now,
        exit_code: 137,
        reason: reason::container::CONTAINER_STATUS_UNKNOWN.to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
    }
}

/// What probes had said of the containers that may still run, by id.
pub fn probed(status: Option<&PodStatus>) -> BTreeMap<ContainerId, probes::Recorded> {
    let Some(status) = status else { return BTreeMap::new() };
    all(status)
        .filter_map(|status| {
            let (_, id) = status.container_id.as_deref()?.split_once("://")?;
            let recorded =
                probes::Recorded { started: status.started.unwrap_or(false), ready: status.ready };
            Some((ContainerId::new(id), recorded))
        })
        .collect()
}

fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_has_run_is_remembered() {
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running",
            "containerStatuses": [
                {"name": "app", "ready": true, "restartCount": 3, "image": "", "imageID": "", "containerID": "containerd://abc", "started": true},
                {"name": "new", "ready": false, "restartCount": 0, "image": "", "imageID": ""},
                {"name": "made", "ready": false, "restartCount": 0, "image": "", "imageID": "", "containerID": "containerd://ghi",
                 "state": {"waiting": {"reason": "PodInitializing"}}},
                {"name": "made-again", "ready": false, "restartCount": 2, "image": "", "imageID": "", "containerID": "containerd://jkl",
                 "state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://mno"}}},
                {"name": "crashed", "ready": false, "restartCount": 2, "image": "", "imageID": "", "containerID": "containerd://pqr",
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://pqr"}}},
            ],
            "initContainerStatuses": [
                {"name": "init", "ready": true, "restartCount": 0, "image": "", "imageID": "", "containerID": "containerd://def",
                 "state": {"terminated": {"exitCode": 0}}},
            ],
        }))
        .expect("a status");
        let counts = remembered(Some(&status), jiff::Timestamp::UNIX_EPOCH);
        let counts: Vec<_> =
            counts.iter().map(|(name, seen)| (name.as_str(), seen.restart_count)).collect();
        assert_eq!(counts, [("app", 3), ("crashed", 2), ("init", 0), ("made-again", 1)]);
        assert_eq!(recorded(Some(&status)).init_done, ["init"]);
        assert_eq!(recorded(Some(&status)).terminal_phase, None);
        assert!(probed(Some(&status))[&ContainerId::new("abc")].ready);
    }

    #[test]
    fn a_static_pod_begins_anew_whatever_became_of_its_mirror() {
        for phase in ["Failed", "Succeeded"] {
            let status = json!({"phase": phase, "startTime": "2023-11-14T22:13:20Z"});
            let status: PodStatus = serde_json::from_value(status).expect("a status");
            let of_static = recorded(Some(&crate::status::of_mirror(&status)));
            assert_eq!(of_static.terminal_phase, None, "{phase}");
            assert_eq!(of_static.start_time, status.start_time.as_ref().map(|time| time.0));
            assert!(recorded(Some(&status)).terminal_phase.is_some(), "an API pod stays {phase}");
        }
    }
}
