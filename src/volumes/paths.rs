//! Names the directories of pods on the node: upstream's layout, byte for byte. Pure.

use std::path::{Path, PathBuf};

use crate::model::{PodKey, PodUid};

/// The directory of the pods' logs unless `podLogsDir` sets another one.
pub const DEFAULT_POD_LOGS: &str = "/var/log/pods";

/// The name of the directory of a pod's ledger.
pub const LEDGER: &str = "volume-ledger";

/// The node's directories: the root (`/var/lib/kubelet`) and the pods' logs (`/var/log/pods`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The root directory.
    pub root: PathBuf,
    /// The directory of the pods' logs.
    pub pod_logs: PathBuf,
}

impl Paths {
    /// Sets the directories: `root`, and `pod_logs` for the logs.
    pub fn new(root: impl Into<PathBuf>, pod_logs: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), pod_logs: pod_logs.into() }
    }

    /// `ROOT/pods`.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// `ROOT/pods/UID` (0750).
    pub fn pod(&self, uid: &PodUid) -> PathBuf {
        self.pods().join(uid.as_str())
    }

    /// `ROOT/pods/UID/volumes` (0750).
    pub fn volumes(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// `ROOT/pods/UID/volumeDevices`.
    pub fn volume_devices(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volumeDevices")
    }

    /// `ROOT/pods/UID/volume-subpaths`.
    pub fn subpaths(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }

    /// `ROOT/pods/UID/volume-subpaths/VOLUME/CONTAINER/INDEX`: the place that a subPath is bound
    /// to. `index` counts the container's volumeMounts.
    pub fn subpath(&self, uid: &PodUid, volume: &str, container: &str, index: usize) -> PathBuf {
        self.subpaths(uid).join(volume).join(container).join(index.to_string())
    }

    /// `ROOT/pods/UID/plugins` (0750).
    pub fn pod_plugins(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("plugins")
    }

    /// `ROOT/pods/UID/containers/NAME` (0750): holds the termination message files.
    pub fn container(&self, uid: &PodUid, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }

    /// `ROOT/pods/UID/etc-hosts`.
    pub fn etc_hosts(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// `ROOT/plugins`: global mounts and sockets of volume plugins.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// `ROOT/plugins_registry`.
    pub fn plugins_registry(&self) -> PathBuf {
        self.root.join("plugins_registry")
    }

    /// `LOGS/NAMESPACE_NAME_UID` (0755): the pod's log directory, as the sandbox's request names
    /// it.
    pub fn pod_log(&self, key: &PodKey, uid: &PodUid) -> PathBuf {
        self.pod_logs.join(format!("{}_{}_{uid}", key.namespace, key.name))
    }

    /// `LOGS/NAMESPACE_NAME_UID/CONTAINER` (0755).
    pub fn container_log(&self, key: &PodKey, uid: &PodUid, container: &str) -> PathBuf {
        self.pod_log(key, uid).join(container)
    }

    /// The directory of a plugin's volume: `ROOT/pods/UID/volumes/kubernetes.io~PLUGIN/NAME`.
    pub fn plugin_volume(&self, uid: &PodUid, plugin: &str, name: &str) -> PathBuf {
        self.volumes(uid).join(escape(plugin)).join(name)
    }

    /// The link to a plugin's device: `ROOT/pods/UID/volumeDevices/kubernetes.io~PLUGIN/NAME`.
    pub fn plugin_device(&self, uid: &PodUid, plugin: &str, name: &str) -> PathBuf {
        self.volume_devices(uid).join(escape(plugin)).join(name)
    }

    /// `ROOT/pods/UID/volume-ledger` (0750): ours alone; upstream's kubelet removes it with the
    /// pod.
    pub fn ledger(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join(LEDGER)
    }

    /// `ROOT/pods/UID/plugins/kubernetes.io~empty-dir/NAME`: holds the `ready` file of an emptyDir,
    /// or, with the name `wrapped_NAME`, of the emptyDir that upstream wraps into a configMap,
    /// secret, downwardAPI or projected volume.
    pub fn ready_dir(&self, uid: &PodUid, name: &str) -> PathBuf {
        self.pod_plugins(uid).join("kubernetes.io~empty-dir").join(name)
    }
}

/// Returns a plugin's qualified name as a directory name: `kubernetes.io/secret` →
/// `kubernetes.io~secret`.
pub fn escape(plugin: &str) -> String {
    plugin.replace('/', "~")
}

/// Reverses [`escape`].
pub fn unescape(directory: &str) -> String {
    directory.replace('~', "/")
}

/// Returns true if a name may be one component of a path that is built from it.
pub fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && Path::new(name).is_relative()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Paths, is_component};
    use crate::model::{PodKey, PodUid};

    #[test]
    fn everything_lies_where_upstream_puts_it() {
        let paths = Paths::new("/k", "/l");
        let uid = PodUid::from("u1");
        let key = PodKey::new("ns", "web");
        assert_eq!(paths.pod_log(&key, &uid), Path::new("/l/ns_web_u1"));
        assert_eq!(paths.container_log(&key, &uid, "app"), Path::new("/l/ns_web_u1/app"));
        assert_eq!(
            paths.subpath(&uid, "v", "app", 2),
            Path::new("/k/pods/u1/volume-subpaths/v/app/2")
        );
        assert_eq!(
            paths.ready_dir(&uid, "wrapped_v"),
            Path::new("/k/pods/u1/plugins/kubernetes.io~empty-dir/wrapped_v")
        );
        assert_eq!(paths.etc_hosts(&uid), Path::new("/k/pods/u1/etc-hosts"));
        assert_eq!(paths.container(&uid, "app"), Path::new("/k/pods/u1/containers/app"));
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_no_components() {
        for bad in ["", ".", "..", "a/b", "/", "a\0"] {
            assert!(!is_component(bad), "{bad:?}");
        }
        assert!(is_component("..data") && is_component("a.b"));
    }
}
