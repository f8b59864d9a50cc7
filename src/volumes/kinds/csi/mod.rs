//! Volumes of CSI drivers: behind a claim, or inline as long as the pod.
//!
//! ```text
//!  attached (VolumeAttachment) ─► staged once per node ─► published to each pod ─► given to its group
//! ```
//!
//! - Layout, files, requests and texts are upstream's.
//! - The ledger records a volume before its driver is asked for anything; a tear-down asks the
//!   driver again until it agrees.
//! - One job at a time works on a staged directory. A driver that hangs holds up only its volumes.
//! - [`stages`] unstages what no pod uses.

mod attach;
mod data;
mod publish;
mod request;
mod stage;
mod stages;
#[cfg(test)]
pub(in crate::volumes) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{CSIVolumeSource, SecretReference};
use k8s_openapi::api::storage::v1::CSIDriver;
use tokio::sync::watch;

use self::data::{Data, Removed};
use self::request::{Lifecycle, Wanted};
use self::stages::{Stages, Task};
use super::claim::bound::{Bound, DriverVolume};
use super::context::{Context, Done, Locks, OnDisk};
use crate::apiserver::claims::ClaimError;
use crate::clock::Clock;
use crate::csi::{Drivers, v1};
use crate::linux::blocking;
use crate::model::PodUid;
use crate::volumes::error::{FOREIGN_MOUNT, SetUpError, TearDownError, errno_text};
use crate::volumes::ledger::{self, Claimed, Made, Record};
use crate::volumes::mounter::Mounter;
use crate::volumes::paths::{Paths, is_component};
use crate::volumes::source::{DriverSource, TokenSource};

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/csi";

/// Upstream's names of the steps, as its events have them.
const SET_UP: &str = "MountVolume.SetUp";
const MOUNT_DEVICE: &str = "MountVolume.MountDevice";
const WAIT_FOR_ATTACH: &str = "MountVolume.WaitForAttach";

/// This node's way to CSI drivers and to what the API says of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Csi {
    drivers: Drivers,
    objects: Arc<dyn DriverSource>,
    node_name: Arc<str>,
    stages: Stages,
    /// One lock per directory that volumes are staged at.
    locks: Locks,
}

impl Csi {
    /// Creates the way to `drivers` from the node of this name.
    pub fn new(drivers: Drivers, objects: Arc<dyn DriverSource>, node_name: &str) -> Self {
        let (stages, locks) = <(Stages, Locks)>::default();
        Self { drivers, objects, node_name: node_name.into(), stages, locks }
    }

    /// The attachable volumes in use, by their names in the Node's status; `None` until known.
    pub fn in_use(&self) -> watch::Receiver<Option<Vec<String>>> {
        self.stages.in_use()
    }

    /// Changes when a driver comes or goes.
    pub(in crate::volumes) fn drivers(&self) -> watch::Receiver<crate::csi::drivers::Table> {
        self.drivers.subscribe()
    }

    /// Notes that a pod's volume is gone, its record included.
    pub(in crate::volumes) fn left(&self, uid: &PodUid, directory: &str) {
        self.stages.left(uid, directory);
    }

    /// Returns the task that unstages volumes; it runs until it is dropped.
    pub(in crate::volumes) fn task<M: Mounter>(
        &self,
        mounter: M,
        paths: Arc<Paths>,
        clock: Clock,
    ) -> impl Future<Output = ()> + Send + use<M> {
        Task { csi: self.clone(), mounter, paths, clock }.run()
    }
}

/// A volume on its way to a pod.
struct Volume {
    wanted: Wanted,
    /// The name in events and of the directory: the persistent volume's, or the volume's own.
    name: String,
    /// The driver's object.
    object: Option<Arc<CSIDriver>>,
    /// The place that the pod's mount lies at.
    target: PathBuf,
}

impl Volume {
    fn failed(&self, step: &'static str, text: impl Into<String>) -> SetUpError {
        SetUpError::Persistent { volume: self.name.clone(), step, text: text.into() }
    }

    /// Returns the conversion for `map_err` of file work of one step.
    fn io(
        &self,
        step: &'static str,
        what: &'static str,
        path: &Path,
    ) -> impl Fn(io::Error) -> SetUpError + use<> {
        let (volume, path) = (self.name.clone(), path.display().to_string());
        move |error| {
            let text = format!("{PLUGIN}: {what} {path}: {}", errno_text(&error));
            SetUpError::Persistent { volume: volume.clone(), step, text }
        }
    }
}

/// Returns the place of a pod's mount: `…/kubernetes.io~csi/NAME/mount`.
pub(in crate::volumes) fn target(paths: &Paths, uid: &PodUid, directory: &str) -> PathBuf {
    paths.plugin_volume(uid, PLUGIN, directory).join(data::MOUNT)
}

