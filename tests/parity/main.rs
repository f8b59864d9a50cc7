//! Parity: the same manifests through upstream's kubelet and through ours, and what differs, field
//! by field.
//!
//! `make parity`, as root, runs upstream's kubelet and then ours on one cluster and compares.
//! `cargo test --test parity` runs ours alone and compares with the recordings of upstream that are
//! kept in `goldens`. Options: `--both`, `--record` (upstream alone, adds to the goldens; with
//! `--fresh` makes them anew), `--manifests DIR` (others; implies `--both`), `--keep DIR` (writes
//! what was recorded), `FOCUS=text` or plain words pick cases by name.
//!
//! What is recorded of each pod: the CRI requests of each sandbox and container in their order (by
//! the harness's proxy), the statuses that the kubelet wrote (by the audit log), its events, the
//! files and mounts below the pod's directory, and the values of its cgroups. Ids, times and
//! addresses are replaced ([`rkubelet_bed::parity::names`]). How two recordings are compared, and
//! what may be coalesced, stands in [`rkubelet_bed::parity::compare`]. Known differences are in
//! `explained.txt`; one that no longer occurs fails.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the environment and the clock, and writes files"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test says goes there")]

mod calls;
mod disk;
mod manifest;
mod play;
mod turn;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::parity::compare::{self, Difference, Explained, Vocabulary};
use rkubelet_bed::parity::recording::{Golden, Recording};
use rkubelet_bed::run::{self, Tally};

use manifest::Case;

/// Where this judge's own files lie.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity");

/// What all runs ask of the kubelet's configuration.
const KUBELET_CONFIG: &str = "
syncFrequency: 10s
allowedUnsafeSysctls: ['net.core.*', 'kernel.msg*']
";

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    upstream: bool,
    ours: bool,
    record: bool,
    fresh: bool,
    manifests: Option<PathBuf>,
    keep: Option<PathBuf>,
    focus: Vec<String>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { ours: true, ..Self::default() };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--both" => options.upstream = true,
                "--record" => {
                    (options.record, options.upstream, options.ours) = (true, true, false);
                }
                "--fresh" => options.fresh = true,
                "--manifests" => {
                    (options.manifests, options.upstream) = (Some(value()?.into()), true);
                }
                "--keep" => options.keep = Some(value()?.into()),
                "--nocapture" | "--list" => {}
                word if word.starts_with('-') => {
                    bail!("unknown option {word:?}: see the first comment of main.rs")
                }
                word => options.focus.push(word.to_owned()),
            }
        }
        options.focus.extend(std::env::var("FOCUS"));
        Ok(options)
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let folder = self.manifests.clone().unwrap_or_else(|| Path::new(HERE).join("manifests"));
        let mut cases = manifest::read_folder(&folder)?;
        cases.retain(|case| run::is_picked(&case.name, &self.focus));
        ensure!(!cases.is_empty(), "no manifest in {} has such a name", folder.display());
        Ok(cases)
    }
}

