//! Takes the readings: what the kernel, the runtime and the disk say, put together.
//!
//! Fed by the task of this room, which decides when. Calls to the runtime have the client's
//! deadlines; everything that waits for the kernel runs on blocking threads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use procfs::Current as _;
use tokio::sync::watch;

use super::cadvisor::Disk;
use super::cgroups::{CgroupsUsage, Owner, SystemNames, own_cgroup, owners};
use super::compose::{self, Disks, FsReading, PodFiles, Running};
use super::read::Reader;
use super::read::disks::{self, Partition};
use super::read::parse::container_id;
use super::read::sample::CgroupUsage;
use super::usage::{Fs, NodeUsage, PodsUsage, Processes, SystemContainer, SystemUsage};
use super::walks::{FIRST_SIZES, Sizes, Volumes};
use super::{Config, Deps, StatsError, StatsHandle};
use crate::cri::v1;
use crate::linux::blocking;
use crate::linux::cgroup::{CgroupError, Layout};
use crate::linux::measure::{Measured, measure};
use crate::linux::mount::fs_usage;
use crate::model::{PodKey, PodUid, Wall, pod};
use crate::pleg::KnownPod;

/// A reading of cgroups may be this old when it becomes part of another: those who ask for the node
/// and the pods together share one.
const SHARED: Duration = Duration::from_secs(1);
/// Sandboxes that the runtime is asked about at a time.
const SIDE_BY_SIDE: usize = 8;
/// The machine's first process: its network and limits are the machine's.
const FIRST_PROCESS: i32 = 1;

/// What readings are taken from.
pub(super) struct Sources {
    pub(super) config: Config,
    pub(super) deps: Deps,
    layout: OnceLock<Layout>,
    partitions: OnceLock<Vec<Partition>>,
    started: Wall,
}

impl Sources {
    pub(super) fn new(config: Config, deps: Deps) -> Self {
        let started = deps.clock.now().wall;
        Self { config, deps, layout: OnceLock::new(), partitions: OnceLock::new(), started }
    }

