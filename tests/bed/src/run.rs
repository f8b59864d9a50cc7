//! Runs cases on a cluster and reports them as `cargo test` does.
//!
//! A program of cases has this shape: [`on_cluster`] brings the cluster up, [`in_network`] starts a
//! runtime inside its network, [`Case::run`] runs each case with a limit, and [`Tally`] prints one
//! line per case (`ok   NAME (1.2 s)` or `FAIL NAME (1.2 s): WHY`) and the last line `test result:`,
//! which `tests/run` counts.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::bed::Bed;
use crate::cluster::{self, Cluster};

type Running<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// How a case is scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Runs always.
    #[default]
    Plain,
    /// Takes long because of what it waits for: started first.
    Slow,
    /// Upstream's kubelet fails it: left out when that one runs.
    Beyond,
    /// Has no short form: left out of quick runs.
    Long,
}

/// One case: a function of a [`Bed`], named after its path (`probes::readiness_by_http`).
///
/// `T` is what the case measures; nothing for most.
#[derive(Clone)]
pub struct Case<T = ()> {
    /// Printed, and matched against `FOCUS`.
    pub name: String,
    /// How it is scheduled.
    pub kind: Kind,
    run: Arc<dyn Fn(Bed) -> Running<T> + Send + Sync>,
}

impl<T> fmt::Debug for Case<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<T> Case<T> {
    fn new<F, Fut>(kind: Kind, run: F) -> Self
    where
        F: Fn(Bed) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        Self {
            name: case_name(std::any::type_name::<F>()),
            kind,
            run: Arc::new(move |bed| Box::pin(run(bed))),
        }
    }

    /// The same case with `label` before its name.
    #[must_use]
    pub fn labelled(self, label: &str) -> Self {
        Self { name: format!("{label}{}", self.name), ..self }
    }

    /// Runs the case in `bed`.
    pub async fn run(&self, bed: &Bed) -> Result<T> {
        (self.run)(bed.clone()).await
    }
}

/// `probes::by_http` of `node::cases::probes::by_http`.
fn case_name(path: &str) -> String {
    let name = path.split_once("::").map_or(path, |(_program, name)| name);
    name.strip_prefix("cases::").unwrap_or(name).to_owned()
}

/// A case of the function `run`.
pub fn case<T, F, Fut>(run: F) -> Case<T>
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    Case::new(Kind::Plain, run)
}

/// A case that takes long because of what it waits for.
pub fn slow<T, F, Fut>(run: F) -> Case<T>
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    Case::new(Kind::Slow, run)
}

/// A case that upstream's kubelet fails.
pub fn beyond<T, F, Fut>(run: F) -> Case<T>
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    Case::new(Kind::Beyond, run)
}

/// A case without a short form.
pub fn long<T, F, Fut>(run: F) -> Case<T>
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    Case::new(Kind::Long, run)
}

/// The texts that pick cases by name: plain arguments and `FOCUS`.
pub fn focus() -> Vec<String> {
    std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .chain(std::env::var("FOCUS"))
        .collect()
}

/// True if `name` contains one of the texts of `focus`, or if there is none.
pub fn is_picked(name: &str, focus: &[String]) -> bool {
    focus.is_empty() || focus.iter().any(|text| name.contains(text.as_str()))
}

/// True if the names are asked for (`--list`) and nothing is to run.
pub fn is_listing() -> bool {
    std::env::args().any(|arg| arg == "--list")
}

/// Prints a name as `cargo test -- --list` does.
pub fn list(name: &str) {
    println!("{name}: test");
}

/// Fails without root.
pub fn need_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "not root: these cases make namespaces, mounts and cgroups"
    );
    Ok(())
}

/// The folder in which cargo builds: this program lies in `TARGET/PROFILE/deps`.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program.ancestors().nth(3).map(PathBuf::from).context("the target folder")
}

/// rkubelet's program: `RKUBELET_BIN`, or the release build. Fails if the file does not exist.
pub fn program() -> Result<PathBuf> {
    let program = match std::env::var_os("RKUBELET_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_dir()?.join("release/rkubelet"),
    };
    ensure!(
        program.is_file(),
        "{} does not exist: cargo build --release, or set RKUBELET_BIN",
        program.display()
    );
    Ok(program)
}

/// Which kubelet is under test: `ours` unless `KUBELET` names another.
pub fn kubelet() -> String {
    std::env::var("KUBELET").unwrap_or_else(|_| "ours".to_owned())
}

/// The kubelet under test as `cluster up --kubelet` takes it: `upstream`, or the path of ours.
pub fn kubelet_program() -> Result<String> {
    let kubelet = kubelet();
    if kubelet != "ours" {
        return Ok(kubelet);
    }
    program()?.into_os_string().into_string().map_err(|_| anyhow!("a path that is no text"))
}

