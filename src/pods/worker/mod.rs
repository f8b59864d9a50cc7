//! One pod's task: it observes, plans, has actions executed, and tells status, probes and volumes
//! what follows.
//!
//! Input: directives, observation of the runtime, volume state, probe verdicts, node conditions and
//! the acknowledgement of the status (all on `watch`, latest value wins), completions of its own
//! actions. Output: actions to the executor, statuses to the writer, the set of running containers
//! to the probes, a [`PodView`] for readers.
//!
//! It owns every piece of state about the pod that is not on disk or in the runtime. It never
//! decides what to do (that is `plan`), never talks to the runtime itself (that is `execute`), and
//! is never blocked: each action is a task.

mod resize;
mod settle;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, warn};

use self::settle::Settling;
use super::execute::{ActionError, Completion, Context, Execute, Outcome};
use super::plan::plan;
use super::plan::types::{
    Action, Doing, Failure, HookState, InFlight, Inputs, Key, Plan, PlanInput, Recorded,
    Remembered, Transition,
};
use crate::clock::Clock;
use crate::dispatch::{Directive, Ended, PodView, ViewState};
use crate::model::{
    Blocked, ContainerId, Lifecycle, Mono, Now, ObservedPod, Pod, PodUid, Stage, Terminating, pod,
};
use crate::resources::allocation::{Requirements, requirements};
use crate::status::{Acked, ResizeState};

/// How often one step may change the lifecycle before it must return to the loop. A plan has at
/// most three transitions ahead of it; more is a loop in the planner.
const TRANSITIONS_PER_STEP: usize = 6;

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Where its life begins: `Syncing`, or already stopping (rejected, orphaned).
    pub lifecycle: Lifecycle,
    /// What the API had recorded.
    pub inputs: Inputs,
    /// Its cancellation: the process ends, containers stay.
    pub shutdown: CancellationToken,
}

/// The streams that a worker listens to.
#[derive(Debug)]
pub struct Feeds {
    /// What the pod's task is told.
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

/// Why the network is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkProblem {
    /// In the runtime's words, as upstream tells it.
    pub message: String,
    /// What is wrong with the node's configuration, if anything was found.
    pub diagnosis: Option<String>,
}

/// One pod's task.
#[derive(Debug)]
pub struct Worker<E> {
    uid: PodUid,
    pod: Arc<Pod>,
    lifecycle: Lifecycle,
    observed: Arc<ObservedPod>,
    inputs: Inputs,
    in_flight: InFlight,
    settling: Settling,
    tasks: JoinSet<Completion>,
    aborts: BTreeMap<Key, AbortHandle>,
    kills: BTreeMap<ContainerId, watch::Sender<Mono>>,
    /// How far a resize is, as the status says it.
    resize: ResizeState,
    /// The generation of the resize that was granted last.
    granted: Option<i64>,
    /// What containers that are being started are given.
    starting: BTreeMap<String, Requirements>,
    /// Containers that were removed so that the pod begins anew, until the runtime has been read
    /// without them.
    reset: BTreeSet<ContainerId>,
    notices: BTreeMap<String, String>,
    blocked_event: Option<(String, Mono)>,
    finished: bool,
    adopting: bool,
    /// The pods that have yet to stop to make room.
    room: Vec<watch::Receiver<PodView>>,
    /// A newer object was taken in and has not been passed on yet.
    is_updated: bool,
    /// Whether the executor was told that the pod is finished.
    is_announced: bool,
    /// The grace of the last order to stop that was obeyed.
    obeyed: Option<Duration>,
    /// Until when the removal of what is left may give way to other pods; `None` once it has begun.
    gives_way_until: Option<Mono>,
    /// The version of the status that was sent last.
    sent: Option<u64>,
    executor: Arc<E>,
    clock: Clock,
    view: watch::Sender<PodView>,
    /// Cancelled when the pod begins to stop: for what its actions wait for.
    stop: CancellationToken,
    shutdown: CancellationToken,
}

