//! Persistent volumes of this node.
//!
//! - A directory is bound into the pod's own. Its files are never written; they may change group.
//! - A device is linked there.
//! - A hostPath is checked, and lies where it is.
//!
//! Layout and texts are upstream's. The ledger knows of a bind before there is one, so that an
//! interrupted set-up can be taken away.

mod ownership_events;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::HostPathVolumeSource;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::claim::bound::Bound;
use super::context::{Context, Done, OnDisk};
use super::host_path;
use super::payload::fs_group;
use crate::linux::ownership::{self, Progress};
use crate::model::reason::event::ALREADY_MOUNTED_VOLUME;
use crate::model::{EventType, Pod, PodUid, pod};
use crate::volumes::error::{SetUpError, TearDownError, errno_text};
use crate::volumes::ledger::{self, Claimed, Made, Record};
use crate::volumes::mounter::Mounter;
use crate::volumes::paths::{Paths, is_component};

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/local-volume";

/// One persistent volume of one pod.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// The node's directories.
    pub paths: &'a Paths,
    /// The pod.
    pub uid: &'a PodUid,
    /// The volume's name in the pod.
    pub volume: &'a str,
    /// The persistent volume.
    pub bound: &'a Bound,
    /// The group of the files, and true if a root of that group stands for all of them.
    pub fs_group: Option<(u32, bool)>,
    /// The progress of the change of group.
    pub progress: &'a Progress,
}

/// The result of a set-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The volume's record in the ledger.
    pub record: Record,
    /// The message of a Warning event (upstream's `AlreadyMountedVolume`).
    pub warning: Option<String>,
}

/// Binds the directory into the pod's, or links the device there. One job at a time works on
/// `path`. While the directory is given to the pod's group, events say how far that is; the pod's
/// end cancels it.
pub(super) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    bound: Bound,
    path: String,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let turn = context.tools.locks.of(PathBuf::from(&path)).lock_owned();
    let turn = context.cancel.run_until_cancelled(turn).await.ok_or(SetUpError::Cancelled)?;

    let progress = Arc::new(Progress::default());
    let reports = ownership_events::report(context, &bound.name, Arc::clone(&progress));
    let work = move |context: &Context<M, T>| {
        context.make_pod_dirs()?;
        let local = Local::of(context, &bound, &progress);
        put_in_place(&context.tools.mounter, &local, &path)
    };
    let ended = tokio::select! {
        ended = context.blocking(work) => ended,
        // Only reports how far the work is: dropping it loses nothing.
        never = reports => match never {},
    };
    drop(turn);

    let Outcome { record, warning } = ended?;
    if let Some(warning) = warning {
        let pod = &context.pod;
        tracing::info!(
            pod = %pod::key(pod), volume = context.name(), warning, "A volume is shared"
        );
        let recorder = &context.tools.recorder;
        recorder.pod(pod, None, EventType::Warning, ALREADY_MOUNTED_VOLUME, warning);
    }
    Ok(Done { claimed: Some(record), ..Done::default() })
}

/// Checks a persistent volume that is a hostPath.
pub(super) async fn set_up_host_path<M: Mounter, T: Send + Sync + 'static>(
    bound: Bound,
    source: HostPathVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let work = move |context: &Context<M, T>| {
        context.make_pod_dirs()?;
        host(&Local::of(context, &bound, &Progress::default()), &source)
    };
    let outcome = context.blocking(work).await?;
    Ok(Done { claimed: Some(outcome.record), ..Done::default() })
}

/// Makes a local volume usable for the pod. Idempotent; blocks.
pub fn put_in_place<M: Mounter>(
    mounter: &M,
    local: &Local<'_>,
    path: &str,
) -> Result<Outcome, SetUpError> {
    if local.bound.block { device(local, path) } else { directory(mounter, local, path) }
}

/// Returns true if a tree is given to the pod's group only if its root is not the group's already
/// (`OnRootMismatch`).
fn only_on_mismatch(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    policy == Some("OnRootMismatch")
}

