//! Names the storage media of an emptyDir. Pure.

/// The storage of an emptyDir, and of the volumes that are wrapped around one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// Memory (tmpfs), at most this many bytes if given.
    Memory(Option<u64>),
    /// Huge pages of this size, e.g. `2Mi`.
    HugePages(String),
}
