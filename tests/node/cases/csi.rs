//! Volumes of CSI drivers: registered, attached, staged once, published, let go; through faults and
//! kills. The driver is a process on the node (`tests/csi`) that records every request.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rkubelet_csi_driver::{Fault, write_faults};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::bed::{Bed, same};
use crate::look::text;
use crate::{Case, beyond};

/// The argument that makes this program the driver.
pub(crate) const DRIVER: &str = "csi-driver";
/// gRPC's code of an internal error.
const INTERNAL: i32 = 13;

/// Waits until an expression is true, which may await.
macro_rules! until {
    ($what:expr, $is_so:expr) => {{
        let deadline = Instant::now() + Duration::from_secs(90);
        while !$is_so {
            ensure!(Instant::now() < deadline, "not so after 90 s: {}", $what);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }};
}

/// Not for upstream's kubelet yet: its GetInfo fails at this driver's server, before any volume.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        beyond(claim_of_a_driver_is_mounted_shared_and_let_go),
        beyond(inline_volume_of_a_driver_knows_its_pod),
        beyond(volume_of_a_driver_that_comes_later),
        beyond(volume_of_a_driver_is_given_to_the_group),
        beyond(driver_that_takes_the_group_is_given_it),
        beyond(failures_of_a_driver_are_told_then_over),
        beyond(driver_that_is_slow_holds_up_no_other_volume),
        beyond(volume_of_a_driver_is_attached_first),
    ]
}

/// Cases that kill the kubelet.
pub(crate) fn alone() -> Vec<Case> {
    vec![
        beyond(killed_between_staging_and_publishing_and_while_the_pod_runs),
        beyond(volume_that_no_pod_uses_is_unstaged_after_a_restart),
    ]
}

/// A driver that runs on the node.
struct Driver {
    name: String,
    folder: PathBuf,
    child: Child,
}

impl Driver {
    /// Starts a driver of the case's own, and waits until the node has it.
    async fn start(bed: &Bed, capabilities: &str) -> Result<Self> {
        let driver = Self::spawn(bed, capabilities)?;
        let what = format!("driver {} in the CSINode", driver.name);
        until!(&what, {
            let node = bed.get("CSINode", "n1").await?;
            entry(&node, &driver.name).is_some()
        });
        Ok(driver)
    }

    fn spawn(bed: &Bed, capabilities: &str) -> Result<Self> {
        let name = driver_name(bed);
        // The machine's /tmp is the node's.
        let folder = PathBuf::from(format!("/tmp/rkubelet-{name}"));
        std::fs::create_dir_all(&folder)?;
        let child = Command::new("nsenter")
            .args(["--target", bed.cluster.env("NODE_N1_PID"), "--mount", "--"])
            .arg(std::env::current_exe()?)
            .args([DRIVER, "--name", &name, "--node-id", "node-1", "--limit", "9"])
            .args(["--capabilities", capabilities])
            .args(["--topology", &format!("{name}/zone=a"), "--folder"])
            .arg(&folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the driver")?;
        Ok(Self { name, folder, child })
    }

    /// The requests of one kind, in order.
    fn requests(&self, call: &str) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("requests")).unwrap_or_default();
        let mut found = Vec::new();
        // The last line may be in the middle of its write.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: Value = serde_json::from_str(line)?;
            if line["call"] == call {
                found.push(line["request"].clone());
            }
        }
        Ok(found)
    }

    async fn until_asked(&self, call: &str, times: usize) -> Result<()> {
        let what = format!("{times} requests {call}");
        until!(&what, self.requests(call)?.len() >= times);
        Ok(())
    }

    fn faults(&self, faults: &[Fault]) -> Result<()> {
        Ok(write_faults(&self.folder, faults)?)
    }

    /// Stops the driver as a pod's end does, and removes its objects and its folder.
    async fn stop(mut self, bed: &Bed) -> Result<()> {
        let id = self.child.id().context("the driver has ended")?;
        let id = nix::unistd::Pid::from_raw(i32::try_from(id)?);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?;
        let ended = self.child.wait().await?;
        ensure!(ended.success(), "the driver has ended with {ended}");
        until!("the driver has left the CSINode", {
            let node = bed.get("CSINode", "n1").await?;
            entry(&node, &self.name).is_none()
        });
        bed.kubectl(&["delete", "csidriver", &self.name, "--ignore-not-found"]).await?;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

fn driver_name(bed: &Bed) -> String {
    format!("{}.csi.example.com", bed.name)
}

/// A driver's entry of the CSINode.
fn entry<'a>(csi_node: &'a Value, driver: &str) -> Option<&'a Value> {
    csi_node["spec"]["drivers"].as_array()?.iter().find(|entry| entry["name"] == driver)
}

