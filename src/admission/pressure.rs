//! Keeps pods away from a node under pressure: it takes critical pods only; under memory pressure
//! alone also those that say what they need, or tolerate it. Pure.

use super::{AdmitInput, Rejection, taints};
use crate::model::reason::event::EVICTED;
use crate::model::{Pressure, pod};
use crate::resources::qos::{self, QosClass};

const MEMORY_PRESSURE_TAINT: &str = "node.kubernetes.io/memory-pressure";

pub(super) fn check(input: &AdmitInput<'_>) -> Result<(), Rejection> {
    let Pressure { memory, disk, pid } = input.pressure;
    if input.pressure == Pressure::default() || pod::is_critical(input.pod) {
        return Ok(());
    }

    if memory && !disk && !pid {
        let says_what_it_needs = qos::of(input.pod) != QosClass::BestEffort;
        if says_what_it_needs
            || taints::tolerates(input.pod, MEMORY_PRESSURE_TAINT, "", "NoSchedule")
        {
            return Ok(());
        }
    }

    let names: Vec<&str> =
        [(memory, "MemoryPressure"), (disk, "DiskPressure"), (pid, "PIDPressure")]
            .into_iter()
            .filter_map(|(is_short, condition)| is_short.then_some(condition))
            .collect();
    Err(Rejection::new(EVICTED, format!("The node had condition: [{}]. ", names.join(" "))))
}
