//! Owns the state of all volumes on the node, and begins the jobs that set them up, refresh them
//! and take them away.
//!
//! ```text
//!   wishes (watch) · commands (mpsc) · changes of objects · ends of jobs · clock jumps · timer
//!        └─► the pods that are touched ─► plan::plan ─► jobs (kinds) · states (watch) · events
//! ```
//!
//! Laws:
//! - One job at a time works on a pod's volume; the plan decides which.
//! - A wish is the newest value of a `watch`: what was wished before is not carried out later.
//! - The task never blocks. File work and requests are jobs of their own.
//!
//! `removals` decides when a pod's directory goes, `events` what users read. What a kind of volume
//! does is in `kinds`.

mod events;
mod removals;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use super::allocatable::Allocatable;
use super::directories;
use super::entry::{AnySubscription, Entry, OneVolume};
use super::error::{SetUpError, StuckReason, TearDownError};
use super::kinds::context::{Locks, Tools};
use super::kinds::csi::Csi;
use super::kinds::{Context, Done, Kind, OnDisk};
use super::ledger::{self, Record};
use super::metrics::Totals;
use super::mounter::Mounter;
use super::paths::Paths;
use super::payload::ObjectRef;
use super::plan::{Actual, Doing, Goal, Problem, Reporting, plan, wait_after};
use super::source::{ObjectSource, TokenSource};
use super::{Shared, Sources, Stuck, Wish};
use crate::apiserver::events::Recorder;
use crate::clock::{Clock, Jumps};
use crate::linux::fs::ensure_root_dir;
use crate::model::{PodUid, VolumesState};
use crate::watch::set_if_changed;
use events::record_events;
use removals::Removals;

/// Shortest time between two renewals of a token.
const SHORTEST_REFRESH: Duration = Duration::from_secs(10);
/// Longest wait after a failed token request: the token should arrive soon after the API server is
/// back.
const TOKEN_WAIT: Duration = Duration::from_secs(30);
/// A volume is reported as stuck after this many failures to tear it down: containers that have
/// just ended may hold it for a moment.
const STUCK: u32 = 3;
/// Longest wait after a claim that leads nowhere: no event says when it is bound.
const CLAIM_WAIT: Duration = Duration::from_secs(10);

/// Requests to the task, beside wishes.
#[derive(Debug)]
pub(super) enum Command {
    /// Remove everything of a pod.
    Remove { uid: PodUid, reply: oneshot::Sender<Result<(), TearDownError>> },
    /// Remove everything of pods that are not known.
    Sweep { known: BTreeSet<PodUid> },
    /// No container of the pod is being started any more.
    Started { uid: PodUid },
}

/// The task's dependencies.
pub(super) struct Parts<O, T, M> {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) paths: Arc<Paths>,
    pub(super) allocatable: Allocatable,
    pub(super) sources: Sources<O, T>,
    pub(super) csi: Csi,
    pub(super) mounter: M,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
}

/// The result of a job.
enum Ended {
    SetUp(Result<Done, (SetUpError, Option<Record>)>),
    TornDown(Result<(), TearDownError>),
    Removed(Result<(), TearDownError>),
}

/// The subject of a running job.
enum Job {
    Volume(PodUid, usize),
    Removal(PodUid),
}

type Changed<O> = (PodUid, ObjectRef, AnySubscription<O>, tokio_util::sync::CancellationToken);

pub(super) struct Task<O: ObjectSource, T, M> {
    parts: Parts<O, T, M>,
    wishes: watch::Receiver<BTreeMap<PodUid, Wish>>,
    entries: BTreeMap<PodUid, Entry<O>>,
    changes: FuturesUnordered<BoxFuture<'static, Option<Changed<O>>>>,
    jobs: JoinSet<Ended>,
    running: HashMap<Id, Job>,
    removals: Removals,
    locks: Locks,
    jumps: Jumps,
}

