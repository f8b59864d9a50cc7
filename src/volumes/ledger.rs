//! Keeps the ledger: a record of each volume of a pod, written before the volume is made on disk.
//!
//! One small JSON file per volume, `pods/UID/volume-ledger/VOLUME`, so that jobs share nothing. The
//! records are read
//!
//! - after a restart, to find the persistent volume behind a claim;
//! - before anything is removed, to verify that the mount at the place is the recorded one.
//!
//! A pod directory without a ledger, of an older release or of upstream's kubelet, is judged by its
//! layout. The ledger is removed with the pod's directory.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::FOREIGN_MOUNT;
use super::kinds::csi;
use super::medium::Medium;
use super::mounter::Mounter;
use super::paths::{Paths, is_component};
use crate::linux::fs::{ensure_dir, write_atomic};
use crate::linux::mount::FsKind;
use crate::linux::walk;
use crate::model::PodUid;

/// The version of the format. A record of another version is not read.
const VERSION: u32 = 1;

/// The record of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The volume's name in the pod.
    pub volume: String,
    /// The plugin's qualified name.
    pub plugin: String,
    /// The name of the volume's directory: the volume's own, or the persistent volume's.
    pub directory: String,
    /// The object at that place.
    pub made: Made,
    /// The persistent volume, if the volume is behind a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Claimed>,
}

/// The object at a volume's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Made {
    /// A directory with files.
    Directory,
    /// A mount of memory.
    Memory,
    /// A mount of huge pages.
    HugePages,
    /// A bind mount of this device and inode; zeros until they are known.
    Bind {
        /// The device's number.
        device: u64,
        /// The inode's number.
        inode: u64,
    },
    /// A link to a device.
    Device,
    /// A mount in the directory, which a CSI driver made.
    Driver,
    /// Nothing: the container mounts the node's own path.
    Nothing,
}

/// A persistent volume that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    /// The node's path: for a volume of a CSI driver, the directory that it is staged at.
    pub path: PathBuf,
    /// True if the pod may only read it.
    pub read_only: bool,
    /// The supplemental group that the volume grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<i64>,
    /// True if every step was done, the change of group included.
    pub done: bool,
}

impl Record {
    /// Creates a record of a volume whose directory has the volume's name.
    pub fn new(volume: &str, plugin: &str, made: Made) -> Self {
        let plugin = plugin.to_owned();
        let directory = volume.to_owned();
        Self { version: VERSION, volume: volume.to_owned(), plugin, directory, made, claimed: None }
    }

    /// Turns the record into that of a persistent volume.
    #[must_use]
    pub fn claimed(self, directory: &str, claimed: Claimed) -> Self {
        Self { directory: directory.to_owned(), claimed: Some(claimed), ..self }
    }

    /// Returns true if this is the record of the same volume with every step done.
    pub fn is_done_of(&self, other: &Self) -> bool {
        let is_done = self.claimed.as_ref().is_some_and(|claimed| claimed.done);
        is_done && self.directory == other.directory && self.made == other.made
    }

    /// Returns the volume's path on the host, as containers mount it.
    pub fn path(&self, paths: &Paths, uid: &PodUid) -> PathBuf {
        match (&self.made, &self.claimed) {
            (Made::Nothing, Some(claimed)) => claimed.path.clone(),
            (Made::Device, _) => paths.plugin_device(uid, &self.plugin, &self.directory),
            (Made::Driver, _) => csi::target(paths, uid, &self.directory),
            (
                Made::Directory
                | Made::Memory
                | Made::HugePages
                | Made::Bind { .. }
                | Made::Nothing,
                Some(_) | None,
            ) => paths.plugin_volume(uid, &self.plugin, &self.directory),
        }
    }

