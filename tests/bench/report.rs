//! The table, its targets, and the JSON file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use rkubelet_bed::run::target_dir;
use serde_json::json;

use crate::Options;
use crate::samples::{FLOOR, Samples, median, percentile};

/// What upstream does meanwhile and ours does not yet: work that its figures contain. Take a line
/// out when ours does it.
const NOT_YET: [(&str, &str); 3] = [
    (
        "stats",
        "cAdvisor reads every container's cgroup each 10 s, /metrics/cadvisor, /metrics/resource, /stats/summary",
    ),
    ("eviction", "memory, disk and inodes compared with thresholds each 10 s"),
    ("CPU, memory and topology managers", "reconciled each 10 s even when nothing uses them"),
];

/// What a row must reach, apart from "no worse than upstream".
#[derive(Clone, Copy, Debug)]
enum Target {
    /// None: it explains another row.
    Shown,
    /// No worse than upstream.
    Upstream,
    /// At most so many times the bare calls.
    Floor(f64),
    /// At most so many times upstream.
    Ratio(f64),
    /// At most so much.
    Absolute(f64),
    /// At most so much in 99 of 100 cases.
    Last(f64),
}

impl Target {
    /// What a row's figures are worth: a median, a 99th percentile, and the median's ratios.
    fn judge(self, value: f64, last: f64, to_peer: Option<f64>, to_floor: Option<f64>) -> String {
        let (text, met) = match self {
            Self::Shown => return String::new(),
            Self::Upstream => ("<= upstream".to_owned(), to_peer.map(|ratio| ratio <= 1.0)),
            Self::Floor(limit) => {
                (format!("<= {limit:.2}x bare"), to_floor.map(|ratio| ratio <= limit))
            }
            Self::Ratio(limit) => {
                (format!("<= {limit:.2}x upstream"), to_peer.map(|ratio| ratio <= limit))
            }
            Self::Absolute(limit) => (format!("<= {limit}"), Some(value <= limit)),
            Self::Last(limit) => (format!("p99 <= {limit}"), Some(last <= limit)),
        };
        let worse =
            if to_peer.is_some_and(|ratio| ratio > 1.0) { ", WORSE THAN UPSTREAM" } else { "" };
        match met {
            Some(true) => format!("ok   {text}{worse}"),
            Some(false) => format!("MISS {text}{worse}"),
            None => format!("?    {text}"),
        }
    }
}

struct Row {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    /// The row of the bare calls to compare with.
    floor: &'static str,
    target: Target,
}

const fn row(key: &'static str, title: &'static str, unit: &'static str, target: Target) -> Row {
    Row { key, title, unit, floor: key, target }
}

/// In the order of the table. Targets: the figures to beat of the design.
const ROWS: [Row; 30] = [
    row("single.ready", "one pod: created -> Ready", "ms", Target::Floor(1.10)),
    Row {
        floor: "single.ready",
        ..row("single.accepted", "  bound -> Ready accepted", "ms", Target::Upstream)
    },
    row("single.control", "  create to bound and write of Ready", "ms", Target::Shown),
    Row {
        floor: "single.ready",
        ..row("single.own", "  created -> Ready without these two", "ms", Target::Shown)
    },
    row("single.gone", "  deleted -> gone", "ms", Target::Ratio(0.4)),
    row("volumes.ready", "one with 5 volumes: created -> Ready", "ms", Target::Floor(1.15)),
    Row {
        floor: "volumes.ready",
        ..row("volumes.accepted", "  bound -> Ready accepted", "ms", Target::Floor(1.15))
    },
    row("volumes.control", "  create to bound and write of Ready", "ms", Target::Shown),
    Row {
        floor: "volumes.ready",
        ..row("volumes.own", "  created -> Ready without these two", "ms", Target::Shown)
    },
    row("volumes.gone", "  deleted -> gone", "ms", Target::Ratio(0.4)),
    row("burst.ready_half", "50 at once: half Ready", "ms", Target::Ratio(0.5)),
    row("burst.ready_all", "  all Ready", "ms", Target::Ratio(0.85)),
    row("burst.gone_half", "  half gone", "ms", Target::Upstream),
    row("burst.gone_all", "  all gone", "ms", Target::Upstream),
    row("burst.cpu", "  CPU time of the kubelet", "ms", Target::Upstream),
    row("idle.rss", "0 pods: RSS", "MB", Target::Absolute(14.0)),
    row("idle.pss", "  PSS", "MB", Target::Upstream),
    row("idle.anon", "  anonymous", "MB", Target::Upstream),
    row("idle.cpu", "  CPU", "% of a core", Target::Upstream),
    row("idle.wakeups", "  wake-ups", "per s", Target::Upstream),
    row("full.rss", "110 pods with volumes: RSS", "MB", Target::Absolute(25.0)),
    row("full.pss", "  PSS", "MB", Target::Upstream),
    row("full.anon", "  anonymous", "MB", Target::Upstream),
    row("full.cpu", "  CPU", "% of a core", Target::Absolute(0.5)),
    row("full.wakeups", "  wake-ups", "per s", Target::Upstream),
    row("edit", "ConfigMap edit -> file in 100 pods", "s", Target::Last(2.0)),
    row("fsgroup", "fsGroup, a million files: to Ready", "s", Target::Upstream),
    row("fsgroup.cpu", "  CPU time of the kubelet", "s", Target::Upstream),
    row("single.sandbox", "(RunPodSandbox alone)", "ms", Target::Shown),
    row("volumes.sandbox", "(RunPodSandbox alone, with volumes)", "ms", Target::Shown),
];