impl<'a> Local<'a> {
    fn of<M, T>(context: &'a Context<M, T>, bound: &'a Bound, progress: &'a Progress) -> Self {
        let pod = &context.pod;
        Self {
            paths: &context.paths,
            uid: &context.uid,
            volume: context.name(),
            bound,
            fs_group: fs_group(pod).map(|gid| (gid, only_on_mismatch(pod))),
            progress,
        }
    }
}

impl Local<'_> {
    fn record(&self, plugin: &str, made: Made, path: &Path) -> Record {
        let (read_only, gid) = (self.bound.read_only, self.bound.gid);
        let claimed = Claimed { path: path.to_owned(), read_only, gid, done: false };
        Record::new(self.volume, plugin, made).claimed(&self.bound.name, claimed)
    }

    fn failed(&self, text: impl Into<String>) -> SetUpError {
        self.bound.failed(
            if self.bound.block { "MapVolume.SetUpDevice" } else { "MountVolume.SetUp" },
            text,
        )
    }

    /// Takes the last step: completes the record in the ledger.
    fn done(&self, mut record: Record, warning: Option<String>) -> Result<Outcome, SetUpError> {
        if let Some(claimed) = &mut record.claimed {
            claimed.done = true;
        }
        self.note(&record)?;
        Ok(Outcome { record, warning })
    }

    /// Writes the record into the ledger, before anything is made.
    fn note(&self, record: &Record) -> Result<(), SetUpError> {
        let dir = self.paths.ledger(self.uid);
        ledger::write(self.paths, self.uid, record)
            .map_err(SetUpError::io("write the ledger in", &dir))
    }
}

fn host(local: &Local<'_>, source: &HostPathVolumeSource) -> Result<Outcome, SetUpError> {
    if !local.bound.options.is_empty() {
        let text = "mount options are not supported for this volume type";
        return Err(local.bound.failed("MountVolume.MountOptionSupport check", text));
    }
    host_path::ensure(source).map_err(|error| local.failed(error.text()))?;
    local.done(local.record(host_path::PLUGIN, Made::Nothing, Path::new(&source.path)), None)
}

/// Checks a local volume's path by upstream's rules. Returns true if the path is a device.
fn is_device(local: &Local<'_>, path: &str) -> Result<bool, SetUpError> {
    let step = if local.bound.block {
        "MapVolume.NewBlockVolumeMapper initialization"
    } else {
        "MountVolume.NewMounter initialization"
    };
    let failed = |text: String| local.bound.failed(step, text);
    if path.is_empty() {
        return Err(failed("local volume source is nil or local path is not set".to_owned()));
    }
    if !is_component(&local.bound.name) {
        return Err(failed(format!("{:?} is not the name of a directory", local.bound.name)));
    }
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failed(format!("path {path:?} does not exist")));
        }
        Err(error) => return Err(failed(format!("stat {path}: {}", errno_text(&error)))),
    };
    if !kind.is_dir() && !kind.is_block_device() {
        return Err(failed("only directory and block device are supported".to_owned()));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(local.failed(format!("invalid path: {path} must not contain '..'")));
    }
    Ok(kind.is_block_device())
}

