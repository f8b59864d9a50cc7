//! Reads the facts of this machine from procfs and sysfs.
//!
//! They are identifiers, kernel, operating system, cores, memory, huge pages and the size of the
//! root directory's file system. Reading blocks, but briefly. It never asks the network.

use std::fs;
use std::path::Path;

use procfs::Current as _;

/// The facts of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's UUID, else the machine id.
    pub system_uuid: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// The operating system's pretty name.
    pub os_image: String,
    /// Go's name of the architecture: `amd64`, `arm64`, …
    pub architecture: &'static str,
    /// The processors that are online.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Swap in bytes.
    pub swap: u64,
    /// Huge pages: the size of a page in bytes, and their number.
    pub huge_pages: Vec<(u64, u64)>,
    /// The size of the root directory's file system in bytes; `None` if it cannot be read.
    pub storage: Option<u64>,
}

/// Reads the facts. A fact that cannot be read is left empty: a node without cores or memory says
/// so in its Ready condition.
pub fn read(root_dir: &Path) -> MachineInfo {
    let memory = procfs::Meminfo::current().ok();
    let machine_id = first_text(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let mut system_uuid = first_text(&[
        "/sys/class/dmi/id/product_uuid",
        "/proc/device-tree/system-id",
        "/proc/device-tree/vm,uuid",
        "/etc/machine-id",
    ]);
    if system_uuid.is_empty() {
        system_uuid.clone_from(&machine_id);
    }

    MachineInfo {
        system_uuid,
        machine_id,
        boot_id: first_text(&["/proc/sys/kernel/random/boot_id"]),
        kernel_version: first_text(&["/proc/sys/kernel/osrelease"]),
        os_image: os_image(),
        architecture: architecture(),
        cores: cores(),
        memory: memory.as_ref().map_or(0, |memory| memory.mem_total),
        swap: memory.as_ref().map_or(0, |memory| memory.swap_total),
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
        storage: storage(root_dir),
    }
}

/// Returns Go's name of the architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Returns the size of the file system that holds the root directory.
fn storage(root_dir: &Path) -> Option<u64> {
    // The directory may not exist yet: its nearest ancestor is on the same file system.
    root_dir.ancestors().find_map(|path| {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        Some(stat.blocks().saturating_mul(stat.fragment_size()))
    })
}

/// Returns the text of the first file that is not empty.
fn first_text(paths: &[&str]) -> String {
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim_end_matches('\0').trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

fn os_image() -> String {
    ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| pretty_name(&text))
        .unwrap_or_else(|| "Linux".to_owned())
}

/// Returns the value of `PRETTY_NAME` in an `os-release` file.
fn pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Counts the processors that are online.
fn cores() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")
        .ok()
        .and_then(|text| count_list(text.trim()));
    online
        .or_else(|| {
            let text = fs::read_to_string("/proc/cpuinfo").ok()?;
            u32::try_from(text.lines().filter(|line| line.starts_with("processor")).count()).ok()
        })
        .unwrap_or_default()
}

/// Counts the numbers that a list like `0-3,8` names.
fn count_list(text: &str) -> Option<u32> {
    let mut count = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.parse().ok()?;
        let last: u32 = last.parse().ok()?;
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// Reads the sizes of huge pages and their numbers from `/sys/kernel/mm/hugepages`.
fn huge_pages(directory: &Path) -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut pages: Vec<(u64, u64)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let kilobytes: u64 =
                name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count =
                fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some((kilobytes * 1024, count))
        })
        .collect();
    pages.sort_unstable();

    pages
}

#[cfg(test)]
mod tests {
    use super::{count_list, pretty_name, read};

    #[test]
    fn reads_lists_and_names() {
        assert_eq!(count_list("0-3,8"), Some(5));
        assert_eq!(count_list("0"), Some(1));
        assert_eq!(count_list(""), None);
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n").as_deref(),
            Some("Debian 13")
        );
        assert_eq!(pretty_name("NAME=x\n"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let info = read(std::path::Path::new("/does/not/exist"));
        assert!(info.cores > 0 && info.memory > 0, "{info:?}");
        assert!(info.storage.is_some_and(|bytes| bytes > 0), "{info:?}");
        assert_eq!(info.boot_id.len(), 36);
        assert!(!info.kernel_version.is_empty());
    }
}