impl<E: Execute> Worker<E> {
    /// A worker, and the view that others read it by. Boxed, as is each of its steps: what a pod's
    /// task is while it waits stays small.
    pub fn new(
        start: Start,
        executor: Arc<E>,
        clock: Clock,
    ) -> (Box<Self>, watch::Receiver<PodView>) {
        let (view, reader) = watch::channel(PodView::new(&start.pod, &start.lifecycle));
        let worker = Box::new(Self {
            uid: pod::uid(&start.pod),
            pod: start.pod,
            lifecycle: start.lifecycle,
            observed: Arc::default(),
            inputs: start.inputs,
            in_flight: InFlight::new(),
            settling: Settling::default(),
            tasks: JoinSet::new(),
            aborts: BTreeMap::new(),
            kills: BTreeMap::new(),
            resize: ResizeState::default(),
            granted: None,
            starting: BTreeMap::new(),
            reset: BTreeSet::new(),
            notices: BTreeMap::new(),
            blocked_event: None,
            finished: false,
            adopting: false,
            room: Vec::new(),
            is_updated: false,
            is_announced: false,
            obeyed: None,
            gives_way_until: None,
            sent: None,
            executor,
            clock,
            view,
            stop: CancellationToken::new(),
            shutdown: start.shutdown,
        });
        (worker, reader)
    }

    /// What the API had recorded, known only now: before it runs.
    pub fn recall(&mut self, recorded: Recorded) {
        self.inputs.recorded = recorded;
    }

    /// Runs until the pod is gone from the node, or the process ends (containers are then left as
    /// they are).
    pub async fn run(mut self: Box<Self>, mut feeds: Feeds) -> Ended {
        let span = tracing::info_span!("pod", pod = %pod::key(&self.pod), uid = %self.uid);
        async move {
            // Nothing is planned before the runtime has been read once: adoption needs to know what
            // runs.
            if !self.wait_until_observed(&mut feeds).await {
                return Ended::Shutdown;
            }
            self.adopt();
            self.room.clone_from(&feeds.directive.borrow().room);
            let mut acked = self.executor.acked().await;
            loop {
                let wake = Box::pin(self.step(&mut feeds, &mut acked)).await;
                if self.is_over() {
                    self.executor.gone(&self.pod);
                    return Ended::Gone;
                }
                if !self.wait(&mut feeds, &mut acked, wake).await {
                    self.tasks.detach_all();
                    return Ended::Shutdown;
                }
            }
        }
        .instrument(span)
        .await
    }

    /// Waits for the first fresh observation. False: the process ends.
    async fn wait_until_observed(&mut self, feeds: &mut Feeds) -> bool {
        loop {
            if feeds.observation.borrow_and_update().fresh {
                return true;
            }
            // Cancel-safe: `changed` and `cancelled` lose nothing when dropped.
            tokio::select! {
                changed = feeds.observation.changed() => if changed.is_err() { return false },
                () = self.shutdown.cancelled() => return false,
            }
        }
    }

