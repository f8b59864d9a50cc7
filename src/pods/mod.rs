//! Pods on this node: one cancellable task per pod that observes, plans and executes.
//!
//! ```text
//!  desired ─(Change)─► dispatch ─(Directive)─► worker ─► plan ─► execute ─► runtime, volumes, cgroups
//!                         │                      │ ▲                │
//!                         │                      │ └─ pleg, volumes, probes, images, own completions
//!                         └─ admission           └─► status, probes, PodView
//! ```
//!
//! `dispatch` owns the table of pods, a `worker` owns what is known of one pod, `plan` decides,
//! `request` turns a pod into requests, `execute` carries out. Others reach pods by
//! [`PodsHandle`](crate::dispatch::PodsHandle) only.

pub mod execute;
pub mod hooks;
pub mod logs;
pub mod plan;
pub mod recorded;
pub mod request;
pub mod user_namespaces;
pub mod worker;

pub use self::execute::SandboxPermits;
pub use self::worker::NetworkProblem;
