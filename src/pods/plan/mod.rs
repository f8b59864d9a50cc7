//! The planner: `plan(input) -> Plan`, pure. What to do next for one pod, in order, when to look again, and what the pod
//! waits for. It never does anything, never reads a clock and never asks anybody.

pub mod types;
