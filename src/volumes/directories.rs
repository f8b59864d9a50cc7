//! A pod's directories on the node: made, read back after a restart, and removed when the pod is
//! gone.
//!
//! Removal is verified: it deletes what a kubelet puts there, never what is mounted there and never
//! a file of a volume whose plugin it does not know. What stays is reported with its path.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::atomic_writer;
use super::error::TearDownError;
use super::kinds::empty_dir::{self, Place};
use super::kinds::{config_map, downward_api, host_path, local, projected, secret};
use super::ledger::{self, Record};
use super::mounter::Mounter;
use super::paths::{LEDGER, Paths, unescape};
use super::subpath;
use crate::linux::{fs, walk};
use crate::model::PodUid;

/// Makes the directories of a pod that everything else is made in. Idempotent; blocks.
pub fn make_pod_dirs(paths: &Paths, uid: &PodUid) -> io::Result<()> {
    for dir in [paths.pod(uid), paths.volumes(uid), paths.pod_plugins(uid)] {
        fs::ensure_dir(&dir, 0o750)?;
    }
    Ok(())
}

/// A volume that was found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The plugin's qualified name; of a volume of which only subPaths are left, the hostPath
    /// plugin's.
    pub plugin: String,
    /// The volume's name.
    pub name: String,
    /// Whether its files are there as a whole, so that containers may use them until they have been
    /// written again.
    pub usable: bool,
    /// What the ledger says of a persistent volume: which claim of the pod it is.
    pub claimed: Option<Record>,
}

/// What the node's disk says about pods' volumes. A pod directory without any volume is listed with
/// none. Blocks.
pub fn reconstruct<M: Mounter>(
    mounter: &M,
    paths: &Paths,
) -> io::Result<BTreeMap<PodUid, Vec<Found>>> {
    let mut pods = BTreeMap::new();
    for (name, is_dir) in listed(&paths.pods())? {
        if is_dir {
            let uid = PodUid::from(name);
            let found = volumes_on_disk(mounter, paths, &uid)?;
            pods.insert(uid, found);
        }
    }
    Ok(pods)
}

fn volumes_on_disk<M: Mounter>(mounter: &M, paths: &Paths, uid: &PodUid) -> io::Result<Vec<Found>> {
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
                let usable = match &record {
                    Some(record) => record.is_there(mounter, paths, uid),
                    None => {
                        is_payload(&plugin)
                            && empty_dir::is_ready(
                                &paths.ready_dir(uid, &format!("wrapped_{name}")),
                            )
                            && atomic_writer::is_complete(&volumes.join(&plugin_dir).join(&name))
                    }
                };
                found.push(Found { plugin: plugin.clone(), name, usable, claimed: record });
            }
        }
    }
    // A hostPath behind a claim has nothing on disk but its record; neither has a volume that was
    // killed before it began.
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

/// Tears one volume down: its subPaths, its mount, its files. Missing is done. Blocks.
pub fn tear_down<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    uid: &PodUid,
    plugin: &str,
    name: &str,
) -> Result<(), TearDownError> {
    subpath::clean_up(mounter, paths, uid, Some(name))?;
    let dir = paths.plugin_volume(uid, plugin, name);
    let record = ledger::of_directory(paths, uid, plugin, name);
    if let Some(record) = &record
        && mounter.is_mount_point(&dir).unwrap_or(false)
        && let Some(what) = record.foreign_mount(mounter, &dir)
    {
        return Err(TearDownError::Foreign { path: dir, what });
    }
    remove_made(mounter, paths, uid, plugin, name)?;
    let Some(record) = record else { return Ok(()) };
    ledger::forget(paths, uid, &record)
        .map_err(TearDownError::io("remove a record in", &paths.ledger(uid)))
}