/// The load of the machine in the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Prints every row that has figures.
pub(crate) fn print(options: &Options, samples: &Samples) {
    let names: Vec<&str> = options.kubelets.iter().map(|kubelet| kubelet.name.as_str()).collect();
    let peer = names.iter().find(|name| **name == "upstream").copied();
    let subjects: Vec<&str> = names.iter().filter(|name| Some(**name) != peer).copied().collect();
    let mut head = vec![format!("{:<38}{:<12}{:>9}", "median (p99)", "", "bare CRI")];
    for name in peer.iter().chain(&subjects) {
        head.push(format!("{name:>19}"));
    }
    for name in &subjects {
        head.push(format!("{:>19}{:>19}", format!("{name}/upstream"), format!("{name}/bare")));
    }
    println!("{}  target", head.concat());
    let mut misses = Vec::new();
    for row in &ROWS {
        let Some(line) = line(row, samples, peer, &subjects, &mut misses) else { continue };
        println!("{line}");
    }
    println!(
        "rounds: {}, load now {}; ratios are medians of the rounds' ratios",
        options.rounds,
        load()
    );
    let not_yet: Vec<String> =
        NOT_YET.iter().map(|(what, how)| format!("{what} ({how})")).collect();
    println!(
        "missed targets: {}",
        if misses.is_empty() { "none".to_owned() } else { misses.join("; ") }
    );
    println!("upstream does meanwhile, ours not yet: {}", not_yet.join("; "));
}

fn line(
    row: &Row,
    samples: &Samples,
    peer: Option<&str>,
    subjects: &[&str],
    misses: &mut Vec<String>,
) -> Option<String> {
    let figures = |who: &str, key: &str| {
        let all = samples.sorted(key, who);
        median(&all).zip(percentile(&all, 99))
    };
    let floor = figures(FLOOR, row.floor);
    if peer.iter().chain(subjects).all(|who| figures(who, row.key).is_none())
        && figures(FLOOR, row.key).is_none()
    {
        return None;
    }
    let mut line = vec![format!("{:<38}{:<12}", row.title, row.unit)];
    line.push(format!("{:>9}", floor.map_or("-".to_owned(), |(middle, _)| number(middle))));
    for who in peer.iter().chain(subjects) {
        let cell = figures(who, row.key).map_or("-".to_owned(), |(middle, last)| {
            format!("{} ({})", number(middle), number(last))
        });
        line.push(format!("{cell:>19}"));
    }
    let mut marks = Vec::new();
    for who in subjects {
        let to_peer = peer.and_then(|peer| samples.ratio(row.key, who, peer, row.key));
        let to_floor = samples.ratio(row.key, who, FLOOR, row.floor);
        for ratio in [to_peer, to_floor] {
            line.push(format!(
                "{:>19}",
                ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"))
            ));
        }
        if let Some((value, last)) = figures(who, row.key) {
            let verdict = row.target.judge(value, last, to_peer, to_floor);
            if verdict.contains("MISS") || verdict.contains("WORSE") {
                misses.push(format!("{} {}: {verdict}", who, row.key));
            }
            marks.push(verdict);
        }
    }
    line.push(format!("  {}", marks.join(", ")));
    Some(line.concat().trim_end().to_owned())
}

/// Three digits are more than the machine is good for.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Writes everything to `TARGET/bench/TIME.json`, and again as `latest.json`.
pub(crate) fn save(options: &Options, samples: &Samples) -> Result<PathBuf> {
    let mut summary = serde_json::Map::new();
    for row in &ROWS {
        let mut figures = serde_json::Map::new();
        for who in options.kubelets.iter().map(|kubelet| kubelet.name.as_str()).chain([FLOOR]) {
            let all = samples.sorted(row.key, who);
            if let (Some(p50), Some(p99)) = (median(&all), percentile(&all, 99)) {
                let ratio = |other: &str, key: &str| samples.ratio(row.key, who, other, key);
                figures.insert(
                    who.to_owned(),
                    json!({"p50": p50, "p99": p99, "samples": all.len(),
                        "toUpstream": ratio("upstream", row.key), "toFloor": ratio(FLOOR, row.floor)}),
                );
            }
        }
        if !figures.is_empty() {
            summary.insert(
                row.key.to_owned(),
                json!({"title": row.title.trim(), "unit": row.unit, "figures": figures}),
            );
        }
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = serde_json::to_vec_pretty(&json!({
        "when": jiff::Timestamp::now().to_string(),
        "commit": commit(),
        "quick": options.quick,
        "rounds": options.rounds,
        "machine": {"cpus": std::thread::available_parallelism()?.get(), "kernel": kernel.trim(), "load": load()},
        "notYet": NOT_YET.iter().map(|(what, how)| json!({"what": what, "how": how})).collect::<Vec<_>>(),
        "summary": summary,
        "samples": samples.json(),
    }))?;
    let folder = target_dir()?.join("bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.json", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    fs::write(&path, &text).with_context(|| path.display().to_string())?;
    fs::write(folder.join("latest.json"), &text)?;
    Ok(path)
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
