//! emptyDir volumes: a directory on disk, in memory or in huge pages; also what configMap, secret,
//! downwardAPI and projected volumes are wrapped around.
//!
//! A `ready` file outside the volume says that the volume was made. It never says that the content
//! is kept: memory is empty after a reboot.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::context::{Context, Done, OnDisk, Place};
use super::payload::fs_group;
use crate::linux::beneath::Root;
use crate::linux::mount::FsKind;
use crate::linux::{fs, ownership, walk};
use crate::model::quantity::{Amount, QuantityError};
use crate::model::{Pod, pod};
use crate::volumes::error::{SetUpError, TearDownError};
use crate::volumes::medium::Medium;
use crate::volumes::mounter::Mounter;

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/empty-dir";

/// Makes the directory.
pub(super) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    source: Option<&EmptyDirVolumeSource>,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let source = source.cloned();
    let work = move |context: &Context<M, T>| {
        context.check_names()?;
        let medium = medium(source.as_ref(), &context.pod, context.allocatable.memory)?;
        context.make_pod_dirs()?;
        context.note(PLUGIN, &medium)?;
        let place = context.place(PLUGIN, context.name());
        make(&context.tools.mounter, &place, &medium, fs_group(&context.pod))
    };
    context.blocking(work).await?;
    Ok(Done::default())
}

/// Removes the directory with its content, and its mount.
pub(super) async fn tear_down<M: Mounter>(volume: &Arc<OnDisk<M>>) -> Result<(), TearDownError> {
    let work = |volume: &OnDisk<M>| {
        let place = Place {
            dir: volume.dir(PLUGIN),
            ready_dir: volume.paths.ready_dir(&volume.uid, &volume.directory),
        };
        remove(&volume.mounter, &place)
    };
    volume.blocking(work).await
}

/// Returns the medium that a source asks for. Pure.
pub fn medium(
    source: Option<&EmptyDirVolumeSource>,
    pod: &Pod,
    node_memory: Option<Amount>,
) -> Result<Medium, SetUpError> {
    let wanted = source.and_then(|source| source.medium.as_deref()).unwrap_or_default();
    match wanted {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let limit = source.and_then(|source| source.size_limit.as_ref());
            let limit = limit.map(|limit| Amount::parse(&limit.0)).transpose();
            let limit = limit.map_err(|error| SetUpError::Payload(error.into()))?;
            Ok(Medium::Memory(memory_size(limit, pod, node_memory)))
        }
        _ => match wanted.strip_prefix("HugePages") {
            Some(size) => page_size(size, pod)
                .map(Medium::HugePages)
                .map_err(|error| SetUpError::Payload(error.into())),
            None => Err(SetUpError::Payload(MediumError::Unknown(wanted.to_owned()).into())),
        },
    }
}

/// Returns the size of a volume in memory: the smallest of the node's allocatable memory, the pod's
/// limit and the volume's. Pure.
pub fn memory_size(
    volume_limit: Option<Amount>,
    pod: &Pod,
    node_memory: Option<Amount>,
) -> Option<u64> {
    let candidates = [node_memory, memory_limit(pod), volume_limit];
    let smallest =
        candidates.into_iter().flatten().filter(|amount| *amount > Amount::ZERO).min()?;
    u64::try_from(smallest.units()).ok()
}

/// Returns the memory limit of the whole pod, if there is one: its own, else the sum of its
/// containers' if each has one.
fn memory_limit(pod: &Pod) -> Option<Amount> {
    let spec = pod.spec.as_ref()?;
    let of = |limits: Option<&std::collections::BTreeMap<String, Quantity>>| {
        limits?
            .get("memory")
            .and_then(|quantity| Amount::parse(&quantity.0).ok())
            .filter(|amount| !amount.is_zero())
    };
    let overhead = of(spec.overhead.as_ref()).unwrap_or(Amount::ZERO);
    if let Some(own) = of(spec.resources.as_ref().and_then(|resources| resources.limits.as_ref())) {
        return Some(own + overhead);
    }
    let limit = |container: &Container| {
        of(container.resources.as_ref().and_then(|all| all.limits.as_ref()))
    };
    let mut running = Amount::ZERO;
    let mut peak = Amount::ZERO;
    for container in pod::init_containers(pod) {
        let own = limit(container)?;
        peak = peak.max(running + own);
        if pod::is_sidecar(container) {
            running = running + own;
        }
    }
    for container in pod::main_containers(pod) {
        running = running + limit(container)?;
    }
    Some(peak.max(running) + overhead)
}

