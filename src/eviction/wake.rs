//! Wakes eviction before its next look is due: by stalls for want of memory, and on the legacy
//! hierarchy by memory that crosses a threshold.
//!
//! It never says how much is left: a fresh reading decides. Without support by the kernel it never
//! wakes.

use std::path::Path;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::signals::Signal;
use super::thresholds::Threshold;
use crate::linux::cgroup::{Layout, notify::MemoryNotice};
use crate::linux::psi::{self, StallTrigger};
use crate::model::Mono;
use crate::stats::usage::{Memory, NodeUsage, SystemContainer};

/// How long tasks may wait for memory within [`WINDOW`] before eviction looks.
const STALL: Duration = Duration::from_millis(100);

/// The window of stalls. The kernel reports at most one stall in each.
const WINDOW: Duration = Duration::from_secs(1);

/// How often thresholds of the kernel follow the page cache; upstream's.
const REFRESH: Duration = Duration::from_secs(10);

/// The notices that were asked for.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    stalls: Option<StallTrigger>,
    /// The cgroups that the kernel watches (`kernelMemcgNotification`); `None`: none.
    memcg: Option<MemcgConfig>,
    notices: Vec<MemoryNotice>,
    refreshed: Option<Mono>,
}

/// What the kernel watches for `kernelMemcgNotification`.
#[derive(Clone, Debug)]
pub struct MemcgConfig {
    /// The hierarchies.
    pub layout: Layout,
    /// The cgroup of all pods, e.g. `/kubepods`.
    pub pods: String,
}

impl Wakes {
    /// Asks for stalls, if memory is watched.
    pub(super) fn new(watches_memory: bool, memcg: Option<MemcgConfig>) -> Self {
        let trigger =
            watches_memory.then(|| StallTrigger::new(Path::new(psi::MEMORY), STALL, WINDOW));
        let stalls = match trigger {
            Some(Ok(trigger)) => Some(trigger),
            Some(Err(error)) => {
                debug!(%error, "the kernel does not report stalls for want of memory");
                None
            }
            None => None,
        };
        let memcg = memcg.filter(|_| watches_memory);
        Self { stalls, memcg, notices: Vec::new(), refreshed: None }
    }

    /// Has the kernel's thresholds follow the reading. Blocks for the time of a few small files.
    pub(super) fn follow(&mut self, thresholds: &[Threshold], node: &NodeUsage, now: Mono) {
        let Some(memcg) = &self.memcg else { return };
        if self.refreshed.is_some_and(|at| now.since(at) < REFRESH) {
            return;
        }
        self.refreshed = Some(now);
        self.notices.clear();
        for threshold in thresholds {
            let Some((path, memory)) = watched(threshold.signal, node, &memcg.pods) else {
                continue;
            };
            let Some(value) = kernel_threshold(threshold, memory) else { continue };
            match MemoryNotice::new(&memcg.layout, path, value) {
                Ok(notice) => self.notices.extend(notice),
                Err(error) => {
                    warn!(%error, cgroup = path, "the kernel does not watch a memory threshold");
                }
            }
        }
    }

    /// Waits for the next notice. Cancel-safe.
    pub(super) async fn next(&mut self) {
        // Both arms lose nothing when dropped.
        let failed = tokio::select! {
            fired = stalled(self.stalls.as_ref()) => fired.err().map(|error| (true, error)),
            crossed = crossed(&self.notices) => crossed.err().map(|error| (false, error)),
        };
        match failed {
            None => debug!("eviction is woken by the kernel"),
            Some((is_stalls, error)) => {
                info!(%error, is_stalls, "the kernel's notices about memory have ended");
                if is_stalls {
                    self.stalls = None;
                } else {
                    self.notices.clear();
                }
            }
        }
    }
}

async fn stalled(trigger: Option<&StallTrigger>) -> std::io::Result<()> {
    match trigger {
        Some(trigger) => trigger.fired().await,
        None => std::future::pending().await,
    }
}

async fn crossed(notices: &[MemoryNotice]) -> std::io::Result<()> {
    if notices.is_empty() {
        return std::future::pending().await;
    }
    let waits = notices.iter().map(|notice| Box::pin(notice.crossed()));
    futures::future::select_all(waits).await.0
}

/// Returns the cgroup that a signal is about, and its memory.
fn watched<'a>(
    signal: Signal,
    node: &'a NodeUsage,
    pods: &'a str,
) -> Option<(&'a str, &'a Memory)> {
    match signal {
        Signal::MemoryAvailable => Some(("/", node.resources.memory.as_ref()?)),
        Signal::AllocatableMemoryAvailable => {
            Some((pods, node.system(SystemContainer::Pods)?.resources.memory.as_ref()?))
        }
        Signal::NodeFsAvailable
        | Signal::NodeFsInodesFree
        | Signal::ImageFsAvailable
        | Signal::ImageFsInodesFree
        | Signal::ContainerFsAvailable
        | Signal::ContainerFsInodesFree
        | Signal::PidAvailable => None,
    }
}

/// Returns the use at which the working set reaches the threshold. The kernel counts inactive page
/// cache too, which the working set leaves out.
fn kernel_threshold(threshold: &Threshold, memory: &Memory) -> Option<u64> {
    use super::quantity::Quantity;
    let capacity = memory.available()?.saturating_add(memory.working_set);
    let least = threshold.value.of(Quantity::bytes(capacity)).amount().units();
    let inactive = memory.usage.saturating_sub(memory.working_set);
    let used = capacity.saturating_sub(u64::try_from(least).unwrap_or_default());
    Some(used.saturating_add(inactive))
}
