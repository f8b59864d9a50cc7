//! Pod statuses: computed from observation, merged, diffed, written.
//!
//! ```text
//!   worker ── compute(pod, lifecycle, observed, waiting, verdicts, …) ──► PodStatus
//!   worker ── Handle::set ──► Writer: merge with the API's object ─► patch ─► PATCH /status ─► Acked
//! ```
//!
//! Everything but [`api`] and [`writer`] is pure. Status is a leaf: nobody reads it back but for
//! two things, the API's last status at adoption and [`Acked`]. The writer never decides what a
//! pod's state is.

pub mod api;
pub mod compute;
pub mod conditions;
mod containers;
pub mod merge;
pub mod patch;
pub mod phase;
mod resources;
pub mod restart;
mod terminated;
pub mod writer;

#[cfg(test)]
mod compute_tests;
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod writer_tests;

pub use api::{KubeStatusApi, StatusApi};
pub use compute::{ComputeInput, NodeFacts, ResizeCondition, ResizeState, compute, of_mirror};
pub use writer::{Acked, Handle, StatusUpdate, Writer};
