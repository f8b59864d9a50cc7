//! The volumes of CSI drivers that this node holds: staged, and named in the Node's status.
//!
//! ```text
//!  set-ups (want) ─┐                    ┌─► volumes in use (watch) ─► the Node's status
//!  tear-downs ─────┼─► look at the disk ┤
//!  drivers, timer ─┘                    └─► NodeUnstageVolume of what no pod uses
//! ```
//!
//! - What pods use is read from the disk: the ledgers, and the files beside mounts of pods that
//!   another kubelet made. So nothing is lost by a restart.
//! - Nothing is unstaged, and nothing leaves the Node's status, while a pod's part of the disk
//!   cannot be read. It is read again after a pause.
//! - A volume is unstaged under the lock of its directory, after a second look: a set-up either
//!   sees it staged, or stages it again.
//! - A volume that needs an attachment is in use from before it is attached until it is unstaged.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::data::{self, Read, Removed, Staged};
use super::request::{Lifecycle, unique_name};
use super::{Csi, PLUGIN};
use crate::clock::Clock;
use crate::csi::{CsiError, v1};
use crate::linux::blocking;
use crate::model::{Mono, PodUid};
use crate::volumes::ledger;
use crate::volumes::mounter::Mounter;
use crate::volumes::paths::{Paths, escape};
use crate::volumes::plan::wait_after;
use crate::watch::set_if_changed;

/// The names of attachable volumes.
#[derive(Debug, Default)]
struct Uses {
    /// By pod, and by the name of the volume's directory.
    wanted: BTreeMap<(PodUid, String), String>,
    /// Without a pod that has asked for them: still staged, or from before a restart.
    leaving: BTreeSet<String>,
    /// True once the disk has been looked at.
    is_known: bool,
}

#[derive(Debug, Default)]
struct Shared {
    uses: Mutex<Uses>,
    /// Directories that this process has staged. Changed under the lock of the directory.
    staged: Mutex<BTreeSet<PathBuf>>,
    in_use: watch::Sender<Option<Vec<String>>>,
    look: Notify,
}

/// What the node holds. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Stages(Arc<Shared>);

impl Stages {
    /// Returns the volumes in use, by their names in the Node's status; `None` until known.
    pub(super) fn in_use(&self) -> watch::Receiver<Option<Vec<String>>> {
        self.0.in_use.subscribe()
    }

    /// Notes that a pod's volume is to be attached.
    pub(super) fn want(&self, uid: &PodUid, directory: &str, unique: &str) {
        let mut uses = self.0.uses.lock();
        uses.wanted.insert((uid.clone(), directory.to_owned()), unique.to_owned());
        self.publish(&uses);
    }

    /// Notes that a pod's volume is gone, and has the disk looked at.
    pub(super) fn left(&self, uid: &PodUid, directory: &str) {
        let mut uses = self.0.uses.lock();
        if let Some(unique) = uses.wanted.remove(&(uid.clone(), directory.to_owned())) {
            uses.leaving.insert(unique);
        }
        drop(uses);
        self.0.look.notify_one();
    }

    /// Returns true if this process has staged a directory.
    pub(super) fn is_staged(&self, stage: &Path) -> bool {
        self.0.staged.lock().contains(stage)
    }

    /// Notes that a directory is staged. The caller holds its lock.
    pub(super) fn staged(&self, stage: PathBuf) {
        self.0.staged.lock().insert(stage);
    }

    /// Drops the names that the disk does not explain.
    fn looked(&self, found: &OnDisk) {
        let mut uses = self.0.uses.lock();
        if !found.has_nameless {
            uses.leaving.retain(|unique| found.names.contains(unique));
        }
        uses.is_known = true;
        self.publish(&uses);
    }

    fn publish(&self, uses: &Uses) {
        if uses.is_known {
            let all: BTreeSet<&String> = uses.wanted.values().chain(&uses.leaving).collect();
            set_if_changed(&self.0.in_use, Some(all.into_iter().cloned().collect()));
        }
    }
}

/// What the disk says of drivers' volumes.
#[derive(Debug, Default)]
struct OnDisk {
    /// The directories that pods use.
    used: BTreeSet<PathBuf>,
    /// The names of volumes that pods use or that are staged.
    names: BTreeSet<String>,
    /// The staged directories that no pod uses.
    unused: Vec<Staged>,
    /// True if a volume is staged or used whose name is not known.
    has_nameless: bool,
}

