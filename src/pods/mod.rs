//! Pods on this node: one cancellable task per pod that observes, plans and executes.

pub mod hooks;
pub mod plan;
pub mod spec;