    /// The cgroup hierarchies. Blocks the first time.
    fn layout(&self) -> Result<&Layout, CgroupError> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let layout = Layout::detect()?;
        Ok(self.layout.get_or_init(|| layout))
    }

    fn names(&self, layout: &Layout) -> SystemNames {
        let tree = &self.config.tree;
        let text = || std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let kubelet = match self.config.kubelet_cgroups.as_str() {
            "" => own_cgroup(&text(), matches!(layout, Layout::V2(_))),
            configured => configured.to_owned(),
        };
        SystemNames {
            kubelet,
            runtime: self.config.runtime_cgroups.clone(),
            system: self.config.system_cgroups.clone(),
            pods: tree.node().path(tree.driver()),
        }
    }

    /// Reads every cgroup of the node. Rates are not known yet. Blocks.
    pub(super) fn cgroups(&self, detailed: bool) -> Result<CgroupsUsage, StatsError> {
        let layout = self.layout().map_err(StatsError::Cgroup)?;
        let names = self.names(layout);
        let proc = Path::new("/proc");
        let mut reader = Reader::new(layout, proc);
        let roots = [&names.pods, &names.kubelet, &names.runtime, &names.system];
        let roots: Vec<String> =
            roots.into_iter().filter(|name| !name.is_empty()).cloned().collect();
        let sandboxes = if detailed { self.sandboxes() } else { HashSet::new() };

        let mut by_path = BTreeMap::new();
        for path in reader.list(&roots) {
            let Some(mut usage) = self.cgroup(&mut reader, &path) else { continue };
            let now = self.deps.clock.now();
            let is_top = path == "/";
            if detailed {
                let id = path.rsplit('/').next().and_then(container_id);
                let main = if is_top { Some(FIRST_PROCESS) } else { usage.sample.pids.first };
                let is_known = is_top || id.is_some();
                usage.details = Some(reader.details(&path, main.filter(|_| is_known)));
                let has_network = is_top || id.is_some_and(|id| sandboxes.contains(id));
                let process = main.filter(|_| has_network);
                usage.network = process.and_then(|pid| reader.network(pid, now.wall));
            }
            by_path.insert(path, usage);
        }
        if by_path.is_empty() {
            return Err(StatsError::NoCgroups);
        }
        Ok(CgroupsUsage { by_path, names })
    }

    /// Reads one cgroup. That of the machine has the machine's limits.
    fn cgroup(&self, reader: &mut Reader<'_>, path: &str) -> Option<CgroupUsage> {
        let mut sample = reader.read(path, self.deps.clock.now())?;
        if let Some(memory) = sample.memory.as_mut().filter(|_| path == "/") {
            memory.limits.memory = self.config.machine.memory;
            memory.limits.swap = self.config.machine.swap;
        }
        Some(CgroupUsage { sample, ..CgroupUsage::default() })
    }

    /// Reads what eviction watches and no more: the cgroups of the machine and of all pods, file
    /// systems, the count of processes.
    pub(super) async fn signals(self: Arc<Self>) -> Result<NodeUsage, StatsError> {
        let request = v1::ImageFsInfoRequest::default();
        let images = self.deps.runtime.image_fs_info(request).await.map_err(StatsError::Images)?;
        let read = blocking::spawn(move || {
            let layout = self.layout().map_err(StatsError::Cgroup)?;
            let names = self.names(layout);
            let mut reader = Reader::new(layout, Path::new("/proc"));
            let paths = ["/".to_owned(), names.pods.clone()].into_iter();
            let by_path = paths.filter_map(|path| {
                let usage = self.cgroup(&mut reader, &path)?;
                Some((path, usage))
            });
            let by_path: BTreeMap<String, CgroupUsage> = by_path.collect();
            let cgroups = CgroupsUsage { by_path, names };
            Ok(self.node_of(&cgroups, self.node_disks(images)?))
        });
        read.await.map_err(StatsError::panicked)?
    }

    /// The pods that the runtime knows. A pod whose labels no relist has read yet has its name from
    /// its object.
    fn known(&self) -> Vec<KnownPod> {
        let mut known = self.deps.pleg.pods();
        if known.iter().all(|pod| pod.key.is_some()) {
            return known;
        }
        let objects = (self.deps.pods)();
        for pod in known.iter_mut().filter(|pod| pod.key.is_none()) {
            let object = objects.iter().find(|object| pod::uid(object) == pod.uid);
            pod.key = object.map(|object| pod::key(object));
        }
        known
    }

    /// The runtime's ids of all sandboxes.
    fn sandboxes(&self) -> HashSet<String> {
        let known = self.known();
        let sandboxes = known.iter().flat_map(|pod| &pod.observation.pod.sandboxes);
        sandboxes.map(|sandbox| sandbox.id.as_str().to_owned()).collect()
    }

    /// Composes processors, memory and swap of node and pods: no call to the runtime, no disk.
    pub(super) fn light(&self, cgroups: &CgroupsUsage) -> (NodeUsage, PodsUsage) {
        let pods = compose::pods(&self.known(), cgroups, &self.config.tree, None);
        (self.node_of(cgroups, NodeDisks::default()), pods)
    }

    fn node_of(&self, cgroups: &CgroupsUsage, disks: NodeDisks) -> NodeUsage {
        let of = |path: &str| cgroups.by_path.get(path);
        let names = &cgroups.names;
        let system = [
            (SystemContainer::Kubelet, &names.kubelet),
            (SystemContainer::Runtime, &names.runtime),
            (SystemContainer::Misc, &names.system),
            (SystemContainer::Pods, &names.pods),
        ];
        let system = system.into_iter().filter_map(|(container, path)| {
            let usage = of(path)?;
            let started = match container {
                SystemContainer::Kubelet => self.started,
                SystemContainer::Runtime | SystemContainer::Misc | SystemContainer::Pods => {
                    usage.sample.created
                }
            };
            Some(SystemUsage { container, started, resources: usage.resources() })
        });
        NodeUsage {
            booted: disks
                .booted
                .unwrap_or_else(|| of("/").map(|top| top.sample.created).unwrap_or_default()),
            resources: of("/").map(CgroupUsage::resources).unwrap_or_default(),
            network: disks.network,
            fs: disks.root.map(|root| root.whole()),
            container_fs: disks.containers,
            image_fs: disks.images,
            processes: disks.processes,
            system: system.collect(),
        }
    }

    /// Reads the whole node.
    pub(super) async fn node(self: Arc<Self>, stats: StatsHandle) -> Result<NodeUsage, StatsError> {
        let cgroups = stats.cgroups(SHARED).await.map_err(StatsError::Shared)?;
        let request = v1::ImageFsInfoRequest::default();
        let images = self.deps.runtime.image_fs_info(request).await.map_err(StatsError::Images)?;
        let this = Arc::clone(&self);
        let read = blocking::spawn(move || this.node_disks(images));
        let disks = read.await.map_err(StatsError::panicked)??;
        Ok(self.node_of(&cgroups, disks))
    }

    fn root_fs(&self) -> Result<FsReading, StatsError> {
        let path = &self.config.root_dir;
        let at = self.deps.clock.now().wall;
        let usage = fs_usage(path).map_err(|source| StatsError::FileSystem {
            path: path.display().to_string(),
            source,
        })?;
        Ok(FsReading { at, usage })
    }

    fn node_disks(&self, images: v1::ImageFsInfoResponse) -> Result<NodeDisks, StatsError> {
        let layout = self.layout().map_err(StatsError::Cgroup)?;
        let at = self.deps.clock.now().wall;
        let mut reader = Reader::new(layout, Path::new("/proc"));
        let running = procfs::LoadAverage::current().ok().map(|load| i64::from(load.max));
        let limit = crate::linux::machine::processes();
        let booted = procfs::boot_time_secs().ok().and_then(|seconds| i64::try_from(seconds).ok());
        let (images, containers) = runtime_fs(images);
        Ok(NodeDisks {
            root: Some(self.root_fs()?),
            images,
            containers,
            network: reader.network(FIRST_PROCESS, at),
            processes: limit.zip(running).map(|(limit, running)| Processes { at, limit, running }),
            booted: booted.and_then(|seconds| Wall::from_second(seconds).ok()),
        })
    }

    /// Reads all pods. `volumes` are the sizes that are known, and change when others are.
    pub(super) async fn pods(
        self: Arc<Self>,
        stats: StatsHandle,
        mut volumes: watch::Receiver<Sizes>,
    ) -> Result<PodsUsage, StatsError> {
        let cgroups = stats.cgroups(SHARED).await.map_err(StatsError::Shared)?;
        let request = v1::ListContainerStatsRequest::default();
        let answer = self.deps.runtime.list_container_stats(request).await;
        let layers = answer.map_err(StatsError::Containers)?.stats;
        // A volume that is late is shown with the next reading.
        let measured = volumes.wait_for(|sizes| !sizes.are_awaited);
        drop(tokio::time::timeout(FIRST_SIZES, measured).await);
        let volumes = volumes.borrow().volumes.clone();

        let this = Arc::clone(&self);
        let read = blocking::spawn(move || {
            let known = this.known();
            let disks = this.disks(&known, &cgroups, &layers, volumes)?;
            Ok(compose::pods(&known, &cgroups, &this.config.tree, Some(&disks)))
        });
        read.await.map_err(StatsError::panicked)?
    }

    fn disks(
        &self,
        known: &[KnownPod],
        cgroups: &CgroupsUsage,
        layers: &[v1::ContainerStats],
        volumes: Volumes,
    ) -> Result<Disks, StatsError> {
        let layout = self.layout().map_err(StatsError::Cgroup)?;
        let mut reader = Reader::new(layout, Path::new("/proc"));
        let by_id = cgroups.by_id();
        let mut disks = Disks { root: Some(self.root_fs()?), volumes, ..Disks::default() };
        for pod in known {
            let Some(running) = Running::of(&pod.observation.pod) else { continue };
            let id = running.sandbox.id.as_str();
            let usage = by_id.get(id).and_then(|path| cgroups.by_path.get(*path));
            if let Some(pid) = usage.and_then(|usage| usage.sample.pids.first)
                && let Some(network) = reader.network(pid, self.deps.clock.now().wall)
            {
                disks.networks.insert(id.to_owned(), network);
            }
            if let Some(key) = &pod.key {
                let names = running.containers.iter().map(|container| container.name.as_str());
                disks.files.insert(pod.uid.clone(), self.pod_files(&pod.uid, key, names));
            }
        }

        let mut spaces = HashMap::new();
        for stats in layers {
            let Some(id) = stats.attributes.as_ref().map(|attributes| &attributes.id) else {
                continue;
            };
            if let Some(layer) = &stats.writable_layer {
                disks.layers.insert(id.clone(), used_fs(layer, &mut spaces));
            }
        }
        Ok(disks)
    }

    fn pod_files<'a>(
        &self,
        uid: &PodUid,
        key: &PodKey,
        containers: impl Iterator<Item = &'a str>,
    ) -> PodFiles {
        let paths = self.deps.volumes.paths();
        let logs = containers.filter_map(|name| {
            let files = files_of(&paths.container_log(key, uid, name))?;
            Some((name.to_owned(), (files.inodes > 0).then_some(files)))
        });
        PodFiles {
            logs: logs.collect(),
            pod_logs: files_of(&paths.pod_log(key, uid)),
            etc_hosts: measure(&paths.etc_hosts(uid), &|| false).ok(),
        }
    }

    /// Reads everything that cAdvisor's metrics show. `images` are those of known sandboxes.
    pub(super) async fn detailed(
        self: Arc<Self>,
        images: Arc<HashMap<String, String>>,
    ) -> Result<Detailed, StatsError> {
        let images = self.images(&images).await;
        let read = blocking::spawn(move || {
            let cgroups = self.cgroups(true)?;
            let pods = self.deps.volumes.paths().pods();
            let partitions = self.partitions.get_or_init(|| disks::partitions(&pods));
            let devices = disks::names(partitions, Path::new("/sys"));
            let disks = disks::read(partitions, Path::new("/proc"));
            Ok(Detailed { cgroups, images: Arc::new(images), disks, devices })
        });
        read.await.map_err(StatsError::panicked)?
    }

    /// Asks the runtime for the images of sandboxes that are not known yet. One that does not say
    /// is asked again the next time.
    async fn images(&self, known: &HashMap<String, String>) -> HashMap<String, String> {
        let asked = futures::stream::iter(self.sandboxes()).map(|id| async {
            let image = match known.get(&id) {
                Some(image) => Some(image.clone()),
                None => self.sandbox_image(&id).await,
            };
            Some((id, image?))
        });
        asked.buffer_unordered(SIDE_BY_SIDE).filter_map(std::future::ready).collect().await
    }

    async fn sandbox_image(&self, id: &str) -> Option<String> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.deps.runtime.pod_sandbox_status(request).await.ok()?;
        let info: serde_json::Value = serde_json::from_str(answer.info.get("info")?).ok()?;
        info["image"].as_str().map(str::to_owned)
    }

    /// Returns whose each cgroup of a reading is.
    pub(super) fn owners<'a>(&self, read: &'a Detailed) -> HashMap<&'a str, Owner> {
        owners(&read.cgroups, &self.config.tree, &self.known(), &read.images)
    }
}

