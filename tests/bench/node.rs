//! The node under test, as the harness made it: its paths, its kubelet, its runtime.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rkubelet::internals::clock::Clock;
use rkubelet::internals::cri::{CriError, Runtime, Settings, v1};

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
            None if text == "ours" => match std::env::var("RKUBELET_BIN") {
                Ok(path) => path,
                Err(_) => target_dir()?.join("release/rkubelet").to_string_lossy().into_owned(),
            },
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

/// Where cargo builds: this program lies in `TARGET/PROFILE/deps`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program.ancestors().nth(3).map(Path::to_owned).context("the target folder")
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    env: HashMap<String, String>,
}

impl Node {
    pub(crate) fn from_env() -> Result<Self> {
        let text =
            std::env::var("RKUBELET_BENCH_ENV").context("start the bench with tests/bench/run")?;
        let pair = |line: &str| {
            line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        Ok(Self { env: text.lines().filter_map(pair).collect() })
    }

    fn value(&self, key: &str) -> Result<&str> {
        self.env
            .get(key)
            .map(String::as_str)
            .with_context(|| format!("the cluster's env has no {key}"))
    }

    /// A path on the node, as the machine sees it.
    pub(crate) fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("{}{path}", self.value("NODE_N1_ROOT")?)))
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
        let settings = Settings {
            runtime_endpoint: format!("unix://{}", self.value("NODE_N1_CRI_SOCKET")?),
            image_endpoint: None,
            request_timeout: Duration::from_secs(120),
        };
        Ok(Runtime::new(&settings, Clock::system(), Arc::new(|_, _, _| {}))?)
    }

    /// Starts `kubelet` on the node and answers its pid.
    pub(crate) fn start_kubelet(&self, kubelet: &Kubelet) -> Result<u32> {
        self.cluster(&["kubelet", "start", NAME, &kubelet.program])?;
        let pid = self.cluster(&["kubelet", "pid", NAME])?;
        pid.trim().parse().with_context(|| format!("the kubelet's pid: {pid:?}"))
    }

    pub(crate) fn stop_kubelet(&self) -> Result<()> {
        self.cluster(&["kubelet", "stop", NAME]).map(|_| ())
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

    fn cluster(&self, args: &[&str]) -> Result<String> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster");
        let output = Command::new(program)
            .args(["--name", self.value("CLUSTER_NAME")?])
            .args(args)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cluster {}: {}", args.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

async fn sweep_one(runtime: &Runtime, pod_sandbox_id: String) -> Result<(), CriError> {
    runtime
        .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
        .await?;
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.map(|_| ())
}
