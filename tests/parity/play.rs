//! Plays one case on the node: its steps, a look at its pods, their end. What is asked of other
//! recorders comes later.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::ResourceExt as _;
use kube::api::ListParams;
use rkubelet_bed::bed::{Bed, as_value};
use rkubelet_bed::look;
use rkubelet_bed::parity::names::plain;
use rkubelet_bed::parity::recording::Recording;
use serde_json::Value;

use crate::disk::{self, ById};
use crate::manifest::{Case, Step};

/// How long a pod may take to settle.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is written a moment after all else: events, the last status.
const MOMENT: Duration = Duration::from_millis(1500);
/// Reasons whose events are repeated as time goes by: how often says nothing.
#[rustfmt::skip]
const REPEATED: [&str; 11] = [
    "BackOff", "Unhealthy", "FailedMount", "Failed", "FailedCreatePodSandBox", "Pulling", "Pulled", "FailedSync",
    "DNSConfigForming", "FailedToRetrieveImagePullSecret", "DeadlineExceeded",
];

/// Words of events that tell of a race within the kubelet: an object that its own cache does not
/// know yet, a probe of a container that is just being stopped.
const ACCIDENTAL: [&str; 2] = ["not registered", "errored and resulted in unknown state"];

/// A case that has been played.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) recording: Recording,
    /// The pods by name.
    pub(crate) pods: BTreeMap<String, ById>,
}

/// One case in its namespace, which is gone afterwards or on its way.
pub(crate) async fn play(bed: &Bed, case: &Case) -> Result<Played> {
    let mut played = Played { recording: Recording::default(), pods: BTreeMap::new() };
    let mut files = Vec::new();
    let outcome = steps(bed, case, &mut played, &mut files).await;
    for file in &files {
        drop(std::fs::remove_file(file));
    }
    outcome?;
    // The mirror of a static pod goes when its file has gone.
    for name in pods_of(bed, false).await? {
        bed.delete(&name, None).await.ok();
    }
    for name in played.pods.keys() {
        bed.until_gone("Pod", name).await?;
    }
    quiet(bed).await?;
    events(bed, &mut played.recording).await?;
    Ok(played)
}

/// Waits until no event has come for a moment: on a busy node the last ones are late.
async fn quiet(bed: &Bed) -> Result<()> {
    let mut before = None;
    for _ in 0..6 {
        // Longer than events of which nothing is wrong are held back while pods wait for their
        // start.
        tokio::time::sleep(MOMENT * 4).await;
        let events = bed.api("Event").list(&ListParams::default()).await?.items;
        let now =
            events.iter().map(|event| look::number(&as_value(event), "count").max(1)).sum::<i64>();
        if before == Some(now) {
            return Ok(());
        }
        before = Some(now);
    }
    Ok(())
}

async fn pods_of(bed: &Bed, mirrors: bool) -> Result<Vec<String>> {
    let mut pods = bed.api("Pod").list(&ListParams::default()).await?.items;
    pods.retain(|pod| mirrors || !pod.annotations().contains_key("kubernetes.io/config.mirror"));
    Ok(pods.into_iter().filter_map(|pod| pod.metadata.name).collect())
}

async fn steps(
    bed: &Bed,
    case: &Case,
    played: &mut Played,
    files: &mut Vec<std::path::PathBuf>,
) -> Result<()> {
    for step in &case.steps {
        one_step(bed, &case.name, step, played, files)
            .await
            .with_context(|| format!("{step:?}"))?;
    }
    tokio::time::sleep(MOMENT).await;
    for name in pods_of(bed, true).await? {
        if !played.pods.contains_key(&name) {
            look_at(bed, &name, played).await?;
        }
    }
    Ok(())
}

