//! Pod statuses: computed from observation, merged, diffed, written.
//!
//! ```text
//!   worker ── compute(pod, lifecycle, observed, waiting, verdicts, …) ──► PodStatus
//!   worker ── Handle::set ──► Writer: merge with the API's object ─► patch ─► PATCH /status ─► Acked
//! ```
//!
//! | files | what they do |
//! |---|---|
//! | [`input`] → [`compute()`], [`phase`], [`conditions`], `containers`, `terminated`, `resources` | compute a status; pure |
//! | [`merge`], [`patch`] | bring it to the API's object; pure |
//! | `handle` → `writer` → `queue` (pure) → `job` → [`api`] | write it |
//!
//! Status is a leaf: nothing reads it back but for two things, the API's last status at adoption
//! and [`Acked`]. The writer never decides what a pod's state is.

pub mod api;
mod base;
pub mod compute;
pub mod conditions;
mod containers;
mod handle;
pub mod input;
mod job;
pub mod merge;
pub mod patch;
pub mod phase;
mod queue;
mod resources;
pub mod restart;
mod terminated;
pub mod writer;

#[cfg(test)]
mod compute_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod writer_tests;

pub use api::{KubeStatusApi, StatusApi};
pub use compute::{compute, of_mirror};
pub use handle::{Acked, Handle, StatusUpdate};
pub use input::{ComputeInput, NodeFacts, PendingResize, ResizeInProgress, ResizeState};
pub use writer::Writer;
