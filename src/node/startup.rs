//! Measures how long a new node took from the machine's start until it was ready. The names of the
//! metrics are upstream's.
//!
//! Fed by the task of this room. A node that was registered before stays at zero, as upstream's.

use std::time::Duration;

use crate::clock::Clock;
use crate::model::{Mono, Wall};
use crate::telemetry::metrics::{Gauge, Registry};

/// The metrics, and the moments that they are made of.
#[derive(Clone, Debug)]
pub struct Startup {
    clock: Clock,
    /// How long the machine had been up when this process began; `None`: not known.
    up: Option<Duration>,
    began: Mono,
    attempted: Option<Mono>,
    registered: Option<Mono>,
    is_ready: bool,
    whole: Gauge,
    before_process: Gauge,
    before: Gauge,
    during: Gauge,
    after: Gauge,
}

impl Startup {
    /// Registers the metrics.
    #[rustfmt::skip]
    pub fn register(registry: &Registry, clock: Clock) -> Self {
        let now = clock.now();
        let booted = procfs::boot_time_secs().ok().and_then(|seconds| i64::try_from(seconds).ok());
        let booted = booted.and_then(|seconds| Wall::from_second(seconds).ok());
        Self {
            clock,
            up: booted.and_then(|booted| Duration::try_from(now.wall.duration_since(booted)).ok()),
            began: now.mono,
            attempted: None,
            registered: None,
            is_ready: false,
            whole: registry.gauge("kubelet_node_startup_duration_seconds", "[ALPHA] Duration in seconds of node startup in total."),
            before_process: registry.gauge("kubelet_node_startup_pre_kubelet_duration_seconds", "[ALPHA] Duration in seconds of node startup before kubelet starts."),
            before: registry.gauge("kubelet_node_startup_pre_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup before registration."),
            during: registry.gauge("kubelet_node_startup_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup during registration."),
            after: registry.gauge("kubelet_node_startup_post_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup after registration."),
        }
    }

    /// Takes in that the node is about to be registered.
    pub(super) fn attempted(&mut self) {
        self.attempted.get_or_insert(self.clock.now().mono);
    }

    /// Takes in that the API server has made the node's object.
    pub(super) fn registered(&mut self) {
        let Some(attempted) = self.attempted.filter(|_| self.registered.is_none()) else { return };
        let now = self.clock.now().mono;
        self.registered = Some(now);
        if let Some(up) = self.up {
            self.before_process.set(up.as_secs_f64());
        }
        self.before.set(attempted.since(self.began).as_secs_f64());
        self.during.set(now.since(attempted).as_secs_f64());
    }

    /// Takes in that the API server knows the node as ready.
    pub(super) fn ready(&mut self) {
        let Some(registered) = self.registered.filter(|_| !self.is_ready) else { return };
        self.is_ready = true;
        let now = self.clock.now().mono;
        self.after.set(now.since(registered).as_secs_f64());
        if let Some(up) = self.up {
            self.whole.set((up + now.since(self.began)).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Startup;
    use crate::clock::Clock;
    use crate::telemetry::metrics::Registry;

    #[test]
    fn only_a_node_that_was_made_by_this_process_is_measured() {
        let registry = Registry::new();
        let mut startup = Startup::register(&registry, Clock::system());
        startup.attempted();
        startup.ready();
        let line = "kubelet_node_startup_duration_seconds 0";
        assert!(registry.encode().lines().any(|shown| shown == line), "it was known before");
        startup.registered();
        startup.ready();
        assert!(!registry.encode().lines().any(|shown| shown == line), "{}", registry.encode());
    }
}
