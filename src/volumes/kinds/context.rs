//! The arguments of a volume kind's verbs: the node's tools, the pod, the places on disk.
//!
//! Filled in by the volumes' task. Nothing here decides when a volume is set up or torn down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Volume;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::linux::{blocking, fs};
use crate::model::{Mono, Pod, PodUid, Wall};
use crate::volumes::allocatable::Allocatable;
use crate::volumes::error::{SetUpError, TearDownError};
use crate::volumes::ledger::{self, Made, Record};
use crate::volumes::medium::Medium;
use crate::volumes::mounter::Mounter;
use crate::volumes::paths::{Paths, is_component};
use crate::volumes::payload::{ObjectRef, Objects};
use crate::volumes::source::ClaimSource;

/// Makes sure that one job at a time works on a directory of the node that several pods may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks(Arc<Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>>);

impl Locks {
    /// The lock of one path.
    pub(crate) fn of(&self, path: PathBuf) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&path).and_then(Weak::upgrade) {
            return lock;
        }

        let lock = Arc::default();
        locks.insert(path, Arc::downgrade(&lock));
        lock
    }
}

/// The node's means to set volumes up.
#[derive(Clone, Debug)]
pub(crate) struct Tools<M, T> {
    pub(crate) mounter: M,
    pub(crate) tokens: T,
    pub(crate) claims: Arc<dyn ClaimSource>,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
    pub(crate) locks: Locks,
}

/// The result of a set-up.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// When the volume must be set up again (a token's renewal).
    pub(crate) refresh_at: Option<Mono>,
    /// True if older files are still there, for a container that is being started.
    pub(crate) kept_old: bool,
    /// The persistent volume behind a claim.
    pub(crate) claimed: Option<Record>,
}

/// The inputs of a volume besides its spec and the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeInputs {
    /// The ConfigMaps and Secrets.
    pub objects: Vec<ObjectRef>,
    /// True if the volume shows fields of the pod, which may change.
    pub shows_pod: bool,
    /// True if set-up is expected to succeed once all objects are there.
    pub objects_suffice: bool,
}

/// One set-up of one volume of a pod. Shared with the blocking threads that do the file work.
pub(crate) struct Context<M, T> {
    pub(crate) tools: Tools<M, T>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) allocatable: Allocatable,
    pub(crate) pod: Arc<Pod>,
    pub(crate) uid: PodUid,
    /// The index of the volume in the pod's spec.
    pub(crate) index: usize,
    /// The cached ConfigMaps and Secrets that the volume is made of.
    pub(crate) objects: Objects,
    pub(crate) now: Wall,
    /// Returns true while a container of the pod is being started: it may refer to files of an
    /// older generation.
    pub(crate) is_starting: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Persistent volumes that other pods use.
    pub(crate) used_elsewhere: BTreeSet<String>,
    /// Cancelled when the pod goes away.
    pub(crate) cancel: CancellationToken,
}

impl<M, T> fmt::Debug for Context<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("uid", &self.uid)
            .field("volume", &self.name())
            .finish_non_exhaustive()
    }
}

impl<M, T> Context<M, T> {
    /// The volume in the pod's spec.
    pub(crate) fn volume(&self) -> Option<&Volume> {
        self.pod.spec.as_ref()?.volumes.as_ref()?.get(self.index)
    }

    /// The volume's name.
    pub(crate) fn name(&self) -> &str {
        self.volume().map(|volume| volume.name.as_str()).unwrap_or_default()
    }

    /// The directories of an emptyDir, or of a volume that is wrapped around one.
    pub(crate) fn place(&self, plugin: &str, ready_name: &str) -> Place {
        Place {
            dir: self.paths.plugin_volume(&self.uid, plugin, self.name()),
            ready_dir: self.paths.ready_dir(&self.uid, ready_name),
        }
    }

    /// Fails if a path made of the volume's name would lead elsewhere.
    pub(crate) fn check_names(&self) -> Result<(), SetUpError> {
        if is_component(self.name()) && is_component(self.uid.as_str()) {
            return Ok(());
        }
        let text = format!("{:?} is not the name of a directory", self.name());
        Err(SetUpError::Payload(text.into()))
    }

    /// Makes the directories of the pod that volumes lie in. Idempotent; blocks.
    pub(crate) fn make_pod_dirs(&self) -> Result<(), SetUpError> {
        make_pod_dirs(&self.paths, &self.uid)
            .map_err(SetUpError::io("make", &self.paths.pod(&self.uid)))
    }

    /// Writes into the ledger what is about to be made. Blocks.
    pub(crate) fn note(&self, plugin: &str, medium: &Medium) -> Result<(), SetUpError> {
        let record = Record::new(self.name(), plugin, Made::of_medium(medium));
        ledger::write(&self.paths, &self.uid, &record)
            .map_err(SetUpError::io("write the ledger in", &self.paths.ledger(&self.uid)))
    }
}

impl<M, T> Context<M, T>
where
    M: Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// Does file work on a blocking thread. Dropping the future leaves the work running; it ends by
    /// itself.
    pub(crate) async fn blocking<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<R, SetUpError> + Send + 'static,
    ) -> Result<R, SetUpError> {
        let context = Arc::clone(self);
        let done = blocking::spawn(move || work(&context)).await;
        done.unwrap_or_else(|panicked| Err(SetUpError::Panicked(panicked.to_string())))
    }
}

/// The directories of an emptyDir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The volume itself.
    pub dir: PathBuf,
    /// The directory of its `ready` file.
    pub ready_dir: PathBuf,
}

/// One volume that lies on the node's disk, whether or not its pod is known.
#[derive(Clone, Debug)]
pub struct OnDisk<M> {
    /// The node's mounts.
    pub mounter: M,
    /// The node's directories.
    pub paths: Arc<Paths>,
    /// The pod.
    pub uid: PodUid,
    /// The name of the volume's directory: the volume's, or the persistent volume's.
    pub directory: String,
}

impl<M: Mounter> OnDisk<M> {
    /// The volume's directory.
    pub fn dir(&self, plugin: &str) -> PathBuf {
        self.paths.plugin_volume(&self.uid, plugin, &self.directory)
    }

    /// Does file work on a blocking thread. Dropping the future leaves the work running; it ends by
    /// itself.
    pub async fn blocking<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<R, TearDownError> + Send + 'static,
    ) -> Result<R, TearDownError> {
        let volume = Arc::clone(self);
        let done = blocking::spawn(move || work(&volume)).await;
        done.unwrap_or_else(|panicked| Err(TearDownError::Panicked(panicked.to_string())))
    }
}

/// Makes the directories of a pod that everything else is made in. Idempotent; blocks.
pub fn make_pod_dirs(paths: &Paths, uid: &PodUid) -> std::io::Result<()> {
    for dir in [paths.pod(uid), paths.volumes(uid), paths.pod_plugins(uid)] {
        fs::ensure_dir(&dir, 0o750)?;
    }
    Ok(())
}
