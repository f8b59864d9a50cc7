//! Reads pods' directories on the node after a restart, and removes them when the pod is gone.
//!
//! Fed by the task. A removal is verified: it deletes the files that a kubelet creates, never the
//! content of a mount, and never a file of a volume whose plugin it does not know. What stays is
//! reported with its path.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::TearDownError;
use super::kinds::csi::Csi;
use super::kinds::{OnDisk, Plugin, host_path};
use super::ledger::{self, Record};
use super::mounter::Mounter;
use super::paths::{LEDGER, Paths, unescape};
use super::subpath;
use crate::linux::walk;
use crate::model::PodUid;

/// A volume that was found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The plugin's qualified name. If only subPaths of the volume are left, the hostPath plugin's.
    pub plugin: String,
    /// The volume's name.
    pub name: String,
    /// True if the volume is complete, so that containers may use it until it has been set up
    /// again.
    pub usable: bool,
    /// The ledger's record of a persistent volume, which names the pod's volume.
    pub claimed: Option<Record>,
}

/// Reads the volumes of all pods from the node's disk. A pod directory without a volume is listed
/// with none. It blocks.
pub fn reconstruct<M: Mounter>(
    mounter: &M,
    paths: &Arc<Paths>,
    csi: &Csi,
) -> io::Result<BTreeMap<PodUid, Vec<Found>>> {
    let mut pods = BTreeMap::new();
    for (name, is_dir) in listed(&paths.pods())? {
        if is_dir {
            let uid = PodUid::from(name);
            let pod = on_disk(mounter, paths, csi, &uid, "");
            let found = volumes_on_disk(&pod)?;
            pods.insert(uid, found);
        }
    }
    Ok(pods)
}

/// `pod` stands for any volume of the pod.
fn volumes_on_disk<M: Mounter>(pod: &OnDisk<M>) -> io::Result<Vec<Found>> {
    let OnDisk { mounter, paths, uid, csi, .. } = pod;
    let mut found = Vec::new();
    let mut claimed: Vec<Record> = ledger::read_all(paths, uid)
        .into_iter()
        .filter(|record| record.claimed.is_some())
        .collect();

    for volumes in [paths.volumes(uid), paths.volume_devices(uid)] {
        for (plugin_dir, _) in listed(&volumes)? {
            let plugin = unescape(&plugin_dir);
            for (name, _) in listed(&volumes.join(&plugin_dir))? {
                let known = claimed
                    .iter()
                    .position(|record| record.plugin == plugin && record.directory == name);
                let record = known.map(|index| claimed.swap_remove(index));
                let usable = if let Some(record) = &record {
                    record.is_there(mounter, paths, uid)
                } else {
                    let volume = on_disk(mounter, paths, csi, uid, &name);
                    Plugin::named(&plugin).on_disk(&volume)
                };

                found.push(Found { plugin: plugin.clone(), name, usable, claimed: record });
            }
        }
    }

    // A hostPath behind a claim has nothing on disk but its record. Neither has a volume whose
    // set-up was killed before its first step.
    for record in claimed {
        let usable = record.is_there(mounter, paths, uid);
        found.push(Found {
            plugin: record.plugin.clone(),
            name: record.directory.clone(),
            usable,
            claimed: Some(record),
        });
    }

    for (name, _) in listed(&paths.subpaths(uid))? {
        if !found.iter().any(|volume| volume.name == name) {
            found.push(Found {
                plugin: host_path::PLUGIN.to_owned(),
                name,
                usable: false,
                claimed: None,
            });
        }
    }

    Ok(found)
}

fn on_disk<M: Mounter>(
    mounter: &M,
    paths: &Arc<Paths>,
    csi: &Csi,
    uid: &PodUid,
    directory: &str,
) -> OnDisk<M> {
    OnDisk {
        mounter: mounter.clone(),
        paths: Arc::clone(paths),
        uid: uid.clone(),
        directory: directory.to_owned(),
        csi: csi.clone(),
    }
}