/// Everything that cAdvisor's metrics show.
#[derive(Clone, Debug, Default)]
pub struct Detailed {
    /// The cgroups, with the details of their processes.
    pub cgroups: CgroupsUsage,
    /// The images of sandboxes, by id.
    pub(super) images: Arc<HashMap<String, String>>,
    /// The machine's file systems.
    pub disks: Vec<Disk>,
    /// The names of block devices, by their numbers.
    pub devices: HashMap<(u64, u64), String>,
}

/// What is read of the node besides its cgroups.
#[derive(Default)]
struct NodeDisks {
    root: Option<FsReading>,
    images: Option<Fs>,
    containers: Option<Fs>,
    network: Option<super::usage::Network>,
    processes: Option<Processes>,
    booted: Option<Wall>,
}

/// Returns the file system of images and that of writable layers, with what is used of them. One
/// that holds both is shown twice, with the images' use.
fn runtime_fs(answer: v1::ImageFsInfoResponse) -> (Option<Fs>, Option<Fs>) {
    let images = answer.image_filesystems.into_iter().next();
    let layers = answer.container_filesystems.into_iter().next();
    let mount_point = |usage: &v1::FilesystemUsage| {
        let id = usage.fs_id.as_ref();
        id.map(|id| PathBuf::from(&id.mountpoint))
    };
    let device = |path: &PathBuf| std::fs::metadata(path).map(|found| found.dev()).ok();
    let is_same = |layers: &v1::FilesystemUsage| {
        let places = images.as_ref().and_then(mount_point).zip(mount_point(layers));
        places.is_none_or(|(images, layers)| images == layers || device(&images) == device(&layers))
    };

    let mut spaces = HashMap::new();
    let layers = layers.filter(|layers| !is_same(layers));
    let images = images.map(|images| used_fs(&images, &mut spaces));
    let layers = layers.map(|layers| used_fs(&layers, &mut spaces));
    (images.clone(), layers.or(images))
}