    /// Returns true if the volume still is as the record describes it, and complete. It blocks.
    pub fn is_there<M: Mounter>(&self, mounter: &M, paths: &Paths, uid: &PodUid) -> bool {
        let path = self.path(paths, uid);
        if self.claimed.as_ref().is_some_and(|claimed| !claimed.done) {
            return false;
        }

        match &self.made {
            Made::Nothing => true,
            Made::Directory => path.is_dir(),
            Made::Driver => mounter.is_mount_point(&path).unwrap_or(false),
            Made::Device => {
                std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink())
            }
            Made::Memory | Made::HugePages | Made::Bind { .. } => {
                mounter.is_mount_point(&path).unwrap_or(false)
                    && self.foreign_mount(mounter, &path).is_none()
            }
        }
    }

    /// Describes a mount at the volume's place that this node did not make; `None` for its own, or
    /// none.
    pub fn foreign_mount<M: Mounter>(&self, mounter: &M, path: &Path) -> Option<String> {
        let is_kind = |kind: FsKind| mounter.fs_kind(path).is_ok_and(|found| found == kind);
        let is_own = match &self.made {
            Made::Memory => is_kind(FsKind::Tmpfs),
            Made::HugePages => is_kind(FsKind::HugeTlbFs),
            // The directory around the mount; the driver knows what it has mounted.
            Made::Bind { device: 0, inode: 0 } | Made::Driver => true,
            Made::Bind { device, inode } => {
                mounter.identity(path).is_ok_and(|found| found == (*device, *inode))
            }
            Made::Directory | Made::Device | Made::Nothing => false,
        };

        (!is_own).then(|| FOREIGN_MOUNT.to_owned())
    }
}

impl Made {
    /// Returns the object that an emptyDir of this medium is.
    pub fn of_medium(medium: &Medium) -> Self {
        match medium {
            Medium::Disk => Self::Directory,
            Medium::Memory(_) => Self::Memory,
            Medium::HugePages(_) => Self::HugePages,
        }
    }
}

/// Writes a record, unless an equal one exists. It blocks.
pub fn write(paths: &Paths, uid: &PodUid, record: &Record) -> io::Result<()> {
    if read(paths, uid, &record.volume).as_ref() == Some(record) {
        return Ok(());
    }
    let dir = paths.ledger(uid);
    ensure_dir(&dir, 0o750)?;
    let text = serde_json::to_vec(record)?;
    write_atomic(&dir.join(&record.volume), text, 0o600)
}

/// Reads the record of a volume of the pod; `None` if it does not exist or is corrupt. It blocks.
pub fn read(paths: &Paths, uid: &PodUid, volume: &str) -> Option<Record> {
    try_read(paths, uid, volume)
        .inspect_err(|error| tracing::warn!(pod = %uid, volume, %error, "a record of a volume cannot be read"))
        .ok()?
}

