//! What users read while a container does not run: upstream's reasons and texts, with the cause
//! where there is one. Pure.

use super::types::Plan;
use super::view::View;
use crate::model::reason::container::{CONTAINER_CREATING, POD_INITIALIZING};
use crate::model::{ContainerState, Lifecycle, Stage, Waiting, pod};

/// Gives every container that has not come up yet, and has no reason so far, upstream's default
/// reason. Where the whole pod waits for something that has gone wrong the message says so
/// (upstream leaves it empty).
pub(super) fn explain(view: &View<'_>, plan: &mut Plan) {
    if view.facts.recorded.terminal_phase.is_some() || pod::is_terminal(view.pod) {
        // The pod was over before this process saw it: the API's record stands.
        return;
    }

    let reason = if pod::init_containers(view.pod).is_empty() {
        CONTAINER_CREATING
    } else {
        POD_INITIALIZING
    };
    let message = pod_wide_obstacle(view, plan);
    for spec in view.specs.iter().filter(|spec| never_ran(view, spec.name)) {
        let waiting = Waiting { reason: reason.to_owned(), message: message.clone() };
        plan.waiting.entry(spec.name.to_owned()).or_insert(waiting);
    }
}

/// Returns true if nothing is known of a container but that it should come up.
fn never_ran(view: &View<'_>, name: &str) -> bool {
    if let Some(container) = view.observed.latest(name) {
        return container.state == ContainerState::Created;
    }

    let recorded = &view.facts.recorded;
    let sandbox = view.observed.latest_sandbox().map(|sandbox| &sandbox.id);
    let same_sandbox = recorded.sandbox.is_some() && recorded.sandbox.as_ref() == sandbox;
    let done_before = same_sandbox && recorded.init_done.iter().any(|done| done == name);
    !done_before && !view.was_created(name)
}

/// The obstacle that keeps all containers from coming up, once something has gone wrong with it.
fn pod_wide_obstacle(view: &View<'_>, plan: &Plan) -> String {
    if *view.lifecycle != Lifecycle::Syncing {
        return String::new();
    }
    let Some(blocked) = &plan.blocked else { return String::new() };
    match blocked.stage {
        Stage::Cgroup | Stage::Volumes | Stage::Sandbox => {
            let failed = |error| format!("waiting for {}: {error}", blocked.on);
            blocked.last_error.as_ref().map(failed).unwrap_or_default()
        }
        Stage::Network => blocked.on.clone(),
        Stage::Admission => format!("waiting for {}", blocked.on),
        Stage::Image
        | Stage::Create
        | Stage::Start
        | Stage::PostStart
        | Stage::Init
        | Stage::Resize
        | Stage::Restart
        | Stage::Stop
        | Stage::Status => String::new(),
    }
}
