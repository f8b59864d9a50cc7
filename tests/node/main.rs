//! The node's cases: pods on real containerd, bound by a real control plane, through the kubelet.
//!
//! `cargo test --test node`, as root. `FOCUS=text` picks cases by name, `REPEAT=n` runs each so
//! often; `KUBELET=upstream` runs the same cases against upstream's kubelet; `RKUBELET_BIN` names
//! the program under test (default: `target/release/rkubelet`). Nothing is ever skipped: a missing
//! part fails the run. Cases run side by side, each in its own namespace; then those that disturb
//! the node, one by one; then a smoke set on older containerds. To write cases:
//! `RKUBELET_CLUSTER=NAME` runs them on a cluster that is up, and leaves it up. `LATE_START=2`
//! shows the cases that take a container that has started for one whose command has done something:
//! each command waits 2 s first. `SYSTEMD=1` gives nodes systemd as their init and as their cgroup
//! driver.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod bed;
mod cases;
mod cluster;
mod look;
mod registry;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bed::Bed;
use cluster::Cluster;
use futures::StreamExt as _;

/// Cases that run at the same time.
const SIDE_BY_SIDE: usize = 8;
/// The end of every case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(300);

type Run = Arc<dyn Fn(Bed) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// One case: its name is the path of its function.
#[derive(Clone)]
pub(crate) struct Case {
    name: String,
    slow: bool,
    beyond: bool,
    run: Run,
}

/// A case of the function `run`.
pub(crate) fn case<F, Fut>(run: F) -> Case
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let path = std::any::type_name::<F>();
    let name = path.trim_start_matches("node::").trim_start_matches("cases::").to_owned();
    Case { name, slow: false, beyond: false, run: Arc::new(move |bed| Box::pin(run(bed))) }
}

/// A case that takes long because what it looks at does: started first.
pub(crate) fn slow<F, Fut>(run: F) -> Case
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    Case { slow: true, ..case(run) }
}

/// A case that upstream's kubelet fails: left out when that one runs.
pub(crate) fn beyond<F, Fut>(run: F) -> Case
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    Case { beyond: true, ..case(run) }
}

/// What came of the cases so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    fn add(&mut self, name: &str, took: Duration, outcome: Result<()>, facts: &str) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok   {name} ({:.1} s)", took.as_secs_f64());
            }
            Err(error) => {
                self.failed.push(name.to_owned());
                println!("FAIL {name} ({:.1} s): {error:#}\n{facts}", took.as_secs_f64());
            }
        }
    }
}

/// One cluster and what runs on it.
struct Phase {
    label: &'static str,
    containerd: &'static str,
    together: Vec<Case>,
    alone: Vec<Case>,
}

