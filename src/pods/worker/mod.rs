//! One pod's task: reads its feeds into the pod's memory, lets it step, and carries the step out.
//!
//! ```text
//!   feeds, ends of actions ─► Memory::take ─► Memory::step ─► actions (execute) · reports · PodView
//! ```
//!
//! Input: directives, observation of the runtime, volume state, probe verdicts, node conditions and
//! the acknowledgement of the status (all on `watch`, latest value wins), ends of its own actions.
//!
//! What is known of the pod is in `pods::memory`, what is to be done in `pods::plan`. This task
//! never decides, never talks to the runtime itself (that is `execute`), and is never blocked: each
//! action is a task. Each change of the pod's lifecycle and phase is a line of the log (`log`).

mod actions;
mod log;
mod timeline;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, warn};

use self::actions::Actions;
use self::timeline::Recorder;
use super::execute::Execute;
use super::memory::facts::Recorded;
use super::memory::{self, Event, Memory, ObjectChange, Order, Step};
use super::report::{Milestone, Picture, Published, Report};
use crate::clock::Clock;
use crate::cni::NetworkProblem;
use crate::dispatch::{Directive, Ended, PodView, ViewState};
use crate::model::observed::Remembered;
use crate::model::{Mono, Now, ObservedPod, pod};
use crate::status::Acked;

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// What the pod's memory begins with.
    pub memory: memory::Start,
    /// Its cancellation: the process ends, containers stay.
    pub shutdown: CancellationToken,
}

/// The streams that a worker listens to.
#[derive(Debug)]
pub struct Feeds {
    /// The orders for the pod's task.
    pub directive: watch::Receiver<Directive>,
    /// What the runtime says.
    pub observation: watch::Receiver<crate::pleg::Observation>,
    /// The pod's volumes.
    pub volumes: watch::Receiver<crate::model::VolumesState>,
    /// The verdicts of its probes.
    pub verdicts: watch::Receiver<Arc<crate::model::ProbeVerdicts>>,
    /// Why no sandbox may be made, if so.
    pub network_not_ready: watch::Receiver<Option<NetworkProblem>>,
}

/// One pod's task before it begins.
#[derive(Debug)]
pub struct Worker<E, R> {
    start: Start,
    executor: Arc<E>,
    reporter: Arc<R>,
    clock: Clock,
    view: watch::Sender<PodView>,
}

/// One pod's task.
#[derive(Debug)]
struct Task<E, R> {
    memory: Memory,
    actions: Actions,
    /// The pods that are preempted for this one and have yet to stop.
    victims: Vec<watch::Receiver<PodView>>,
    executor: Arc<E>,
    reporter: Arc<R>,
    clock: Clock,
    view: watch::Sender<PodView>,
    timeline: Recorder,
}

impl<E: Execute, R: Report> Worker<E, R> {
    /// A worker, and the view that others read it by.
    pub fn new(
        start: Start,
        executor: Arc<E>,
        reporter: Arc<R>,
        clock: Clock,
    ) -> (Self, watch::Receiver<PodView>) {
        let memory = &start.memory;
        let (view, reader) = watch::channel(PodView::new(&memory.pod, &memory.lifecycle));
        (Self { start, executor, reporter, clock, view }, reader)
    }

    /// Replaces what the API had recorded, where that is known only now: before the task runs.
    pub fn recall(&mut self, recorded: Recorded) {
        self.start.memory.recorded = recorded;
    }

