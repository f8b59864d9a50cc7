//! Finds the cgroup hierarchies in `/proc/self/mountinfo`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// The mount point of cgroup v2 where it is the only hierarchy.
const UNIFIED: &str = "/sys/fs/cgroup";

/// The mount point of cgroup v2 beside v1. It limits nothing there, but runtimes also create each
/// container's cgroup in it.
pub(super) const HYBRID: &str = "/sys/fs/cgroup/unified";
/// The name of that mount among the hierarchies.
const HYBRID_NAME: &str = "unified";

/// The controllers of cgroup v1, plus systemd's own hierarchy.
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy for all controllers.
    V2(PathBuf),
    /// The mount point of each controller; several may share one. Hybrid mounts (v2 beside v1)
    /// count as this.
    V1(BTreeMap<String, PathBuf>),
}

impl Layout {
    /// Reads the layout from the text of `/proc/self/mountinfo`.
    pub fn parse(mountinfo: &str) -> Result<Self, CgroupError> {
        let mut v1: BTreeMap<String, PathBuf> = BTreeMap::new();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            match mount.kind {
                "cgroup2" if mount.point == UNIFIED => return Ok(Self::V2(PathBuf::from(UNIFIED))),
                "cgroup2" if mount.point == HYBRID => {
                    v1.insert(HYBRID_NAME.to_owned(), PathBuf::from(HYBRID));
                }
                "cgroup" => {
                    for controller in mount.options.split(',').filter_map(controller_of_option) {
                        let point = PathBuf::from(mount.point);
                        v1.entry(controller.to_owned())
                            .and_modify(|old| {
                                if point.as_os_str().len() < old.as_os_str().len() {
                                    old.clone_from(&point);
                                }
                            })
                            .or_insert(point);
                    }
                }
                _ => {}
            }
        }

        if v1.is_empty() { Err(CgroupError::NotMounted) } else { Ok(Self::V1(v1)) }
    }

    /// Reads the layout of this machine. Blocks.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path)
            .map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Returns the version, 1 or 2.
    pub fn version(&self) -> u8 {
        match self {
            Self::V1(_) => 1,
            Self::V2(_) => 2,
        }
    }

    /// Returns the mount points, each once.
    pub fn mounts(&self) -> Vec<&Path> {
        match self {
            Self::V2(root) => vec![root],
            Self::V1(controllers) => {
                let mut points: Vec<&Path> = controllers.values().map(PathBuf::as_path).collect();
                points.sort_unstable();
                points.dedup();
                points
            }
        }
    }
}

struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Parses a line, e.g. `36 35 98:0 / /mnt rw master:1 - cgroup cgroup rw,cpu,cpuacct`.
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some(Self { point: before.split(' ').nth(4)?, kind: after.next()?, options: after.nth(1)? })
    }
}

fn controller_of_option(option: &str) -> Option<&str> {
    match option.strip_prefix("name=") {
        Some("systemd") => Some("systemd"),
        Some(_) => None,
        None => V1_CONTROLLERS.into_iter().find(|known| *known == option),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::Layout;

    #[test]
    fn unified() {
        let text = "24 1 0:21 / /sys rw - sysfs sysfs rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Layout::parse(text).expect("a layout"), Layout::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn separate_with_an_empty_v2_beside() {
        let text = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs ro\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            34 30 0:28 / /run/long/mount/of/memory rw - cgroup cgroup rw,memory\n\
            35 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let layout = Layout::parse(text).expect("a layout");
        assert_eq!(layout.version(), 1);
        let Layout::V1(controllers) = &layout else { panic!("v1 expected") };
        assert_eq!(
            controllers.keys().collect::<Vec<_>>(),
            ["cpu", "cpuacct", "memory", "systemd", "unified"]
        );
        assert_eq!(controllers["memory"], PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(layout.mounts().len(), 4, "what runtimes make beside v1 has to go as well");
    }

    #[test]
    fn nothing_mounted() {
        assert!(Layout::parse("24 1 0:21 / /sys rw - sysfs sysfs rw").is_err());
    }
}
