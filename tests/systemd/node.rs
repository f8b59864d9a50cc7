//! The node of these checks: its units, its pods, the README's commands.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::run::until;
use rkubelet_bed::{look, package};

/// The repository's root, which the node sees at the same path.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The time within which a unit stops.
const PROMPTLY: Duration = Duration::from_secs(5);
/// The command that takes rkubelet's place back, as the README has it.
const WAY_BACK: &str = "systemctl disable --now rkubelet && systemctl enable --now kubelet";

/// A pod from a file on the node, with something of everything that counts for its UID.
const STATIC_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: fixed, labels: {tier: control-plane}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: tmp, hostPath: {path: /tmp, type: Directory}}]
  containers:
  - name: main
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1
    command: [sh, -c, 'while true; do date +%s; sleep 1; done']
    resources: {requests: {cpu: 10m, memory: 8Mi}}
    ports: [{name: http, containerPort: 8099}]
    readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
    volumeMounts: [{name: tmp, mountPath: /host-tmp, readOnly: true}]
";

/// The only node of a cluster of `--systemd`.
pub(crate) struct Node {
    /// The namespace `default`.
    pub(crate) bed: Bed,
    /// rkubelet's program.
    pub(crate) program: PathBuf,
}

/// What must stay of the two pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct States {
    api: Vec<String>,
    from_file: Vec<String>,
}

impl Node {
    /// The output of a command in all namespaces of the node.
    pub(crate) async fn run(&self, argv: &[&str]) -> Result<String> {
        let output = self.bed.cluster.run(&[&["node-exec", "n1", "--"], argv].concat()).await?;
        Ok(output.trim_end().to_owned())
    }

    /// The value of a unit's property.
    pub(crate) async fn property(&self, unit: &str, property: &str) -> Result<String> {
        self.run(&["systemctl", "show", "-P", property, unit]).await
    }