/// Removes what a plugin's volume is made of.
fn remove_made<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    uid: &PodUid,
    plugin: &str,
    name: &str,
) -> Result<(), TearDownError> {
    let dir = paths.plugin_volume(uid, plugin, name);
    if plugin == host_path::PLUGIN {
        Ok(())
    } else if plugin == local::PLUGIN {
        local::tear_down(mounter, paths, uid, name)
    } else if plugin == empty_dir::PLUGIN {
        empty_dir::tear_down(mounter, &Place { dir, ready_dir: paths.ready_dir(uid, name) })
    } else if is_payload(plugin) {
        empty_dir::tear_down(
            mounter,
            &Place { dir, ready_dir: paths.ready_dir(uid, &format!("wrapped_{name}")) },
        )
    } else {
        // Another kubelet's, or one of a plugin that is not there any more: only an empty directory
        // is known to be ours.
        match std::fs::remove_dir(&dir) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TearDownError::Foreign {
                path: dir,
                what: format!("a volume of {plugin}: {error}"),
            }),
        }
    }
}

/// Removes everything of a pod: volumes first, then its directory. Goes on after an error and
/// answers the first one. Missing is done. Blocks.
pub fn remove_pod<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    uid: &PodUid,
) -> Result<(), TearDownError> {
    let pod_dir = paths.pod(uid);
    let found =
        volumes_on_disk(mounter, paths, uid).map_err(TearDownError::io("read", &pod_dir))?;
    let mut failed = None;
    let mut note = |result: Result<(), TearDownError>| {
        if let Err(error) = result
            && failed.is_none()
        {
            failed = Some(error);
        }
    };
    for volume in found {
        note(tear_down(mounter, paths, uid, &volume.plugin, &volume.name));
    }
    note(subpath::clean_up(mounter, paths, uid, None));
    // Never with their content: what is left there is somebody's data.
    for dir in [paths.volumes(uid), paths.volume_devices(uid)] {
        note(remove_empty_dirs(&dir, 2));
    }
    let entries = listed(&pod_dir).map_err(TearDownError::io("read", &pod_dir));
    match entries {
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
        // The ledger stays with what it tells of.
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

/// Removes empty directories, `levels` deep beneath `dir`, and `dir`.
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

/// Whether a plugin's volumes are files that this process writes.
pub(super) fn is_payload(plugin: &str) -> bool {
    [config_map::PLUGIN, secret::PLUGIN, downward_api::PLUGIN, projected::PLUGIN].contains(&plugin)
}

/// The entries of a directory; none if it does not exist. A name that is no text is left out:
/// nobody made it here.
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
    use super::{Found, host_path, ledger, local, make_pod_dirs, reconstruct, remove_pod};
    use crate::linux::fs::write_atomic;
    use crate::model::{PodUid, Wall};
    use crate::volumes::atomic_writer::{Write, write};
    use crate::volumes::kinds::empty_dir::{Medium, Place, set_up};
    use crate::volumes::ledger::{Claimed, Made, Record};
    use crate::volumes::mounter::Mounter as _;
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::paths::Paths;
    use crate::volumes::payload::{File, Payload};

    struct Node {
        _dir: tempfile::TempDir,
        paths: Paths,
        mounter: FakeMounter,
        uid: PodUid,
    }

    /// A pod with an emptyDir, a Secret in memory and the other things that a pod's directory
    /// holds.
    fn node() -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(dir.path(), dir.path().join("logs"));
        let (mounter, uid) = (FakeMounter::default(), PodUid::from("u1"));
        make_pod_dirs(&paths, &uid).expect("made");
        let place = |plugin: &str, name: &str, ready: &str| Place {
            dir: paths.plugin_volume(&uid, plugin, name),
            ready_dir: paths.ready_dir(&uid, ready),
        };
        set_up(&mounter, &place("kubernetes.io/empty-dir", "e", "e"), &Medium::Disk, None)
            .expect("made");
        write_atomic(
            &paths.plugin_volume(&uid, "kubernetes.io/empty-dir", "e").join("data"),
            "x",
            0o600,
        )
        .expect("written");
        let secret = place("kubernetes.io/secret", "s", "wrapped_s");
        set_up(&mounter, &secret, &Medium::Memory(None), None).expect("made");
        let file = File { data: b"x".to_vec(), mode: 0o600, uid: None };
        let request =
            Write { dir: &secret.dir, fs_group: None, now: Wall::UNIX_EPOCH, keep_old: &|| false };
        write(&request, Payload::from([("key".to_owned(), file)])).expect("written");
        std::fs::create_dir_all(paths.container(&uid, "app")).expect("made");
        write_atomic(&paths.container(&uid, "app").join("abc"), "bye", 0o600).expect("written");
        write_atomic(&paths.etc_hosts(&uid), "127.0.0.1 x", 0o644).expect("written");
        Node { _dir: dir, paths, mounter, uid }
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
        let pods = reconstruct(&node.mounter, &node.paths).expect("readable");
        assert_eq!(
            pods[&node.uid],
            [
                found("kubernetes.io/empty-dir", "e", false),
                found("kubernetes.io/secret", "s", true),
                found("kubernetes.io/host-path", "host", false),
            ]
        );
    }

    #[test]
    fn everything_of_a_pod_is_removed() {
        let node = node();
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
        assert!(node.mounter.mounts().is_empty());
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed again");
    }

    #[test]
    fn a_foreign_volume_stays_and_is_named() {
        let node = node();
        let foreign = node.paths.plugin_volume(&node.uid, "kubernetes.io/csi", "pv1");
        std::fs::create_dir_all(&foreign).expect("made");
        write_atomic(&foreign.join("vol_data.json"), "{}", 0o600).expect("written");
        let error = remove_pod(&node.mounter, &node.paths, &node.uid).expect_err("it stays");
        assert!(error.text().contains("kubernetes.io~csi/pv1"), "{}", error.text());
        assert!(foreign.join("vol_data.json").exists());
        assert!(!node.paths.etc_hosts(&node.uid).exists(), "the rest is gone");
        std::fs::remove_file(foreign.join("vol_data.json")).expect("removed");
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed");
    }

    #[test]
    fn a_foreign_mount_is_neither_undone_nor_entered() {
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
            let error = remove_pod(&node.mounter, &node.paths, &node.uid).expect_err("it stays");
            assert!(error.text().contains("something else is mounted there"), "{}", error.text());
        }
        assert!(dir.join("data").exists() && node.mounter.mounts().contains_key(&dir));
        node.mounter.unmount(&dir).expect("unmounted by whoever mounted it");
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
    }

    #[test]
    fn a_claim_is_found_by_its_record() {
        let node = node();
        let claimed = Claimed { path: "/srv/x".into(), read_only: false, gid: None, done: true };
        let host =
            Record::new("data", host_path::PLUGIN, Made::Nothing).claimed("pv", claimed.clone());
        let lost = Record::new("disk", local::PLUGIN, Made::Bind { device: 1, inode: 1 })
            .claimed("pv2", claimed);
        for record in [&host, &lost] {
            ledger::write(&node.paths, &node.uid, record).expect("written");
        }
        let pods = reconstruct(&node.mounter, &node.paths).expect("readable");
        let of =
            |name: &str| pods[&node.uid].iter().find(|found| found.name == name).expect("found");
        assert_eq!((of("pv").usable, of("pv").claimed.as_ref()), (true, Some(&host)));
        assert!(!of("pv2").usable, "its mount is gone");
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed");
        assert!(!node.paths.pod(&node.uid).exists());
    }

    #[test]
    fn a_mount_that_stays_keeps_the_pod() {
        let node = node();
        let secret = node.paths.plugin_volume(&node.uid, "kubernetes.io/secret", "s");
        node.mounter.set_busy(&secret, true);
        let error = remove_pod(&node.mounter, &node.paths, &node.uid).expect_err("it stays");
        assert!(error.text().starts_with("could not unmount"), "{}", error.text());
        assert!(secret.join("key").exists());
        node.mounter.set_busy(&secret, false);
        remove_pod(&node.mounter, &node.paths, &node.uid).expect("removed");
    }
}
