//! The wiring: one file for each group of subsystems that is made together, with what it hands on.
//!
//! Each function makes the subsystems of its group, leaves first, and starts their tasks. None has
//! a policy of its own.

mod api;
mod backend;
mod csi;
mod eviction;
mod node;
mod pods;
mod runtime;
mod server;
mod stats;

pub(super) use self::api::{ApiParts, clients};
pub(super) use self::backend::{Changing, DispatchParts, Parts};
pub(super) use self::csi::CsiParts;
pub(super) use self::eviction::EvictionParts;
pub(super) use self::runtime::RuntimeParts;
pub(super) use self::server::CertificateParts;
