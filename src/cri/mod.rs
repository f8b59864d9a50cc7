//! The container runtime interface: generated types, the client with deadlines, conversions, the event stream.

/// CRI v1 as generated from `proto/cri/api.proto`.
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
    include!("../../proto/gen/runtime.v1.rs");
}
