//! Binds subPath mounts: a path inside a volume is bound to a directory of the kubelet, so that the
//! container cannot replace it by a link while it is being mounted.
//!
//! The path is opened beneath the volume and never outside it. The bind mount's source is the
//! opened descriptor (through `/proc/self/fd`). The targets are upstream's:
//! `pods/UID/volume-subpaths/VOLUME/CONTAINER/INDEX`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat};

use super::error::TearDownError;
use super::mounter::Mounter;
use super::paths::{Paths, is_component};
use crate::linux::beneath::Root;
use crate::linux::fs::{WriteOptions, fill};
use crate::linux::walk;
use crate::model::PodUid;

/// One subPath of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// The pod's UID.
    pub uid: PodUid,
    /// The volume's name in the pod.
    pub volume: String,
    /// The name that the volume's subPaths lie under: its own, or its persistent volume's.
    pub directory: String,
    /// The volume's path on the host.
    pub volume_path: PathBuf,
    /// `subPath`, or `subPathExpr` expanded.
    pub sub_path: String,
    /// The container's name.
    pub container: String,
    /// The index of the container's volumeMount, counted from zero.
    pub index: usize,
}

/// The reasons why a subPath cannot be prepared. The texts are upstream's and reveal nothing of the
/// node's files. The source says more and is for the log.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// The path begins with a slash.
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    /// The path contains `..`.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Climbs(String),
    /// The path does not exist and could not be created.
    #[error(
        "failed to create subPath directory for volumeMount {volume:?} of container {container:?}"
    )]
    Create {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The path leads out of the volume, or could not be bound.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    Prepare {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

/// Binds a subPath to its place and returns the place. A missing path is created first. It blocks.
pub fn prepare<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    request: &SubPath,
) -> Result<PathBuf, SubPathError> {
    let SubPath { uid, volume, directory, volume_path, sub_path, container, index } = request;
    if sub_path.starts_with('/') {
        return Err(SubPathError::Absolute(sub_path.clone()));
    }
    if sub_path.split('/').any(|name| name == "..") {
        return Err(SubPathError::Climbs(sub_path.clone()));
    }

    let of_volume = volume.clone();
    let of_container = container.clone();
    let failed =
        move |source| SubPathError::Prepare { volume: of_volume, container: of_container, source };
    if !is_component(directory) || !is_component(container) {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a name is not a file name",
        )));
    }

    let relative = Path::new(sub_path);
    let root = Root::open(volume_path).map_err(failed.clone())?;
    let source = match root.resolve(relative) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The directory gets the volume's mode, so that an fsGroup may write to it.
            let made = root.mode().and_then(|mode| root.make_dirs(relative, mode));
            let volume = volume.clone();
            let container = container.clone();
            made.map_err(|source| SubPathError::Create { volume, container, source })?
        }
        Err(error) => return Err(failed(error)),
    };
    let target = paths.subpath(uid, directory, container, *index);
    bind(mounter, &source, &target).map_err(failed)?;

    Ok(target)
}

/// Creates the target and binds the source to it. A mount of another source is replaced.
fn bind<M: Mounter>(mounter: &M, source: &OwnedFd, target: &Path) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

    let wanted = fstat(source)?;
    let is_dir = SFlag::from_bits_truncate(wanted.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;

    match mounter.is_mount_point(target) {
        Ok(true) => {
            let present = std::fs::symlink_metadata(target)?;
            if (present.dev(), present.ino()) == (wanted.st_dev, wanted.st_ino) {
                return Ok(());
            }
            mounter.unmount(target)?;
            walk::remove_tree(target)?;
        }
        Ok(false) => walk::remove_tree(target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }

    if let Some(parent) = target.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }

    if is_dir {
        std::fs::DirBuilder::new().mode(0o750).create(target)?;
    } else {
        fill(target, b"", WriteOptions::mode(0o640))?;
    }

    mounter.bind(source.as_fd(), target).inspect_err(|_| {
        // The empty target must not be taken for the subPath. The first error is the one to report.
        drop(walk::remove_tree(target));
    })
}

