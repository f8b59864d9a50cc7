//! What the planner reads and what it answers: its inputs, the actions in flight, the plan.
//!
//! The worker (`pods::worker`) fills [`Inputs`] and [`InFlight`], the planner answers a [`Plan`],
//! the executor carries actions out and reports back to the worker, which plans again. Nothing here
//! does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use crate::model::observed::Remembered;
use crate::model::{
    Blocked, ContainerId, ContainerKind, EventType, Lifecycle, Mono, Now, ObservedPod, Phase, Pod,
    ProbeVerdicts, SandboxId, TerminationCause, VolumesState, Waiting, Wall,
};
use crate::resources::allocation::Requirements;

/// Everything that one planning step looks at.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The pod as its source has it.
    pub pod: &'a Pod,
    /// Where it is in its life.
    pub lifecycle: &'a Lifecycle,
    /// What the runtime says; never older than the last mutation (principle 4).
    pub observed: &'a ObservedPod,
    /// What the other subsystems say.
    pub inputs: &'a Inputs,
    /// What is being carried out now.
    pub in_flight: &'a InFlight,
    /// The time.
    pub now: Now,
}

/// What the other subsystems say about one pod.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Why no new sandbox may be made on this node (network or runtime not ready), upstream's text;
    /// `None`: it may.
    pub network_not_ready: Option<String>,
    /// What the node itself says of a network that is not ready: what is wrong with its
    /// configuration. For those who read what the pod waits for; `None`: nothing was found.
    pub network_diagnosis: Option<String>,
    /// What each running container has been given, as far as this process knows: it is given what
    /// the spec says when that differs.
    pub actuated: BTreeMap<ContainerId, Requirements>,
    /// What the pod's cgroup was made for, by container.
    pub cgroup_given: BTreeMap<String, Requirements>,
    /// The pods that have yet to stop to make room for this one, as users name them.
    pub room: Vec<String>,
    /// Whether the pod's cgroup and directories exist.
    pub prepared: bool,
    /// Whether directories of the pod were there when this process met it: they have to go even if
    /// the pod stops before it is prepared anew.
    pub left_behind: bool,
    /// Whether the restart rule `RestartAllContainers` is carried out (the feature gate
    /// `RestartAllContainersOnContainerExits`); the container's own policy decides otherwise.
    pub restart_all: bool,
    /// The pod's volumes.
    pub volumes: VolumesState,
    /// What is known of the image of each container's next start: the answer to an
    /// [`Action::EnsureImage`] that was not silent. Cleared by the worker when that start has
    /// begun.
    pub images: BTreeMap<String, ImageState>,
    /// Verdicts of the probes.
    pub probes: ProbeVerdicts,
    /// Containers that have a postStart hook: how far it is.
    pub post_start: BTreeMap<ContainerId, HookState>,
    /// The last failure of each key that has failed since it last succeeded.
    pub failures: BTreeMap<Key, Failure>,
    /// `spec.containers[].image` and name hashed as `io.kubernetes.container.hash` is, by container
    /// name: a running container whose own hash differs is replaced. A name without an entry, or a
    /// container without a hash, is kept.
    pub expected_hash: BTreeMap<String, u64>,
    /// Containers that this process has stopped (put in when the kill has succeeded), and why. One
    /// that was stopped in order to be replaced is started again whatever its exit code; one whose
    /// state stays unknown counts as stopped.
    pub killed: BTreeMap<ContainerId, KillReason>,
    /// Containers that are being stopped (from the kill's begin to its end), and why.
    pub killing: BTreeMap<ContainerId, KillReason>,
    /// Containers whose preStop hook has been run (successfully or not) by [`Action::PreStop`].
    pub pre_stopped: BTreeSet<ContainerId>,
    /// Sandboxes that this process has stopped with success: those that merely are not ready may
    /// still hold an address.
    pub stopped: BTreeSet<SandboxId>,
    /// Containers whose silent pull has ended, whatever its result: it is not tried again before
    /// the next start. Cleared together with `images`.
    pub warmed: BTreeSet<String>,
    /// Crash back-off by container name.
    pub backoff: BTreeMap<String, Backoff>,
    /// The longest crash back-off (`crashLoopBackOff.maxContainerRestartPeriod`, else 300 s).
    pub max_backoff: Duration,
    /// What the API had recorded when this process adopted the pod.
    pub recorded: Recorded,
    /// Restart counts and exits of containers that this process has seen end and that are already
    /// removed.
    pub remembered: BTreeMap<String, Remembered>,
    /// Whether the final status has been accepted by the API server (or there is none to tell).
    pub status_acked: bool,
    /// Whether the object is gone from its source (deleted from the API, file removed): what is
    /// left may be removed.
    pub gone_from_source: bool,
    /// When what is left of a pod whose object is gone may be removed; `None`: at once.
    pub removable_at: Option<Mono>,
}

/// The API's last status of a pod, read once at adoption.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// A terminal phase, which is never left.
    pub terminal_phase: Option<Phase>,
    /// Init containers that the API knows to have ended with success.
    pub init_done: Vec<String>,
    /// When the first of those was started, in whole seconds.
    pub init_began: Option<Wall>,
    /// The newest sandbox at adoption, if `init_done` can have happened in it: counts only while it
    /// is the pod's sandbox.
    pub sandbox: Option<SandboxId>,
    /// When the pod was first acknowledged: `status.startTime`.
    pub start_time: Option<Wall>,
}

/// What is known of the image for a container's next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// It is there.
    Present {
        /// The reference to create the container with.
        image_ref: String,
    },
    /// It cannot be had at present; the image subsystem has said when to try again.
    Failed {
        /// The waiting reason: `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`,
        /// `InvalidImageName`, …
        reason: String,
        /// The waiting message.
        message: String,
        /// When to try again; `None`: only when the spec changes.
        retry_at: Option<Mono>,
        /// Since when it has been failing.
        since: Now,
    },
}

/// How far a postStart hook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookState {
    /// It has ended with success, or its container was adopted (it is not run twice).
    Done,
    /// It failed: the container is killed.
    Failed {
        /// What the event and the status say.
        message: String,
    },
}

/// The crash back-off of one container name: 10 s, doubled at each restart up to the maximum,
/// forgotten after ten minutes without a crash. See [`super::backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The current wait.
    pub wait: Duration,
    /// When it was last raised.
    pub updated: Mono,
    /// The restart count of the start that it was raised for: that start is not held back by it.
    pub restart_count: u32,
}

/// The last failure of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How often in a row.
    pub count: u32,
    /// When.
    pub at: Now,
    /// The waiting reason for a container start (`CreateContainerConfigError`, …); else the stage.
    pub reason: String,
    /// The message.
    pub message: String,
}

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

/// The actions that are being carried out.
pub type InFlight = BTreeMap<Key, Doing>;

/// An action in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
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
    /// Whether anything of the pod has other resources than it was given.
    pub resizing: bool,
    /// Back-offs to be stored (raised or reset) together with the actions.
    pub backoff: BTreeMap<String, Backoff>,
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
        /// The pod's sandbox.
        sandbox: SandboxId,
    },
    /// Run the postStart hook of a container.
    PostStart {
        /// The container's name.
        container: String,
        /// Its id.
        id: ContainerId,
    },
    /// Run the preStop hook of a sidecar at once, while the main containers stop (upstream does not
    /// wait with it for the sidecar's turn). Its end, good or bad, goes to `Inputs::pre_stopped`.
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