/// The reasons against a medium. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum MediumError {
    /// There is no such medium.
    #[error("unknown storage medium {0:?}")]
    Unknown(String),
    /// A size of pages is none.
    #[error(transparent)]
    Size(#[from] QuantityError),
    /// The medium leaves the size open, and the containers ask for several.
    #[error("medium: {0} can't be used if container requests multiple huge page sizes")]
    Several(String),
    /// No container asks for pages of the size.
    #[error(
        "medium {0}: hugePages storage requested, but there is no resource request for huge pages"
    )]
    NotRequested(String),
}

/// Returns the page size for medium `HugePages` (`size` is empty) or `HugePages-SIZE` (`size` is
/// `-SIZE`).
fn page_size(size: &str, pod: &Pod) -> Result<String, MediumError> {
    let medium = format!("HugePages{size}");
    let wanted = match size.strip_prefix('-') {
        None if size.is_empty() => None,
        None => return Err(MediumError::Unknown(medium)),
        Some(text) => Some(Amount::parse(text)?),
    };
    let mut found: Option<(Amount, String)> = None;
    for text in pod.spec.iter().flat_map(requested_page_sizes) {
        let size = Amount::parse(&text)?;
        match (wanted, &found) {
            (Some(wanted), _) if wanted != size => {}
            (None, Some((known, _))) if *known != size => {
                return Err(MediumError::Several(medium));
            }
            _ => found = Some((size, text)),
        }
    }
    found.map(|(_, text)| text).ok_or(MediumError::NotRequested(medium))
}

fn requested_page_sizes(spec: &PodSpec) -> Vec<String> {
    let of_pod = spec.resources.iter().flat_map(|resources| &resources.requests);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers =
        containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let names = of_pod.chain(of_containers).flat_map(std::collections::BTreeMap::keys);
    names.filter_map(|name| name.strip_prefix("hugepages-")).map(str::to_owned).collect()
}

/// Makes the directory, once. Idempotent; blocks.
pub fn make<M: Mounter>(
    mounter: &M,
    place: &Place,
    medium: &Medium,
    fs_group: Option<u32>,
) -> Result<(), SetUpError> {
    let dir = place.dir.as_path();
    let is_mounted = match mounter.is_mount_point(dir) {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(SetUpError::io("look for a mount at", dir)(error)),
    };

    if is_ready(&place.ready_dir) {
        match medium {
            Medium::Disk if dir.exists() => return Ok(()),
            Medium::Disk => {
                tracing::warn!(path = %dir.display(), "The directory of a volume is gone; it is made anew, empty");
            }
            Medium::Memory(_) | Medium::HugePages(_) if is_mounted => return Ok(()),
            // After a reboot.
            Medium::Memory(_) | Medium::HugePages(_) => {}
        }
    }

    make_dir(dir).map_err(SetUpError::io("make the directory", dir))?;
    let kind = if is_mounted {
        mounter.fs_kind(dir).map_err(SetUpError::io("look at the file system of", dir))?
    } else {
        FsKind::Other
    };

    match medium {
        Medium::Memory(size) if kind != FsKind::Tmpfs => {
            mounter.mount_tmpfs(dir, *size).map_err(SetUpError::io("mount tmpfs at", dir))?;
        }
        Medium::HugePages(size) if kind != FsKind::HugeTlbFs => {
            mounter
                .mount_huge_pages(dir, size)
                .map_err(SetUpError::io("mount huge pages at", dir))?;
        }
        Medium::Disk | Medium::Memory(_) | Medium::HugePages(_) => {}
    }

    if let Some(gid) = fs_group
        && let Err(error) = ownership::give_small_tree_to_group(dir, gid, false)
    {
        // As upstream: the volume is usable, if not by everybody.
        tracing::warn!(path = %dir.display(), error = %error, "Could not give a volume to its group");
    }

    mark_ready(&place.ready_dir)
        .map_err(SetUpError::io("write the ready file in", &place.ready_dir))
}

