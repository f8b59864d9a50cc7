//! What a process costs, from `/proc`: memory, CPU time, and how often its threads went to sleep
//! and were woken.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::samples::Samples;

/// The counters of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    at: Instant,
    cpu: Duration,
    wakeups: u64,
}

impl Counters {
    pub(crate) fn read(pid: u32) -> Result<Self> {
        Ok(Self { at: Instant::now(), cpu: cpu_time(pid)?, wakeups: wakeups(pid)? })
    }

    /// CPU time since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        self.cpu.saturating_sub(earlier.cpu)
    }
}

/// Watches a process that has nothing to do for `window`: CPU in percent of a core, wake-ups per
/// second, and what memory it holds at the end, all as `PHASE.…`.
pub(crate) async fn idle(
    pid: u32,
    window: Duration,
    phase: &str,
    samples: &mut Samples,
) -> Result<()> {
    let before = Counters::read(pid)?;
    tokio::time::sleep(window).await;
    let after = Counters::read(pid)?;
    let seconds = (after.at - before.at).as_secs_f64();
    samples.add(&format!("{phase}.cpu"), after.cpu_since(&before).as_secs_f64() * 100.0 / seconds);
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    samples.add(
        &format!("{phase}.wakeups"),
        after.wakeups.saturating_sub(before.wakeups) as f64 / seconds,
    );
    memory(pid, phase, samples)
}

fn memory(pid: u32, phase: &str, samples: &mut Samples) -> Result<()> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    for (field, name) in [("Rss:", "rss"), ("Pss:", "pss"), ("Pss_Anon:", "anon")] {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib: f64 = line
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{path} has no {field}"))?;
        samples.add(&format!("{phase}.{name}"), kib / 1024.0);
    }
    Ok(())
}

/// User and system time; the kernel scales its ticks to the exact run time.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text =
        fs::read_to_string(&path).with_context(|| format!("the kubelet has ended: {path}"))?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let ticks =
        ticks(11).zip(ticks(12)).map(|(user, system)| user + system).with_context(|| path)?;
    Ok(Duration::from_millis(ticks * 10)) // USER_HZ is 100 on every Linux
}

/// How often its threads gave up the CPU of their own accord: each is a wake-up later.
fn wakeups(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the kubelet has ended")? {
        // A thread may end in between.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}