/// Mounts a persistent volume: waits for its attachment, stages it once, publishes it.
pub(super) async fn set_up_claim<M: Mounter, T: TokenSource>(
    bound: Bound,
    source: DriverVolume,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let DriverVolume { source, mount_options, access_modes } = source;
    let wanted = Wanted {
        handle: source.volume_handle.clone(),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        driver: source.driver.clone(),
        mount_options,
        access_modes,
        block: bound.block,
        read_only: bound.read_only,
        lifecycle: Lifecycle::Persistent,
    };
    if bound.block {
        let text = "volumes of CSI drivers with volumeMode Block are not supported on this node";
        return Err(bound.failed("MapVolume.SetUpDevice", text));
    }
    let volume = resolve(wanted, bound.name.clone(), context).await?;
    let csi = &context.tools.csi;

    let stage = data::stage(&context.paths, &volume.wanted.driver, &volume.wanted.handle);
    let claimed = Claimed {
        path: stage.clone(),
        read_only: volume.wanted.read_only,
        gid: bound.gid,
        done: false,
    };
    let record = Record::new(context.name(), PLUGIN, Made::Driver).claimed(&volume.name, claimed);
    // Before the wait: a tear-down has to know of a volume that was only wanted.
    note(context, record.clone()).await?;

    let publish_context = if request::is_attached_first(volume.object.as_deref()) {
        let work = attach::wait(&volume, context);
        context.cancel.run_until_cancelled(work).await.ok_or(SetUpError::Cancelled)??
    } else {
        BTreeMap::new()
    };

    let client = csi.drivers.client(&volume.wanted.driver).map_err(|error| {
        let what = "attacher.MountDevice failed to create newCsiDriverClient";
        volume.failed(MOUNT_DEVICE, format!("{PLUGIN}: {what}: {error}"))
    })?;
    let capabilities = client.capabilities().await;
    let capabilities =
        capabilities.map_err(|error| volume.failed(MOUNT_DEVICE, error.to_string()))?;
    if capabilities.stage {
        let request = stage::Request {
            stage: &stage,
            publish_context: &publish_context,
            secret: source.node_stage_secret_ref.as_ref(),
            capabilities,
        };
        stage::stage(&volume, &client, request, context).await?;
    }

    let with = publish::With {
        stage: capabilities.stage.then_some(stage),
        publish_context,
        secret: source.node_publish_secret_ref,
        capabilities,
    };
    let refresh_at = publish::publish(&volume, &client, with, context).await?;

    let mut record = record;
    if let Some(claimed) = &mut record.claimed {
        claimed.done = true;
    }
    note(context, record.clone()).await?;
    Ok(Done { refresh_at, claimed: Some(record), ..Done::default() })
}

/// Mounts an inline volume.
pub(super) async fn set_up_inline<M: Mounter, T: TokenSource>(
    source: &CSIVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let name = context.name().to_owned();
    let wanted = Wanted {
        driver: source.driver.clone(),
        handle: request::ephemeral_handle(&context.uid, &name),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        mount_options: Vec::new(),
        access_modes: Vec::new(),
        block: false,
        read_only: source.read_only == Some(true),
        lifecycle: Lifecycle::Ephemeral,
    };
    let volume = resolve(wanted, name, context).await?;
    let secret = source.node_publish_secret_ref.as_ref();
    let secret = secret.map(|reference| SecretReference {
        name: Some(reference.name.clone()),
        namespace: Some(crate::model::pod::key(&context.pod).namespace.to_string()),
    });

    let client = context.tools.csi.drivers.client(&volume.wanted.driver).map_err(|error| {
        let what = "mounter.SetUpAt failed to get CSI client";
        volume.failed(SET_UP, format!("{PLUGIN}: {what}: {error}"))
    })?;
    note(context, Record::new(&volume.name, PLUGIN, Made::Driver)).await?;
    let capabilities = client.capabilities().await.map_err(|error| {
        let what = "mounter.SetUpAt failed to determine if the node service has VOLUME_MOUNT_GROUP capability";
        volume.failed(SET_UP, format!("{PLUGIN}: {what}: {error}"))
    })?;

    let publish_context = BTreeMap::new();
    let with = publish::With { stage: None, publish_context, secret, capabilities };
    let refresh_at = publish::publish(&volume, &client, with, context).await?;
    Ok(Done { refresh_at, ..Done::default() })
}

/// Reads the driver's object, and checks what becomes parts of paths.
async fn resolve<M, T>(
    wanted: Wanted,
    name: String,
    context: &Context<M, T>,
) -> Result<Volume, SetUpError> {
    let failed = |text: String| SetUpError::Persistent { volume: name.clone(), step: SET_UP, text };
    for (part, what) in [(&name, "volume"), (&wanted.driver, "driver")] {
        if !is_component(part) {
            return Err(failed(format!(
                "{PLUGIN}: the {what}'s name {part:?} is not the name of a directory"
            )));
        }
    }
    if wanted.handle.is_empty() {
        return Err(failed("missing volume id".to_owned()));
    }
    let object = context.tools.csi.objects.driver(&wanted.driver).await;
    let object = object.map_err(|error| failed(format!("{PLUGIN}: {error}")))?;
    let target = target(&context.paths, &context.uid, &name);
    Ok(Volume { wanted, name, object, target })
}

