//! A cluster of `tests/cluster` for as long as a phase runs: brought up, driven, and taken down
//! whatever happens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/cluster");

/// A running cluster with one node, `n1`.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    env: BTreeMap<String, String>,
}

/// `cluster --name NAME ARGS…`, always outside of every cluster's network: the first thread of this
/// program stays there.
fn script(name: &str, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", std::process::id()));
    // The name comes first: `ctr` and `node-exec` hand all that follows to another program.
    command.args(["--", SCRIPT, "--name", name]).args(args).stdin(Stdio::null());
    command
}

/// Takes away whatever there is of `name`; says what could not be removed.
pub fn down(name: &str) -> Result<()> {
    let output = script(name, &["down"]).output().context("running tests/cluster/cluster down")?;
    ensure!(output.status.success(), "cluster down: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What `name` left behind: empty after a good end.
pub fn leaks(name: &str) -> Result<String> {
    let output =
        script(name, &["leaks", name]).output().context("running tests/cluster/cluster leaks")?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    // It fails when it finds something; without a finding the failure is its own.
    ensure!(
        output.status.success() || !found.trim().is_empty(),
        "cluster leaks: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(found)
}

impl Cluster {
    /// Brings the cluster up, with `more` options of `cluster up`; the script's own words are the
    /// error. `config` (YAML) is merged over the kubelet's configuration. `LATE_START` in the
    /// environment is the option `--late-start`, `SYSTEMD=1` the option `--systemd`.
    pub fn up(
        name: &str,
        kubelet: &str,
        containerd: &str,
        config: &str,
        more: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("kubelet.yaml");
        std::fs::write(&file, config)?;
        let file = file.to_str().context("a path that is no text")?;

        let late = std::env::var("LATE_START").unwrap_or_else(|_| "0".to_owned());
        let args =
            ["up", "--kubelet", kubelet, "--containerd", containerd, "--kubelet-config", file];
        let systemd: &[&str] =
            if std::env::var("SYSTEMD").is_ok_and(|set| set == "1") { &["--systemd"] } else { &[] };
        let args = [&args[..], &["--late-start", &late], systemd].concat();

        let status = script(name, &[&args, more].concat())
            .stdout(Stdio::null())
            .status()
            .context("running tests/cluster/cluster up")?;
        ensure!(status.success(), "the cluster did not come up: its words are above");
        Self::attach(name)
    }

    /// A cluster that is up.
    pub fn attach(name: &str) -> Result<Self> {
        let mut cluster = Self { name: name.to_owned(), env: BTreeMap::new() };
        cluster.read_env()?;
        Ok(cluster)
    }

    fn read_env(&mut self) -> Result<()> {
        let output =
            script(&self.name, &["env"]).output().context("running tests/cluster/cluster env")?;
        self.env = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        ensure!(self.env.contains_key("NETNS"), "cluster env says nothing of NETNS");
        Ok(())
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A value of the cluster's env file; the empty text if there is none.
    pub fn env(&self, key: &str) -> &str {
        self.env.get(key).map_or("", String::as_str)
    }

    /// A path on the node, as the machine sees it.
    pub fn on_node(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("{}{path}", self.env("NODE_N1_ROOT")))
    }

    /// The folder of the cgroup `below` that of all pods, in the hierarchies of the machine:
    /// `burstable/podUID`, and with a container's id behind it the container's.
    pub fn pods_cgroup(&self, below: &str) -> String {
        let root = self.env("NODE_N1_CGROUP");
        if self.env("NODE_N1_CGROUP_DRIVER") == "cgroupfs" {
            return format!("{root}/kubepods/{below}");
        }
        let (mut path, mut slice) = (format!("{root}/kubepods.slice"), "kubepods".to_owned());
        for part in below.split('/').filter(|part| !part.is_empty()) {
            if ["burstable", "besteffort"].contains(&part) || part.starts_with("pod") {
                slice = format!("{slice}-{}", part.replace('-', "_"));
                path = format!("{path}/{slice}.slice");
            } else {
                path = format!("{path}/cri-containerd-{part}.scope");
            }
        }
        path
    }

    /// Moves this thread, and those that it will start, into the network of the API server.
    pub fn enter_network(&self) -> Result<()> {
        let file = std::fs::File::open(self.env("NETNS"))
            .context("opening the cluster's network namespace")?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
            .context("entering the cluster's network namespace")
    }

    /// A verb of the harness, such as `kubelet restart n1`; its output.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let output = Command::from(script(&self.name, args))
            .kill_on_drop(true)
            .output()
            .await
            .context("running tests/cluster/cluster")?;
        if !output.status.success() {
            bail!("cluster {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command in all namespaces of the node; its output, also what it wrote to stderr.
    pub async fn node_exec(&self, argv: &[&str]) -> Result<String> {
        let pid = self.env("NODE_N1_PID");
        let mut command = Command::new("nsenter");
        command
            .args(["--target", pid, "--net", "--pid", "--mount", "--uts", "--ipc", "--"])
            .args(argv);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("running nsenter")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} on the node: {}", argv.join(" "), text.trim());
        Ok(text)
    }

    /// containerd's client on the node.
    pub async fn ctr(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["ctr", "n1"], args].concat()).await
    }

    /// The last lines of the kubelet's log that mention `what`.
    pub fn kubelet_log(&self, what: &str, lines: usize) -> String {
        let log = std::fs::read_to_string(self.env("NODE_N1_KUBELET_LOG")).unwrap_or_default();
        let mut found: Vec<&str> =
            log.lines().rev().filter(|line| line.contains(what)).take(lines).collect();
        found.reverse();
        found.join("\n")
    }
}
