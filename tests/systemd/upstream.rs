//! Upstream's kubelet as a service: the files that its package installs, and those that kubeadm
//! writes at a join.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rkubelet_bed::package;

use crate::node::Node;

/// kubeadm's drop-in.
pub(crate) const DROP_IN: &str = concat!(
    "[Service]\n",
    "Environment=\"KUBELET_KUBECONFIG_ARGS=",
    "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf ",
    "--kubeconfig=/etc/kubernetes/kubelet.conf\"\n",
    "Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\n",
    "EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n",
    "EnvironmentFile=-/etc/default/kubelet\n",
    "ExecStart=\n",
    "ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS ",
    "$KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n",
);

/// kubeadm's flags of this node.
const FLAGS: &str = "KUBELET_KUBEADM_ARGS=\"--hostname-override=n1 --node-ip=10.200.0.11\"\n";

/// Returns upstream's program. The harness keeps all programs of a version in one folder.
pub(crate) fn program(node: &Node) -> Result<PathBuf> {
    let folder = Path::new(node.bed.cluster.env("KUBECTL")).parent();
    Ok(folder.context("the folder of kubectl")?.join("kubelet"))
}

/// Installs and starts it.
pub(crate) async fn install(node: &Node) -> Result<()> {
    let cluster = &node.bed.cluster;
    package::install(&program(node)?, &cluster.on_node("/usr/bin/kubelet"))?;

    let units = cluster.on_node("/usr/lib/systemd/system");
    std::fs::create_dir_all(units.join("kubelet.service.d"))?;
    std::fs::write(units.join("kubelet.service"), package::KUBELET_UNIT)?;
    std::fs::write(units.join("kubelet.service.d/10-kubeadm.conf"), DROP_IN)?;
    std::fs::write(cluster.on_node("/var/lib/kubelet/kubeadm-flags.env"), FLAGS)?;

    node.run(&["systemctl", "daemon-reload"]).await?;
    node.run(&["systemctl", "enable", "--now", "kubelet"]).await.map(drop)
}
