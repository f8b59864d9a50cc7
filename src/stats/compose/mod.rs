//! Composes the usage of pods from what each source says. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cgroups::CgroupsUsage;
use super::usage::{
    ContainerUsage, Cpu, Fs, Memory, Network, PodUsage, PodsUsage, Resources, Swap, VolumeUsage,
};
use crate::linux::measure::Measured;
use crate::linux::mount::FsUsage;
use crate::model::{ObservedContainer, ObservedPod, ObservedSandbox, PodUid, SandboxState, Wall};
use crate::pleg::KnownPod;
use crate::resources::cgroup_names::CgroupTree;

/// A file system as one reading found it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FsReading {
    /// The time of the reading.
    pub(super) at: Wall,
    /// What was found.
    pub(super) usage: FsUsage,
}

impl FsReading {
    /// The space there is, without what is used of it.
    pub(super) fn space(&self) -> Fs {
        Fs {
            available: Some(self.usage.available),
            capacity: Some(self.usage.capacity),
            inodes_free: Some(self.usage.inodes_free),
            inodes: Some(self.usage.inodes),
            ..Fs::unknown(self.at)
        }
    }

    /// The space there is, and what all together use of it.
    pub(super) fn whole(&self) -> Fs {
        let inodes_used = self.usage.inodes.saturating_sub(self.usage.inodes_free);
        Fs { used: Some(self.usage.used), inodes_used: Some(inodes_used), ..self.space() }
    }

    /// The space there is, and what a measured tree uses of it.
    pub(super) fn part(&self, measured: Option<Measured>) -> Fs {
        Fs {
            used: measured.map(|measured| measured.bytes),
            inodes_used: measured.map(|measured| measured.inodes),
            ..self.space()
        }
    }
}

/// What the disk says of one pod, but for its volumes.
#[derive(Clone, Debug, Default)]
pub(super) struct PodFiles {
    /// The logs of each container; `None` in it: there are no files.
    pub(super) logs: BTreeMap<String, Option<Measured>>,
    /// Files in the pod's log directory itself; `None`: there is no directory.
    pub(super) pod_logs: Option<Measured>,
    /// `/etc/hosts`.
    pub(super) etc_hosts: Option<Measured>,
}

/// Everything that the usage of pods is composed from, but for cgroups.
#[derive(Clone, Debug, Default)]
pub(super) struct Disks {
    /// The file system of the kubelet's root directory.
    pub(super) root: Option<FsReading>,
    /// The writable layers, by the container's id.
    pub(super) layers: HashMap<String, Fs>,
    /// Logs and `/etc/hosts`.
    pub(super) files: HashMap<PodUid, PodFiles>,
    /// The volumes.
    pub(super) volumes: HashMap<PodUid, Arc<[VolumeUsage]>>,
    /// Traffic, by the sandbox's id.
    pub(super) networks: HashMap<String, Network>,
}

/// Composes the usage of all pods that have a running container. Without `disks`, only processors,
/// memory and swap.
pub(super) fn pods(
    known: &[KnownPod],
    cgroups: &CgroupsUsage,
    tree: &CgroupTree,
    disks: Option<&Disks>,
) -> PodsUsage {
    let by_id = cgroups.by_id();
    let by_pod = cgroups.by_pod(tree);
    let pods = known.iter().filter_map(|pod| {
        let running = Running::of(&pod.observation.pod)?;
        let key = pod.key.clone()?;
        let cgroup = by_pod.get(&pod.uid).copied();
        let containers: Vec<ContainerUsage> = running
            .containers
            .iter()
            .map(|container| container_usage(container, cgroups, &by_id, disks, &pod.uid))
            .collect();
        let resources = match cgroup.and_then(|path| cgroups.by_path.get(path)) {
            Some(usage) => usage.resources(),
            None => sum(containers.iter().map(|container| &container.resources)),
        };
        let processes = containers.iter().filter_map(|container| container.processes);
        let usage = PodUsage {
            uid: pod.uid.clone(),
            key,
            created: running.sandbox.created_at,
            processes: processes.reduce(|sum, more| sum + more),
            resources,
            network: disks
                .and_then(|disks| disks.networks.get(running.sandbox.id.as_str()).cloned()),
            volumes: disks
                .and_then(|disks| disks.volumes.get(&pod.uid))
                .map(|volumes| volumes.to_vec())
                .unwrap_or_default(),
            ephemeral_storage: None,
            containers,
        };
        let ephemeral_storage = disks.and_then(|disks| ephemeral_storage(&usage, disks));
        Some(PodUsage { ephemeral_storage, ..usage })
    });
    let mut pods: Vec<PodUsage> = pods.collect();
    pods.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.uid.cmp(&b.uid)));
    PodsUsage { pods }
}

