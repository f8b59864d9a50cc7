//! The names of cgroups: the node's root for pods, the QoS tiers, the pods; in the words of either
//! driver. Pure.
//!
//! ```text
//!   cgroupfs  /kubepods/burstable/pod1234-56
//!   systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_56.slice
//! ```

use std::fmt;

use super::qos::QosClass;

/// The cgroup below the configured root that holds all pods.
const NODE_ROOT: &str = "kubepods";
/// What the name of a pod's cgroup begins with.
const POD_PREFIX: &str = "pod";
/// What the name of a systemd slice ends with.
pub(super) const SLICE: &str = ".slice";

/// Who owns the tree of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The kubelet makes the directories.
    Cgroupfs,
    /// systemd: cgroups are slices.
    Systemd,
}

/// The parts of a cgroup's name from the top, in no driver's spelling. Empty: the top itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupName(Vec<String>);

impl CgroupName {
    /// Reads a path of the configuration such as `/` or `/custom/root`.
    pub fn parse_cgroupfs(path: &str) -> Self {
        Self(path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// Reads the configured name of a cgroup that the driver made: `/system`, `/system.slice`.
    pub fn parse(path: &str, driver: CgroupDriver) -> Self {
        match driver {
            CgroupDriver::Cgroupfs => Self::parse_cgroupfs(path),
            CgroupDriver::Systemd => {
                let unit = path.rsplit('/').next().unwrap_or_default();
                let name = unit.strip_suffix(SLICE).unwrap_or(unit);
                Self(name.split('-').map(|part| part.replace('_', "-")).collect())
            }
        }
    }

    /// The parts as Go quotes a list: `["kubepods" "burstable"]`.
    pub fn quoted(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|part| format!("{part:?}")).collect();
        format!("[{}]", parts.join(" "))
    }

    /// The cgroup of that name inside this one.
    #[must_use]
    pub fn child(&self, part: impl Into<String>) -> Self {
        let mut parts = self.0.clone();
        parts.push(part.into());
        Self(parts)
    }

    /// Whether this is the top.
    pub fn is_top(&self) -> bool {
        self.0.is_empty()
    }

    /// The path below the mount point, in the driver's words, with a leading `/`.
    pub fn path(&self, driver: CgroupDriver) -> String {
        match driver {
            CgroupDriver::Cgroupfs => format!("/{}", self.0.join("/")),
            CgroupDriver::Systemd => self.slices(),
        }
    }

    /// systemd nests slices by the dashes in their names, so each directory repeats the names above
    /// it; dashes in a part become underscores.
    fn slices(&self) -> String {
        let mut path = String::new();
        let mut prefix = String::new();
        for part in &self.0 {
            if !prefix.is_empty() {
                prefix.push('-');
            }
            prefix.push_str(&part.replace('-', "_"));
            path.push('/');
            path.push_str(&prefix);
            path.push_str(SLICE);
        }
        if path.is_empty() { "/".to_owned() } else { path }
    }
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupTree {
    top: CgroupName,
    driver: CgroupDriver,
    per_qos: bool,
}

impl CgroupTree {
    /// The tree below `cgroupRoot`, with QoS tiers if `cgroupsPerQOS`.
    pub fn new(cgroup_root: &str, driver: CgroupDriver, per_qos: bool) -> Self {
        Self { top: CgroupName::parse_cgroupfs(cgroup_root), driver, per_qos }
    }

    /// The driver.
    pub fn driver(&self) -> CgroupDriver {
        self.driver
    }

    /// Whether pods have cgroups of their own.
    pub fn per_qos(&self) -> bool {
        self.per_qos
    }

    /// `cgroupRoot` itself: it must exist, nothing above or beside it is touched.
    pub fn top(&self) -> &CgroupName {
        &self.top
    }

    /// What holds all pods (upstream's node allocatable root): `kubepods` below the top, or the top
    /// without QoS tiers.
    pub fn node(&self) -> CgroupName {
        if self.per_qos { self.top.child(NODE_ROOT) } else { self.top.clone() }
    }

    /// A QoS tier. Guaranteed pods live in the node's cgroup itself.
    pub fn tier(&self, class: QosClass) -> CgroupName {
        match class {
            QosClass::Guaranteed => self.node(),
            QosClass::Burstable | QosClass::BestEffort => {
                self.node().child(class.as_str().to_lowercase())
            }
        }
    }

    /// A pod's cgroup.
    pub fn pod(&self, class: QosClass, uid: &str) -> CgroupName {
        self.tier(class).child(format!("{POD_PREFIX}{uid}"))
    }

    /// Returns the pod's cgroup parent for CRI; empty if pods have no cgroups of their own.
    pub fn cgroup_parent(&self, class: QosClass, uid: &str) -> String {
        if self.per_qos { self.pod(class, uid).path(self.driver) } else { String::new() }
    }

    /// The pod whose cgroup a directory inside a tier is, if it is one.
    pub fn pod_uid_of_dir(&self, directory: &str) -> Option<String> {
        let part = match self.driver {
            CgroupDriver::Cgroupfs => directory.to_owned(),
            CgroupDriver::Systemd => {
                directory.strip_suffix(SLICE)?.rsplit('-').next()?.replace('_', "-")
            }
        };
        part.strip_prefix(POD_PREFIX)
            .filter(|uid| !uid.is_empty() && !uid.contains(POD_PREFIX))
            .map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::{CgroupDriver, CgroupTree, QosClass};

    #[track_caller]
    fn check(root: &str, driver: CgroupDriver, class: QosClass, expected: &str) {
        assert_eq!(CgroupTree::new(root, driver, true).cgroup_parent(class, "12-ab"), expected);
    }

    #[test]
    fn names_pods() {
        use CgroupDriver::{Cgroupfs, Systemd};
        check("/", Cgroupfs, QosClass::Guaranteed, "/kubepods/pod12-ab");
        check("", Cgroupfs, QosClass::Burstable, "/kubepods/burstable/pod12-ab");
        check("/a/b", Cgroupfs, QosClass::BestEffort, "/a/b/kubepods/besteffort/pod12-ab");
        check("/", Systemd, QosClass::Guaranteed, "/kubepods.slice/kubepods-pod12_ab.slice");
        check(
            "/",
            Systemd,
            QosClass::Burstable,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_ab.slice",
        );
        check(
            "/my-root",
            Systemd,
            QosClass::Guaranteed,
            "/my_root.slice/my_root-kubepods.slice/my_root-kubepods-pod12_ab.slice",
        );
    }

    #[test]
    fn without_tiers_there_is_no_parent() {
        let tree = CgroupTree::new("/x", CgroupDriver::Cgroupfs, false);
        assert_eq!(tree.cgroup_parent(QosClass::Burstable, "1"), "");
        assert_eq!(tree.node().path(CgroupDriver::Cgroupfs), "/x");
    }

    #[test]
    fn the_top_is_a_slash() {
        for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
            assert_eq!(CgroupTree::new("", driver, false).node().path(driver), "/");
        }
    }

    #[test]
    fn finds_pods_by_directory() {
        let of =
            |driver, directory: &str| CgroupTree::new("/", driver, true).pod_uid_of_dir(directory);
        assert_eq!(of(CgroupDriver::Cgroupfs, "pod12-ab").as_deref(), Some("12-ab"));
        assert_eq!(of(CgroupDriver::Cgroupfs, "burstable"), None);
        assert_eq!(of(CgroupDriver::Cgroupfs, "pod"), None);
        assert_eq!(
            of(CgroupDriver::Systemd, "kubepods-burstable-pod12_ab.slice").as_deref(),
            Some("12-ab")
        );
        assert_eq!(of(CgroupDriver::Systemd, "kubepods-burstable.slice"), None);
        assert_eq!(of(CgroupDriver::Systemd, "cri-containerd-12.scope"), None);
    }
}
