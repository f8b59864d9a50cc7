//! The inputs of a Node's status, and the events that follow from it. Pure.

use k8s_openapi::api::core::v1::NodeAddress;

use super::NodeConfig;
use super::addresses::AddressError;
use super::info::MachineInfo;
use super::sources::Facts;
use crate::model::{EventType, Now};

/// The inputs of a status.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    /// The configuration.
    pub config: &'a NodeConfig,
    /// The facts of the machine.
    pub info: &'a MachineInfo,
    /// The node's addresses. After an error those of the object stay.
    pub addresses: &'a Result<Vec<NodeAddress>, AddressError>,
    /// The facts of the other subsystems.
    pub facts: &'a Facts,
    /// The time.
    pub now: Now,
}

/// An event that follows from a change of the status. It is recorded once the API server has
/// accepted the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusEvent {
    /// `Normal` or `Warning`.
    pub event_type: EventType,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
}
