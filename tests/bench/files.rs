//! A volume with a million files that a pod's `fsGroup` gets: a local PersistentVolume, its claim,
//! and the pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::node::{self, Node};
use crate::pods::{Bed, IMAGE, NAMESPACE};

const FOLDERS: usize = 1000;
const FILES_PER_FOLDER: usize = 1000;
/// Volume and claim.
const NAME: &str = "million";
/// Where it lies on the node.
const DIRECTORY: &str = "/srv/million";
/// The end of the wait: upstream takes a minute.
const PATIENCE: Duration = Duration::from_secs(600);

/// The volume; its files go with it.
pub(crate) struct Million {
    directory: PathBuf,
    group: u32,
}

impl Drop for Million {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("bench: {}: {error}", self.directory.display());
        }
    }
}

impl Million {
    /// Makes the files, the volume and its claim.
    pub(crate) async fn make(node: &Node, bed: &Bed) -> Result<Self> {
        let directory = node.path(DIRECTORY)?;
        eprintln!("making {} files in {}", FOLDERS * FILES_PER_FOLDER, directory.display());
        let this = Self { directory, group: 20_000 };
        let path = this.directory.clone();
        tokio::task::spawn_blocking(move || fill(&path))
            .await?
            .with_context(|| this.directory.display().to_string())?;
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": NAME},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain", "local": {"path": DIRECTORY},
                "claimRef": {"namespace": NAMESPACE, "name": NAME},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node::NAME]}]}]}},
            },
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": NAME},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": NAME,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        let force = PatchParams::apply("bench").force();
        let volumes: Api<PersistentVolume> = Api::all(bed.client.clone());
        volumes.patch(NAME, &force, &Patch::Apply(&volume)).await?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(bed.client.clone(), NAMESPACE);
        claims.patch(NAME, &force, &Patch::Apply(&claim)).await?;
        let until = Instant::now() + Duration::from_secs(60);
        while claims.get(NAME).await?.status.and_then(|status| status.phase).as_deref()
            != Some("Bound")
        {
            anyhow::ensure!(Instant::now() < until, "claim {NAME} is not bound after 60 s");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(this)
    }

    /// Starts a pod whose group nobody has had yet, and removes it: how long until it was Ready.
    pub(crate) async fn start(&mut self, bed: &Bed, name: &str) -> Result<Duration> {
        self.group += 1;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench"}},
            "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {"fsGroup": self.group, "fsGroupChangePolicy": "Always"},
                "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": NAME}}],
                "containers": [{
                    "name": "main", "image": IMAGE, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
            },
        }))?;
        let took = bed.start_pod(&pod, name, PATIENCE).await?;
        self.check()?;
        bed.remove(name).await?;
        Ok(took)
    }

    /// The last file of all has the group: what was timed was done.
    fn check(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let last =
            self.directory.join((FOLDERS - 1).to_string()).join((FILES_PER_FOLDER - 1).to_string());
        let group = fs::metadata(&last)?.gid();
        anyhow::ensure!(
            group == self.group,
            "{} belongs to group {group}, not {}",
            last.display(),
            self.group
        );
        Ok(())
    }
}

fn fill(directory: &Path) -> std::io::Result<()> {
    for folder in 0..FOLDERS {
        let folder = directory.join(folder.to_string());
        fs::create_dir_all(&folder)?;
        for file in 0..FILES_PER_FOLDER {
            fs::File::create(folder.join(file.to_string()))?;
        }
    }
    Ok(())
}
