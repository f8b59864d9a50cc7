//! The one ledger of what the node gives: asks each provider in upstream's order. Pure: time is an
//! argument.

use super::Allocation;
use super::provider::{Ask, Provider as _, Step};
use crate::model::PodUid;
use crate::resources::devices::Answer;
use crate::resources::devices::error::DeviceError;
use crate::resources::devices::inventory::Inventory;

/// What every container has been given.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Devices of plugins.
    pub devices: Inventory,
}

impl Ledger {
    /// The next step on the container's way to what it asks for, or why it cannot have it. `answer`
    /// is that of the last step's call.
    ///
    /// The topology policy is `none`: every provider chooses for itself.
    pub fn allocate(&mut self, ask: &Ask, answer: Option<Answer>) -> Result<Step, DeviceError> {
        self.devices.allocate(ask, None, answer)
    }

    /// What the container has.
    pub fn allocation(&self, uid: &PodUid, container: &str) -> Allocation {
        let mut allocation = Allocation::default();
        self.devices.add_to(uid, container, &mut allocation);
        allocation
    }

    /// Frees what the pod has. Returns whether it had anything.
    pub fn forget(&mut self, uid: &PodUid) -> bool {
        self.devices.forget(uid)
    }
}
