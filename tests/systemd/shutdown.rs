//! Graceful shutdown of the node, with the host's own systemd-logind.
//!
//! As upstream's end-to-end tests do, the announcement is sent on the bus in logind's name: the host
//! itself stays up.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, ListParams};
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::look;
use rkubelet_bed::run::until;

use crate::node::Node;

const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const STATE: &str = "/var/lib/kubelet/graceful_node_shutdown_state";
const OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
const SETTINGS: &str = "\nshutdownGracePeriod: 24s\nshutdownGracePeriodCriticalPods: 12s\n";

/// A bus object, and the interface of logind on it.
const LOGIND: [&str; 2] = ["/org/freedesktop/login1", "org.freedesktop.login1.Manager"];

/// Has logind run, and the unit `kubelet` with a grace for shutdowns.
pub(crate) async fn is_configured(node: &Node) -> Result<()> {
    node.run(&["rm", "-f", "/etc/systemd/system/systemd-logind.service"]).await?;
    node.run(&["systemctl", "daemon-reload"]).await?;
    // Nothing of an earlier kubelet may pass for this one's.
    node.run(&["systemctl", "stop", "kubelet"]).await?;
    node.run(&["rm", "-f", STATE, OVERRIDE]).await?;
    node.run(&["systemctl", "restart", "systemd-logind"]).await?;
    let events = node.bed.api("Event");
    let of_shutdowns = ListParams::default().fields("reason=Shutdown");
    events.delete_collection(&DeleteParams::default(), &of_shutdowns).await?;

    let path = node.bed.cluster.on_node(CONFIG);
    let config = std::fs::read_to_string(&path)?;
    if !config.contains(SETTINGS) {
        std::fs::write(&path, config + SETTINGS)?;
    }
    node.run(&["systemctl", "restart", "kubelet"]).await?;
    holds_the_lock(node).await
}

/// logind waits for the kubelet, for as long as it is configured.
async fn holds_the_lock(node: &Node) -> Result<()> {
    until(Duration::from_secs(30), async || {
        let [object, interface] = LOGIND;
        let call = ["busctl", "call", "org.freedesktop.login1", object, interface];
        let held = node.run(&[&call[..], &["ListInhibitors"]].concat()).await?;
        let words =
            "\"shutdown\" \"kubelet\" \"Kubelet needs time to handle node shutdown\" \"delay\"";
        ensure!(held.contains(words), "the inhibitors are {held}");
        let get = ["busctl", "get-property", "org.freedesktop.login1", object, interface];
        let delay = node.run(&[&get[..], &["InhibitDelayMaxUSec"]].concat()).await?;
        same("logind's delay", delay.as_str(), "t 24000000")
    })
    .await
}

/// Announces a shutdown, or its cancellation.
async fn announce(node: &Node, begins: bool) -> Result<()> {
    let [object, interface] = LOGIND;
    let emit = ["busctl", "emit", object, interface, "PrepareForShutdown", "b"];
    node.run(&[&emit[..], &[if begins { "true" } else { "false" }]].concat()).await.map(drop)
}

/// Makes a pod that takes two seconds to end. One that ends well is Succeeded, without a word of
/// the shutdown, also with upstream's kubelet.
async fn make_pod(node: &Node, name: &str, class: &str) -> Result<()> {
    let spec = format!(
        "
        priorityClassName: '{class}'
        terminationGracePeriodSeconds: 10
        containers:
        - name: main
          image: busybox
          command: [sh, -c, 'trap \"sleep 2; exit 3\" TERM; while true; do sleep 0.2; done']
        "
    );
    node.bed.pod(name, &spec).await?;
    node.bed.until_heeds_term(name, &["main"]).await.map(drop)
}

/// A shutdown ends the pods of low priority before critical ones, and says so; while it lasts no
/// pod is taken. After its cancellation the node is as before.
pub(crate) async fn ends_pods_by_priority(node: &Node, prefix: &str) -> Result<()> {
    let bed = &node.bed;
    let name = |what: &str| format!("{prefix}-{what}");
    make_pod(node, &name("plain"), "").await?;
    make_pod(node, &name("critical"), "system-cluster-critical").await?;

    announce(node, true).await?;
    bed.until_kind(
        "Node",
        "n1",
        &[
            "cond[Ready]=False",
            "cond[Ready].reason=KubeletNotReady",
            "cond[Ready].message=*node is shutting down",
        ],
    )
    .await?;
    let plain = is_terminated(bed, &name("plain")).await?;
    let critical = is_terminated(bed, &name("critical")).await?;
    let ended = |pod| look::text(pod, "c[main].state.terminated.finishedAt");
    ensure!(
        ended(&plain) < ended(&critical),
        "the plain pod ended at {}, the critical one at {}",
        ended(&plain),
        ended(&critical)
    );
    bed.event("n1", "Shutdown", "Shutdown manager detected shutdown event").await?;
    until(Duration::from_secs(30), async || {
        let state = std::fs::read_to_string(bed.cluster.on_node(STATE))?;
        let state: serde_json::Value = serde_json::from_str(&state)?;
        let times = [look::text(&state, "startTime"), look::text(&state, "endTime")];
        let [start, end] = times.each_ref();
        ensure!(start.starts_with("20") && end > start, "the state is {state}");
        Ok(())
    })
    .await?;

    // The node's taint would keep the scheduler away.
    bed.pod(
        &name("late"),
        "{nodeName: n1, tolerations: [{operator: Exists}], containers: [{name: main, image: busybox}]}",
    )
    .await?;
    bed.until(
        &name("late"),
        &[
            "phase=Failed",
            "status.reason=NodeShutdown",
            "status.message=Pod was rejected: Pod was rejected as the node is shutting down.",
        ],
    )
    .await?;

    announce(node, false).await?;
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    bed.event("n1", "Shutdown", "Shutdown manager detected shutdown cancellation").await?;
    // Upstream's kubelet takes the lock again and then closes it: the number of the old one's file
    // descriptor, which it closes a second time, is the new one's.
    if prefix == "ours" {
        holds_the_lock(node).await?;
    }
    make_pod(node, &name("after"), "").await
}

/// Waits for the status of a pod that the shutdown has ended.
async fn is_terminated(bed: &Bed, name: &str) -> Result<serde_json::Value> {
    bed.until(name, &[
        "phase=Failed",
        "status.reason=Terminated",
        "status.message=Pod was terminated in response to imminent node shutdown.",
        "cond[DisruptionTarget]=True",
        "cond[DisruptionTarget].reason=TerminationByKubelet",
        "cond[DisruptionTarget].message=Pod was terminated in response to imminent node shutdown.",
        "c[main].state.terminated.exitCode=3",
    ])
    .await
}
