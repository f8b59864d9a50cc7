//! The node under test, as the harness made it: its paths, its kubelet, its runtime.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rkubelet::internals::clock::Clock;
use rkubelet::internals::cri::{Config, CriError, Runtime, v1};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run;

/// The name of the only node.
pub(crate) const NAME: &str = "n1";

/// A kubelet that takes part.
#[derive(Clone, Debug)]
pub(crate) struct Kubelet {
    pub(crate) name: String,
    /// As `cluster kubelet start` takes it.
    program: String,
}

impl Kubelet {
    /// `ours`, `upstream` or `NAME=PATH`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let program = match text.split_once('=') {
            Some((_, path)) => path.to_owned(),
            None if text == "ours" => run::program()?.to_string_lossy().into_owned(),
            None => text.to_owned(),
        };
        let name = text.split('=').next().unwrap_or(text).to_owned();
        ensure!(
            text == "upstream" || Path::new(&program).is_file(),
            "kubelet {name:?}: {program} is no file"
        );
        Ok(Self { name, program })
    }
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    cluster: Arc<Cluster>,
}

impl Node {
    /// The only node of `cluster`.
    pub(crate) fn of(cluster: &Arc<Cluster>) -> Self {
        Self { cluster: Arc::clone(cluster) }
    }

    /// The cluster that the node is part of.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn value(&self, key: &str) -> Result<&str> {
        let value = self.cluster.env(key);
        ensure!(!value.is_empty(), "the cluster's env has no {key}");
        Ok(value)
    }

    /// A path on the node, as the machine sees it.
    pub(crate) fn path(&self, path: &str) -> Result<PathBuf> {
        self.value("NODE_N1_ROOT")?;
        Ok(self.cluster.on_node(path))
    }

    /// The node's cgroup, below which the kubelet puts `kubepods`.
    pub(crate) fn cgroup(&self) -> Result<&str> {
        self.value("NODE_N1_CGROUP")
    }

    pub(crate) fn audit_log(&self) -> Result<PathBuf> {
        self.value("AUDIT_LOG").map(PathBuf::from)
    }

    /// A client of the node's runtime, without the kubelet in between.
    pub(crate) fn runtime(&self) -> Result<Runtime> {
        let settings = Config {
            runtime_endpoint: format!("unix://{}", self.value("NODE_N1_CRI_SOCKET")?),
            image_endpoint: None,
            request_timeout: Duration::from_secs(120),
        };
        Ok(Runtime::new(&settings, Clock::system(), Arc::new(|_, _, _| {}))?)
    }

    /// Starts `kubelet` on the node and answers its pid.
    pub(crate) async fn start_kubelet(&self, kubelet: &Kubelet) -> Result<u32> {
        self.cluster.run(&["kubelet", "start", NAME, &kubelet.program]).await?;
        let pid = self.cluster.run(&["kubelet", "pid", NAME]).await?;
        pid.trim().parse().with_context(|| format!("the kubelet's pid: {pid:?}"))
    }

    pub(crate) async fn stop_kubelet(&self) -> Result<()> {
        self.cluster.run(&["kubelet", "stop", NAME]).await.map(|_| ())
    }

    /// Removes whatever pods are left in the runtime, so that nobody inherits the other's work. No
    /// kubelet may run.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let runtime = self.runtime()?;
        let mut last = None;
        for _ in 0..10 {
            let left = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
            if left.is_empty() {
                return Ok(());
            }
            for sandbox in left {
                // What a kubelet had begun may still be going on in the runtime and refuse: the
                // next pass has it.
                last = sweep_one(&runtime, sandbox.id).await.err().or(last);
            }
        }
        Err(last.context("sandboxes stay")?.into())
    }
}

async fn sweep_one(runtime: &Runtime, pod_sandbox_id: String) -> Result<(), CriError> {
    runtime
        .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
        .await?;
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.map(|_| ())
}
