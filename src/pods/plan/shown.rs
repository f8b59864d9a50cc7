//! What the status and the probes are to show of the containers. Pure.

use std::collections::BTreeSet;

use super::restart;
use super::types::Plan;
use super::view::View;
use crate::model::{ContainerId, ObservedContainer};

/// The containers that are stopped in order to be replaced.
pub(super) fn replaced(view: &View<'_>) -> BTreeSet<ContainerId> {
    let is_replaced = |container: &&ObservedContainer| {
        let known = view.known.containers.get(&container.id);
        let why = known.and_then(|known| known.stop.reason());
        let spec = view.spec(&container.name);
        why.zip(spec).is_some_and(|(why, spec)| restart::after_kill(&spec, why))
    };
    let replaced = view.observed.containers.iter().filter(is_replaced);
    replaced.map(|container| container.id.clone()).collect()
}

/// Notes which running containers are probed, and which are shown as merely created because their
/// postStart hook has not ended.
pub(super) fn note_running(view: &View<'_>, plan: &mut Plan) {
    for container in &view.observed.containers {
        let Some(spec) = view.spec(&container.name) else { continue };
        if !container.state.is_running() {
            continue;
        }
        if !view.hook_is_pending(&spec, container) {
            plan.probed.insert(container.id.clone());
        } else if !view.lifecycle.is_stopping() {
            plan.shown_as_created.insert(container.id.clone());
        }
    }
}
