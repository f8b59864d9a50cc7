//! The kubelet's certificates: requests them from the API server, keeps them on disk, and rotates
//! them before they expire.
//!
//! ```text
//!  bootstrap kubeconfig ─► bootstrap ──────┐
//!  kubeconfig ─────────────────────────────┤
//!  addresses of the Node ─► template* ─► manager ─► signer ─► CertificateSigningRequests
//!                             rotation* ───┘   └─► store (pki/) ─► watch<Identity>
//!                                                    └─► apiserver (client), server (serving)
//! ```
//!
//! Two certificates, one manager each:
//!
//! - The client certificate ([`client()`]), with `rotateCertificates`. Without it, [`bootstrap`]
//!   requests the first one before anything else starts, and nothing renews it.
//! - The serving certificate ([`serving()`]), with `serverTLSBootstrap`.
//!
//! Files, names of requests and metrics are upstream's. Two things are not:
//!
//! - Upstream's process exits when its client certificate has expired and the API server answers.
//!   Here the process stays, and so do the containers, probes and logs. It says what to do, and goes
//!   on as soon as a valid kubeconfig, pair of files, or bootstrap kubeconfig appears.
//! - A new client certificate closes no connection: new requests go to new connections, and watches
//!   stay on theirs until they end.

mod block;
mod bootstrap;
mod client;
mod config;
mod key;
mod kubeconfig;
mod manager;
mod metrics;
mod pair;
mod request;
mod rotation;
mod serving;
mod signer;
mod store;
mod template;

pub use self::bootstrap::load_client_cert;
pub use self::client::client;
pub use self::config::{ServingSettings, Settings};
pub use self::serving::{ServingDeps, serving};
