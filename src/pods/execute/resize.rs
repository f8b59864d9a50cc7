//! The resize of a running pod: its cgroup first where that grows, then its containers, those that
//! shrink first, then its cgroup where that shrinks. Doing it again changes nothing, so a failure
//! half-way is simply repeated.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use tracing::{debug, info};

use super::scope::Scope;
use super::users::user_ids;
use super::{ActionError, Context, Count, Effect, Outcome};
use crate::cri::v1;
use crate::model::{ContainerId, ObservedContainer, SandboxId, error_chain, pod};
use crate::pods::request;
use crate::resources::Figures;
use crate::resources::allocation::{Requirements, needs_restart};
use crate::resources::apply::PodCgroupError;
use crate::resources::pod_config::Reading;

/// The resize of one container.
#[derive(Debug)]
struct Change {
    id: ContainerId,
    spec: api::Container,
    has: Requirements,
    wants: Requirements,
}

impl Change {
    fn shrinks(&self) -> bool {
        self.wants.memory_limit < self.has.memory_limit
            || self.wants.cpu_request < self.has.cpu_request
    }

    /// The lower memory limit that the change sets, if it lowers the limit.
    fn lower_memory_limit(&self) -> Option<i64> {
        let limit = self.wants.memory_limit;
        let is_lower = limit != 0 && (self.has.memory_limit == 0 || limit < self.has.memory_limit);
        is_lower.then_some(limit)
    }
}

/// Resizes the pod's cgroup and its running containers from `given` to what the spec says. Without
/// a sandbox nothing runs, and the cgroup is all there is.
pub(super) async fn resize(
    scope: Scope<'_>,
    sandbox: Option<SandboxId>,
    given: BTreeMap<ContainerId, Requirements>,
) -> Effect {
    let mut mutation = scope.begin_mutation();
    let changes = changes(&given, scope.context);
    // The containers' states stay the same: unless named here they would not be read again.
    if let Some(sandbox) = &sandbox {
        for change in &changes {
            mutation.touched_container(&change.id, sandbox);
        }
    }

    let began = scope.deps.clock.now().mono;
    let done = resize_in_order(scope, sandbox.as_ref(), changes).await;
    mutation.end();
    let took = scope.deps.clock.now().mono.since(began);
    scope.deps.metrics.count(Count::Resized { took, success: done.is_ok() });
    let outcome = done.map(|(containers, cgroup)| Outcome::Resized { containers, cgroup });
    Effect::mutated(outcome)
}

/// The resources that the containers that were changed have now, and the figures of the cgroup.
type Resized = (Vec<(ContainerId, Requirements)>, Option<Figures>);

async fn resize_in_order(
    scope: Scope<'_>,
    sandbox: Option<&SandboxId>,
    mut changes: Vec<Change>,
) -> Result<Resized, ActionError> {
    let pod = &scope.context.pod;
    let cgroups = scope.deps.resources.cgroups.as_ref();
    let before = match cgroups {
        Some(cgroups) => cgroups.read(pod).await.map_err(|error| refused(&error))?,
        None => None,
    };
    let wanted = cgroups.map(|cgroups| cgroups.wanted(pod));
    let mut lowered = lowered_pod_limit(before, wanted);
    lowered.extend(lowered_limits(scope, &changes).await);
    check_memory(&lowered)?;

    if let Some(sandbox) = sandbox {
        resize_sandbox(scope, sandbox).await?;
    }
    if let (Some(cgroups), Some(before)) = (cgroups, before) {
        cgroups.grow(pod, before.into()).await.map_err(|error| refused(&error))?;
    }
    changes.sort_by_key(|change| !change.shrinks());
    for change in &changes {
        resize_container(scope, change).await?;
    }
    if let Some(cgroups) = cgroups {
        cgroups.resize(pod).await.map_err(|error| refused(&error))?;
    }

    let resized = changes.into_iter().map(|change| (change.id, change.wants)).collect();
    let cgroup =
        before.zip(wanted).map(|(before, wanted)| Figures::from(before).changed_to(wanted));
    Ok((resized, cgroup))
}

async fn resize_container(scope: Scope<'_>, change: &Change) -> Result<(), ActionError> {
    let oom = scope.oom_score_adj(&change.spec);
    let settings = &scope.deps.settings.spec;
    let linux = request::linux_resources(&scope.context.pod, &change.spec, oom, settings)
        .map_err(|error| failed(error.message))?;
    let request = v1::UpdateContainerResourcesRequest {
        container_id: change.id.as_str().to_owned(),
        linux: Some(linux),
        ..v1::UpdateContainerResourcesRequest::default()
    };
    let updated = scope.deps.runtime.cri.update_container_resources(request).await;
    updated.map_err(|error| failed(error.to_string()))?;
    info!(container = change.spec.name, wants = ?change.wants, "resized");
    Ok(())
}

/// A memory limit that a resize lowers.
#[derive(Debug)]
struct Lowered {
    /// Whose limit it is, as messages call it.
    of: String,
    limit: i64,
    /// Bytes in use; `None`: not known.
    usage: Option<u64>,
}