/// The runtime's answer about a file system, with the space on it. `spaces` holds each mount point
/// that was looked at.
fn used_fs(usage: &v1::FilesystemUsage, spaces: &mut HashMap<PathBuf, Option<FsReading>>) -> Fs {
    let at = Wall::from_nanosecond(i128::from(usage.timestamp)).unwrap_or_default();
    let space = usage.fs_id.as_ref().and_then(|id| {
        let path = PathBuf::from(&id.mountpoint);
        let read = || fs_usage(&path).ok().map(|usage| FsReading { at, usage });
        *spaces.entry(path.clone()).or_insert_with(read)
    });
    let space = space.map_or_else(|| Fs::unknown(at), |space| space.space());
    Fs {
        at,
        used: usage.used_bytes.map(|bytes| bytes.value),
        inodes_used: usage.inodes_used.map(|inodes| inodes.value),
        ..space
    }
}

/// Measures the files in a directory itself, not in those below it; `None` if there is none.
fn files_of(directory: &Path) -> Option<Measured> {
    let mut sum = Measured::default();
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(file) = measure(&entry.path(), &|| false) else { continue };
        sum.bytes += file.bytes;
        sum.inodes += file.inodes;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::runtime_fs;
    use crate::cri::v1;

    fn usage(mountpoint: &str, used: u64) -> v1::FilesystemUsage {
        v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
            used_bytes: Some(v1::UInt64Value { value: used }),
            ..v1::FilesystemUsage::default()
        }
    }

    fn used(images: &str, layers: Option<&str>) -> (Option<u64>, Option<u64>) {
        let (images, layers) = runtime_fs(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(images, 1)],
            container_filesystems: layers.map(|layers| usage(layers, 2)).into_iter().collect(),
        });
        (images.and_then(|fs| fs.used), layers.and_then(|fs| fs.used))
    }

    #[test]
    fn writable_layers_have_a_file_system_of_their_own_where_the_device_is_another() {
        assert_eq!(used("/proc", Some("/sys")), (Some(1), Some(2)));
        assert_eq!(used("/proc", Some("/proc")), (Some(1), Some(1)));
        assert_eq!(used("/proc", Some("/proc/self")), (Some(1), Some(1)), "one device");
        assert_eq!(used("/proc", None), (Some(1), Some(1)));
    }
}
