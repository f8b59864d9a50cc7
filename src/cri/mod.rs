//! The container runtime interface: generated types, the client with its deadlines, the runtime's
//! condition.
//!
//! [`Runtime`] is the only way to the runtime. Every call has a deadline, is counted, and fails as
//! a [`CriError`] that reads as upstream's. [`condition`] watches the runtime and its network.
//! Nothing here decides anything about pods.

pub mod client;
pub mod condition;
mod config;
pub mod endpoint;
pub mod error;
#[cfg(any(test, feature = "testkit"))]
pub mod fake;
pub mod metrics;

pub use client::{Config, Operation, Runtime};
pub use condition::{RuntimeCondition, RuntimeIdentity};
pub use endpoint::{Endpoint, EndpointError};
pub use error::CriError;

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

/// The labels and annotations that tie sandboxes and containers to pods. They are upstream's, so
/// that either kubelet can take over.
pub mod labels {
    #![allow(missing_docs, reason = "each constant is its own documentation")]
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const CONTAINER_TERMINATION_MESSAGE_PATH: &str =
        "io.kubernetes.container.terminationMessagePath";
    pub const CONTAINER_TERMINATION_MESSAGE_POLICY: &str =
        "io.kubernetes.container.terminationMessagePolicy";
    pub const CONTAINER_PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
    pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
    pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}
