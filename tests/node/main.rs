//! The node's cases: pods on real containerd, bound by a real control plane, through the kubelet.
//!
//! `cargo test --test node`, as root. `FOCUS=text` picks cases by name, `REPEAT=n` runs each so
//! often; `KUBELET=upstream` runs the same cases against upstream's kubelet; `RKUBELET_BIN` names
//! the program under test (default: `target/release/rkubelet`). Nothing is ever skipped: a missing
//! part fails the run. Cases run side by side, each in its own namespace; then those that disturb
//! the node, one by one; then those of certificates, whose node joins with a token; then a smoke
//! set on older containerds. To write cases:
//! `RKUBELET_CLUSTER=NAME` runs them on a cluster that is up, and leaves it up. `LATE_START=2`
//! shows the cases that take a container that has started for one whose command has done something:
//! each command waits 2 s first. `SYSTEMD=1` gives nodes systemd as their init and as their cgroup
//! driver.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod cases;
mod registry;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::{self, Kind, Tally};
// The cases name what they work with as their own.
pub(crate) use rkubelet_bed::bed::{self, Bed};
pub(crate) use rkubelet_bed::look;
pub(crate) use rkubelet_bed::run::{Case, beyond, case, slow};

/// Cases that run at the same time.
const SIDE_BY_SIDE: usize = 8;
/// The end of every case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(300);

/// One cluster and what runs on it.
struct Phase {
    label: &'static str,
    containerd: &'static str,
    /// Merged over the kubelet's configuration.
    config: &'static str,
    /// Options of the cluster.
    options: &'static [&'static str],
    together: Vec<Case>,
    alone: Vec<Case>,
}

fn phases(focus: &[String]) -> Vec<Phase> {
    let upstream = run::kubelet() == "upstream";
    let picked = |label: &str, cases: Vec<Case>| -> Vec<Case> {
        let mut cases: Vec<Case> = cases
            .into_iter()
            .map(|case| case.labelled(label))
            .filter(|case| !(upstream && case.kind == Kind::Beyond))
            .filter(|case| run::is_picked(&case.name, focus))
            .collect();
        cases.sort_by_key(|case| case.kind != Kind::Slow);
        // The name of a case's namespace does not follow from its own name, so twins do not meet.
        let again = std::env::var("REPEAT").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
        std::iter::repeat_n(cases, again).flatten().collect()
    };
    let mut phases = vec![
        Phase {
            label: "2.3",
            containerd: "2.3",
            config: cases::KUBELET_CONFIG,
            options: &[],
            together: picked("", cases::together()),
            alone: picked("", cases::alone()),
        },
        Phase {
            label: "certs",
            containerd: "2.3",
            config: cases::certs::KUBELET_CONFIG,
            options: cases::certs::CLUSTER_OPTIONS,
            together: Vec::new(),
            alone: picked("", cases::certs::cases()),
        },
        Phase {
            label: "2.1",
            containerd: "2.1",
            config: cases::KUBELET_CONFIG,
            options: &[],
            together: picked("containerd-2.1 ", cases::smoke()),
            alone: Vec::new(),
        },
        Phase {
            label: "1.7",
            containerd: "1.7",
            config: cases::KUBELET_CONFIG,
            options: &[],
            together: picked("containerd-1.7 ", cases::smoke()),
            alone: Vec::new(),
        },
    ];
    if std::env::var("RKUBELET_CLUSTER").is_ok() {
        phases.truncate(1);
    }
    phases
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().is_some_and(|first| first == cases::csi::DRIVER) {
        return rkubelet_csi_driver::main(args.collect());
    }
    let focus = run::focus();
    if run::is_listing() {
        for phase in phases(&focus) {
            for case in phase.together.iter().chain(&phase.alone) {
                run::list(&case.name);
            }
        }
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::new();
    let outcome = run_phases(&focus, &mut tally);
    tally.conclude(&outcome);
    tally.finish()
}

fn run_phases(focus: &[String], tally: &mut Tally) -> Result<()> {
    run::need_root()?;
    let kubelet = run::kubelet_program()?;
    for phase in phases(focus) {
        if phase.together.len() + phase.alone.len() > 0 {
            run_phase(&kubelet, phase, tally)?;
        }
    }
    Ok(())
}

/// Brings a cluster up, runs the cases of the phase, takes it down, and looks for leftovers.
fn run_phase(kubelet: &str, phase: Phase, tally: &mut Tally) -> Result<()> {
    let name = format!("node-{}-{}", phase.label.replace('.', ""), std::process::id());
    let (containerd, config, options) = (phase.containerd, phase.config, phase.options);
    run::on_cluster(
        &name,
        tally,
        |name| bring_up(name, kubelet, containerd, (config, options)),
        |cluster, tally| {
            let cluster = Arc::new(cluster);
            run::in_network(&cluster, || run_cases(&cluster, phase, tally))
        },
    )
}

fn bring_up(
    name: &str,
    kubelet: &str,
    containerd: &str,
    (config, options): (&str, &[&str]),
) -> Result<Cluster> {
    let began = Instant::now();
    let cluster = Cluster::up(name, kubelet, containerd, config, options)?;
    println!(
        "---- cluster {name}: containerd {containerd}, kubelet {kubelet} ({:.1} s)",
        began.elapsed().as_secs_f64()
    );
    Ok(cluster)
}

async fn run_cases(cluster: &Arc<Cluster>, phase: Phase, tally: &mut Tally) -> Result<()> {
    let client = bed::client(cluster).await.context("a client of the API server")?;
    let numbered = phase.together.into_iter().enumerate();
    let mut running = futures::stream::iter(numbered.map(|(number, case)| {
        let bed = Bed::at(
            cluster.clone(),
            client.clone(),
            &format!("case-{number}-{}", std::process::id()),
        );
        run_case(case, bed)
    }))
    .buffer_unordered(SIDE_BY_SIDE);
    while let Some((name, took, outcome, facts)) = running.next().await {
        tally.ended(&name, took, &outcome, &facts);
    }
    for (number, case) in phase.alone.into_iter().enumerate() {
        let bed = Bed::at(
            cluster.clone(),
            client.clone(),
            &format!("alone-{number}-{}", std::process::id()),
        );
        let (name, took, outcome, facts) = run_case(case, bed).await;
        tally.ended(&name, took, &outcome, &facts);
    }
    Ok(())
}

async fn run_case(case: Case, bed: Bed) -> (String, Duration, Result<()>, String) {
    let began = Instant::now();
    let outcome = run::within(CASE_LIMIT, async {
        bed.prepare().await.context("preparing the namespace")?;
        case.run(&bed).await
    })
    .await;
    let took = began.elapsed();

    let facts = if outcome.is_err() { bed.facts().await } else { String::new() };
    let cleared = bed.clear().await.context("deleting the namespace");
    (case.name, took, outcome.and(cleared), facts)
}
