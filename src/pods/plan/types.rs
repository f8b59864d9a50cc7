//! The planner's vocabulary: actions, their keys, the actions in flight, the plan. Pure.
//!
//! The planner answers a [`Plan`], the executor carries its actions out, and their ends go back to
//! `pods::memory`, which plans again. Nothing here does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{
    Blocked, ContainerId, ContainerKind, EventType, Mono, Now, SandboxId, TerminationCause, Waiting,
};
use crate::pods::memory::slot::Backoff;
use crate::resources::allocation::Requirements;

/// What an action works on. At most one action per key is in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The pod's cgroup and directories.
    Prepare,
    /// The pod's volumes.
    Volumes,
    /// The making of a sandbox.
    NewSandbox,
    /// One existing sandbox.
    Sandbox(SandboxId),
    /// The image for a container name.
    Image(String),
    /// The next start of a container name.
    Start(String),
    /// One existing container.
    Container(ContainerId),
    /// The postStart hook of one container.
    PostStart(ContainerId),
    /// The preStop hook of one sidecar, which runs before its turn to stop.
    PreStop(ContainerId),
    /// The resources of the running containers and of the pod's cgroup.
    Resize,
    /// What is left on the node after the end: directories, cgroup.
    CleanUp,
}

impl Key {
    /// Returns true if an action with this key is cancelled once the pod stops: pulls, and hooks
    /// that nobody waits for any more. Creates and starts run to their deadline (invariant 7).
    pub fn is_cancelled_by_stop(&self) -> bool {
        match self {
            Self::Image(_) | Self::PostStart(_) => true,
            Self::Prepare
            | Self::Volumes
            | Self::NewSandbox
            | Self::Sandbox(_)
            | Self::Start(_)
            | Self::Container(_)
            | Self::PreStop(_)
            | Self::Resize
            | Self::CleanUp => false,
        }
    }
}

/// The actions that are being carried out.
pub type InFlight = BTreeMap<Key, InFlightAction>;

/// An action in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InFlightAction {
    /// Any action but a kill.
    Busy {
        /// Since when.
        since: Now,
        /// Whether it is a silent (ahead of its turn) pull.
        silent: bool,
    },
    /// A kill.
    Kill {
        /// Since when.
        since: Now,
        /// When the container is killed without mercy.
        deadline: Mono,
    },
}

/// The planner's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order; each is carried out as a task of its own, so order matters only for reading and
    /// for events.
    pub actions: Vec<Action>,
    /// A change of lifecycle that has become due; the worker applies it and plans again.
    pub transition: Option<Transition>,
    /// When to plan again even if nothing happens.
    pub wake_at: Option<Mono>,
    /// What the pod waits for, if it waits.
    pub blocked: Option<Blocked>,
    /// For each container that does not run: why.
    pub waiting: BTreeMap<String, Waiting>,
    /// Events that follow from the state; the worker emits one when its `dedup` key is new or has
    /// changed.
    pub notices: Vec<Notice>,
    /// Containers that are or were stopped in order to be replaced, whatever their exit code. Their
    /// end is not told before their successor runs: the API server lets no container that is over
    /// for good by its policy run again.
    pub replaced: BTreeSet<ContainerId>,
    /// Running containers whose postStart hook has not ended: the status shows them as created, as
    /// upstream's does, whose pod worker waits for the hook. Empty once the pod stops.
    pub shown_as_created: BTreeSet<ContainerId>,
    /// Running containers of the spec whose postStart hook has ended: the prober's targets.
    pub probed: BTreeSet<ContainerId>,
    /// How far a resize of the pod is.
    pub resizing: Resizing,
    /// Back-offs to be stored (raised or reset) together with the actions.
    pub backoff: BTreeMap<String, Backoff>,
}

/// How far a resize of the pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resizing {
    /// Everything has the resources of the spec, or can have them no more.
    #[default]
    Over,
    /// All that is left to do is to start containers that were stopped for it. This keeps a resize
    /// open and never opens one: a start that is tried again after a failure is no new resize.
    Restarting,
    /// Something of the pod has other resources than the spec says.
    Wanted,
}

impl Plan {
    /// Returns true if the pod waits for something that has failed: its status is urgent.
    pub fn is_failing(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.last_error.is_some())
    }
}

/// A change of lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Begin to stop, with this grace counted from now.
    Terminate {
        /// Why.
        cause: TerminationCause,
        /// The grace period.
        grace: Duration,
    },
    /// Stop sooner: the grace was shortened (counted from the original start).
    Shorten {
        /// The new grace period.
        grace: Duration,
    },
    /// Everything has stopped.
    Terminated,
    /// Everything is cleaned up and the final status is accepted: the worker asks for the deletion
    /// of the API object if it has a deletion timestamp, and ends when the object is gone and the
    /// runtime has nothing of it any more. Planned again and again while that holds; applied once.
    Finished,
}

