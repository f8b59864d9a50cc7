//! What runs on the cluster: network, kube-proxy, CoreDNS, an application and its clients.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rkubelet_bed::bed::same;
use rkubelet_bed::run::until;

use crate::hosts::{Hosts, PLANE, WORKER};

/// Applies a manifest of this folder.
async fn apply(hosts: &Hosts, name: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubeadm").join(name);
    let file = file.to_str().context("a path that is no text")?;
    hosts.kubectl(&["apply", "-f", file]).await.map(drop)
}

/// Waits until a DaemonSet or Deployment is whole.
async fn is_rolled_out(hosts: &Hosts, namespace: &str, what: &str) -> Result<()> {
    let argv = ["rollout", "status", "-n", namespace, what, "--timeout=120s"];
    hosts.kubectl(&argv).await.map(drop)
}

/// Brings the network, after which both nodes are Ready.
pub(crate) async fn network(hosts: &Hosts) -> Result<()> {
    apply(hosts, "cni.yaml").await?;
    is_rolled_out(hosts, "kube-system", "daemonset/cni").await?;
    let argv = ["wait", "node", PLANE, WORKER, "--for=condition=Ready", "--timeout=60s"];
    hosts.kubectl(&argv).await.map(drop)
}

/// kubeadm's own addons run.
pub(crate) async fn addons(hosts: &Hosts) -> Result<()> {
    is_rolled_out(hosts, "kube-system", "daemonset/kube-proxy").await?;
    is_rolled_out(hosts, "kube-system", "deployment/coredns").await
}

/// The application has a pod on each node, and so have its clients.
pub(crate) async fn deploy(hosts: &Hosts) -> Result<()> {
    apply(hosts, "web.yaml").await?;
    is_rolled_out(hosts, "default", "deployment/web").await?;
    is_rolled_out(hosts, "default", "daemonset/client").await?;
    let mut nodes = Vec::new();
    for pod in pods(hosts, "web").await? {
        nodes.push(node_of(hosts, &pod).await?);
    }
    nodes.sort();
    same("the nodes of the application", nodes, vec![PLANE.to_owned(), WORKER.to_owned()])
}

/// The names of the pods of an application that are not on their way out.
async fn pods(hosts: &Hosts, app: &str) -> Result<Vec<String>> {
    let each =
        "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.metadata.name}{\"\\n\"}{end}";
    let found = hosts.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", each]).await?;
    Ok(found.lines().map(str::to_owned).collect())
}

async fn node_of(hosts: &Hosts, pod: &str) -> Result<String> {
    hosts.kubectl(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]).await
}

/// Each client reaches both pods of the application by the Service's name.
pub(crate) async fn is_reached(hosts: &Hosts) -> Result<()> {
    let clients = pods(hosts, "client").await?;
    same("the clients", clients.len(), 2)?;
    let mut wanted = pods(hosts, "web").await?;
    wanted.sort();
    for client in &clients {
        until(Duration::from_secs(60), async || {
            // 20 requests that all went to one of two pods would be one chance in a million.
            let fetch = "for i in $(seq 20); do wget -q -T 5 -O - http://web/hostname; echo; done";
            let said = hosts.kubectl(&["exec", client, "--", "sh", "-c", fetch]).await?;
            let mut seen: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
            seen.sort();
            seen.dedup();
            same("the pods that answered", seen, wanted.clone())
        })
        .await
        .with_context(|| format!("from {client}"))?;
    }
    Ok(())
}

/// The API server reaches both kubelets.
pub(crate) async fn logs_and_exec(hosts: &Hosts) -> Result<()> {
    let found = pods(hosts, "web").await?;
    same("the pods", found.len(), 2)?;
    for pod in found {
        let log = hosts.kubectl(&["logs", &pod]).await?;
        ensure!(log.contains("Started HTTP server"), "the log of {pod}:\n{log}");
        let said = hosts.kubectl(&["exec", &pod, "--", "hostname"]).await?;
        same("the output of exec", said, pod)?;
    }
    Ok(())
}

/// The containers of the worker's pods, with their restarts.
pub(crate) async fn containers(hosts: &Hosts) -> Result<String> {
    let each = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID} \
                {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    let worker = format!("--field-selector=spec.nodeName={WORKER}");
    hosts.kubectl(&["get", "pods", "-A", &worker, "-o", each]).await
}

/// Every container of the worker is the one that it was.
pub(crate) async fn are_as_they_were(hosts: &Hosts, before: &str) -> Result<()> {
    same("the containers", containers(hosts).await?.as_str(), before)
}
