//! Faults on demand: what must not happen to pods when the kubelet is killed at the worst moment,
//! when calls hang, answers are lost, or the runtime or the API server goes away. On real parts,
//! through the proxies of `tests/cluster`.
//!
//! `cargo test --test faults`, as root. `FOCUS=text` picks cases by name; `QUICK=1` runs the short
//! forms and leaves the long cases out; `KUBELET=upstream` runs the same against upstream's
//! kubelet. The results of both are kept in `target/faults`, and shown side by side after each run.
//! `RKUBELET_BIN` names the program under test. `RKUBELET_CLUSTER=NAME` uses a cluster that is up
//! (`--cri-proxy --api-proxy`, `maxPods: 250`).
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod control;
mod foreign;
mod held;
mod kills;
mod outages;
mod residue;
mod storm;
mod table;
mod tracer;
mod volumes;
mod watched;
mod writes;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use residue::Residue;
use rkubelet_bed::bed::{self, Bed};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::run::{self, Kind, Tally};
pub(crate) use rkubelet_bed::run::{case, long};
use table::Outcome;

const CLUSTER_OPTIONS: [&str; 2] = ["--cri-proxy", "--api-proxy"];
/// More pods than a kubelet's default at a time, on one node.
const KUBELET_CONFIG: &str = "maxPods: 250\nsyncFrequency: 10s\n";
/// The end of every case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(1800);

/// One case: what it measured is shown in the table.
pub(crate) type Case = run::Case<String>;

/// The short form is wanted.
pub(crate) fn quick() -> bool {
    std::env::var("QUICK").is_ok()
}

/// A number from the environment.
pub(crate) fn parameter(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The process of the kubelet.
pub(crate) fn kubelet_pid(bed: &Bed) -> Result<i32> {
    let file = std::fs::read_to_string(bed.cluster.env("NODE_N1_KUBELET_PID_FILE"))
        .context("the kubelet's pid file")?;
    file.split_whitespace().next().unwrap_or_default().parse().context("the kubelet's pid")
}

/// Kills the kubelet as SIGKILL does, at once: without the harness's script in between.
pub(crate) fn kill_kubelet(bed: &Bed) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(kubelet_pid(bed)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

/// A verb of the harness for the kubelet.
pub(crate) async fn kubelet(bed: &Bed, verb: &str) -> Result<()> {
    bed.cluster.run(&["kubelet", verb, "n1"]).await.map(drop)
}

fn cases() -> Vec<Case> {
    let focus = run::focus();
    [
        kills::cases(),
        held::cases(),
        writes::cases(),
        outages::cases(),
        volumes::cases(),
        storm::cases(),
    ]
    .into_iter()
    .flatten()
    .filter(|case| !(quick() && case.kind == Kind::Long))
    .filter(|case| run::is_picked(&case.name, &focus))
    .collect()
}

fn main() -> ExitCode {
    if run::is_listing() {
        for case in cases() {
            run::list(&case.name);
        }
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::new();
    let mut outcomes = Vec::new();
    let outcome = run_all(&mut tally, &mut outcomes);
    tally.conclude(&outcome);

    let about_the_run = [run::LEAVES_NOTHING, run::THE_RUN];
    let of_the_run = tally.counted().iter().filter(|case| about_the_run.contains(&&*case.name));
    outcomes.extend(of_the_run.map(Outcome::of_the_run));
    // A run that ended early has no say about the cases that it did not come to.
    let is_whole = run::focus().is_empty() && outcome.is_ok();
    if let Err(error) = table::show(&run::kubelet(), &outcomes, is_whole) {
        println!("the table: {error:#}");
    }
    tally.finish()
}

/// Brings the cluster up, runs the cases one after the other, takes it down, and looks for
/// leftovers.
fn run_all(tally: &mut Tally, outcomes: &mut Vec<Outcome>) -> Result<()> {
    run::need_root()?;
    let program = run::kubelet_program()?;
    let name = format!("faults-{}", std::process::id());
    run::on_cluster(
        &name,
        tally,
        |name| Cluster::up(name, &program, "2.3", KUBELET_CONFIG, &CLUSTER_OPTIONS),
        |cluster, tally| {
            let cluster = Arc::new(cluster);
            run::in_network(&cluster, || run_cases(&cluster, tally, outcomes))
        },
    )
}

async fn run_cases(
    cluster: &Arc<Cluster>,
    tally: &mut Tally,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let client = bed::client(cluster).await.context("a client of the API server")?;
    for (number, case) in cases().into_iter().enumerate() {
        let bed = Bed::at(
            cluster.clone(),
            client.clone(),
            &format!("fault-{number}-{}", std::process::id()),
        );
        let began = Instant::now();
        let outcome = run_case(&case, &bed).await;
        let outcome = Outcome::new(&case.name, began.elapsed(), outcome);
        if outcome.passed {
            tally.passed(&case.name, &outcome.to_string());
        } else {
            tally.failed(&case.name, &outcome.to_string());
        }
        outcomes.push(outcome);
    }
    Ok(())
}

/// A case on a node that has nothing of an earlier one, and with nothing of it afterwards.
async fn run_case(case: &Case, bed: &Bed) -> Result<String> {
    let (cri, api) = (control::Proxy::cri(&bed.cluster), control::Proxy::api(&bed.cluster));
    bed.prepare().await.context("preparing the namespace")?;
    let before = Residue::take(&bed.cluster).await?;
    for proxy in [&cri, &api] {
        proxy.rules(&[]).await?;
        proxy.forget().await?;
    }
    let outcome = run::within(CASE_LIMIT, case.run(bed)).await;
    if outcome.is_err() {
        let facts = bed.facts().await;
        facts
            .lines()
            .take(80)
            .for_each(|line| println!("{}", line.chars().take(400).collect::<String>()));
    }
    cri.rules(&[]).await?;
    api.rules(&[]).await?;
    bed.clear().await.context("deleting the namespace")?;
    let left = Residue::until_back(&bed.cluster, &before, Duration::from_secs(180)).await;
    match (outcome, left) {
        (Ok(measured), Ok(())) => Ok(measured),
        (Ok(_), Err(error)) => Err(error.context("what is left")),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => Err(anyhow!("{error:#}; also left: {left:#}")),
    }
}
