//! The postStart hook of a running container. The preStop hook is part of a kill.

use tracing::warn;

use super::scope::Scope;
use super::{Effect, Outcome};
use crate::model::{ContainerId, pod};
use crate::pods::hooks;
use crate::pods::memory::container::HookState;

/// Runs the postStart hook of a container to its end.
pub(super) async fn post_start(scope: Scope<'_>, container: String, id: ContainerId) -> Effect {
    let state = run(scope, &container, &id).await;
    Effect::unchanged(Ok(Outcome::Hook { id, state }))
}

async fn run(scope: Scope<'_>, container: &str, id: &ContainerId) -> HookState {
    let Some((kind, spec)) = pod::find_container(&scope.context.pod, container) else {
        return HookState::Done;
    };

    match hooks::post_start(scope.hook_target(kind, &spec, id)).await {
        Ok(()) => HookState::Done,
        Err(error) => {
            warn!(container, "postStart hook failed");
            HookState::Failed { message: error.to_string() }
        }
    }
}
