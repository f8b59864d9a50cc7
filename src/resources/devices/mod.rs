//! Device plugins: what they offer, and which container has which device.
//!
//! ```text
//!  plugin ── Register ──► server ──► task ── ListAndWatch ──► inventory* ──► figures (watch) ──► the Node's status
//!  pods' workers ── allocate ───────► task ── Allocate, PreStartContainer ──► what the container gets
//! ```
//!
//! Fed by the plugins, on sockets in `device-plugins` below the kubelet's directory, and by
//! containers that are about to start. [`inventory`] decides, `task` owns its state, `checkpoint`
//! keeps it in upstream's file. Whether a pod fits is decided elsewhere, from the figures in the
//! Node's status.

pub mod checkpoint;
pub mod inventory;
mod plugin;
mod server;
mod task;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::quantity::Amount;
use crate::model::{Pod, PodUid, pod};
use crate::resources::list;

/// The device plugin API as generated from `proto/deviceplugin/api.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
pub mod v1beta1 {
    include!("../../../proto/gen/v1beta1.rs");
}

/// How many requests may wait for the task.
const QUEUE: usize = 64;

/// Capacity and allocatable by resource.
pub type Figures = BTreeMap<String, (i64, i64)>;

/// What a container gets with its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceOptions {
    /// Environment variables; those of the container come after them.
    pub envs: BTreeMap<String, String>,
    /// Mounts by path in the container: path on the node, and whether it is read-only.
    pub mounts: BTreeMap<String, (String, bool)>,
    /// Device files by path in the container: path on the node, and permissions.
    pub devices: BTreeMap<String, (String, String)>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Names of CDI devices.
    pub cdi: Vec<String>,
}

/// A container that is about to start, as far as devices go.
#[derive(Clone, Debug)]
pub struct Request {
    uid: PodUid,
    container: String,
    /// How many of which resource.
    wanted: BTreeMap<String, usize>,
    /// Containers whose devices it may have as well: init containers, which are over by then.
    reusable: Vec<String>,
    /// Every other container of the pod.
    others: Vec<String>,
}

impl Request {
    /// What the container asks for; `None`: nothing that a plugin could offer.
    fn new(pod: &Pod, container: &api::Container) -> Option<Self> {
        let limits =
            container.resources.as_ref().and_then(|resources| resources.limits.as_ref())?;
        let amount = |text: &str| {
            Amount::parse(text).map_or(0, |amount| usize::try_from(amount.units()).unwrap_or(0))
        };
        let wanted: BTreeMap<String, usize> = limits
            .iter()
            .filter(|(name, _)| list::is_extended(name))
            .map(|(name, quantity)| (name.clone(), amount(&quantity.0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        if wanted.is_empty() {
            return None;
        }
        let over = |candidate: &&api::Container| !pod::is_sidecar(candidate);
        let name = |container: &api::Container| container.name.clone();
        let reusable: Vec<String> =
            pod::init_containers(pod).iter().filter(over).map(name).collect();
        let others = pod::init_containers(pod)
            .iter()
            .chain(pod::main_containers(pod))
            .map(name)
            .filter(|other| *other != container.name && !reusable.contains(other))
            .collect();
        Some(Self {
            uid: pod::uid(pod),
            container: container.name.clone(),
            wanted,
            reusable,
            others,
        })
    }
}

/// The way to the devices. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<task::Command>,
    figures: watch::Receiver<Figures>,
}

impl Handle {
    /// Gives the container its devices, the same ones each time that it starts. Cancel-safe: what
    /// was set aside for it stays its own until the pod is forgotten.
    pub async fn allocate(
        &self,
        pod: &Pod,
        container: &api::Container,
    ) -> Result<DeviceOptions, String> {
        let Some(request) = Request::new(pod, container) else {
            return Ok(DeviceOptions::default());
        };
        plugin::allocate(self, request).await
    }

    /// The pod is over: its devices are free. Bounded by the task, which empties its queue without
    /// waiting for anything else; dropped before its end, the pod keeps its devices.
    pub async fn forget(&self, uid: &PodUid) {
        // The task is gone only when the kubelet ends.
        self.commands.send(task::Command::Forget(uid.clone())).await.ok();
    }

    /// Capacity and allocatable of each resource, now and from now on.
    pub fn figures(&self) -> watch::Receiver<Figures> {
        self.figures.clone()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> task::Command,
    ) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| "the kubelet is ending".to_owned();
        self.commands.send(command(reply)).await.map_err(|_| "the kubelet is ending".to_owned())?;
        answer.await.map_err(gone)
    }
}

/// Starts the registration server and the task. Without the folder there are no plugins: the
/// problem is logged.
pub fn start(
    folder: PathBuf,
    clock: Clock,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Handle {
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (figures, published) = watch::channel(Figures::new());
    let handle = Handle { commands, figures: published };
    let task = task::Task::new(&folder, clock, figures);
    let (for_server, stop_task, stop_server) = (handle.clone(), stop.clone(), stop.clone());
    tasks.spawn(async move {
        stop_task.run_until_cancelled(task.run(receiver)).await;
    });
    tasks.spawn(async move {
        stop_server.run_until_cancelled(server::serve(folder, for_server)).await;
    });
    handle
}
