//! The pure half of `tests/parity`: what is recorded of a kubelet's deeds, and how two recordings
//! are compared.
//!
//! - [`recording`]: a tree of texts, and its form on disk.
//! - [`names`]: replaces what differs between two runs of the same kubelet.
//! - [`writes`]: the statuses that a kubelet wrote, from the audit log.
//! - [`compare`]: the differences, and which of them are known.

pub mod compare;
pub mod names;
pub mod recording;
pub mod writes;
