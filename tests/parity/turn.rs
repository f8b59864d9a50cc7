//! One kubelet's turn on the node: it plays all cases, many at a time, and what the recorders saw
//! is told apart by pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use rkubelet_bed::bed::{self, Bed};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::parity::recording::Recording;
use rkubelet_bed::parity::{names, writes};
use rkubelet_bed::{look, run};

use crate::Seen;
use crate::calls::{self, Call, PodCalls, Recorder};
use crate::manifest::Case;
use crate::play::{self, Played};

/// Cases that run at the same time.
const SIDE_BY_SIDE: usize = 24;
/// The end of every case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(240);
/// Upstream removes sandboxes at its next round of clearing up, once a minute.
const CLEARED: Duration = Duration::from_secs(100);
/// The proxy forgets its oldest calls: it is read while they are made.
const READS: Duration = Duration::from_secs(10);
/// After the start of a kubelet.
const SETTLED: Duration = Duration::from_secs(5);
/// Namespaces of cases begin like this.
const PREFIX: &str = "parity-";

/// Has `kubelet` run all cases; a case that fails does not end the others.
pub(crate) fn take(cluster: &Arc<Cluster>, kubelet: &str, cases: &[Case]) -> Result<Seen> {
    run::in_network(cluster, || play_all(cluster, kubelet, cases))
}

async fn play_all(cluster: &Arc<Cluster>, kubelet: &str, cases: &[Case]) -> Result<Seen> {
    let client = bed::client(cluster).await.context("a client of the API server")?;
    let node = Bed::at(cluster.clone(), client.clone(), "default");
    cluster.run(&["kubelet", "restart", "n1", kubelet]).await?;
    let proxy = cluster.env("NODE_N1_CRI_PROXY").to_owned();
    ensure!(!proxy.is_empty(), "the cluster has no CRI proxy: cluster up --cri-proxy");
    node.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    let seen = node.get("Node", "n1").await?;
    let memory =
        ["capacity", "allocatable"].map(|list| look::text(&seen, &format!("status.{list}.memory")));
    names::know_node(&memory[0], &memory[1]);
    // The condition may still be what the one before said: let this one see its services and say it
    // itself.
    tokio::time::sleep(SETTLED).await;
    cleared(&node).await?;
    calls::ask_proxy(&proxy, "DELETE", "/record").await?;
    let log = PathBuf::from(cluster.env("AUDIT_LOG"));
    let offset = rkubelet_bed::audit::end(&log);
    let began = Instant::now();
    println!("---- {kubelet}: {} cases", cases.len());
    let mut running = futures::stream::iter(cases.iter().map(|case| {
        let bed = Bed::at(cluster.clone(), client.clone(), &format!("{PREFIX}{}", case.name));
        async move { (case.name.clone(), one(&bed, case).await) }
    }))
    .buffer_unordered(SIDE_BY_SIDE);
    let mut played = BTreeMap::new();
    let mut recorder = Recorder::new(&proxy);
    let mut reads = tokio::time::interval(READS);
    loop {
        tokio::select! {
            done = running.next() => match done {
                Some((name, outcome)) => drop(played.insert(name, outcome)),
                None => break,
            },
            _ = reads.tick() => recorder.read().await?,
        }
    }
    drop(running);
    println!("---- {kubelet}: played in {:.1} s", began.elapsed().as_secs_f64());
    let calls = recorded(cluster, recorder).await?;
    let writes = writes::read(&log, offset, PREFIX)?;
    println!("---- {kubelet}: {} calls, {} writes of pods", calls.len(), writes.len());
    let whole = |(name, outcome): (String, Result<Played>)| {
        let namespace = format!("{PREFIX}{name}");
        let recording = outcome.map(|played| put_together(&namespace, played, &calls, &writes));
        (name, recording)
    };
    Ok(played.into_iter().map(whole).collect())
}

/// Waits until no namespace of an earlier turn is left.
async fn cleared(node: &Bed) -> Result<()> {
    let deadline = Instant::now() + CLEARED;
    loop {
        let namespaces = node.api("Namespace").list(&kube::api::ListParams::default()).await?.items;
        let left = namespaces.iter().filter_map(|one| one.metadata.name.as_deref());
        let left: Vec<&str> = left.filter(|name| name.starts_with(PREFIX)).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "namespaces of an earlier turn do not go: {}",
            left.join(" ")
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn one(bed: &Bed, case: &Case) -> Result<Played> {
    let outcome = run::within(CASE_LIMIT, async {
        bed.prepare().await.context("preparing the namespace")?;
        play::play(bed, case).await
    })
    .await;
    let outcome = match outcome {
        Ok(played) => Ok(played),
        Err(error) => Err(play::explain(bed, error).await),
    };
    bed.clear().await.ok();
    outcome
}

/// The calls, once the runtime has no container any more.
async fn recorded(cluster: &Cluster, mut recorder: Recorder) -> Result<Vec<Call>> {
    let deadline = Instant::now() + CLEARED;
    loop {
        let left = cluster.ctr(&["containers", "ls", "-q"]).await?.lines().count();
        recorder.read().await?;
        if left == 0 {
            return Ok(recorder.calls());
        }
        if Instant::now() > deadline {
            println!("---- {left} sandboxes and containers are never removed");
            return Ok(recorder.calls());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn put_together(
    namespace: &str,
    played: Played,
    calls: &[Call],
    seen: &[writes::Write],
) -> Recording {
    let mut recording = played.recording;
    for (pod, cgroups) in played.pods {
        let known = PodCalls::write(calls, namespace, &pod, &mut recording);
        for (id, values) in cgroups {
            let unit = known.units.get(&id).map_or("unknown", String::as_str);
            if calls::is_late(unit) {
                continue;
            }
            recording.put(&[&pod, "cgroups", unit], values.trim());
        }
        writes::write(seen, namespace, &pod, &mut recording);
    }
    recording
}