/// Tears one volume down: its subPaths, the plugin's files and mounts, its record. A missing volume
/// is no error.
pub async fn tear_down<M: Mounter>(
    volume: &Arc<OnDisk<M>>,
    plugin: &str,
) -> Result<(), TearDownError> {
    let name = plugin.to_owned();
    let record = volume.blocking(move |volume| prepare_tear_down(volume, &name)).await?;

    Plugin::named(plugin).tear_down(volume).await?;

    if let Some(record) = record {
        let forget = move |volume: &OnDisk<M>| {
            ledger::forget(&volume.paths, &volume.uid, &record)
                .map_err(TearDownError::io("remove a record in", &volume.paths.ledger(&volume.uid)))
        };
        volume.blocking(forget).await?;
    }
    if Plugin::named(plugin) == Plugin::Csi {
        volume.csi.left(&volume.uid, &volume.directory);
    }
    Ok(())
}

/// Removes the volume's subPaths, and verifies that a mount at the volume's place is its own.
/// Returns the volume's record. It blocks.
fn prepare_tear_down<M: Mounter>(
    volume: &OnDisk<M>,
    plugin: &str,
) -> Result<Option<Record>, TearDownError> {
    let OnDisk { mounter, paths, uid, directory, .. } = volume;
    subpath::clean_up(mounter, paths, uid, Some(directory.as_str()))?;

    let dir = volume.dir(plugin);
    let record = ledger::of_directory(paths, uid, plugin, directory);
    if let Some(record) = &record
        && mounter.is_mount_point(&dir).unwrap_or(false)
        && let Some(what) = record.foreign_mount(mounter, &dir)
    {
        return Err(TearDownError::Foreign { path: dir, what });
    }
    Ok(record)
}

/// Removes everything of a pod: volumes first, then its directory. It goes on after an error and
/// returns the first one. A missing directory is no error.
pub async fn remove_pod<M: Mounter>(
    mounter: M,
    paths: Arc<Paths>,
    csi: Csi,
    uid: PodUid,
) -> Result<(), TearDownError> {
    let pod = Arc::new(on_disk(&mounter, &paths, &csi, &uid, ""));
    let find = |pod: &OnDisk<M>| {
        volumes_on_disk(pod).map_err(TearDownError::io("read", &pod.paths.pod(&pod.uid)))
    };
    let found = pod.blocking(find).await?;

    let mut first_error = None;
    for volume in found {
        let on_disk = Arc::new(on_disk(&mounter, &paths, &csi, &uid, &volume.name));
        let torn_down = tear_down(&on_disk, &volume.plugin).await;
        first_error = first_error.or(torn_down.err());
    }

    pod.blocking(move |pod| remove_rest(pod, first_error)).await
}

