//! Carries out the planner's actions for one pod. It has no policy: what to do, in which order and
//! when to try again was decided by the plan. Every external call has a deadline.
//!
//! [`Execute`] is the seam: the real [`PodExecutor`] and the worker's scripted fake. Statuses are
//! not its business: see `pods::report`.

mod cleanup;
mod container;
mod executor;
mod image;
mod kill;
mod mounts;
mod permits;
mod prepare;
mod resize;
mod restore;
mod sandbox;
mod users;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::cleanup::sweep_logs;
pub use self::container::ImageUsers;
use self::container::Start;
pub use self::executor::{Count, Deps, Metrics, PodExecutor, Settings};
use self::kill::Kill;
pub use self::permits::SandboxPermits;
pub use super::memory::outcome::{ActionError, Completion, Outcome};
use super::plan::types::{Action, Key};
use crate::model::{Mono, ObservedPod, Pod};

/// What carries out the actions of one pod.
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

/// What an action is carried out with: the pod and the runtime as they were when it was planned.
#[derive(Clone, Debug)]
pub struct Context {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What the runtime said.
    pub observed: Arc<ObservedPod>,
    /// Cancelled when the pod begins to stop: what only waits so far gives up then, and nothing
    /// more is begun.
    pub stop: CancellationToken,
    /// For a kill: its deadline, which may shrink.
    pub hurry: Option<watch::Receiver<Mono>>,
}

impl Execute for PodExecutor {
    async fn execute(&self, key: Key, action: Action, context: Context) -> Completion {
        match action {
            Action::Prepare => self.prepare(key, context).await,
            Action::MountVolumes => {
                self.deps.volumes.ensure(context.pod.clone());
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::UnmountVolumes => {
                self.deps.volumes.release(&self.uid);
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::CreateSandbox { attempt } => self.create_sandbox(key, attempt, context).await,
            Action::EnsureImage { container, silent } => {
                self.ensure_image(key, container, silent, context).await
            }
            Action::StartContainer { container, kind, restart_count, sandbox, image_ref } => {
                self.start(
                    key,
                    Start { container, kind, restart_count, sandbox, image_ref },
                    context,
                )
                .await
            }
            Action::Resize { sandbox, given } => self.resize(key, sandbox, given, context).await,
            Action::PostStart { container, id } => {
                self.post_start(key, container, id, context).await
            }
            Action::PreStop { container, id, deadline } => {
                self.pre_stop_ahead(key, id, container, deadline, context).await
            }
            Action::KillContainer { id, container, why, deadline, pre_stop } => {
                self.kill(key, Kill { id, container, why, deadline, pre_stop }, context).await
            }
            // The worker hurries the kill that runs; it never comes here.
            Action::HurryKill { .. } => {
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::RemoveContainer { id, reset } => {
                self.remove_container(key, id, reset, context).await
            }
            Action::StopSandbox { id } => self.stop_sandbox(key, id, context).await,
            Action::RemoveSandbox { id } => self.remove_sandbox(key, id).await,
            Action::CleanUp => self.clean_up(key, context).await,
        }
    }
}
