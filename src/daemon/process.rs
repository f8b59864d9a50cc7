//! The machine's settings for the kubelet's own process: no swap, a low OOM score, enough open
//! files.
//!
//! Applied once, at the start. Only swap is a reason not to start; other failures are logged.

use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, setrlimit};
use tracing::{info, warn};

use crate::config::KubeletConfiguration;

/// The kernel's list of swap devices; absent without swap in the kernel.
const SWAPS: &str = "/proc/swaps";

/// Applies `failSwapOn`, `oomScoreAdj` and `maxOpenFiles`. Blocks on files of procfs.
pub(super) fn prepare(config: &KubeletConfiguration) -> anyhow::Result<()> {
    let swaps = if Path::new(SWAPS).exists() {
        std::fs::read_to_string(SWAPS)
            .with_context(|| format!("failed to determine if swap is on: {SWAPS}"))?
    } else {
        String::new()
    };
    if is_swap_on(&swaps) {
        if config.fail_swap_on {
            bail!(
                "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false"
            );
        }
        info!(swaps = swaps.trim_end(), "Swap is on");
    }
    let score = std::fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
    let written = score.and_then(|mut file| {
        std::io::Write::write_all(&mut file, config.oom_score_adj.to_string().as_bytes())
    });
    if let Err(error) = written {
        warn!(%error, oomScoreAdj = config.oom_score_adj, "the OOM score of the kubelet could not be set");
    }
    let files = u64::try_from(config.max_open_files).unwrap_or_default();
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, files, files) {
        warn!(%error, maxOpenFiles = files, "the limit of open files could not be set");
    }
    Ok(())
}

/// Returns true if cgroups can limit swap. In the unified hierarchy the kubelet's own cgroup has
/// the file for it. (A root cgroup has none; the kubelet of a node runs in a service's.)
pub(super) fn has_swap_controller(unified: bool) -> bool {
    if !unified {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
}

/// Returns true if the kernel's list names a device below its heading.
fn is_swap_on(swaps: &str) -> bool {
    swaps.trim().lines().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_on_when_a_device_is_listed() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!is_swap_on(""));
        assert!(!is_swap_on(heading));
        assert!(is_swap_on(&format!("{heading}/dev/sda2   partition\t1048572\t\t0\t\t-2\n")));
    }
}
