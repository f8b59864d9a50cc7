//! The signals that eviction watches, and their values in one reading of the node. Pure.
//!
//! Fed by `stats::usage`. Nothing here decides what is too little: that is `thresholds`.

use std::collections::BTreeMap;

use super::quantity::Quantity;
use crate::model::Wall;
use crate::stats::usage::{Fs, Memory, NodeUsage, Processes, SystemContainer};

/// A value of the node that thresholds are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory of the machine that is not in the working set.
    MemoryAvailable,
    /// What pods may still use of the memory that is theirs.
    AllocatableMemoryAvailable,
    /// Bytes on the file system of the kubelet's root directory.
    NodeFsAvailable,
    /// Inodes on the same.
    NodeFsInodesFree,
    /// Bytes on the file system of images.
    ImageFsAvailable,
    /// Inodes on the same.
    ImageFsInodesFree,
    /// Bytes on the file system of writable layers.
    ContainerFsAvailable,
    /// Inodes on the same.
    ContainerFsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// What a signal is about, by the name that messages and annotations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Bytes of local disks.
    EphemeralStorage,
    /// Inodes of local disks.
    Inodes,
    /// Process ids.
    Pids,
}

impl Resource {
    /// Returns upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// The condition of the node that a signal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`
    Memory,
    /// `DiskPressure`
    Disk,
    /// `PIDPressure`
    Pid,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 9] = [
        Self::MemoryAvailable,
        Self::AllocatableMemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::ImageFsInodesFree,
        Self::ContainerFsAvailable,
        Self::ContainerFsInodesFree,
        Self::PidAvailable,
    ];

    /// Returns the signal's name in the configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::AllocatableMemoryAvailable => "allocatableMemory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::ContainerFsAvailable => "containerfs.available",
            Self::ContainerFsInodesFree => "containerfs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// Returns the signal of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }

    /// Returns the resource that the signal is about.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => Resource::Memory,
            Self::NodeFsAvailable | Self::ImageFsAvailable | Self::ContainerFsAvailable => {
                Resource::EphemeralStorage
            }
            Self::NodeFsInodesFree | Self::ImageFsInodesFree | Self::ContainerFsInodesFree => {
                Resource::Inodes
            }
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// Returns the condition of the node while the signal is too low.
    pub fn condition(self) -> Condition {
        match self.resource() {
            Resource::Memory => Condition::Memory,
            Resource::EphemeralStorage | Resource::Inodes => Condition::Disk,
            Resource::Pids => Condition::Pid,
        }
    }
}

/// One value of a signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// What is left.
    pub available: Quantity,
    /// What there is in all.
    pub capacity: Quantity,
    /// The time of the reading.
    pub at: Wall,
}

/// The values of the signals that could be read.
pub type Observations = BTreeMap<Signal, Observation>;

/// Returns the signals' values in a reading of the node.
pub fn observe(node: &NodeUsage) -> Observations {
    let mut all = Observations::new();
    memory(&mut all, Signal::MemoryAvailable, node.resources.memory.as_ref());
    let pods = node.system(SystemContainer::Pods).and_then(|pods| pods.resources.memory.as_ref());
    memory(&mut all, Signal::AllocatableMemoryAvailable, pods);

    let bytes = Signal::NodeFsAvailable;
    disk(&mut all, bytes, Signal::NodeFsInodesFree, node.fs.as_ref());
    let bytes = Signal::ImageFsAvailable;
    disk(&mut all, bytes, Signal::ImageFsInodesFree, node.image_fs.as_ref());
    let bytes = Signal::ContainerFsAvailable;
    disk(&mut all, bytes, Signal::ContainerFsInodesFree, node.container_fs.as_ref());

    if let Some(Processes { at, limit, running }) = node.processes {
        let available = Quantity::count(limit.saturating_sub(running));
        let capacity = Quantity::count(limit);
        all.insert(Signal::PidAvailable, Observation { available, capacity, at });
    }
    all
}

fn memory(all: &mut Observations, signal: Signal, memory: Option<&Memory>) {
    let Some(memory) = memory else { return };
    // Without a limit there is nothing to be short of.
    let Some(available) = memory.available() else { return };
    let capacity = Quantity::bytes(available.saturating_add(memory.working_set));
    let available = Quantity::bytes(available);
    all.insert(signal, Observation { available, capacity, at: memory.at });
}

fn disk(all: &mut Observations, bytes: Signal, inodes: Signal, fs: Option<&Fs>) {
    let Some(fs) = fs else { return };
    if let Some((available, capacity)) = fs.available.zip(fs.capacity) {
        let available = Quantity::bytes(available);
        let capacity = Quantity::bytes(capacity);
        all.insert(bytes, Observation { available, capacity, at: fs.at });
    }
    // Some file systems, as btrfs, count no inodes: that is no shortage.
    if let Some((free, count)) = fs.inodes_free.zip(fs.inodes).filter(|(_, count)| *count > 0) {
        let count_of = |inodes: u64| Quantity::count(i64::try_from(inodes).unwrap_or(i64::MAX));
        all.insert(
            inodes,
            Observation { available: count_of(free), capacity: count_of(count), at: fs.at },
        );
    }
}
