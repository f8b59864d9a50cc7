//! CSI drivers of this node: generated types, the client with its deadlines, the drivers that are
//! registered.
//!
//! [`Client`] is the only way to a driver. Every call has a deadline, is counted, and fails as a
//! [`CsiError`] that reads as upstream's. [`Drivers`] holds the drivers that have registered; its
//! owner is the registration in `node`. Nothing here knows a pod.

pub mod client;
pub mod drivers;
pub mod error;
pub mod metrics;

pub use client::{Capabilities, Client, Observer};
pub use drivers::{Drivers, Registered};
pub use error::CsiError;

/// CSI v1 as generated from `proto/csi/api.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
pub mod v1 {
    include!("../../proto/gen/csi.v1.rs");
}
