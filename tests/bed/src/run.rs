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

/// A case that runs.
pub type Running<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

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

/// The work of a case: an async function of a [`Bed`]. `T` is the value that the case measures.
pub trait Work<T>: Send + Sync + 'static {
    /// Begins the work in `bed`.
    fn begin(&self, bed: Bed) -> Running<T>;
}

impl<T, F, Fut> Work<T> for F
where
    F: Fn(Bed) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    fn begin(&self, bed: Bed) -> Running<T> {
        Box::pin(self(bed))
    }
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
    work: Arc<dyn Work<T>>,
}

impl<T> fmt::Debug for Case<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<T: 'static> Case<T> {
    fn new<W: Work<T>>(kind: Kind, work: W) -> Self {
        Self { name: case_name(std::any::type_name::<W>()), kind, work: Arc::new(work) }
    }

    /// The same case with `label` before its name.
    #[must_use]
    pub fn labelled(self, label: &str) -> Self {
        Self { name: format!("{label}{}", self.name), ..self }
    }

    /// Runs the case in `bed`.
    pub async fn run(&self, bed: &Bed) -> Result<T> {
        self.work.begin(bed.clone()).await
    }
}

/// `probes::by_http` of `node::cases::probes::by_http`.
fn case_name(path: &str) -> String {
    let name = path.split_once("::").map_or(path, |(_program, name)| name);
    name.strip_prefix("cases::").unwrap_or(name).to_owned()
}

/// Makes a case of a function.
pub fn case<T: 'static, W: Work<T>>(work: W) -> Case<T> {
    Case::new(Kind::Plain, work)
}

/// Makes a case that takes long because of what it waits for.
pub fn slow<T: 'static, W: Work<T>>(work: W) -> Case<T> {
    Case::new(Kind::Slow, work)
}

/// Makes a case that upstream's kubelet fails.
pub fn beyond<T: 'static, W: Work<T>>(work: W) -> Case<T> {
    Case::new(Kind::Beyond, work)
}

/// Makes a case that has no short form.
pub fn long<T: 'static, W: Work<T>>(work: W) -> Case<T> {
    Case::new(Kind::Long, work)
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

/// The `main` of a suite whose checks build on each other, and which is listed as one.
pub fn suite(name: &str, work: impl FnOnce(&mut Tally) -> Result<()>) -> ExitCode {
    if is_listing() {
        list(name);
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::new();
    let outcome = work(&mut tally);
    // A check that failed has been counted and printed.
    let outcome = if tally.is_clean() { outcome } else { Ok(()) };
    tally.conclude(&outcome);
    tally.finish()
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

/// Waits until `check` succeeds. Its last error is the error.
pub async fn until(limit: Duration, check: impl AsyncFn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("after {} s", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

/// The case that stands for the run as a whole.
pub const THE_RUN: &str = "the run itself";
/// The case that fails if a cluster that was taken down has left something behind.
pub const LEAVES_NOTHING: &str = "cluster::leaves_nothing";

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
    tally.ended(LEAVES_NOTHING, began.elapsed(), &left, name);
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

/// A case that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The case.
    pub name: String,
    /// True if the case passed.
    pub passed: bool,
    /// The line that was printed, without `ok` or `FAIL`.
    pub line: String,
}

/// The results so far. Each is printed when it comes.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    counted: Vec<Counted>,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Starts the clock of the run.
    pub fn new() -> Self {
        Self { started: Instant::now(), counted: Vec::new() }
    }

    /// Counts the case `name` as passed and prints `ok   LINE`.
    pub fn passed(&mut self, name: &str, line: &str) {
        println!("ok   {line}");
        self.count(name, true, line);
    }

    /// Counts the case `name` as failed and prints `FAIL LINE`.
    pub fn failed(&mut self, name: &str, line: &str) {
        println!("FAIL {line}");
        self.count(name, false, line);
    }

    fn count(&mut self, name: &str, passed: bool, line: &str) {
        self.counted.push(Counted { name: name.to_owned(), passed, line: line.to_owned() });
    }

    /// Counts a case by its outcome. `facts` follow the error of one that failed.
    pub fn ended<T>(&mut self, name: &str, took: Duration, outcome: &Result<T>, facts: &str) {
        let seconds = took.as_secs_f64();
        match outcome {
            Ok(_) => self.passed(name, &format!("{name} ({seconds:.1} s)")),
            Err(error) => {
                self.failed(name, &format!("{name} ({seconds:.1} s): {error:#}\n{facts}"));
            }
        }
    }

    /// The cases that have ended, in that order.
    pub fn counted(&self) -> &[Counted] {
        &self.counted
    }

    /// True while no case has failed.
    pub fn is_clean(&self) -> bool {
        self.counted.iter().all(|case| case.passed)
    }

    /// Counts the end of the run. A run without a case fails, and so does one that ended early.
    pub fn conclude(&mut self, run: &Result<()>) {
        if let Err(error) = run {
            self.failed(THE_RUN, &format!("{THE_RUN}: {error:#}"));
        } else if self.counted.is_empty() {
            self.failed(THE_RUN, &format!("{THE_RUN}: no case ran; is FOCUS a part of a name?"));
        }
    }

    /// Prints the failures and the line `test result:` of a run that was concluded.
    pub fn finish(self) -> ExitCode {
        let failed: Vec<&str> = self.failures().collect();
        if !failed.is_empty() {
            println!("\nfailures:\n    {}", failed.join("\n    "));
        }
        println!("\n{}", self.result());
        if self.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn failures(&self) -> impl Iterator<Item = &str> {
        self.counted.iter().filter(|case| !case.passed).map(|case| case.name.as_str())
    }

    fn result(&self) -> String {
        let failed = self.failures().count();
        format!(
            "test result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            if failed == 0 { "ok" } else { "FAILED" },
            self.counted.len() - failed,
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

    #[test]
    fn a_run_without_a_case_fails() {
        let mut tally = Tally::new();
        tally.conclude(&Ok(()));
        assert!(tally.result().starts_with("test result: FAILED. 0 passed; 1 failed;"));

        let mut tally = Tally::new();
        tally.passed("a", "a");
        tally.conclude(&Ok(()));
        assert!(tally.result().starts_with("test result: ok. 1 passed; 0 failed;"));
        tally.conclude(&Err(anyhow!("it ended early")));
        assert!(tally.result().starts_with("test result: FAILED. 1 passed; 1 failed;"));
    }
}
