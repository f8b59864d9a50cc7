//! The results of a run, kept beside the build, and those of ours and of upstream's kubelet side by
//! side.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rkubelet_bed::run::{self, Counted};
use serde::{Deserialize, Serialize};

/// What came of one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) passed: bool,
    seconds: f64,
    /// What it measured, or why it failed.
    said: String,
}

impl Outcome {
    pub(crate) fn new(name: &str, took: Duration, outcome: Result<String>) -> Self {
        let passed = outcome.is_ok();
        let said = outcome.unwrap_or_else(|error| format!("{error:#}"));
        Self { name: name.to_owned(), passed, seconds: took.as_secs_f64(), said }
    }

    /// The row of a case that is about the run as a whole.
    pub(crate) fn of_the_run(counted: &Counted) -> Self {
        let said = if counted.passed { String::new() } else { counted.line.clone() };
        Self { name: counted.name.clone(), passed: counted.passed, seconds: 0.0, said }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.1} s): {}", self.name, self.seconds, self.said)
    }
}

fn file(kubelet: &str) -> Result<PathBuf> {
    let name = if matches!(kubelet, "ours" | "upstream") { kubelet } else { "other" };
    let form = if crate::quick() { "-quick" } else { "" };
    Ok(run::target_dir()?.join("faults").join(format!("{name}{form}.json")))
}

fn kept(kubelet: &str) -> Result<BTreeMap<String, Outcome>> {
    let text = std::fs::read_to_string(file(kubelet)?).unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Keeps these results and prints the table. After a run that was `whole` they replace all earlier
/// ones; else each replaces its own earlier one, so that a run that was interrupted wipes nothing.
pub(crate) fn show(kubelet: &str, outcomes: &[Outcome], whole: bool) -> Result<()> {
    let mut all = if whole { BTreeMap::new() } else { kept(kubelet)? };
    all.extend(outcomes.iter().map(|outcome| (outcome.name.clone(), outcome.clone())));
    let path = file(kubelet)?;
    std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
    std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    let (ours, upstream) = (kept("ours")?, kept("upstream")?);
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(upstream.keys()).collect();
    println!("\n| case | ours | upstream |\n|---|---|---|");
    let cell = |of: &BTreeMap<String, Outcome>, name: &String| match of.get(name) {
        None => "not run".to_owned(),
        Some(outcome) => {
            let said: String = outcome.said.replace(['\n', '|'], " ").chars().take(220).collect();
            format!("{} {said}", if outcome.passed { "ok" } else { "**fails**" })
        }
    };
    for name in names {
        println!("| {name} | {} | {} |", cell(&ours, name), cell(&upstream, name));
    }
    Ok(())
}
