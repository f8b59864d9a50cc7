//! Whether the start of a pod with a user namespace of its own has failed, as upstream counts it:
//! the kernel often refuses users only when a container is created, so a failure in the sync that
//! made the sandbox counts as well. That sync starts the first init container, or every main one.
//!
//! Fed by the executor with each action of the pod and its end.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{ActionError, Outcome};
use crate::model::{Pod, pod};
use crate::pods::memory::slot::ImageState;
use crate::pods::plan::types::Action;

/// Whether the first failure of a container would count.
#[derive(Debug, Default)]
pub(super) struct OwnUsers {
    is_armed: AtomicBool,
}

/// What an action is to the start of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It makes the sandbox.
    Sandbox,
    /// It starts a container of the sync that made the sandbox.
    Container,
    /// Nothing.
    None,
}

impl Part {
    /// The part of an action.
    pub(super) fn of(action: &Action, pod: &Pod) -> Self {
        if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Self::None;
        }
        let is_first = |name: &str| match pod::init_containers(pod).first() {
            Some(first) => first.name == name,
            None => pod::main_containers(pod).iter().any(|container| container.name == name),
        };
        match action {
            Action::CreateSandbox { .. } => Self::Sandbox,
            Action::EnsureImage { container, silent: false }
            | Action::StartContainer { container, restart_count: 0, .. }
                if is_first(container) =>
            {
                Self::Container
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::EnsureImage { .. }
            | Action::StartContainer { .. }
            | Action::Resize { .. }
            | Action::PostStart { .. }
            | Action::PreStop { .. }
            | Action::KillContainer { .. }
            | Action::HurryKill { .. }
            | Action::RemoveContainer { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::UnmountVolumes
            | Action::CleanUp => Self::None,
        }
    }
}

impl OwnUsers {
    /// Takes in how an action ended. Returns true if it counts as a failed start. One sandbox fails
    /// once; that it could not be made is counted where that is told.
    pub(super) fn has_failed(&self, part: Part, outcome: &Result<Outcome, ActionError>) -> bool {
        match part {
            Part::Sandbox => {
                self.is_armed.store(outcome.is_ok(), Ordering::Relaxed);
                false
            }
            Part::Container => {
                let is_failure = matches!(
                    outcome,
                    Err(_) | Ok(Outcome::Image { state: ImageState::Failed { .. }, .. })
                );
                is_failure && self.is_armed.swap(false, Ordering::Relaxed)
            }
            Part::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Action, ActionError, Outcome, OwnUsers, Part, Pod};
    use crate::model::ContainerKind;

    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).expect("a pod")
    }

    fn start(container: &str, restart_count: u32) -> Action {
        Action::StartContainer {
            container: container.to_owned(),
            kind: ContainerKind::Main,
            restart_count,
            sandbox: "s".into(),
            image_ref: String::new(),
        }
    }

    #[test]
    fn a_container_that_fails_after_its_sandbox_counts_once() {
        let failed = || Err(ActionError::internal("no"));
        let counts = OwnUsers::default();
        assert!(!counts.has_failed(Part::Container, &failed()), "the sandbox is an older one");
        assert!(!counts.has_failed(Part::Sandbox, &Ok(Outcome::Done)));
        assert!(!counts.has_failed(Part::Container, &Ok(Outcome::Done)));
        assert!(counts.has_failed(Part::Container, &failed()));
        assert!(!counts.has_failed(Part::Container, &failed()), "once for a sandbox");
        assert!(!counts.has_failed(Part::Sandbox, &failed()));
        assert!(!counts.has_failed(Part::Container, &failed()));
    }

    #[test]
    fn the_sync_that_makes_the_sandbox_starts_the_first_containers() {
        let mains = json!([{"name": "a"}, {"name": "b"}]);
        let own = pod(json!({"hostUsers": false, "containers": mains}));
        assert_eq!(Part::of(&Action::CreateSandbox { attempt: 0 }, &own), Part::Sandbox);
        assert_eq!(Part::of(&start("b", 0), &own), Part::Container);
        assert_eq!(Part::of(&start("b", 1), &own), Part::None);
        let of_node = pod(json!({"containers": mains}));
        assert_eq!(Part::of(&start("b", 0), &of_node), Part::None);
        let inits = json!([{"name": "i"}, {"name": "j"}]);
        let own = pod(json!({"hostUsers": false, "initContainers": inits, "containers": mains}));
        let parts = ["i", "j", "a"].map(|name| Part::of(&start(name, 0), &own));
        assert_eq!(parts, [Part::Container, Part::None, Part::None]);
    }
}
