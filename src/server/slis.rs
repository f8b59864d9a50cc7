//! `/metrics/slis`: the outcomes of health checks.

use axum::extract::State as Shared;
use axum::response::Response;

use super::State;
use super::health::page_of;
use crate::telemetry::metrics::{Counter, Family, Gauge, Registry, register_start_time};

/// Counts the outcomes of health checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checks {
    registry: Registry,
    last: Family<Gauge>,
    all: Family<Counter>,
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

impl Checks {
    /// Nothing has been checked yet.
    pub fn new() -> Self {
        let registry = Registry::new();
        register_start_time(&registry);
        Self {
            last: registry.gauges(
                "kubernetes_healthcheck",
                "[STABLE] This metric records the result of a single healthcheck.",
                &["name", "type"],
            ),
            all: registry.counters(
                "kubernetes_healthchecks_total",
                "[STABLE] This metric records the results of all healthcheck.",
                &["name", "status", "type"],
            ),
            registry,
        }
    }

    /// Counts the outcome of a check of `/healthz`.
    pub(super) fn count(&self, name: &str, is_healthy: bool) {
        let status = if is_healthy { "success" } else { "error" };
        self.last.with(&[name, "healthz"]).set(f64::from(u8::from(is_healthy)));
        self.all.with(&[name, status, "healthz"]).inc();
    }
}

pub(super) async fn page(Shared(state): Shared<State>) -> Response {
    page_of(state.checks.registry.encode())
}

#[cfg(test)]
mod tests {
    use super::Checks;

    #[test]
    fn outcomes_are_counted() {
        let checks = Checks::new();
        checks.count("ping", true);
        checks.count("ping", true);
        checks.count("syncloop", false);
        let page = checks.registry.encode();
        for line in [
            "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1",
            "kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2",
            "kubernetes_healthchecks_total{name=\"syncloop\",status=\"error\",type=\"healthz\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(page.contains("process_start_time_seconds"), "{page}");
    }
}
