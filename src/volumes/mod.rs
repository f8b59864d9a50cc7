//! Pods' volumes on this node.
pub mod atomic_writer;
pub mod error;
pub mod kinds;
pub mod mounter;
pub mod paths;
pub mod payload;
