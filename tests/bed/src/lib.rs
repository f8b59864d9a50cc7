//! The common ground of the tests on real parts: `tests/node`, `tests/faults`, `tests/parity`,
//! `tests/systemd`, `tests/kubeadm` and `tests/bench`.
//!
//! - [`cluster`] drives `tests/cluster/cluster`: brings a cluster up, runs its verbs, takes it down.
//! - [`bed`] is a case's place in it: a namespace, objects written as YAML, waits.
//! - [`look`] is the language in which a case says what it expects of an object.
//! - [`run`] runs cases and prints their results as `cargo test` does.
//! - [`package`] puts on a host what upstream's package puts there.
//! - [`parity`] is the pure half of the comparison with upstream's kubelet.
//! - [`audit`] reads the API server's audit log.
//!
//! Nothing here knows rkubelet's code, so that the same cases run against upstream's kubelet.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

pub mod audit;
pub mod bed;
pub mod cluster;
pub mod look;
pub mod package;
pub mod parity;
pub mod run;