/// Removes the directory with all that is in it, and its mount. Missing is done. Blocks.
pub fn remove<M: Mounter>(mounter: &M, place: &Place) -> Result<(), TearDownError> {
    walk::remove_tree(&place.ready_dir).map_err(TearDownError::io("remove", &place.ready_dir))?;
    let dir = place.dir.as_path();
    match mounter.is_mount_point(dir) {
        Ok(true) => mounter.unmount(dir).map_err(TearDownError::io("unmount", dir))?,
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(TearDownError::io("look for a mount at", dir)(error)),
    }
    walk::remove_tree(dir).map_err(TearDownError::io("remove", dir))
}

/// Makes the mount point for `source` inside an emptyDir, if it is missing: a file if `source` is
/// one, else a directory. Blocks.
pub fn make_mount_point(dir: &Path, path: &Path, source: Option<&Path>) -> io::Result<()> {
    let root = Root::open(dir)?;
    match root.resolve(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }

    let metadata = source.and_then(|source| std::fs::metadata(source).ok());
    if metadata.is_some_and(|metadata| !metadata.is_dir()) {
        root.make_file(path, 0o644)
    } else {
        root.make_dirs(path, 0o755).map(drop)
    }
}

/// Returns true if the `ready` file exists.
pub fn is_ready(ready_dir: &Path) -> bool {
    std::fs::metadata(ready_dir.join("ready")).is_ok_and(|metadata| metadata.is_file())
}

fn mark_ready(ready_dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(ready_dir)?;
    if is_ready(ready_dir) {
        return Ok(());
    }
    fs::write_atomic(&ready_dir.join("ready"), "", 0o644)
}

