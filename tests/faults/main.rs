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

#[path = "../node/bed.rs"]
#[allow(dead_code, reason = "shared with the node's cases: each program uses a part")]
mod bed;
#[path = "../node/cluster.rs"]
#[allow(dead_code, reason = "shared with the node's cases: each program uses a part")]
mod cluster;
mod control;
mod foreign;
mod held;
mod kills;
#[path = "../node/look.rs"]
#[allow(dead_code, reason = "shared with the node's cases: each program uses a part")]
mod look;
mod outages;
mod residue;
mod storm;
mod table;
mod tracer;
mod volumes;
mod watched;
mod writes;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bed::Bed;
use cluster::Cluster;
use residue::Residue;
use table::Outcome;

const CLUSTER_OPTIONS: [&str; 2] = ["--cri-proxy", "--api-proxy"];
/// More pods than a kubelet's default at a time, on one node.
const KUBELET_CONFIG: &str = "maxPods: 250\nsyncFrequency: 10s\n";
/// The end of every case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(1800);

type Run = Box<dyn Fn(Bed) -> Pin<Box<dyn Future<Output = Result<String>> + Send>> + Send + Sync>;

/// One case: what it measured is shown in the table.
pub(crate) struct Case {
    name: String,
    long: bool,
    run: Run,
}

/// A case of the function `run`; it has a short form, which `quick` asks for.
pub(crate) fn case<F, Fut>(run: F) -> Case
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String>> + Send + 'static,
{
    let name = std::any::type_name::<F>().trim_start_matches("faults::").to_owned();
    Case { name, long: false, run: Box::new(move |bed| Box::pin(run(bed))) }
}

/// A case without a short form.
pub(crate) fn long<F, Fut>(run: F) -> Case
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String>> + Send + 'static,
{
    Case { long: true, ..case(run) }
}

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

fn focus() -> Vec<String> {
    std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .chain(std::env::var("FOCUS"))
        .collect()
}

fn cases() -> Vec<Case> {
    let focus = focus();
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
    .filter(|case| !(quick() && case.long))
    .filter(|case| focus.is_empty() || focus.iter().any(|text| case.name.contains(text.as_str())))
    .collect()
}

fn main() -> ExitCode {
    let started = Instant::now();
    if std::env::args().any(|arg| arg == "--list") {
        for case in cases() {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let kubelet = std::env::var("KUBELET").unwrap_or_else(|_| "ours".to_owned());
    let mut outcomes = Vec::new();
    if let Err(error) = run(&kubelet, &mut outcomes) {
        println!("FAIL the run itself: {error:#}");
        outcomes.push(Outcome::new("the run itself", Duration::ZERO, Err(error)));
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if let Err(error) = table::show(&kubelet, &outcomes, focus().is_empty()) {
        println!("the table: {error:#}");
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if failed == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failed,
        started.elapsed().as_secs_f64()
    );
    if failed == 0 && !outcomes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Brings the cluster up, runs the cases one after the other, takes it down, and looks for
/// leftovers.
fn run(kubelet: &str, outcomes: &mut Vec<Outcome>) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "not root: these cases make namespaces, mounts and cgroups"
    );
    if let Ok(name) = std::env::var("RKUBELET_CLUSTER") {
        return run_on_cluster(Cluster::attach(&name)?, outcomes);
    }
    let name = format!("faults-{}", std::process::id());
    let outcome = bring_up(&name, kubelet).and_then(|cluster| run_on_cluster(cluster, outcomes));
    let began = Instant::now();
    let left = cluster::down(&name).and_then(|()| cluster::leaks(&name)).and_then(|left| {
        ensure!(left.is_empty(), "after `cluster down`: {left}");
        Ok(String::new())
    });
    outcomes.push(Outcome::new("cluster::leaves_nothing", began.elapsed(), left));
    outcome
}

fn bring_up(name: &str, kubelet: &str) -> Result<Cluster> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("kubelet.yaml");
    std::fs::write(&config, KUBELET_CONFIG)?;
    let binary = std::env::var("RKUBELET_BIN").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/rkubelet").to_owned()
    });
    let program = if kubelet == "ours" { &binary } else { kubelet };
    ensure!(
        kubelet != "ours" || Path::new(program).exists(),
        "{program} does not exist: cargo build --release, or set RKUBELET_BIN"
    );
    Cluster::up(name, program, "2.3", &config, &CLUSTER_OPTIONS)
}

fn run_on_cluster(cluster: Cluster, outcomes: &mut Vec<Outcome>) -> Result<()> {
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
                    outcome = run_cases(&cluster, outcomes) => outcome,
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

async fn run_cases(cluster: &Arc<Cluster>, outcomes: &mut Vec<Outcome>) -> Result<()> {
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
        println!("{outcome}");
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
    let outcome = tokio::time::timeout(CASE_LIMIT, (case.run)(bed.clone())).await;
    let outcome =
        outcome.unwrap_or_else(|_| Err(anyhow!("no end after {} s", CASE_LIMIT.as_secs())));
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
