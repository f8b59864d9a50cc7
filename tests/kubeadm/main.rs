//! kubeadm, unchanged, on two hosts whose init is systemd.
//!
//! `kubeadm init` on the first, with its control plane as static pods of the kubelet, and `kubeadm
//! join` of the second by a bootstrap token. Then a network, kube-proxy and CoreDNS as pods, an
//! application behind a Service, `kubeadm certs renew`, `upgrade node`, `reset`, and another join.
//!
//! `cargo test --test kubeadm`, as root; `RKUBELET_BIN` names the program (default:
//! `target/release/rkubelet`), `KUBELET=upstream` takes upstream's instead, `RKUBELET_CLUSTER`
//! names hosts that are up (`--bare --systemd --nodes 2`). Each check builds on those before it,
//! so the first that fails ends the run. The times and the memory of the kubelets come last.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod hosts;
mod install;
mod workload;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::{self, Tally};

use hosts::Hosts;

fn main() -> ExitCode {
    run::suite("kubeadm", run_all)
}

fn run_all(tally: &mut Tally) -> Result<()> {
    run::need_root()?;
    let name = format!("kubeadm-{}", std::process::id());

    run::on_cluster(
        &name,
        tally,
        |name| Cluster::up(name, "none", "2.3", "", &["--bare", "--systemd", "--nodes", "2"]),
        |cluster, tally| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let mut checks = Checks { hosts: Hosts { cluster }, tally, times: Vec::new() };
            let outcome = runtime.block_on(checks.all());
            runtime.shutdown_background();
            outcome
        },
    )
}

/// How long a check may take, beyond the waits of its own.
const CHECK: Duration = Duration::from_secs(360);

/// The checks on the two hosts, and their results.
struct Checks<'a> {
    hosts: Hosts,
    tally: &'a mut Tally,
    times: Vec<(&'static str, Duration)>,
}

/// Runs one check and returns from the caller if it fails: `check!(self, "what", work)`.
macro_rules! check {
    ($checks:expr, $what:literal, $work:expr) => {{
        let began = Instant::now();
        let outcome = run::within(CHECK, $work).await;
        $checks.ended($what, began, outcome).await?
    }};
}

impl Checks<'_> {
    async fn all(&mut self) -> Result<()> {
        check!(self, "the hosts have a kubelet and kubeadm", install::on_both(&self.hosts));
        check!(self, "kubeadm init", self.hosts.init());
        check!(self, "the control plane is static pods", self.hosts.has_control_plane());
        check!(self, "kubeadm join", self.hosts.join());
        check!(self, "its certificate came by the token", self.hosts.is_bootstrapped());
        check!(self, "a network comes as a DaemonSet: both Ready", workload::network(&self.hosts));
        check!(self, "kube-proxy and CoreDNS run", workload::addons(&self.hosts));
        check!(self, "a Deployment on both nodes", workload::deploy(&self.hosts));
        check!(self, "its Service answers by name on both", workload::is_reached(&self.hosts));
        check!(self, "kubectl logs and exec on both", workload::logs_and_exec(&self.hosts));
        let before = workload::containers(&self.hosts).await?;
        let memory = self.hosts.memory().await?;

        check!(self, "kubeadm certs renew", self.hosts.renew_certificates());
        check!(self, "kubeadm upgrade node", self.hosts.upgrade_node());
        check!(self, "no container has noticed", workload::are_as_they_were(&self.hosts, &before));
        check!(self, "kubeadm reset", self.hosts.reset());
        check!(self, "kubeadm join once more", self.hosts.join());
        check!(self, "the Deployment is on both nodes again", workload::deploy(&self.hosts));
        check!(self, "its Service answers by name on both", workload::is_reached(&self.hosts));
        self.print_figures(&memory);
        Ok(())
    }

    /// Counts a check; an error carries on, with the kubelets' last words printed.
    async fn ended<T>(
        &mut self,
        what: &'static str,
        began: Instant,
        outcome: Result<T>,
    ) -> Result<T> {
        let took = began.elapsed();
        let facts = if outcome.is_err() { self.hosts.last_words().await } else { String::new() };
        self.tally.ended(what, took, &outcome, &facts);
        self.times.push((what, took));
        outcome
    }

    /// Prints the times of what a kubelet has a part in, and the kubelets' memory, as one table.
    fn print_figures(&self, memory: &[(&str, u64)]) {
        println!("\n| {} | |\n|---|---|", run::kubelet());
        for (what, took) in self.times.iter().skip(1) {
            println!("| {what} | {:.1} s |", took.as_secs_f64());
        }
        for (host, kib) in memory {
            println!("| memory of the kubelet on {host} | {:.1} MiB |", to_mib(*kib));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a table")]
fn to_mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
