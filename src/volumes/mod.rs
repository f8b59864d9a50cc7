//! Pods' volumes: set up before containers start, kept up to date, torn down after they have ended.
//!
//! ```text
//!   pods (ensure, update, release) ─► wishes ─┐                       ┌─► states (watch) ─► pods
//!   ConfigMaps, Secrets ─► subscriptions ─────┼─► task: entry, plan ──┤
//!   tokens' renewal, retries ─► one timer ────┘        │ ▲            └─► events (FailedMount)
//!                                                      ▼ │
//!                                              jobs: kinds (files on blocking threads)
//! ```
//!
//! - One task owns the state. Nothing polls: a change of an object reaches the files of the volumes
//!   that use it, and of no others.
//! - The layout on disk is upstream's. After a restart it is read back, and nothing is removed
//!   before its pod is known to be gone.
//! - Each pod's [`VolumesState`] says which volumes are missing, and what each waits for.
//! - Before anything is made on disk, the pod's [`ledger`] records it. Nothing is removed that
//!   neither the ledger nor the layout explains.
//! - A kind of volume is a folder in [`kinds`] with four verbs. A new one is a folder and its lines
//!   in `kinds/mod.rs`.
//!
//! A claim leads to a persistent volume: a local directory or device, a hostPath, or a volume of a
//! CSI driver.
//!
//! Not supported: nfs, iscsi, fc, flexVolume, gitRepo and the kinds whose drivers left Kubernetes;
//! CSI drivers' volumes with volumeMode Block; file systems on local devices; clusterTrustBundle
//! and podCertificate sources. An event names each such volume.

mod allocatable;
pub mod atomic_writer;
mod config;
pub mod directories;
mod entry;
pub mod error;
pub mod kinds;
pub mod ledger;
pub mod medium;
mod metrics;
pub mod mounter;
pub mod nested;
pub mod paths;
pub mod payload;
pub mod plan;
pub mod source;
pub mod subpath;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Volume};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

pub use allocatable::Allocatable;
pub use error::{SetUpError, StuckReason, TearDownError};
pub use kinds::Placed;
pub use kinds::csi::Csi;
pub use paths::Paths;
pub use source::{ClaimSource, DriverSource, ObjectSource, TokenSource};
pub use subpath::{SubPath, SubPathError};

use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::model::{Pod, PodUid, VolumesState, pod};
use crate::telemetry::metrics::Registry;
use kinds::Kind;
use metrics::Metrics;
use mounter::{KernelMounter, Mounter};
use task::{Command, Task};

/// Length of the command queue: removals, sweeps, and pods whose containers have started.
const COMMANDS: usize = 256;

/// The node's part of the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's directories.
    pub paths: Paths,
    /// What the node can give to pods.
    pub allocatable: Allocatable,
}

/// The sources of volumes' content. A node without an API server has `None` for its caches.
#[derive(Clone, Debug)]
pub struct Sources<O, T> {
    /// ConfigMaps and Secrets.
    pub objects: O,
    /// Service-account tokens.
    pub tokens: T,
    /// Claims and persistent volumes.
    pub claims: Arc<dyn ClaimSource>,
}

/// The wanted state of one pod's volumes.
#[derive(Clone, Debug)]
enum Wish {
    /// Set up, as this object of the pod says.
    Present(Arc<Pod>),
    /// Torn down.
    Gone,
}

/// A volume or directory of a pod that is gone, which cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The pod.
    pub uid: PodUid,
    /// The error's text; it names the path.
    pub problem: String,
    /// The kind of reason.
    pub reason: StuckReason,
}

/// The result of removing what pods that are gone have left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leftovers that cannot be removed.
    pub stuck: Vec<Stuck>,
    /// Number of directories of unknown pods that were removed since the last sweep.
    pub cleaned: u64,
}

#[derive(Debug)]
struct Shared {
    /// The wanted state of each pod; the latest counts.
    wishes: watch::Sender<BTreeMap<PodUid, Wish>>,
    /// The published states. The lock is held for a look-up only.
    states: Mutex<HashMap<PodUid, watch::Sender<VolumesState>>>,
    /// Number of containers of each pod that are being started.
    starting: Mutex<HashMap<PodUid, usize>>,
    /// The persistent volumes behind each pod's claims, by the volume's name in the pod.
    claimed: Mutex<BTreeMap<PodUid, BTreeMap<String, ledger::Record>>>,
    swept: watch::Sender<Swept>,
    /// Set once they are registered.
    metrics: OnceLock<Metrics>,
}

impl Shared {
    fn state(&self, uid: &PodUid) -> watch::Sender<VolumesState> {
        self.states.lock().entry(uid.clone()).or_default().clone()
    }