fn directory<M: Mounter>(
    mounter: &M,
    local: &Local<'_>,
    path: &str,
) -> Result<Outcome, SetUpError> {
    if is_device(local, path)? {
        let text = format!(
            "local: failed to mount device {path}: file systems on devices are not supported on this node yet, only \
             directories and volumeMode Block"
        );
        return Err(local.bound.failed("MountVolume.MountDevice", text));
    }

    let source = Path::new(path);
    let dir = local.paths.plugin_volume(local.uid, PLUGIN, &local.bound.name);
    let io_failed = |step: &'static str| {
        let (dir, local) = (dir.clone(), *local);
        move |error: io::Error| local.failed(SetUpError::io(step, &dir)(error).text())
    };

    let flags = flags(local)?;
    let opened = open(source, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let opened = opened.map_err(|error| io_failed("open the source of")(error.into()))?;
    let stat = nix::sys::stat::fstat(&opened)
        .map_err(|error| io_failed("look at the source of")(error.into()))?;

    let record =
        local.record(PLUGIN, Made::Bind { device: stat.st_dev, inode: stat.st_ino }, source);

    let is_mounted = match mounter.is_mount_point(&dir) {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io_failed("look for a mount at")(error)),
    };

    let mut record = record;
    if is_mounted {
        // The directory on the node may have been replaced since: what is bound stays, and the
        // ledger says what it is.
        let (device, inode) = mounter.identity(&dir).map_err(io_failed("look at"))?;
        record.made = Made::Bind { device, inode };
        let known = ledger::read(local.paths, local.uid, local.volume);
        if known.is_some_and(|known| {
            known.made == record.made && known.claimed.is_some_and(|claimed| claimed.done)
        }) {
            return local.done(record, None);
        }
    }

    let others = mounter.other_places(source).map_err(io_failed("look for other mounts of"))?;
    // The kernel shows mounts without links; the root directory may be one.
    let plain = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (pods, own) = (plain(&local.paths.pods()), plain(&dir));
    let of_pods = |place: &PathBuf| place.starts_with(&pods) && *place != own;
    let in_use: Vec<PathBuf> = others.into_iter().filter(of_pods).collect();
    let warning = already_mounted(local, source, &in_use);

    local.note(&record)?;
    if !is_mounted {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&dir)
            .map_err(io_failed("make the directory"))?;
        mounter.bind(opened.as_fd(), &dir).map_err(|error| {
            // A failure is no matter: the next try finds the directory.
            drop(std::fs::remove_dir(&dir));
            io_failed("bind the volume to")(error)
        })?;
    }

    if !flags.is_empty() {
        mounter.remount_bind(&dir, flags).map_err(io_failed("change the mount at"))?;
    }

    if in_use.is_empty() && !local.bound.read_only {
        give(local, &dir)?;
    }

    local.done(record, warning)
}

fn give(local: &Local<'_>, dir: &Path) -> Result<(), SetUpError> {
    let Some((gid, on_mismatch)) = local.fs_group else { return Ok(()) };
    if on_mismatch && ownership::group_matches(dir, gid, false) {
        return Ok(());
    }
    match ownership::give_to_group(dir, gid, false, local.progress) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(SetUpError::Cancelled),
        Err(error) => Err(local.failed(SetUpError::io("give to its group", dir)(error).text())),
        Ok(()) => Ok(()),
    }
}

/// Returns upstream's warning for a directory that other pods use with another group.
fn already_mounted(local: &Local<'_>, source: &Path, in_use: &[PathBuf]) -> Option<String> {
    let (wanted, _) = local.fs_group.filter(|_| !in_use.is_empty())?;
    let present = std::fs::metadata(source).ok()?.gid();
    (present != wanted).then(|| {
        format!(
            "The requested fsGroup is {wanted}, but the volume {} has GID {present}. The volume may not be shareable.",
            local.bound.name
        )
    })
}

/// Parses mount options into flags.
fn flags(local: &Local<'_>) -> Result<MsFlags, SetUpError> {
    let mut flags = if local.bound.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    for option in &local.bound.options {
        flags |= match option.trim() {
            "" | "bind" | "rw" | "defaults" | "suid" | "dev" | "exec" | "atime" | "diratime" => {
                MsFlags::empty()
            }
            "ro" => MsFlags::MS_RDONLY,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            "strictatime" => MsFlags::MS_STRICTATIME,
            other => {
                return Err(local.failed(format!(
                    "mount failed: unknown mount option {other:?} of a bind mount"
                )));
            }
        };
    }
    Ok(flags)
}

