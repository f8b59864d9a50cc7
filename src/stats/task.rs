//! The task that takes readings when somebody asks, and keeps the last ones for a while.
//!
//! It owns the windows of rates, the sizes of volumes and what was found about sandboxes. Readings
//! of different kinds run side by side, so that a runtime that hangs holds up only what needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cgroups::CgroupsUsage;
use super::flight::Flight;
use super::rates::Rates;
use super::sources::{Detailed, Sources};
use super::usage::{NodeUsage, PodsUsage, VolumeUsage};
use super::walks::{Sizes, VolumeKey, Walks, targets};
use super::{Question, StatsError, StatsHandle};
use crate::linux::blocking;
use crate::model::{Mono, PodUid, pod};

/// A reading that nobody asks for again is forgotten after this long.
const KEPT: Duration = Duration::from_secs(60);

/// The end of a job.
enum Done {
    Cgroups(Result<CgroupsUsage, StatsError>),
    Detailed(Result<Detailed, StatsError>),
    Node(Box<Result<NodeUsage, StatsError>>),
    Pods(Result<PodsUsage, StatsError>),
    Walked(Vec<(PodUid, Vec<VolumeUsage>)>),
    Space(VolumeKey, Option<VolumeUsage>),
}

pub(super) struct StatsTask {
    sources: Arc<Sources>,
    /// For jobs that need another reading.
    handle: StatsHandle,
    jobs: JoinSet<Done>,
    cgroups: Flight<CgroupsUsage>,
    detailed: Flight<Detailed>,
    node: Flight<NodeUsage>,
    pods: Flight<PodsUsage>,
    rates: Rates,
    walks: Walks,
    volumes: watch::Sender<Sizes>,
    /// The images of sandboxes, by id.
    images: Arc<HashMap<String, String>>,
    stop: CancellationToken,
}

impl StatsTask {
    pub(super) fn new(sources: Arc<Sources>, handle: StatsHandle) -> Self {
        Self {
            sources,
            handle,
            jobs: JoinSet::new(),
            cgroups: Flight::default(),
            detailed: Flight::default(),
            node: Flight::default(),
            pods: Flight::default(),
            rates: Rates::default(),
            walks: Walks::default(),
            volumes: watch::Sender::default(),
            images: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    pub(super) async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        // Work on blocking threads sees the end of this task by it.
        let _ends = self.stop.clone().drop_guard();
        let clock = self.sources.deps.clock;
        let mut forget_at: Option<Mono> = None;
        loop {
            // Cancel-safe: a question is taken with its reply, and jobs stay in their set.
            tokio::select! {
                question = questions.recv() => {
                    let Some(question) = question else { return };
                    self.ask(question);
                    forget_at = Some(clock.now().mono.after(KEPT));
                }
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    },
                },
                () = clock.sleep_until_some(forget_at) => {
                    forget_at = None;
                    self.forget();
                }
            }
        }
    }

    fn now(&self) -> Mono {
        self.sources.deps.clock.now().mono
    }

    fn ask(&mut self, question: Question) {
        let now = self.now();
        match question {
            Question::Cgroups { max_age, reply } => {
                if self.cgroups.ask(max_age, now, reply) {
                    self.read_cgroups();
                }
            }
            Question::Detailed { max_age, reply } => {
                if self.detailed.ask(max_age, now, reply) {
                    self.read_detailed();
                }
            }
            Question::Node { max_age, reply } => {
                if self.node.ask(max_age, now, reply) {
                    self.read_node();
                }
            }
            Question::Pods { max_age, reply } => {
                if self.pods.ask(max_age, now, reply) {
                    self.read_pods();
                }
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Cgroups(read) => {
                let read = read.map(|read| self.rated(read));
                if self.cgroups.done(read, now) {
                    self.read_cgroups();
                }
            }
            Done::Detailed(read) => {
                let read = read.map(|read| {
                    self.images = Arc::clone(&read.images);
                    Detailed { cgroups: self.rated(read.cgroups), ..read }
                });
                if self.detailed.done(read, now) {
                    self.read_detailed();
                }
            }
            Done::Node(read) => {
                if self.node.done(*read, now) {
                    self.read_node();
                }
            }
            Done::Pods(read) => {
                if self.pods.done(read, now) {
                    self.read_pods();
                }
            }
            Done::Walked(measured) => {
                self.walks.end(measured, now);
                self.volumes.send_replace(self.walks.sizes(now));
            }
            Done::Space(key, usage) => {
                self.walks.answered(key, usage, now);
                self.volumes.send_replace(self.walks.sizes(now));
            }
        }
    }

    /// Adds the rates that the readings before allow.
    fn rated(&mut self, mut read: CgroupsUsage) -> CgroupsUsage {
        for (path, usage) in &mut read.by_path {
            usage.nano_cores = self.rates.add(path, &usage.sample);
        }
        self.rates.keep(&read.by_path);
        read
    }

    fn read_cgroups(&mut self) {
        let sources = Arc::clone(&self.sources);
        blocking::spawn_on(&mut self.jobs, move || Done::Cgroups(sources.cgroups(false)));
    }

    fn read_detailed(&mut self) {
        let sources = Arc::clone(&self.sources);
        let images = Arc::clone(&self.images);
        self.jobs.spawn(async move { Done::Detailed(sources.detailed(images).await) });
    }

    fn read_node(&mut self) {
        let sources = Arc::clone(&self.sources);
        let stats = self.handle.clone();
        self.jobs.spawn(async move { Done::Node(Box::new(sources.node(stats).await)) });
    }

    fn read_pods(&mut self) {
        self.walk();
        let sources = Arc::clone(&self.sources);
        let stats = self.handle.clone();
        let volumes = self.volumes.subscribe();
        self.jobs.spawn(async move { Done::Pods(sources.pods(stats, volumes).await) });
    }

    /// Begins to measure the volumes that are due.
    fn walk(&mut self) {
        let sources = &self.sources;
        let Some(period) = sources.config.volume_period else { return };
        let pods = (sources.deps.pods)();
        let clock = sources.deps.clock;
        let now = clock.now().mono;
        let volumes = &sources.deps.volumes;
        let pods: Vec<_> = pods.iter().map(|pod| (pod::uid(pod), targets(pod, volumes))).collect();
        let due = self.walks.begin(&pods, period, now);
        if let Some(batch) = due.batch {
            let stop = self.stop.clone();
            let took = sources.deps.volume_durations.with(&["du"]);
            blocking::spawn_on(&mut self.jobs, move || {
                Done::Walked(batch.run(clock, &stop, &took))
            });
        }
        for space in due.spaces {
            let key = space.key();
            let took = sources.deps.volume_durations.with(&["statfs"]);
            self.jobs.spawn(async move {
                let began = clock.now().mono;
                let usage = blocking::alone("volume space", move || space.read(clock)).await;
                took.observe_duration(clock.now().mono.since(began));
                Done::Space(key, usage.flatten())
            });
        }
        self.volumes.send_replace(self.walks.sizes(now));
    }

    /// Forgets readings that nobody has asked for of late; rates keep their windows.
    fn forget(&mut self) {
        let limit = Mono(self.now().0.saturating_sub(KEPT));
        self.cgroups.forget_before(limit);
        self.detailed.forget_before(limit);
        self.node.forget_before(limit);
        self.pods.forget_before(limit);
    }
}
