//! Persistent volumes of the node, generic ephemeral volumes and image volumes: mounted, shared,
//! refused, left alone.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::bed::{Bed, has_line, same, shows};
use crate::look::text;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(local_volume_is_mounted_shared_and_kept),
        case(local_volume_is_given_to_the_group_once),
        case(local_volume_read_only_with_a_sub_path),
        case(host_path_volume_behind_a_claim),
        case(generic_ephemeral_volume_belongs_to_its_pod),
        case(claim_that_is_missing_is_named_then_mounted),
        case(volume_of_another_node_is_refused),
        case(volume_without_its_directory_is_named),
        case(resource_claim_holds_its_pod),
        case(image_volume),
        case(image_volume_that_cannot_be_pulled),
    ]
}

/// The node's directory of a volume that a case makes.
fn disk(bed: &Bed) -> (String, PathBuf) {
    let path = format!("/var/lib/kubelet/disk-{}", bed.name);
    let seen = bed.cluster.on_node(&path);
    (path, seen)
}

/// A volume whose `spec` is given, bound to the claim `data` of the case's namespace.
pub(crate) async fn bind(bed: &Bed, source: &str) -> Result<()> {
    bind_as(bed, "data", source).await
}

async fn bind_as(bed: &Bed, claim: &str, source: &str) -> Result<()> {
    let name = format!("{}-{claim}", bed.name);
    bed.create(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: '', claimRef: {{namespace: {}, name: {claim}}}, persistentVolumeReclaimPolicy: Retain, {source}}}}}",
        bed.name
    ))
    .await?;
    Ok(())
}

pub(crate) async fn claim(bed: &Bed, claim: &str) -> Result<()> {
    bed.create(&format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {claim}}}, spec: {{accessModes: [ReadWriteOnce], storageClassName: '', volumeName: {}-{claim}, resources: {{requests: {{storage: 1Gi}}}}}}}}",
        bed.name
    ))
    .await?;
    bed.until_kind("PersistentVolumeClaim", claim, &["status.phase=Bound"]).await?;
    Ok(())
}

/// A local volume on this node.
pub(crate) fn local(path: &str, node: &str) -> String {
    format!(
        "local: {{path: {path}}}, nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}"
    )
}

async fn delete_volume(bed: &Bed) -> Result<()> {
    bed.kubectl(&["delete", "pv", &format!("{}-data", bed.name), "--wait=false"]).await.map(drop)
}

