//! Usage of the node, its pods and their containers: the one set of values that every reader
//! renders. Pure.
//!
//! Made by `read` from what the kernel and the runtime say; read by the summary, the metrics and
//! eviction. Each reading carries the time at which it was taken. An `Option` that is `None` means
//! that the source does not have the value; it never means zero.

use crate::model::{ContainerId, PodKey, PodUid, Wall};

/// Use of processors.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpu {
    /// The time of the reading.
    pub at: Wall,
    /// Nanoseconds of one core used since the cgroup was created.
    pub core_nanos: u64,
    /// Mean use of the last window, in billionths of a core.
    pub nano_cores: u64,
    /// Stalls for want of processors; cgroup v2 only.
    pub psi: Option<Psi>,
}

/// Use of memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The time of the reading.
    pub at: Wall,
    /// The limit in bytes; `None` without one. The node's is all of the machine's memory.
    pub limit: Option<u64>,
    /// Bytes in use, page cache included.
    pub usage: u64,
    /// Bytes in use without the inactive part of the page cache: what eviction counts.
    pub working_set: u64,
    /// Bytes of anonymous memory.
    pub rss: u64,
    /// Page faults so far.
    pub page_faults: u64,
    /// Page faults that read from a disk, so far.
    pub major_page_faults: u64,
    /// Stalls for want of memory; cgroup v2 only.
    pub psi: Option<Psi>,
}

impl Memory {
    /// Returns the bytes below the limit; `None` without a limit.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// Use of swap.
#[derive(Clone, Debug, PartialEq)]
pub struct Swap {
    /// The time of the reading.
    pub at: Wall,
    /// Bytes in use.
    pub usage: u64,
    /// The limit in bytes; `None` without one.
    pub limit: Option<u64>,
}

impl Swap {
    /// Returns the bytes below the limit; `None` without a limit.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.usage))
    }
}

/// Use of disks' time.
#[derive(Clone, Debug, PartialEq)]
pub struct Io {
    /// The time of the reading.
    pub at: Wall,
    /// Stalls for want of I/O; cgroup v2 only.
    pub psi: Option<Psi>,
}

/// Pressure stall information: how long tasks have waited for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// Some tasks waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// One line of pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Microseconds so far.
    pub total: u64,
    /// Per cent of the last ten seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
}

/// Traffic of a network namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The time of the reading.
    pub at: Wall,
    /// The interfaces, without the loopback and the virtual ones that upstream leaves out.
    pub interfaces: Vec<Interface>,
}

/// Traffic of one interface, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, e.g. `eth0`.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// Traffic in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// Space on a file system: what there is, and what one user of it has taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Fs {
    /// The time of the reading.
    pub at: Wall,
    /// Bytes that are free for ordinary users.
    pub available: Option<u64>,
    /// Bytes of the file system.
    pub capacity: Option<u64>,
    /// Bytes that are used: by the whole file system, or by a directory of it.
    pub used: Option<u64>,
    /// Inodes that are free.
    pub inodes_free: Option<u64>,
    /// Inodes of the file system.
    pub inodes: Option<u64>,
    /// Inodes that are used: by the whole file system, or by a directory of it.
    pub inodes_used: Option<u64>,
}

impl Fs {
    /// Returns a reading that says nothing yet.
    pub fn unknown(at: Wall) -> Self {
        Self {
            at,
            available: None,
            capacity: None,
            used: None,
            inodes_free: None,
            inodes: None,
            inodes_used: None,
        }
    }
}

/// Usage of one cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Processors.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// Disks' time.
    pub io: Option<Io>,
}

/// Usage of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerUsage {
    /// The container's name in the pod.
    pub name: String,
    /// The runtime's id.
    pub id: ContainerId,
    /// The time at which the runtime created the container.
    pub created: Wall,
    /// Use of processors, memory and swap.
    pub resources: Resources,
    /// The writable layer, on the file system that holds it.
    pub rootfs: Option<Fs>,
    /// The logs, rotated ones included, on the node's file system.
    pub logs: Option<Fs>,
    /// Processes in the container.
    pub processes: Option<u64>,
}

/// Usage of one volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeUsage {
    /// The volume's name in the pod.
    pub name: String,
    /// Its space.
    pub fs: Fs,
    /// The claim that it is of; `None` without one.
    pub claim: Option<PodKey>,
    /// True if the volume counts against the pod's local ephemeral storage.
    pub ephemeral: bool,
    /// Whether a CSI driver reports the volume as abnormal; `None` if none says.
    pub abnormal: Option<bool>,
}

/// Usage of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUsage {
    /// The pod's UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub key: PodKey,
    /// The time at which its sandbox was created.
    pub created: Wall,
    /// Its running containers.
    pub containers: Vec<ContainerUsage>,
    /// Use of processors, memory and swap by the whole pod.
    pub resources: Resources,
    /// Traffic of its network namespace.
    pub network: Option<Network>,
    /// Its volumes that can be measured.
    pub volumes: Vec<VolumeUsage>,
    /// All of its local ephemeral storage: layers, logs, volumes, `/etc/hosts`.
    pub ephemeral_storage: Option<Fs>,
    /// Processes in its containers.
    pub processes: Option<u64>,
}

/// Usage of all pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodsUsage {
    /// The pods with a sandbox that works, by UID.
    pub pods: Vec<PodUsage>,
}

impl PodsUsage {
    /// Returns the usage of one pod.
    pub fn by_uid(&self, uid: &PodUid) -> Option<&PodUsage> {
        self.pods.iter().find(|pod| &pod.uid == uid)
    }
}

/// The cgroups of the node beside those of single pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SystemContainer {
    /// The kubelet's own.
    Kubelet,
    /// The container runtime's.
    Runtime,
    /// Everything else that is not in a cgroup of its own.
    Misc,
    /// All pods together.
    Pods,
}

impl SystemContainer {
    /// Returns upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Runtime => "runtime",
            Self::Misc => "misc",
            Self::Pods => "pods",
        }
    }
}

/// Usage of a cgroup of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemUsage {
    /// Which one.
    pub container: SystemContainer,
    /// The time at which it was created.
    pub started: Wall,
    /// Its usage.
    pub resources: Resources,
}

/// How many processes there are on the node, and how many there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processes {
    /// The time of the reading.
    pub at: Wall,
    /// The most that there can be.
    pub limit: i64,
    /// The ones that there are, threads included.
    pub running: i64,
}

/// Usage of the whole node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeUsage {
    /// The time at which the machine was started.
    pub booted: Wall,
    /// Use of processors, memory and swap by the whole machine.
    pub resources: Resources,
    /// Traffic of the machine.
    pub network: Option<Network>,
    /// The file system of the kubelet's root directory (`nodefs`).
    pub fs: Option<Fs>,
    /// The file system of images (`imagefs`), with what images use of it.
    pub image_fs: Option<Fs>,
    /// The file system of writable layers (`containerfs`), with what they use of it.
    pub container_fs: Option<Fs>,
    /// The count of processes.
    pub processes: Option<Processes>,
    /// The cgroups beside those of single pods.
    pub system: Vec<SystemUsage>,
}

impl NodeUsage {
    /// Returns the usage of one of the node's cgroups.
    pub fn system(&self, container: SystemContainer) -> Option<&SystemUsage> {
        self.system.iter().find(|usage| usage.container == container)
    }
}