/// Makes the pod's directories, and writes into the ledger what is about to be made. A volume that
/// is whole stays so while its driver is asked again.
async fn note<M: Mounter, T: TokenSource>(
    context: &Arc<Context<M, T>>,
    record: Record,
) -> Result<(), SetUpError> {
    let write = move |context: &Context<M, T>| {
        context.make_pod_dirs()?;
        let known = ledger::read(&context.paths, &context.uid, &record.volume);
        if known.is_some_and(|known| known.is_done_of(&record)) {
            return Ok(());
        }
        ledger::write(&context.paths, &context.uid, &record)
            .map_err(SetUpError::io("write the ledger in", &context.paths.ledger(&context.uid)))
    };
    context.blocking(write).await
}

/// A Secret for a driver that cannot be read. The text is upstream's.
#[derive(Debug, thiserror::Error)]
#[error(
    "fetching {field} {namespace}/{name} failed: {PLUGIN}: failed to find the secret {name} in the namespace \
     {namespace} with error: {source}"
)]
struct SecretError {
    field: &'static str,
    namespace: String,
    name: String,
    source: ClaimError,
}

/// Reads a Secret for a driver. The values are text, as upstream makes them.
async fn secrets<M, T>(
    reference: Option<&SecretReference>,
    field: &'static str,
    context: &Context<M, T>,
) -> Result<HashMap<String, String>, SecretError> {
    let Some(reference) = reference else { return Ok(HashMap::new()) };
    let namespace = reference.namespace.clone().unwrap_or_default();
    let name = reference.name.clone().unwrap_or_default();
    let secret = match context.tools.csi.objects.secret(&namespace, &name).await {
        Ok(secret) => secret,
        Err(source) => return Err(SecretError { field, namespace, name, source }),
    };
    let values = secret.data.into_iter().flatten();
    Ok(values.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

/// Has the driver take a volume from its pod, and removes what lies around the mount.
pub(super) async fn tear_down<M: Mounter>(volume: &Arc<OnDisk<M>>) -> Result<(), TearDownError> {
    let dir = volume.dir(PLUGIN);
    let mount = target(&volume.paths, &volume.uid, &volume.directory);

    let place = dir.clone();
    let read = move |_: &OnDisk<M>| {
        data::read(&place).map_err(TearDownError::io("read vol_data.json in", &place))
    };
    if let Some(data) = volume.blocking(read).await? {
        unpublish(volume, &data, &mount).await?;
    }

    let remove = move |volume: &OnDisk<M>| match data::remove_mount_dir(&volume.mounter, &mount) {
        Ok(Removed::Yes) => Ok(()),
        Ok(Removed::StillMounted) => {
            Err(TearDownError::Foreign { path: mount, what: FOREIGN_MOUNT.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Err(TearDownError::Foreign { path: dir, what: error.to_string() })
        }
        Err(error) => Err(TearDownError::io("remove", &dir)(error)),
    };
    volume.blocking(remove).await
}

async fn unpublish<M: Mounter>(
    volume: &Arc<OnDisk<M>>,
    data: &Data,
    mount: &Path,
) -> Result<(), TearDownError> {
    let field = |name: &str| data.get(name).cloned().unwrap_or_default();
    let driver = field(data::DRIVER);
    let failed = |text: String| TearDownError::Driver { driver: driver.clone(), text };

    let client = match volume.csi.drivers.client(&driver) {
        Ok(client) => client,
        Err(error) => {
            let (mounter, place) = (volume.mounter.clone(), mount.to_owned());
            let is_past = move || data::is_of_an_earlier_boot(&mounter, &place);
            if blocking::spawn(is_past).await.unwrap_or(false) {
                return Ok(());
            }
            let what = "Unmounter.TearDownAt failed to get CSI client";
            return Err(failed(format!("{PLUGIN}: {what}: {error}")));
        }
    };
    let request = v1::NodeUnpublishVolumeRequest {
        volume_id: field(data::HANDLE),
        target_path: mount.display().to_string(),
    };
    let ended = client.unpublish(request).await;
    ended.map_err(|error| failed(format!("{PLUGIN}: Unmounter.TearDownAt failed: {error}")))?;
    Ok(())
}

/// Returns true if an inline volume is mounted. It blocks.
pub(super) fn on_disk<M: Mounter>(volume: &OnDisk<M>) -> bool {
    let mount = target(&volume.paths, &volume.uid, &volume.directory);
    data::is_mounted(&volume.mounter, &mount).unwrap_or(false)
}