/// Everybody may write; bits beyond the permissions (sticky of tmpfs, set-group-id of fsGroup)
/// stay.
fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(dir) {
        Ok(metadata) if metadata.is_dir() && metadata.mode() & 0o777 == 0o777 => Ok(()),
        Ok(_) | Err(_) => fs::ensure_dir_with_mode(dir, 0o777),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

    use super::{Medium, Place, is_ready, make, make_mount_point, medium, remove};
    use crate::linux::fs::write_atomic;
    use crate::model::Pod;
    use crate::model::quantity::Amount;
    use crate::volumes::mounter::fake::FakeMounter;

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).expect("a pod")
    }

    #[track_caller]
    fn check(source: &str, spec: &str, expected: Result<Medium, &str>) {
        let source: EmptyDirVolumeSource = serde_json::from_str(source).expect("a source");
        let found = medium(Some(&source), &pod(spec), Amount::parse("10Gi").ok());
        assert_eq!(found.map_err(|error| error.text()), expected.map_err(str::to_owned));
    }

    const MEMORY: &str = r#"{"medium":"Memory"}"#;
    const PLAIN: &str = r#"{"containers":[{"name":"a"}]}"#;

    #[test]
    fn memory_is_limited_by_node_pod_and_volume() {
        let mib = |count: u64| Ok(Medium::Memory(Some(count << 20)));
        check("{}", PLAIN, Ok(Medium::Disk));
        check(MEMORY, PLAIN, mib(10 << 10));
        check(r#"{"medium":"Memory","sizeLimit":"64Mi"}"#, PLAIN, mib(64));
        check(r#"{"medium":"Memory","sizeLimit":"20Gi"}"#, PLAIN, mib(10 << 10));
        let limited = r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"100Mi"}}},
            {"name":"b","resources":{"limits":{"memory":"28Mi"}}}]}"#;
        check(MEMORY, limited, mib(128));
        let half = r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"100Mi"}}},{"name":"b"}]}"#;
        check(MEMORY, half, mib(10 << 10));
        let init = r#"{"initContainers":[{"name":"i","resources":{"limits":{"memory":"300Mi"}}}],
            "containers":[{"name":"a","resources":{"limits":{"memory":"100Mi"}}}]}"#;
        check(MEMORY, init, mib(300));
        check(r#"{"medium":"Floppy"}"#, PLAIN, Err("unknown storage medium \"Floppy\""));
    }

    #[test]
    fn huge_pages_take_the_size_that_the_pod_requests() {
        let one =
            r#"{"containers":[{"name":"a","resources":{"requests":{"hugepages-2Mi":"4Mi"}}}]}"#;
        let two = r#"{"containers":[{"name":"a","resources":{"requests":{"hugepages-2Mi":"4Mi","hugepages-1Gi":"1Gi"}}}]}"#;
        check(r#"{"medium":"HugePages"}"#, one, Ok(Medium::HugePages("2Mi".to_owned())));
        check(r#"{"medium":"HugePages-1Gi"}"#, two, Ok(Medium::HugePages("1Gi".to_owned())));
        let multiple =
            "medium: HugePages can't be used if container requests multiple huge page sizes";
        check(r#"{"medium":"HugePages"}"#, two, Err(multiple));
        let none = "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages";
        check(r#"{"medium":"HugePages-1Gi"}"#, one, Err(none));
    }

    #[test]
    fn mount_points_are_made_as_their_source_is_and_never_outside() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("volume");
        std::fs::create_dir_all(dir.join("taken")).expect("made");
        std::os::unix::fs::symlink("..", dir.join("climbs")).expect("linked");
        let file = root.path().join("file");
        write_atomic(&file, "x", 0o600).expect("written");
        let make_point = |path: &str, source: Option<&std::path::Path>| {
            make_mount_point(&dir, path.as_ref(), source)
        };
        make_point("a/conf.d", None).expect("made");
        make_point("b/file", Some(&file)).expect("made");
        make_point("taken", Some(&file)).expect("what is there stays");
        assert!(dir.join("a/conf.d").is_dir() && dir.join("b/file").is_file());
        assert!(dir.join("taken").is_dir());
        assert!(make_point("climbs/x", None).is_err() && !root.path().join("x").exists());
    }

    #[test]
    fn a_disk_volume_is_made_once_and_removed_whole() {
        let root = tempfile::tempdir().expect("a directory");
        let place =
            Place { dir: root.path().join("volumes/v"), ready_dir: root.path().join("plugins/v") };
        let mounter = FakeMounter::default();
        let gid = std::fs::metadata(root.path()).expect("it exists").gid();
        make(&mounter, &place, &Medium::Disk, Some(gid)).expect("made");
        let mode = || std::fs::metadata(&place.dir).expect("it exists").mode() & 0o7777;
        assert_eq!(mode(), 0o2777);
        write_atomic(&place.dir.join("kept"), "x", 0o600).expect("written");
        make(&mounter, &place, &Medium::Disk, Some(gid)).expect("made again");
        assert!(place.dir.join("kept").exists());
        assert_eq!(mode(), 0o2777);
        remove(&mounter, &place).expect("removed");
        assert!(!place.dir.exists() && !is_ready(&place.ready_dir));
        remove(&mounter, &place).expect("removed again");
    }

    #[test]
    fn memory_is_mounted_once_and_again_after_a_reboot() {
        let root = tempfile::tempdir().expect("a directory");
        let place = Place { dir: root.path().join("v"), ready_dir: root.path().join("plugins/v") };
        let mounter = FakeMounter::default();
        let medium = Medium::Memory(Some(4096));
        make(&mounter, &place, &medium, None).expect("made");
        make(&mounter, &place, &medium, None).expect("made again");
        assert_eq!(mounter.log().len(), 1);
        let rebooted = FakeMounter::default();
        make(&rebooted, &place, &medium, None).expect("made after a reboot");
        assert_eq!(rebooted.mounts().get(&place.dir).map(String::as_str), Some("tmpfs Some(4096)"));
        rebooted.set_busy(&place.dir, true);
        let error = remove(&rebooted, &place).expect_err("busy");
        assert!(error.text().starts_with("could not unmount"), "{}", error.text());
        rebooted.set_busy(&place.dir, false);
        remove(&rebooted, &place).expect("removed");
        assert!(rebooted.mounts().is_empty() && !place.dir.exists());
    }
}
