//! The metrics of certificates, under upstream's names.

use tokio::sync::watch;

use super::request::Purpose;
use crate::clock::Clock;
use crate::model::Wall;
use crate::telemetry::metrics::{Counter, Histogram, Kind, Registry};

/// Upstream's buckets of the age of a replaced certificate: a minute to four years, in seconds.
const AGES: &[f64] = &[
    60.0,
    3_600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    124_416_000.0,
];

/// The metrics of one certificate.
pub(super) struct Metrics {
    errors: Counter,
    ages: Option<Histogram>,
    expiry: watch::Sender<Option<Wall>>,
}

impl Metrics {
    /// Registers the metrics of one certificate.
    pub(super) fn new(registry: &Registry, purpose: Purpose, clock: Clock) -> Self {
        let (expiry, expires) = watch::channel(None);
        let (ttl, help) = ttl(purpose);
        registry.on_collect(move |collected| {
            let left = expires.borrow().map_or(f64::INFINITY, |at| seconds(clock, at));
            let unlabelled: &[&str] = &[];
            collected.family(ttl, help, Kind::Gauge, &[], &[(unlabelled, left)]);
        });

        let errors = match purpose {
            Purpose::Client => "kubelet_certificate_manager_client_expiration_renew_errors",
            Purpose::Serving => "kubelet_server_expiration_renew_errors",
        };
        let ages = match purpose {
            Purpose::Client => None,
            Purpose::Serving => Some(registry.histogram(
                "kubelet_certificate_manager_server_rotation_seconds",
                "[ALPHA] Histogram of the number of seconds the previous certificate lived before \
                 being rotated.",
                AGES,
            )),
        };
        let help = "[ALPHA] Counter of certificate renewal errors.";
        Self { errors: registry.counter(errors, help), ages, expiry }
    }

    /// Counts an attempt that led to no certificate.
    pub(super) fn failed(&self) {
        self.errors.inc();
    }

    /// Notes the certificate in use, and how old the one before became.
    pub(super) fn in_use(&self, not_after: Wall) {
        self.expiry.send_replace(Some(not_after));
    }

    /// Notes how old a certificate became that was replaced.
    pub(super) fn replaced(&self, not_before: Wall, now: Wall) {
        if let Some(ages) = &self.ages {
            ages.observe(now.duration_since(not_before).as_secs_f64());
        }
    }
}

fn ttl(purpose: Purpose) -> (&'static str, &'static str) {
    match purpose {
        Purpose::Client => (
            "kubelet_certificate_manager_client_ttl_seconds",
            "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The \
             value is in seconds until certificate expiry (negative if already expired). If client \
             certificate is invalid or unused, the value will be +INF.",
        ),
        Purpose::Serving => (
            "kubelet_certificate_manager_server_ttl_seconds",
            "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving \
             certificate. The value is in seconds until certificate expiry (negative if already \
             expired). If serving certificate is invalid or unused, the value will be +INF.",
        ),
    }
}

/// Whole seconds until `at`; negative if it has passed.
fn seconds(clock: Clock, at: Wall) -> f64 {
    at.duration_since(clock.now().wall).as_secs_f64().trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_to_live_is_infinite_without_a_certificate() {
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Purpose::Serving, clock);
        let shows = |value: &str| {
            let name = "kubelet_certificate_manager_server_ttl_seconds";
            let text = registry.encode();
            assert!(text.contains(&format!("\n{name} {value}\n")), "{text}");
        };
        shows("+Inf");
        metrics.in_use(Wall::from_second(90).expect("a time"));
        shows("90");
        tokio::time::advance(std::time::Duration::from_secs(100)).await;
        shows("-10");
        metrics.replaced(Wall::UNIX_EPOCH, clock.now().wall);
        let text = registry.encode();
        let name = "kubelet_certificate_manager_server_rotation_seconds";
        assert!(text.contains(&format!("{name}_sum 100\n")), "{text}");
    }
}
