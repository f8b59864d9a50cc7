//! The API server: transport, clients, events, tokens, the cache of ConfigMaps and Secrets, watches
//! of what a node reads.
//!
//! ```text
//!  kubeconfig ─► credentials ─► transport (lanes) ─► client::Clients ─┬─► list_watch ─► objects, services, nodes, …
//!                                                                     ├─► tokens
//!                                                                     └─► events_task ◄── events::Recorder
//! ```
//!
//! HTTP/2 with connections of their own for the lease, for writes and for watches; every request
//! has a deadline; nothing is written by PUT, because the types of this crate do not know every
//! field of a newer server.

pub mod access;
mod authorization;
pub mod claims;
pub mod client;
mod config;
pub mod connectivity;
pub mod correlate;
pub mod credentials;
pub mod crypto;
pub mod csi_objects;
pub mod events;
pub mod events_task;
pub mod exec;
pub mod failure;
#[cfg(any(test, feature = "testkit"))]
pub mod fake;
pub mod identity;
mod impersonation;
pub mod kubeconfig;
pub mod limiter;
pub mod list_watch;
pub mod nodes;
pub mod objects;
pub mod proxy;
pub mod random;
pub mod requests;
pub mod resource_claims;
pub mod runtime_classes;
pub mod services;
pub mod tokens;
pub mod transport;
mod trust;
mod watched;

pub use client::{ClientConfig, Clients};
pub use watched::Watched;
