//! What the kubelet writes to the API server when answers are lost and late, and when many watches
//! are open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use futures::future::try_join_all;
use rkubelet_bed::bed::Bed;
use rkubelet_bed::look::{at, number, text};
use serde_json::{Value, json};

use crate::control::{Call, Proxy};
use crate::residue::some;
use crate::watched::Watched;
use crate::{Case, case, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(replies_lost_and_late), case(write_beside_150_watches), case(stale_events)]
}

const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '10000']}]}";
/// Pods that are made and deleted at the same time.
const SIDE_BY_SIDE: usize = 12;
/// From the moment at which a container started until the API server had it.
const LAG: Duration = Duration::from_secs(1);

async fn replies_lost_and_late(bed: Bed) -> Result<String> {
    let count = if quick() { 40 } else { 200 };
    let (cri, api) = (Proxy::cri(&bed.cluster), Proxy::api(&bed.cluster));
    let watched = Watched::pods(&bed).await?;
    // So many writes are lost that some are: the short form makes fewer.
    let lost = if quick() { 0.05 } else { 0.01 };
    api.rules(&[
        json!({"name": "lost", "method": "(patch|create|update|delete) .*", "do": "drop-reply", "probability": lost, "seed": 7}),
        json!({"name": "late", "method": "(get|list|patch|create|update|delete) .*", "do": "delay", "delayMs": 50}),
    ])
    .await?;
    let names: Vec<String> = (0..count).map(|number| format!("p-{number}")).collect();
    let lives = names.into_iter().map(|name| life(bed.clone(), name));
    let lives = futures::stream::iter(lives).buffer_unordered(SIDE_BY_SIDE);
    lives.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<()>>>()?;
    let writes = api.recorded("patch pods/status|delete pods").await?;
    let starts = cri.recorded("StartContainer").await?;
    api.rules(&[]).await?;
    watched.faultless()?;
    let lost = writes.iter().filter(|write| write.message == "the reply was lost").count();
    ensure!(lost > 0, "no reply was lost: nothing was tested");
    never_two_at_once(&writes)?;
    never_older_over_newer(&writes)?;
    let mut lags = lags(&starts, &writes)?;
    ensure!(lags.len() == count, "{} of {count} starts were written", lags.len());
    lags.sort();
    let at = |share: usize| {
        lags.get((lags.len() * share / 100).min(lags.len() - 1)).copied().unwrap_or_default()
    };
    let said = format!(
        "{count} pods, {} writes, {lost} without an answer; lag p50 {:?}, p99 {:?}, max {:?}",
        writes.len(),
        at(50),
        at(99),
        at(100)
    );
    ensure!(at(99) <= LAG, "the status lags: {said}");
    Ok(said)
}

async fn life(bed: Bed, name: String) -> Result<()> {
    bed.pod(&name, SLEEPER).await?;
    bed.until(&name, &["cond[Ready]=True"]).await?;
    bed.delete(&name, None).await?;
    bed.until_gone("Pod", &name).await
}

/// No write of a pod begins before the one before it has had its answer, or has lost it.
fn never_two_at_once(writes: &[Call]) -> Result<()> {
    let mut by_pod: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for write in writes {
        by_pod.entry(&write.pod).or_default().push(write);
    }
    let mut faults = Vec::new();
    for (pod, mut writes) in by_pod {
        writes.sort_by_key(|write| write.start);
        for pair in writes.windows(2) {
            if let [first, second] = pair
                && second.start < first.end
            {
                faults.push(format!(
                    "{pod}: {} began while {} was under way",
                    second.method, first.method
                ));
            }
        }
    }
    ensure!(faults.is_empty(), "two writes in flight: {}", some(&faults));
    Ok(())
}

/// How far a pod is, by what one write says of it; a write that says nothing of it has no place.
fn progress(write: &Call) -> Option<(i64, i64)> {
    let phase = ["Pending", "Running", "Succeeded", "Failed"]
        .iter()
        .position(|phase| *phase == text(&write.request, "status.phase"))
        .map(|rank| i64::try_from(rank).unwrap_or_default());
    let status = at(&write.request, "status.containerStatuses[main]");
    let state = status.map(|status| {
        let rank = ["waiting", "running", "terminated"].iter().position(|state| {
            at(status, "state").and_then(|s| s.get(state)).is_some_and(|s| !s.is_null())
        });
        number(status, "restartCount") * 3
            + i64::try_from(rank.unwrap_or_default()).unwrap_or_default()
    });
    (phase.is_some() || state.is_some()).then(|| (phase.unwrap_or(-1), state.unwrap_or(-1)))
}

/// What is written of a pod only ever goes forward.
fn never_older_over_newer(writes: &[Call]) -> Result<()> {
    let mut last: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let mut faults = Vec::new();
    for write in writes.iter().filter(|write| write.method.starts_with("patch")) {
        let Some((phase, state)) = progress(write) else { continue };
        let before = last.entry(&write.pod).or_insert((-1, -1));
        if phase != -1 && phase < before.0 || state != -1 && state < before.1 {
            faults.push(format!("{}: {before:?} and then {:?}", write.pod, (phase, state)));
        }
        *before = (before.0.max(phase), before.1.max(state));
    }
    ensure!(faults.is_empty(), "older over newer: {}", some(&faults));
    Ok(())
}

