//! The first screen of the README on a node whose init is systemd.
//!
//! Upstream's kubelet runs there as its package and kubeadm leave it, with a pod and a static pod. The
//! README's commands put rkubelet in its place, and take it back; neither pod must notice. On the
//! way the slices that both make for pods are compared. At the end a shutdown is announced to each.
//!
//! `cargo test --test systemd`, as root; `RKUBELET_BIN` names the program (default:
//! `target/release/rkubelet`), `RKUBELET_CLUSTER` a fresh cluster that is up (`--kubelet none
//! --systemd`). Each check builds on those before it, so the first that fails ends
//! the run.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod node;
mod packaged;
mod shutdown;
mod slices;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rkubelet_bed::bed::{self, Bed};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::{self, Tally};

use node::Node;

fn main() -> ExitCode {
    run::suite("systemd", run_all)
}

fn run_all(tally: &mut Tally) -> Result<()> {
    run::need_root()?;
    let program = run::program()?;
    let name = format!("systemd-{}", std::process::id());

    run::on_cluster(
        &name,
        tally,
        |name| Cluster::up(name, "none", "2.3", "", &["--systemd"]),
        |cluster, tally| {
            let cluster = Arc::new(cluster);
            run::in_network(&cluster, || async {
                let client = bed::client(&cluster).await.context("a client of the API server")?;
                let bed = Bed::at(Arc::clone(&cluster), client, "default");
                Checks { node: Node { bed, program }, tally }.all().await
            })
        },
    )
}

/// How long a check may take, beyond the waits of its own.
const CHECK: Duration = Duration::from_secs(300);

/// The checks on one node, and their results.
struct Checks<'a> {
    node: Node,
    tally: &'a mut Tally,
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
        check!(self, "upstream's kubelet is its service", upstream::install(&self.node));
        check!(self, "the node is Ready", self.node.is_ready());
        check!(self, "the namespace has what pods need", self.node.has_service_account());
        check!(self, "a pod runs", self.node.make_pod("stays", "{}"));
        check!(self, "a static pod runs", self.node.make_static_pod());
        check!(self, "upstream's kubelet looks after them", self.node.runs("kubelet"));
        let theirs = check!(self, "its slices of pods, for comparison", slices::make(&self.node));
        let before = self.node.states().await?;

        check!(self, "the README's commands", self.node.replace_kubelet());
        let unit = "systemd reads the unit and the drop-in without complaint";
        let began = Instant::now();
        let outcome = run::within(CHECK, self.node.unit_is_read_whole()).await;
        self.ended(unit, began, outcome).await?;
        check!(
            self,
            "rkubelet is kubelet.service, and renews the lease",
            self.node.is_reported_by("rkubelet")
        );
        check!(self, "the node is Ready", self.node.is_ready());
        check!(self, "the pods have not noticed", self.node.are_as_they_were(&before));
        check!(self, "another pod runs", self.node.make_pod("new", "{}"));
        check!(self, "kubectl logs and exec", self.node.reads_and_runs("new"));

        let ours = check!(self, "its slices of pods come and go", slices::make(&self.node));
        check!(self, "they are what upstream's kubelet makes", async {
            slices::are_the_same(&theirs, &ours)
        });
        check!(
            self,
            "limits outlive a reload of systemd",
            slices::limits_outlive_a_reload(&self.node)
        );
        check!(self, "killed, it is started again by systemd", self.node.survives_a_kill());
        check!(self, "it stops promptly; containers stay", self.node.stops("stays"));
        check!(
            self,
            "started as kubelet.service it is rkubelet",
            self.node.is_reported_by("rkubelet")
        );
        check!(self, "the pods have not noticed", self.node.are_as_they_were(&before));

        check!(self, "the way back", self.node.take_back());
        check!(
            self,
            "upstream's kubelet runs again, and renews the lease",
            self.node.is_reported_by("kubelet")
        );
        check!(self, "the pods have not noticed", self.node.are_as_upstream_leaves_them(&before));
        self.shuts_down().await
    }

    /// A shutdown that is announced, first to upstream's kubelet, then to rkubelet.
    async fn shuts_down(&mut self) -> Result<()> {
        check!(self, "logind waits for upstream's kubelet", shutdown::is_configured(&self.node));
        check!(
            self,
            "a shutdown ends its pods by priority",
            shutdown::ends_pods_by_priority(&self.node, "upstream")
        );
        check!(self, "rkubelet takes its place", self.node.takes_place());
        check!(self, "logind waits for rkubelet", shutdown::is_configured(&self.node));
        check!(
            self,
            "a shutdown ends its pods by priority",
            shutdown::ends_pods_by_priority(&self.node, "ours")
        );
        self.is_a_package().await
    }

    /// The package in the place of upstream's package, and back.
    async fn is_a_package(&mut self) -> Result<()> {
        check!(self, "both packages are made", packaged::make(&self.node));
        check!(self, "upstream's is installed", packaged::upstream_is_installed(&self.node));
        check!(self, "a pod runs", self.node.make_pod("packaged", "{}"));
        let before = self.node.state("packaged").await?;

        check!(self, "the package takes its place", packaged::takes_its_place(&self.node));
        check!(self, "the pod has not noticed", self.node.is_as_it_was("packaged", &before));
        check!(self, "it is upgraded", packaged::is_upgraded(&self.node));
        check!(self, "the pod has not noticed", self.node.is_as_it_was("packaged", &before));
        check!(self, "it is removed and purged", packaged::is_removed(&self.node));
        check!(self, "upstream's comes back", packaged::gives_way(&self.node));
        check!(self, "the pod has not noticed", self.node.is_as_it_was("packaged", &before));
        Ok(())
    }

    /// Counts a check; an error carries on, with the kubelets' last words printed.
    async fn ended<T>(&mut self, what: &str, began: Instant, outcome: Result<T>) -> Result<T> {
        let took = began.elapsed();
        let facts = if outcome.is_err() { self.node.journal().await } else { String::new() };
        self.tally.ended(what, took, &outcome, &facts);
        outcome
    }
}
