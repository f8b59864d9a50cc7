//! The package for Debian: it takes the place of upstream's, is upgraded, removed, and upstream's
//! comes back. A stand-in for upstream's package has its unit, its drop-in and the scripts that
//! debhelper gives a package with a unit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rkubelet_bed::bed::same;
use rkubelet_bed::package;
use rkubelet_bed::run::until;

use crate::node::Node;
use crate::upstream;

/// The repository's root.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The folder of packages on the node.
const FOLDER: &str = "/opt/packages";
/// What the administrator has put into the file of both packages that is kept.
const EXTRA_ARGS: &str = "KUBELET_EXTRA_ARGS=--v=2\n";
/// What upstream's package leaves until it is purged.
const THEIRS: &str = "/etc/systemd/system/multi-user.target.wants/kubelet.service";
/// What the stand-in says of itself.
const CONTROL: &str = "\
Package: kubelet
Version: 1.36.3-1.1
Architecture: amd64
Maintainer: nobody <nobody@localhost>
Description: upstream's kubelet
";
const POSTINST: &str = "#!/bin/sh
set -e
deb-systemd-helper unmask kubelet.service
deb-systemd-helper enable kubelet.service
systemctl daemon-reload
deb-systemd-invoke start kubelet.service
";
const PRERM: &str = "#!/bin/sh
set -e
[ \"$1\" != remove ] || deb-systemd-invoke stop kubelet.service
";
const POSTRM: &str = "#!/bin/sh
set -e
systemctl daemon-reload
[ \"$1\" != remove ] || deb-systemd-helper mask kubelet.service
[ \"$1\" != purge ] || { deb-systemd-helper purge kubelet.service; deb-systemd-helper unmask kubelet.service; }
";

/// Makes both packages on the node, and removes what was installed there without one, and the
/// policy of container images that no package starts a service.
pub(crate) async fn make(node: &Node) -> Result<()> {
    let remove = "systemctl disable --now rkubelet
        rm -rf /etc/systemd/system/rkubelet.service* /usr/bin/rkubelet /usr/bin/kubelet \
            /usr/lib/systemd/system/kubelet.service* /usr/share/man/man8/rkubelet.8 \
            /usr/sbin/policy-rc.d
        systemctl daemon-reload";
    node.run(&["sh", "-euxc", remove]).await?;
    theirs(node).await?;
    ours(node).await
}

async fn theirs(node: &Node) -> Result<()> {
    let tree = node.bed.cluster.on_node(FOLDER).join("theirs");
    let units = tree.join("usr/lib/systemd/system");
    package::install(&upstream::program(node)?, &tree.join("usr/bin/kubelet"))?;
    write(&units.join("kubelet.service"), package::KUBELET_UNIT)?;
    write(&units.join("kubelet.service.d/10-kubeadm.conf"), upstream::DROP_IN)?;
    write(&tree.join("etc/default/kubelet"), "KUBELET_EXTRA_ARGS=\n")?;
    write(&tree.join("DEBIAN/control"), CONTROL)?;
    write(&tree.join("DEBIAN/conffiles"), "/etc/default/kubelet\n")?;
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        write(&tree.join("DEBIAN").join(name), script)?;
    }
    let build = format!(
        "chmod 755 {FOLDER}/theirs/DEBIAN/p*; dpkg-deb -Znone -b {FOLDER}/theirs {FOLDER}/kubelet.deb"
    );
    node.run(&["sh", "-euxc", &build]).await.map(drop)
}

/// Packs the program under test. The tool takes it from a folder of builds, so it gets one.
async fn ours(node: &Node) -> Result<()> {
    let folder = PathBuf::from(ROOT).join("target/debian");
    let builds = folder.join("builds");
    package::install(&node.program, &builds.join("release/rkubelet"))?;
    let made = tokio::process::Command::new(Path::new(ROOT).join("tests/tools.sh"))
        .args(["deb".as_ref(), folder.join("made").as_os_str()])
        .env("CARGO_TARGET_DIR", &builds)
        .output()
        .await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let mut files = std::fs::read_dir(folder.join("made"))?;
    let file = files.next().context("a package")??.path();
    package::copy(&file, &node.bed.cluster.on_node(FOLDER).join("rkubelet.deb"))?;
    std::fs::remove_dir_all(&folder).context("removing what was built")
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Runs apt-get as its user would, but that it knows no archive and keeps off the machine's cache.
async fn apt(node: &Node, argv: &[&str]) -> Result<String> {
    let folders = ["Dir::Cache=/opt/apt/cache", "Dir::State::lists=/opt/apt/lists"];
    node.run(&["mkdir", "-p", "/opt/apt/cache/archives/partial", "/opt/apt/lists/partial"]).await?;
    let mut whole = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q"];
    for folder in folders {
        whole.extend(["-o", folder]);
    }
    whole.extend(["--no-install-recommends", "--allow-downgrades"]);
    whole.extend(argv);
    node.run(&whole).await
}

/// Upstream's package is there, with a setting of the administrator.
pub(crate) async fn upstream_is_installed(node: &Node) -> Result<()> {
    apt(node, &["install", &format!("{FOLDER}/kubelet.deb")]).await?;
    std::fs::write(node.bed.cluster.on_node("/etc/default/kubelet"), EXTRA_ARGS)?;
    node.is_reported_by("kubelet").await
}

/// One command swaps the kubelet. kubeadm's name leads to rkubelet.
pub(crate) async fn takes_its_place(node: &Node) -> Result<()> {
    let said = apt(node, &["install", &format!("{FOLDER}/rkubelet.deb")]).await?;
    ensure!(said.contains("The following packages will be REMOVED:\n  kubelet"), "{said}");
    node.is_reported_by("rkubelet").await?;
    same("enabled", node.run(&["systemctl", "is-enabled", "rkubelet"]).await?.as_str(), "enabled")?;
    let version = node.run(&["kubelet", "--version"]).await?;
    let provides = node.run(&["dpkg-query", "-f", "${Provides}", "-W", "rkubelet"]).await?;
    same("the version", format!("kubelet (= {})", version.replace("Kubernetes v", "")), provides)?;
    keeps_its_settings(node).await
}

async fn keeps_its_settings(node: &Node) -> Result<()> {
    let kept = node.run(&["cat", "/etc/default/kubelet"]).await?;
    same("the administrator's settings", kept.as_str(), EXTRA_ARGS.trim_end())?;
    let pid = node.property("rkubelet", "MainPID").await?;
    let argv = node.run(&["cat", &format!("/proc/{pid}/cmdline")]).await?;
    ensure!(argv.contains("--v=2"), "rkubelet runs without them: {argv}");
    Ok(())
}

/// An upgrade starts the new program, and keeps the settings.
pub(crate) async fn is_upgraded(node: &Node) -> Result<()> {
    let before = node.property("rkubelet", "MainPID").await?;
    apt(node, &["install", "--reinstall", &format!("{FOLDER}/rkubelet.deb")]).await?;
    until(Duration::from_secs(30), async || {
        let pid = node.property("rkubelet", "MainPID").await?;
        ensure!(pid != before, "process {before} is still the unit's");
        node.runs("rkubelet").await
    })
    .await?;
    node.is_reported_by("rkubelet").await?;
    keeps_its_settings(node).await
}

/// Once removed nothing of the package is in the way, and what the administrator wrote stays, of
/// which the package is not the owner.
pub(crate) async fn is_removed(node: &Node) -> Result<()> {
    apt(node, &["remove", "rkubelet"]).await?;
    let there = "for name in kubelet rkubelet; do
            systemctl is-active $name || true
            ls /etc/systemd/system/$name.service /usr/bin/$name \
                /etc/systemd/system/multi-user.target.wants/$name.service 2>/dev/null || true
        done
        cat /etc/default/kubelet";
    let found = node.run(&["sh", "-c", there]).await?;
    let mask = "/etc/systemd/system/rkubelet.service";
    let wanted = format!("inactive\n{THEIRS}\ninactive\n{mask}\n{}", EXTRA_ARGS.trim_end());
    same("what is left", found, wanted)?;

    apt(node, &["purge", "rkubelet"]).await?;
    let left = "find /etc/systemd/system /etc/default /usr/lib/systemd/system -name '*kubelet*'";
    let found = node.run(&["sh", "-c", left]).await?;
    same("what is left when purged", found, format!("{THEIRS}\n/etc/default/kubelet"))
}

/// Upstream's package can be installed again.
pub(crate) async fn gives_way(node: &Node) -> Result<()> {
    apt(node, &["install", &format!("{FOLDER}/kubelet.deb")]).await?;
    node.is_reported_by("kubelet").await
}
