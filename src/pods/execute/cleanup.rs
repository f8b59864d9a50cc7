//! After the end: containers removed from the runtime with their logs, the pod's cgroup and
//! directories removed from the node.

use super::scope::Scope;
use super::users::release_user_ids;
use super::{ActionError, Effect, Outcome, logs};
use crate::cri::v1;
use crate::model::{ContainerId, error_chain};

/// Removes a container that does not run, with its log. Of a container that is merely reset only
/// the link goes: the log goes with the directory of the pod.
pub(super) async fn remove_container(scope: Scope<'_>, id: ContainerId, reset: bool) -> Effect {
    let observed = scope.context.observed.container(&id);
    let mut mutation = scope.begin_mutation();
    if let Some(container) = observed {
        mutation.touched_container(&id, &container.sandbox);
    }
    let request = v1::RemoveContainerRequest { container_id: id.as_str().to_owned() };
    let removed = scope.deps.runtime.cri.remove_container(request).await;
    mutation.end();
    if let Err(error) = &removed
        && !error.is_not_found()
    {
        let error = ActionError::new("RemoveContainerError", error.to_string());
        return Effect::mutated(Err(error));
    }

    if let Some(container) = observed {
        if !reset {
            logs::remove_rotated(&container.log_path);
        }
        logs::remove_file(&scope.log_link(&container.name, &id));
    }
    Effect::mutated(Ok(if reset { Outcome::Reset { id } } else { Outcome::Done }))
}

/// Removes what is left on the node: the cgroup, then the directories. The volumes are gone before
/// (the plan's order).
pub(super) async fn clean_up(scope: Scope<'_>) -> Effect {
    Effect::unchanged(remove_cgroup_and_directories(scope).await)
}

async fn remove_cgroup_and_directories(scope: Scope<'_>) -> Result<Outcome, ActionError> {
    let deps = scope.deps;
    let failed = |what: &str, error: String| {
        ActionError::new("CleanUp", format!("failed to delete the pod's {what}: {error}"))
    };

    if let Some(cgroups) = &deps.resources.cgroups {
        let removed = cgroups.remove(scope.uid).await;
        removed.map_err(|error| failed("cgroup", error_chain(&error)))?;
    }
    // Upstream frees the ids at the same moment: a pod that has ended keeps none, however long its
    // object stays.
    release_user_ids(scope).await;
    let removed = deps.volumes.remove_pod_dir(scope.uid).await;
    removed.map_err(|error| failed("directory", error_chain(&error)))?;
    if let Some(tokens) = &deps.api.tokens {
        tokens.forget(scope.uid);
    }
    Ok(Outcome::CleanedUp)
}