    /// Runs until the pod is gone from the node, or the process ends (containers are then left as
    /// they are). Returns also the restart counts of the containers that are gone.
    pub async fn run(self, mut feeds: Feeds) -> (Ended, BTreeMap<String, Remembered>) {
        let pod = &self.start.memory.pod;
        let span = tracing::info_span!("pod", pod = %pod::key(pod), uid = %pod::uid(pod));
        let shutdown = self.start.shutdown.clone();
        async move {
            // Nothing is planned before the runtime has been read once: adoption needs to know what
            // runs.
            let Some(observed) = first_observation(&mut feeds, &shutdown).await else {
                return (Ended::Shutdown, BTreeMap::new());
            };

            let memory = &self.start.memory;
            log::begin(&memory.lifecycle, &observed, memory.pod.status.as_ref());
            let mut acked = self.reporter.acked().await;

            let timeline = Recorder::new(self.view.borrow().timeline.clone());

            // Boxed, as is each of its steps: what a pod's task is while it waits stays small.
            let mut task = Box::new(Task {
                memory: Memory::new(self.start.memory, observed),
                actions: Actions::default(),
                victims: feeds.directive.borrow().room.clone(),
                executor: self.executor,
                reporter: self.reporter,
                clock: self.clock,
                timeline,
                view: self.view,
            });

            loop {
                let wake_at = Box::pin(task.step(&mut feeds, &mut acked)).await;
                if task.memory.is_over() && task.actions.is_empty() {
                    return (Ended::Gone, task.memory.remembered());
                }
                if !task.wait(&mut feeds, &mut acked, wake_at, &shutdown).await {
                    task.actions.detach_all();
                    return (Ended::Shutdown, BTreeMap::new());
                }
            }
        }
        .instrument(span)
        .await
    }
}

/// Waits for the first fresh observation; `None`: the process ends.
async fn first_observation(
    feeds: &mut Feeds,
    shutdown: &CancellationToken,
) -> Option<Arc<ObservedPod>> {
    // Cancel-safe: `wait_for` loses nothing when dropped.
    let fresh = feeds.observation.wait_for(|observation| observation.fresh);
    let observation = shutdown.run_until_cancelled(fresh).await?.ok()?;
    Some(observation.pod.clone())
}

impl<E: Execute, R: Report> Task<E, R> {
    /// Waits for anything that could change the plan. False: the process ends.
    async fn wait(
        &mut self,
        feeds: &mut Feeds,
        acked: &mut watch::Receiver<Acked>,
        wake_at: Option<Mono>,
        shutdown: &CancellationToken,
    ) -> bool {
        let clock = self.clock;
        let sleep = clock.sleep_until_some(wake_at);

        // Every arm is cancel-safe: `watch::changed` and `JoinSet::join_next` lose nothing when
        // dropped.
        let ended = tokio::select! {
            () = shutdown.cancelled() => return false,
            changed = feeds.directive.changed() => return changed.is_ok(),
            Some(ended) = self.actions.next() => Some(ended),
            () = next_change(&mut feeds.observation) => None,
            () = next_change(&mut feeds.volumes) => None,
            () = next_change(&mut feeds.verdicts) => None,
            () = next_change(&mut feeds.network_not_ready) => None,
            () = any_change(&mut self.victims) => None,
            () = next_change(acked) => None,
            () = self.reporter.mirror_changed() => None,
            () = sleep => None,
        };

        // Whatever else is ready now belongs to the same step.
        let mut next = ended.or_else(|| self.actions.try_next());
        while let Some(ended) = next {
            self.take_end(ended);
            next = self.actions.try_next();
        }
        true
    }

    /// Takes in how an action ended.
    fn take_end(&mut self, ended: Event) {
        let mut failed = None;
        if let Event::Completed(completion) = &ended
            && completion.outcome.is_err()
        {
            failed = Some(completion.key.clone());
        }
        let now = self.clock.now();
        self.timeline.end(&ended, now);
        self.memory.take(ended, now);

        // Each of the first few, then ever fewer: what is refused for ever must not fill the log.
        if let Some(key) = failed
            && let Some(failure) = self.memory.known().failures.get(&key)
            && failure.count.is_power_of_two()
        {
            warn!(
                ?key,
                reason = failure.reason,
                err = failure.message,
                count = failure.count,
                "an action failed; it is tried again"
            );
        }
    }

    /// One step: reads the feeds, plans, begins what was planned, reports. Returns when to wake up
    /// even if nothing happens.
    async fn step(
        &mut self,
        feeds: &mut Feeds,
        acked: &mut watch::Receiver<Acked>,
    ) -> Option<Mono> {
        let now = self.clock.now();
        self.read(feeds, now);
        self.memory.take(Event::Accepted(*acked.borrow_and_update()), now);
        self.memory.take(Event::Backlog(self.reporter.has_backlog()), now);

        let mut step = self.memory.step(now);
        if let ObjectChange::Updated { is_stopping } = step.object {
            let milestone = Milestone::Updated { is_stopping };
            self.reporter.milestone(self.memory.pod(), milestone).await;
        }
        self.carry_out(&mut step, now);
        self.publish(&step, now).await;
        if step.announce {
            self.reporter.milestone(self.memory.pod(), Milestone::Finished).await;
        }
        step.wake_at
    }

