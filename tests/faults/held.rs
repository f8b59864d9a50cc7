//! Calls that hang for ever: whoever is not concerned must not notice.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use rkubelet_bed::bed::{Bed, grace};
use serde_json::json;

use crate::control::Proxy;
use crate::watched::Watched;
use crate::{Case, case, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(five_pods_held_for_ever)]
}

const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '10000']}]}";
const PULLED: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: 'registry.invalid/none:1', imagePullPolicy: Always}]}";
const PROBED: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '10000'], readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}}]}";
/// Which calls are held, and the pod that makes each.
const HELD: [(&str, &str); 5] = [
    ("RunPodSandbox", SLEEPER),
    ("CreateContainer", SLEEPER),
    ("StopContainer", SLEEPER),
    ("ExecSync", PROBED),
    ("PullImage", PULLED),
];
/// Beyond twice the quiet run: what two runs of the same differ by on a busy machine.
const SLACK: f64 = 0.5;

/// How long pods took, in seconds.
#[derive(Clone, Copy, Debug)]
struct Took {
    half: f64,
    all: f64,
}

impl Took {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let last = seconds.len().saturating_sub(1);
        let at = |index: usize| seconds.get(index).copied().unwrap_or_default();
        Self { half: at(last / 2), all: at(last) }
    }

    fn worse(self, other: Self) -> Self {
        Self { half: self.half.max(other.half), all: self.all.max(other.all) }
    }
}

async fn five_pods_held_for_ever(bed: Bed) -> Result<String> {
    let (count, rounds) = if quick() { (20, 1) } else { (45, 2) };
    let cri = Proxy::cri(&bed.cluster);
    let watched = Watched::pods(&bed).await?;
    burst(&bed, &watched, "warm", 5).await?;
    let (mut started, mut stopped) = burst(&bed, &watched, "quiet-before", count).await?;

    // The victim of StopContainer and the one of ExecSync must run first.
    let rules = HELD.map(|(method, _)| {
        let pod = format!("{}/held-{}", bed.name, method.to_lowercase());
        json!({"name": method, "method": method, "pod": pod, "do": "hold"})
    });
    let name = |method: &str| format!("held-{}", method.to_lowercase());
    for (method, spec) in HELD {
        if method == "StopContainer" {
            bed.pod(&name(method), spec).await?;
            bed.until(&name(method), &["cond[Ready]=True"]).await?;
        }
    }
    cri.rules(&rules).await?;
    for (method, spec) in HELD {
        if method == "StopContainer" {
            bed.delete(&name(method), None).await?;
        } else {
            bed.pod(&name(method), spec).await?;
        }
    }
    let held = cri.until_held(HELD.len(), Duration::from_secs(60)).await?;
    ensure!(held.len() == HELD.len(), "only these were held: {held:?}");
    let mut with = Vec::new();
    for round in 0..rounds {
        with.push(burst(&bed, &watched, &format!("others-{round}"), count).await?);
    }
    let held = cri.until_held(HELD.len(), Duration::from_secs(10)).await?;
    ensure!(held.len() == HELD.len(), "at the end only these were held: {held:?}");

    // Let go, all of them come to their end.
    cri.rules(&[]).await?;
    for method in ["RunPodSandbox", "CreateContainer", "ExecSync"] {
        bed.until(&name(method), &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    }
    bed.until(&name("PullImage"), &["c[main].state.waiting.reason=*Image*"]).await?;
    bed.until_gone("Pod", &name("StopContainer")).await?;
    for (method, _) in HELD.iter().filter(|(method, _)| *method != "StopContainer") {
        bed.api("Pod").delete(&name(method), &grace(1)).await.with_context(|| name(method))?;
        bed.until_gone("Pod", &name(method)).await?;
    }
    let (quiet_started, quiet_stopped) = burst(&bed, &watched, "quiet-after", count).await?;
    started = started.worse(quiet_started);
    stopped = stopped.worse(quiet_stopped);
    watched.faultless()?;

    let mut said = format!(
        "{count} pods ready {:.1}/{:.1} s, gone {:.1}/{:.1} s quiet",
        started.half, started.all, stopped.half, stopped.all
    );
    for (with_started, with_stopped) in &with {
        write!(
            said,
            "; {:.1}/{:.1} s, {:.1}/{:.1} s with 5 held",
            with_started.half, with_started.all, with_stopped.half, with_stopped.all
        )?;
    }
    // The best of the rounds: other work on the machine can only make one worse.
    let best = |quiet: f64, of: &dyn Fn(&(Took, Took)) -> f64| {
        let best = with.iter().map(of).fold(f64::INFINITY, f64::min);
        best <= quiet * 2.0 + SLACK
    };
    ensure!(
        best(started.half, &|took| took.0.half) && best(started.all, &|took| took.0.all),
        "starts: {said}"
    );
    ensure!(
        best(stopped.half, &|took| took.1.half) && best(stopped.all, &|took| took.1.all),
        "stops: {said}"
    );
    Ok(said)
}

/// Makes so many pods at once, waits until all are ready, deletes them, waits until all are gone.
async fn burst(bed: &Bed, watched: &Watched, what: &str, count: usize) -> Result<(Took, Took)> {
    let names: Vec<String> = (0..count).map(|number| format!("{what}-{number}")).collect();
    let patience = Duration::from_secs(120);
    let began = Instant::now();
    try_join_all(names.iter().map(|name| bed.pod(name, SLEEPER))).await?;
    let ready = watched
        .all(&names, |pod| pod.ready, patience)
        .await
        .with_context(|| format!("{what}: ready"))?;
    let started = ready.iter().map(|at| at.duration_since(began).as_secs_f64()).collect();
    let began = Instant::now();
    try_join_all(names.iter().map(|name| bed.delete(name, None))).await?;
    let gone = watched
        .all(&names, |pod| pod.gone, patience)
        .await
        .with_context(|| format!("{what}: gone"))?;
    let stopped = gone.iter().map(|at| at.duration_since(began).as_secs_f64()).collect();
    Ok((Took::of(started), Took::of(stopped)))
}
