//! A node under pressure takes critical pods only; under memory pressure also those that say what
//! they need.

use super::{AdmitInput, Rejection, taints};
use crate::model::pod;
use crate::resources::qos::{self, QosClass};

const EVICTED: &str = "Evicted";
const MEMORY_PRESSURE_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// What a node may be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Memory.
    Memory,
    /// Disk space or inodes.
    Disk,
    /// Process ids.
    Pid,
}

impl Pressure {
    /// The node condition that tells it.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

pub(super) fn check(input: &AdmitInput<'_>) -> Result<(), Rejection> {
    if input.pressure.is_empty() || pod::is_critical(input.pod) {
        return Ok(());
    }
    if input.pressure == [Pressure::Memory] {
        let says_what_it_needs = qos::of(input.pod) != QosClass::BestEffort;
        if says_what_it_needs
            || taints::tolerates(input.pod, MEMORY_PRESSURE_TAINT, "", "NoSchedule")
        {
            return Ok(());
        }
    }
    let names: Vec<&str> = input.pressure.iter().map(|pressure| pressure.condition()).collect();
    Err(Rejection::new(EVICTED, format!("The node had condition: [{}]. ", names.join(" "))))
}
