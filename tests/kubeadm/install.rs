//! What a host has before kubeadm runs: kubeadm, kubectl, and a kubelet as a package leaves it.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use rkubelet_bed::{package, run};

use crate::hosts::{Hosts, PLANE, WORKER};

/// The repository's root.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Installs on both hosts, and enables the kubelet: it fails until kubeadm has configured it.
pub(crate) async fn on_both(hosts: &Hosts) -> Result<()> {
    for host in [PLANE, WORKER] {
        package::install(
            Path::new(hosts.cluster.env("KUBEADM")),
            &hosts.path(host, "/usr/bin/kubeadm"),
        )?;
        package::install(
            Path::new(hosts.cluster.env("KUBECTL")),
            &hosts.path(host, "/usr/bin/kubectl"),
        )?;
        // Nobody answers there. CoreDNS takes a resolver at its own address for a loop.
        std::fs::write(hosts.path(host, "/etc/resolv.conf"), "nameserver 10.200.0.1\n")?;
        if run::kubelet() == "ours" {
            ours(hosts, host)?;
        } else {
            upstream(hosts, host)?;
        }

        hosts.run(host, &["systemctl", "daemon-reload"]).await?;
        let unit = if run::kubelet() == "ours" { "rkubelet" } else { "kubelet" };
        hosts.run(host, &["systemctl", "enable", unit]).await?;
        let version = hosts.run(host, &["kubelet", "--version"]).await?;
        ensure!(version.starts_with("Kubernetes v"), "it says {version:?}");
    }
    Ok(())
}

fn ours(hosts: &Hosts, host: &str) -> Result<()> {
    package::install(&run::program()?, &hosts.path(host, "/usr/bin/rkubelet"))?;
    symlink("rkubelet", hosts.path(host, "/usr/bin/kubelet"))?;
    let units = hosts.path(host, "/usr/lib/systemd/system");
    let source = Path::new(ROOT).join("systemd");
    package::copy(&source.join("rkubelet.service"), &units.join("rkubelet.service"))?;
    package::copy(
        &source.join("10-kubeadm.conf"),
        &units.join("rkubelet.service.d/10-kubeadm.conf"),
    )
}

fn upstream(hosts: &Hosts, host: &str) -> Result<()> {
    // The harness keeps all programs of a version in one folder.
    let programs = Path::new(hosts.cluster.env("KUBECTL")).with_file_name("kubelet");
    package::install(&programs, &hosts.path(host, "/usr/bin/kubelet"))?;
    let units = hosts.path(host, "/usr/lib/systemd/system");
    std::fs::write(units.join("kubelet.service"), package::KUBELET_UNIT)?;
    let drop_in = std::fs::read_to_string(Path::new(ROOT).join("systemd/10-kubeadm.conf"))?;
    let folder = units.join("kubelet.service.d");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("10-kubeadm.conf"),
        drop_in.replace("/usr/bin/rkubelet", "/usr/bin/kubelet"),
    )?;
    Ok(())
}
