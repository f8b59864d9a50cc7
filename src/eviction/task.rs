//! The task of eviction: reads the node, publishes what it is short of, reclaims, stops pods.
//!
//! All decisions are [`super::decide`]'s. A look is due at a moment that the last one has named, at
//! a notice of the kernel, and when a victim is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::decide::{self, Aim, Decider, Eviction, Look, Reclaim};
use super::limits;
use super::rank::Candidate;
use super::signals::{self, Observations};
use super::thresholds::Layout;
use super::wake::Wakes;
use super::{Config, Deps};
use crate::cri::v1;
use crate::dispatch::{PodView, ViewState};
use crate::linux::blocking;
use crate::model::reason::event;
use crate::model::{ContainerId, EventType, Mono, Pod, PodUid, pod};
use crate::stats::usage::{NodeUsage, PodsUsage};
use crate::watch::set_if_changed;

/// The least time between two looks, whoever asks for them.
const SPACING: Duration = Duration::from_millis(100);

/// How long removed containers may take to go.
const RECLAIM: Duration = Duration::from_secs(10);

/// Owns what eviction remembers.
pub(super) struct Task {
    deps: Deps,
    node_name: String,
    root_dir: PathBuf,
    decider: Decider,
    wakes: Wakes,
    /// The ends of the pods that were told to go.
    ends: JoinSet<PodUid>,
    next: Mono,
}

