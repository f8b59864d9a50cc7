//! rkubelet: the agent of one Kubernetes node, a drop-in for upstream's kubelet.
//!
//! This page is the architecture document. It says what the parts are, how facts flow between them,
//! and which laws hold everywhere. Start here, then open the `mod.rs` of the folder that you need.
//!
//! # Bird's eye
//!
//! ```text
//!  apiserver watch ─┐
//!  static manifests ┴► sources ─► desired ─► dispatch ─► pods ───► status ─► apiserver
//!                                          (admission)    │  ▲
//!                  plan(pod, observed, inputs, in_flight, now)      inputs: volumes ready, image and pull state,
//!                                                         │  ▲              probe verdicts, back-off, deadlines,
//!                                                         ▼  │              recorded (the API's last status)
//!                                      execute ─► CRI · volumes · cgroupfs
//!                                                         │  ▲
//!                                                         ▼  │ observed, with an epoch
//!                                                         pleg  (own results, event stream, adaptive relist)
//!  node · server run beside the flow and reach pods by dispatch's handle only
//! ```
//!
//! `dispatch` has each pod admitted and starts a task for it on a [`backend`]: the one seam between
//! the node agent and what runs pods. `pods` is the backend that drives a container runtime by CRI.
//!
//! There, each pod has one task (`pods::worker`): a loop around a pure machine (`pods::memory`),
//! which takes in every event and asks the planner (`pods::plan`) what to do. The loop has each
//! action carried out as a task of its own (`pods::execute`) and tells status and probes what
//! follows (`pods::report`). A completion, an observation, a probe verdict, a new object or a timer
//! is an event. Nothing a pod does can hold up another pod.
//!
//! # Code map
//!
//! Import order, leftward only (checked by `tests/it/tidy.rs`): `telemetry < config < model < linux
//! < cri < cni < apiserver < resources < images < volumes < probes < pleg < status < admission <
//! sources < desired < dispatch < pods < node < server < daemon`.
//!
//! | folder | what it owns |
//! |---|---|
//! | [`telemetry`] | logs (klog text, JSON), the metrics registry and its text format |
//! | [`config`] | flags and `KubeletConfiguration`: the only reader of argv and environment |
//! | [`model`] | the vocabulary: ids, time, pods, observations, lifecycle, reasons; no I/O, no clock |
//! | [`linux`] | files, mounts, cgroups, systemd's slices; the only unsafe code |
//! | [`cri`] | the container runtime interface: client with deadlines, conversions, events, runtime status |
//! | [`cni`] | says why the network is not ready |
//! | [`apiserver`] | HTTP/2 transport, events, tokens, the cache of ConfigMaps and Secrets, services |
//! | [`resources`] | QoS, OOM scores, cgroups of pods, tiers and node, allocatable; the manager |
//! | [`images`] | references, pull policies, credentials, pulls |
//! | [`volumes`] | plans, payloads, the atomic writer, the task that owns what is mounted |
//! | [`probes`] | verdicts, schedule, checks |
//! | [`pleg`] | what runs, per pod, with an epoch |
//! | [`status`] | pod statuses: computed, diffed, written |
//! | [`admission`] | whether this node takes a pod |
//! | [`sources`] | the API server's watch, static manifests from files and from a URL |
//! | [`desired`] | the merged view of all sources; mirror pods |
//! | [`dispatch`] | the table of pods and their tasks: admission, orphans, resizes, forgetting; the seam of backends |
//! | [`pods`] | the CRI backend: the pod's task, the planner, the executor, pod → CRI requests |
//! | [`node`] | the Node object: registration, status, lease |
//! | [`server`] | the kubelet's HTTPS API |
//! | [`daemon`] | composition: leaves first, channels joined, one supervised set of tasks |
//!
//! Every subsystem folder has the same anatomy: `mod.rs` (documentation, the public handle), pure
//! files named after the question that they answer (`plan`, `compute`, `policy`, `verdict`),
//! `task.rs` (the one task that owns the state), effects behind a small local trait with a real and
//! a hand-written fake implementation, tests at the bottom. `config.rs` cuts the folder's part out
//! of the loaded configuration, `metrics.rs` registers its metrics. A subsystem starts in one way:
//! `new(…)` returns its handle and its task. `daemon` runs the task under a name (`Tasks::run`) and
//! may drop it at any await; a task that has to finish something first sees the stop itself.
//!
//! # Invariants
//!
//! 1. **Deciding is pure.** `plan`, `compute`, `policy`, `verdict`, `diff` files take `now` as an
//!    argument and have no async, I/O, clock, randomness or environment. Executing code has no
//!    policy.
//! 2. **One owner per piece of mutable state**: a task. Others hold a handle. State travels on
//!    `watch` (the latest value wins), commands on bounded `mpsc`. Losing an event loses time,
//!    never correctness.
//! 3. **The runtime's picture has an epoch.** A read counts only if no mutation of that pod was in
//!    flight while it was made; the key of a mutation stays in flight until its effect has been
//!    read. So a container is never made twice.
//! 4. **At most one mutation per container and per sandbox is in flight**; a shorter grace
//!    re-issues the stop.
//! 5. **Once a pod stops, nothing of it is created or started**; grace only shrinks; the stop is
//!    one way.
//! 6. **The law of deletion**: containers and sandbox stopped → volumes unmounted → cgroup removed
//!    → final status accepted → DELETE with the UID as precondition.
//! 7. **Cancelled is not undone**: RunPodSandbox, CreateContainer and StartContainer run to their
//!    deadline, whatever happens to those who wait for them. Pulls, hooks and waits are cancelled
//!    when the pod stops.
//! 8. **Nothing polls when nothing changes.** A timer exists only for a known next moment.
//! 9. **Everything is bounded**: queues, retries, concurrent sandbox starts, response sizes, every
//!    external call.
//! 10. **A panic stays where it is**: a pod's task starts again after a pause; a core task's end
//!     ends the process.
//! 11. **What users see is upstream's**: reasons, event texts, labels, annotations, paths, file
//!     formats, defaults, metric names, exit codes. What we add has names of its own.
//! 12. **A pod that waits says on what**: in the waiting message where upstream leaves it empty, in
//!     one event, at `/debug/blocked`, in a metric.
//! 13. **Secrets and tokens never reach** logs, events, argv or `Debug` output.
//!
//! The public face is [`backend`], for those who run pods in another way, and [`run`] with [`load`],
//! which are what the binary does. Everything else is private; the binary and the tests of this
//! repository reach it by `internals`, which promises nothing.
//!
//! Deliberately absent: a global sync loop, a global lock, a relist that others wait for, a hub
//! object, a second typed copy of a pod, feature gates read as globals.

