//! Watches on the API opened before anything happens: when pods were ready and gone, and everything
//! that must not be seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use rkubelet_bed::bed::{Bed, as_value};
use rkubelet_bed::look::{at, number, text};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::residue::some;

/// What is known of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) ready: Option<Instant>,
    pub(crate) gone: Option<Instant>,
    deleted: bool,
    is_ready: bool,
    /// How often it may still stop being ready: its containers were killed.
    may_end: usize,
    phase: usize,
    /// By container: the highest number of restarts, and the one that ran last with its number.
    containers: BTreeMap<String, (i64, Option<(i64, String)>)>,
}

#[derive(Default)]
struct Seen {
    pods: BTreeMap<String, Pod>,
    faults: Vec<String>,
}

/// The watches of one namespace, and of the nodes.
pub(crate) struct Watched {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

const PHASES: [&str; 5] = ["", "Pending", "Running", "Succeeded", "Failed"];

impl Watched {
    /// Opens the watch on pods and waits for its first answer.
    pub(crate) async fn pods(bed: &Bed) -> Result<Self> {
        let watched = Self { seen: Arc::default(), tasks: Vec::new() };
        watched.and(bed.api("Pod"), "Pod", Seen::pod).await
    }

    /// With watches on nodes and EndpointSlices as well.
    pub(crate) async fn everything(bed: &Bed) -> Result<Self> {
        let slices = ApiResource {
            group: "discovery.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "discovery.k8s.io/v1".to_owned(),
            kind: "EndpointSlice".to_owned(),
            plural: "endpointslices".to_owned(),
        };
        let slices = Api::namespaced_with(bed.client.clone(), &bed.name, &slices);
        let watched = Self::pods(bed).await?.and(bed.api("Node"), "Node", Seen::node).await?;
        watched.and(slices, "EndpointSlice", Seen::slice).await
    }

    async fn and(
        mut self,
        api: Api<DynamicObject>,
        what: &'static str,
        note: fn(&mut Seen, &Value, bool),
    ) -> Result<Self> {
        let (opened, open) = tokio::sync::oneshot::channel();
        let (seen, mut opened) = (self.seen.clone(), Some(opened));
        self.tasks.push(tokio::task::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init) if opened.is_none() => {
                        seen.lock().faults.push(format!("a gap in the watch on {what}"));
                    }
                    Ok(watcher::Event::InitDone) => {
                        if let Some(opened) = opened.take() {
                            let _ = opened.send(());
                        }
                    }
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        note(&mut seen.lock(), &as_value(&object), false);
                    }
                    Ok(watcher::Event::Delete(object)) => {
                        note(&mut seen.lock(), &as_value(&object), true);
                    }
                    Ok(watcher::Event::Init) | Err(_) => {}
                }
            }
        }));
        open.await?;
        Ok(self)
    }

    /// What is known of the pod of this name.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        self.seen.lock().pods.get(name).cloned().unwrap_or_default()
    }

    /// Lets each of these pods stop being ready once: their containers are about to be killed.
    pub(crate) fn killed(&self, names: &[String]) {
        let mut seen = self.seen.lock();
        for name in names {
            seen.pods.entry(name.clone()).or_default().may_end = 1;
        }
    }

    /// Waits until `of` has been seen of each of these pods; the moments, in the same order.
    pub(crate) async fn all(
        &self,
        names: &[String],
        of: fn(&Pod) -> Option<Instant>,
        patience: Duration,
    ) -> Result<Vec<Instant>> {
        let deadline = Instant::now() + patience;
        loop {
            let seen: Vec<Option<Instant>> = names.iter().map(|name| of(&self.pod(name))).collect();
            if let Some(all) = seen.iter().copied().collect() {
                return Ok(all);
            }
            if Instant::now() > deadline {
                let missing = names
                    .iter()
                    .zip(&seen)
                    .filter(|(_, seen)| seen.is_none())
                    .map(|(name, _)| name.clone());
                let missing: Vec<String> = missing.collect();
                bail!(
                    "after {} s not so far: {} pods ({})",
                    patience.as_secs(),
                    missing.len(),
                    some(&missing)
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Fails if anything was seen that must not be.
    pub(crate) fn faultless(&self) -> Result<()> {
        let faults = self.seen.lock().faults.clone();
        ensure!(
            faults.is_empty(),
            "{} faults seen by the watches: {}",
            faults.len(),
            some(&faults)
        );
        Ok(())
    }
}

impl Seen {
    fn pod(&mut self, object: &Value, gone: bool) {
        let name = text(object, "metadata.name");
        let pod = self.pods.entry(name.clone()).or_default();
        pod.deleted |= !text(object, "metadata.deletionTimestamp").is_empty() || gone;
        if gone {
            pod.gone = Some(Instant::now());
            return;
        }
        let is_ready = text(object, "cond[Ready]") == "True";
        if is_ready && pod.ready.is_none() {
            pod.ready = Some(Instant::now());
        }
        if pod.is_ready && !is_ready && pod.may_end > 0 {
            pod.may_end -= 1;
        } else if pod.is_ready && !is_ready && !pod.deleted {
            self.faults.push(format!(
                "{name} is not ready any more: {}",
                text(object, "status.conditions")
            ));
        }
        pod.is_ready = is_ready;
        let phase =
            PHASES.iter().position(|phase| *phase == text(object, "phase")).unwrap_or_default();
        if phase < pod.phase {
            self.faults
                .push(format!("{name} went from phase {} to {}", PHASES[pod.phase], PHASES[phase]));
        }
        pod.phase = phase;
        for list in ["status.initContainerStatuses", "status.containerStatuses"] {
            for status in at(object, list).and_then(Value::as_array).into_iter().flatten() {
                let (container, restarts) = (text(status, "name"), number(status, "restartCount"));
                let (before, ran) = pod.containers.entry(container.clone()).or_default();
                if restarts < *before {
                    self.faults.push(format!(
                        "{name}/{container}: restarts went from {before} to {restarts}"
                    ));
                }
                *before = restarts;
                if at(status, "state.running").is_none() {
                    continue;
                }
                // Only what ran counts: one that was never started is made anew under its number.
                let now = (restarts, text(status, "containerID"));
                if ran.as_ref().is_some_and(|ran| ran.0 == now.0 && ran.1 != now.1) {
                    self.faults
                        .push(format!("{name}/{container}: its id changed without a restart"));
                }
                *ran = Some(now);
            }
        }
    }

    fn node(&mut self, object: &Value, gone: bool) {
        let ready = text(object, "cond[Ready]");
        if gone || ready != "True" {
            self.faults
                .push(format!("node {}: Ready is \"{ready}\"", text(object, "metadata.name")));
        }
    }

    /// A pod that is ready and that nobody deleted must not be out of its Service.
    fn slice(&mut self, object: &Value, _: bool) {
        for endpoint in at(object, "endpoints").and_then(Value::as_array).into_iter().flatten() {
            let name = text(endpoint, "targetRef.name");
            let known = self.pods.get(&name).is_some_and(|pod| pod.ready.is_some() && !pod.deleted);
            let since = self
                .pods
                .get(&name)
                .and_then(|pod| pod.ready)
                .map(|at| at.elapsed())
                .unwrap_or_default();
            // The slice follows the pod: just after that one became ready an older slice may still
            // come.
            if known
                && since > Duration::from_secs(10)
                && text(endpoint, "conditions.ready") == "false"
            {
                self.faults.push(format!("{name} is out of its Service"));
            }
        }
    }
}