/// Removes the rest of a pod's directory after its volumes. `failed` is the first error of the
/// volumes; after one, the directory and its ledger stay. It blocks.
fn remove_rest<M: Mounter>(
    pod: &OnDisk<M>,
    mut failed: Option<TearDownError>,
) -> Result<(), TearDownError> {
    let OnDisk { mounter, paths, uid, .. } = pod;
    let pod_dir = paths.pod(uid);
    let mut note = |result: Result<(), TearDownError>| {
        if let Err(error) = result
            && failed.is_none()
        {
            failed = Some(error);
        }
    };

    note(subpath::clean_up(mounter, paths, uid, None));
    // Never removed with their content, which would be a user's data.
    for dir in [paths.volumes(uid), paths.volume_devices(uid)] {
        note(remove_empty_dirs(&dir, 2));
    }

    match listed(&pod_dir).map_err(TearDownError::io("read", &pod_dir)) {
        Ok(entries) => {
            for (name, _) in entries {
                if !matches!(
                    name.as_str(),
                    "volumes" | "volumeDevices" | "volume-subpaths" | LEDGER
                ) {
                    let path = pod_dir.join(name);
                    note(walk::remove_tree(&path).map_err(TearDownError::io("remove", &path)));
                }
            }
        }
        Err(error) => note(Err(error)),
    }

    if let Some(error) = failed {
        // The ledger stays as long as the volumes that it describes.
        return Err(error);
    }

    let ledger = pod_dir.join(LEDGER);
    walk::remove_tree(&ledger).map_err(TearDownError::io("remove", &ledger))?;

    match std::fs::remove_dir(&pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TearDownError::io("remove", &pod_dir)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes empty directories, `levels` deep beneath `dir`, and then `dir`.
fn remove_empty_dirs(dir: &Path, levels: u32) -> Result<(), TearDownError> {
    if levels > 0 {
        for (name, is_dir) in listed(dir).map_err(TearDownError::io("read", dir))? {
            if !is_dir {
                return Err(TearDownError::Foreign {
                    path: dir.to_owned(),
                    what: format!("the file {name}"),
                });
            }
            remove_empty_dirs(&dir.join(name), levels - 1)?;
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(TearDownError::Foreign { path: dir.to_owned(), what: error.to_string() }),
    }
}

/// Returns the entries of a directory; none if it does not exist. A name that is not UTF-8 is left
/// out: no kubelet creates one.
fn listed(dir: &Path) -> io::Result<Vec<(String, bool)>> {
    match walk::list(dir) {
        Ok(entries) => Ok(entries
            .into_iter()
            .filter_map(|(name, is_dir)| Some((name.into_string().ok()?, is_dir)))
            .collect()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Found, host_path, ledger, reconstruct, remove_pod};
    use crate::linux::fs::write_atomic;
    use crate::model::{PodUid, Wall};
    use crate::volumes::atomic_writer::{Write, write};
    use crate::volumes::error::TearDownError;
    use crate::volumes::kinds::context::{Place, make_pod_dirs};
    use crate::volumes::kinds::csi::tests::without_drivers;
    use crate::volumes::kinds::empty_dir::make;
    use crate::volumes::kinds::local;
    use crate::volumes::ledger::{Claimed, Made, Record};
    use crate::volumes::medium::Medium;
    use crate::volumes::mounter::Mounter as _;
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::paths::Paths;
    use crate::volumes::payload::{File, Payload};

    struct Node {
        _dir: tempfile::TempDir,
        paths: Arc<Paths>,
        mounter: FakeMounter,
        uid: PodUid,
    }

    /// A pod with an emptyDir, a Secret in memory and the other things that a pod's directory
    /// holds.
    fn node() -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Arc::new(Paths::new(dir.path(), dir.path().join("logs")));
        let mounter = FakeMounter::default();
        let uid = PodUid::from("u1");
        make_pod_dirs(&paths, &uid).expect("made");
        let place = |plugin: &str, name: &str, ready: &str| Place {
            dir: paths.plugin_volume(&uid, plugin, name),
            ready_dir: paths.ready_dir(&uid, ready),
        };
        make(&mounter, &place("kubernetes.io/empty-dir", "e", "e"), &Medium::Disk, None)
            .expect("made");
        write_atomic(
            &paths.plugin_volume(&uid, "kubernetes.io/empty-dir", "e").join("data"),
            "x",
            0o600,
        )
        .expect("written");
        let secret = place("kubernetes.io/secret", "s", "wrapped_s");
        make(&mounter, &secret, &Medium::Memory(None), None).expect("made");
        let file = File { data: b"x".to_vec(), mode: 0o600, uid: None };
        let request =
            Write { dir: &secret.dir, fs_group: None, now: Wall::UNIX_EPOCH, keep_old: &|| false };
        write(&request, Payload::from([("key".to_owned(), file)])).expect("written");
        std::fs::create_dir_all(paths.container(&uid, "app")).expect("made");
        write_atomic(&paths.container(&uid, "app").join("abc"), "bye", 0o600).expect("written");
        write_atomic(&paths.etc_hosts(&uid), "127.0.0.1 x", 0o644).expect("written");
        Node { _dir: dir, paths, mounter, uid }
    }

    async fn remove(node: &Node) -> Result<(), TearDownError> {
        let (mounter, paths) = (node.mounter.clone(), Arc::clone(&node.paths));
        remove_pod(mounter, paths, without_drivers(), node.uid.clone()).await
    }

    #[test]
    fn a_restart_finds_what_is_there() {
        let node = node();
        std::fs::create_dir_all(node.paths.subpath(&node.uid, "host", "app", 0)).expect("made");
        let found = |plugin: &str, name: &str, usable| Found {
            plugin: plugin.to_owned(),
            name: name.to_owned(),
            usable,
            claimed: None,
        };
        let pods = reconstruct(&node.mounter, &node.paths, &without_drivers()).expect("readable");
        assert_eq!(
            pods[&node.uid],
            [
                found("kubernetes.io/empty-dir", "e", false),
                found("kubernetes.io/secret", "s", true),
                found("kubernetes.io/host-path", "host", false),
            ]
        );
    }

    #[tokio::test]
    async fn everything_of_a_pod_is_removed() {
        let node = node();
        remove(&node).await.expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
        assert!(node.mounter.mounts().is_empty());
        remove(&node).await.expect("removed again");
    }

    #[tokio::test]
    async fn a_foreign_volume_stays_and_is_named() {
        let node = node();
        let foreign = node.paths.plugin_volume(&node.uid, "example.com/tape", "pv1");
        std::fs::create_dir_all(&foreign).expect("made");
        write_atomic(&foreign.join("data"), "{}", 0o600).expect("written");
        let error = remove(&node).await.expect_err("it stays");
        assert!(error.text().contains("example.com~tape/pv1"), "{}", error.text());
        assert!(foreign.join("data").exists());
        assert!(!node.paths.etc_hosts(&node.uid).exists(), "the rest is gone");
        std::fs::remove_file(foreign.join("data")).expect("removed");
        remove(&node).await.expect("removed");
    }

    #[tokio::test]
    async fn a_foreign_mount_is_neither_undone_nor_entered() {
        let node = node();
        let dir = node.paths.plugin_volume(&node.uid, "kubernetes.io/empty-dir", "e");
        ledger::write(
            &node.paths,
            &node.uid,
            &Record::new("e", "kubernetes.io/empty-dir", Made::Directory),
        )
        .expect("written");
        node.mounter.mount_tmpfs(&dir, None).expect("mounted");
        for _ in 0..2 {
            let error = remove(&node).await.expect_err("it stays");
            assert!(error.text().contains("something else is mounted there"), "{}", error.text());
        }
        assert!(dir.join("data").exists() && node.mounter.mounts().contains_key(&dir));
        node.mounter.unmount(&dir).expect("unmounted by whoever mounted it");
        remove(&node).await.expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
    }

    #[tokio::test]
    async fn a_claim_is_found_by_its_record() {
        let node = node();
        let claimed = Claimed { path: "/srv/x".into(), read_only: false, gid: None, done: true };
        let host =
            Record::new("data", host_path::PLUGIN, Made::Nothing).claimed("pv", claimed.clone());
        let lost = Record::new("disk", local::PLUGIN, Made::Bind { device: 1, inode: 1 })
            .claimed("pv2", claimed);
        for record in [&host, &lost] {
            ledger::write(&node.paths, &node.uid, record).expect("written");
        }
        let pods = reconstruct(&node.mounter, &node.paths, &without_drivers()).expect("readable");
        let of =
            |name: &str| pods[&node.uid].iter().find(|found| found.name == name).expect("found");
        assert_eq!((of("pv").usable, of("pv").claimed.as_ref()), (true, Some(&host)));
        assert!(!of("pv2").usable, "its mount is gone");
        remove(&node).await.expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
    }

    #[tokio::test]
    async fn a_mount_that_stays_keeps_the_pod() {
        let node = node();
        let secret = node.paths.plugin_volume(&node.uid, "kubernetes.io/secret", "s");
        node.mounter.set_busy(&secret, true);
        let error = remove(&node).await.expect_err("it stays");
        assert!(error.text().starts_with("could not unmount"), "{}", error.text());
        assert!(secret.join("key").exists());
        node.mounter.set_busy(&secret, false);
        remove(&node).await.expect("removed");
    }
}
