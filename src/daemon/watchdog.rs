//! The systemd watchdog: pings the service manager while the kubelet is healthy (`WatchdogSec=` of
//! the unit).
//!
//! systemd sets `WATCHDOG_USEC` and `WATCHDOG_PID`, and kills and restarts a service that stays
//! silent for that long. Fed by the check behind `/healthz/syncloop`. A wrong setting is an error
//! of the start, as upstream's. Never decides what healthy means.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tracing::{debug, error, info};

/// The shortest timeout that upstream accepts, exclusive.
const SHORTEST: Duration = Duration::from_secs(1);

/// The pause before a ping that could not be sent is sent once more.
const RETRY: Duration = Duration::from_secs(1);

/// Returns how often systemd wants a ping: half of its timeout. `None` if no watchdog is set.
pub(super) fn interval() -> anyhow::Result<Option<Duration>> {
    let read = |name: &str| {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let timeout = timeout(&read("WATCHDOG_USEC"), &read("WATCHDOG_PID"), std::process::id())
        .context("create health checker: configure watchdog")?;
    let Some(timeout) = timeout else { return Ok(None) };

    if timeout <= SHORTEST {
        bail!("create health checker: configure watchdog timeout too small: {timeout:?}");
    }
    Ok(Some(timeout / 2))
}

/// Parses the two variables of the environment. `None`: no watchdog, or one of another process.
fn timeout(micros: &str, pid: &str, own: u32) -> anyhow::Result<Option<Duration>> {
    if micros.is_empty() {
        return Ok(None);
    }
    let micros: i64 = micros.parse().context("error converting WATCHDOG_USEC")?;
    let micros = u64::try_from(micros).unwrap_or_default();
    if micros == 0 {
        bail!("error WATCHDOG_USEC must be a positive number");
    }

    if !pid.is_empty() {
        let pid: i64 = pid.parse().context("error converting WATCHDOG_PID")?;
        if pid != i64::from(own) {
            return Ok(None);
        }
    }
    Ok(Some(Duration::from_micros(micros)))
}

/// Calls `ping` now and then every `interval`, except while `unhealthy` holds a problem.
pub(super) async fn run(
    interval: Duration,
    unhealthy: watch::Receiver<Option<String>>,
    ping: impl Fn() -> std::io::Result<()>,
) {
    info!(?interval, "systemd watchdog is on");
    loop {
        let problem = unhealthy.borrow().clone();
        match problem {
            Some(problem) => error!(error = problem, "not healthy: systemd gets no ping"),
            None => send(&ping).await,
        }
        tokio::time::sleep(interval).await;
    }
}

/// Sends one ping, with one more attempt if the first one fails.
async fn send(ping: impl Fn() -> std::io::Result<()>) {
    let Err(first) = ping() else { return };
    debug!(error = %first, "systemd did not take the ping; trying again");

    tokio::time::sleep(RETRY).await;
    if let Err(error) = ping() {
        error!(%error, "systemd did not take the ping");
    }
}

/// Sends a ping to the service manager.
pub(super) fn ping() -> std::io::Result<()> {
    sd_notify::notify(&[sd_notify::NotifyState::Watchdog])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio_util::task::TaskTracker;

    use super::{run, timeout};

    #[test]
    fn the_environment_says_whether_and_how_often() {
        let parsed = |micros, pid| timeout(micros, pid, 7).map_err(|error| format!("{error:#}"));
        let seconds = |count| Ok(Some(Duration::from_secs(count)));
        assert_eq!(parsed("", ""), Ok(None));
        assert_eq!(parsed("30000000", ""), seconds(30));
        assert_eq!(parsed("30000000", "7"), seconds(30));
        assert_eq!(parsed("30000000", "8"), Ok(None), "another process is watched");
        for (micros, pid) in [("soon", ""), ("0", ""), ("-1", ""), ("30000000", "me")] {
            assert!(parsed(micros, pid).is_err(), "{micros:?} {pid:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_while_healthy() {
        let (problem, unhealthy) = watch::channel(None);
        let pings = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pings);
        let ping = move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let tasks = TaskTracker::new();
        tasks.spawn(run(Duration::from_secs(15), unhealthy, ping));

        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(pings.load(Ordering::Relaxed), 4, "at once, then every 15 s");

        problem.send_replace(Some("PLEG is not healthy: x".to_owned()));
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(pings.load(Ordering::Relaxed), 4);

        problem.send_replace(None);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(pings.load(Ordering::Relaxed), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_ping_is_sent_once_more() {
        let (_problem, unhealthy) = watch::channel(None);
        let attempts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&attempts);
        let ping = move || {
            count.fetch_add(1, Ordering::Relaxed);
            Err(std::io::Error::other("no such socket"))
        };
        let tasks = TaskTracker::new();
        tasks.spawn(run(Duration::from_secs(15), unhealthy, ping));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
    }
}
