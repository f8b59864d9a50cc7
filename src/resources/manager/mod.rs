//! The manager of what the node gives to containers beside CPU time and memory.
//!
//! ```text
//!  plugins ── News ──► task (owns the ledger*) ──► figures ──► the Node's status
//!  dispatch ── admit ──► the ledger decides a step, the caller calls the plugin, and so on
//!  executor ── start ──► what the container has; PreStartContainer
//! ```
//!
//! - A pod is given everything at its admission: what it cannot have ends it with
//!   `UnexpectedAdmissionError`. A container's start only reads.
//! - The task never waits for a plugin: calls are made by who asked, so a plugin that hangs holds
//!   up only the pods that need it.
//! - What a pod has is free again when the pod is over.
//! - Claims of DRA are prepared before the sandbox is made: see [`claims`].

mod admit;
pub mod ledger;
pub mod provider;
mod task;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::{mpsc, oneshot, watch};

use self::provider::Ask;
use super::claims::{self, PrepareError};
use super::devices::error::DeviceError;
use super::devices::{self, Figures, Health};
use crate::apiserver::resource_claims;
use crate::clock::Clock;
use crate::model::{Pod, PodUid, pod};

/// How many requests may wait for the task.
const QUEUE: usize = 64;

/// The reason of a pod that cannot be given what it asks for.
pub const UNEXPECTED: &str = "UnexpectedAdmissionError";

/// What a container gets of the node, read when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
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

/// Why a pod cannot be given what it asks for.
#[derive(Debug, thiserror::Error)]
#[error("Allocate failed due to {0}, which is unexpected")]
pub struct Refusal(#[source] ManagerError);

/// Why a container does not get what it asks for. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Its devices cannot be had.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// The process ends.
    #[error("the kubelet is ending")]
    Ending,
}

/// The way to the manager. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<task::Command>,
    figures: watch::Receiver<Figures>,
    health: watch::Receiver<Health>,
    found_record: bool,
    claims: Option<resource_claims::Handle>,
    plugins: devices::RegistryHandler,
}

impl Handle {
    /// Returns true if an earlier process left a record of devices on this machine. Without one the
    /// machine is new, whatever the API says of a node of its name.
    pub fn found_record(&self) -> bool {
        self.found_record
    }

    /// Sets aside all that a new pod asks for; none if it asks for nothing, which is so for nearly
    /// all. `running` names its containers that run already.
    ///
    /// Cancel-safe: what was set aside stays the pod's until [`Self::forget`].
    pub fn admit(
        &self,
        pod: &Arc<Pod>,
        running: &[String],
    ) -> Option<impl Future<Output = Result<(), Refusal>> + Send + use<>> {
        let asks: Vec<Ask> = pod::init_containers(pod)
            .iter()
            .chain(pod::main_containers(pod))
            .filter(|container| devices::asks_for_any(pod, container))
            .map(|container| Ask {
                pod: pod.clone(),
                container: container.clone(),
                running: running.contains(&container.name),
            })
            .collect();
        let handle = self.clone();
        if asks.is_empty() {
            return None;
        }
        Some(async move {
            for ask in asks {
                admit::allocate(&handle, &ask).await.map_err(Refusal)?;
            }
            Ok(())
        })
    }

    /// What the container has, right before it starts. What it should have and has not, because its
    /// plugin came after its pod, is set aside now. Cancel-safe, as [`Self::admit`].
    pub async fn start(
        &self,
        pod: &Arc<Pod>,
        container: &api::Container,
    ) -> Result<Allocation, ManagerError> {
        if !devices::asks_for_any(pod, container) {
            return Ok(Allocation::default());
        }
        let ask = Ask { pod: pod.clone(), container: container.clone(), running: false };
        admit::start(self, ask).await
    }

    /// Prepares the claims of a pod that is about to get its sandbox. Cancel-safe.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), PrepareError> {
        claims::prepare(self.claims.as_ref(), pod).await
    }

    /// The pod is over: what it has is free. Bounded by the task, which empties its queue without
    /// waiting for anything else; dropped before its end, the pod keeps what it has.
    pub async fn forget(&self, uid: &PodUid) {
        // The task is gone only when the kubelet ends.
        self.commands.send(task::Command::Forget(uid.clone())).await.ok();
    }

    /// How many of each resource pods have: the node counts at least these as allocatable, also
    /// while their plugin is away.
    pub async fn given(&self) -> BTreeMap<String, i64> {
        self.ask(|reply| task::Command::Given { reply }).await.unwrap_or_default()
    }

    /// Capacity and allocatable of each resource, now and from now on.
    pub fn figures(&self) -> watch::Receiver<Figures> {
        self.figures.clone()
    }

    /// The health of the devices that containers have, now and from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// What takes on device plugins that announce themselves in `plugins_registry`.
    pub fn plugin_handler(&self) -> devices::RegistryHandler {
        self.plugins.clone()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> task::Command,
    ) -> Result<T, ManagerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ManagerError::Ending)?;
        answer.await.map_err(|_| ManagerError::Ending)
    }
}

/// The handle, and the task, which runs until it is dropped. Device plugins register in `folder`;
/// without the folder there are none, and the problem is logged. `claims` reads the API server's
/// ResourceClaims.
pub fn new(
    folder: PathBuf,
    claims: Option<resource_claims::Handle>,
    clock: Clock,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (figures, counted) = watch::channel(Figures::new());
    let (health, known) = watch::channel(Health::new());
    let found_record = folder.join(task::CHECKPOINT).exists();
    let (news, heard) = mpsc::channel(devices::NEWS);
    let plugins = devices::RegistryHandler::new(news.clone());
    let handle =
        Handle { commands, figures: counted, health: known, found_record, claims, plugins };
    let published = task::Published { figures, health };
    let task = task::Task::new(&folder, clock, published, news.clone()).run(receiver, heard);
    let plugins = devices::serve(folder, news);
    let task = async move {
        tokio::join!(task, plugins);
    };
    (handle, task)
}

#[cfg(test)]
mod tests;