    fn is_starting(&self, uid: &PodUid) -> bool {
        self.starting.lock().contains_key(uid)
    }
}

/// A handle on the volumes' task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    paths: Arc<Paths>,
    mounter: KernelMounter,
}

/// The connections of the volumes' task.
#[derive(Clone, Debug)]
pub struct Deps<O, T, M> {
    /// The sources of volumes' content.
    pub sources: Sources<O, T>,
    /// The node's CSI drivers.
    pub csi: Csi,
    /// Mounts.
    pub mounter: M,
    /// Events.
    pub recorder: Recorder,
    /// The clocks.
    pub clock: Clock,
}

/// The handle, and the task, which runs until it is dropped.
pub fn new<O: ObjectSource, T: TokenSource, M: Mounter>(
    config: Config,
    deps: Deps<O, T, M>,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let Deps { sources, csi, mounter, recorder, clock } = deps;
    let shared = Arc::new(Shared {
        wishes: watch::Sender::default(),
        states: Mutex::default(),
        starting: Mutex::default(),
        claimed: Mutex::default(),
        swept: watch::Sender::default(),
        metrics: OnceLock::new(),
    });
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let paths = Arc::new(config.paths);
    let handle = Handle {
        shared: Arc::clone(&shared),
        commands,
        paths: Arc::clone(&paths),
        mounter: KernelMounter::detect(),
    };
    let stages = csi.task(mounter.clone(), Arc::clone(&paths), clock);
    let task = Task::new(task::Parts {
        shared,
        commands: receiver,
        paths,
        allocatable: config.allocatable,
        sources,
        csi,
        mounter,
        recorder,
        clock,
    });
    let both = async move {
        tokio::join!(task.run(), stages);
    };
    (handle, both)
}

impl Handle {
    /// The state of a pod's volumes, now and from now on. `Absent` until [`Handle::ensure`].
    pub fn subscribe(&self, uid: &PodUid) -> watch::Receiver<VolumesState> {
        self.shared.state(uid).subscribe()
    }

    /// Requests that a pod's volumes are set up and kept up to date. A newer object of the pod is
    /// followed by the files that show its fields.
    pub fn ensure(&self, pod: Arc<Pod>) -> watch::Receiver<VolumesState> {
        let uid = pod::uid(&pod);
        let state = self.subscribe(&uid);
        self.shared.wishes.send_modify(|wishes| drop(wishes.insert(uid, Wish::Present(pod))));
        state
    }

    /// Hands in a newer object of a pod. Without effect if the volumes were not requested.
    pub fn update(&self, pod: Arc<Pod>) {
        let uid = pod::uid(&pod);
        self.shared.wishes.send_if_modified(|wishes| match wishes.get_mut(&uid) {
            Some(Wish::Present(known)) if !Arc::ptr_eq(known, &pod) => {
                *known = pod;
                true
            }
            Some(Wish::Present(_) | Wish::Gone) | None => false,
        });
    }

    /// Requests that a pod's volumes are torn down. No container of the pod may run any more. The
    /// state becomes `Absent` when the volumes are gone; failures are tried again.
    pub fn release(&self, uid: &PodUid) -> watch::Receiver<VolumesState> {
        let state = self.subscribe(uid);
        self.shared.wishes.send_modify(|wishes| drop(wishes.insert(uid.clone(), Wish::Gone)));
        state
    }

    /// Forgets a pod that is gone. Leftovers on disk are removed by [`Handle::sweep`].
    pub fn forget(&self, uid: &PodUid) {
        self.shared.states.lock().remove(uid);
        self.shared.claimed.lock().remove(uid);
        self.shared.wishes.send_if_modified(|wishes| wishes.remove(uid).is_some());
    }

