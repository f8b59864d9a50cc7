//! A resize in place (KEP-1287): running containers are given other amounts of CPU and memory
//! without a restart, unless their resize policy asks for one. The pod's cgroup goes with them.

use super::container_spec::ContainerSpec;
use super::planner::Planner;
use super::types::{Action, Key};
use crate::model::{ContainerState, ObservedContainer, SandboxId, Stage};
use crate::resources::allocation;

impl Planner<'_> {
    /// Brings the running containers and the pod's cgroup to what the pod has been given. A
    /// container that is about to be replaced gets it with its next start. Without a sandbox
    /// nothing runs, and the cgroup is all there is.
    pub(super) fn resize(&mut self, sandbox: Option<&SandboxId>) {
        if !self.is_resizing() {
            return;
        }
        let running =
            self.observed.containers.iter().filter(|container| container.state.is_running());
        let given = running
            .filter_map(|container| Some((container.id.clone(), *self.known.given(&container.id)?)))
            .collect();
        self.attempt(Action::Resize { sandbox: sandbox.cloned(), given });
        self.block_on(
            Stage::Resize,
            "its containers to be given other resources".into(),
            &Key::Resize,
        );
    }

    /// Whether anything of the pod has other resources than it was given.
    pub(super) fn is_resizing(&self) -> bool {
        self.is_cgroup_resizing()
            || self.specs.iter().any(|spec| {
                self.observed.latest(spec.name).is_some_and(|container| {
                    container.state.is_running() && self.is_resized(spec, container)
                })
            })
    }

    /// Whether the pod's cgroup was made for other resources.
    pub(super) fn is_cgroup_resizing(&self) -> bool {
        self.specs.iter().any(|spec| {
            let given = self.known.cgroup_given(spec.name);
            given.is_some_and(|given| *given != spec.requirements)
        })
    }

    /// Whether the pod's cgroup is about to be resized. A resize that has failed is not waited for,
    /// as with upstream: it may fail for as long as a container uses more than it is to have.
    pub(super) fn expects_cgroup_resize(&self) -> bool {
        self.is_cgroup_resizing() && !self.known.failures.contains_key(&Key::Resize)
    }

    /// Whether a running container was given other resources than it has.
    pub(super) fn is_resized(
        &self,
        spec: &ContainerSpec<'_>,
        container: &ObservedContainer,
    ) -> bool {
        let has = self.known.given(&container.id);
        !self.is_being_killed(&container.id)
            && !self.needs_restart_for_resize(spec, container)
            && has.is_some_and(|has| *has != spec.requirements)
    }

    /// Whether a running container has to be started anew to be given what its spec says.
    pub(super) fn needs_restart_for_resize(
        &self,
        spec: &ContainerSpec<'_>,
        container: &ObservedContainer,
    ) -> bool {
        let ContainerState::Running { .. } = container.state else { return false };
        let Some(has) = self.known.given(&container.id) else { return false };
        allocation::needs_restart(spec.resize_policy, *has, spec.requirements)
    }
}
