//! The files beside a driver's mounts, `vol_data.json`: upstream's, byte for byte, so that either
//! kubelet can take over.
//!
//! Everything here blocks.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::PLUGIN;
use crate::linux::fs::{WriteOptions, write_atomic_with};
use crate::linux::walk;
use crate::volumes::mounter::Mounter;
use crate::volumes::paths::Paths;

/// The file's name.
pub(super) const FILE: &str = "vol_data.json";
/// The name of the mount in a volume's directory of a pod.
pub(super) const MOUNT: &str = "mount";
/// The name of the mount in a volume's directory of the node.
const GLOBAL_MOUNT: &str = "globalmount";

/// The content of the file: fields by name.
pub(super) type Data = BTreeMap<String, String>;

/// The name of the driver.
pub(super) const DRIVER: &str = "driverName";
/// The driver's name of the volume.
pub(super) const HANDLE: &str = "volumeHandle";

/// Returns the hexadecimal SHA-256 of a text.
pub(super) fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string never fails.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

/// Returns the directory that a volume is staged at:
/// `ROOT/plugins/kubernetes.io/csi/DRIVER/SHA256/globalmount`.
pub(super) fn stage(paths: &Paths, driver: &str, handle: &str) -> PathBuf {
    paths.plugins().join(PLUGIN).join(driver).join(sha256(handle)).join(GLOBAL_MOUNT)
}

/// Reads the file in a directory; `None` if it does not exist. A damaged file is
/// [`io::ErrorKind::InvalidData`].
pub(super) fn read(dir: &Path) -> io::Result<Option<Data>> {
    match std::fs::read(dir.join(FILE)) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes the file into a directory.
pub(super) fn write(dir: &Path, data: &Data) -> io::Result<()> {
    // Go's encoder ends with a line feed.
    let mut text = serde_json::to_vec(data)?;
    text.push(b'\n');
    write_atomic_with(&dir.join(FILE), &text, WriteOptions::mode(0o644).synced())
}

/// Makes a directory of mounts, with its parents.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

/// Returns true if something is mounted at a path, which may be missing.
pub(super) fn is_mounted<M: Mounter>(mounter: &M, path: &Path) -> io::Result<bool> {
    match mounter.is_mount_point(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// The result of [`remove_mount_dir`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// Mount point, file and directory are gone.
    Yes,
    /// Something is still mounted: nothing was removed.
    StillMounted,
}

/// Removes a mount point that nothing is mounted at, the file beside it and their directory. Only
/// what a kubelet makes is removed: an unknown file in the directory is an error.
pub(super) fn remove_mount_dir<M: Mounter>(mounter: &M, mount: &Path) -> io::Result<Removed> {
    if is_mounted(mounter, mount)? {
        return Ok(Removed::StillMounted);
    }
    let removed = match std::fs::symlink_metadata(mount) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(mount),
        // Drivers of block volumes publish to a file.
        Ok(_) => std::fs::remove_file(mount),
        Err(error) => Err(error),
    };
    ignore_missing(removed)?;
    if let Some(dir) = mount.parent() {
        ignore_missing(std::fs::remove_file(dir.join(FILE)))?;
        remove_unfinished(dir)?;
        ignore_missing(std::fs::remove_dir(dir))?;
    }
    Ok(Removed::Yes)
}

/// Removes what a write that was killed has left: `.vol_data.json.PID-N.tmp`.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for (name, _) in walk::list(dir).unwrap_or_default() {
        let is_ours = |name: &str| {
            name.strip_prefix('.').is_some_and(|name| name.starts_with(FILE))
                && Path::new(name).extension().is_some_and(|extension| extension == "tmp")
        };
        if name.to_str().is_some_and(is_ours) {
            ignore_missing(std::fs::remove_file(dir.join(name)))?;
        }
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Returns true if nothing is mounted at a path and the file beside it was written before the
/// machine's last boot: then nothing of the driver's work is left.
pub(super) fn is_of_an_earlier_boot<M: Mounter>(mounter: &M, mount: &Path) -> bool {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let written = mount.parent().and_then(|dir| std::fs::metadata(dir.join(FILE)).ok());
    match (booted, written) {
        (Some(booted), Some(written)) => {
            written.mtime() < booted && is_mounted(mounter, mount).is_ok_and(|mounted| !mounted)
        }
        (Some(_) | None, Some(_) | None) => false,
    }
}

/// A volume that is staged, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    /// The directory that it is staged at.
    pub(super) stage: PathBuf,
    pub(super) driver: String,
    pub(super) handle: String,
}

