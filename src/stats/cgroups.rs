//! All cgroups of one reading, and whose each is. Pure.

use std::collections::{BTreeMap, HashMap};

use super::read::parse::container_id;
use super::read::sample::CgroupUsage;
use crate::model::{PodKey, PodUid};
use crate::pleg::KnownPod;
use crate::resources::cgroup_names::CgroupTree;

/// One reading of the node's cgroups, by path.
#[derive(Clone, Debug, Default)]
pub struct CgroupsUsage {
    /// The cgroups, `/` first.
    pub by_path: BTreeMap<String, CgroupUsage>,
    /// The paths of those that the kubelet accounts for the node by.
    pub names: SystemNames,
}

impl CgroupsUsage {
    /// Returns the path of each container's and sandbox's cgroup, by the runtime's id.
    pub fn by_id(&self) -> HashMap<&str, &str> {
        let paths = self.by_path.keys();
        paths.filter_map(|path| Some((container_id(last(path))?, path.as_str()))).collect()
    }

    /// Returns the path of each pod's cgroup, by UID.
    pub fn by_pod(&self, tree: &CgroupTree) -> HashMap<PodUid, &str> {
        let paths = self.by_path.keys();
        let of = |path: &'_ String| tree.pod_uid_of_dir(last(path)).map(PodUid::from);
        paths.filter_map(|path| Some((of(path)?, path.as_str()))).collect()
    }
}

/// The cgroups of the node beside those of single pods. Empty: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemNames {
    /// The kubelet's own.
    pub kubelet: String,
    /// The runtime's.
    pub runtime: String,
    /// That of everything else.
    pub system: String,
    /// That of all pods.
    pub pods: String,
}

/// Whose a cgroup is, as the labels of cAdvisor's metrics say it. Empty where it is nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The pod.
    pub pod: Option<PodKey>,
    /// The container's name; empty for a sandbox and for a pod.
    pub container: String,
    /// The runtime's id; empty for a pod.
    pub id: String,
    /// The image; empty for a pod.
    pub image: String,
}

/// Returns the owner of each cgroup that has one, by path. `images` are those of sandboxes, by id.
pub(super) fn owners<'a>(
    cgroups: &'a CgroupsUsage,
    tree: &CgroupTree,
    known: &[KnownPod],
    images: &HashMap<String, String>,
) -> HashMap<&'a str, Owner> {
    let by_id = cgroups.by_id();
    let by_pod = cgroups.by_pod(tree);
    let mut owners = HashMap::new();
    for pod in known {
        let Some(key) = &pod.key else { continue };
        if let Some(path) = by_pod.get(&pod.uid) {
            owners.insert(*path, Owner { pod: Some(key.clone()), ..Owner::default() });
        }

        let observed = &pod.observation.pod;
        for sandbox in &observed.sandboxes {
            let id = sandbox.id.as_str();
            let Some(path) = by_id.get(id) else { continue };
            let image = images.get(id).cloned().unwrap_or_default();
            let id = id.to_owned();
            let owner = Owner { pod: Some(key.clone()), id, image, ..Owner::default() };
            owners.insert(*path, owner);
        }
        for container in &observed.containers {
            let id = container.id.as_str();
            let Some(path) = by_id.get(id) else { continue };
            let owner = Owner {
                pod: Some(key.clone()),
                container: container.name.clone(),
                id: id.to_owned(),
                image: container.image.clone(),
            };
            owners.insert(*path, owner);
        }
    }
    owners
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Returns the cgroup of a process, from `/proc/PID/cgroup`; empty if it does not say.
///
/// On cgroup v1 it is systemd's, or else the one that processor and memory have in common: upstream
/// accounts for no other.
pub fn own_cgroup(text: &str, is_v2: bool) -> String {
    let find = |wanted: &str| {
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == wanted).then_some(path)
        })
    };
    if is_v2 {
        return find("").unwrap_or_default().to_owned();
    }

    let (Some(cpu), Some(memory)) = (find("cpu"), find("memory")) else { return String::new() };
    if cpu != memory {
        return String::new();
    }
    find("name=systemd").unwrap_or(cpu).to_owned()
}

#[cfg(test)]
mod tests {
    use super::own_cgroup;

    #[test]
    fn the_kubelets_own_cgroup() {
        let old = "3:memory:/a\n2:cpu,cpuacct:/a\n1:name=systemd:/system.slice/k.service\n";
        assert_eq!(own_cgroup(old, false), "/system.slice/k.service");
        assert_eq!(own_cgroup("3:memory:/a\n2:cpu,cpuacct:/a\n0::/", false), "/a");
        assert_eq!(own_cgroup("3:memory:/a\n2:cpu,cpuacct:/b\n", false), "");
        assert_eq!(own_cgroup("0::/system.slice/k.service\n", true), "/system.slice/k.service");
        assert_eq!(own_cgroup("", true), "");
    }
}