fn device(local: &Local<'_>, path: &str) -> Result<Outcome, SetUpError> {
    is_device(local, path)?;
    let failed =
        |step: &'static str, error: &io::Error| local.bound.failed(step, errno_text(error));
    let source = std::fs::canonicalize(path)
        .map_err(|error| failed("MapVolume.EvalHostSymlinks", &error))?;
    let record = local.record(PLUGIN, Made::Device, &source);
    local.note(&record)?;
    let link = record.path(local.paths, local.uid);
    let made = (|| {
        if let Some(parent) = link.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
        }
        // An old link may be of another boot.
        match std::fs::read_link(&link) {
            Ok(present) if present == source => return Ok(()),
            Ok(_) => std::fs::remove_file(&link)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        symlink(&source, &link)
    })();
    made.map_err(|error: io::Error| failed("MapVolume.MapBlockVolume", &error))?;
    local.done(record, None)
}

/// Takes the volume from the pod again.
pub(super) async fn tear_down<M: Mounter>(volume: &Arc<OnDisk<M>>) -> Result<(), TearDownError> {
    let work = |volume: &OnDisk<M>| {
        take_away(&volume.mounter, &volume.paths, &volume.uid, &volume.directory)
    };
    volume.blocking(work).await
}

/// Unbinds the directory and removes the link. The volume itself is not touched. A missing one is
/// done. Blocks.
pub fn take_away<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    uid: &PodUid,
    name: &str,
) -> Result<(), TearDownError> {
    let dir = paths.plugin_volume(uid, PLUGIN, name);
    match mounter.is_mount_point(&dir) {
        Ok(true) => mounter.unmount(&dir).map_err(TearDownError::io("unmount", &dir))?,
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(TearDownError::io("look for a mount at", &dir)(error)),
    }
    match std::fs::remove_dir(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Whatever is in it was not put there by a mount.
        Err(error) => return Err(TearDownError::Foreign { path: dir, what: error.to_string() }),
    }
    let link = paths.plugin_device(uid, PLUGIN, name);
    match std::fs::symlink_metadata(&link) {
        Ok(metadata) if metadata.is_symlink() => {
            std::fs::remove_file(&link).map_err(TearDownError::io("remove", &link))
        }
        Ok(_) => Err(TearDownError::Foreign {
            path: link,
            what: "it is not a link to a device".to_owned(),
        }),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    use super::{Local, host, put_in_place, take_away};
    use crate::linux::fs::write_atomic;
    use crate::linux::ownership::Progress;
    use crate::model::PodUid;
    use crate::volumes::kinds::claim::bound::{Bound, Source};
    use crate::volumes::kinds::claim::without_driver;
    use crate::volumes::ledger::{Made, Record, read};
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::paths::Paths;

    struct Node {
        dir: tempfile::TempDir,
        paths: Paths,
        mounter: FakeMounter,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("disk")).expect("made");
        write_atomic(&dir.path().join("disk/data"), "kept", 0o600).expect("written");
        Node {
            paths: Paths::new(dir.path(), dir.path().join("logs")),
            dir,
            mounter: FakeMounter::default(),
        }
    }

    impl Node {
        fn bound(&self, path: &str) -> Bound {
            Bound {
                name: "pv".to_owned(),
                source: Source::Local(self.dir.path().join(path).display().to_string()),
                read_only: false,
                block: false,
                options: Vec::new(),
                gid: None,
                single_pod: false,
                affinity: None,
            }
        }

        fn set_up(
            &self,
            uid: &str,
            bound: &Bound,
            gid: Option<u32>,
        ) -> Result<(Record, Option<String>), String> {
            let (uid, progress) = (PodUid::from(uid), Progress::default());
            let fs_group = gid.map(|gid| (gid, false));
            let local = Local {
                paths: &self.paths,
                uid: &uid,
                volume: "data",
                bound,
                fs_group,
                progress: &progress,
            };
            let made = match &bound.source {
                Source::Local(path) => put_in_place(&self.mounter, &local, path),
                Source::HostPath(source) => host(&local, source),
                Source::Csi(driver) => Err(without_driver(bound, driver)),
            };
            made.map(|made| (made.record, made.warning)).map_err(|error| error.event("data"))
        }

        fn place(&self, uid: &str) -> PathBuf {
            self.paths.plugin_volume(&PodUid::from(uid), super::PLUGIN, "pv")
        }
    }

    #[test]
    fn a_directory_is_bound_and_only_unbound() {
        let node = node();
        let mut bound = node.bound("disk");
        bound.options = vec!["noexec".to_owned()];
        let (record, warning) = node.set_up("u1", &bound, None).expect("bound");
        let uid = PodUid::from("u1");
        assert_eq!((&record.directory, warning), (&"pv".to_owned(), None));
        assert_eq!(read(&node.paths, &uid, "data"), Some(record.clone()));
        assert!(record.is_there(&node.mounter, &node.paths, &uid));
        assert!(
            node.mounter
                .log()
                .iter()
                .any(|line| line.contains("remount") && line.contains("NOEXEC"))
        );
        node.set_up("u1", &bound, None).expect("bound already");
        assert_eq!(node.mounter.mounts().len(), 1);
        take_away(&node.mounter, &node.paths, &uid, "pv").expect("unbound");
        take_away(&node.mounter, &node.paths, &uid, "pv").expect("unbound again");
        assert!(node.mounter.mounts().is_empty() && !node.place("u1").exists());
        assert!(
            node.dir.path().join("disk/data").exists(),
            "the data is the volume's, not the pod's"
        );
    }

    #[test]
    fn data_beneath_a_lost_mount_stays() {
        let node = node();
        std::fs::create_dir_all(node.place("u1")).expect("made");
        write_atomic(&node.place("u1").join("stray"), "x", 0o600).expect("written");
        let error = take_away(&node.mounter, &node.paths, &PodUid::from("u1"), "pv")
            .expect_err("foreign data");
        assert!(
            error.text().contains("holds what this node did not put there"),
            "{}",
            error.text()
        );
        assert!(node.place("u1").join("stray").exists());
    }

    #[test]
    fn a_second_pod_with_another_group_is_warned_and_changes_nothing() {
        let node = node();
        let bound = node.bound("disk");
        let gid = std::fs::metadata(node.dir.path()).expect("it exists").gid();
        let mode = || {
            std::fs::metadata(node.dir.path().join("disk/data")).expect("it exists").mode() & 0o7777
        };
        node.set_up("u1", &bound, None).expect("bound");
        let (_, warning) = node.set_up("u2", &bound, Some(gid + 1)).expect("bound");
        let text = format!(
            "The requested fsGroup is {}, but the volume pv has GID {gid}. The volume may not be shareable.",
            gid + 1
        );
        assert_eq!(warning, Some(text));
        assert_eq!(mode(), 0o600, "only the first user gives it to a group");
    }

    #[test]
    fn errors_are_upstreams() {
        let node = node();
        let check = |bound: &Bound, expected: &str| {
            let expected = expected.replace("DIR", &node.dir.path().display().to_string());
            assert_eq!(node.set_up("u1", bound, None).expect_err("an error"), expected);
        };
        check(
            &node.bound("missing"),
            "MountVolume.NewMounter initialization failed for volume \"pv\" : path \"DIR/missing\" does not exist",
        );
        check(
            &node.bound("disk/data"),
            "MountVolume.NewMounter initialization failed for volume \"pv\" : only directory and block device are supported",
        );
        let csi = Bound { source: Source::Csi("d.io".to_owned()), ..node.bound("disk") };
        check(
            &csi,
            "MountVolume.MountDevice failed for volume \"pv\" : kubernetes.io/csi: attacher.MountDevice failed to create \
             newCsiDriverClient: driver name d.io not found in the list of registered CSI drivers",
        );
        assert!(node.mounter.log().is_empty());
    }

    #[test]
    fn a_device_is_a_link() {
        let node = node();
        let bound = Bound { block: true, ..node.bound("disk") };
        let (record, _) = node.set_up("u1", &bound, None).expect("linked");
        let uid = PodUid::from("u1");
        assert_eq!(record.made, Made::Device);
        let link = record.path(&node.paths, &uid);
        assert_eq!(std::fs::read_link(&link).expect("a link"), node.dir.path().join("disk"));
        take_away(&node.mounter, &node.paths, &uid, "pv").expect("removed");
        assert!(link.symlink_metadata().is_err());
    }
}
