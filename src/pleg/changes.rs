//! Finds the changes of sandboxes and containers between two observations of a pod, for the log.
//! Pure. Fed by the task.
//!
//! The log has one line per change, whatever caused it: a call of this kubelet, the container's own
//! end, or another client of the runtime.

use crate::model::{
    ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId, SandboxState,
};

/// A change of one sandbox or container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change<'a> {
    /// A sandbox is there in this state, which it did not have before.
    Sandbox(&'a ObservedSandbox),
    /// A sandbox was removed.
    SandboxRemoved(&'a ObservedSandbox),
    /// A container is there in this state, which it did not have before.
    Container(&'a ObservedContainer),
    /// A container was removed.
    ContainerRemoved(&'a ObservedContainer),
}

impl Change<'_> {
    /// Returns the message of the log.
    pub(super) fn message(&self) -> &'static str {
        match self {
            Self::Sandbox(sandbox) => match sandbox.state {
                SandboxState::Ready => "sandbox ready",
                SandboxState::NotReady => "sandbox not ready",
            },
            Self::SandboxRemoved(_) => "sandbox removed",
            Self::Container(container) => match container.state {
                ContainerState::Created => "container created",
                ContainerState::Running { .. } => "container started",
                ContainerState::Exited(_) => "container ended",
                ContainerState::Unknown => "container state unknown",
            },
            Self::ContainerRemoved(_) => "container removed",
        }
    }
}

/// Lists the changes from `old` to `new`: sandboxes first, removals last.
pub(super) fn between<'a>(old: &'a ObservedPod, new: &'a ObservedPod) -> Vec<Change<'a>> {
    let changed_sandboxes = new.sandboxes.iter().filter(|found| {
        sandbox_of(old, &found.id).is_none_or(|before| before.state != found.state)
    });
    let changed_containers = new.containers.iter().filter(|found| {
        old.container(&found.id).is_none_or(|before| !is_same(&before.state, &found.state))
    });
    let removed_containers =
        old.containers.iter().filter(|before| new.container(&before.id).is_none());
    let removed_sandboxes =
        old.sandboxes.iter().filter(|before| sandbox_of(new, &before.id).is_none());

    changed_sandboxes
        .map(Change::Sandbox)
        .chain(changed_containers.map(Change::Container))
        .chain(removed_containers.map(Change::ContainerRemoved))
        .chain(removed_sandboxes.map(Change::SandboxRemoved))
        .collect()
}

/// Returns the sandbox with this id.
fn sandbox_of<'a>(pod: &'a ObservedPod, id: &SandboxId) -> Option<&'a ObservedSandbox> {
    pod.sandboxes.iter().find(|sandbox| sandbox.id == *id)
}

/// Returns true if two states differ at most in their details.
fn is_same(old: &ContainerState, new: &ContainerState) -> bool {
    std::mem::discriminant(old) == std::mem::discriminant(new)
}

#[cfg(test)]
mod tests {
    use super::between;
    use crate::model::observed::Exit;
    use crate::model::{
        ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId,
        SandboxState, Wall,
    };

    fn running() -> ContainerState {
        ContainerState::Running { started_at: Wall::UNIX_EPOCH }
    }

    fn exited(exit_code: i32) -> ContainerState {
        ContainerState::Exited(Exit {
            started_at: None,
            finished_at: Wall::UNIX_EPOCH,
            exit_code,
            reason: "Error".to_owned(),
            message: "from the container".to_owned(),
        })
    }

    fn pod(
        sandboxes: &[(&str, SandboxState)],
        containers: &[(&str, ContainerState)],
    ) -> ObservedPod {
        let sandbox = |(id, state): &(&str, SandboxState)| ObservedSandbox {
            id: SandboxId::new(*id),
            attempt: 0,
            state: *state,
            created_at: Wall::UNIX_EPOCH,
            ips: Vec::new(),
            host_network: false,
            runtime_handler: String::new(),
            is_static: false,
        };
        let container = |(id, state): &(&str, ContainerState)| ObservedContainer {
            id: ContainerId::new(*id),
            name: "web".to_owned(),
            sandbox: SandboxId::new("s"),
            restart_count: 0,
            hash: 0,
            image: String::new(),
            image_ref: String::new(),
            created_at: Wall::UNIX_EPOCH,
            state: state.clone(),
            user: None,
            resources: None,
            mounts: Vec::new(),
            log_path: String::new(),
            stop_signal: None,
        };
        ObservedPod {
            sandboxes: sandboxes.iter().map(sandbox).collect(),
            containers: containers.iter().map(container).collect(),
        }
    }

    #[track_caller]
    fn check(old: &ObservedPod, new: &ObservedPod, expected: &[&str]) {
        let messages: Vec<&str> = between(old, new).iter().map(super::Change::message).collect();
        assert_eq!(messages, expected);
    }

    #[test]
    fn each_change_is_found_once() {
        let none = pod(&[], &[]);
        let ready = [("s", SandboxState::Ready)];
        let stopped = [("s", SandboxState::NotReady)];
        let created = pod(&ready, &[("c", ContainerState::Created)]);
        let started = pod(&ready, &[("c", running())]);
        let ended = pod(&stopped, &[("c", exited(1))]);
        check(&none, &created, &["sandbox ready", "container created"]);
        check(&created, &started, &["container started"]);
        check(&started, &started, &[]);
        check(&started, &ended, &["sandbox not ready", "container ended"]);
        check(&ended, &none, &["container removed", "sandbox removed"]);
        check(&none, &ended, &["sandbox not ready", "container ended"]);
        check(
            &started,
            &pod(&ready, &[("c", ContainerState::Unknown)]),
            &["container state unknown"],
        );
    }

    #[test]
    fn a_restart_is_the_end_of_one_and_the_start_of_another() {
        let ready = [("s", SandboxState::Ready)];
        let before = pod(&ready, &[("a", running())]);
        let after = pod(&ready, &[("b", running()), ("a", exited(0))]);
        check(&before, &after, &["container started", "container ended"]);
    }
}
