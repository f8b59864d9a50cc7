//! Pressure: the resources that a node is short of.
//!
//! Eviction decides it; the node's conditions, admission and the collection of images read it.

/// The resources that the node is short of; by default none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory (`MemoryPressure`).
    pub memory: bool,
    /// Disk space or inodes (`DiskPressure`).
    pub disk: bool,
    /// Process ids (`PIDPressure`).
    pub pid: bool,
}
