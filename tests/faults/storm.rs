//! The storm: pods that must not notice, pods that come and go, and a kubelet that is killed again
//! and again where it hurts.
//!
//! `STORM_PODS` that stay (60), `STORM_KILLS` (100), `STORM_RATE` pods made and deleted each second
//! (5), `STORM_SEED` (1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use parking_lot::Mutex;
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::look::text;
use serde_json::json;

use crate::control::{Call, Proxy};
use crate::residue::{Residue, some};
use crate::watched::Watched;
use crate::{Case, case, kill_kubelet, kubelet, parameter, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(kills_while_pods_come_and_go)]
}

const STAYS: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: main, image: busybox, command: [sleep, '100000']}]
";
const COMES: &str = "
terminationGracePeriodSeconds: 1
containers:
- {name: main, image: busybox, command: [sh, -c, 'exec sleep 10000']}
";
/// Pods that come and go, at a time: beyond it the next ones wait, for the machine is what it is.
const AT_ONCE: usize = 30;
/// How long a kill waits for its barrier before it strikes anyway.
const BARRIER: Duration = Duration::from_secs(3);
const METHODS: [&str; 7] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "StopPodSandbox",
    "RemoveContainer",
    "RemovePodSandbox",
];

/// Numbers that a seed determines (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or_default()
    }
}

