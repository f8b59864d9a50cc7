//! What the process says about itself: its log and its metrics.
//!
//! Fed by every subsystem; it imports none of them. The log is a subscriber of `tracing`, set up
//! once by `main`. The registry of metrics is a value that `daemon` makes and hands on; there is no
//! global one.

pub mod logging;
pub mod metrics;