/// Reads what pods use, and what is staged. It fails if a pod may use what cannot be read. It
/// blocks.
fn look<M: Mounter>(mounter: &M, paths: &Paths) -> io::Result<OnDisk> {
    let mut found = OnDisk::default();
    for pod in data::folders(&paths.pods())? {
        let Some(uid) = pod.file_name().and_then(|name| name.to_str()).map(PodUid::from) else {
            continue;
        };
        let mut recorded = BTreeSet::new();
        for record in ledger::try_read_all(paths, &uid)? {
            if record.plugin != PLUGIN {
                continue;
            }
            recorded.insert(record.directory);
            if let Some(claimed) = record.claimed {
                found.used.insert(claimed.path);
            }
        }
        for volume in data::folders(&paths.volumes(&uid).join(escape(PLUGIN)))? {
            let fields = match data::read_unless_damaged(mounter, &volume.join(data::MOUNT))? {
                Read::Data(fields) => fields,
                Read::Nothing => continue,
                // The ledger says where the volume is staged, if it is. Only its name is missing.
                Read::Damaged if is_recorded(&recorded, &volume) => {
                    found.has_nameless = true;
                    continue;
                }
                Read::Damaged => {
                    let (file, mount) = (volume.join(data::FILE), volume.join(data::MOUNT));
                    let text = format!(
                        "{} is damaged and names no volume: restore it, or unmount {} and remove both",
                        file.display(),
                        mount.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            };
            let is_persistent = fields.get("volumeLifecycleMode").map(String::as_str)
                != Some(Lifecycle::Ephemeral.as_str());
            if let (Some(driver), Some(handle), true) =
                (fields.get(data::DRIVER), fields.get(data::HANDLE), is_persistent)
            {
                found.used.insert(data::stage(paths, driver, handle));
                found.names.insert(unique_name(driver, handle));
            }
        }
    }
    let listed = data::list_stages(mounter, paths)?;
    found.has_nameless |= listed.has_nameless;
    for staged in listed.staged {
        found.names.insert(unique_name(&staged.driver, &staged.handle));
        if !found.used.contains(&staged.stage) {
            found.unused.push(staged);
        }
    }
    Ok(found)
}

/// Returns true if the ledger has a record of the volume in this folder.
fn is_recorded(recorded: &BTreeSet<String>, folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| recorded.contains(name))
}

/// The reasons why a volume that no pod uses is still staged.
#[derive(Debug, thiserror::Error)]
enum UnstageError {
    #[error("kubernetes.io/csi: attacher.UnmountDevice failed to create newCsiDriverClient: {0}")]
    NoDriver(CsiError),
    #[error("kubernetes.io/csi: attacher.UnmountDevice failed: {0}")]
    Driver(#[from] CsiError),
    #[error("the driver has unstaged the volume, but it is still mounted")]
    StillMounted,
    #[error("what pods use cannot be read: {0}")]
    Unread(io::Error),
    #[error("kubernetes.io/csi: failed to clean up global mount: {0}")]
    Io(#[from] io::Error),
}

/// A directory that could not be unstaged.
struct Failed {
    count: u32,
    retry_at: Mono,
    text: String,
}

/// The task that owns what is staged without a pod.
pub(super) struct Task<M> {
    pub(super) csi: Csi,
    pub(super) mounter: M,
    pub(super) paths: Arc<Paths>,
    pub(super) clock: Clock,
}

impl<M: Mounter> Task<M> {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        self.seed().await;
        let mut drivers = self.csi.drivers.subscribe();
        let mut failed: BTreeMap<PathBuf, Failed> = BTreeMap::new();
        let mut jobs: JoinSet<(PathBuf, Result<(), UnstageError>)> = JoinSet::new();
        let mut running: BTreeSet<PathBuf> = BTreeSet::new();
        let mut unread: Option<Failed> = None;
        loop {
            let now = self.clock.now().mono;
            match self.look().await {
                Ok(found) => {
                    unread = None;
                    let is_unused =
                        |stage: &PathBuf| found.unused.iter().any(|unused| unused.stage == *stage);
                    failed.retain(|stage, _| is_unused(stage));
                    for staged in found.unused {
                        let waits =
                            failed.get(&staged.stage).is_some_and(|failed| failed.retry_at > now);
                        if !waits && running.insert(staged.stage.clone()) {
                            jobs.spawn(self.unstage(staged));
                        }
                    }
                }
                Err(error) => unread = Some(self.not_read(unread.as_ref(), &error)),
            }
            let wake_at = next_look(&failed, &running, unread.as_ref());

            tokio::select! {
                // Each arm is cancel-safe: what it waits on keeps its state outside of the future.
                () = self.csi.stages.0.look.notified() => {}
                Some(ended) = jobs.join_next() => match ended {
                    Ok((stage, outcome)) => {
                        running.remove(&stage);
                        self.ended(&mut failed, stage, outcome);
                    }
                    // A panic: every directory may be tried again.
                    Err(_) if jobs.is_empty() => running.clear(),
                    Err(_) => {}
                },
                // The end of every sender is the end of the process.
                Ok(()) = drivers.changed() => failed.clear(),
                () = self.clock.sleep_until_some(wake_at) => {}
            }
        }
    }

    fn ended(
        &self,
        failed: &mut BTreeMap<PathBuf, Failed>,
        stage: PathBuf,
        outcome: Result<(), UnstageError>,
    ) {
        let Err(error) = outcome else {
            failed.remove(&stage);
            return;
        };
        let before = failed.get(&stage);
        let text = error.to_string();
        if before.is_none_or(|before| before.text != text) {
            warn!(stage = %stage.display(), error = text, "a volume that no pod uses stays staged");
        }
        let count = before.map_or(0, |before| before.count) + 1;
        let retry_at = self.clock.now().mono.after(wait_after(count));
        failed.insert(stage, Failed { count, retry_at, text });
    }

    /// Takes up the names that the Node's status had before this process began.
    async fn seed(&self) {
        let Some(mut view) = self.csi.objects.node() else { return };
        let Ok(view) = view.wait_for(|view| view.synced).await else { return };
        let status = view.node.as_ref().and_then(|node| node.status.as_ref());
        let names = status.and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
        self.csi.stages.0.uses.lock().leaving.extend(names);
    }

    /// Looks at the disk. Without a whole picture nothing changes.
    async fn look(&self) -> io::Result<OnDisk> {
        let found = read_disk(&self.mounter, &self.paths).await?;
        self.csi.stages.looked(&found);
        Ok(found)
    }

    /// Plans the next look after one that has failed.
    fn not_read(&self, before: Option<&Failed>, error: &io::Error) -> Failed {
        let text = error.to_string();
        if before.is_none_or(|before| before.text != text) {
            warn!(%error, "the volumes of CSI drivers cannot be read: none is unstaged");
        }
        let count = before.map_or(0, |before| before.count) + 1;
        let retry_at = self.clock.now().mono.after(wait_after(count));
        Failed { count, retry_at, text }
    }

    /// Returns the job that unstages a volume.
    fn unstage(
        &self,
        staged: Staged,
    ) -> impl Future<Output = (PathBuf, Result<(), UnstageError>)> + Send + use<M> {
        let (csi, mounter) = (self.csi.clone(), self.mounter.clone());
        let paths = Arc::clone(&self.paths);
        async move {
            let ended = try_unstage(&csi, mounter, paths, &staged).await;
            (staged.stage, ended)
        }
    }
}

/// Returns when the disk is to be looked at again without a cause. While it cannot be read nothing
/// is unstaged, so that a stage whose time has come would keep the task awake.
fn next_look(
    failed: &BTreeMap<PathBuf, Failed>,
    running: &BTreeSet<PathBuf>,
    unread: Option<&Failed>,
) -> Option<Mono> {
    if let Some(unread) = unread {
        return Some(unread.retry_at);
    }
    let waiting = failed.iter().filter(|(stage, _)| !running.contains(*stage));
    waiting.map(|(_, failed)| failed.retry_at).min()
}

/// Reads the disk on a blocking thread.
async fn read_disk<M: Mounter>(mounter: &M, paths: &Arc<Paths>) -> io::Result<OnDisk> {
    let (mounter, paths) = (mounter.clone(), Arc::clone(paths));
    let looked = blocking::spawn(move || look(&mounter, &paths)).await;
    looked.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

/// Unstages a volume unless a pod uses it by now.
async fn try_unstage<M: Mounter>(
    csi: &Csi,
    mounter: M,
    paths: Arc<Paths>,
    staged: &Staged,
) -> Result<(), UnstageError> {
    let Staged { stage, driver, handle } = staged;
    let _turn = csi.locks.of(stage.clone()).lock_owned().await;

    let found = read_disk(&mounter, &paths).await.map_err(UnstageError::Unread)?;
    if found.used.contains(stage) {
        return Ok(());
    }

    match csi.drivers.client(driver) {
        Ok(client) => {
            if client.capabilities().await?.stage {
                let request = v1::NodeUnstageVolumeRequest {
                    volume_id: handle.clone(),
                    staging_target_path: stage.display().to_string(),
                };
                client.unstage(request).await?;
            }
        }
        Err(error) => {
            let (place, probe) = (stage.clone(), mounter.clone());
            let is_past = move || data::is_of_an_earlier_boot(&probe, &place);
            if !blocking::spawn(is_past).await.unwrap_or(false) {
                return Err(UnstageError::NoDriver(error));
            }
        }
    }

    let place = stage.clone();
    let removed = blocking::spawn(move || data::remove_mount_dir(&mounter, &place)).await;
    let removed = removed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))?;
    csi.stages.0.staged.lock().remove(stage);
    match removed {
        Removed::Yes => {
            info!(driver, volume = handle, "volume unstaged");
            Ok(())
        }
        Removed::StillMounted => Err(UnstageError::StillMounted),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BTreeMap, BTreeSet, Failed, Mono, PathBuf, next_look};

    #[test]
    fn a_disk_that_cannot_be_read_keeps_the_task_asleep() {
        let at = |seconds| Mono(Duration::from_secs(seconds));
        let fails = |seconds| Failed { count: 1, retry_at: at(seconds), text: String::new() };
        let failed: BTreeMap<PathBuf, Failed> =
            [("/a".into(), fails(5)), ("/b".into(), fails(7))].into();
        let running = |stages: &[&str]| stages.iter().map(PathBuf::from).collect::<BTreeSet<_>>();

        assert_eq!(next_look(&failed, &running(&[]), None), Some(at(5)));
        assert_eq!(next_look(&failed, &running(&["/a"]), None), Some(at(7)));
        assert_eq!(next_look(&failed, &running(&[]), Some(&fails(30))), Some(at(30)));
        assert_eq!(next_look(&BTreeMap::new(), &running(&[]), None), None);
    }
}
