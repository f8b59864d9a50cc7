//! rkubelet: the agent of one Kubernetes node, a drop-in for upstream's kubelet.
//!
//! Authors of backends begin with [`agent`], a guide: how to have a node on something else than a
//! container runtime.
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
//! < cri < csi < plugins < cni < apiserver < certs < resources < images < volumes < probes < pleg
//! < stats < status < admission < sources < desired < dispatch < pods < eviction < node < shutdown
//! < server < tools < daemon`.
//!
//! | folder | what it owns |
//! |---|---|
//! | [`telemetry`] | logs (klog text, JSON), the metrics registry and its text format |
//! | [`config`] | flags and `KubeletConfiguration`: the only reader of argv and environment |
//! | [`model`] | the vocabulary: ids, time, pods, observations, lifecycle, reasons; no I/O, no clock |
//! | [`linux`] | files, mounts, cgroups, systemd's slices; the only unsafe code |
//! | [`cri`] | the container runtime interface: client with deadlines, conversions, events, runtime status |
//! | [`csi`] | the drivers of volumes: clients with deadlines, the drivers that are registered |
//! | [`plugins`] | registers plugins that announce themselves in `plugins_registry` |
//! | [`cni`] | says why the network is not ready |
//! | [`apiserver`] | HTTP/2 transport, events, tokens, the cache of ConfigMaps and Secrets, services |
//! | [`certs`] | the kubelet's certificates: requested, kept, rotated |
//! | [`resources`] | QoS, OOM scores, cgroups of pods, tiers and node, allocatable; the manager |
//! | [`images`] | references, pull policies, credentials, pulls |
//! | [`volumes`] | plans, payloads, the atomic writer, the task that owns what is mounted |
//! | [`probes`] | verdicts, schedule, checks |
//! | [`pleg`] | what runs, per pod, with an epoch |
//! | [`stats`] | what the node, its pods and containers use: cgroups, file systems, traffic |
//! | [`status`] | pod statuses: computed, diffed, written |
//! | [`admission`] | whether this node takes a pod |
//! | [`sources`] | the API server's watch, static manifests from files and from a URL |
//! | [`desired`] | the merged view of all sources; mirror pods |
//! | [`dispatch`] | the table of pods and their tasks: admission, orphans, resizes, forgetting; the seam of backends |
//! | [`pods`] | the CRI backend: the pod's task, the planner, the executor, pod → CRI requests |
//! | [`eviction`] | what the node is short of, and which pod goes; the kernel's reports of killed processes |
//! | [`node`] | the Node object: registration, status, lease |
//! | [`shutdown`] | the end of pods, by priority, before the machine shuts down |
//! | [`server`] | the kubelet's HTTPS API |
//! | [`tools`] | `rkubelet pods`, `timeline`, `config`, `support-bundle`, `completion` |
//! | [`daemon`] | composition: leaves first, channels joined, one supervised set of tasks |
//!
//! A subsystem's folder has `mod.rs` (documentation and the public handle), pure files named after
//! the question that they answer (`plan`, `compute`, `policy`, `verdict`), and one file with the
//! task that owns the state (the table below names it). Effects stand behind a small local trait
//! with a real and a hand-written fake implementation. `config.rs` cuts the folder's part out of
//! the loaded configuration, `metrics.rs` registers its metrics. A subsystem starts in one way:
//! `new(…)` returns its handle and its task. `daemon` runs the task under a name (`Tasks::run`) and
//! may drop it at any await; a task that has to finish something first sees the stop itself.
//!
//! # The life of a pod in ten steps
//!
//! A name like `pods/plan/mod.rs::plan` is a file below `src` and a declaration in it; tidy checks
//! that both exist.
//!
//! 1. **It is found.** `sources/apiserver.rs::new` lists and watches the pods that are bound to
//!    this node, `sources/manifests.rs::new` reads static ones. Each source publishes its whole
//!    set as one `sources/mod.rs::SourceState` on a `watch`.
//! 2. **It is desired.** `desired/mod.rs::merge` compares the sets with the last ones and sends
//!    each difference as a `desired/index.rs::Change`. `desired/mirror_task.rs::run` keeps a mirror
//!    pod in the API for each static one.
//! 3. **It is admitted.** `dispatch/mod.rs::upsert` enters it into the table of pods.
//!    `admission/mod.rs::admit` says whether the node takes it: one that does not fit preempts
//!    others, waits, or is rejected, which is a life that begins with its stop.
//! 4. **It gets a task.** `pods/launch.rs::launch` makes its memory, its feeds and its task
//!    `pods/worker/mod.rs::run`. The newest object and orders come as
//!    `dispatch/directive.rs::Directive` on a `watch`.
//! 5. **It is planned.** Each event goes into `pods/memory/mod.rs::take`; then
//!    `pods/memory/mod.rs::step` asks `pods/plan/mod.rs::plan` which actions are due, on what the
//!    pod waits, and when to ask again.
//! 6. **Its ground is laid.** `pods/worker/actions.rs::begin` makes each action a task, and
//!    `pods/execute/mod.rs::execute` carries it out: cgroup and directories, images
//!    (`images/pull.rs`), and volumes, which `volumes/task/mod.rs` sets up meanwhile.
//! 7. **Its containers start.** `pods/request/sandbox.rs::sandbox_config` and
//!    `pods/request/container.rs::container_config` make the requests, `cri/client.rs::Runtime`
//!    sends them. Init containers run one after the other, the others side by side.
//! 8. **It is observed.** `pleg/mod.rs::begin` moves the pod's epoch on for each mutation.
//!    `pleg/task.rs::run` reads what is marked, and publishes it as `pleg/mod.rs::Observation`, an
//!    event of step 5.
//! 9. **It is reported.** `pods/report.rs::publish` computes the status
//!    (`status/compute.rs::compute`) and says which containers are probed
//!    (`probes/task.rs::running`). `status/writer.rs::run` merges the status with the API's object
//!    and patches it.
//! 10. **It ends.** A deletion, a deadline or an eviction makes its life
//!     `model/lifecycle.rs::Terminating`. The plan stops containers and sandbox, releases the
//!     volumes, removes the cgroup, waits until the final status is accepted, and has the object
//!     deleted. The task returns `dispatch/directive.rs::Ended`; everything that is registered as a
//!     `dispatch/forget.rs::Forget` forgets the pod.
//!
//! # Tasks and their channels
//!
//! Each task that `daemon` starts, by its name in the logs. `pod` and `probes` exist once for each
//! pod. "Out" is all that the task changes: a channel, or something outside the process.
//!
//! | task | code | in | out |
//! |---|---|---|---|
//! | watchdog | `daemon/watchdog.rs::run` | `watch` of the health problem | systemd's watchdog |
//! | client certificate | `certs/client.rs::client` | a timer, the kubeconfigs | `watch` of `apiserver/identity.rs::Rotated`, `kubelet-client-*.pem` |
//! | lock file | `daemon/lock_file.rs::end_on_contention` | inotify | the stop of the process |
//! | events | `apiserver/events_task.rs::new` | `mpsc` of `apiserver/events.rs::Recorder` | Event objects |
//! | memory | `daemon/trim_memory.rs::new` | `watch` of starts and ends | freed memory, to the kernel |
//! | own node | `apiserver/nodes.rs::new` | watch of the Node | `watch` of `apiserver/nodes.rs::NodeView` |
//! | services | `apiserver/services.rs::new` | watch of Services | `watch` for `apiserver/services.rs::Handle` |
//! | runtime classes | `apiserver/runtime_classes.rs::new` | watch of RuntimeClasses | `watch` for `apiserver/runtime_classes.rs::Handle` |
//! | csi drivers | `apiserver/csi_objects.rs::new` | watch of CSIDrivers | `watch` for `apiserver/csi_objects.rs::Handle` |
//! | objects | `apiserver/objects.rs::new` | none: its drop ends the watches of objects | ConfigMaps and Secrets by `apiserver/objects.rs::Subscription` |
//! | cni watch | `cni/watch.rs::run` | inotify on the CNI configuration | `watch` of a counter |
//! | runtime condition | `cri/condition.rs::new` | the runtime's Status, CNI changes | `watch` of `cri/condition.rs::RuntimeCondition` |
//! | network | `cni/problem.rs::problem` | `watch` of the runtime's condition | `watch` of `cni/problem.rs::NetworkProblem` |
//! | pleg | `pleg/task.rs::run` | the runtime's events and lists, `pleg/dirty.rs::Dirty` | `watch` of `pleg/mod.rs::Observation` per pod |
//! | health | `pleg/health.rs::health` | `watch` of the last relist | `watch` of the health problem |
//! | node limits | `resources/node_limits.rs::run` | a timer after a refusal | cgroup of all pods |
//! | resource manager | `resources/manager/task.rs` | `mpsc` of requests and of plugins' news | replies, `watch` of `resources/devices/mod.rs::Figures` |
//! | csi node | `node/csi_node/mod.rs::new` | `watch` of `apiserver/nodes.rs::NodeView` | the CSINode, `watch` of the problem of storage |
//! | plugins | `plugins/task.rs` | inotify on `plugins_registry`, ends of handshakes | calls of `plugins/mod.rs::Handler` |
//! | manifests | `sources/manifests.rs::new` | files, inotify | `watch` of `sources/mod.rs::SourceState` |
//! | manifests over HTTP | `sources/http.rs::new` | a URL | `watch` of `sources/mod.rs::SourceState` |
//! | pods of the API server | `sources/apiserver.rs::new` | watch of Pods | `watch` of `sources/mod.rs::SourceState` |
//! | desired | `desired/mod.rs::run`, `desired/mirror_task.rs::run` | every source's `watch` | `mpsc` of `desired/index.rs::Change`, mirror pods |
//! | features of pods | `daemon/switched_off.rs::strip` | `mpsc` of `desired/index.rs::Change` | the same without what gates switch off |
//! | dispatch | `dispatch/mod.rs::run` | `mpsc` of `desired/index.rs::Change` and of commands, ends of tasks | `watch` of `dispatch/directive.rs::Directive` per pod, the table of `dispatch/handle.rs::PodsHandle` |
//! | found pods | `pods/launch.rs::look` | pleg's changes | `watch` of `dispatch/backend.rs::Found` |
//! | pod | `pods/worker/mod.rs::run` | `pods/worker/mod.rs::Feeds`, all `watch`; ends of its actions | actions, reports, `watch` of `dispatch/view.rs::PodView` |
//! | probes | `probes/task.rs::run` | `watch` of the containers to probe | `watch` of `model/waiting.rs::ProbeVerdicts` |
//! | volumes | `volumes/task/mod.rs`, `volumes/kinds/csi/stages.rs` | `mpsc` of commands, changes of objects and drivers | `watch` of `model/waiting.rs::VolumesState` per pod and of attachable volumes in use, mounts |
//! | stuck volumes | `daemon/stuck_volumes.rs::report` | `watch` of what cannot be removed | events, a metric |
//! | statuses | `status/writer.rs::run` | `mpsc` of `status/handle.rs::Command` | PATCH and DELETE, `watch` of `status/handle.rs::Acked` per pod |
//! | pods' resources | `resources/pod_states/mod.rs::keep` | `watch` of pods' resources | `allocated_pods_state`, `actuated_pods_state` |
//! | tiers | `resources/tiers.rs::keep` | `watch` of active pods | shares of the QoS tiers' cgroups |
//! | sweep | `daemon/wire/backend.rs::follow_pods` | the pods that are known, once | removes what unknown pods left |
//! | allocatable | `daemon/wire/backend.rs::allocatable` | `watch` of the described Node | `watch` of its allocatable |
//! | node facts | `daemon/wire/backend.rs::node_facts` | `watch` of Node, allocatable, runtime's condition, pressure, shutdown | `watch` of `model/node_facts.rs::NodeFacts` |
//! | eviction | `eviction/task.rs::run` | readings of `stats`, pods of `dispatch`, notices of the kernel | `watch` of `model/pressure.rs::Pressure`, stops and removals, events |
//! | dead containers | `eviction/collect.rs::run` | pods of `dispatch`, a timer where flags limit them | removals |
//! | collection failures | `eviction/collect.rs::report_failures` | `watch` of the runtime's condition | events |
//! | killed processes | `eviction/oom/task.rs::run` | the kernel's log | events |
//! | graceful shutdown | `shutdown/task.rs::run` | logind's announcements, pods of `dispatch` | `watch` of `node/sources.rs::Shutdown`, stops, events, a state file |
//! | node | `node/mod.rs::new` | `node/sources.rs::Sources`, all `watch` | the Node object, its lease |
//! | host addresses | `node/standalone.rs::host_ips` | the machine's addresses | `watch` of addresses |
//! | packet filter | `node/packet_filter.rs::keep` | a timer | iptables' chains |
//! | statistics | `stats/task.rs::run` | `mpsc` of questions, each with the age that an answer may have | a reading that is shared |
//! | image list | `images/listing.rs::listing` | the runtime's images | `watch` of the Node's images |
//! | image collection | `images/gc.rs::run` | a timer, disk usage, `mpsc` of demands | removed images |
//! | log rotation | `pods/logs/mod.rs::run` | a timer | rotated logs |
//! | serving certificate | `certs/serving.rs::serving` | a timer, `watch` of the described Node | `watch` of `apiserver/identity.rs::Rotated`, `kubelet-server-*.pem` |
//! | health server | `server/listener.rs::serve_when_free` | HTTP | answers |
//! | read-only server | `server/listener.rs::serve` | HTTP | answers |
//! | server | `server/listener.rs::serve` | HTTPS | answers |
//! | local socket | `server/local.rs::serve_local` | HTTP on `rkubelet.sock` | answers |
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | action | something that a pod's task has done for it: a mutation of the runtime, a pull, a hook, a preparation |
//! | adopt | to take over pods that an earlier process of the kubelet started, without touching their containers |
//! | allocatable | what the node has for pods: its capacity less what is reserved |
//! | annotated | known from the labels and annotations of a container in the runtime |
//! | back-off | the growing pause between attempts that fail; upstream's values |
//! | backend | what runs pods: the implementation of `dispatch/backend.rs::Backend` |
//! | backlog | pods that wait for their start; while there is one, work that can wait does (`model/backlog.rs::StartBacklog`) |
//! | blocked | said of a pod that waits, with the stage and the thing that it waits for |
//! | desired | what the sources say should run |
//! | directive | the newest object of a pod, and orders about it, for its task |
//! | epoch | the count of mutations that says whether a read of the runtime is current (`pleg`) |
//! | in flight | said of an action that has begun and whose effect has not been observed |
//! | key | what an action is about: two actions with one key are never in flight together |
//! | ledger | the record on disk of what was made for a pod's volumes, written before it is made |
//! | lifecycle | a pod's one way: syncing, terminating, terminated |
//! | mirror pod | the object in the API that stands for a static pod |
//! | observation | what the runtime said of one pod, with whether it is current |
//! | orphan | a pod that runs and that no source has; it is stopped |
//! | PLEG | pod lifecycle event generator: upstream's name for the observer of the runtime |
//! | preemption | stopping pods of lower priority so that a critical pod fits |
//! | publish | to give a volume of a CSI driver to one pod |
//! | recorded | known from the API's last status of a pod |
//! | relist | reading all pods of the runtime, to find what no event has told |
//! | remembered | known because this process did it |
//! | resize | other resources for a running container, in place |
//! | sandbox | the runtime's frame of a pod: its namespaces and network |
//! | silent pull | a pull ahead of a container's turn; its failures are not shown |
//! | stage | to make a volume of a CSI driver known to the node, once for all pods; it is unstaged after the last |
//! | tier | the cgroup of all burstable, or of all best-effort pods |
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
//! The public face is [`agent`] and [`backend`], for those who run pods in another way, and [`run`]
//! with [`load`], which are what the binary does. Everything else is private; the binary and the
//! tests of this repository reach it by `internals`, which promises nothing.
//!
//! Deliberately absent: a global sync loop, a global lock, a relist that others wait for, a hub
//! object, a second typed copy of a pod, feature gates read as globals.