impl<O: ObjectSource, T: TokenSource, M: Mounter> Task<O, T, M> {
    pub(super) fn new(parts: Parts<O, T, M>) -> Self {
        let wishes = parts.shared.wishes.subscribe();
        Self {
            parts,
            wishes,
            entries: BTreeMap::new(),
            changes: FuturesUnordered::new(),
            jobs: JoinSet::new(),
            running: HashMap::new(),
            removals: Removals::default(),
            locks: Locks::default(),
            jumps: Jumps::watch(),
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut drivers = self.parts.csi.drivers();
        self.reconstruct().await;
        let mut touched = self.follow_wishes();
        loop {
            for uid in std::mem::take(&mut touched) {
                self.step(&uid);
            }
            self.count();
            let wake_at = self
                .entries
                .values()
                .filter_map(|entry| entry.wake_at)
                .chain(self.removals.wake_at())
                .min();
            let clock = self.parts.clock;
            touched = tokio::select! {
                // Each arm is cancel-safe: what it waits on keeps its state outside of the future.
                changed = self.wishes.changed() => match changed {
                    Ok(()) => self.follow_wishes(),
                    Err(_closed) => return,
                },
                Some(command) = self.parts.commands.recv() => self.obey(command).await,
                Some(ended) = self.jobs.join_next_with_id() => self.job_ended(ended),
                Some(change) = self.changes.next() => self.object_changed(change),
                // Without a sender no driver comes any more.
                Ok(()) = drivers.changed() => self.drivers_changed(),
                () = self.jumps.next() => self.clock_jumped(),
                () = clock.sleep_until_some(wake_at) => self.due(),
            };
        }
    }

    async fn reconstruct(&mut self) {
        let (mounter, paths) = (self.parts.mounter.clone(), Arc::clone(&self.parts.paths));
        let csi = self.parts.csi.clone();
        let read = crate::linux::blocking::spawn(move || {
            ensure_root_dir(&paths.pods(), 0o750)?;
            directories::reconstruct(&mounter, &paths, &csi)
        });
        match read.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            Ok(pods) => {
                if let Some(metrics) = self.parts.shared.metrics.get() {
                    metrics.reconstructed(Some(pods.values().map(Vec::len).sum()));
                }
                for (uid, found) in pods {
                    self.entries.insert(uid.clone(), Entry::from_disk(uid, found));
                }
                if !self.entries.is_empty() {
                    info!(pods = self.entries.len(), "Found volumes of pods on disk");
                }
            }
            // Volumes are set up all the same; what is there is found by each set-up.
            Err(error) => {
                error!(error = %error, "Could not read the pods' directories");
                if let Some(metrics) = self.parts.shared.metrics.get() {
                    metrics.reconstructed(None);
                }
            }
        }
    }

    /// Brings the entries in line with the wishes; answers the pods that this touched.
    fn follow_wishes(&mut self) -> BTreeSet<PodUid> {
        let wishes = self.wishes.borrow_and_update().clone();
        let mut touched = BTreeSet::new();
        for (uid, wish) in &wishes {
            if self.removals.is_running(uid) {
                // Taken up again when it has ended.
                continue;
            }
            let entry = self
                .entries
                .entry(uid.clone())
                .or_insert_with(|| Entry::from_disk(uid.clone(), Vec::new()));
            match wish {
                Wish::Present(pod) => {
                    let same = entry.pod.as_ref().is_some_and(|known| Arc::ptr_eq(known, pod));
                    if same && entry.goal == Goal::Present {
                        continue;
                    }
                    for (object, subscription) in entry.claim(pod, &self.parts.sources.objects) {
                        let unwatch = entry.unwatch.clone();
                        self.changes.push(watch_one::<O>((
                            uid.clone(),
                            object,
                            subscription,
                            unwatch,
                        )));
                    }
                }
                Wish::Gone if entry.goal == Goal::Gone => continue,
                Wish::Gone => entry.let_go(),
            }
            touched.insert(uid.clone());
        }
        // Forgotten: only what is left on disk counts, and only for a sweep.
        for (uid, entry) in &mut self.entries {
            if entry.goal != Goal::Unclaimed && !wishes.contains_key(uid) {
                entry.let_go();
                entry.goal = Goal::Unclaimed;
                touched.insert(uid.clone());
            }
        }
        touched
    }

