//! What one planning step looks at. Pure.

use super::types::InFlight;
use crate::model::{Lifecycle, Now, ObservedPod, Pod};
use crate::pods::memory::facts::Facts;
use crate::pods::memory::known::Known;

/// Everything that one planning step looks at. `pods::memory` owns all of it.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The pod as its source has it.
    pub pod: &'a Pod,
    /// Where it is in its life.
    pub lifecycle: &'a Lifecycle,
    /// What the runtime says; never older than the last mutation (invariant 3).
    pub observed: &'a ObservedPod,
    /// What others say.
    pub facts: &'a Facts,
    /// What this process did.
    pub known: &'a Known,
    /// What is being carried out now.
    pub in_flight: &'a InFlight,
    /// The time.
    pub now: Now,
}