/// The pod's own limit, if the resize lowers it.
fn lowered_pod_limit(before: Option<Reading>, wanted: Option<Figures>) -> Vec<Lowered> {
    let (Some(before), Some(limit)) = (before, wanted.and_then(|wanted| wanted.memory)) else {
        return Vec::new();
    };
    if before.memory.is_some_and(|has| limit >= has) {
        return Vec::new();
    }
    vec![Lowered { of: "pod".to_owned(), limit, usage: before.memory_usage }]
}

/// The limits of containers that the resize lowers.
async fn lowered_limits(scope: Scope<'_>, changes: &[Change]) -> Vec<Lowered> {
    let mut lowered = Vec::new();
    for change in changes {
        let Some(limit) = change.lower_memory_limit() else { continue };
        let request = v1::ContainerStatsRequest { container_id: change.id.as_str().to_owned() };
        let stats = scope.deps.runtime.cri.container_stats(request).await;
        let usage = stats.ok().and_then(|answer| answer.stats?.memory?.usage_bytes);
        let usage = usage.map(|usage| usage.value);
        lowered.push(Lowered { of: format!("container {:?}", change.spec.name), limit, usage });
    }
    lowered
}

/// Refuses a memory limit below what is in use: the container would be killed, or the resize fail
/// half-way.
fn check_memory(lowered: &[Lowered]) -> Result<(), ActionError> {
    let refusal = |Lowered { of, limit, usage }: &Lowered| match *usage {
        None => Some(format!("missing {of} memory usage")),
        Some(usage) => (usage >= u64::try_from(*limit).unwrap_or(u64::MAX)).then(|| {
            format!("attempting to set {of} memory limit ({limit}) below current usage ({usage})")
        }),
    };
    let refused: Vec<String> = lowered.iter().filter_map(refusal).collect();
    match refused.as_slice() {
        [] => Ok(()),
        [one] => Err(failed(format!("cannot decrease memory limits: {one}"))),
        several => Err(failed(format!("cannot decrease memory limits: [{}]", several.join(", ")))),
    }
}

/// Passes the pod's new resources to runtimes whose sandbox is a virtual machine. Others do not
/// know the call.
async fn resize_sandbox(scope: Scope<'_>, sandbox: &SandboxId) -> Result<(), ActionError> {
    let user_ids = user_ids(scope).await?;
    let linux = scope.sandbox_request(0, user_ids)?.config.linux.unwrap_or_default();
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.as_str().to_owned(),
        overhead: linux.overhead,
        resources: linux.resources,
    };
    match scope.deps.runtime.cri.update_pod_sandbox_resources(request).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_unimplemented() => {
            debug!("the runtime does not resize sandboxes");
            Ok(())
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

fn refused(error: &PodCgroupError) -> ActionError {
    failed(error_chain(error))
}

fn failed(message: String) -> ActionError {
    ActionError::new("Error", message)
}

/// The running containers whose resources differ from `given`.
fn changes(given: &BTreeMap<ContainerId, Requirements>, context: &Context) -> Vec<Change> {
    let change = |container: &ObservedContainer| {
        let has = *given.get(&container.id)?;
        let (_, spec) = pod::find_container(&context.pod, &container.name)?;
        let wants = Requirements::of(&context.pod, &spec);
        // A container that has to be started anew gets its resources with that start.
        let policies = spec.resize_policy.as_deref().unwrap_or_default();
        let is_update = has != wants && !needs_restart(policies, has, wants);
        (container.state.is_running() && is_update).then(|| Change {
            id: container.id.clone(),
            spec: spec.into_owned(),
            has,
            wants,
        })
    };
    context.observed.containers.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::{Figures, Lowered, Reading, check_memory, lowered_pod_limit};

    #[test]
    fn a_limit_below_what_is_in_use_is_refused() {
        let of = |of: &str, usage| Lowered { of: of.to_owned(), limit: 1024, usage };
        assert!(check_memory(&[of("pod", Some(1023))]).is_ok());
        let error = check_memory(&[of("pod", Some(1024)), of("container \"c\"", None)]);
        let error = error.expect_err("refused");
        assert_eq!(
            error.message,
            "cannot decrease memory limits: [attempting to set pod memory limit (1024) below \
             current usage (1024), missing container \"c\" memory usage]"
        );
    }

    #[test]
    fn only_a_lower_limit_of_the_pod_is_looked_at() {
        let before = |memory| Some(Reading { memory, memory_usage: Some(9), ..Reading::default() });
        let wanted = |memory| Some(Figures { memory, ..Figures::default() });
        let is_lowered = |has, wants| !lowered_pod_limit(before(has), wanted(wants)).is_empty();
        assert!(is_lowered(Some(2048), Some(1024)));
        assert!(is_lowered(None, Some(1024)), "a limit where there was none");
        assert!(!is_lowered(Some(1024), Some(1024)));
        assert!(!is_lowered(Some(1024), None), "a limit that is not asked for stays");
    }
}
