//! What a node has that is not the pods': directories that pods are given (as hostPath, as local
//! persistent volumes), with files and mounts of others in them. Made for a case, looked at after
//! it, and taken away.

use anyhow::Result;
use rkubelet_bed::bed::{Bed, same};
use serde_json::{Value, json};

/// A directory of the node.
pub(crate) fn dir(bed: &Bed, name: &str) -> String {
    format!("/var/lib/kubelet/{name}-of-{}", bed.name)
}

/// The directories of one case: `host`, for all pods, and one of each pod's name behind a claim of
/// that name. `made` is one in which something is made for pods.
pub(crate) struct Foreign<'a> {
    bed: &'a Bed,
    /// Those which others use, too.
    used: Vec<&'a str>,
    pods: &'a [String],
}

/// The file which each directory and each mount in it has.
const KEPT: [&str; 3] = ["kept", "memory/kept", "bound/kept"];

impl<'a> Foreign<'a> {
    pub(crate) fn new(bed: &'a Bed, pods: &'a [String]) -> Self {
        Self { bed, used: pods.iter().map(String::as_str).chain(["host"]).collect(), pods }
    }

    /// Makes the directories, the volumes and the claims.
    pub(crate) async fn make(&self) -> Result<()> {
        let (bed, node) = (self.bed, &self.bed.cluster);
        let elsewhere = dir(bed, "elsewhere");
        for name in ["made", "elsewhere"] {
            std::fs::create_dir_all(node.on_node(&dir(bed, name)))?;
        }
        std::fs::write(node.on_node(&elsewhere).join("kept"), "kept")?;
        for name in &self.used {
            let dir = dir(bed, name);
            for name in ["memory", "bound"] {
                std::fs::create_dir_all(node.on_node(&dir).join(name))?;
            }
            node.node_exec(&["mount", "-t", "tmpfs", "theirs", &format!("{dir}/memory")]).await?;
            node.node_exec(&["mount", "--bind", &elsewhere, &format!("{dir}/bound")]).await?;
            std::fs::write(node.on_node(&dir).join("kept"), "kept")?;
            std::fs::write(node.on_node(&dir).join("memory/kept"), "kept")?;
        }
        for pod in self.pods {
            bed.create(&self.volume(pod).to_string()).await?;
            let spec = json!({
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": self.volume_name(pod),
                "resources": {"requests": {"storage": "1Gi"}},
            });
            let kind = "PersistentVolumeClaim";
            bed.create(
                &json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": pod}, "spec": spec})
                    .to_string(),
            )
            .await?;
        }
        for pod in self.pods {
            bed.until_kind("PersistentVolumeClaim", pod, &["status.phase=Bound"]).await?;
        }
        Ok(())
    }

    /// The name of the pod's persistent volume.
    fn volume_name(&self, pod: &str) -> String {
        format!("{}-{pod}", self.bed.name)
    }

    fn volume(&self, pod: &str) -> Value {
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]});
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.volume_name(pod)},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "claimRef": {"namespace": self.bed.name, "name": pod}, "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": dir(self.bed, pod)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        })
    }

    /// Nobody has touched them.
    pub(crate) fn is_kept(&self) -> Result<()> {
        for name in &self.used {
            let dir = self.bed.cluster.on_node(&dir(self.bed, name));
            for file in KEPT {
                let content = std::fs::read_to_string(dir.join(file))
                    .unwrap_or_else(|error| error.to_string());
                same(&format!("{file} of {name}"), content.as_str(), "kept")?;
            }
        }
        Ok(())
    }

    /// Takes them away.
    pub(crate) async fn remove(&self) -> Result<()> {
        let node = &self.bed.cluster;
        for name in &self.used {
            for mount in ["memory", "bound"] {
                node.node_exec(&["umount", &format!("{}/{mount}", dir(self.bed, name))]).await?;
            }
        }
        for name in self.used.iter().chain(&["made", "elsewhere"]) {
            std::fs::remove_dir_all(node.on_node(&dir(self.bed, name)))?;
        }
        for pod in self.pods {
            self.bed.delete_kind("PersistentVolume", &self.volume_name(pod)).await?;
        }
        Ok(())
    }
}