/// The volumes that are staged on the node.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) staged: Vec<Staged>,
    /// True if a volume is staged whose file is damaged: its name is not known.
    pub(super) has_nameless: bool,
}

/// Lists the volumes that are staged on the node.
pub(super) fn list_stages<M: Mounter>(mounter: &M, paths: &Paths) -> io::Result<Listed> {
    let mut found = Listed::default();
    let root = paths.plugins().join(PLUGIN);
    for driver in folders(&root)? {
        for volume in folders(&driver)? {
            let stage = volume.join(GLOBAL_MOUNT);
            match read_unless_damaged(mounter, &stage)? {
                Read::Data(data) => {
                    if let (Some(driver), Some(handle)) = (data.get(DRIVER), data.get(HANDLE)) {
                        let (driver, handle) = (driver.clone(), handle.clone());
                        found.staged.push(Staged { stage, driver, handle });
                    }
                }
                Read::Nothing => {}
                Read::Damaged => found.has_nameless = true,
            }
        }
    }
    Ok(found)
}

/// The result of [`read_unless_damaged`].
#[derive(Debug)]
pub(super) enum Read {
    Data(Data),
    /// There is no file; or it is damaged, and nothing is mounted: its write was cut short.
    Nothing,
    /// Something is mounted beside a damaged file.
    Damaged,
}

/// Reads the file beside a mount.
pub(super) fn read_unless_damaged<M: Mounter>(mounter: &M, mount: &Path) -> io::Result<Read> {
    match read(mount.parent().unwrap_or(mount)) {
        Ok(None) => Ok(Read::Nothing),
        Ok(Some(data)) => Ok(Read::Data(data)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(if is_mounted(mounter, mount)? { Read::Damaged } else { Read::Nothing })
        }
        Err(error) => Err(error),
    }
}

/// Lists the folders in a folder; none if it does not exist.
pub(super) fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match walk::list(dir) {
        Ok(entries) => Ok(entries
            .into_iter()
            .filter(|(_, is_dir)| *is_dir)
            .map(|(name, _)| dir.join(name))
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
    use std::path::Path;

    use super::{Removed, list_stages, make_dir, read, remove_mount_dir, stage, write};
    use crate::linux::fs::write_atomic;
    use crate::volumes::mounter::Mounter as _;
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::paths::Paths;

    fn data() -> super::Data {
        let fields = [("volumeHandle", "h"), ("driverName", "d.io")];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn volumes_are_staged_where_upstream_stages_them() {
        let paths = Paths::new("/var/lib/kubelet", "/l");
        assert_eq!(
            stage(&paths, "d.io", "h"),
            Path::new(
                "/var/lib/kubelet/plugins/kubernetes.io/csi/d.io/\
                 aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123/globalmount"
            )
        );
    }

    #[test]
    fn the_file_is_upstreams_and_outlives_the_process() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("readable"), None);
        write(dir.path(), &data()).expect("written");
        let text = std::fs::read_to_string(dir.path().join("vol_data.json")).expect("a file");
        assert_eq!(text, "{\"driverName\":\"d.io\",\"volumeHandle\":\"h\"}\n");
        assert_eq!(read(dir.path()).expect("readable"), Some(data()));
    }

    #[test]
    fn only_what_a_kubelet_makes_is_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(root.path(), root.path().join("logs"));
        let mounter = FakeMounter::default();
        let mount = stage(&paths, "d.io", "h");
        make_dir(&mount).expect("made");
        let dir = mount.parent().expect("a parent");
        write(dir, &data()).expect("written");
        let stages = list_stages(&mounter, &paths).expect("listed").staged;
        assert_eq!((stages.len(), &stages[0].stage), (1, &mount));

        mounter.mount_tmpfs(&mount, None).expect("mounted");
        let still = remove_mount_dir(&mounter, &mount).expect("looked at");
        assert_eq!(still, Removed::StillMounted);
        mounter.unmount(&mount).expect("unmounted");
        write_atomic(&dir.join("notes"), "x", 0o600).expect("written");
        remove_mount_dir(&mounter, &mount).expect_err("a foreign file is there");
        assert!(dir.join("notes").exists());
        std::fs::remove_file(dir.join("notes")).expect("removed");
        for _ in 0..2 {
            let removed = remove_mount_dir(&mounter, &mount).expect("removed");
            assert_eq!(removed, Removed::Yes);
        }
        let left = list_stages(&mounter, &paths).expect("listed").staged;
        assert!(!dir.exists() && left.is_empty());
    }
}
