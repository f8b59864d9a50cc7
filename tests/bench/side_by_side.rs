//! The bench: ours and upstream's kubelet in turns on one node, and the bare CRI calls for the same
//! pods as the floor.
//!
//! `tests/bench/run` (or `make bench`) builds and runs this, which brings a cluster up.
//! Each round measures the floor with no kubelet, then gives every kubelet a turn: single pods
//! without and with volumes, fifty at once, idle with none and with 110 pods (`/metrics` scraped
//! all the time), an edited ConfigMap; a volume of a million files only with `--only fsgroup`. The
//! machine is shared, so only figures of one run are compared, and ratios are taken within a round.
//! Samples, summary and machine go to a JSON file.
#![allow(
    clippy::disallowed_methods,
    reason = "a bench reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a bench says goes there")]

mod audit;
mod files;
mod floor;
mod node;
mod pods;
mod process;
mod report;
mod samples;
mod turn;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::{self, Tally};

use files::Million;
use node::{Kubelet, Node};
use pods::Bed;
use samples::Samples;

/// The phase that makes a million files.
const FSGROUP: &str = "fsgroup";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    rounds: u32,
    quick: bool,
    only: Option<String>,
    kubelets: Vec<Kubelet>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut rounds = None;
        let mut quick = false;
        let mut only = None;
        let mut kubelets = "ours,upstream".to_owned();
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--bench" => {} // cargo adds it
                "--quick" => quick = true,
                "--rounds" => rounds = Some(value()?.parse().context("--rounds wants a number")?),
                "--only" => only = Some(value()?),
                "--kubelets" => kubelets = value()?,
                _ => bail!(
                    "unknown option {arg:?} (--quick, --rounds N, --only TEXT, --kubelets LIST)"
                ),
            }
        }
        let kubelets = kubelets.split(',').map(Kubelet::parse).collect::<Result<_>>()?;
        Ok(Self { rounds: rounds.unwrap_or(if quick { 1 } else { 3 }), quick, only, kubelets })
    }

    /// Whether a phase is wanted, by its name: single, volumes, burst, idle, full, edit; and
    /// fsgroup, but only when it is asked for, since making its files takes a minute.
    fn wants(&self, phase: &str) -> bool {
        match self.only.as_deref() {
            None => phase != FSGROUP,
            Some(only) => phase.contains(only) || only.starts_with(phase),
        }
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run_all(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(options: &Options) -> Result<()> {
    run::need_root()?;
    let mut tally = Tally::new();
    let name = format!("bench-{}", std::process::id());
    run::on_cluster(
        &name,
        &mut tally,
        |name| Cluster::up(name, "none", "2.3", "", &["--audit-level", "Request"]),
        |cluster, _| {
            let cluster = Arc::new(cluster);
            run::in_network(&cluster, || Box::pin(bench(&cluster, options)))
        },
    )?;
    ensure!(tally.is_clean(), "the cluster left something behind");
    Ok(())
}

async fn bench(cluster: &Arc<Cluster>, options: &Options) -> Result<()> {
    let node = Node::of(cluster);
    let mut samples = Samples::default();
    node.stop_kubelet().await?;
    let bed = Bed::make(&node).await?;
    let mut million =
        if options.wants(FSGROUP) { Some(Million::make(&node, &bed).await?) } else { None };
    for round in 1..=options.rounds {
        samples.round = round;
        node.stop_kubelet().await?;
        eprintln!("round {round}: the bare CRI calls (load {})", report::load());
        floor::measure(&node, options, &mut samples).await.context("the bare CRI calls")?;
        // Who goes first changes, in case the first has it harder.
        let mut order: Vec<_> = options.kubelets.iter().collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for kubelet in order {
            eprintln!("round {round}: {} (load {})", kubelet.name, report::load());
            samples.who.clone_from(&kubelet.name);
            let turn =
                turn::take(&node, &bed, kubelet, (options, million.as_mut()), &mut samples).await;
            turn.with_context(|| format!("round {round}, {}", kubelet.name))?;
        }
    }
    node.stop_kubelet().await?;
    report::print(options, &samples);
    println!("{}", report::save(options, &samples)?.display());
    Ok(())
}