    /// Waits for anything that could change the plan. False: the process ends.
    async fn wait(
        &mut self,
        feeds: &mut Feeds,
        acked: &mut watch::Receiver<Acked>,
        wake: Option<Mono>,
    ) -> bool {
        let (clock, executor) = (self.clock, self.executor.clone());
        let sleep = async {
            match wake {
                Some(moment) => clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        // Every arm is cancel-safe: `watch::changed` and `JoinSet::join_next` lose nothing when
        // dropped.
        tokio::select! {
            () = self.shutdown.cancelled() => return false,
            changed = feeds.directive.changed() => return changed.is_ok(),
            Some(joined) = self.tasks.join_next_with_id() => self.joined(joined),
            () = news(&mut feeds.observation) => {}
            () = news(&mut feeds.volumes) => {}
            () = news(&mut feeds.verdicts) => {}
            () = news(&mut feeds.network_not_ready) => {}
            () = any_news(&mut self.room) => {}
            () = news(acked) => {}
            () = executor.poked() => {}
            () = sleep => {}
        }
        // Whatever else is ready now belongs to the same step.
        while let Some(joined) = self.tasks.try_join_next_with_id() {
            self.joined(joined);
        }
        true
    }

    /// One step: read the inputs, plan, apply, tell. Returns when to wake up even if nothing
    /// happens.
    async fn step(
        &mut self,
        feeds: &mut Feeds,
        acked: &mut watch::Receiver<Acked>,
    ) -> Option<Mono> {
        let now = self.clock.now();
        self.read(feeds);
        self.give_way(now.mono);
        let accepted = *acked.borrow_and_update();
        self.inputs.status_acked =
            self.sent.is_none_or(|sent| accepted.version >= sent || accepted.is_gone);
        if std::mem::take(&mut self.is_updated) {
            self.executor.updated(&self.pod, self.lifecycle.is_stopping()).await;
        }
        let mut plan = self.plan(now);
        for _ in 0..TRANSITIONS_PER_STEP {
            let Some(transition) = plan.transition.take() else { break };
            // What is to be told goes with the plan that says it: the next one looks at another
            // lifecycle.
            self.notify(&plan);
            if !self.transit(transition, now) {
                break;
            }
            plan = self.plan(now);
        }
        self.inputs.backoff.append(&mut plan.backoff);
        self.notify(&plan);
        let actions = std::mem::take(&mut plan.actions);
        if !actions.is_empty() {
            debug!(?actions, "planned");
        }
        for action in actions {
            self.begin(action, now);
        }
        self.follow_resize(&plan);
        let wake = earliest(plan.wake_at, self.report_blocked(plan.blocked.as_ref(), now));
        self.publish(&plan, now).await;
        if self.finished && !std::mem::replace(&mut self.is_announced, true) {
            self.executor.finished(&self.pod).await;
        }
        self.give_room_back();
        wake
    }

    /// Plans with what is known now.
    fn plan(&self, now: Now) -> Plan {
        plan(&PlanInput {
            pod: &self.pod,
            lifecycle: &self.lifecycle,
            observed: &self.observed,
            inputs: &self.inputs,
            in_flight: &self.in_flight,
            now,
        })
    }

    /// Takes the newest value of every feed.
    fn read(&mut self, feeds: &mut Feeds) {
        let observation = feeds.observation.borrow_and_update().clone();
        if observation.fresh {
            self.settling.settle(&mut self.in_flight);
            let before = std::mem::replace(&mut self.observed, observation.pod);
            self.adopt_observed();
            self.forget_removed(&before);
        }
        let directive = feeds.directive.borrow_and_update().clone();
        self.obey(directive);
        self.inputs.volumes.clone_from(&feeds.volumes.borrow_and_update());
        self.inputs.probes = (**feeds.verdicts.borrow_and_update()).clone();
        let problem = feeds.network_not_ready.borrow_and_update().clone();
        let (message, diagnosis) =
            problem.map_or((None, None), |problem| (Some(problem.message), problem.diagnosis));
        (self.inputs.network_not_ready, self.inputs.network_diagnosis) = (message, diagnosis);
        self.make_room();
    }

    /// Looks which of the pods that make room have yet to stop. One whose task has ended is gone.
    fn make_room(&mut self) {
        self.room.retain_mut(|view| {
            let has_stopped = view.borrow_and_update().state == ViewState::Terminated;
            !has_stopped && view.has_changed().is_ok()
        });
        self.inputs.room =
            self.room.iter().map(|view| format!("pod {}", view.borrow().key)).collect();
    }

    /// Applies a change of lifecycle, one way only; says whether it changed anything.
    fn transit(&mut self, transition: Transition, now: Now) -> bool {
        debug!(?transition, "transition");
        match (transition, self.lifecycle.clone()) {
            (Transition::Terminate { cause, grace }, Lifecycle::Syncing) => {
                self.lifecycle = Lifecycle::Terminating(Terminating { cause, since: now, grace });
                self.cancel_starts();
            }
            (Transition::Shorten { grace }, Lifecycle::Terminating(terminating)) => {
                let grace = grace.min(terminating.grace);
                self.lifecycle = Lifecycle::Terminating(Terminating { grace, ..terminating });
            }
            (Transition::Terminated, Lifecycle::Terminating(terminating)) => {
                self.lifecycle = Lifecycle::Terminated(terminating);
            }
            (Transition::Finished, Lifecycle::Terminated(_)) if !self.finished => {
                self.finished = true;
            }
            (_, _) => return false,
        }
        true
    }

    /// Cancels what may be cancelled once the pod stops: pulls, hooks and waits (principle 9).
    /// Creates and starts that the runtime has been asked for run on, detached, to their own
    /// deadline; those that wait for a turn, a name or an object give up.
    fn cancel_starts(&mut self) {
        self.stop.cancel();
        for (key, abort) in &self.aborts {
            match key {
                Key::Image(_) | Key::PostStart(_) => abort.abort(),
                Key::Prepare
                | Key::Volumes
                | Key::NewSandbox
                | Key::Sandbox(_)
                | Key::Start(_)
                | Key::Container(_)
                | Key::PreStop(_)
                | Key::Resize
                | Key::CleanUp => {}
            }
        }
    }

    /// Starts an action as a task of its own.
    fn begin(&mut self, action: Action, now: Now) {
        let key = action.key();
        if let Action::HurryKill { id, deadline } = &action {
            if let Some(kill) = self.kills.get(id) {
                kill.send_replace(*deadline);
                self.in_flight.insert(key, Doing::Kill { since: now, deadline: *deadline });
            }
            return;
        }
        let (doing, hurry) = match &action {
            Action::KillContainer { id, why, deadline, .. } => {
                let (sender, receiver) = watch::channel(*deadline);
                self.inputs.killing.insert(id.clone(), why.clone());
                self.kills.insert(id.clone(), sender);
                (Doing::Kill { since: now, deadline: *deadline }, Some(receiver))
            }
            Action::EnsureImage { silent, .. } => {
                (Doing::Busy { since: now, silent: *silent }, None)
            }
            Action::StartContainer { container, .. } => {
                // The image was looked up for this start only.
                self.inputs.images.remove(container);
                self.inputs.warmed.remove(container);
                let given = pod::find_container(&self.pod, container)
                    .map(|(_, spec)| Requirements::of(&spec));
                self.starting.extend(given.map(|given| (container.clone(), given)));
                (Doing::Busy { since: now, silent: false }, None)
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::Resize { .. }
            | Action::PostStart { .. }
            | Action::PreStop { .. }
            | Action::HurryKill { .. }
            | Action::RemoveContainer { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::UnmountVolumes
            | Action::CleanUp => (Doing::Busy { since: now, silent: false }, None),
        };
        self.in_flight.insert(key.clone(), doing);
        let context = Context {
            pod: self.pod.clone(),
            observed: self.observed.clone(),
            stop: self.stop.clone(),
            actuated: Arc::new(self.inputs.actuated.clone()),
            hurry,
        };
        let executor = self.executor.clone();
        let task = {
            let key = key.clone();
            async move { executor.execute(key, action, context).await }.in_current_span()
        };
        let abort = self.tasks.spawn(task);
        self.aborts.insert(key, abort);
    }

    /// An action's task has ended: with a completion, cancelled, or by a panic (which then blocks
    /// this pod only).
    fn joined(&mut self, joined: Result<(tokio::task::Id, Completion), tokio::task::JoinError>) {
        match joined {
            Ok((_, completion)) => self.complete(completion),
            Err(error) => {
                let key = self
                    .aborts
                    .iter()
                    .find(|(_, abort)| abort.id() == error.id())
                    .map(|(key, _)| key.clone());
                let Some(key) = key else { return };
                self.aborts.remove(&key);
                if error.is_panic() {
                    // Whatever it had done by then has to be read first.
                    self.settling.add(key.clone());
                    warn!(?key, "an action panicked; it is tried again with back-off");
                    self.fail(
                        key,
                        ActionError::internal("an internal error; see the log of the kubelet"),
                    );
                } else {
                    // What may be cancelled changes nothing in the runtime.
                    self.in_flight.remove(&key);
                }
            }
        }
    }

    /// Takes in what an action did.
    fn complete(&mut self, completion: Completion) {
        let Completion { key, outcome, mutated } = completion;
        self.aborts.remove(&key);
        if mutated {
            // The action stays in flight until the runtime has been read again (principle 4).
            self.settling.add(key.clone());
        } else {
            self.in_flight.remove(&key);
        }
        match outcome {
            Ok(outcome) => {
                self.inputs.failures.remove(&key);
                if let (Key::Start(name), Outcome::Started { id, .. }) = (&key, &outcome)
                    && let Some(given) = self.starting.remove(name)
                {
                    self.inputs.actuated.insert(id.clone(), given);
                }
                self.succeeded(outcome);
            }
            Err(error) => self.fail(key, error),
        }
    }

    /// Remembers what a success means for the planner.
    fn succeeded(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Prepared { logged_restarts } => {
                self.inputs.prepared = true;
                self.inputs.cgroup_given = requirements(&self.pod);
                // The runtime may have lost its containers (reboot); their logs still count
                // (upstream does the same).
                for (container, restart_count) in logged_restarts {
                    if self.observed.latest(&container).is_none() {
                        self.inputs
                            .remembered
                            .entry(container)
                            .or_insert(Remembered { restart_count, exit: None });
                    }
                }
            }
            Outcome::Image { container, state } => {
                self.inputs.images.insert(container, state);
            }
            // Its turn asks again: the image is there then, and the events tell of the pull.
            Outcome::Warmed { container } => {
                self.inputs.warmed.insert(container);
            }
            Outcome::Hook { id, state } => {
                self.inputs.post_start.insert(id, state);
            }
            Outcome::Started { id, has_post_start } => {
                if !has_post_start {
                    self.inputs.post_start.insert(id, HookState::Done);
                }
            }
            Outcome::Killed { id, why } => {
                self.kills.remove(&id);
                self.inputs.killing.remove(&id);
                self.inputs.killed.insert(id, why);
            }
            Outcome::PreStopped { id } => {
                self.inputs.pre_stopped.insert(id);
            }
            Outcome::Resized { containers, pod } => {
                self.inputs.actuated.extend(containers);
                self.inputs.cgroup_given = pod;
            }
            Outcome::Reset { id } => {
                self.reset.insert(id);
            }
            Outcome::SandboxStopped { id } => {
                self.inputs.stopped.insert(id);
            }
            Outcome::CleanedUp => {
                self.inputs.prepared = false;
                self.inputs.left_behind = false;
            }
            Outcome::Done => {}
        }
    }

    /// Remembers a failure; the planner decides when to try again.
    fn fail(&mut self, key: Key, error: ActionError) {
        let now = self.clock.now();
        if let Key::Container(id) = &key {
            self.kills.remove(id);
            self.inputs.killing.remove(id);
        }
        let count =
            self.inputs.failures.get(&key).map_or(1, |failure| failure.count.saturating_add(1));
        // Each of the first few, then ever fewer: what is refused for ever must not fill the log.
        if count.is_power_of_two() {
            warn!(
                ?key,
                reason = error.reason,
                err = error.message,
                count,
                "an action failed; it is tried again"
            );
        }
        self.inputs
            .failures
            .insert(key, Failure { count, at: now, reason: error.reason, message: error.message });
    }

    /// Whether nothing is left to do, ever.
    fn is_over(&self) -> bool {
        self.finished
            && self.inputs.gone_from_source
            && self.in_flight.is_empty()
            && self.observed.is_empty()
            && self.tasks.is_empty()
    }

    /// Reports what the pod waits for: one deduplicated event per cause, after it has lasted.
    /// Returns when the next report is due.
    fn report_blocked(&mut self, blocked: Option<&Blocked>, now: Now) -> Option<Mono> {
        let Some(blocked) = blocked.filter(|blocked| !self.is_told_otherwise(blocked)) else {
            self.blocked_event = None;
            return None;
        };
        if let Lifecycle::Terminating(terminating) = &self.lifecycle
            && now.mono < terminating.deadline()
        {
            // Nobody is surprised by a stop within its grace.
            return Some(terminating.deadline());
        }
        let cause = format!("{}: {}", blocked.stage, blocked.on);
        match &self.blocked_event {
            Some((reported, due)) if *reported == cause => {
                if *due > now.mono {
                    return Some(*due);
                }
                if *due == Mono::default() {
                    return None;
                }
                self.executor.blocked(&self.pod, blocked, now);
                self.blocked_event = Some((cause, Mono::default()));
                None
            }
            Some(_) | None => {
                let due = now.mono.after(self.executor.blocked_report_after());
                self.blocked_event = Some((cause, due));
                Some(due)
            }
        }
    }

    /// Whether users learn of a wait anyway: by the event of what has failed, or by the status
    /// (init containers, crash back-off).
    fn is_told_otherwise(&self, blocked: &Blocked) -> bool {
        !self.lifecycle.is_stopping()
            && (blocked.last_error.is_some()
                || matches!(blocked.stage, Stage::Init | Stage::Network))
    }

    /// Emits the notices that are new or have changed.
    fn notify(&mut self, plan: &Plan) {
        for notice in &plan.notices {
            let subject =
                format!("{}/{}", notice.reason, notice.container.as_deref().unwrap_or_default());
            if self.notices.get(&subject) == Some(&notice.dedup) {
                continue;
            }
            self.notices.insert(subject, notice.dedup.clone());
            self.executor.notice(&self.pod, notice);
        }
    }
}

/// The next change of a feed. A feed whose sender is gone has said all that it will ever say (a pod
/// without probes has no prober): it never changes again. Cancel-safe.
async fn news<T>(feed: &mut watch::Receiver<T>) {
    if feed.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The next change or end of any of several views; none at all never changes. Cancel-safe.
async fn any_news(views: &mut [watch::Receiver<PodView>]) {
    if views.is_empty() {
        std::future::pending::<()>().await;
    }
    let changes = views.iter_mut().map(|view| Box::pin(view.changed()));
    drop(futures::future::select_all(changes).await);
}

fn earliest(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests;