    /// Plans for one pod, begins what is to be begun, publishes and tells.
    fn step(&mut self, uid: &PodUid) {
        let now = self.parts.clock.now();
        self.begin_removal(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refresh_inputs(now.mono);
        let plan = plan(entry.goal, &entry.volumes, now.mono);
        for (index, doing) in plan.begin {
            self.begin(uid, index, doing);
        }
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.wake_at = plan.wake_at.into_iter().chain(entry.late_at(now.mono)).min();
        record_events(entry, &plan.state, &self.parts.recorder, now.mono);
        publish_claimed(&self.parts.shared, uid, entry.in_place());
        if entry.goal != Goal::Unclaimed {
            publish(&self.parts.shared, uid, plan.state);
        } else if !entry.is_busy()
            && entry.volumes.iter().all(|volume| volume.plan.actual == Actual::Absent)
        {
            self.entries.remove(uid);
        }
    }

    /// Counts the volumes for the metrics.
    fn count(&self) {
        let Some(metrics) = self.parts.shared.metrics.get() else { return };
        let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
        for entry in self.entries.values() {
            for OneVolume { plan, meta } in &entry.volumes {
                let is_wanted = entry.goal == Goal::Present && plan.wanted;
                let is_there = plan.actual != Actual::Absent;
                if is_wanted || is_there {
                    let of_plugin = totals.entry(meta.plugin_name().to_owned()).or_default();
                    of_plugin.desired += u32::from(is_wanted);
                    of_plugin.actual += u32::from(is_there);
                }
            }
        }
        metrics.counted(totals);
    }

    fn begin(&mut self, uid: &PodUid, index: usize, doing: Doing) {
        let job = match doing {
            Doing::SetUp => self.begin_set_up(uid, index),
            Doing::TearDown => self.begin_tear_down(uid, index),
        };
        self.running.insert(job, Job::Volume(uid.clone(), index));
    }

    fn begin_set_up(&mut self, uid: &PodUid, index: usize) -> Id {
        let now = self.parts.clock.now();
        let others = self.entries.iter().filter(|(other, _)| *other != uid);
        let used_elsewhere =
            others.flat_map(|(_, entry)| entry.persistent()).map(str::to_owned).collect();
        let entry = self.entries.get_mut(uid).expect("the caller has just looked at it");
        let volume = &mut entry.volumes[index];
        volume.plan.doing = Some((Doing::SetUp, now.mono));
        volume.plan.dirty = false;
        let (shared, pod_uid) = (Arc::clone(&self.parts.shared), uid.clone());
        let context = Context {
            tools: Tools {
                mounter: self.parts.mounter.clone(),
                tokens: self.parts.sources.tokens.clone(),
                claims: Arc::clone(&self.parts.sources.claims),
                recorder: self.parts.recorder.clone(),
                clock: self.parts.clock,
                locks: self.locks.clone(),
                csi: self.parts.csi.clone(),
            },
            paths: Arc::clone(&self.parts.paths),
            allocatable: self.parts.allocatable,
            index: volume.meta.spec_index.expect("only volumes of the spec are wanted"),
            pod: entry.pod.clone().expect("only volumes of a claimed pod are set up"),
            uid: uid.clone(),
            objects: entry.objects_of(index),
            now: now.wall,
            is_starting: Arc::new(move || shared.is_starting(&pod_uid)),
            used_elsewhere,
            cancel: entry.unwatch.clone(),
        };
        let context = Arc::new(context);
        self.jobs.spawn(async move { Ended::SetUp(set_up(&context).await) }).id()
    }

    fn begin_tear_down(&mut self, uid: &PodUid, index: usize) -> Id {
        let now = self.parts.clock.now().mono;
        let entry = self.entries.get_mut(uid).expect("the caller has just looked at it");
        let OneVolume { plan, meta } = &mut entry.volumes[index];
        plan.doing = Some((Doing::TearDown, now));
        let plugin = meta.plugin_name().to_owned();
        let volume = Arc::new(OnDisk {
            mounter: self.parts.mounter.clone(),
            paths: Arc::clone(&self.parts.paths),
            uid: uid.clone(),
            directory: meta.directory.clone(),
            csi: self.parts.csi.clone(),
        });
        let work = async move { Ended::TornDown(directories::tear_down(&volume, &plugin).await) };
        self.jobs.spawn(work).id()
    }

    fn job_ended(&mut self, ended: Result<(Id, Ended), JoinError>) -> BTreeSet<PodUid> {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        match self.running.remove(&id) {
            Some(Job::Volume(uid, index)) => {
                self.volume_job_ended(&uid, index, ended);
                if self.entries.get(&uid).is_some_and(|entry| entry.goal == Goal::Gone) {
                    self.tell_stuck();
                }
                BTreeSet::from([uid])
            }
            Some(Job::Removal(uid)) => {
                let result = match ended {
                    Ok(Ended::Removed(result)) => result,
                    Ok(Ended::SetUp(_) | Ended::TornDown(_)) => Ok(()),
                    Err(panicked) => Err(TearDownError::Panicked(panicked.to_string())),
                };
                self.removal_ended(&uid, result);
                BTreeSet::from([uid])
            }
            None => BTreeSet::new(),
        }
    }

    fn volume_job_ended(&mut self, uid: &PodUid, index: usize, ended: Result<Ended, JoinError>) {
        let now = self.parts.clock.now().mono;
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Ok(Ended::SetUp(Err((_, Some(record))))) = &ended {
            // Its tear-down has to know what has begun.
            entry.claimed(index, record.clone());
        }
        let OneVolume { plan: volume, meta } = &mut entry.volumes[index];
        let doing = volume.doing.take();
        if let (Some(metrics), Some((doing, began))) = (self.parts.shared.metrics.get(), doing) {
            let is_done = matches!(&ended, Ok(Ended::SetUp(Ok(_)) | Ended::TornDown(Ok(()))));
            metrics.ended(meta.plugin_name(), doing, is_done, now.since(began));
        }
        let doing = doing.map(|(doing, _)| doing);
        let result = match ended {
            Ok(Ended::SetUp(result)) => {
                result.map_err(|(error, _)| Failure::of(&error, &volume.name))
            }
            Ok(Ended::TornDown(result)) => result
                .map(|()| Done::default())
                .map_err(|error| Failure::plain(error.text(), error.reason())),
            Ok(Ended::Removed(_)) => Ok(Done::default()),
            Err(panicked) => Err(Failure::plain(panicked.to_string(), StuckReason::Other)),
        };
        match (result, doing) {
            (Ok(Done { refresh_at, kept_old, claimed }), Some(Doing::SetUp)) => {
                debug!(pod = %uid, volume = volume.name, "The volume is in place");
                volume.actual = Actual::Present;
                volume.refresh_at = refresh_at.map(|at| at.max(now.after(SHORTEST_REFRESH)));
                volume.problem = None;
                entry.reported.remove(&volume.name);
                // They go with the next write: when the container has started, or now if it has
                // already.
                volume.dirty |= kept_old && !self.parts.shared.is_starting(uid);
                entry.has_old_files |= kept_old;
                if let Some(record) = claimed {
                    entry.claimed(index, record);
                }
            }
            (Ok(_), _) => {
                volume.actual = Actual::Absent;
                volume.problem = None;
            }
            (Err(Failure { text, reason, event, longest_wait }), doing) => {
                let count = volume.problem.as_ref().map_or(0, |problem| problem.count) + 1;
                warn!(pod = %uid, volume = volume.name, error = text, count, "Work on a volume failed");
                // An input that has changed meanwhile is tried at once.
                let later = longest_wait.map(|longest| now.after(wait_after(count).min(longest)));
                let retry_at = if volume.dirty { Some(now) } else { later };
                volume.problem = Some(Problem { count, text, reason, event, retry_at });
                if doing == Some(Doing::SetUp) {
                    volume.dirty = true;
                    if volume.actual == Actual::Absent {
                        volume.actual = Actual::Partial;
                    }
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) -> BTreeSet<PodUid> {
        match command {
            Command::Remove { uid, reply } => {
                self.removals.ask(&uid, reply);
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.let_go();
                }
                BTreeSet::from([uid])
            }
            Command::Sweep { known } => self.sweep(known).await,
            Command::Started { uid } => {
                self.prune(&uid);
                BTreeSet::from([uid])
            }
        }
    }

    async fn sweep(&mut self, known: BTreeSet<PodUid>) -> BTreeSet<PodUid> {
        let now = self.parts.clock.now().mono;
        let paths = Arc::clone(&self.parts.paths);
        let listed =
            crate::linux::blocking::spawn(move || crate::linux::walk::list(&paths.pods())).await;
        let names = listed.ok().and_then(Result::ok).unwrap_or_default();
        let on_disk: BTreeSet<PodUid> = names
            .into_iter()
            .filter_map(|(name, _)| name.into_string().ok().map(PodUid::from))
            .collect();
        let wishes = self.wishes.borrow().clone();
        let is_known = |uid: &PodUid| known.contains(uid) || wishes.contains_key(uid);
        let touched = self.removals.sweep(&on_disk, is_known, now);
        self.tell_stuck();
        touched
    }

    /// Begins the removal of a pod's directory if one is asked for and nothing works in it.
    fn begin_removal(&mut self, uid: &PodUid) {
        if self.entries.get(uid).is_some_and(Entry::is_busy) || !self.removals.begin(uid) {
            return;
        }
        // Nothing else may work in it meanwhile, and afterwards nothing of it is there.
        if let Some(mut entry) = self.entries.remove(uid) {
            entry.let_go();
        }
        let mounter = self.parts.mounter.clone();
        let (paths, csi) = (Arc::clone(&self.parts.paths), self.parts.csi.clone());
        let removal = directories::remove_pod(mounter, paths, csi, uid.clone());
        let job = self.jobs.spawn(async move { Ended::Removed(removal.await) }).id();
        self.running.insert(job, Job::Removal(uid.clone()));
    }

    fn removal_ended(&mut self, uid: &PodUid, result: Result<(), TearDownError>) {
        if result.is_ok() {
            publish(&self.parts.shared, uid, VolumesState::Absent);
            publish_claimed(&self.parts.shared, uid, BTreeMap::new());
            self.parts.sources.tokens.forget(uid);
        }
        self.removals.ended(uid, result, self.parts.clock.now().mono);
        self.tell_stuck();
        // A pod that was asked for meanwhile (a static pod that came back) is taken up again.
        if self.wishes.borrow().contains_key(uid) {
            self.wishes.mark_changed();
        }
    }

    fn tell_stuck(&self) {
        let mut swept = self.removals.stuck();
        let going = self.entries.values().filter(|entry| entry.goal == Goal::Gone);
        let problems = going.flat_map(|entry| {
            entry.volumes.iter().map(|volume| (&entry.uid, &volume.plan.problem))
        });
        swept.stuck.extend(problems.filter_map(|(uid, problem)| {
            let problem = problem.as_ref().filter(|problem| problem.count >= STUCK)?;
            Some(Stuck { uid: uid.clone(), problem: problem.text.clone(), reason: problem.reason })
        }));
        set_if_changed(&self.parts.shared.swept, swept);
    }

    /// A CSI driver has come or gone: what waits for one is tried at once.
    fn drivers_changed(&mut self) -> BTreeSet<PodUid> {
        let now = self.parts.clock.now().mono;
        let mut touched = BTreeSet::new();
        for entry in self.entries.values_mut() {
            if entry.driver_changed(now) {
                touched.insert(entry.uid.clone());
            }
        }
        touched
    }

    /// The wall clock was set: tokens may have expired, or not be valid yet. Their cache knows; it
    /// is asked anew.
    fn clock_jumped(&mut self) -> BTreeSet<PodUid> {
        let now = self.parts.clock.now().mono;
        info!("The clock was set: tokens are looked at again");
        let mut touched = BTreeSet::new();
        for entry in self.entries.values_mut() {
            // Only volumes with tokens have such a moment.
            for refresh_at in
                entry.volumes.iter_mut().filter_map(|volume| volume.plan.refresh_at.as_mut())
            {
                *refresh_at = now;
                touched.insert(entry.uid.clone());
            }
        }
        touched
    }

    /// Files that were kept for a container that has started go with the next write, which is now
    /// due.
    fn prune(&mut self, uid: &PodUid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if !entry.has_old_files || self.parts.shared.is_starting(uid) {
            return;
        }
        entry.has_old_files = false;
        for OneVolume { plan, meta } in &mut entry.volumes {
            plan.dirty |= meta.is_payload();
        }
    }

    fn object_changed(&mut self, change: Option<Changed<O>>) -> BTreeSet<PodUid> {
        // `None`: its pod is gone.
        let Some((uid, object, subscription, unwatch)) = change else { return BTreeSet::new() };
        let changed = self.entries.get_mut(&uid).is_some_and(|entry| entry.look_at(&object));
        self.changes.push(watch_one::<O>((uid.clone(), object, subscription, unwatch)));
        if changed { BTreeSet::from([uid]) } else { BTreeSet::new() }
    }

    /// The pods whose moment has come.
    fn due(&mut self) -> BTreeSet<PodUid> {
        let now = self.parts.clock.now().mono;
        let wishes = self.wishes.borrow().clone();
        let mut due = self.removals.due(|uid| wishes.contains_key(uid), now);
        let woken = self.entries.values().filter(|entry| entry.wake_at.is_some_and(|at| at <= now));
        due.extend(woken.map(|entry| entry.uid.clone()));
        due
    }
}

/// Sets one volume up, by its kind. With the failure of a claim's comes the record of the
/// persistent volume, if its set-up had begun.
async fn set_up<M: Mounter, T: TokenSource>(
    context: &Arc<Context<M, T>>,
) -> Result<Done, (SetUpError, Option<Record>)> {
    let Some(volume) = context.volume() else { return Ok(Done::default()) };
    let kind = Kind::of(volume);
    match kind.set_up(context).await {
        Ok(done) => Ok(done),
        Err(error) if kind.is_claim() => {
            let read = |context: &Context<M, T>| {
                Ok(ledger::read(&context.paths, &context.uid, context.name()))
            };
            let record = context.blocking(read).await.unwrap_or_default();
            Err((error, record.filter(|record| record.claimed.is_some())))
        }
        Err(error) => Err((error, None)),
    }
}

/// Waits for the next change of one object, or for the end of its pod.
fn watch_one<O: ObjectSource>(watched: Changed<O>) -> BoxFuture<'static, Option<Changed<O>>> {
    Box::pin(async move {
        let (uid, object, mut subscription, unwatch) = watched;
        unwatch.run_until_cancelled(subscription.changed()).await?;
        Some((uid, object, subscription, unwatch))
    })
}

/// A failure of a job.
struct Failure {
    text: String,
    reason: StuckReason,
    event: Reporting,
    /// The longest wait until it is tried again; `None`: only when an input changes.
    longest_wait: Option<Duration>,
}

impl Failure {
    fn plain(text: String, reason: StuckReason) -> Self {
        Self {
            event: Reporting::OwnEvent(text.clone()),
            text,
            reason,
            longest_wait: Some(Duration::MAX),
        }
    }

    fn of(error: &SetUpError, volume: &str) -> Self {
        let event = match error {
            SetUpError::Unprocessed(_) => Reporting::InSummary,
            SetUpError::Object(_)
            | SetUpError::Token(_)
            | SetUpError::Payload(_)
            | SetUpError::HostPath(_)
            | SetUpError::Persistent { .. }
            | SetUpError::Cancelled
            | SetUpError::Several(_)
            | SetUpError::Io { .. }
            | SetUpError::Panicked(_) => Reporting::OwnEvent(error.event(volume)),
        };
        Self {
            text: error.text(),
            reason: StuckReason::Other,
            event,
            longest_wait: longest_wait(error),
        }
    }
}

/// How long to wait at most until it is tried again although no input has changed.
fn longest_wait(error: &SetUpError) -> Option<Duration> {
    match error {
        SetUpError::Object(_) | SetUpError::Payload(_) => None,
        SetUpError::Several(errors) => errors.iter().filter_map(longest_wait).min(),
        SetUpError::Token(_) => Some(TOKEN_WAIT),
        SetUpError::Unprocessed(_) | SetUpError::Persistent { .. } => Some(CLAIM_WAIT),
        SetUpError::Cancelled => Some(Duration::ZERO),
        SetUpError::HostPath(_) | SetUpError::Io { .. } | SetUpError::Panicked(_) => {
            Some(Duration::MAX)
        }
    }
}

/// Publishes what a pod's claims have led to.
fn publish_claimed(shared: &Shared, uid: &PodUid, records: BTreeMap<String, Record>) {
    let mut claimed = shared.claimed.lock();
    if records.is_empty() {
        claimed.remove(uid);
    } else {
        claimed.insert(uid.clone(), records);
    }
}

/// Publishes a state, if anybody has ever asked for it.
fn publish(shared: &Shared, uid: &PodUid, state: VolumesState) {
    let Some(sender) = shared.states.lock().get(uid).cloned() else { return };
    set_if_changed(&sender, state);
}
