//! The two hosts, and kubeadm's commands on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rkubelet_bed::bed::same;
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::until;

/// The host of the control plane.
pub(crate) const PLANE: &str = "n1";
/// The host that joins.
pub(crate) const WORKER: &str = "n2";

/// What kubeadm must not look at here: it refuses cgroup v1.
const IGNORED: &str = "--ignore-preflight-errors=SystemVerification";
const INIT: &str = include_str!("init.yaml");
const CONFIG: &str = "/etc/kubeadm.yaml";
const CLIENT_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// The two hosts of a cluster of `--bare --systemd --nodes 2`.
#[derive(Debug)]
pub(crate) struct Hosts {
    pub(crate) cluster: Cluster,
}

impl Hosts {
    /// A path on a host, as the machine sees it.
    pub(crate) fn path(&self, host: &str, path: &str) -> PathBuf {
        let root = self.cluster.env(&format!("NODE_{}_ROOT", host.to_uppercase()));
        PathBuf::from(format!("{root}{path}"))
    }

    /// A host's address.
    pub(crate) fn address(&self, host: &str) -> &str {
        self.cluster.env(&format!("NODE_{}_IP", host.to_uppercase()))
    }

    /// The output of a command on a host, as an administrator gets it: kubeadm would hand the
    /// proxies of this environment to the control plane.
    pub(crate) async fn run(&self, host: &str, argv: &[&str]) -> Result<String> {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let clean = ["node-exec", host, "--", "env", "-i", "HOME=/root", path];
        let output = self.cluster.run(&[&clean, argv].concat()).await?;
        Ok(output.trim_end().to_owned())
    }

    /// The output of kubectl, as the cluster's administrator.
    pub(crate) async fn kubectl(&self, argv: &[&str]) -> Result<String> {
        let output = self.cluster.run(&[&["kubectl"], argv].concat()).await?;
        Ok(output.trim_end().to_owned())
    }

    /// The last words of the kubelets, and what there is in the cluster.
    pub(crate) async fn last_words(&self) -> String {
        let mut words = String::new();
        for host in [PLANE, WORKER] {
            let argv = ["journalctl", "--no-pager", "-n", "25", "-u", "kubelet", "-u", "rkubelet"];
            words += &self.run(host, &argv).await.unwrap_or_else(|error| format!("{error:#}"));
            words += "\n";
        }
        let pods = self.kubectl(&["get", "pods,nodes", "-A", "-o", "wide"]).await;
        words + &pods.unwrap_or_else(|error| format!("{error:#}"))
    }

    pub(crate) async fn init(&self) -> Result<()> {
        let config = INIT
            .replace("ADDRESS", self.address(PLANE))
            .replace("VERSION", self.cluster.env("KUBERNETES_VERSION"));
        std::fs::write(self.path(PLANE, CONFIG), config)?;
        self.run(PLANE, &["kubeadm", "init", "--config", CONFIG]).await?;

        let credentials = self.path(PLANE, "/etc/kubernetes/admin.conf");
        std::fs::copy(credentials, Path::new(self.cluster.env("KUBECONFIG")))?;
        Ok(())
    }

    /// The four static pods have mirror pods, which are Ready.
    pub(crate) async fn has_control_plane(&self) -> Result<()> {
        let wait = ["wait", "-n", "kube-system", "--for=condition=Ready", "--timeout=120s"];
        let parts = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        let pods = parts.map(|part| format!("pod/{part}-{PLANE}"));
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        // The last of them may not be there yet.
        until(Duration::from_secs(60), async || {
            self.kubectl(&[&["get", "-n", "kube-system"], &pods[..]].concat()).await.map(drop)
        })
        .await?;
        self.kubectl(&[&wait, &pods[..]].concat()).await.map(drop)
    }

    /// Joins the second host with a token and the command that kubeadm prints for it.
    pub(crate) async fn join(&self) -> Result<()> {
        let command =
            self.run(PLANE, &["kubeadm", "token", "create", "--print-join-command"]).await?;
        let argv: Vec<&str> = command.split_whitespace().chain([IGNORED]).collect();
        self.run(WORKER, &argv).await?;
        self.kubectl(&["get", "node", WORKER]).await.map(drop)
    }

    /// The node's credentials were signed on a request of the token's user; the token's file is
    /// gone.
    pub(crate) async fn is_bootstrapped(&self) -> Result<()> {
        let each = "jsonpath={range .items[*]}{.spec.username} {.spec.signerName} \
                    {.status.conditions[*].type}{\"\\n\"}{end}";
        let requests = self.kubectl(&["get", "csr", "-o", each]).await?;
        let is_wanted = |line: &str| {
            line.starts_with("system:bootstrap:")
                && line.ends_with("kubernetes.io/kube-apiserver-client-kubelet Approved")
        };
        ensure!(requests.lines().any(is_wanted), "the certificate requests are:\n{requests}");

        let credentials =
            std::fs::read_to_string(self.path(WORKER, "/etc/kubernetes/kubelet.conf"))
                .context("the kubelet's credentials")?;
        ensure!(credentials.contains(CLIENT_CERTIFICATE), "the credentials are:\n{credentials}");
        let subject = ["openssl", "x509", "-noout", "-subject", "-in", CLIENT_CERTIFICATE];
        let subject = self.run(WORKER, &subject).await?;
        ensure!(subject.ends_with(&format!("CN = system:node:{WORKER}")), "it is of {subject}");
        let token = self.path(WORKER, "/etc/kubernetes/bootstrap-kubelet.conf");
        ensure!(!token.exists(), "kubeadm has left {}", token.display());
        Ok(())
    }