    /// The last words of both kubelets.
    pub(crate) async fn journal(&self) -> String {
        let argv = ["journalctl", "--no-pager", "-n", "30", "-u", "rkubelet", "-u", "kubelet"];
        self.run(&argv).await.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The unit `kubelet`, which kubeadm knows, runs `/usr/bin/PROGRAM`.
    pub(crate) async fn runs(&self, program: &str) -> Result<()> {
        let pid = self.property("kubelet", "MainPID").await?;
        ensure!(pid != "0", "kubelet.service has no process");
        let runs = self.run(&["readlink", &format!("/proc/{pid}/exe")]).await?;
        same("the program of kubelet.service", runs, format!("/usr/bin/{program}"))
    }

    pub(crate) async fn is_ready(&self) -> Result<()> {
        self.bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await.map(drop)
    }

    pub(crate) async fn has_service_account(&self) -> Result<()> {
        self.bed.until_kind("ServiceAccount", "default", &[]).await.map(drop)
    }

    /// `program` runs, and the node's lease is renewed from now on.
    pub(crate) async fn is_reported_by(&self, program: &str) -> Result<()> {
        self.runs(program).await?;
        let before = self.renewed().await?;
        until(Duration::from_secs(30), async || {
            let now = self.renewed().await?;
            ensure!(now.is_some() && now != before, "the lease is still of {before:?}");
            Ok(())
        })
        .await
    }

    /// When the lease was renewed; none if upstream's kubelet has not made it yet, which waits
    /// after it found no Node.
    async fn renewed(&self) -> Result<Option<String>> {
        let leases = Bed { name: "kube-node-lease".to_owned(), ..self.bed.clone() };
        let lease = leases.api("Lease").get_opt("n1").await.context("reading the node's lease")?;
        let renewed = lease
            .and_then(|lease| lease.data.pointer("/spec/renewTime")?.as_str().map(str::to_owned));
        Ok(renewed)
    }

    /// Makes a pod that prints the time, and waits until it is Ready.
    pub(crate) async fn make_pod(&self, name: &str, resources: &str) -> Result<()> {
        let spec = format!(
            "
            terminationGracePeriodSeconds: 1
            containers:
            - name: main
              image: busybox
              resources: {resources}
              command: [sh, -c, 'while true; do date +%s; sleep 1; done']
              readinessProbe: {{exec: {{command: ['true']}}, periodSeconds: 1}}
            "
        );
        self.bed.pod(name, &spec).await?;
        self.bed.until(name, &["cond[Ready]=True"]).await.map(drop)
    }

    /// Puts [`STATIC_POD`] on the node, and waits until its mirror pod is Ready.
    pub(crate) async fn make_static_pod(&self) -> Result<()> {
        let file = self.bed.cluster.on_node("/etc/kubernetes/manifests/fixed.yaml");
        std::fs::write(&file, STATIC_POD).with_context(|| format!("writing {}", file.display()))?;
        self.bed.until("fixed-n1", &["cond[Ready]=True"]).await.map(drop)
    }

    /// The state of the pod of the API and of the static pod.
    pub(crate) async fn states(&self) -> Result<States> {
        Ok(States { api: self.state("stays").await?, from_file: self.state("fixed-n1").await? })
    }

    /// All of a pod that another kubelet must not change, each field with its value.
    pub(crate) async fn state(&self, name: &str) -> Result<Vec<String>> {
        let pod = self.bed.get("Pod", name).await?;
        let fields = [
            "metadata.uid",
            "status.podIP",
            "status.startTime",
            "c[main].containerID",
            "c[main].state.running.startedAt",
            "c[main].restartCount",
            "cond[Ready]",
            "cond[Ready].lastTransitionTime",
        ];
        Ok(fields.map(|field| format!("{field}={}", look::text(&pod, field))).into())
    }

    /// The pod does not differ from what it was.
    pub(crate) async fn is_as_it_was(&self, name: &str, before: &[String]) -> Result<()> {
        same("the pod", self.state(name).await?, before.to_vec())
    }

    /// Neither pod differs from what it was before rkubelet took over.
    pub(crate) async fn are_as_they_were(&self, before: &States) -> Result<()> {
        same("the pods", self.states().await?, before.clone())
    }

    /// Neither pod differs, upstream's kubelet being back: it begins the status of a static pod
    /// anew at each of its starts, so that the times in it are of no account.
    pub(crate) async fn are_as_upstream_leaves_them(&self, before: &States) -> Result<()> {
        let without_times = |states: States| {
            let is_kept = |field: &String| !field.contains("Time=");
            let from_file = states.from_file.into_iter().filter(is_kept).collect();
            States { from_file, ..states }
        };
        // Its probe has to answer once more.
        self.bed.until("fixed-n1", &["cond[Ready]=True"]).await?;
        same("the pods", without_times(self.states().await?), without_times(before.clone()))
    }

    /// Logs and exec reach the pod through the API server and the kubelet.
    pub(crate) async fn reads_and_runs(&self, pod: &str) -> Result<()> {
        self.bed.until_logged(pod, "main", "1?????????").await?;
        let said = self.bed.exec(pod, "main", &["sh", "-c", "echo here; hostname"]).await?;
        same("the output of exec", said, format!("here\n{pod}\n"))
    }

    /// Runs the README's commands, all but the compiler's: the program is put there.
    pub(crate) async fn replace_kubelet(&self) -> Result<()> {
        let commands = readme_commands(&read_me()?)?;
        ensure!(
            commands.contains("systemctl enable --now rkubelet"),
            "the README's first commands are others:\n{commands}"
        );
        package::install(&self.program, &self.bed.cluster.on_node("/usr/bin/rkubelet"))?;
        self.run(&["sh", "-euxc", &format!("cd '{ROOT}'; {commands}")]).await.map(drop)
    }

    pub(crate) async fn take_back(&self) -> Result<()> {
        let text = read_me()?.replace('\n', " ");
        ensure!(text.contains(&format!("`{WAY_BACK}`")), "the README has no `{WAY_BACK}`");
        self.run(&["sh", "-euxc", WAY_BACK]).await.map(drop)
    }

    /// Puts rkubelet, which is installed, in the place of upstream's kubelet.
    pub(crate) async fn takes_place(&self) -> Result<()> {
        self.run(&["systemctl", "disable", "--now", "kubelet"]).await?;
        self.run(&["systemctl", "enable", "--now", "rkubelet"]).await?;
        self.is_reported_by("rkubelet").await
    }

    pub(crate) async fn unit_is_read_whole(&self) -> Result<()> {
        let drop_ins = self.property("rkubelet", "DropInPaths").await?;
        let wanted = "/etc/systemd/system/rkubelet.service.d/10-kubeadm.conf";
        same("the drop-ins", drop_ins.as_str(), wanted)?;
        let argv = ["journalctl", "--no-pager", "-t", "systemd", "-p", "warning"];
        let warnings = self.run(&argv).await?;
        ensure!(!warnings.contains("rkubelet"), "systemd complains:\n{warnings}");
        Ok(())
    }

    pub(crate) async fn survives_a_kill(&self) -> Result<()> {
        let killed = self.property("rkubelet", "MainPID").await?;
        self.run(&["kill", "-KILL", &killed]).await?;
        until(Duration::from_secs(30), async || {
            let pid = self.property("rkubelet", "MainPID").await?;
            ensure!(pid != killed, "process {killed} is still the unit's");
            self.runs("rkubelet").await
        })
        .await
    }

    /// Stops rkubelet: soon, without an error, and with the pod's container running on. Then
    /// starts it by kubeadm's name.
    pub(crate) async fn stops(&self, pod: &str) -> Result<()> {
        let began = Instant::now();
        self.run(&["systemctl", "stop", "rkubelet"]).await?;
        let took = began.elapsed();
        ensure!(took < PROMPTLY, "it took {:.1} s", took.as_secs_f64());
        same("the result", self.property("rkubelet", "Result").await?.as_str(), "success")?;

        let pod = self.bed.get("Pod", pod).await?;
        let id = look::text(&pod, "c[main].containerID").replace("containerd://", "");
        let tasks = self.bed.cluster.ctr(&["task", "list"]).await?;
        ensure!(
            tasks.lines().any(|line| line.starts_with(&id) && line.contains("RUNNING")),
            "container {id} does not run:\n{tasks}"
        );
        self.run(&["systemctl", "start", "kubelet"]).await.map(drop)
    }
}

fn read_me() -> Result<String> {
    std::fs::read_to_string(Path::new(ROOT).join("README.md")).context("reading README.md")
}

/// The commands of the README's first block of shell, without comments and the compiler's.
fn readme_commands(text: &str) -> Result<String> {
    let Some((_, block)) = text.split_once("```sh\n") else { bail!("the README has no commands") };
    let (block, _) = block.split_once("```").context("the README's commands have no end")?;
    let commands: Vec<&str> = block
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default().trim_end())
        .filter(|line| !line.starts_with("cargo install"))
        .collect();
    Ok(commands.join("\n"))
}