async fn local_volume_is_mounted_shared_and_kept(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(&seen)?;
    bind(&bed, &local(&path, "n1")).await?;
    claim(&bed, "data").await?;
    let spec = |argv: &str| {
        format!(
            "
nodeName: n1
terminationGracePeriodSeconds: 1
volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]
containers: [{{name: main, image: busybox, command: [sh, -c, '{argv}'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
"
        )
    };
    bed.pod("first", &spec("echo one > /v/note; sleep 1000")).await?;
    bed.pod("second", &spec("until cat /v/note; do sleep 1; done; sleep 1000")).await?;
    let first = bed.until("first", &["cond[Ready]=True"]).await?;
    bed.until("second", &["cond[Ready]=True"]).await?;
    bed.until_logged("second", "main", "one").await?;
    let place = format!(
        "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~local-volume/{}-data",
        text(&first, "metadata.uid"),
        bed.name
    );
    let place = bed.cluster.on_node(&place);
    ensure!(place.join("note").exists(), "the volume is not bound to {}", place.display());
    bed.delete("first", None).await?;
    bed.until_gone("Pod", "first").await?;
    ensure!(!place.exists(), "{} is still there", place.display());
    same(
        "the other pod's view",
        bed.exec("second", "main", &["cat", "/v/note"]).await?.as_str(),
        "one\n",
    )?;
    bed.delete("second", None).await?;
    bed.until_gone("Pod", "second").await?;
    same("what is kept", std::fs::read_to_string(seen.join("note"))?.as_str(), "one\n")?;
    delete_volume(&bed).await
}

/// Waits until no pod has the directory. A pod that has ended is deleted from the API at once,
/// before its volumes go; and a volume that another pod has is not given to a group again.
async fn until_unmounted(bed: &Bed, path: &str) -> Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let mounts = bed.cluster.node_exec(&["cat", "/proc/self/mountinfo"]).await?;
        // What is mounted is told by its path in its file system, which is not the node's.
        let name = path.rsplit('/').next().unwrap_or_default();
        if !mounts
            .lines()
            .any(|line| line.split(' ').nth(3).is_some_and(|root| root.ends_with(name)))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("{path} is still mounted after a minute")
}

async fn local_volume_is_given_to_the_group_once(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(seen.join("deep/er"))?;
    std::fs::write(seen.join("deep/er/file"), "x")?;
    std::fs::set_permissions(seen.join("deep/er/file"), std::fs::Permissions::from_mode(0o600))?;
    bind(&bed, &local(&path, "n1")).await?;
    claim(&bed, "data").await?;
    let spec = |policy: &str| {
        format!("
nodeName: n1
restartPolicy: Never
securityContext: {{runAsUser: 1000, fsGroup: 2345, fsGroupChangePolicy: {policy}}}
volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]
containers: [{{name: main, image: busybox, command: [sh, -c, 'cat /v/deep/er/file; stat -c %a-%g /v /v/deep/er/file; id -G'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
")
    };
    bed.pod("p", &spec("OnRootMismatch")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let log = bed.logs("p", "main").await?;
    for line in ["x2775-2345", "660-2345", "*2345*"] {
        has_line("the log", &log, line)?;
    }
    // The root is right, so nothing below is looked at.
    std::fs::set_permissions(seen.join("deep/er/file"), std::fs::Permissions::from_mode(0o640))?;
    bed.delete("p", None).await?;
    until_unmounted(&bed, &path).await?;
    bed.pod("again", &spec("OnRootMismatch")).await?;
    bed.until("again", &["phase=Succeeded"]).await?;
    same(
        "the mode of a file below a right root",
        std::fs::metadata(seen.join("deep/er/file"))?.mode() & 0o777,
        0o640,
    )?;
    bed.delete("again", None).await?;
    until_unmounted(&bed, &path).await?;
    bed.pod("always", &spec("Always")).await?;
    bed.until("always", &["phase=Succeeded"]).await?;
    same(
        "the mode after Always",
        std::fs::metadata(seen.join("deep/er/file"))?.mode() & 0o777,
        0o660,
    )?;
    delete_volume(&bed).await
}

async fn local_volume_read_only_with_a_sub_path(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(seen.join("part"))?;
    std::fs::write(seen.join("part/file"), "inside")?;
    bind(&bed, &local(&path, "n1")).await?;
    claim(&bed, "data").await?;
    let spec = "
nodeName: n1
restartPolicy: Never
volumes: [{name: v, persistentVolumeClaim: {claimName: data, readOnly: true}}]
containers: [{name: main, image: busybox, command: [sh, -c, 'cat /v/file; touch /v/x 2>&1 || echo \" refused\"'], volumeMounts: [{name: v, mountPath: /v, subPath: part}]}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let log = bed.logs("p", "main").await?;
    has_line("the log", &log, "inside*Read-only file system")?;
    has_line("the log", &log, " refused")?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    ensure!(seen.join("part/file").exists(), "the volume's file is gone");
    delete_volume(&bed).await
}

async fn host_path_volume_behind_a_claim(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    bind(&bed, &format!("hostPath: {{path: {path}, type: DirectoryOrCreate}}")).await?;
    claim(&bed, "data").await?;
    let spec = "
nodeName: n1
restartPolicy: Never
volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
containers: [{name: main, image: busybox, command: [sh, -c, 'echo here > /v/note'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    same("the note", std::fs::read_to_string(seen.join("note"))?.as_str(), "here\n")?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    ensure!(seen.join("note").exists(), "the volume's file is gone");
    delete_volume(&bed).await
}

async fn generic_ephemeral_volume_belongs_to_its_pod(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(&seen)?;
    bind_as(&bed, "p-v", &local(&path, "n1")).await?;
    bind_as(&bed, "taken-v", &local(&path, "n1")).await?;
    // Somebody else's claim of the name that the second pod's would have.
    claim(&bed, "taken-v").await?;
    let spec = |volume: &str| {
        format!("
nodeName: n1
restartPolicy: Never
volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce], storageClassName: '', volumeName: {}-{volume}, resources: {{requests: {{storage: 1Gi}}}}}}}}}}}}]
containers: [{{name: main, image: busybox, command: [sh, -c, 'echo here > /v/note'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
", bed.name)
    };
    bed.pod("p", &spec("p-v")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    ensure!(seen.join("note").exists(), "nothing was written");
    bed.pod("taken", &spec("taken-v")).await?;
    let message = format!(
        "*failed to process volumes=[v]: PVC {0}/taken-v was not created for pod {0}/taken (pod is not owner)",
        bed.name
    );
    bed.event("taken", "FailedMount", &message).await?;
    for volume in ["p-v", "taken-v"] {
        bed.kubectl(&["delete", "pv", &format!("{}-{volume}", bed.name), "--wait=false"]).await?;
    }
    Ok(())
}

async fn claim_that_is_missing_is_named_then_mounted(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(&seen)?;
    let spec = "
nodeName: n1
volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    let message = format!(
        "Unable to attach or mount volumes: unmounted volumes=[v *], unattached volumes=[], failed to process volumes=[v]: error processing PVC {}/data: failed to fetch PVC from API server: *",
        bed.name
    );
    let message = message.replace("[v *]", "[*v*]");
    shows(&bed.event("p", "FailedMount", &message).await?, &["type=Warning"])?;
    bind(&bed, &local(&path, "n1")).await?;
    claim(&bed, "data").await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    delete_volume(&bed).await
}

async fn volume_of_another_node_is_refused(bed: Bed) -> Result<()> {
    let (path, seen) = disk(&bed);
    std::fs::create_dir_all(&seen)?;
    bind(&bed, &local(&path, "elsewhere")).await?;
    claim(&bed, "data").await?;
    let spec = "
nodeName: n1
volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    let message = format!(
        "MountVolume.NodeAffinity check failed for volume \"{}-data\" : no matching NodeSelectorTerms",
        bed.name
    );
    bed.event("p", "FailedMount", &message).await?;
    delete_volume(&bed).await
}

async fn volume_without_its_directory_is_named(bed: Bed) -> Result<()> {
    let (path, _) = disk(&bed);
    bind(&bed, &local(&path, "n1")).await?;
    claim(&bed, "data").await?;
    let spec = "
nodeName: n1
volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    let message = format!(
        "MountVolume.NewMounter initialization failed for volume \"{}-data\" : path \"{path}\" does not exist",
        bed.name
    );
    bed.event("p", "FailedMount", &message).await?;
    delete_volume(&bed).await
}

/// A pod does not start without what it claims: no driver has prepared it.
async fn resource_claim_holds_its_pod(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: gpu}, spec: {devices: {requests: [{name: r, exactly: {deviceClassName: none.example.com}}]}}}")
        .await?;
    let spec = "
nodeName: n1
resourceClaims: [{name: gpu, resourceClaimName: gpu}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], resources: {claims: [{name: gpu}]}}]
";
    bed.pod("p", spec).await?;
    bed.event("p", "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: prepare dynamic resources: pod p (*) is not allowed to use ResourceClaim gpu (*)").await?;
    bed.until("p", &["phase=Pending", "c[main].state.waiting.reason=ContainerCreating"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await
}

async fn image_volume(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
volumes: [{name: v, image: {reference: 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1', pullPolicy: IfNotPresent}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'test -x /v/bin/busybox && test -x /bin-of-it/busybox && echo found; touch /v/x 2>&1 || echo refused']
  volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /bin-of-it, subPath: bin}]
";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["phase=Succeeded"]).await?;
    let log = bed.logs("p", "main").await?;
    has_line("the log", &log, "found")?;
    has_line("the log", &log, "refused")?;
    shows(&pod, &["c[main].volumeMounts.0.name=v", "c[main].volumeMounts.0.mountPath=/v"])
}

async fn image_volume_that_cannot_be_pulled(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: v, image: {reference: 'registry.invalid/none:1', pullPolicy: Never}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].state.waiting.reason=ErrImageNeverPull"]).await?;
    bed.event("p", "Failed", "Error: ErrImageNeverPull").await?;
    bed.event(
        "p",
        "ErrImageNeverPull",
        "Container image \"registry.invalid/none:1\" is not present with pull policy of Never",
    )
    .await?;
    Ok(())
}