mod admission;
mod apiserver;
mod clock;
mod cni;
mod config;
mod cri;
mod daemon;
mod desired;
mod dispatch;
mod images;
mod linux;
mod model;
mod node;
mod pleg;
mod pods;
mod probes;
mod resources;
mod server;
mod sources;
mod status;
mod telemetry;
#[cfg(any(test, feature = "testkit"))]
mod testkit;
mod volumes;
mod watch;

pub use crate::config::{Loaded, Refused, load};
pub use crate::daemon::run;

/// The seam between the node agent and what runs pods: the face for the author of a backend.
///
/// A backend implements [`Backend`](backend::Backend) and, if its pods can be reached,
/// [`Streams`](backend::Streams). It is handed to [`Dispatch`](backend::Dispatch), which has each pod admitted
/// and asks the backend for a task and a view of the pod. The pods come from
/// [`desired`](backend::desired), which merges any number of sources. For those who know
/// virtual-kubelet:
///
/// | virtual-kubelet | here |
/// |---|---|
/// | `CreatePod` | [`Backend::launch`](backend::Backend::launch) |
/// | `UpdatePod`, `DeletePod` | [`Directive`](backend::Directive), the latest value of a `watch` |
/// | `GetPod`, `GetPodStatus`, `NotifyPods` | [`PodView`](backend::PodView), a `watch` of the task |
/// | `GetPods` | [`Backend::found`](backend::Backend::found): pods that no task of this process runs |
/// | `RunInContainer`, `AttachToContainer`, `PortForward`, `GetContainerLogs` | [`Streams`](backend::Streams) |
///
/// `examples/backend.rs` is a whole backend in a hundred lines.
///
/// Not part of the face yet: the composition of a node agent on another backend. [`run`] drives a
/// container runtime by CRI.
pub mod backend {
    pub use crate::admission::{Features, PatternError, Rejection, SysctlAllowlist};
    pub use crate::apiserver::events::Recorder;
    pub use crate::clock::Clock;
    pub use crate::dispatch::{
        Allocated, Backend, Cause, Channels, Config, Deps, Directive, Dispatch, Ended, Exec,
        Forget, Forgetters, Found, FoundPod, Give, Launched, LogChunks, LogOptions, Opening,
        Output, PendingResize, PodView, PodsHandle, ReadNode, Resize, Session, Stop, StreamError,
        Streams, ViewState,
    };
    pub use crate::model::quantity::Amount;
    pub use crate::model::{
        Blocked, ContainerId, ContainerState, Lifecycle, Mono, NodeFacts, Now, ObservedContainer,
        ObservedPod, ObservedSandbox, Pod, PodKey, PodUid, ResizeVerdict, SandboxId, SandboxState,
        Stage, Terminating, TerminationCause, Wall,
    };

    /// The pods that should run: the sources, and the merged view of them that dispatch follows.
    pub mod desired {
        pub use crate::desired::{Change, Deps, Handle, MirrorSetup, new};
        pub use crate::sources::{Source, SourceKind, SourceState};
    }
}

/// Every room, for the binary, the tests and the fuzz targets of this repository. Nothing here is
/// promised.
#[doc(hidden)]
pub mod internals {
    pub mod admission {
        pub use crate::admission::*;
    }
    pub mod apiserver {
        pub use crate::apiserver::*;
    }
    pub mod clock {
        pub use crate::clock::*;
    }
    pub mod cni {
        pub use crate::cni::*;
    }
    pub mod config {
        pub use crate::config::*;
    }
    pub mod cri {
        pub use crate::cri::*;
    }
    pub mod daemon {
        pub use crate::daemon::*;
    }
    pub mod desired {
        pub use crate::desired::*;
    }
    pub mod dispatch {
        pub use crate::dispatch::*;
    }
    pub mod images {
        pub use crate::images::*;
    }
    pub mod linux {
        pub use crate::linux::*;
    }
    pub mod model {
        pub use crate::model::*;
    }
    pub mod node {
        pub use crate::node::*;
    }
    pub mod pleg {
        pub use crate::pleg::*;
    }
    pub mod pods {
        pub use crate::pods::*;
    }
    pub mod probes {
        pub use crate::probes::*;
    }
    pub mod resources {
        pub use crate::resources::*;
    }
    pub mod server {
        pub use crate::server::*;
    }
    pub mod sources {
        pub use crate::sources::*;
    }
    pub mod status {
        pub use crate::status::*;
    }
    pub mod telemetry {
        pub use crate::telemetry::*;
    }
    #[cfg(any(test, feature = "testkit"))]
    pub mod testkit {
        pub use crate::testkit::*;
    }
    pub mod volumes {
        pub use crate::volumes::*;
    }
    pub mod watch {
        pub use crate::watch::*;
    }
}
