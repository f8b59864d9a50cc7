//! Giving a running pod other resources: its cgroup first where that grows, then its containers,
//! those that shrink first, then its cgroup where that shrinks. Doing it again changes nothing, so
//! a failure half-way is simply repeated.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tracing::{debug, info};

use super::super::plan::types::Key;
use super::super::request;
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Outcome};
use crate::cri::v1;
use crate::model::{ContainerId, ObservedContainer, Pod, SandboxId, error_chain, pod};
use crate::resources::allocation::{Requirements, needs_restart, requirements};
use crate::resources::list::{CPU, MEMORY, Quantities};

/// A container that is to be given other resources.
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
}

impl PodExecutor {
    /// Carries out a resize.
    pub(super) async fn resize(
        &self,
        key: Key,
        sandbox: Option<SandboxId>,
        given: BTreeMap<ContainerId, Requirements>,
        context: Context,
    ) -> Completion {
        let mut mutation = self.deps.pleg.begin(&self.uid);
        let changes = changes(&given, &context);
        // Their states stay the same: without a word they would not be asked again.
        for change in &changes {
            if let Some(sandbox) = &sandbox {
                mutation.touched_container(&change.id, sandbox);
            }
        }
        let widest = widest(&context.pod, &given, &context);
        let done = self.resize_in_order(sandbox.as_ref(), changes, &widest, &context).await;
        mutation.end();
        let outcome =
            done.map(|containers| Outcome::Resized { containers, pod: requirements(&context.pod) });
        Completion { key, outcome, mutated: true }
    }

    async fn resize_in_order(
        &self,
        sandbox: Option<&SandboxId>,
        mut changes: Vec<Change>,
        widest: &Pod,
        context: &Context,
    ) -> Result<Vec<(ContainerId, Requirements)>, ActionError> {
        let failed = |message: String| ActionError::new("Error", message);
        self.check_memory(&changes).await?;
        if let Some(sandbox) = sandbox {
            self.tell_sandbox(sandbox, context).await?;
        }
        self.set_cgroup(widest).await.map_err(failed)?;
        changes.sort_by_key(|change| !change.shrinks());
        for change in &changes {
            let oom = self.oom_score_adj(&context.pod, &change.spec);
            let linux =
                request::linux_resources(&context.pod, &change.spec, oom, &self.deps.settings.spec)
                    .map_err(|error| failed(error.message))?;
            let request = v1::UpdateContainerResourcesRequest {
                container_id: change.id.as_str().to_owned(),
                linux: Some(linux),
                ..v1::UpdateContainerResourcesRequest::default()
            };
            self.deps
                .cri
                .update_container_resources(request)
                .await
                .map_err(|error| failed(error.to_string()))?;
            info!(container = change.spec.name, wants = ?change.wants, "resized");
        }
        self.set_cgroup(&context.pod).await.map_err(failed)?;
        Ok(changes.into_iter().map(|change| (change.id, change.wants)).collect())
    }

    /// A memory limit below what is in use would have the container killed, or be refused half-way.
    async fn check_memory(&self, changes: &[Change]) -> Result<(), ActionError> {
        let mut refused = Vec::new();
        for change in changes {
            let limit = change.wants.memory_limit;
            if limit == 0 || (change.has.memory_limit != 0 && limit >= change.has.memory_limit) {
                continue;
            }
            let name = &change.spec.name;
            let request = v1::ContainerStatsRequest { container_id: change.id.as_str().to_owned() };
            let stats = self.deps.cri.container_stats(request).await;
            let usage = stats
                .ok()
                .and_then(|answer| answer.stats?.memory?.usage_bytes)
                .map(|usage| usage.value);
            match usage {
                None => refused.push(format!("missing container {name:?} memory usage")),
                Some(usage) if usage >= u64::try_from(limit).unwrap_or(u64::MAX) => {
                    refused.push(format!(
                        "attempting to set container {name:?} memory limit ({limit}) below current usage ({usage})"
                    ));
                }
                Some(_) => {}
            }
        }
        match refused.as_slice() {
            [] => Ok(()),
            [one] => {
                Err(ActionError::new("Error", format!("cannot decrease memory limits: {one}")))
            }
            several => Err(ActionError::new(
                "Error",
                format!("cannot decrease memory limits: [{}]", several.join(", ")),
            )),
        }
    }

    /// Runtimes whose sandbox is a machine of its own have to know; others do not know the call.
    async fn tell_sandbox(
        &self,
        sandbox: &SandboxId,
        context: &Context,
    ) -> Result<(), ActionError> {
        let user_ids = self.user_ids(&context.pod).await?;
        let linux = self.sandbox_request(context, 0, user_ids)?.config.linux.unwrap_or_default();
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox.as_str().to_owned(),
            overhead: linux.overhead,
            resources: linux.resources,
        };
        match self.deps.cri.update_pod_sandbox_resources(request).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_unimplemented() => {
                debug!("the runtime does not resize sandboxes");
                Ok(())
            }
            Err(error) => Err(ActionError::new("Error", error.to_string())),
        }
    }

    async fn set_cgroup(&self, pod: &Pod) -> Result<(), String> {
        match &self.deps.cgroups {
            Some(cgroups) => cgroups.resize(pod).await.map_err(|error| error_chain(&error)),
            None => Ok(()),
        }
    }
}

fn changes(given: &BTreeMap<ContainerId, Requirements>, context: &Context) -> Vec<Change> {
    let change = |container: &ObservedContainer| {
        let has = *given.get(&container.id)?;
        let (_, spec) = pod::find_container(&context.pod, &container.name)?;
        let wants = Requirements::of(&context.pod, &spec);
        // One that has to be started anew gets its resources with that start.
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

/// The pod with the larger of what its containers have and what they are given: its cgroup must
/// hold both meanwhile.
fn widest(pod: &Pod, given: &BTreeMap<ContainerId, Requirements>, context: &Context) -> Pod {
    let mut widest = pod.clone();
    let Some(spec) = &mut widest.spec else { return widest };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let running =
            context.observed.latest(&container.name).filter(|latest| latest.state.is_running());
        let Some(has) = running.and_then(|latest| given.get(&latest.id)) else {
            continue;
        };
        let both = has.widest(Requirements::of(pod, container));
        let own = container.resources.get_or_insert_default();
        let set = |list: &mut Option<Quantities>, name: &str, amount: i64, unit: &str| {
            let list = list.get_or_insert_default();
            if amount > 0 {
                list.insert(name.to_owned(), Quantity(format!("{amount}{unit}")));
            } else {
                list.remove(name);
            }
        };
        set(&mut own.requests, CPU, both.cpu_request, "m");
        set(&mut own.limits, CPU, both.cpu_limit, "m");
        set(&mut own.requests, MEMORY, both.memory_request, "");
        set(&mut own.limits, MEMORY, both.memory_limit, "");
    }
    widest
}