fn phases(focus: &[String]) -> Vec<Phase> {
    let upstream = std::env::var("KUBELET").is_ok_and(|kubelet| kubelet == "upstream");
    let picked = |label: &str, cases: Vec<Case>| -> Vec<Case> {
        let mut cases: Vec<Case> = cases
            .into_iter()
            .map(|case| Case { name: format!("{label}{}", case.name), ..case })
            .filter(|case| !(upstream && case.beyond))
            .filter(|case| {
                focus.is_empty() || focus.iter().any(|text| case.name.contains(text.as_str()))
            })
            .collect();
        cases.sort_by_key(|case| !case.slow);
        // The name of a case's namespace does not follow from its own name, so twins do not meet.
        let again = std::env::var("REPEAT").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
        std::iter::repeat_n(cases, again).flatten().collect()
    };
    let mut phases = vec![
        Phase {
            label: "2.3",
            containerd: "2.3",
            together: picked("", cases::together()),
            alone: picked("", cases::alone()),
        },
        Phase {
            label: "2.1",
            containerd: "2.1",
            together: picked("containerd-2.1 ", cases::smoke()),
            alone: Vec::new(),
        },
        Phase {
            label: "1.7",
            containerd: "1.7",
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
    let started = Instant::now();
    let focus: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .chain(std::env::var("FOCUS"))
        .collect();
    if std::env::args().any(|arg| arg == "--list") {
        for case in
            phases(&focus).iter().flat_map(|phase| phase.together.iter().chain(&phase.alone))
        {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    let outcome = ready_to_run().and_then(|kubelet| {
        for phase in phases(&focus) {
            if phase.together.len() + phase.alone.len() > 0 {
                run_phase(&kubelet, phase, &mut tally)?;
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        println!("FAIL the run itself: {error:#}");
        tally.failed.push("the run itself".to_owned());
    }
    if !tally.failed.is_empty() {
        println!("\nfailures:\n    {}", tally.failed.join("\n    "));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if tally.failed.is_empty() { "ok" } else { "FAILED" },
        tally.passed,
        tally.failed.len(),
        started.elapsed().as_secs_f64()
    );
    if tally.failed.is_empty() && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Which kubelet to run; fails when this machine or this user cannot run it.
fn ready_to_run() -> Result<String> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "not root: these cases make namespaces, mounts and cgroups"
    );
    let kubelet = std::env::var("KUBELET").unwrap_or_else(|_| "ours".to_owned());
    if kubelet != "ours" {
        return Ok(kubelet);
    }
    let binary = std::env::var("RKUBELET_BIN").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/rkubelet").to_owned()
    });
    ensure!(
        Path::new(&binary).exists(),
        "{binary} does not exist: cargo build --release, or set RKUBELET_BIN"
    );
    Ok(binary)
}

/// Brings a cluster up, runs the cases of the phase, takes it down, and looks for leftovers.
fn run_phase(kubelet: &str, phase: Phase, tally: &mut Tally) -> Result<()> {
    if let Ok(name) = std::env::var("RKUBELET_CLUSTER") {
        return run_on_cluster(Cluster::attach(&name)?, phase, tally);
    }
    let name = format!("node-{}-{}", phase.label.replace('.', ""), std::process::id());
    let outcome = bring_up(&name, kubelet, phase.containerd)
        .and_then(|cluster| run_on_cluster(cluster, phase, tally));
    let began = Instant::now();
    let left = cluster::down(&name).and_then(|()| cluster::leaks(&name)).and_then(|left| {
        ensure!(left.is_empty(), "after `cluster down`: {left}");
        Ok(())
    });
    tally.add(&format!("cluster::leaves_nothing {name}"), began.elapsed(), left, "");
    outcome
}

fn bring_up(name: &str, kubelet: &str, containerd: &str) -> Result<Cluster> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("kubelet.yaml");
    std::fs::write(&config, cases::KUBELET_CONFIG)?;
    let began = Instant::now();
    let cluster = Cluster::up(name, kubelet, containerd, &config, &[])?;
    println!(
        "---- cluster {name}: containerd {containerd}, kubelet {kubelet} ({:.1} s)",
        began.elapsed().as_secs_f64()
    );
    Ok(cluster)
}

fn run_on_cluster(cluster: Cluster, phase: Phase, tally: &mut Tally) -> Result<()> {
    let cluster = Arc::new(cluster);
    // This thread stays outside: `cluster` is always called from there.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cluster.enter_network()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let outcome = runtime.block_on(async {
                let mut terminate =
                    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::select! {
                    outcome = run_cases(&cluster, phase, tally) => outcome,
                    _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                    _ = terminate.recv() => bail!("told to end"),
                }
            });
            runtime.shutdown_background();
            outcome
        });
        thread.join().map_err(|_| anyhow!("the runner panicked"))?
    })
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
        tally.add(&name, took, outcome, &facts);
    }
    for (number, case) in phase.alone.into_iter().enumerate() {
        let bed = Bed::at(
            cluster.clone(),
            client.clone(),
            &format!("alone-{number}-{}", std::process::id()),
        );
        let (name, took, outcome, facts) = run_case(case, bed).await;
        tally.add(&name, took, outcome, &facts);
    }
    Ok(())
}

async fn run_case(case: Case, bed: Bed) -> (String, Duration, Result<()>, String) {
    let began = Instant::now();
    let outcome = tokio::time::timeout(CASE_LIMIT, async {
        bed.prepare().await.context("preparing the namespace")?;
        (case.run)(bed.clone()).await
    });
    let outcome =
        outcome.await.unwrap_or_else(|_| Err(anyhow!("no end after {} s", CASE_LIMIT.as_secs())));
    let took = began.elapsed();
    let facts = if outcome.is_err() { bed.facts().await } else { String::new() };
    let cleared = bed.clear().await.context("deleting the namespace");
    (case.name, took, outcome.and(cleared), facts)
}