mod admission;
mod apiserver;
mod certs;
mod clock;
mod cni;
mod config;
mod cri;
mod csi;
mod daemon;
mod desired;
mod dispatch;
mod eviction;
mod images;
mod linux;
mod model;
mod node;
mod pleg;
mod plugins;
mod pods;
mod probes;
mod resources;
mod server;
mod shutdown;
mod sources;
mod stats;
mod status;
mod telemetry;
#[cfg(any(test, feature = "testkit"))]
mod testkit;
mod tools;
mod volumes;
mod watch;

pub mod agent {
    #![doc = include_str!("daemon/agent/guide.md")]

    pub use crate::daemon::agent::{
        Agent, CommandError, Commands, Picture, Reporter, ResolveError, Resolved, Services,
    };
}

pub use crate::config::{Loaded, Refused, load};
pub use crate::daemon::run;

/// The seam between the node agent and what runs pods: the face for the author of a backend.
///
/// A backend implements [`Backend`](backend::Backend) and, if its pods can be reached,
/// [`Streams`](backend::Streams). It is handed to [`Dispatch`](backend::Dispatch), which has each
/// pod admitted and asks the backend for a task and a view of the pod. The pods come from
/// [`desired`](backend::desired), which merges any number of sources. For those who know
/// virtual-kubelet:
///
/// - `CreatePod` is [`Backend::launch`](backend::Backend::launch).
/// - `UpdatePod` and `DeletePod` are the latest value of a `watch` of
///   [`Directive`](backend::Directive).
/// - `GetPod`, `GetPodStatus` and `NotifyPods` are a `watch` of [`PodView`](backend::PodView),
///   which the pod's task writes.
/// - `GetPods` is [`Backend::found`](backend::Backend::found): pods that no task of this process
///   runs.
/// - `RunInContainer`, `AttachToContainer`, `PortForward` and `GetContainerLogs` are
///   [`Streams`](backend::Streams).
///
/// `examples/backend.rs` is a whole backend in one file.
///
/// [`agent`](crate::agent) composes a whole node agent on a backend; `examples/process-backend` is
/// one that runs pods as Linux processes. [`run`](crate::run) drives a container runtime by CRI.
pub mod backend {
    pub use crate::admission::{Features, PatternError, Rejection, SysctlAllowlist};
    pub use crate::apiserver::events::Recorder;
    pub use crate::clock::Clock;
    pub use crate::dispatch::{
        Allocated, Backend, Cause, Channels, Config, Deps, Directive, Dispatch, Ended, Exec,
        Forget, Forgetters, Found, FoundPod, Give, Launched, LogChunks, LogOptions, Opening,
        Output, PendingResize, PodView, PodsHandle, ReadNode, Resizable, Resize, Session, Stop,
        StreamError, Streams, ViewState,
    };
    pub use crate::model::observed::{AppliedResources, Exit, LinuxUser, ObservedMount};
    pub use crate::model::quantity::Amount;
    pub use crate::model::waiting::ProbeOutcome;
    pub use crate::model::{
        Blocked, ContainerId, ContainerKind, ContainerState, ContainerVerdict, EventType,
        Lifecycle, Mono, NodeFacts, Now, ObservedContainer, ObservedPod, ObservedSandbox, Pod,
        PodKey, PodUid, ProbeVerdicts, ResizeVerdict, SandboxId, SandboxState, Stage, Terminating,
        TerminationCause, Waiting, Wall,
    };
    pub use crate::resources::allocation::Allocation;
    pub use crate::resources::pod_states::PodStates;

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
    pub mod certs {
        pub use crate::certs::*;
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
    pub mod csi {
        pub use crate::csi::*;
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
    pub mod eviction {
        pub use crate::eviction::*;
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
    pub mod plugins {
        pub use crate::plugins::*;
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
    pub mod shutdown {
        pub use crate::shutdown::*;
    }
    pub mod sources {
        pub use crate::sources::*;
    }
    pub mod stats {
        pub use crate::stats::*;
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
    pub mod tools {
        pub use crate::tools::*;
    }
    pub mod volumes {
        pub use crate::volumes::*;
    }
    pub mod watch {
        pub use crate::watch::*;
    }
}