/// The driver's object, with this spec.
async fn object(bed: &Bed, spec: &str) -> Result<()> {
    let name = driver_name(bed);
    bed.create(&format!(
        "{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
    ))
    .await?;
    Ok(())
}

/// A volume of the driver, bound to a claim of the case's namespace. Both have the claim's name.
async fn claimed(bed: &Bed, claim: &str, more: &str) -> Result<()> {
    let (driver, namespace) = (driver_name(bed), &bed.name);
    bed.create(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {namespace}-{claim}}}, spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: '', persistentVolumeReclaimPolicy: Retain, mountOptions: [noatime], claimRef: {{namespace: {namespace}, name: {claim}}}, csi: {{driver: {driver}, volumeHandle: handle-{claim}, fsType: ext4, volumeAttributes: {{tier: gold}}{more}}}}}}}"
    ))
    .await?;
    bed.create(&format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {claim}}}, spec: {{accessModes: [ReadWriteOnce], storageClassName: '', volumeName: {namespace}-{claim}, resources: {{requests: {{storage: 1Gi}}}}}}}}"
    ))
    .await?;
    bed.until_kind("PersistentVolumeClaim", claim, &["status.phase=Bound"]).await?;
    Ok(())
}

fn user(claim: &str, more: &str, argv: &str) -> String {
    format!(
        "
nodeName: n1
terminationGracePeriodSeconds: 1
{more}
volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]
containers: [{{name: main, image: busybox, command: [sh, -c, '{argv}'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
"
    )
}

/// What the node has mounted whose place names `what`.
fn mounted(bed: &Bed, what: &str) -> Result<Vec<String>> {
    let mounts =
        std::fs::read_to_string(format!("/proc/{}/mountinfo", bed.cluster.env("NODE_N1_PID")))?;
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(targets.filter(|target| target.contains(what)).map(str::to_owned).collect())
}

/// Waits until nothing of the driver's volumes is mounted or lies on the node.
async fn until_nothing_is_left(bed: &Bed, driver: &Driver, uids: &[&str]) -> Result<()> {
    let stages = format!("/var/lib/kubelet/plugins/kubernetes.io/csi/{}", driver.name);
    let seen = bed.cluster.on_node(&stages);
    until!("nothing of the driver's volumes is left", {
        let entries = std::fs::read_dir(&seen).map_or(0, Iterator::count);
        let mut left = entries > 0 || !mounted(bed, &stages)?.is_empty();
        for uid in uids {
            let pod = bed.cluster.on_node(&format!("/var/lib/kubelet/pods/{uid}"));
            left |= pod.exists() || !mounted(bed, uid)?.is_empty();
        }
        !left
    });
    Ok(())
}

async fn delete_volumes(bed: &Bed, claims: &[&str]) -> Result<()> {
    for claim in claims {
        let name = format!("{}-{claim}", bed.name);
        bed.kubectl(&["delete", "pv", &name, "--wait=false"]).await?;
    }
    Ok(())
}

fn volume_dir(uid: &str, name: &str) -> String {
    format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{name}")
}

async fn claim_of_a_driver_is_mounted_shared_and_let_go(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false, podInfoOnMount: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    let node = bed.get("CSINode", "n1").await?;
    let shown = entry(&node, &driver.name).cloned().unwrap_or_default();
    let zone = format!("{}/zone", driver.name);
    let expected = json!({"name": driver.name, "nodeID": "node-1", "topologyKeys": [zone], "allocatable": {"count": 9}});
    same("the driver in the CSINode", shown, expected)?;
    let node = bed.get("Node", "n1").await?;
    same("the label of the topology", node["metadata"]["labels"][&zone].clone(), json!("a"))?;
    let ids = node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"].clone();
    let ids: Value = serde_json::from_str(ids.as_str().unwrap_or_default())?;
    same("the node's id", ids[&driver.name].clone(), json!("node-1"))?;

    let reference = format!("{{name: keys, namespace: {}}}", bed.name);
    bed.create("{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {user: me}}")
        .await?;
    let secrets = format!(", nodeStageSecretRef: {reference}, nodePublishSecretRef: {reference}");
    claimed(&bed, "data", &secrets).await?;
    let first = bed.pod("first", &user("data", "", "echo one > /v/note; sleep 1000")).await?;
    let second = "until cat /v/note; do sleep 1; done; sleep 1000";
    let second = bed.pod("second", &user("data", "", second)).await?;
    bed.until("first", &["cond[Ready]=True"]).await?;
    bed.until("second", &["cond[Ready]=True"]).await?;
    bed.until_logged("second", "main", "one").await?;

    let pv = format!("{}-data", bed.name);
    let (first, second) = (text(&first, "metadata.uid"), text(&second, "metadata.uid"));
    let stages = driver.requests("NodeStageVolume")?;
    same("the number of stages", stages.len(), 1)?;
    let stage = text(&stages[0], "staging_target_path");
    let mount = json!({"access_mode": "SINGLE_NODE_WRITER",
        "access": {"fs_type": "ext4", "mount_flags": ["noatime"], "volume_mount_group": ""}});
    let expected = json!({"volume_id": "handle-data", "publish_context": {},
        "staging_target_path": stage, "volume_capability": mount, "secrets": {"user": "me"},
        "volume_context": {"tier": "gold"}});
    same("the request to stage", stages[0].clone(), expected)?;
    ensure!(
        stage.starts_with(&format!("/var/lib/kubelet/plugins/kubernetes.io/csi/{}/", driver.name))
            && stage.ends_with("/globalmount"),
        "it is staged at {stage}"
    );
    let publications = driver.requests("NodePublishVolume")?;
    let target = format!("{}/mount", volume_dir(&first, &pv));
    let published = publications.iter().find(|request| request["target_path"] == target.as_str());
    let expected = json!({"volume_id": "handle-data", "publish_context": {},
        "staging_target_path": stage, "target_path": target, "volume_capability": mount,
        "readonly": false, "secrets": {"user": "me"}, "volume_context": {"tier": "gold"}});
    same("the request to publish", published.cloned(), Some(expected))?;
    let file = format!("{}/vol_data.json", volume_dir(&first, &pv));
    let data = std::fs::read_to_string(bed.cluster.on_node(&file))?;
    let fields: Value = serde_json::from_str(&data)?;
    let attachment = text(&fields, "attachmentID");
    let expected = format!(
        "{{\"attachmentID\":\"{attachment}\",\"driverName\":\"{}\",\"nodeName\":\"n1\",\"specVolID\":\"{pv}\",\"volumeHandle\":\"handle-data\",\"volumeLifecycleMode\":\"Persistent\"}}\n",
        driver.name
    );
    same("vol_data.json", data, expected)?;

    bed.delete("first", None).await?;
    bed.until_gone("Pod", "first").await?;
    driver.until_asked("NodeUnpublishVolume", 1).await?;
    same(
        "the other pod's view",
        bed.exec("second", "main", &["cat", "/v/note"]).await?.as_str(),
        "one\n",
    )?;
    same("volumes unstaged", driver.requests("NodeUnstageVolume")?.len(), 0)?;
    bed.delete("second", None).await?;
    bed.until_gone("Pod", "second").await?;
    until_nothing_is_left(&bed, &driver, &[&first, &second]).await?;
    let unstaged = driver.requests("NodeUnstageVolume")?;
    let expected = json!({"volume_id": "handle-data", "staging_target_path": stage});
    same("the request to unstage", unstaged.first().cloned(), Some(expected))?;
    let kept = driver.folder.join("volumes/handle-data/note");
    same("what is kept", std::fs::read_to_string(kept)?.as_str(), "one\n")?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn inline_volume_of_a_driver_knows_its_pod(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{audience: store}], requiresRepublish: true").await?;
    let driver = Driver::start(&bed, "stage").await?;
    bed.create("{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {user: me}}")
        .await?;
    let spec = format!(
        "
nodeName: n1
terminationGracePeriodSeconds: 1
volumes: [{{name: v, csi: {{driver: {}, readOnly: true, fsType: ext4, volumeAttributes: {{tier: gold}}, nodePublishSecretRef: {{name: keys}}}}}}]
containers: [{{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
",
        driver.name
    );
    let pod = bed.pod("p", &spec).await?;
    let uid = text(&pod, "metadata.uid");
    bed.until("p", &["cond[Ready]=True"]).await?;
    let mut request = driver.requests("NodePublishVolume")?.first().cloned().unwrap_or_default();
    let context = request["volume_context"].as_object_mut().context("a context")?;
    let tokens = context.remove("csi.storage.k8s.io/serviceAccount.tokens").unwrap_or_default();
    let tokens: Value = serde_json::from_str(tokens.as_str().unwrap_or_default())?;
    let token = &tokens["store"];
    ensure!(
        text(token, "token").split('.').count() == 3
            && text(token, "expirationTimestamp").ends_with('Z'),
        "the pod's tokens have the fields {:?}",
        token.as_object().map(|fields| fields.keys().collect::<Vec<_>>())
    );
    let handle = text(&request, "volume_id");
    ensure!(handle.starts_with("csi-") && handle.len() == 68, "its handle is {handle}");
    let target = format!("{}/mount", volume_dir(&uid, "v"));
    let expected = json!({"volume_id": handle, "publish_context": {}, "staging_target_path": "",
        "target_path": target, "readonly": true, "secrets": {"user": "me"},
        "volume_capability": {"access_mode": "SINGLE_NODE_WRITER",
            "access": {"fs_type": "ext4", "mount_flags": [], "volume_mount_group": ""}},
        "volume_context": {"tier": "gold", "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": "p", "csi.storage.k8s.io/pod.namespace": bed.name,
            "csi.storage.k8s.io/pod.uid": uid, "csi.storage.k8s.io/serviceAccount.name": "default"}});
    same("the request to publish", request, expected)?;
    same("volumes staged", driver.requests("NodeStageVolume")?.len(), 0)?;
    let denied = bed.exec("p", "main", &["touch", "/v/x"]).await;
    ensure!(denied.is_err(), "a read-only volume is written to");
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&uid]).await?;
    driver.stop(&bed).await
}

async fn volume_of_a_driver_that_comes_later(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    claimed(&bed, "data", "").await?;
    let pod = bed.pod("p", &user("data", "", "sleep 1000")).await?;
    let name = driver_name(&bed);
    let message = format!(
        "MountVolume.MountDevice failed for volume \"{}-data\" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name {name} not found in the list of registered CSI drivers",
        bed.name
    );
    bed.event("p", "FailedMount", &message).await?;
    let driver = Driver::start(&bed, "stage").await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn volume_of_a_driver_is_given_to_the_group(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    claimed(&bed, "data", "").await?;
    let group = "securityContext: {fsGroup: 4321, runAsUser: 1234}";
    let pod = bed.pod("p", &user("data", group, "touch /v/mine; sleep 1000")).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let owner = bed.until_exec("p", "main", &["stat", "-c", "%g %a", "/v"]).await?;
    same("group and mode", owner.trim(), "4321 2775")?;
    let group = &driver.requests("NodePublishVolume")?[0]["volume_capability"]["access"]["volume_mount_group"];
    same("the group that the driver is given", group, &json!(""))?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn driver_that_takes_the_group_is_given_it(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage,group,several").await?;
    claimed(&bed, "data", "").await?;
    let group = "securityContext: {fsGroup: 4321}";
    let pod = bed.pod("p", &user("data", group, "sleep 1000")).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let expected = json!({"access_mode": "SINGLE_NODE_MULTI_WRITER",
        "access": {"fs_type": "ext4", "mount_flags": ["noatime"], "volume_mount_group": "4321"}});
    for call in ["NodeStageVolume", "NodePublishVolume"] {
        let request = driver.requests(call)?.first().cloned().unwrap_or_default();
        same(call, request["volume_capability"].clone(), expected.clone())?;
    }
    let owner = bed.until_exec("p", "main", &["stat", "-c", "%g", "/v"]).await?;
    same("the group", owner.trim(), "0")?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn failures_of_a_driver_are_told_then_over(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    let fault = |call: &str, message: &str| Fault {
        call: call.to_owned(),
        at: 1,
        code: INTERNAL,
        message: message.to_owned(),
        ..Fault::default()
    };
    let told = ["no disk", "no room", "still busy", "not yet"];
    let calls =
        ["NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"];
    let faults: Vec<Fault> =
        calls.iter().zip(told).map(|(call, message)| fault(call, message)).collect();
    driver.faults(&faults)?;
    claimed(&bed, "data", "").await?;
    let pod = bed.pod("p", &user("data", "", "sleep 1000")).await?;
    for (step, message) in [("MountDevice", "no disk"), ("SetUp", "no room")] {
        let message = format!(
            "MountVolume.{step} failed for volume \"{}-data\" : rpc error: code = Internal desc = {message}",
            bed.name
        );
        bed.event("p", "FailedMount", &message).await?;
    }
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    for call in ["NodeUnpublishVolume", "NodeUnstageVolume"] {
        ensure!(driver.requests(call)?.len() >= 2, "{call} was not tried again");
    }
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn driver_that_is_slow_holds_up_no_other_volume(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    let call = "NodeStageVolume".to_owned();
    let volume = "handle-slow".to_owned();
    driver.faults(&[Fault { call, volume, slow_millis: 40_000, ..Fault::default() }])?;
    claimed(&bed, "slow", "").await?;
    claimed(&bed, "quick", "").await?;
    let slow = bed.pod("slow", &user("slow", "", "sleep 1000")).await?;
    driver.until_asked("NodeStageVolume", 1).await?;
    let began = Instant::now();
    let quick = bed.pod("quick", &user("quick", "", "sleep 1000")).await?;
    bed.until("quick", &["cond[Ready]=True"]).await?;
    ensure!(began.elapsed() < Duration::from_secs(30), "the other pod took {:?}", began.elapsed());
    bed.stays("slow", 1, &["status.phase=Pending"]).await?;
    bed.delete("slow", None).await?;
    bed.delete("quick", None).await?;
    for name in ["slow", "quick"] {
        bed.until_gone("Pod", name).await?;
    }
    let (slow, quick) = (text(&slow, "metadata.uid"), text(&quick, "metadata.uid"));
    until_nothing_is_left(&bed, &driver, &[&slow, &quick]).await?;
    delete_volumes(&bed, &["slow", "quick"]).await?;
    driver.stop(&bed).await
}

async fn in_use(bed: &Bed, unique: &Value) -> Result<bool> {
    let node = bed.get("Node", "n1").await?;
    let volumes = node["status"]["volumesInUse"].as_array().cloned().unwrap_or_default();
    Ok(volumes.contains(unique))
}

async fn volume_of_a_driver_is_attached_first(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: true").await?;
    let driver = Driver::start(&bed, "stage").await?;
    claimed(&bed, "data", "").await?;
    let pod = bed.pod("p", &user("data", "", "sleep 1000")).await?;
    let pv = format!("{}-data", bed.name);
    // The case is the external attacher.
    let mut attachment;
    until!("a VolumeAttachment", {
        let list = bed.kubectl(&["get", "volumeattachments", "-o", "json"]).await?;
        let list: Value = serde_json::from_str(&list)?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let mut found =
            items.iter().filter(|item| text(item, "spec.source.persistentVolumeName") == pv);
        attachment = found.next().map(|item| text(item, "metadata.name")).unwrap_or_default();
        !attachment.is_empty()
    });
    same("volumes staged before", driver.requests("NodeStageVolume")?.len(), 0)?;
    let status = r#"{"status":{"attached":true,"attachmentMetadata":{"lun":"3"}}}"#;
    bed.kubectl(&[
        "patch",
        "volumeattachment",
        &attachment,
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ])
    .await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    for call in ["NodeStageVolume", "NodePublishVolume"] {
        let request = driver.requests(call)?.first().cloned().unwrap_or_default();
        same(call, request["publish_context"].clone(), json!({"lun": "3"}))?;
    }
    let unique = json!(format!("kubernetes.io/csi/{}^handle-data", driver.name));
    ensure!(in_use(&bed, &unique).await?, "the Node's status does not have it in use");
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    until!("it is not in use", !in_use(&bed, &unique).await?);
    until!("the VolumeAttachment is gone", {
        let args = ["get", "volumeattachment", &attachment, "--ignore-not-found", "-o", "name"];
        bed.kubectl(&args).await?.trim().is_empty()
    });
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn killed_between_staging_and_publishing_and_while_the_pod_runs(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    let call = "NodePublishVolume".to_owned();
    driver.faults(&[Fault { call, at: 1, hangs: true, ..Fault::default() }])?;
    claimed(&bed, "data", "").await?;
    let pod = bed.pod("p", &user("data", "", "date +%N > /v/note; sleep 1000")).await?;
    let uid = text(&pod, "metadata.uid");
    driver.until_asked("NodePublishVolume", 1).await?;
    bed.cluster.run(&["kubelet", "kill", "n1"]).await?;
    bed.cluster.run(&["kubelet", "start", "n1"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let note = bed.exec("p", "main", &["cat", "/v/note"]).await?;
    let running = bed.get("Pod", "p").await?;
    let container = running["status"]["containerStatuses"][0]["containerID"].clone();

    bed.cluster.run(&["kubelet", "kill", "n1"]).await?;
    bed.cluster.run(&["kubelet", "start", "n1"]).await?;
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    // Asked again, as after each restart: the driver has it already.
    driver.until_asked("NodePublishVolume", 3).await?;
    bed.stays("p", 3, &["cond[Ready]=True"]).await?;
    let still = bed.get("Pod", "p").await?;
    same("the container", &still["status"]["containerStatuses"][0]["containerID"], &container)?;
    same("the volume", bed.exec("p", "main", &["cat", "/v/note"]).await?, note)?;

    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_is_left(&bed, &driver, &[&uid]).await?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}

async fn volume_that_no_pod_uses_is_unstaged_after_a_restart(bed: Bed) -> Result<()> {
    object(&bed, "attachRequired: false").await?;
    let driver = Driver::start(&bed, "stage").await?;
    let call = "NodeUnstageVolume".to_owned();
    driver.faults(&[Fault { call, at: 1, hangs: true, ..Fault::default() }])?;
    claimed(&bed, "data", "").await?;
    let pod = bed.pod("p", &user("data", "", "sleep 1000")).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    // The pod's end does not wait for it.
    bed.until_gone("Pod", "p").await?;
    driver.until_asked("NodeUnstageVolume", 1).await?;
    bed.cluster.run(&["kubelet", "kill", "n1"]).await?;
    bed.cluster.run(&["kubelet", "start", "n1"]).await?;
    until_nothing_is_left(&bed, &driver, &[&text(&pod, "metadata.uid")]).await?;
    delete_volumes(&bed, &["data"]).await?;
    driver.stop(&bed).await
}
