//! Volumes while the kubelet is killed: in the middle of mounting, of an update, of unmounting.
//! Whatever the moment, the pod comes up, its files are right, and afterwards nothing of it is left
//! and nothing of others is gone. One case at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::claims;
use crate::bed::{Bed, same};
use crate::look::text;
use crate::{Case, beyond};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        beyond(killed_at_each_moment_of_mounting_updating_and_unmounting),
        beyond(a_mount_that_somebody_made_is_left_alone_and_told),
    ]
}

/// How long after the cause the kubelet is killed: from before it has heard of it to after it is
/// done.
const MOMENTS: [u64; 8] = [5, 15, 30, 50, 80, 120, 200, 350];

const POD: &str = "
nodeName: n1
terminationGracePeriodSeconds: 0
volumes:
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
- {name: settings, configMap: {name: settings}}
- {name: keys, secret: {secretName: keys}}
- {name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
- {name: data, persistentVolumeClaim: {claimName: data}}
- name: all
  projected:
    sources:
    - {configMap: {name: settings}}
    - {serviceAccountToken: {path: token}}
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  volumeMounts:
  - {name: disk, mountPath: /disk}
  - {name: memory, mountPath: /memory}
  - {name: settings, mountPath: /settings}
  - {name: keys, mountPath: /keys}
  - {name: own, mountPath: /own}
  - {name: data, mountPath: /data}
  - {name: data, mountPath: /part, subPath: part}
  - {name: all, mountPath: /all}
";

async fn kill_after(bed: &Bed, millis: u64) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    bed.cluster.run(&["kubelet", "kill", "n1"]).await?;
    bed.cluster.run(&["kubelet", "start", "n1"]).await.map(drop)
}

/// What is mounted on the node below the pod's directory.
fn mounted(bed: &Bed, uid: &str) -> Result<Vec<String>> {
    let mounts =
        std::fs::read_to_string(format!("/proc/{}/mountinfo", bed.cluster.env("NODE_N1_PID")))?;
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(targets.filter(|target| target.contains(uid)).map(str::to_owned).collect())
}

fn pod_dir(bed: &Bed, uid: &str) -> PathBuf {
    bed.cluster.on_node(&format!("/var/lib/kubelet/pods/{uid}"))
}

async fn until_nothing_is_left(bed: &Bed, uid: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (mounted, dir) = (mounted(bed, uid)?, pod_dir(bed, uid));
        if mounted.is_empty() && !dir.exists() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after 60 s there are still {mounted:?} and {}",
            dir.display()
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn until_shown(bed: &Bed, pod: &str, path: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = bed.exec(pod, "main", &["cat", path]).await?;
        if seen == wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after 60 s {path} of {pod} is still {seen:?}, wanted {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn killed_at_each_moment_of_mounting_updating_and_unmounting(bed: Bed) -> Result<()> {
    let path = format!("/var/lib/kubelet/disk-{}", bed.name);
    let disk = bed.cluster.on_node(&path);
    std::fs::create_dir_all(disk.join("part"))?;
    std::fs::write(disk.join("part/kept"), "kept")?;
    claims::bind(&bed, &claims::local(&path, "n1")).await?;
    claims::claim(&bed, "data").await?;
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: v0}}")
        .await?;
    bed.create(
        "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {password: v0}}",
    )
    .await?;
    for (round, millis) in MOMENTS.into_iter().enumerate() {
        let name = format!("p{round}");
        let value = format!("v{}", round + 1);
        let made = bed.pod(&name, POD).await?;
        let uid = text(&made, "metadata.uid");
        kill_after(&bed, millis).await?;
        // A StartContainer that the kill cuts off is undone by the runtime, and counts as a start
        // that failed.
        bed.until(&name, &["cond[Ready]=True"]).await?;
        same(
            "the kept file",
            bed.exec(&name, "main", &["cat", "/part/kept"]).await?.as_str(),
            "kept",
        )?;
        bed.exec(&name, "main", &["touch", "/disk/x", "/memory/x"]).await?;
        bed.patch("ConfigMap", "settings", json!({"data": {"one": value}})).await?;
        bed.patch("Secret", "keys", json!({"stringData": {"password": value}})).await?;
        kill_after(&bed, millis).await?;
        for file in ["/settings/one", "/all/one", "/keys/password"] {
            until_shown(&bed, &name, file, &value).await?;
        }
        bed.exec(&name, "main", &["ls", "/disk/x", "/memory/x"]).await?;
        bed.delete(&name, Some(0)).await?;
        kill_after(&bed, millis).await?;
        bed.until_gone("Pod", &name).await?;
        until_nothing_is_left(&bed, &uid).await?;
        same(
            "the volume's own file",
            std::fs::read_to_string(disk.join("part/kept"))?.as_str(),
            "kept",
        )?;
    }
    bed.kubectl(&["delete", "pv", &format!("{}-data", bed.name), "--wait=false"]).await.map(drop)
}

/// Somebody mounts over a volume of a pod, and the pod is deleted: neither the mount nor what is in
/// it is touched, the node says so, and when the mount is gone the rest goes by itself.
async fn a_mount_that_somebody_made_is_left_alone_and_told(bed: Bed) -> Result<()> {
    let spec = "
nodeName: n1
terminationGracePeriodSeconds: 0
volumes: [{name: disk, emptyDir: {}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: disk, mountPath: /disk}]}]
";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    let uid = text(&pod, "metadata.uid");
    let place = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/disk");
    let node = bed.cluster.env("NODE_N1_PID");
    let on_node = async |argv: &[&str]| -> Result<()> {
        let target = ["--target", node, "--mount", "--"];
        let status =
            tokio::process::Command::new("nsenter").args(target).args(argv).status().await?;
        ensure!(status.success(), "{} failed on the node", argv.join(" "));
        Ok(())
    };
    on_node(&["mount", "-t", "tmpfs", "theirs", &place]).await?;
    on_node(&["touch", &format!("{place}/precious")]).await?;
    bed.api("Pod").delete("p", &crate::bed::grace(0)).await?;
    let message = format!("*{uid}*something else is mounted there*");
    let at_home = Bed { name: "default".to_owned(), ..bed.clone() };
    at_home.event("n1", "OrphanedVolumeStuck", &message).await?;
    on_node(&["test", "-e", &format!("{place}/precious")]).await?;
    on_node(&["umount", &place]).await?;
    until_nothing_is_left(&bed, &uid).await
}