/// From each container's start to the end of the first write that says that it runs.
fn lags(starts: &[Call], writes: &[Call]) -> Result<Vec<Duration>> {
    let mut first: BTreeMap<&str, i64> = BTreeMap::new();
    let running = |write: &&Call| {
        at(&write.request, "status.containerStatuses[main].state.running").is_some()
    };
    for write in writes.iter().filter(running) {
        first.entry(&write.pod).or_insert(write.end);
    }
    let started = starts.iter().filter(|start| start.container == "main" && start.done());
    started
        .filter_map(|start| Some((start, first.get(start.pod.as_str())?)))
        .map(|(start, written)| {
            Ok(Duration::from_nanos(u64::try_from((written - start.end).max(0))?))
        })
        .collect()
}

async fn write_beside_150_watches(bed: Bed) -> Result<String> {
    let count = 150;
    let (cri, api) = (Proxy::cri(&bed.cluster), Proxy::api(&bed.cluster));
    let name = |number: usize| format!("map-{number}");
    for chunk in (0..count).collect::<Vec<usize>>().chunks(25) {
        let made = chunk.iter().map(|number| {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(*number)}, "data": {"k": "v"}});
            let bed = &bed;
            async move { bed.create(&map.to_string()).await }
        });
        try_join_all(made).await?;
    }
    for pod in 0..3 {
        let volumes: Vec<Value> = (pod * 50..pod * 50 + 50)
            .map(
                |number| json!({"name": format!("v{number}"), "configMap": {"name": name(number)}}),
            )
            .collect();
        let mounts: Vec<Value> = (pod * 50..pod * 50 + 50)
            .map(
                |number| json!({"name": format!("v{number}"), "mountPath": format!("/v/{number}")}),
            )
            .collect();
        let spec = json!({"terminationGracePeriodSeconds": 1, "volumes": volumes, "containers": [
            {"name": "main", "image": "busybox", "command": ["sleep", "10000"], "volumeMounts": mounts}]});
        bed.pod(&format!("reader-{pod}"), &spec.to_string()).await?;
    }
    for pod in 0..3 {
        bed.until(&format!("reader-{pod}"), &["cond[Ready]=True"]).await?;
    }
    let mut worst = Duration::ZERO;
    for number in 0..5 {
        api.forget().await?;
        cri.forget().await?;
        let pod = format!("p-{number}");
        bed.pod(&pod, SLEEPER).await?;
        bed.until(&pod, &["cond[Ready]=True"]).await?;
        worst = worst.max(recorded_lag(&cri, &api).await?);
    }
    let watches = bed
        .kubectl(&["get", "--raw", "/metrics"])
        .await
        .map(|text| watches_of_configmaps(&text))?;
    ensure!(worst <= LAG, "beside {watches} watches a status took {worst:?}");
    Ok(format!("{watches} watches on ConfigMaps at the API server, status lag at most {worst:?}"))
}

/// The lag of the only start. The watch may show a write before the proxy has put down that it was
/// answered.
async fn recorded_lag(cri: &Proxy, api: &Proxy) -> Result<Duration> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let lags = lags(
            &cri.recorded("StartContainer").await?,
            &api.recorded("patch pods/status").await?,
        )?;
        if let Some(lag) = lags.first() {
            return Ok(*lag);
        }
        ensure!(Instant::now() < until, "the start was not written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many watches on ConfigMaps the API server has now.
fn watches_of_configmaps(metrics: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
    let watches = lines
        .filter(|line| line.contains("resource=\"configmaps\"") && line.contains("verb=\"WATCH\""));
    watches.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The kubelet sees its pods late: each event of the watch is held back for a while, in order.
async fn stale_events(bed: Bed) -> Result<String> {
    let count = if quick() { 8 } else { 20 };
    let api = Proxy::api(&bed.cluster);
    let watched = Watched::pods(&bed).await?;
    api.rules(&[
        json!({"name": "stale", "method": "event pods", "when": "after", "do": "delay", "delayMs": 250}),
        json!({"name": "busy", "method": "(patch|get) pods.*", "do": "fail", "code": "503", "probability": 0.1, "seed": 3}),
        json!({"name": "slow down", "method": "(patch|get) pods.*", "do": "fail", "code": "429", "probability": 0.05, "seed": 4}),
        json!({"name": "cut", "method": "event pods", "when": "after", "do": "cut", "probability": 0.02, "seed": 5}),
    ])
    .await?;
    try_join_all((0..count).map(|number| life(bed.clone(), format!("p-{number}")))).await?;
    let writes = api.recorded("patch pods/status|delete pods").await?;
    api.rules(&[]).await?;
    never_two_at_once(&writes)?;
    never_older_over_newer(&writes)?;
    watched.faultless()?;
    Ok(format!("{count} pods, {} writes", writes.len()))
}
