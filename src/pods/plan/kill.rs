//! How one container is stopped: its deadline, whether its preStop hook runs, and what the event
//! says.

use std::time::Duration;

use super::container_spec::ContainerSpec;
use super::planner::Planner;
use super::restart;
use super::types::{Action, Key, KillReason};
use crate::model::time::seconds;
use crate::model::{
    ContainerId, ContainerKind, ContainerState, Mono, ObservedContainer, Pod, Stage, pod,
};

/// Every container gets this long to end by itself, even when the pod's grace is used up (upstream:
/// `minimumGracePeriodInSeconds`).
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// The text of the `Killing` event, upstream's: why a container is stopped and whether it comes
/// back.
pub fn kill_message(pod: &Pod, container: &str, why: &KillReason) -> String {
    let specs = ContainerSpec::all(pod);
    let spec = specs.iter().find(|spec| spec.name == container);
    let is_main = spec.is_none_or(|spec| spec.kind == ContainerKind::Main);
    let subject = if is_main { "Container" } else { "Init container" };
    let cause = match why {
        KillReason::PodStopping | KillReason::SandboxChanged | KillReason::NotWanted => {
            return format!("Stopping container {container}");
        }
        // Upstream's own words.
        KillReason::RestartAll => return "killing".into(),
        KillReason::Resize => return format!("Container {container} resize requires restart"),
        KillReason::PostStart { .. } => return "FailedPostStartHook".into(),
        KillReason::Unknown => {
            return format!("{subject} is in \"unknown\" state, try killing it before restart");
        }
        KillReason::DefinitionChanged => "definition changed",
        KillReason::Liveness => "failed liveness probe",
        KillReason::Startup => "failed startup probe",
    };
    // Upstream announces the restart of main containers only.
    let restarts = is_main && spec.is_none_or(|spec| restart::after_kill(spec, why));
    let outlook = if restarts { ", will be restarted" } else { "" };
    format!("{subject} {container} {cause}{outlook}")
}

impl Planner<'_> {
    /// Stops a container. `deadline` is the pod's where the pod stops; else the container gets its
    /// own grace from now.
    pub(super) fn kill(
        &mut self,
        container: &ObservedContainer,
        why: KillReason,
        deadline: Option<Mono>,
    ) {
        let spec = self.spec(&container.name);
        let key = Key::Container(container.id.clone());
        let grace = self.own_grace(spec.as_ref(), &why);
        let wanted = deadline.unwrap_or_else(|| self.now.mono.after(grace));
        let pre_stop = spec.is_some_and(|spec| spec.has_pre_stop())
            && wanted > self.now.mono
            && container.state != ContainerState::Unknown
            && !self.known.is_pre_stopped(&container.id)
            // A kill that failed has run the hook already.
            && !self.known.failures.contains_key(&key);
        self.attempt(Action::KillContainer {
            id: container.id.clone(),
            container: container.name.clone(),
            why,
            deadline: self.at_least(wanted),
            pre_stop,
        });
    }

    /// The grace of a container that is stopped on its own.
    pub(super) fn own_grace(&self, spec: Option<&ContainerSpec<'_>>, why: &KillReason) -> Duration {
        let of_probe = spec.and_then(|spec| spec.probe_grace_seconds(why));
        seconds(of_probe.unwrap_or_else(|| pod::spec_grace_seconds(self.pod)))
    }

    /// The grace of the whole pod: what its deletion says, else the spec; at least a second
    /// (upstream's pod workers).
    ///
    /// An object of the API that is gone while its containers run was deleted by force: a graceful
    /// deletion ends only when this node has said that they have stopped. The update that says so
    /// may never be seen, the removal overtakes it. A pod that was rebuilt from the runtime has no
    /// version: its own grace counts.
    pub(super) fn pod_grace(&self) -> Duration {
        if self.is_removed_by_force() {
            return Duration::from_secs(1);
        }
        let deletion = self.pod.metadata.deletion_grace_period_seconds;
        seconds(deletion.unwrap_or_else(|| pod::spec_grace_seconds(self.pod)))
            .max(Duration::from_secs(1))
    }

    /// Whether the object is gone from the API server, see [`Planner::pod_grace`].
    pub(super) fn is_removed_by_force(&self) -> bool {
        let from_api = !pod::is_static(self.pod) && self.pod.metadata.resource_version.is_some();
        self.facts.is_gone() && from_api
    }

    /// `deadline`, or a little later where that leaves a container no time at all.
    pub(super) fn at_least(&self, deadline: Mono) -> Mono {
        deadline.max(self.now.mono.after(LEAST_GRACE))
    }

    /// Reports that the pod waits for a container to stop.
    pub(super) fn block_on_kill(&mut self, stage: Stage, id: &ContainerId, name: &str) {
        self.block_on(stage, format!("container \"{name}\" to stop"), &Key::Container(id.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::KillReason;
    use super::kill_message;
    use crate::model::Pod;

    #[test]
    fn says_what_upstream_says() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{},"spec":{"restartPolicy":"Always",
                "initContainers":[{"name":"mesh","restartPolicy":"Always"}],
                "containers":[{"name":"app"},{"name":"once","restartPolicy":"Never"}]}}"#,
        )
        .expect("a pod");
        for (container, why, text) in [
            ("app", KillReason::PodStopping, "Stopping container app"),
            ("app", KillReason::SandboxChanged, "Stopping container app"),
            (
                "app",
                KillReason::DefinitionChanged,
                "Container app definition changed, will be restarted",
            ),
            ("app", KillReason::Liveness, "Container app failed liveness probe, will be restarted"),
            ("once", KillReason::Liveness, "Container once failed liveness probe"),
            ("app", KillReason::Startup, "Container app failed startup probe, will be restarted"),
            ("mesh", KillReason::Startup, "Init container mesh failed startup probe"),
            (
                "mesh",
                KillReason::Unknown,
                "Init container is in \"unknown\" state, try killing it before restart",
            ),
            ("app", KillReason::PostStart { message: "x".into() }, "FailedPostStartHook"),
        ] {
            assert_eq!(kill_message(&pod, container, &why), text);
        }
    }
}
