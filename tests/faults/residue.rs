//! What pods leave on a node, by the node's own account: after they are gone nothing of it may be
//! there that was not there before.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rkubelet_bed::cluster::Cluster;

/// Where the runtime has a folder for each of its tasks.
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// Folders of the node with an entry for each pod, sandbox or address.
const FOLDERS: [&str; 6] = [
    "/var/lib/kubelet/pods",
    "/var/log/pods",
    "/run/netns",
    "/var/lib/cni/networks/rkubelet",
    TASKS,
    "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes",
];

/// What the network plugin makes once and keeps, whoever comes and goes.
fn is_of_the_plugin(name: &str) -> bool {
    name == "lock" || name.starts_with("last_reserved_ip")
}

/// Everything that there is now, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residue(BTreeSet<String>);

impl Residue {
    /// Looks at the node.
    pub(crate) async fn take(cluster: &Cluster) -> Result<Self> {
        let mut found = BTreeSet::new();
        for folder in FOLDERS {
            let names = entries(&cluster.on_node(folder))
                .into_iter()
                .filter(|name| !is_of_the_plugin(name));
            found.extend(names.map(|name| format!("{folder}/{name}")));
        }
        let containers = cluster.ctr(&["containers", "list", "-q"]).await?;
        found.extend(containers.lines().map(|id| format!("container {id}")));
        let snapshots = cluster.ctr(&["snapshots", "list"]).await?;
        let active = snapshots.lines().filter(|line| line.trim_end().ends_with("Active"));
        found.extend(
            active
                .filter_map(|line| line.split_whitespace().next())
                .map(|key| format!("snapshot {key}")),
        );
        let mounts =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", cluster.env("NODE_N1_PID")))?;
        found.extend(
            mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(4))
                .map(|point| format!("mount {point}")),
        );
        for hierarchy in entries(Path::new("/sys/fs/cgroup")).into_iter().chain([String::new()]) {
            let root = Path::new("/sys/fs/cgroup").join(hierarchy);
            let root =
                root.join(cluster.env("NODE_N1_CGROUP").trim_start_matches('/')).join("kubepods");
            cgroups(&root, &mut found);
        }
        processes(&cluster.on_node("/proc"), &cluster.on_node(TASKS), &mut found);
        Ok(Self(found))
    }

    /// What is here and was not there.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Waits until nothing is left beyond `before`.
    pub(crate) async fn until_back(
        cluster: &Cluster,
        before: &Self,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let now = Self::take(cluster).await?;
            let left = now.beyond(before);
            if left.is_empty() {
                let lost = before.beyond(&now);
                ensure!(
                    lost.is_empty(),
                    "{} things that were there before are gone: {}",
                    lost.len(),
                    some(&lost)
                );
                return Ok(());
            }
            let seconds = patience.as_secs();
            ensure!(
                Instant::now() < deadline,
                "after {seconds} s {} things are left: {}",
                left.len(),
                some(&left)
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The first of them, for a message.
pub(crate) fn some(all: &[String]) -> String {
    all.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(folder) else { return Vec::new() };
    folder
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn cgroups(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(children) = std::fs::read_dir(folder) else { return };
    for child in children.filter_map(Result::ok).filter(|child| child.path().is_dir()) {
        let path = child.path();
        // The classes stay; pods and containers come and go.
        if !path.ends_with("burstable") && !path.ends_with("besteffort") {
            found.insert(format!("cgroup {}", path.display()));
        }
        cgroups(&path, found);
    }
}

/// A shim that the runtime has written down nowhere and that runs nothing: the runtime was killed
/// between its start and that of its task. No kubelet can know of it.
fn is_forgotten(proc: &Path, pid: &str, arguments: &str, tasks: &Path) -> bool {
    let id =
        arguments.split('\0').skip_while(|argument| *argument != "-id").nth(1).unwrap_or_default();
    let has_child = entries(proc).iter().any(|other| {
        let status = std::fs::read_to_string(proc.join(other).join("status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == pid))
    });
    !id.is_empty() && !tasks.join(id).exists() && !has_child
}

/// Shims by their arguments, and the namespaces of all processes of the node.
fn processes(proc: &Path, tasks: &Path, found: &mut BTreeSet<String>) {
    for pid in
        entries(proc).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    {
        let folder = proc.join(&pid);
        let arguments = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
        if arguments.contains("containerd-shim") && !is_forgotten(proc, &pid, &arguments, tasks) {
            found.insert(format!("shim {}", arguments.replace('\0', " ")));
        }
        for kind in ["net", "pid", "mnt", "ipc"] {
            // Not those of programs that the harness starts for a moment.
            if let Ok(namespace) = std::fs::read_link(folder.join("ns").join(kind))
                && std::fs::read_to_string(folder.join("cgroup"))
                    .unwrap_or_default()
                    .contains("kubepods")
            {
                found.insert(format!("namespace {}", namespace.display()));
            }
        }
    }
}
