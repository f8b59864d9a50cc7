//! What a host has before kubeadm runs: kubeadm, kubectl, and a kubelet as a package leaves it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rkubelet_bed::run;

use crate::hosts::{Hosts, PLANE, WORKER};

/// The repository's root.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The unit of upstream's package.
const UNIT: &str = "\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
";

/// Installs on both hosts, and enables the kubelet: it fails until kubeadm has configured it.
pub(crate) async fn on_both(hosts: &Hosts) -> Result<()> {
    for host in [PLANE, WORKER] {
        program(hosts.cluster.env("KUBEADM"), &hosts.path(host, "/usr/bin/kubeadm"))?;
        program(hosts.cluster.env("KUBECTL"), &hosts.path(host, "/usr/bin/kubectl"))?;
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
    program(run::program()?, &hosts.path(host, "/usr/bin/rkubelet"))?;
    symlink("rkubelet", hosts.path(host, "/usr/bin/kubelet"))?;
    let units = hosts.path(host, "/usr/lib/systemd/system");
    let source = Path::new(ROOT).join("systemd");
    file(&source.join("rkubelet.service"), &units.join("rkubelet.service"))?;
    file(&source.join("10-kubeadm.conf"), &units.join("rkubelet.service.d/10-kubeadm.conf"))
}

fn upstream(hosts: &Hosts, host: &str) -> Result<()> {
    // The harness keeps all programs of a version in one folder.
    let programs = Path::new(hosts.cluster.env("KUBECTL")).with_file_name("kubelet");
    program(programs, &hosts.path(host, "/usr/bin/kubelet"))?;
    let units = hosts.path(host, "/usr/lib/systemd/system");
    std::fs::write(units.join("kubelet.service"), UNIT)?;
    let drop_in = std::fs::read_to_string(Path::new(ROOT).join("systemd/10-kubeadm.conf"))?;
    let folder = units.join("kubelet.service.d");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("10-kubeadm.conf"),
        drop_in.replace("/usr/bin/rkubelet", "/usr/bin/kubelet"),
    )?;
    Ok(())
}

/// Copies a file, with the folders above it.
fn file(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().context("a folder")?)?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Copies a program and makes it executable.
fn program(from: impl Into<PathBuf>, to: &Path) -> Result<()> {
    file(&from.into(), to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