    /// Takes the newest value of every feed.
    fn read(&mut self, feeds: &mut Feeds, now: Now) {
        let observation = feeds.observation.borrow_and_update().clone();
        if observation.fresh {
            self.memory.take(Event::Observed(observation.pod), now);
        }
        let Directive { pod, gone, stop, resize, room: _, collect } =
            feeds.directive.borrow_and_update().clone();
        self.memory.take(Event::Ordered(Order { pod, gone, stop, resize, collect }), now);
        let volumes = feeds.volumes.borrow_and_update().clone();
        self.memory.take(Event::Volumes(volumes), now);
        let verdicts = feeds.verdicts.borrow_and_update().clone();
        self.memory.take(Event::Probed(verdicts), now);
        let problem = feeds.network_not_ready.borrow_and_update().clone();
        self.memory.take(Event::Network(problem), now);
        let victims = self.remaining_victims();
        self.memory.take(Event::PreemptionVictims(victims), now);
    }

    /// Returns the preempted pods that have yet to stop. One whose task has ended is gone.
    fn remaining_victims(&mut self) -> Vec<String> {
        self.victims.retain_mut(|view| {
            let has_stopped = view.borrow_and_update().state == ViewState::Terminated;
            !has_stopped && view.has_changed().is_ok()
        });
        self.victims.iter().map(|view| format!("pod {}", view.borrow().key)).collect()
    }

    /// Cancels, emits and begins what a step says.
    fn carry_out(&mut self, step: &mut Step, now: Now) {
        step.transitions.iter().for_each(log::transition);
        if self.memory.lifecycle().is_stopping() {
            self.actions.stop();
        }
        self.actions.cancel(&step.cancel);

        for notice in step.notices.iter().chain(&step.blocked) {
            self.reporter.notice(self.memory.pod(), notice);
        }

        if !step.begin.is_empty() {
            debug!(actions = ?step.begin, "planned");
        }
        for action in std::mem::take(&mut step.begin) {
            let Self { memory, actions, executor, timeline, .. } = self;
            timeline.begin(&action, now);
            actions.begin(action, executor, memory.pod(), memory.observed());
        }
    }

    /// Reports to the status, the probes and the readers.
    async fn publish(&mut self, step: &Step, now: Now) {
        let picture = Picture {
            pod: self.memory.pod(),
            lifecycle: self.memory.lifecycle(),
            observed: self.memory.observed(),
            probes: &self.memory.facts().probes,
            remembered: &self.memory.remembered(),
            plan: &step.plan,
            resize: self.memory.resize(),
            known: self.memory.known(),
            busy: self.actions.busy(),
            now,
        };
        let Published { status, version } = self.reporter.publish(&picture).await;
        let start_time = status.start_time.as_ref().map(|time| time.0);
        self.memory.take(Event::Published { version, start_time }, now);

        let pod = self.memory.pod();
        let before = self.view.send_replace(PodView {
            uid: pod::uid(pod),
            key: pod::key(pod),
            pod: pod.clone(),
            state: ViewState::from(self.memory.lifecycle()),
            observed: self.memory.observed().clone(),
            status: Arc::clone(&status),
            blocked: step.plan.blocked.clone(),
            timeline: self.timeline.shared(),
        });
        log::phase(&before.status, &status);
        self.timeline.status(&before.status, &status, now);
    }
}

/// The next change of a feed. A feed whose sender is gone has said all that it will ever say (a pod
/// without probes has no prober): it never changes again. Cancel-safe.
async fn next_change<T>(feed: &mut watch::Receiver<T>) {
    if feed.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The next change or end of any of several views; none at all never changes. Cancel-safe.
async fn any_change(views: &mut [watch::Receiver<PodView>]) {
    if views.is_empty() {
        std::future::pending::<()>().await;
    }
    let changes = views.iter_mut().map(|view| Box::pin(view.changed()));
    drop(futures::future::select_all(changes).await);
}

#[cfg(test)]
mod tests;
