//! The pod's sandbox: whether the newest one can be used, and how it is replaced when not. Pure.

use super::draft::Draft;
use super::prepare::{Before, is_prepared};
use super::resize::{expects_cgroup_resize, resize};
use super::teardown::{stop_containers, stop_sandboxes};
use super::types::{Action, Key, KillReason, Notice};
use super::view::View;
use crate::model::reason::event;
use crate::model::{
    ContainerKind, EventType, ObservedContainer, ObservedSandbox, RestartPolicy, SandboxState,
    Stage, pod,
};
use crate::pods::memory::facts::NetworkProblem;
use crate::resources::claims;

/// What is to be done about the sandbox.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// The newest sandbox is good.
    Keep(&'a ObservedSandbox),
    /// A new one is needed.
    Replace {
        /// Its attempt number.
        attempt: u32,
    },
}

/// Judges the newest sandbox as upstream's `PodSandboxChanged` does: it must be the only one that
/// is ready, in the right network, and have an address.
pub(super) fn verdict<'a>(view: &View<'a>) -> Verdict<'a> {
    let Some(latest) = view.observed.latest_sandbox() else {
        return Verdict::Replace { attempt: 0 };
    };
    let sandboxes = view.observed.sandboxes.iter();
    let ready = sandboxes.filter(|sandbox| sandbox.state == SandboxState::Ready).count();
    let host_network = pod::is_host_network(view.pod);
    let good = latest.state == SandboxState::Ready
        && ready == 1
        && latest.host_network == host_network
        && (host_network || !latest.ips.is_empty())
        // One that is being stopped, or was stopped, only looks ready.
        && view.doing(&Key::Sandbox(latest.id.clone())).is_none()
        && !view.known.stopped.contains(&latest.id);
    if good {
        Verdict::Keep(latest)
    } else {
        Verdict::Replace { attempt: latest.attempt.saturating_add(1) }
    }
}

/// Returns true if a sandbox that is needed may be created.
///
/// A pod that is never restarted gets no second one after a main container was created or
/// initialization has failed; no pod gets one when none of its main containers is to be started any
/// more.
pub(super) fn may_be_created(view: &View<'_>) -> bool {
    let mains = view.of_kind(ContainerKind::Main);
    let began = mains.iter().any(|spec| view.was_created(spec.name));
    if !began {
        return !view.init_has_failed();
    }

    let is_second = view.observed.latest_sandbox().is_some();
    let is_over = mains.iter().all(|spec| view.is_done(spec));
    !(is_over || is_second && pod::restart_policy(view.pod) == RestartPolicy::Never)
}

/// Stops everything that runs, then the old sandboxes, then creates a new one.
pub(super) fn replace(draft: &mut Draft<'_>, attempt: u32) {
    let view = draft.view;
    if attempt > 0 && !view.observed.sandboxes.is_empty() {
        draft.notice(Notice {
            dedup: format!("attempt {attempt}"),
            container: None,
            event_type: EventType::Normal,
            reason: event::SANDBOX_CHANGED,
            message: "Pod sandbox changed, it will be killed and re-created.".into(),
        });
    }

    // A start that is under way would bring up a container in the old sandbox after the kills.
    let starting = draft.wait_for_starts(Stage::Sandbox);
    let quiet = stop_containers(draft, None, &KillReason::SandboxChanged);
    if starting || !quiet || !stop_sandboxes(draft, Stage::Sandbox) {
        return;
    }
    draft.attempt_all(purge_init_containers(view));
    if expects_cgroup_resize(view) {
        resize(draft, None);
        return;
    }

    if let Some(problem) = view.facts.network.as_ref()
        && !pod::is_host_network(view.pod)
    {
        block_on_network(draft, problem);
        return;
    }

    if is_prepared(draft, Before::Sandbox) {
        draft.attempt(Action::CreateSandbox { attempt });
        let claims = claims::names(view.pod);
        let on = if claims.is_empty() {
            "the pod sandbox and its network".to_owned()
        } else {
            format!("resource claim \"{}\" and the pod sandbox", claims.join("\", \""))
        };
        draft.block_on(Stage::Sandbox, on, &Key::NewSandbox);
    }
}

fn block_on_network(draft: &mut Draft<'_>, problem: &NetworkProblem) {
    let message = format!("network is not ready: {}", problem.message);
    draft.notice(Notice {
        dedup: message.clone(),
        container: None,
        event_type: EventType::Warning,
        reason: event::NETWORK_NOT_READY,
        message: message.clone(),
    });

    // The event is upstream's; the wait says more.
    let on = match &problem.diagnosis {
        Some(diagnosis) => format!("{message}; {diagnosis}"),
        None => message,
    };
    draft.block_since(Stage::Network, on, draft.view.now);
}

/// Removes the init containers of old sandboxes: they run again in the new one.
fn purge_init_containers(view: &View<'_>) -> Vec<Action> {
    let is_old_init = |container: &&ObservedContainer| {
        let kind = view.spec(&container.name).map(|spec| spec.kind);
        matches!(kind, Some(ContainerKind::Init | ContainerKind::Sidecar))
            && !view.may_run(container)
    };
    let old = view.observed.containers.iter().filter(is_old_init);
    old.map(|container| Action::RemoveContainer { id: container.id.clone(), reset: false })
        .collect()
}
