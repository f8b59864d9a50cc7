//! The kill of one container: its deadline, whether its preStop hook runs, and the text of its
//! event. Pure.

use std::time::Duration;

use super::container_spec::ContainerSpec;
use super::restart;
use super::types::{Action, Key, KillReason};
use super::view::View;
use crate::model::time::seconds;
use crate::model::{ContainerKind, ContainerState, Mono, ObservedContainer, Pod, pod};

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

/// The action that stops a container. `deadline` is the pod's where the pod stops; else the
/// container gets its own grace from now.
pub(super) fn kill(
    view: &View<'_>,
    container: &ObservedContainer,
    why: KillReason,
    deadline: Option<Mono>,
) -> Action {
    let spec = view.spec(&container.name);
    let key = Key::Container(container.id.clone());
    let grace = own_grace(view, spec.as_ref(), &why);
    let wanted = deadline.unwrap_or_else(|| view.now.mono.after(grace));
    let pre_stop = spec.is_some_and(|spec| spec.has_pre_stop())
        && wanted > view.now.mono
        && container.state != ContainerState::Unknown
        && !view.known.is_pre_stopped(&container.id)
        // A kill that failed has run the hook already.
        && !view.known.failures.contains_key(&key);

    Action::KillContainer {
        id: container.id.clone(),
        container: container.name.clone(),
        why,
        deadline: at_least(view, wanted),
        pre_stop,
    }
}

/// The grace of a container that is stopped on its own.
pub(super) fn own_grace(
    view: &View<'_>,
    spec: Option<&ContainerSpec<'_>>,
    why: &KillReason,
) -> Duration {
    let of_probe = spec.and_then(|spec| spec.probe_grace_seconds(why));
    seconds(of_probe.unwrap_or_else(|| pod::spec_grace_seconds(view.pod)))
}

/// The grace of the whole pod: that of its deletion, else of the spec; at least a second
/// (upstream's pod workers).
///
/// An object of the API that is gone while its containers run was deleted by force: a graceful
/// deletion ends only when this node has reported that they have stopped. The update with the grace
/// may never be seen, since the removal overtakes it. A pod that was rebuilt from the runtime has
/// no version: its own grace counts.
pub(super) fn pod_grace(view: &View<'_>) -> Duration {
    if is_removed_by_force(view) {
        return Duration::from_secs(1);
    }

    let deletion = view.pod.metadata.deletion_grace_period_seconds;
    seconds(deletion.unwrap_or_else(|| pod::spec_grace_seconds(view.pod)))
        .max(Duration::from_secs(1))
}

/// Returns true if the object is gone from the API server, see [`pod_grace`].
pub(super) fn is_removed_by_force(view: &View<'_>) -> bool {
    let from_api = !pod::is_static(view.pod) && view.pod.metadata.resource_version.is_some();
    view.facts.is_gone() && from_api
}

/// `deadline`, or a little later where that leaves a container no time at all.
pub(super) fn at_least(view: &View<'_>, deadline: Mono) -> Mono {
    deadline.max(view.now.mono.after(LEAST_GRACE))
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
