//! The resources of the node as volumes show them. Pure.

use crate::model::quantity::Amount;

/// The resources that the node can give to pods. They stand in for limits that a container does not
/// have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// CPU.
    pub cpu: Option<Amount>,
    /// Memory, in bytes.
    pub memory: Option<Amount>,
    /// Ephemeral storage, in bytes.
    pub ephemeral_storage: Option<Amount>,
}
