//! Pods on this node: one cancellable task per pod that observes, plans and executes.
//!
//! ```text
//!  desired ─(Change)─► dispatch ─(Directive)─► worker ─► plan ─► execute ─► runtime, volumes, cgroups
//!                         │                      │ ▲                │
//!                         │                      │ └─ pleg, volumes, probes, images, own completions
//!                         └─ admission           └─► status, probes, PodView
//! ```
//!
//! `dispatch` owns the table of pods, `memory` is what is known of one pod, `plan` decides, a
//! `worker` drives both, `request` turns a pod into requests, `execute` carries out, `report`
//! publishes. Others reach pods by
//! [`PodsHandle`](crate::dispatch::PodsHandle) only.

mod actuated;
mod config;
pub mod execute;
mod former;
pub mod hooks;
mod launch;
pub mod lives;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod plan;
pub mod recorded;
pub mod report;
pub mod request;
mod streams;
pub mod user_namespaces;
pub mod worker;

pub use self::execute::SandboxPermits;
pub use self::launch::{CriBackend, Deps};
pub use self::memory::facts::Config;