/// Unbinds and removes the subPaths of one volume, or of all (`None`). A missing directory is no
/// error. It blocks.
pub fn clean_up<M: Mounter>(
    mounter: &M,
    paths: &Paths,
    uid: &PodUid,
    volume: Option<&str>,
) -> Result<(), TearDownError> {
    let base = paths.subpaths(uid);
    let volumes = match volume {
        Some(name) => vec![base.join(name)],
        None => entries(&base).map_err(TearDownError::io("read", &base))?,
    };
    for volume in volumes {
        for container in entries(&volume).map_err(TearDownError::io("read", &volume))? {
            for target in entries(&container).map_err(TearDownError::io("read", &container))? {
                if mounter
                    .is_mount_point(&target)
                    .map_err(TearDownError::io("look for a mount at", &target))?
                {
                    mounter.unmount(&target).map_err(TearDownError::io("unmount", &target))?;
                }
                // Only an empty file or directory was created there. Anything else stays and is
                // reported.
                remove_empty(&target).map_err(TearDownError::io("remove", &target))?;
            }
            remove_empty(&container).map_err(TearDownError::io("remove", &container))?;
        }
        remove_empty(&volume).map_err(TearDownError::io("remove", &volume))?;
    }

    match std::fs::remove_dir(&base) {
        Ok(()) => Ok(()),
        // The directory still holds other volumes' subPaths.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(TearDownError::io("remove", &base)(error)),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match walk::list(dir) {
        Ok(entries) => Ok(entries.into_iter().map(|(name, _)| dir.join(name)).collect()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes an empty file or an empty directory.
fn remove_empty(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path),
        Ok(metadata) if metadata.len() == 0 => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "there is data in it")),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};

    use super::{SubPath, clean_up, prepare};
    use crate::linux::fs::write_atomic;
    use crate::model::PodUid;
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::paths::Paths;

    struct Node {
        dir: tempfile::TempDir,
        paths: Paths,
        mounter: FakeMounter,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(dir.path().join("kubelet"), dir.path().join("logs"));
        std::fs::create_dir_all(dir.path().join("volume/sub")).expect("made");
        std::fs::create_dir(dir.path().join("outside")).expect("made");
        write_atomic(&dir.path().join("volume/file"), "x", 0o600).expect("written");
        symlink("../outside", dir.path().join("volume/climbs")).expect("linked");
        symlink("/etc", dir.path().join("volume/absolute")).expect("linked");
        symlink("sub", dir.path().join("volume/inside")).expect("linked");
        Node { dir, paths, mounter: FakeMounter::default() }
    }

    impl Node {
        fn request(&self, sub_path: &str) -> SubPath {
            SubPath {
                uid: PodUid::from("u1"),
                volume: "v".to_owned(),
                directory: "v".to_owned(),
                volume_path: self.dir.path().join("volume"),
                sub_path: sub_path.to_owned(),
                container: "app".to_owned(),
                index: 0,
            }
        }

        fn target(&self) -> PathBuf {
            self.paths.subpath(&PodUid::from("u1"), "v", "app", 0)
        }

        /// Returns the source of the bind mount, relative to the node's directory.
        fn bound(&self, sub_path: &str) -> Result<String, String> {
            let target = prepare(&self.mounter, &self.paths, &self.request(sub_path))
                .map_err(|error| error.to_string())?;
            assert_eq!(target, self.target());
            let what = self.mounter.mounts()[&target].clone();
            let from = what.strip_prefix("bind ").expect("a bind");
            Ok(Path::new(from).strip_prefix(self.dir.path()).expect("inside").display().to_string())
        }
    }

    #[track_caller]
    fn check(sub_path: &str, expected: Result<&str, &str>) {
        let bound = node().bound(sub_path);
        assert_eq!(bound.as_deref().map_err(String::as_str), expected, "{sub_path}");
    }

    #[test]
    fn binds_only_what_lies_in_the_volume() {
        check("sub", Ok("volume/sub"));
        check("file", Ok("volume/file"));
        check("inside", Ok("volume/sub"));
        check("new/deep", Ok("volume/new/deep"));
        let prepare = "failed to prepare subPath for volumeMount \"v\" of container \"app\"";
        let create =
            "failed to create subPath directory for volumeMount \"v\" of container \"app\"";
        check("climbs", Err(prepare));
        check("absolute", Err(prepare));
        check("climbs/new", Err(create));
        check("file/new", Err(prepare));
        check("/etc", Err("error SubPath `/etc` must not be an absolute path"));
        check("a/../b", Err("unable to provision SubPath `a/../b`: must not contain '..'"));
    }

    #[test]
    fn a_missing_one_is_made_as_the_volume_is() {
        let node = node();
        let volume = node.dir.path().join("volume");
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2775))
            .expect("changed");
        node.bound("new").expect("bound");
        assert_eq!(
            std::fs::metadata(volume.join("new")).expect("it exists").mode() & 0o7777,
            0o2775
        );
        assert!(node.target().is_dir());
        assert_eq!(node.bound("file").as_deref(), Ok("volume/file"), "a changed one is bound anew");
        assert!(node.target().is_file());
    }

    #[test]
    fn clean_up_unbinds_and_leaves_the_volume() {
        let node = node();
        let uid = PodUid::from("u1");
        node.bound("file").expect("bound");
        clean_up(&node.mounter, &node.paths, &uid, Some("other")).expect("nothing to do");
        assert!(node.target().exists());
        clean_up(&node.mounter, &node.paths, &uid, Some("v")).expect("cleaned");
        assert!(node.mounter.mounts().is_empty() && !node.paths.subpaths(&uid).exists());
        assert!(node.dir.path().join("volume/file").exists());
        clean_up(&node.mounter, &node.paths, &uid, None).expect("cleaned again");
    }

    #[test]
    fn clean_up_never_deletes_data() {
        let node = node();
        let uid = PodUid::from("u1");
        std::fs::create_dir_all(node.target()).expect("made");
        write_atomic(&node.target().join("data"), "x", 0o600).expect("written");
        assert!(clean_up(&node.mounter, &node.paths, &uid, None).is_err());
        assert!(node.target().join("data").exists());
    }
}