    /// The memory of the two kubelets, in KiB.
    pub(crate) async fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut found = Vec::new();
        for host in [PLANE, WORKER] {
            let pid = self.main_process(host).await?;
            let status = std::fs::read_to_string(self.path(host, &format!("/proc/{pid}/status")))?;
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let resident = resident.context("no VmRSS")?.trim_end_matches("kB").trim();
            found.push((host, resident.parse()?));
        }
        Ok(found)
    }

    /// The process of the unit that kubeadm knows.
    async fn main_process(&self, host: &str) -> Result<String> {
        self.run(host, &["systemctl", "show", "-P", "MainPID", "kubelet"]).await
    }

    /// Renews every certificate of the control plane, and has its pods take them: by moving their
    /// manifests away and back, as kubeadm's documentation says.
    pub(crate) async fn renew_certificates(&self) -> Result<()> {
        let serial =
            ["openssl", "x509", "-noout", "-serial", "-in", "/etc/kubernetes/pki/apiserver.crt"];
        let before = self.run(PLANE, &serial).await?;
        self.run(PLANE, &["kubeadm", "certs", "renew", "all"]).await?;
        ensure!(self.run(PLANE, &serial).await? != before, "the certificate is the same");

        let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
        self.run(PLANE, &["mv", manifest, "/etc/kubernetes/"]).await?;
        until(Duration::from_secs(90), async || {
            ensure!(self.shown_serial().await.is_err(), "the API server still answers");
            Ok(())
        })
        .await?;
        self.run(PLANE, &["mv", "/etc/kubernetes/kube-apiserver.yaml", manifest]).await?;
        let wanted = self.run(PLANE, &serial).await?;
        until(Duration::from_secs(120), async || {
            same("the serial that the API server shows", self.shown_serial().await?, wanted.clone())
        })
        .await?;
        let credentials = self.path(PLANE, "/etc/kubernetes/admin.conf");
        std::fs::copy(credentials, Path::new(self.cluster.env("KUBECONFIG")))?;
        until(Duration::from_secs(60), async || {
            let argv = ["wait", "node", "--all", "--for=condition=Ready", "--timeout=30s"];
            self.kubectl(&argv).await.map(drop)
        })
        .await
    }

    /// The serial number of the certificate that the API server shows now.
    async fn shown_serial(&self) -> Result<String> {
        let shown = format!(
            "openssl s_client -connect {}:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial",
            self.address(PLANE)
        );
        self.run(PLANE, &["bash", "-o", "pipefail", "-c", &shown]).await
    }

    /// Upgrades the second node, and starts its kubelet again as kubeadm's documentation says.
    pub(crate) async fn upgrade_node(&self) -> Result<()> {
        self.run(WORKER, &["kubeadm", "upgrade", "node", IGNORED]).await?;
        let before = self.main_process(WORKER).await?;
        self.run(WORKER, &["systemctl", "daemon-reload"]).await?;
        self.run(WORKER, &["systemctl", "restart", "kubelet"]).await?;
        ensure!(self.main_process(WORKER).await? != before, "the kubelet was not started again");
        until(Duration::from_secs(60), async || {
            self.run(WORKER, &["curl", "-fsS", "http://127.0.0.1:10248/healthz"]).await.map(drop)
        })
        .await?;
        self.kubectl(&["wait", "node", WORKER, "--for=condition=Ready", "--timeout=60s"])
            .await
            .map(drop)
    }

    /// Resets the second host: its pods, its credentials and the kubelet's state are gone.
    pub(crate) async fn reset(&self) -> Result<()> {
        self.kubectl(&["delete", "node", WORKER]).await?;
        self.run(WORKER, &["kubeadm", "reset", "--force"]).await?;

        // It answers by its exit code, too, when the unit does not run.
        let state = ["sh", "-c", "systemctl is-active kubelet || true"];
        same("the kubelet's unit", self.run(WORKER, &state).await?.as_str(), "inactive")?;
        let containers = self.cluster.run(&["ctr", WORKER, "containers", "list", "-q"]).await?;
        same("the containers that are left", containers.trim(), "")?;
        let credentials = self.path(WORKER, "/etc/kubernetes/kubelet.conf");
        ensure!(!credentials.exists(), "{} is still there", credentials.display());
        let state = ["find", "/var/lib/kubelet", "-mindepth", "1"];
        same("the kubelet's state", self.run(WORKER, &state).await?.as_str(), "")?;
        // kubeadm says that it does not remove this.
        self.run(WORKER, &["find", "/etc/cni/net.d", "-name", "10-pods*", "-delete"])
            .await
            .map(drop)
    }
}