/// An event that follows from the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Emitted again only when this changes.
    pub dedup: String,
    /// The container it is about, if it is about one.
    pub container: Option<String>,
    /// Its type.
    pub event_type: EventType,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's cgroup, its directories and its log directory.
    Prepare,
    /// Have the pod's volumes set up.
    MountVolumes,
    /// Make a sandbox.
    CreateSandbox {
        /// The attempt number.
        attempt: u32,
    },
    /// Have a container's image ready.
    EnsureImage {
        /// The container's name.
        container: String,
        /// Ahead of its turn: no event, no status, no back-off; only success counts.
        silent: bool,
    },
    /// Create and start a container.
    StartContainer {
        /// The container's name.
        container: String,
        /// Its kind.
        kind: ContainerKind,
        /// Its restart count.
        restart_count: u32,
        /// The sandbox to start it in.
        sandbox: SandboxId,
        /// The image reference that `EnsureImage` answered.
        image_ref: String,
    },
    /// Give the running containers and the pod's cgroup what the spec says.
    Resize {
        /// The pod's sandbox; `None`: it has none, and only the cgroup is resized.
        sandbox: Option<SandboxId>,
        /// The resources last applied to each running container.
        given: BTreeMap<ContainerId, Requirements>,
    },
    /// Run the postStart hook of a container.
    PostStart {
        /// The container's name.
        container: String,
        /// Its id.
        id: ContainerId,
    },
    /// Run the preStop hook of a sidecar at once, while the main containers stop (upstream does not
    /// wait with it for the sidecar's turn). Its end, good or bad, goes to
    /// `ContainerMemory::pre_stopped`.
    PreStop {
        /// The container's name.
        container: String,
        /// Its id.
        id: ContainerId,
        /// When the hook is given up.
        deadline: Mono,
    },
    /// Run preStop if asked, then stop the container.
    KillContainer {
        /// Its id.
        id: ContainerId,
        /// Its name.
        container: String,
        /// Why, for the event.
        why: KillReason,
        /// When it is killed without mercy; preStop counts within.
        deadline: Mono,
        /// Whether preStop runs.
        pre_stop: bool,
    },
    /// Stop a container that is being stopped sooner: ask again with the shorter deadline.
    HurryKill {
        /// Its id.
        id: ContainerId,
        /// The new deadline.
        deadline: Mono,
    },
    /// Remove a container that has ended (or never started) from the runtime, with its log.
    RemoveContainer {
        /// Its id.
        id: ContainerId,
        /// Whether it makes way for a start of the whole pod from the beginning: its log stays
        /// then, and nothing of it counts any more but the number of its starts.
        reset: bool,
    },
    /// Stop a sandbox: network torn down.
    StopSandbox {
        /// Its id.
        id: SandboxId,
    },
    /// Remove a stopped sandbox from the runtime.
    RemoveSandbox {
        /// Its id.
        id: SandboxId,
    },
    /// Have the pod's volumes torn down.
    UnmountVolumes,
    /// Remove the pod's cgroup, and its directories once the volumes are gone.
    CleanUp,
}

/// Why a container is killed; the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The pod stops.
    PodStopping,
    /// The pod's sandbox has to be made anew.
    SandboxChanged,
    /// Its definition has changed: `Container NAME definition changed, will be restarted`.
    DefinitionChanged,
    /// `Container NAME failed liveness probe, will be restarted`.
    Liveness,
    /// `Container NAME failed startup probe, will be restarted`.
    Startup,
    /// Its postStart hook failed.
    PostStart {
        /// What failed.
        message: String,
    },
    /// Its state is unknown: it is stopped before it is started again.
    Unknown,
    /// Its resize policy asks for a restart: `Container NAME resize requires restart`.
    Resize,
    /// It is not in the spec, or an older twin of a newer container.
    NotWanted,
    /// A container has ended in a way that has all of its pod started again.
    RestartAll,
}

impl Action {
    /// What the action works on.
    pub fn key(&self) -> Key {
        match self {
            Self::Prepare => Key::Prepare,
            Self::MountVolumes | Self::UnmountVolumes => Key::Volumes,
            Self::CreateSandbox { .. } => Key::NewSandbox,
            Self::EnsureImage { container, .. } => Key::Image(container.clone()),
            Self::StartContainer { container, .. } => Key::Start(container.clone()),
            Self::PostStart { id, .. } => Key::PostStart(id.clone()),
            Self::PreStop { id, .. } => Key::PreStop(id.clone()),
            Self::KillContainer { id, .. }
            | Self::HurryKill { id, .. }
            | Self::RemoveContainer { id, .. } => Key::Container(id.clone()),
            Self::StopSandbox { id } | Self::RemoveSandbox { id } => Key::Sandbox(id.clone()),
            Self::Resize { .. } => Key::Resize,
            Self::CleanUp => Key::CleanUp,
        }
    }
}