async fn one_step(
    bed: &Bed,
    case: &str,
    step: &Step,
    played: &mut Played,
    files: &mut Vec<std::path::PathBuf>,
) -> Result<()> {
    match step {
        Step::Create(yaml) => drop(bed.create(yaml).await?),
        Step::CreateStatic(yaml) => {
            let file = bed.cluster.on_node(&format!("/etc/kubernetes/manifests/{case}.yaml"));
            std::fs::write(&file, yaml.replace("NAMESPACE", &bed.name))?;
            files.push(file);
        }
        Step::Until(pod, wants) => {
            let wants: Vec<&str> = wants.iter().map(String::as_str).collect();
            bed.until(pod, &wants).await?;
        }
        Step::Event(pod, reason, message) => drop(bed.event(pod, reason, message).await?),
        Step::Patch(kind, name, json) => {
            drop(bed.patch(kind, name, serde_json::from_str(json)?).await?);
        }
        Step::Delete(pod, grace) => {
            if !played.pods.contains_key(pod) {
                look_at(bed, pod, played).await?;
            }
            bed.delete(pod, *grace).await?;
        }
        Step::Gone(pod) => bed.until_gone("Pod", pod).await?,
        Step::Wait(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
        Step::Look(pod) => look_at(bed, pod, played).await?,
        Step::Kubectl(args) => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            bed.kubectl(&args).await?;
        }
        Step::Node(argv) => {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            bed.cluster.node_exec(&argv).await?;
        }
        Step::Settle => settle(bed).await?,
    }
    Ok(())
}

async fn look_at(bed: &Bed, name: &str, played: &mut Played) -> Result<()> {
    let pod = bed.get("Pod", name).await?;
    // A static pod is known on the node by another uid than its mirror.
    let hash = look::text(&pod, "metadata.annotations[kubernetes.io/config.hash]");
    let uid = if hash.is_empty() { look::text(&pod, "metadata.uid") } else { hash };
    let containers = disk::look(&bed.cluster, &bed.name, name, &uid, &mut played.recording)?;
    played.pods.insert(name.to_owned(), containers);
    Ok(())
}

async fn settle(bed: &Bed) -> Result<()> {
    let settled = tokio::time::timeout(PATIENCE, async {
        loop {
            let pods = bed.api("Pod").list(&ListParams::default()).await?.items;
            if pods.iter().all(|pod| has_settled(&as_value(pod))) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    match settled.await {
        Ok(outcome) => outcome,
        Err(_) => bail!("not settled after {} s:\n{}", PATIENCE.as_secs(), bed.facts().await),
    }
}

/// Ended, ready, or waiting for something that will not come by itself.
fn has_settled(pod: &Value) -> bool {
    let ended = ["Succeeded", "Failed"].contains(&look::text(pod, "status.phase").as_str());
    let ready = look::text(pod, "cond[Ready]") == "True";
    let lists = ["initContainerStatuses", "containerStatuses"];
    let mut containers = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    let stuck = containers.any(|status| {
        let reason = look::text(status, "state.waiting.reason");
        !matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing")
    });
    ended || ready || stuck
}

/// The kubelet's events, each with how often there was one.
async fn events(bed: &Bed, recording: &mut Recording) -> Result<()> {
    let list = bed.api("Event").list(&ListParams::default()).await?.items;
    let mut found: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for event in list.iter().map(as_value).filter(|event| event["source"]["component"] == "kubelet")
    {
        if ACCIDENTAL.iter().any(|words| look::text(&event, "message").contains(words)) {
            continue;
        }
        let about = look::text(&event, "involvedObject.name");
        let field = look::text(&event, "involvedObject.fieldPath");
        let what = ["type", "reason", "message"].map(|key| look::text(&event, key)).join(" ");
        let by =
            ["source.host", "reportingComponent", "reportingInstance", "involvedObject.apiVersion"];
        let by = by.map(|key| look::text(&event, key)).join(" ");
        let place = vec![about, "events".to_owned(), plain(format!("{field} {what}").trim()), by];
        *found.entry(place).or_default() += look::number(&event, "count").max(1);
    }
    for (place, count) in found {
        let repeated = REPEATED.iter().any(|reason| place[2].contains(&format!(" {reason} ")));
        let count = match count {
            _ if repeated => "now and then",
            1 => "once",
            _ => "more than once",
        };
        recording.leaves.insert(place, count.to_owned());
    }
    Ok(())
}

/// A case that did not end is told with what is known of it.
pub(crate) async fn explain(bed: &Bed, error: anyhow::Error) -> anyhow::Error {
    anyhow!("{error:#}\n{}", bed.facts().await)
}