fn main() -> ExitCode {
    if run::is_listing() {
        run::list("parity");
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::new();
    let outcome =
        Options::parse(std::env::args().skip(1)).and_then(|options| run_all(&options, &mut tally));
    tally.conclude(&outcome);
    tally.finish()
}

fn run_all(options: &Options, tally: &mut Tally) -> Result<()> {
    run::need_root()?;
    let cases = options.cases()?;
    let name = format!("parity-{}", std::process::id());
    run::on_cluster(&name, tally, bring_up, |cluster, tally| {
        on_cluster(cluster, options, &cases, tally)
    })
}

fn bring_up(name: &str) -> Result<Cluster> {
    // The kubelets take turns on the node: which one it starts with does not matter.
    let options = ["--cri-proxy", "--audit-level", "RequestResponse"];
    Cluster::up(name, "upstream", "2.3", KUBELET_CONFIG, &options)
}

fn on_cluster(
    cluster: Cluster,
    options: &Options,
    cases: &[Case],
    tally: &mut Tally,
) -> Result<()> {
    let cluster = std::sync::Arc::new(cluster);
    let mut wanted = BTreeMap::new();
    if options.upstream {
        let seen = turn::take(&cluster, "upstream", cases)?;
        keep(options, "upstream", &seen)?;
        if options.record {
            return record(options, &seen, tally);
        }
        wanted =
            seen.into_iter().map(|(name, recording)| (name, recording.map(Golden::of))).collect();
    } else {
        for case in cases {
            let read = Golden::read(&golden_file(&case.name))
                .with_context(|| format!("the golden of {}", case.name));
            wanted.insert(case.name.clone(), read);
        }
    }
    let kubelet = run::program()?.display().to_string();
    let seen = turn::take(&cluster, &kubelet, cases)?;
    keep(options, "ours", &seen)?;
    let mut explained = Explained::read(&Path::new(HERE).join("explained.txt"))?;
    let first = Findings::of(&wanted, &seen, &mut explained, |_| true);
    let doubtful: Vec<Case> =
        cases.iter().filter(|case| first.fails(&case.name)).cloned().collect();
    // The pace of a busy machine does not repeat itself; a difference does.
    let second = if doubtful.is_empty() {
        first.clone()
    } else {
        let again = turn::take(&cluster, &kubelet, &doubtful)?;
        Findings::of(&wanted, &again, &mut explained, |name| first.fails(name))
    };
    judge(options, &first, &second, &explained, tally);
    Ok(())
}

/// What was found of each case.
#[derive(Clone, Default)]
struct Findings(BTreeMap<String, Finding>);

#[derive(Clone)]
enum Finding {
    Compared { fields: usize, explained: usize, new: Vec<Difference> },
    Failed(String),
}

impl Findings {
    /// Of the cases that `which` picks.
    fn of(
        wanted: &BTreeMap<String, Result<Golden>>,
        seen: &Seen,
        explained: &mut Explained,
        which: impl Fn(&str) -> bool,
    ) -> Self {
        let mut words = Vocabulary::default();
        wanted.values().flatten().for_each(|golden| words.add(golden));
        let finding = |(name, golden): (&String, &Result<Golden>)| {
            let finding = match (golden, seen.get(name)) {
                (_, None) => Finding::Failed("it did not run".to_owned()),
                (Err(error), _) | (_, Some(Err(error))) => Finding::Failed(format!("{error:#}")),
                (Ok(golden), Some(Ok(ours))) => {
                    let found = compare::differences(golden, ours, &words);
                    let (known, new): (Vec<_>, Vec<_>) =
                        found.into_iter().partition(|one| explained.covers(name, one));
                    Finding::Compared { fields: golden.len(), explained: known.len(), new }
                }
            };
            (name.clone(), finding)
        };
        Self(wanted.iter().filter(|(name, _)| which(name)).map(finding).collect())
    }

    fn fails(&self, name: &str) -> bool {
        !matches!(self.0.get(name), Some(Finding::Compared { new, .. }) if new.is_empty())
    }
}

fn golden_file(case: &str) -> PathBuf {
    Path::new(HERE).join("goldens").join(format!("{case}.json"))
}

/// What each case left, or why there is nothing.
type Seen = BTreeMap<String, Result<Recording>>;

fn keep(options: &Options, who: &str, seen: &Seen) -> Result<()> {
    let Some(folder) = &options.keep else { return Ok(()) };
    let folder = folder.join(who);
    std::fs::create_dir_all(&folder)?;
    for (name, recording) in seen {
        if let Ok(recording) = recording {
            Golden::of(recording.clone()).write(&folder.join(format!("{name}.json")))?;
        }
    }
    Ok(())
}

/// Adds what upstream did to the goldens.
fn record(options: &Options, seen: &Seen, tally: &mut Tally) -> Result<()> {
    for (name, recording) in seen {
        let recording = match recording {
            Ok(recording) => recording.clone(),
            Err(error) => {
                tally.failed(name, &format!("{name}: {error:#}"));
                continue;
            }
        };
        let file = golden_file(name);
        let mut golden = Golden::of(recording.clone());
        let mut said = format!("{} fields", golden.len());
        if file.exists() && !options.fresh {
            let mut before = Golden::read(&file)?;
            let news = before.add(&recording);
            said = if news == 0 { "as before".to_owned() } else { format!("{news} fields vary") };
            golden = before;
        }
        golden.write(&file)?;
        tally.passed(name, &format!("{name}: {said}"));
    }
    Ok(())
}

/// A case fails if it differs at the same place twice, or does not run twice.
fn judge(
    options: &Options,
    first: &Findings,
    second: &Findings,
    explained: &Explained,
    tally: &mut Tally,
) {
    let mut compared = 0;
    for (name, finding) in &first.0 {
        let again = second.0.get(name).unwrap_or(finding);
        if let Finding::Compared { fields, .. } = again {
            compared += fields;
        }
        match (finding, again) {
            (Finding::Compared { fields, explained, new }, _) if new.is_empty() => {
                let known = if *explained == 0 {
                    String::new()
                } else {
                    format!(", {explained} explained")
                };
                tally.passed(name, &format!("{name}: {fields} fields{known}"));
            }
            (_, Finding::Failed(error)) => {
                tally.failed(name, &format!("{name}: {error}"));
            }
            (Finding::Failed(error), Finding::Compared { .. }) => {
                tally.passed(name, &format!("{name}, the second time; the first: {error}"));
            }
            (Finding::Compared { new, fields, .. }, Finding::Compared { new: again, .. }) => {
                let is_back =
                    |one: &&Difference| again.iter().any(|other| other.place == one.place);
                let (back, once): (Vec<_>, Vec<_>) = new.iter().partition(is_back);
                if back.is_empty() {
                    let once = once.len();
                    tally.passed(name, &format!("{name}: {fields} fields, {once} differed once"));
                } else {
                    let differ = format!("{name}: {} of {fields} fields differ", back.len());
                    tally.failed(name, &differ);
                }
                for one in &back {
                    println!("     {one}");
                }
                for one in &once {
                    println!("     (once) {one}");
                }
            }
        }
    }
    println!(
        "\n{} cases, {compared} fields compared, {} differences not mended",
        first.0.len(),
        explained.unwanted()
    );
    // With a part of the cases only a part of the reasons can occur.
    if options.focus.is_empty() && options.manifests.is_none() {
        for line in explained.unused() {
            tally.failed(
                &format!("explained.txt: {line}"),
                &format!("explained.txt: this does not occur: {line}"),
            );
        }
    }
}
