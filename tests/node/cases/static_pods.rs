//! Pods from files on the node, and their mirrors.

use std::path::PathBuf;

use anyhow::Result;

use crate::bed::{Bed, grace, same};
use crate::look::text;
use crate::{Case, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        slow(written_changed_removed),
        slow(deleted_mirror_comes_back),
        case(written_again_it_counts_on),
        case(objects_of_the_api_are_not_for_static_pods),
        case(bad_file_does_no_harm),
    ]
}

/// A manifest on the node, removed when the case ends.
struct Manifest(PathBuf);

impl Manifest {
    fn of(bed: &Bed) -> Self {
        Self(bed.cluster.on_node(&format!("/etc/kubernetes/manifests/{}.yaml", bed.name)))
    }

    /// Writes it in one step, as an installer would.
    fn write(&self, bed: &Bed, marker: &str) -> Result<()> {
        let image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
        let draft = bed.cluster.on_node(&format!("/etc/kubernetes/{}.draft", bed.name));
        let pod = format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: fixed
  namespace: {}
  labels: {{marker: {marker}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - name: info
    downwardAPI:
      defaultMode: 0400 # octal, as all of YAML 1.1 has it
      items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]
  containers:
  - name: main
    image: {image}
    command: [sleep, '1000']
    volumeMounts: [{{name: info, mountPath: /info}}]
",
            bed.name
        );
        std::fs::write(&draft, pod)?;
        Ok(std::fs::rename(draft, &self.0)?)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        // It may be gone already: some cases remove it.
        std::fs::remove_file(&self.0).ok();
    }
}

async fn written_changed_removed(bed: Bed) -> Result<()> {
    let manifest = Manifest::of(&bed);
    manifest.write(&bed, "one")?;
    let first = bed
        .until(
            "fixed-n1",
            &[
                "cond[Ready]=True",
                "metadata.annotations[kubernetes.io/config.source]=file",
                "metadata.annotations[kubernetes.io/config.mirror]=?*",
                "metadata.annotations[kubernetes.io/config.hash]=?*",
                "metadata.annotations[kubernetes.io/config.seen]=?*",
                "metadata.ownerReferences[0].kind=Node",
                "metadata.ownerReferences[0].name=n1",
                "metadata.ownerReferences[0].controller=true",
                "metadata.labels.marker=one",
                "spec.nodeName=n1",
                "spec.tolerations[0].operator=Exists",
                "spec.tolerations[0].effect=NoExecute",
            ],
        )
        .await?;
    let hash = text(&first, "metadata.annotations[kubernetes.io/config.hash]");
    same(
        "the mirror's annotation",
        text(&first, "metadata.annotations[kubernetes.io/config.mirror]"),
        hash.clone(),
    )?;
    let seen = bed
        .exec("fixed-n1", "main", &["sh", "-c", "cat /info/name; stat -Lc ' %a' /info/name"])
        .await?;
    same("the file from the downward API", seen.as_str(), "fixed-n1 400\n")?;
    manifest.write(&bed, "two")?;
    let second = bed.until("fixed-n1", &["metadata.labels.marker=two", "cond[Ready]=True"]).await?;
    anyhow::ensure!(
        hash != text(&second, "metadata.annotations[kubernetes.io/config.hash]"),
        "one hash for two files"
    );
    drop(manifest);
    bed.until_gone("Pod", "fixed-n1").await
}

async fn written_again_it_counts_on(bed: Bed) -> Result<()> {
    let manifest = Manifest::of(&bed);
    manifest.write(&bed, "one")?;
    bed.until("fixed-n1", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    std::fs::remove_file(&manifest.0)?;
    manifest.write(&bed, "one")?;
    bed.until("fixed-n1", &["cond[Ready]=True", "c[main].restartCount=1"]).await?;
    drop(manifest);
    bed.until_gone("Pod", "fixed-n1").await
}

async fn deleted_mirror_comes_back(bed: Bed) -> Result<()> {
    let manifest = Manifest::of(&bed);
    manifest.write(&bed, "one")?;
    let first = bed.until("fixed-n1", &["cond[Ready]=True"]).await?;
    bed.api("Pod").delete("fixed-n1", &grace(0)).await?;
    bed.until_gone_from("Pod", "fixed-n1", Some(text(&first, "metadata.uid"))).await?;
    bed.until(
        "fixed-n1",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=0",
            &format!("c[main].containerID={}", text(&first, "c[main].containerID")),
        ],
    )
    .await?;
    drop(manifest);
    bed.until_gone("Pod", "fixed-n1").await
}

async fn objects_of_the_api_are_not_for_static_pods(bed: Bed) -> Result<()> {
    let path = bed.cluster.on_node(&format!("/etc/kubernetes/manifests/{}-refers.yaml", bed.name));
    let manifest = Manifest(path);
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "refers", "namespace": bed.name},
        "spec": {
            "volumes": [{"name": "map", "configMap": {"name": "kube-root-ca.crt"}}],
            "containers": [{"name": "main", "image": "busybox"}],
        },
    })
    .to_string();
    std::fs::write(&manifest.0, text)?;
    let end = tokio::time::Instant::now() + bed.patience;
    while !bed
        .cluster
        .kubelet_log("static pods may not reference configmaps", 1)
        .contains("refers.yaml")
    {
        anyhow::ensure!(
            tokio::time::Instant::now() < end,
            "the kubelet's log does not say why the pod is refused"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    anyhow::ensure!(bed.get("Pod", "refers-n1").await.is_err(), "it has a mirror");
    Ok(())
}

async fn bad_file_does_no_harm(bed: Bed) -> Result<()> {
    let bad =
        Manifest(bed.cluster.on_node(&format!("/etc/kubernetes/manifests/{}-bad.yaml", bed.name)));
    std::fs::write(&bad.0, "kind: [this is no pod")?;
    let manifest = Manifest::of(&bed);
    manifest.write(&bed, "one")?;
    bed.until("fixed-n1", &["cond[Ready]=True"]).await?;
    Ok(())
}
