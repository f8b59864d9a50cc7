//! Facts of the machine as a whole, as the kernel gives them: processors on line, the greatest
//! number of processes, the abilities that containers' settings depend on.

use std::path::Path;

use crate::config::Host;

/// Returns the size of a page of memory in bytes.
pub fn page_size() -> i64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().filter(|size| *size > 0).unwrap_or(4096)
}

/// The processors on line as the kernel lists them, e.g. `0-3`; none if it does not say. Blocks.
pub fn cpus() -> Option<String> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let list = text.trim();
    (!list.is_empty()).then(|| list.to_owned())
}

/// How many processes there can be: the smaller of `pid_max` and `threads-max`; none if the kernel
/// says neither. Blocks.
pub fn processes() -> Option<i64> {
    smallest(&["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"])
}

/// The abilities of the kernel that shape containers and what pods may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its major and minor version.
    pub version: (u32, u32),
    /// True if the cgroups are the unified hierarchy.
    pub cgroup_v2: bool,
    /// True if cgroups can limit swap.
    pub swap_controller: bool,
    /// The sizes of huge pages as the runtime names them, ascending: `2MB`, `1GB`.
    pub huge_page_sizes: Vec<String>,
    /// The folders in which each processor reports its throttling, e.g.
    /// `/sys/devices/system/cpu/cpu0/thermal_throttle`.
    pub thermal_throttle: Vec<String>,
    /// True if SELinux labels files.
    pub selinux: bool,
    /// True if AppArmor profiles can be enforced.
    pub apparmor: bool,
}

impl Kernel {
    /// Asks the kernel, whose release (`uname -r`) is `release`. Blocks.
    pub fn detect(release: &str) -> Self {
        let cgroup_v2 = Host::detect().cgroup_v2;
        Self {
            version: version(release),
            cgroup_v2,
            swap_controller: has_swap_controller(cgroup_v2),
            huge_page_sizes: huge_page_sizes(),
            thermal_throttle: thermal_throttle(),
            selinux: super::selinux::is_enabled(),
            apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
        }
    }
}

/// The first two numbers of a release: `(6, 8)` of `6.8.0-45-generic`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Returns true if cgroups can limit swap. In the unified hierarchy the kubelet's own cgroup has
/// the file for it. (A root cgroup has none; the kubelet of a node runs in a service's.)
fn has_swap_controller(unified: bool) -> bool {
    if !unified {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
}

fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut kilobytes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    kilobytes.sort_unstable();
    let name = |size: u64| match size {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    };
    kilobytes.into_iter().map(name).collect()
}

fn thermal_throttle() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let paths =
        (0..cores).map(|core| format!("/sys/devices/system/cpu/cpu{core}/thermal_throttle"));
    paths.filter(|path| Path::new(path).exists()).collect()
}

fn smallest(files: &[impl AsRef<Path>]) -> Option<i64> {
    let number = |file: &Path| std::fs::read_to_string(file).ok()?.trim().parse::<i64>().ok();
    files.iter().filter_map(|file| number(file.as_ref())).min()
}

#[cfg(test)]
mod tests {
    use super::{cpus, processes, smallest, version};

    #[test]
    fn a_release_begins_with_the_version() {
        assert_eq!(version("6.8.0-45-generic"), (6, 8));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn the_smaller_limit_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            crate::linux::fs::write_atomic(&path, text, 0o600).expect("written");
            path
        };
        let (large, small) = (file("pid_max", "4194304\n"), file("threads-max", "47263\n"));
        assert_eq!(smallest(&[&large, &small]), Some(47263));
        assert_eq!(smallest(&[&large, &directory.path().join("absent")]), Some(4_194_304));
        assert_eq!(smallest(&[directory.path().join("absent")]), None);
    }

    #[test]
    fn this_machine_has_some() {
        assert!(cpus().is_some_and(|list| list.starts_with('0')), "processor 0 is on line");
        assert!(processes().is_some_and(|limit| limit > 100));
    }
}
