//! Reads the machine's file systems and block devices, for cAdvisor's metrics.
//!
//! Which file systems there are is found once, as upstream does: the mounts of pods that come later
//! are theirs, not the machine's. Fed by the task of this room, on blocking threads.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::parse;
use crate::linux::mount::{self, MountInfo, fs_usage};
use crate::stats::cadvisor::Disk;

/// The types of file systems that lie on disks, besides `ext*` and `nfs*`.
const ON_DISKS: [&str; 19] = [
    "btrfs",
    "devicemapper",
    "exfat",
    "f2fs",
    "fat",
    "hfs",
    "hfsplus",
    "iso9660",
    "jfs",
    "msdos",
    "ntfs",
    "overlay",
    "reiserfs",
    "squashfs",
    "tmpfs",
    "udf",
    "vfat",
    "xfs",
    "zfs",
];

/// A file system of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stats) struct Partition {
    device: String,
    target: PathBuf,
    number: (u64, u64),
}

/// Finds the machine's file systems, without those below `pods` (the pods' own). Blocks.
pub(in crate::stats) fn partitions(pods: &Path) -> Vec<Partition> {
    let mounts = mount::list().unwrap_or_default();
    choose(&mounts, &[pods, Path::new("/run/containerd"), Path::new("/var/lib/containers")])
}

/// Chooses the file systems that are shown, each device once.
fn choose(mounts: &[MountInfo], of_pods: &[&Path]) -> Vec<Partition> {
    let mut found: BTreeMap<String, Partition> = BTreeMap::new();
    for mount in mounts {
        let kind = mount.fs_type.as_str();
        let is_shown =
            kind.starts_with("ext") || kind.starts_with("nfs") || ON_DISKS.contains(&kind);
        if !is_shown || of_pods.iter().any(|folder| mount.target.starts_with(folder)) {
            continue;
        }
        let Some(number) = number(&mount.device) else { continue };
        let device = match kind {
            "overlay" => format!("{}_{}-{}", mount.source, number.0, number.1),
            "tmpfs" => mount.target.display().to_string(),
            _ => mount.source.clone(),
        };
        let partition = Partition { device: device.clone(), target: mount.target.clone(), number };
        // A later mount of the same device is a bind mount.
        found.entry(device).or_insert(partition);
    }

    // The top's file system is shown whatever its type.
    if let Some(top) = mounts.iter().find(|mount| mount.target == Path::new("/"))
        && let Some(number) = number(&top.device)
    {
        let partition = Partition { device: top.source.clone(), target: "/".into(), number };
        found.insert(top.source.clone(), partition);
    }
    found.into_values().collect()
}

fn number(device: &str) -> Option<(u64, u64)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reads the space on file systems, and what their devices have done. Blocks.
pub(in crate::stats) fn read(partitions: &[Partition], proc: &Path) -> Vec<Disk> {
    let text = std::fs::read_to_string(proc.join("diskstats")).unwrap_or_default();
    let counts: HashMap<(u64, u64), [u64; 11]> = parse::disk_counts(&text).collect();
    let disk = |partition: &Partition| {
        let usage = fs_usage(&partition.target).ok()?;
        let counts = counts.get(&partition.number).copied().unwrap_or_default();
        Some(Disk { device: partition.device.clone(), usage, counts })
    };
    partitions.iter().filter_map(disk).collect()
}

/// Returns the names of block devices and of file systems' devices, by their numbers. Blocks.
pub(in crate::stats) fn names(partitions: &[Partition], sys: &Path) -> HashMap<(u64, u64), String> {
    let mut names: HashMap<(u64, u64), String> =
        partitions.iter().map(|partition| (partition.number, partition.device.clone())).collect();
    for entry in std::fs::read_dir(sys.join("block")).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if ["loop", "ram", "sr"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        if let Some(number) = number(text.trim()) {
            names.insert(number, format!("/dev/{name}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::choose;
    use crate::linux::mount::parse_mountinfo;

    #[test]
    fn each_device_once_and_nothing_of_pods() {
        let text = b"1 0 254:0 / / rw - ext4 /dev/vda rw\n\
            2 1 0:5 / /proc rw - proc proc rw\n\
            3 1 0:6 / /dev/shm rw - tmpfs tmpfs rw\n\
            4 1 254:0 /x /mnt rw - ext4 /dev/vda rw\n\
            5 1 0:7 / /k/pods/u/volumes/v rw - tmpfs tmpfs rw\n\
            6 1 0:8 / /mnt/o rw - overlay overlay rw\n\
            7 1 0:9 / /run/containerd/x rw - overlay overlay rw\n";
        let found =
            choose(&parse_mountinfo(text), &[Path::new("/k/pods"), Path::new("/run/containerd")]);
        let devices: Vec<&str> = found.iter().map(|one| one.device.as_str()).collect();
        assert_eq!(devices, ["/dev/shm", "/dev/vda", "overlay_0-8"]);
        assert_eq!(found[1].target, Path::new("/"));
    }
}
