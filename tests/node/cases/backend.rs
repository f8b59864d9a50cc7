//! A second node of the cluster, by `examples/process-backend`: the library's face on a real API
//! server, with pods as plain processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};

use crate::bed::{Bed, same};
use crate::look::text;
use crate::{Case, beyond};

pub(crate) fn cases() -> Vec<Case> {
    vec![beyond(pods_as_processes)]
}

/// The second node's name.
const NODE: &str = "processes";
/// Its address: that of the control plane, in whose network the tests run.
const ADDRESS: &str = "10.200.0.1";

/// The backend of the second node.
struct Backend {
    program: PathBuf,
    root: tempfile::TempDir,
    process: Child,
}

impl Backend {
    fn start(bed: &Bed) -> Result<Self> {
        let program = rkubelet_bed::run::target_dir()?.join("debug/examples/process-backend");
        let has_program = program.is_file();
        ensure!(has_program, "{}: cargo build --example process-backend", program.display());
        let root = tempfile::tempdir()?;
        let process = run(bed, &program, root.path())?;
        Ok(Self { program, root, process })
    }

    /// Kills the backend, and starts it again.
    async fn kill_and_start(&mut self, bed: &Bed) -> Result<()> {
        self.process.kill().await?;
        self.process = run(bed, &self.program, self.root.path())?;
        Ok(())
    }
}

fn run(bed: &Bed, program: &Path, root: &Path) -> Result<Child> {
    let kubeconfig = bed.cluster.env("KUBECONFIG");
    let folder = Path::new(kubeconfig).parent().context("the cluster's folder")?;
    let log = std::fs::File::options().create(true).append(true).open(root.join("log"))?;
    let mut command = Command::new(program);
    command.args([NODE, kubeconfig]).arg(root).arg("--port=10290");
    // The control plane's network has no default route, by which the node would find its address.
    command.arg(format!("--node-ip={ADDRESS}"));
    command.arg(format!("--client-ca-file={}", folder.join("pki/ca.crt").display()));
    command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn pods_as_processes(bed: Bed) -> Result<()> {
    let mut backend = Backend::start(&bed)?;
    let shown = live(&bed, &mut backend).await;
    backend.process.kill().await?;
    bed.delete_kind("Node", NODE).await.ok();
    shown.with_context(|| {
        let log = std::fs::read_to_string(backend.root.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(30).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    })
}

async fn live(bed: &Bed, backend: &mut Backend) -> Result<()> {
    let ready = ["cond[Ready]=True", "status.nodeInfo.containerRuntimeVersion=process://*"];
    bed.until_kind("Node", NODE, &ready).await?;

    // The environment is resolved, the exit code is shown, the log is kept.
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: words}, data: {who: world}}")
        .await?;
    let spec = "{nodeName: processes, restartPolicy: Never, containers: [{name: main, image: none, command: [/bin/sh, -c, 'echo hello $WHO from $(POD); exit 3'], env: [{name: WHO, valueFrom: {configMapKeyRef: {name: words, key: who}}}, {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}";
    bed.pod("ends", spec).await?;
    bed.until("ends", &["phase=Failed", "c[main].state.terminated.exitCode=3"]).await?;
    same("the log", &*bed.kubectl(&["logs", "ends"]).await?, "hello world from ends\n")?;

    // Init containers go first; what is missing is said, and tried again.
    let spec = "{nodeName: processes, restartPolicy: Never, initContainers: [{name: first, image: none, command: [/bin/true]}], containers: [{name: main, image: none, command: [/bin/true], env: [{name: A, valueFrom: {configMapKeyRef: {name: late, key: a}}}]}]}";
    bed.pod("late", spec).await?;
    let waits = [
        "c[first].state.terminated.exitCode=0",
        "c[main].state.waiting.reason=CreateContainerConfigError",
        "c[main].state.waiting.message=configmap \"late\" not found",
    ];
    bed.until("late", &waits).await?;
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: late}, data: {a: b}}").await?;
    bed.until("late", &["phase=Succeeded"]).await?;

    // The second restart waits.
    let spec =
        "{nodeName: processes, containers: [{name: main, image: none, command: [/bin/false]}]}";
    bed.pod("crashes", spec).await?;
    let backs_off = [
        "c[main].state.waiting.reason=CrashLoopBackOff",
        "c[main].lastState.terminated.exitCode=1",
    ];
    bed.until("crashes", &backs_off).await?;

    // A pod outlives the backend that was killed.
    let spec = "{nodeName: processes, terminationGracePeriodSeconds: 20, containers: [{name: main, image: none, command: [/bin/sh, -c, 'trap \"sleep 1; exit 0\" TERM; echo up; while :; do sleep 0.1; done'], readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}}]}";
    bed.pod("runs", spec).await?;
    let before = bed.until("runs", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    backend.kill_and_start(bed).await?;
    bed.until("ends", &["phase=Failed"]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bed.stays("runs", 3, &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    let after = bed.get("Pod", "runs").await?;
    let id = "status.containerStatuses.main.containerID";
    same("the container", text(&after, id), text(&before, id))?;
    same("the log", &*bed.kubectl(&["logs", "runs"]).await?, "up\n")?;

    // Its end has the grace that it needs, and not more.
    let asked = Instant::now();
    bed.delete("runs", None).await?;
    bed.until_gone("Pod", "runs").await?;
    let took = asked.elapsed();
    ensure!(took > Duration::from_secs(1) && took < Duration::from_secs(15), "{took:?}");
    for name in ["ends", "late", "crashes"] {
        bed.delete(name, None).await?;
        bed.until_gone("Pod", name).await?;
    }
    let left = std::fs::read_dir(backend.root.path().join("processes"))?.count();
    same("folders of pods", left, 0)
}
