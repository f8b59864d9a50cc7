//! Carrying out the planner's actions for one pod. No policy: what to do, in which order and when
//! to try again was decided by the plan; here it is done, with a deadline on every external call,
//! and reported.
//!
//! [`Execute`] is the seam: the real [`PodExecutor`] and the worker's scripted fake.

mod cleanup;
mod container;
mod image;
mod kill;
mod mounts;
mod permits;
mod prepare;
mod report;
mod resize;
mod restore;
mod sandbox;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::cleanup::sweep_logs;
pub use self::container::ImageUsers;
pub use self::permits::SandboxPermits;
pub use self::report::{Count, Deps, Metrics, PodExecutor, Settings};
use super::plan::types::{Action, HookState, ImageState, Inputs, Key, KillReason, Notice};
use crate::model::{
    Blocked, ContainerId, Lifecycle, Mono, Now, ObservedPod, Pod, SandboxId, Waiting,
};
use crate::resources::allocation::Requirements;
use crate::status::{Acked, ResizeState};

/// What carries out the actions of one pod.
pub trait Execute: Send + Sync + 'static {
    /// Carries out one action. Dropping the future cancels pulls, hooks and waits; what must not be
    /// dropped (principle 9) goes on detached.
    fn execute(
        &self,
        key: Key,
        action: Action,
        context: Context,
    ) -> impl Future<Output = Completion> + Send;
    /// What the API server has accepted of the pod's status, now and from now on.
    fn acked(&self) -> impl Future<Output = watch::Receiver<Acked>> + Send;
    /// Returns when something outside the feeds may have changed what is to be told (the mirror of
    /// a static pod). Cancel-safe.
    fn poked(&self) -> impl Future<Output = ()> + Send;
    /// The pod is finished on this node: ask for the deletion of its API object if that was
    /// requested.
    fn finished(&self, pod: &Arc<Pod>) -> impl Future<Output = ()> + Send;
    /// Whether other pods wait for their start or their stop: then what nobody waits for gives way.
    fn is_rush(&self) -> bool;
    /// Nothing of the pod is left in the runtime: what is left of it on disk goes.
    fn gone(&self, pod: &Arc<Pod>);
    /// A newer object: volumes, probes and the status writer follow.
    fn updated(&self, pod: &Arc<Pod>, stopping: bool) -> impl Future<Output = ()> + Send;
    /// Emits an event that follows from the state.
    fn notice(&self, pod: &Arc<Pod>, notice: &Notice);
    /// Reports a wait that has lasted.
    fn blocked(&self, pod: &Arc<Pod>, blocked: &Blocked, now: Now);
    /// How long a wait must last to be reported.
    fn blocked_report_after(&self) -> Duration;
    /// Computes the status, hands it to the writer if it has changed, and tells the probes what
    /// runs.
    fn publish(&self, report: &Report<'_>) -> impl Future<Output = Published> + Send;
}

/// A status that was computed.
#[derive(Clone, Debug)]
pub struct Published {
    /// The status.
    pub status: Arc<PodStatus>,
    /// The version that [`Acked`] reaches once it is accepted; `None`: there is nobody to tell.
    pub version: Option<u64>,
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
    /// What running containers have been given of CPU and memory.
    pub actuated: Arc<BTreeMap<ContainerId, Requirements>>,
    /// For a kill: its deadline, which may shrink.
    pub hurry: Option<watch::Receiver<Mono>>,
}

/// What a status is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// Where it is in its life.
    pub lifecycle: &'a Lifecycle,
    /// What runs.
    pub observed: &'a Arc<ObservedPod>,
    /// The planner's inputs: verdicts, remembered exits, what was recorded.
    pub inputs: &'a Inputs,
    /// Why containers do not run.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Containers whose end is not told before their successor runs.
    pub replaced: &'a BTreeSet<ContainerId>,
    /// What the pod waits for.
    pub blocked: Option<&'a Blocked>,
    /// How far a resize is.
    pub resize: &'a ResizeState,
    /// Whether everything is cleaned up.
    pub finished: bool,
    /// The time.
    pub now: Now,
}

/// An action's end.
#[derive(Debug)]
pub struct Completion {
    /// What it worked on.
    pub key: Key,
    /// How it ended.
    pub outcome: Result<Outcome, ActionError>,
    /// Whether the runtime was changed (or may have been): the key stays in flight until it has
    /// been read again.
    pub mutated: bool,
}

/// What a success means.
#[derive(Debug)]
pub enum Outcome {
    /// Cgroup and directories exist.
    Prepared {
        /// Restart counts found in the log directories, by container.
        logged_restarts: BTreeMap<String, u32>,
    },
    /// The image subsystem has answered.
    Image {
        /// The container's name.
        container: String,
        /// The answer.
        state: ImageState,
    },
    /// A container runs.
    Started {
        /// Its id.
        id: ContainerId,
        /// Whether a postStart hook is to follow.
        has_post_start: bool,
    },
    /// A hook has ended.
    Hook {
        /// The container's id.
        id: ContainerId,
        /// How.
        state: HookState,
    },
    /// A silent pull has ended.
    Warmed {
        /// The container's name.
        container: String,
    },
    /// A container was stopped.
    Killed {
        /// Its id.
        id: ContainerId,
        /// Why.
        why: KillReason,
    },
    /// A preStop hook that was run ahead of its container's turn has ended.
    PreStopped {
        /// The container's id.
        id: ContainerId,
    },
    /// The pod has the resources that it was given.
    Resized {
        /// The containers that were changed.
        containers: Vec<(ContainerId, Requirements)>,
        /// What the pod's cgroup was made for.
        pod: BTreeMap<String, Requirements>,
    },
    /// A container was removed so that its pod begins anew.
    Reset {
        /// Its id.
        id: ContainerId,
    },
    /// A sandbox was stopped.
    SandboxStopped {
        /// Its id.
        id: SandboxId,
    },
    /// Cgroup and directories are gone.
    CleanedUp,
    /// Nothing that the planner does not see for itself.
    Done,
}

/// Why an action failed, in the words that users read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ActionError {
    /// The waiting reason of a container start, else the stage.
    pub reason: String,
    /// The message.
    pub message: String,
}

impl ActionError {
    /// An error with upstream's reason and message.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// An error of our own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalError", message)
    }
}