async fn kills_while_pods_come_and_go(bed: Bed) -> Result<String> {
    let (pods, kills) = if quick() { (10, 8) } else { (60, 100) };
    let (pods, kills) = (parameter("STORM_PODS", pods), parameter("STORM_KILLS", kills));
    let rate = parameter("STORM_RATE", if quick() { 2 } else { 5 });
    let seed = parameter("STORM_SEED", 1);
    let cri = Proxy::cri(&bed.cluster);
    bed.create(
        "{apiVersion: v1, kind: Service, metadata: {name: stays}, spec: {selector: {app: stays}, ports: [{port: 80}]}}",
    )
    .await?;
    let names: Vec<String> = (0..pods).map(|number| format!("stays-{number}")).collect();
    try_join_all(names.iter().map(|name| bed.labelled_pod(name, "{labels: {app: stays}}", STAYS)))
        .await?;
    let mut before = BTreeMap::new();
    for name in &names {
        let pod = bed.until(name, &["cond[Ready]=True"]).await?;
        before.insert(name.clone(), facts(&pod));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let watched = Arc::new(Watched::everything(&bed).await?);
    let there = Residue::take(&bed.cluster).await?;
    cri.forget().await?;

    let end = Arc::new(AtomicBool::new(false));
    let traffic = tokio::task::spawn(come_and_go(bed.clone(), watched.clone(), rate, end.clone()));
    let began = Instant::now();
    let made = Arc::new(Mutex::new(Made::default()));
    let outcome = kill_again_and_again(&bed, &cri, &made, kills, seed).await;
    let storm = began.elapsed();
    end.store(true, Ordering::Relaxed);
    let count = traffic.await?;
    // First: without a kubelet nothing of the other goes on.
    let at_barriers = outcome.context("killing and starting the kubelet")?;
    let count = count.context("pods that come and go")?;

    for (name, wanted) in before {
        let pod = bed.until(&name, &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
        same(&name, facts(&pod), wanted)?;
    }
    let calls = cri.recorded("RunPodSandbox|CreateContainer|StartContainer").await?;
    made.lock().add(&calls);
    made.lock().once()?;
    watched.faultless()?;
    let held_back = nothing_left(&bed, &there).await.context("what the storm left")?;
    Ok(format!(
        "{pods} pods untouched, {count} came and went, {kills} kills ({at_barriers} at a barrier) in {:.0} s, seed {seed}{held_back}",
        storm.as_secs_f64()
    ))
}

/// Nothing of the pods that went is left. containerd itself may hold something back: a start that
/// is cut off together with its client can leave a task that containerd takes for ended and then
/// refuses to remove; only its restart helps. So where its log says so of a container that is left,
/// it is restarted once, and everything must go then.
async fn nothing_left(bed: &Bed, there: &Residue) -> Result<String> {
    let Err(left) = Residue::until_back(&bed.cluster, there, Duration::from_secs(90)).await else {
        return Ok(String::new());
    };
    let log = std::fs::read_to_string(format!("{}/containerd@n1.log", bed.cluster.env("LOG_DIR")))?;
    let refused = Residue::take(&bed.cluster).await?.beyond(there);
    let refused = refused.iter().filter_map(|line| line.strip_prefix("container ")).filter(|id| {
        log.lines().any(|line| line.contains(id) && line.contains("cannot delete running task"))
    });
    let refused = refused.count();
    if refused == 0 {
        return Err(left);
    }
    bed.cluster.run(&["containerd", "restart", "n1"]).await?;
    Residue::until_back(&bed.cluster, there, Duration::from_secs(90))
        .await
        .context("after a restart of the runtime")?;
    Ok(format!("; {refused} containers that containerd refused to remove went after its restart"))
}

fn facts(pod: &serde_json::Value) -> [String; 3] {
    ["c[main].containerID", "c[main].state.running.startedAt", "status.podIP"]
        .map(|path| text(pod, path))
}

/// What each pod got: sandboxes, containers, starts.
#[derive(Default)]
struct Made {
    times: BTreeMap<String, usize>,
    /// Containers that were made, by what they are and their id.
    created: Vec<(String, String)>,
    started: BTreeSet<String>,
}

impl Made {
    fn add(&mut self, calls: &[Call]) {
        for call in calls.iter().filter(|call| call.done()) {
            let what = format!("{} of {}", call.what(), call.pod);
            if call.method == "CreateContainer" {
                self.created.push((what, text(&call.response, "container_id")));
                continue;
            }
            if call.method == "StartContainer" {
                self.started.insert(text(&call.request, "container_id"));
            }
            *self.times.entry(what).or_default() += 1;
        }
    }

    /// Fails if anything was done twice. A container that was never started may be made again:
    /// nothing of it has run.
    fn once(&self) -> Result<()> {
        let mut times = self.times.clone();
        for (what, _) in self.created.iter().filter(|(_, id)| self.started.contains(id)) {
            *times.entry(what.clone()).or_default() += 1;
        }
        let twice: Vec<String> = times
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(what, times)| format!("{what}: {times} times"))
            .collect();
        ensure!(
            twice.is_empty(),
            "{} things were done more than once: {}",
            twice.len(),
            some(&twice)
        );
        ensure!(!self.times.is_empty(), "nothing was done at all");
        Ok(())
    }
}

/// Makes pods at a steady rate and deletes each once it was ready; returns how many came and went.
async fn come_and_go(
    bed: Bed,
    watched: Arc<Watched>,
    rate: usize,
    end: Arc<AtomicBool>,
) -> Result<usize> {
    let mut tick = tokio::time::interval(Duration::from_secs_f64(
        1.0 / f64::from(u32::try_from(rate.max(1))?),
    ));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut living = tokio::task::JoinSet::new();
    let mut count = 0;
    while !end.load(Ordering::Relaxed) {
        tick.tick().await;
        while let Some(done) = living.try_join_next() {
            done??;
        }
        if living.len() >= AT_ONCE {
            continue;
        }
        let name = format!("comes-{count}");
        count += 1;
        let (bed, watched) = (bed.clone(), watched.clone());
        living.spawn(async move {
            let one = [name.clone()];
            bed.pod(&name, COMES).await?;
            watched.all(&one, |pod| pod.ready, Duration::from_secs(180)).await.context("ready")?;
            bed.delete(&name, None).await?;
            watched.all(&one, |pod| pod.gone, Duration::from_secs(180)).await.context("gone")?;
            anyhow::Ok(())
        });
    }
    while let Some(done) = living.join_next().await {
        done??;
    }
    Ok(count)
}

/// Each kill strikes while a call of a pod that comes or goes is at a barrier; returns how many
/// found one.
async fn kill_again_and_again(
    bed: &Bed,
    cri: &Proxy,
    made: &Mutex<Made>,
    kills: usize,
    seed: usize,
) -> Result<usize> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed as u64);
    let mut at_barriers = 0;
    for kill in 0..kills {
        let method = METHODS[dice.below(METHODS.len())];
        let when = ["before", "after"][dice.below(2)];
        let nth = 1 + dice.below(3);
        let name = format!("kill-{kill}");
        let pods = format!("{}/comes-.*", bed.name);
        cri.rules(&[json!({"name": name, "method": method, "pod": pods, "when": when, "nth": nth, "do": "hold"})])
            .await?;
        at_barriers += cri.until_held(1, BARRIER).await?.len();
        kill_kubelet(bed)?;
        cri.until_none_held().await?;
        cri.rules(&[]).await?;
        kubelet(bed, "start")
            .await
            .with_context(|| format!("after kill {kill}, {when} {method} {nth}"))?;
        // Read while it is small.
        let calls = cri.recorded("RunPodSandbox|CreateContainer|StartContainer").await?;
        cri.forget().await?;
        made.lock().add(&calls);
        // It gets to work before the next one.
        tokio::time::sleep(Duration::from_millis(300 + 100 * u64::try_from(dice.below(12))?)).await;
    }
    ensure!(
        at_barriers * 2 >= kills,
        "only {at_barriers} of {kills} kills found a call at their barrier"
    );
    Ok(at_barriers)
}