impl Task {
    pub(super) fn new(config: Config, deps: Deps) -> Self {
        let decider = Decider::new(config.policy);
        let wakes = Wakes::new(decider.watches_memory(), config.memcg);
        Self {
            next: deps.clock.now().mono,
            deps,
            node_name: config.node_name,
            root_dir: config.root_dir,
            decider,
            wakes,
            ends: JoinSet::new(),
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        if self.decider.is_idle() {
            return std::future::pending().await;
        }
        info!("eviction watches the node");
        self.find_layout().await;
        loop {
            let clock = self.deps.clock;
            // Every arm is cancel-safe.
            tokio::select! {
                () = clock.sleep_until(self.next) => {}
                () = self.wakes.next() => {}
                Some(ended) = self.ends.join_next() => {
                    if let Ok(uid) = ended {
                        info!(%uid, "an evicted pod is gone");
                        self.decider.stopped(&uid);
                    }
                }
            }
            let began = clock.now().mono;
            self.look().await;
            clock.sleep_until(began.after(SPACING)).await;
        }
    }

    /// Reads the node once, and does what follows.
    async fn look(&mut self) {
        let node = match self.deps.stats.signals().await {
            Ok(node) => node,
            Err(error) => {
                warn!(%error, "eviction cannot read the node");
                self.next = self.deps.clock.now().mono.after(decide::EVERY);
                return;
            }
        };
        let now = self.deps.clock.now().mono;
        let observations = signals::observe(&node);
        let Look { pressure, due } = self.decider.look(&observations, now);
        if set_if_changed(&self.deps.pressure, pressure) {
            info!(?pressure, "what the node is short of has changed");
        }
        for pod in self.decider.overdue(now) {
            let message = "Container runtime did not kill the pod within specified grace period.";
            let reason = event::EXCEEDED_GRACE_PERIOD;
            self.deps.recorder.pod(&pod, None, EventType::Warning, reason, message);
        }

        self.follow(&node, now);
        self.act(&due, &observations, now).await;
        self.next = self.decider.next_look(observations, now);
    }

    fn follow(&mut self, node: &NodeUsage, now: Mono) {
        self.wakes.follow(self.decider.thresholds(), node, now);
    }

    /// Evicts pods that are over their own limits; if there are none, one for the node's sake.
    async fn act(&mut self, due: &[super::thresholds::Threshold], seen: &Observations, now: Mono) {
        let pods = self.active_pods();
        if self.decider.limits_local_storage() && pods.iter().any(|pod| limits::has_any(pod)) {
            let usage = self.usage(decide::EVERY).await;
            let over = self.decider.over_limit(&candidates(&pods, usage.as_deref()));
            if !over.is_empty() {
                for eviction in over {
                    self.evict(eviction).await;
                }
                return;
            }
        }

        let Some(aim) = self.decider.aim(due, now) else { return };
        let resource = aim.resource().as_str();
        info!(resource, signal = aim.threshold.signal.as_str(), "attempting to reclaim");
        let message = format!("Attempting to reclaim {resource}");
        let reason = event::EVICTION_THRESHOLD_MET;
        self.deps.recorder.node(&self.node_name, EventType::Warning, reason, message);

        if self.reclaim(&aim).await {
            info!(resource, "enough was reclaimed without evicting a pod");
            return;
        }

        // Without a reading of the pods the victim would be any of them.
        let Some(usage) = self.usage(Duration::ZERO).await else { return };
        let candidates = candidates(&pods, Some(&usage));
        let wall = self.deps.clock.now();
        for threshold in due {
            if let Some(observed) = seen.get(&threshold.signal) {
                let age = wall.elapsed_since(observed.at);
                let signal = threshold.signal.as_str();
                self.deps.metrics.age.with(&[signal]).observe_duration(age);
            }
        }
        if let Some(eviction) = self.decider.victim(&aim, due, seen, &candidates) {
            self.evict(eviction).await;
        } else {
            warn!(resource, "the node is short of a resource and has no pod to evict");
        }
    }

    /// Returns the pods that count against the node, with what they were given.
    fn active_pods(&self) -> Vec<Arc<Pod>> {
        let views = self.deps.pods.views().into_iter();
        views.filter(PodView::is_active).map(|view| view.pod).collect()
    }

    async fn usage(&self, max_age: Duration) -> Option<Arc<PodsUsage>> {
        let usage = self.deps.stats.pods(max_age).await;
        usage.inspect_err(|error| warn!(%error, "eviction cannot read the usage of pods")).ok()
    }

    /// Tells a pod to go, and waits for its end beside everything else.
    async fn evict(&mut self, eviction: Eviction) {
        let Eviction { pod, signal, grace, cause, words } = eviction.clone();
        let uid = pod::uid(&pod);
        info!(pod = %pod::key(&pod), %uid, signal, ?grace, cause = words.message, "evicting a pod");
        let recorder = &self.deps.recorder;
        let annotations = words.annotations;
        recorder.annotated(&pod, EventType::Warning, event::EVICTED, words.message, annotations);
        self.deps.metrics.evictions.with(&[signal]).inc();
        self.decider.evicted(&eviction, self.deps.clock.now().mono);
        let view = self.deps.pods.watch(&uid);
        if !self.deps.pods.stop(uid.clone(), cause, grace).await {
            return;
        }
        self.ends.spawn(async move {
            if let Some(mut view) = view {
                // An error: its task has ended, and nothing of it is left.
                view.wait_for(PodView::is_cleaned_up).await.ok();
            }
            uid
        });
    }

    /// Reclaims what no pod needs. True if nothing is short any more.
    async fn reclaim(&mut self, aim: &Aim) -> bool {
        for what in aim.reclaim {
            match what {
                Reclaim::DeadContainers => self.remove_dead_containers().await,
                Reclaim::UnusedImages => {
                    if let Err(error) = self.deps.images.delete_unused().await {
                        warn!(%error, "unused images could not be deleted");
                    }
                }
            }
        }
        if aim.reclaim.is_empty() {
            return false;
        }

        self.find_layout().await;
        match self.deps.stats.signals().await {
            Ok(node) => self.decider.is_relieved(&signals::observe(&node)),
            Err(error) => {
                warn!(%error, "eviction cannot read the node after it has reclaimed");
                false
            }
        }
    }

    /// Has the containers of pods that are over removed, and waits until they are gone.
    async fn remove_dead_containers(&self) {
        let over = self.deps.pods.views().into_iter();
        // Only once the final status is accepted: it is computed from them.
        let over =
            over.filter(|view| view.state == ViewState::Terminated && view.blocked.is_none());
        let dead: BTreeMap<PodUid, BTreeSet<ContainerId>> = over
            .map(|view| {
                let dead = view
                    .observed
                    .containers
                    .iter()
                    .filter(|container| !container.state.is_running());
                (view.uid, dead.map(|container| container.id.clone()).collect::<BTreeSet<_>>())
            })
            .filter(|(_, dead)| !dead.is_empty())
            .collect();
        if dead.is_empty() {
            return;
        }
        debug!(pods = dead.len(), "removing containers that have ended");
        if !self.deps.pods.collect(dead.clone()).await {
            return;
        }
        let gone = async {
            for (uid, dead) in &dead {
                let Some(mut view) = self.deps.pods.watch(uid) else { continue };
                let are_gone = |view: &PodView| {
                    !view.observed.containers.iter().any(|container| dead.contains(&container.id))
                };
                view.wait_for(are_gone).await.ok();
            }
        };
        if tokio::time::timeout(RECLAIM, gone).await.is_err() {
            warn!("containers that have ended are still there");
        }
    }

    /// Finds out where images and writable layers lie: file systems may be mounted later.
    async fn find_layout(&mut self) {
        let answer = self.deps.runtime.image_fs_info(v1::ImageFsInfoRequest::default()).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                warn!(%error, "the runtime does not say where images lie");
                return;
            }
        };
        let place = |list: Vec<v1::FilesystemUsage>| {
            list.into_iter().next()?.fs_id.map(|id| PathBuf::from(id.mountpoint))
        };
        let Some(images) = place(answer.image_filesystems) else { return };
        let layers = place(answer.container_filesystems).unwrap_or_else(|| images.clone());
        let root_dir = self.root_dir.clone();
        let layout = blocking::spawn(move || {
            let device = |path: PathBuf| std::fs::metadata(path).map(|found| found.dev());
            let devices = (device(root_dir)?, device(images)?, device(layers)?);
            Ok::<_, std::io::Error>(Layout::of_devices(devices.0, devices.1, devices.2))
        });
        match layout.await {
            Ok(Ok(layout)) => self.decider.set_layout(layout),
            Ok(Err(error)) => warn!(%error, "the file system of images cannot be read"),
            Err(error) => warn!(%error, "the file system of images was not read"),
        }
    }
}

fn candidates<'a>(pods: &'a [Arc<Pod>], usage: Option<&'a PodsUsage>) -> Vec<Candidate<'a>> {
    pods.iter()
        .map(|pod| Candidate { pod, usage: usage.and_then(|usage| usage.by_uid(&pod::uid(pod))) })
        .collect()
}
