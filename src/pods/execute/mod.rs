//! Carries out the planner's actions for one pod. It has no policy: what to do, in which order and
//! when to try again was decided by the plan. Every external call has a deadline.
//!
//! [`Execute`] is the seam: the real [`PodExecutor`] and the worker's scripted fake. Each action is
//! a function, or a type whose methods are its steps, over a [`scope`]: the pod as one action sees
//! it. Statuses are no part of this: see `pods::report`.

mod annotated;
mod cleanup;
mod container;
mod container_request;
mod deps;
mod executor;
mod hook;
mod image;
mod image_users;
mod kill;
mod logs;
mod mounts;
mod own_users;
mod permits;
mod prepare;
mod references;
mod resize;
mod sandbox;
mod scope;
mod users;
mod warnings;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::container::Start;
pub use self::deps::{
    ApiDeps, Count, Deps, Metrics, NodeDeps, ResourceDeps, RuntimeDeps, Settings,
};
pub use self::executor::PodExecutor;
pub use self::image_users::ImageUsers;
use self::kill::Kill;
pub use self::logs::sweep_logs;
use self::own_users::Part;
pub use self::permits::SandboxPermits;
use self::sandbox::SandboxCreation;
pub use super::memory::outcome::{ActionError, Completion, Outcome};
use super::plan::types::{Action, Key};
use crate::model::{Mono, ObservedPod, Pod};

/// Carries out the actions of one pod.
pub trait Execute: Send + Sync + 'static {
    /// Carries out one action. Dropping the future cancels pulls, hooks and waits; what must not be
    /// dropped (invariant 7) goes on detached.
    fn execute(
        &self,
        key: Key,
        action: Action,
        context: Context,
    ) -> impl Future<Output = Completion> + Send;
}

/// The pod and the runtime as they were when an action was planned.
#[derive(Clone, Debug)]
pub struct Context {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The last observation of the runtime.
    pub observed: Arc<ObservedPod>,
    /// Cancelled when the pod begins to stop: waits are given up then, and nothing more is begun.
    pub stop: CancellationToken,
    /// For a kill: its deadline, which may shrink.
    pub hurry: Option<watch::Receiver<Mono>>,
}

/// How an action ended.
#[derive(Debug)]
struct Effect {
    outcome: Result<Outcome, ActionError>,
    /// Whether the runtime was changed, or may have been.
    mutated: bool,
}

impl Effect {
    /// The runtime was not changed.
    fn unchanged(outcome: Result<Outcome, ActionError>) -> Self {
        Self { outcome, mutated: false }
    }

    /// The runtime was changed, or may have been.
    fn mutated(outcome: Result<Outcome, ActionError>) -> Self {
        Self { outcome, mutated: true }
    }
}

impl Execute for PodExecutor {
    async fn execute(&self, key: Key, action: Action, context: Context) -> Completion {
        let scope = self.scope(&context);
        let part = Part::of(&action, &context.pod);
        let Effect { outcome, mutated } = match action {
            Action::Prepare => prepare::prepare(scope).await,
            Action::MountVolumes => {
                scope.deps.volumes.ensure(context.pod.clone());
                Effect::unchanged(Ok(Outcome::Done))
            }
            Action::UnmountVolumes => {
                scope.deps.volumes.release(scope.uid);
                Effect::unchanged(Ok(Outcome::Done))
            }
            Action::CreateSandbox { attempt } => {
                SandboxCreation { scope, warnings: &self.warnings, attempt }.run().await
            }
            Action::EnsureImage { container, silent } => {
                image::ensure_image(scope, container, silent).await
            }
            Action::StartContainer { container, kind, restart_count, sandbox, image_ref } => {
                let start = Start { container, kind, restart_count, sandbox, image_ref };
                container::start(scope, start).await
            }
            Action::Resize { sandbox, given } => resize::resize(scope, sandbox, given).await,
            Action::PostStart { container, id } => hook::post_start(scope, container, id).await,
            Action::PreStop { container, id, deadline } => {
                kill::pre_stop_ahead(scope, id, container, deadline).await
            }
            Action::KillContainer { id, container, why, deadline, pre_stop } => {
                Box::pin(kill::kill(scope, Kill { id, container, why, deadline, pre_stop })).await
            }
            // The worker hurries the kill that runs; the action never comes here.
            Action::HurryKill { .. } => Effect::unchanged(Ok(Outcome::Done)),
            Action::RemoveContainer { id, reset } => {
                cleanup::remove_container(scope, id, reset).await
            }
            Action::StopSandbox { id } => sandbox::stop_sandbox(scope, id).await,
            Action::RemoveSandbox { id } => sandbox::remove_sandbox(scope, id).await,
            Action::CleanUp => cleanup::clean_up(scope).await,
        };
        if self.own_users.has_failed(part, &outcome) {
            scope.deps.metrics.count(Count::OwnUsersFailed);
        }
        Completion { key, outcome, mutated }
    }
}