/// The parts of a pod that run.
pub(super) struct Running<'a> {
    pub(super) sandbox: &'a ObservedSandbox,
    pub(super) containers: Vec<&'a ObservedContainer>,
}

impl<'a> Running<'a> {
    /// Finds them; `None` if no container runs.
    pub(super) fn of(pod: &'a ObservedPod) -> Option<Self> {
        let mut sandboxes = pod.sandboxes.iter();
        let ready = sandboxes.find(|sandbox| sandbox.state == SandboxState::Ready);
        let sandbox = ready.or_else(|| pod.latest_sandbox())?;
        let runs = |container: &&ObservedContainer| {
            container.state.is_running() && container.sandbox == sandbox.id
        };
        let containers: Vec<&ObservedContainer> = pod.containers.iter().filter(runs).collect();
        (!containers.is_empty()).then_some(Self { sandbox, containers })
    }
}

fn container_usage(
    container: &ObservedContainer,
    cgroups: &CgroupsUsage,
    by_id: &HashMap<&str, &str>,
    disks: Option<&Disks>,
    uid: &PodUid,
) -> ContainerUsage {
    let id = container.id.as_str();
    let cgroup = by_id.get(id).and_then(|path| cgroups.by_path.get(*path));
    let root = disks.and_then(|disks| disks.root.as_ref());
    let logs = disks.and_then(|disks| disks.files.get(uid)?.logs.get(&container.name).copied());
    ContainerUsage {
        name: container.name.clone(),
        id: container.id.clone(),
        created: container.created_at,
        resources: cgroup.map(super::read::sample::CgroupUsage::resources).unwrap_or_default(),
        rootfs: disks.and_then(|disks| disks.layers.get(id).cloned()),
        logs: root.zip(logs).map(|(root, logs)| root.part(logs)),
        processes: cgroup.map(|cgroup| cgroup.sample.pids.processes),
    }
}

/// All of a pod's local ephemeral storage: layers and logs of its containers, volumes, the files in
/// its log directory, `/etc/hosts`.
fn ephemeral_storage(pod: &PodUsage, disks: &Disks) -> Option<Fs> {
    let mut total = disks.root.as_ref()?.space();
    for container in &pod.containers {
        // Upstream counts the logs of a container only with its layer.
        let Some(rootfs) = &container.rootfs else { continue };
        add(&mut total, rootfs);
        if let Some(logs) = &container.logs {
            add(&mut total, logs);
        }
    }
    for volume in pod.volumes.iter().filter(|volume| volume.ephemeral) {
        add(&mut total, &volume.fs);
    }
    if let (Some(files), Some(root)) = (disks.files.get(&pod.uid), &disks.root) {
        for measured in [files.pod_logs, files.etc_hosts].into_iter().flatten() {
            add(&mut total, &root.part(Some(measured)));
        }
    }
    Some(total)
}

/// Adds what a part uses.
fn add(total: &mut Fs, part: &Fs) {
    total.at = total.at.max(part.at);
    total.used = plus(total.used, part.used);
    total.inodes_used = plus(total.inodes_used, part.inodes_used);
}

/// The sum of two values, either of which may be missing.
fn plus(first: Option<u64>, second: Option<u64>) -> Option<u64> {
    first.into_iter().chain(second).reduce(u64::saturating_add)
}

/// The sum of the containers of a pod that has no cgroup of its own.
fn sum<'a>(all: impl Iterator<Item = &'a Resources>) -> Resources {
    let mut total = Resources::default();
    for one in all {
        total.cpu = merge(total.cpu, one.cpu.as_ref(), |sum, more| Cpu {
            at: more.at,
            core_nanos: sum.core_nanos.saturating_add(more.core_nanos),
            nano_cores: sum.nano_cores.saturating_add(more.nano_cores),
            psi: None,
        });
        total.memory = merge(total.memory, one.memory.as_ref(), |sum, more| Memory {
            at: more.at,
            limit: plus(sum.limit, more.limit),
            usage: sum.usage.saturating_add(more.usage),
            working_set: sum.working_set.saturating_add(more.working_set),
            rss: sum.rss.saturating_add(more.rss),
            page_faults: sum.page_faults.saturating_add(more.page_faults),
            major_page_faults: sum.major_page_faults.saturating_add(more.major_page_faults),
            psi: None,
        });
        total.swap = merge(total.swap, one.swap.as_ref(), |sum, more| Swap {
            at: more.at,
            usage: sum.usage.saturating_add(more.usage),
            limit: plus(sum.limit, more.limit),
        });
    }
    total
}

fn merge<T: Clone>(sum: Option<T>, more: Option<&T>, plus: impl Fn(&T, &T) -> T) -> Option<T> {
    match (sum, more) {
        (Some(sum), Some(more)) => Some(plus(&sum, more)),
        (None, more) => more.cloned(),
        (sum, None) => sum,
    }
}

#[cfg(test)]
mod tests;