    /// Tears down what is left of a pod's volumes and removes its directory. Everything that can go
    /// goes; the error is about the first thing that could not. Cancel-safe: the removal goes on.
    pub async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), TearDownError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || TearDownError::Panicked("the volumes' task has ended".to_owned());
        let command = Command::Remove { uid: uid.clone(), reply };
        self.commands.send(command).await.map_err(|_closed| stopped())?;
        answer.await.unwrap_or_else(|_closed| Err(stopped()))
    }

    /// Removes what is on disk of pods that are not `known` (to a source or to the runtime). To be
    /// called once every source has answered. What cannot be removed is tried again by later
    /// sweeps, ever more rarely.
    pub fn sweep(&self, known: impl IntoIterator<Item = PodUid>) {
        let command = Command::Sweep { known: known.into_iter().collect() };
        if self.commands.try_send(command).is_err() {
            tracing::debug!(
                "The sweep of pods' directories is left to the next one: too much to do"
            );
        }
    }

    /// What became of pods that are gone, and what of them is stuck.
    pub fn swept(&self) -> watch::Receiver<Swept> {
        self.shared.swept.subscribe()
    }

    /// To be held while a container of the pod is created and started: files that it may have been
    /// given by subPath are not removed meanwhile, even if they change.
    pub fn starting(&self, uid: &PodUid) -> StartGuard {
        *self.shared.starting.lock().entry(uid.clone()).or_default() += 1;
        StartGuard {
            uid: uid.clone(),
            shared: Arc::clone(&self.shared),
            commands: self.commands.clone(),
        }
    }

    /// Where a volume of a pod lies on the host; `None` for what the runtime mounts itself and what
    /// is not there.
    pub fn place(&self, uid: &PodUid, volume: &Volume) -> Option<Placed> {
        let claimed = self.shared.claimed.lock();
        let record = claimed.get(uid).and_then(|of_pod| of_pod.get(&volume.name));
        Kind::of(volume).placed(&self.paths, uid, &volume.name, record)
    }

    /// The groups that come with a pod's persistent volumes, in ascending order.
    pub fn groups(&self, uid: &PodUid) -> Vec<i64> {
        let claimed = self.shared.claimed.lock();
        let records = claimed.get(uid).into_iter().flat_map(BTreeMap::values);
        let groups: BTreeSet<i64> =
            records.filter_map(|record| record.claimed.as_ref()?.gid).collect();
        groups.into_iter().collect()
    }

    /// Measures the work on volumes from now on.
    pub fn measure(&self, registry: &Registry) {
        self.shared.metrics.get_or_init(|| Metrics::register(registry));
    }

    /// The node's directories.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Binds a subPath of a volume and answers where. Bound until the volume is torn down.
    /// Cancel-safe.
    pub async fn prepare_subpath(&self, request: SubPath) -> Result<PathBuf, SubPathError> {
        let (mounter, paths) = (self.mounter, Arc::clone(&self.paths));
        let (volume, container) = (request.volume.clone(), request.container.clone());
        let work =
            crate::linux::blocking::spawn(move || subpath::prepare(&mounter, &paths, &request));
        work.await.unwrap_or_else(|panicked| {
            Err(SubPathError::Prepare {
                volume,
                container,
                source: std::io::Error::other(panicked),
            })
        })
    }
}

impl Handle {
    /// Checks a hostPath again, before a container that mounts it is made: the runtime would make a
    /// directory where a socket or file has vanished. Cancel-safe.
    pub async fn check_host_path(&self, source: &HostPathVolumeSource) -> Result<(), SetUpError> {
        if source.type_.as_deref().unwrap_or_default().is_empty() {
            return Ok(());
        }

        let source = source.clone();
        let work = crate::linux::blocking::spawn(move || kinds::host_path::ensure(&source));
        work.await.unwrap_or_else(|panicked| Err(SetUpError::Panicked(panicked.to_string())))
    }

    /// Makes the mount points that a container needs inside emptyDirs which it mounts read-only:
    /// the runtime cannot. `source` is the path of the node that a volumeMount shows, by index. A
    /// failure is logged only: the runtime reports what it cannot mount. Cancel-safe.
    pub async fn make_mount_points(
        &self,
        pod: &Pod,
        container: &Container,
        source: impl Fn(usize) -> Option<PathBuf>,
    ) {
        let uid = pod::uid(pod);
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        let mut wanted = Vec::new();
        for nested in nested::in_read_only_mounts(container) {
            let mut all = volumes.unwrap_or_default().iter();
            let outer = all.find(|outer| outer.name == nested.outer);
            let outer = outer.filter(|outer| Kind::of(outer).is_empty_dir());
            if let Some(outer) = outer.and_then(|outer| self.place(&uid, outer)) {
                wanted.push((outer.path, PathBuf::from(nested.path), source(nested.index)));
            }
        }
        if wanted.is_empty() {
            return;
        }

        let work = crate::linux::blocking::spawn(move || {
            wanted.iter().try_for_each(|(dir, path, source)| {
                kinds::empty_dir::make_mount_point(dir, path, source.as_deref())
            })
        });
        let made = work.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
        if let Err(error) = made {
            tracing::warn!(
                container = container.name, %error,
                "A mount point in a read-only emptyDir cannot be made"
            );
        }
    }
}

/// See [`Handle::starting`].
#[derive(Debug)]
pub struct StartGuard {
    uid: PodUid,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        let mut starting = self.shared.starting.lock();
        let last = match starting.get_mut(&self.uid) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) | None => starting.remove(&self.uid).is_some(),
        };
        drop(starting);
        if last {
            // If the queue is full the old files stay until the next change.
            drop(self.commands.try_send(Command::Started { uid: self.uid.clone() }));
        }
    }
}
