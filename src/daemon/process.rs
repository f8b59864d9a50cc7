//! The process's own place on the machine: its directories, no swap, a low OOM score, enough open
//! files.
//!
//! Applied once, at the start. Only swap and the directories are reasons not to start; other
//! failures are logged. Every error names the field or flag and the remedy.

use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, setrlimit};
use tracing::{info, warn};

use super::identity::Identity;
use super::plugin_folders;
use crate::admission::SysctlAllowlist;
use crate::config::{KubeletConfiguration, Loaded};
use crate::linux::fs::ensure_root_dir;
use crate::linux::machine::Kernel;
use crate::linux::mount::make_rshared;
use crate::linux::selinux;
use crate::{images, server};

/// The kernel's list of swap devices; absent without swap in the kernel.
const SWAPS: &str = "/proc/swaps";

/// Makes the directories below the kubelet's root, with upstream's modes. A directory that exists
/// keeps its mode, and may be a link, as upstream.
pub(super) fn make_directories(loaded: &Loaded) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the kubelet must run as root: it makes mounts and cgroups");
    }
    let make = |path: &Path, mode| {
        ensure_root_dir(path, mode).with_context(|| format!("cannot make {}", path.display()))
    };

    let root = Path::new(&loaded.flags.root_dir);
    make(root, 0o750)?;
    for name in ["pods", "plugins", "plugins_registry", "pod-resources"] {
        make(&root.join(name), 0o750)?;
    }
    make(&root.join("checkpoints"), 0o700)?;
    plugin_folders::label(root, selinux::is_enabled());
    make(Path::new(&loaded.config.pod_logs_dir), 0o750)?;
    make(Path::new("/var/log/containers"), 0o755)?;

    if let Err(error) = make_rshared(root) {
        warn!(root = %root.display(), %error, "the root directory is not shared: mounts may not reach containers");
    }
    Ok(())
}

/// Checks settings of subsystems that would be refused or ignored only later. Blocks on files.
pub(super) fn check_parts(loaded: &Loaded, identity: &Identity) -> anyhow::Result<()> {
    server::check(loaded)?;
    let kernel = Kernel::detect(&identity.machine.kernel_version);
    SysctlAllowlist::new(kernel.version, &loaded.config.allowed_unsafe_sysctls)?;
    images::allowlist::check(&loaded.config.preloaded_images_verification_allowlist)?;
    Ok(())
}

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