/// Reads the record of a volume of the pod; `None` if it does not exist. It blocks.
fn try_read(paths: &Paths, uid: &PodUid, volume: &str) -> io::Result<Option<Record>> {
    if !is_component(volume) {
        return Ok(None);
    }
    let text = match std::fs::read(paths.ledger(uid).join(volume)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let record: Record = serde_json::from_slice(&text)?;
    let is_sound =
        record.version == VERSION && record.volume == volume && is_component(&record.directory);
    if !is_sound {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no record of this volume"));
    }
    Ok(Some(record))
}

/// Reads all records of a pod that can be read. It blocks.
pub fn read_all(paths: &Paths, uid: &PodUid) -> Vec<Record> {
    names(paths, uid).unwrap_or_default().iter().filter_map(|name| read(paths, uid, name)).collect()
}

/// Reads all records of a pod, or fails. It blocks.
pub fn try_read_all(paths: &Paths, uid: &PodUid) -> io::Result<Vec<Record>> {
    let names = names(paths, uid)?;
    names.iter().filter_map(|name| try_read(paths, uid, name).transpose()).collect()
}

/// Lists the volumes that have a record. Leftovers of a killed write beside them are skipped (no
/// volume's name begins with a dot) and removed with the pod's directory.
fn names(paths: &Paths, uid: &PodUid) -> io::Result<Vec<String>> {
    let names = match walk::list(&paths.ledger(uid)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = names.into_iter().filter_map(|(name, _)| name.into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// Finds the record of the volume that lies in this directory. It blocks.
pub fn of_directory(paths: &Paths, uid: &PodUid, plugin: &str, directory: &str) -> Option<Record> {
    let is_it = |record: &Record| record.plugin == plugin && record.directory == directory;
    // Nearly always volume and directory have the same name.
    read(paths, uid, directory)
        .filter(is_it)
        .or_else(|| read_all(paths, uid).into_iter().find(is_it))
}

/// Removes a record. A missing one is no error. It blocks.
pub fn forget(paths: &Paths, uid: &PodUid, record: &Record) -> io::Result<()> {
    match std::fs::remove_file(paths.ledger(uid).join(&record.volume)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Claimed, Made, Record, forget, of_directory, read, read_all, write};
    use crate::linux::fs::write_atomic;
    use crate::model::PodUid;
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::mounter::{Mounter as _, identity};
    use crate::volumes::paths::Paths;

    fn node() -> (tempfile::TempDir, Paths, PodUid) {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(dir.path(), dir.path().join("logs"));
        (dir, paths, PodUid::from("u1"))
    }

    #[test]
    fn records_outlive_the_process_and_nonsense_is_not_read() {
        let (_dir, paths, uid) = node();
        let plain = Record::new("cache", "kubernetes.io/empty-dir", Made::Directory);
        let claimed = Claimed { path: "/mnt/x".into(), read_only: true, gid: Some(7), done: true };
        let made = Made::Bind { device: 3, inode: 4 };
        let bound =
            Record::new("data", "kubernetes.io/local-volume", made).claimed("pv-1", claimed);
        write(&paths, &uid, &plain).expect("written");
        write(&paths, &uid, &bound).expect("written");
        assert_eq!(read_all(&paths, &uid), [plain.clone(), bound.clone()]);
        assert_eq!(
            of_directory(&paths, &uid, "kubernetes.io/local-volume", "pv-1"),
            Some(bound.clone())
        );
        assert_eq!(of_directory(&paths, &uid, "kubernetes.io/local-volume", "cache"), None);
        for nonsense in [
            "",
            "{}",
            r#"{"version":2,"volume":"bad","plugin":"p","directory":"d","made":"directory"}"#,
            r#"{"version":1,"volume":"bad","plugin":"p","directory":"../../etc","made":"directory"}"#,
        ] {
            write_atomic(&paths.ledger(&uid).join("bad"), nonsense, 0o600).expect("written");
            assert_eq!(read(&paths, &uid, "bad"), None, "{nonsense}");
        }
        let left =
            serde_json::to_vec(&Record { volume: ".cut.7-1.tmp".to_owned(), ..plain.clone() })
                .expect("JSON");
        write_atomic(&paths.ledger(&uid).join(".cut.7-1.tmp"), left, 0o600).expect("written");
        assert_eq!(
            read_all(&paths, &uid),
            [plain.clone(), bound.clone()],
            "what a killed write left is no record"
        );
        forget(&paths, &uid, &bound).expect("forgotten");
        forget(&paths, &uid, &bound).expect("forgotten again");
        assert_eq!(read_all(&paths, &uid), [plain]);
    }

    #[test]
    fn another_mount_at_the_place_is_seen() {
        let (dir, paths, uid) = node();
        let mounter = FakeMounter::default();
        let memory = Record::new("m", "kubernetes.io/empty-dir", Made::Memory);
        let path = memory.path(&paths, &uid);
        std::fs::create_dir_all(&path).expect("made");
        assert!(!memory.is_there(&mounter, &paths, &uid));
        mounter.mount_tmpfs(&path, None).expect("mounted");
        assert!(memory.is_there(&mounter, &paths, &uid));
        let disk = Record { made: Made::Directory, ..memory };
        assert_eq!(
            disk.foreign_mount(&mounter, &path).as_deref(),
            Some("something else is mounted there")
        );
        let source = std::fs::File::open(dir.path()).expect("opened");
        mounter.bind(std::os::fd::AsFd::as_fd(&source), &path).expect("bound");
        let (device, inode) = identity(dir.path()).expect("it exists");
        let bound = Record { made: Made::Bind { device, inode }, ..disk.clone() };
        assert_eq!(bound.foreign_mount(&mounter, &path), None);
        let other = Record { made: Made::Bind { device, inode: inode + 1 }, ..disk };
        assert!(other.foreign_mount(&mounter, Path::new(&path)).is_some());
    }
}