/// The result of `work`, or an error after `limit`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|_| Err(anyhow!("no end after {} s", limit.as_secs())))
}

/// Runs `work` on the cluster that `RKUBELET_CLUSTER` names, and leaves that one up. Without the
/// variable `up` brings one up as `name`; it is taken down afterwards, and leftovers are a failed
/// case.
pub fn on_cluster(
    name: &str,
    tally: &mut Tally,
    up: impl FnOnce(&str) -> Result<Cluster>,
    work: impl FnOnce(Cluster, &mut Tally) -> Result<()>,
) -> Result<()> {
    if let Ok(name) = std::env::var("RKUBELET_CLUSTER") {
        return work(Cluster::attach(&name)?, tally);
    }
    let outcome = up(name).and_then(|cluster| work(cluster, tally));

    let began = Instant::now();
    let left = cluster::down(name).and_then(|()| leaves_nothing(name));
    tally.ended(&format!("cluster::leaves_nothing {name}"), began.elapsed(), &left, "");
    outcome
}

/// Fails with what a cluster that was taken down has left behind.
pub fn leaves_nothing(name: &str) -> Result<()> {
    let left = cluster::leaks(name)?;
    ensure!(left.is_empty(), "after `cluster down`: {left}");
    Ok(())
}

/// Runs `work` on a thread and a runtime of its own inside the cluster's network. SIGINT and
/// SIGTERM end it, so that the caller still takes the cluster down.
///
/// The calling thread stays outside: the harness is always called from there.
pub fn in_network<T, Fut>(cluster: &Cluster, work: impl FnOnce() -> Fut + Send) -> Result<T>
where
    T: Send,
    Fut: Future<Output = Result<T>>,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cluster.enter_network()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let outcome = runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! {
                    outcome = work() => outcome,
                    _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                    _ = terminate.recv() => bail!("terminated"),
                }
            });
            runtime.shutdown_background();
            outcome
        });
        thread.join().map_err(|_| anyhow!("the runner panicked"))?
    })
}

/// The results so far. Each is printed when it comes.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    passed: usize,
    failed: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Starts the clock of the run.
    pub fn new() -> Self {
        Self { started: Instant::now(), passed: 0, failed: Vec::new() }
    }

    /// Counts a case that passed and prints `ok   LINE`.
    pub fn passed(&mut self, line: &str) {
        self.passed += 1;
        println!("ok   {line}");
    }

    /// Counts the case `name` as failed and prints `FAIL LINE`.
    pub fn failed(&mut self, name: &str, line: &str) {
        self.failed.push(name.to_owned());
        println!("FAIL {line}");
    }

    /// Counts a case by its outcome. `facts` follow the error of one that failed.
    pub fn ended<T>(&mut self, name: &str, took: Duration, outcome: &Result<T>, facts: &str) {
        let seconds = took.as_secs_f64();
        match outcome {
            Ok(_) => self.passed(&format!("{name} ({seconds:.1} s)")),
            Err(error) => {
                self.failed(name, &format!("{name} ({seconds:.1} s): {error:#}\n{facts}"));
            }
        }
    }

    /// True while no case has failed.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints the failures and the line `test result:`. An error of the run itself counts as a
    /// failed case, and so does a run without a case.
    pub fn finish(mut self, run: Result<()>) -> ExitCode {
        if let Err(error) = run {
            self.failed("the run itself", &format!("the run itself: {error:#}"));
        }
        if !self.failed.is_empty() {
            println!("\nfailures:\n    {}", self.failed.join("\n    "));
        }
        println!("\n{}", self.result());
        if self.failed.is_empty() && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn result(&self) -> String {
        format!(
            "test result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            if self.failed.is_empty() { "ok" } else { "FAILED" },
            self.passed,
            self.failed.len(),
            self.started.elapsed().as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_named_by_its_path_below_the_cases() {
        assert_eq!(case_name("node::cases::node::lease"), "node::lease");
        assert_eq!(case_name("faults::kills::at_each_call"), "kills::at_each_call");
        assert_eq!(case_name("alone"), "alone");
    }

    #[test]
    fn the_focus_picks_by_a_part_of_the_name() {
        let focus = ["probes".to_owned(), "lease".to_owned()];
        assert!(is_picked("node::lease", &focus));
        assert!(!is_picked("node::status", &focus));
        assert!(is_picked("node::status", &[]));
    }

    #[test]
    fn the_result_is_the_line_that_is_counted() {
        let mut tally = Tally::new();
        tally.ended("a", Duration::ZERO, &Ok(()), "");
        assert!(tally.result().starts_with("test result: ok. 1 passed; 0 failed;"));
        tally.ended("b", Duration::ZERO, &Err::<(), _>(anyhow!("no")), "facts");
        assert!(tally.result().starts_with("test result: FAILED. 1 passed; 1 failed;"));
        assert!(!tally.is_clean());
    }
}
