//! The task that owns the volumes' state.
//!
//! In: wishes (watch), commands (mpsc), changes of objects (one future per subscription), ends of jobs, the next moment.
//! Out: states (watch), events, jobs. Every input touches some pods; for each of those the plan is made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use super::directories::{self, is_payload};
use super::entry::{AnySubscription, Entry, ObjectRef};
use super::error::{SetUpError, TearDownError};
use super::jobs::SetUp;
use super::kinds::{Allocatable, host_path};
use super::mounter::Mounter;
use super::paths::Paths;
use super::plan::{self, Actual, Care, Doing, Goal, Inputs, Problem, plan, wait_after};
use super::source::{ObjectSource, TokenSource};
use super::{Shared, Sources, Stuck, Wish};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::linux::fs::ensure_dir;
use crate::model::reason::event::FAILED_MOUNT;
use crate::model::{EventType, Mono, Pod, PodUid, VolumesState, pod};

/// After how long upstream gives up waiting and says so: how often missing volumes are summed up.
const SUMMARY: Duration = Duration::from_secs(123);
/// What upstream's summary ends in.
const SUMMARY_CAUSE: &str = "context deadline exceeded";
/// How long the API server may refuse an object before that is told: the node authorizer learns of a pod a little after
/// us.
const REFUSED: Duration = Duration::from_secs(5);
/// A token that is always about to expire is not renewed more often than this.
const SHORTEST_REFRESH: Duration = Duration::from_secs(10);

/// What others ask of the task, beside wishes.
#[derive(Debug)]
pub(super) enum Command {
    /// Remove everything of a pod.
    Remove { uid: PodUid, reply: oneshot::Sender<Result<(), TearDownError>> },
    /// Remove everything of pods that are not known.
    Sweep { known: BTreeSet<PodUid> },
    /// No container of the pod is being started any more.
    Started { uid: PodUid },
}

/// What the task is made of.
pub(super) struct Parts<O, T, M> {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) paths: Arc<Paths>,
    pub(super) allocatable: Allocatable,
    pub(super) sources: Sources<O, T>,
    pub(super) mounter: M,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
}

/// How a job ended.
enum Ended {
    SetUp(Result<Option<Mono>, SetUpError>),
    TornDown(Result<(), TearDownError>),
    Removed(Result<(), TearDownError>),
}

/// What a running job is about.
enum Job {
    Volume(PodUid, usize),
    Removal(PodUid),
}

/// The removal of a pod's directory.
#[derive(Default)]
struct Removal {
    replies: Vec<oneshot::Sender<Result<(), TearDownError>>>,
    running: bool,
}

/// A pod's directory that could not be removed.
struct Failed {
    count: u32,
    retry_at: Mono,
    text: String,
}

type Changed<O> = (PodUid, ObjectRef, AnySubscription<O>, tokio_util::sync::CancellationToken);

pub(super) struct Task<O: ObjectSource, T, M> {
    parts: Parts<O, T, M>,
    wishes: watch::Receiver<BTreeMap<PodUid, Wish>>,
    entries: BTreeMap<PodUid, Entry<O>>,
    changes: FuturesUnordered<BoxFuture<'static, Option<Changed<O>>>>,
    jobs: JoinSet<Ended>,
    running: HashMap<Id, Job>,
    removals: BTreeMap<PodUid, Removal>,
    failed_removals: BTreeMap<PodUid, Failed>,
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
            removals: BTreeMap::new(),
            failed_removals: BTreeMap::new(),
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        self.reconstruct().await;
        let mut touched = self.follow_wishes();
        loop {
            for uid in std::mem::take(&mut touched) {
                self.step(&uid);
            }
            let wake_at = self.entries.values().filter_map(|entry| entry.wake_at).min();
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
                () = sleep_until(clock, wake_at) => self.due(),
            };
        }
    }

    async fn reconstruct(&mut self) {
        let paths = Arc::clone(&self.parts.paths);
        let read = tokio::task::spawn_blocking(move || {
            ensure_dir(&paths.pods(), 0o750)?;
            directories::reconstruct(&paths)
        });
        match read.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            Ok(pods) => {
                for (uid, found) in pods {
                    self.entries.insert(uid.clone(), Entry::from_disk(uid, found));
                }
                if !self.entries.is_empty() {
                    info!(pods = self.entries.len(), "Found volumes of pods on disk");
                }
            }
            // Volumes are set up all the same; what is there is found by each set-up.
            Err(error) => error!(error = %error, "Could not read the pods' directories"),
        }
    }

    /// Brings the entries in line with the wishes; answers the pods that this touched.
    fn follow_wishes(&mut self) -> BTreeSet<PodUid> {
        let wishes = self.wishes.borrow_and_update().clone();
        let mut touched = BTreeSet::new();
        for (uid, wish) in &wishes {
            if self.removals.get(uid).is_some_and(|removal| removal.running) {
                // Taken up again when it has ended.
                continue;
            }
            let entry = self.entries.entry(uid.clone()).or_insert_with(|| Entry::from_disk(uid.clone(), Vec::new()));
            match wish {
                Wish::Present(pod) => {
                    let same = entry.pod.as_ref().is_some_and(|known| Arc::ptr_eq(known, pod));
                    if same && entry.goal == Goal::Present {
                        continue;
                    }
                    for (object, subscription) in entry.claim(pod, &self.parts.sources.objects) {
                        let unwatch = entry.unwatch.clone();
                        self.changes.push(watch_one::<O>((uid.clone(), object, subscription, unwatch)));
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
        tell(entry, &plan.state, &self.parts.recorder, now.mono);
        if entry.goal != Goal::Unclaimed {
            publish(&self.parts.shared, uid, plan.state);
        } else if !entry.is_busy() && entry.volumes.iter().all(|volume| volume.actual == Actual::Absent) {
            self.entries.remove(uid);
        }
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
        let entry = self.entries.get_mut(uid).expect("the caller has just looked at it");
        entry.volumes[index].doing = Some((Doing::SetUp, now.mono));
        entry.volumes[index].dirty = false;
        let keep_old = self.parts.shared.is_starting(uid);
        entry.has_old_files |= keep_old;
        let job = SetUp {
            paths: Arc::clone(&self.parts.paths),
            allocatable: self.parts.allocatable,
            pod: entry.pod.clone().expect("only volumes of a claimed pod are set up"),
            index: entry.metas[index].spec_index.expect("only volumes of the spec are wanted"),
            objects: entry.objects_of(index),
            now: now.wall,
            keep_old,
        };
        let (mounter, tokens) = (self.parts.mounter.clone(), self.parts.sources.tokens.clone());
        self.jobs.spawn(async move { Ended::SetUp(job.run(mounter, tokens).await) }).id()
    }

    fn begin_tear_down(&mut self, uid: &PodUid, index: usize) -> Id {
        let now = self.parts.clock.now().mono;
        let entry = self.entries.get_mut(uid).expect("the caller has just looked at it");
        entry.volumes[index].doing = Some((Doing::TearDown, now));
        // A volume without a plugin of ours has at most subPaths.
        let plugin = entry.metas[index].plugin.clone().unwrap_or_else(|| host_path::PLUGIN.to_owned());
        let name = entry.volumes[index].name.clone();
        let (mounter, paths, uid) = (self.parts.mounter.clone(), Arc::clone(&self.parts.paths), uid.clone());
        let work = move || Ended::TornDown(directories::tear_down(&mounter, &paths, &uid, &plugin, &name));
        self.jobs.spawn_blocking(work).id()
    }

    fn job_ended(&mut self, ended: Result<(Id, Ended), JoinError>) -> BTreeSet<PodUid> {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        match self.running.remove(&id) {
            Some(Job::Volume(uid, index)) => {
                self.volume_job_ended(&uid, index, ended);
                BTreeSet::from([uid])
            }
            Some(Job::Removal(uid)) => {
                let result = match ended {
                    Ok(Ended::Removed(result)) => result,
                    Ok(Ended::SetUp(_) | Ended::TornDown(_)) => Ok(()),
                    Err(panicked) => Err(TearDownError::Panicked(panicked)),
                };
                self.removal_ended(&uid, result);
                BTreeSet::from([uid])
            }
            None => BTreeSet::new(),
        }
    }

    fn volume_job_ended(&mut self, uid: &PodUid, index: usize, ended: Result<Ended, String>) {
        let now = self.parts.clock.now().mono;
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let volume = &mut entry.volumes[index];
        let doing = volume.doing.take().map(|(doing, _)| doing);
        let result = match ended {
            Ok(Ended::SetUp(result)) => result.map_err(|error| (error.text(), retries_by_itself(&error))),
            Ok(Ended::TornDown(result)) => result.map(|()| None).map_err(|error| (error.text(), true)),
            Ok(Ended::Removed(_)) => Ok(None),
            Err(panicked) => Err((panicked, true)),
        };
        match (result, doing) {
            (Ok(refresh_at), Some(Doing::SetUp)) => {
                debug!(pod = %uid, volume = volume.name, "The volume is in place");
                volume.actual = Actual::Present;
                volume.refresh_at = refresh_at.map(|at| at.max(now.after(SHORTEST_REFRESH)));
                volume.problem = None;
                entry.told.remove(&volume.name);
            }
            (Ok(_), _) => {
                volume.actual = Actual::Absent;
                volume.problem = None;
            }
            (Err((text, by_itself)), doing) => {
                let count = volume.problem.as_ref().map_or(0, |problem| problem.count) + 1;
                warn!(pod = %uid, volume = volume.name, error = text, count, "Work on a volume failed");
                // An input that has changed meanwhile is tried at once.
                let retry_at = if volume.dirty { Some(now) } else { by_itself.then(|| now.after(wait_after(count))) };
                volume.problem = Some(Problem { count, text, retry_at });
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
                self.removals.entry(uid.clone()).or_default().replies.push(reply);
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
        let listed = tokio::task::spawn_blocking(move || crate::linux::tree::list(&paths.pods())).await;
        let names = listed.ok().and_then(Result::ok).unwrap_or_default();
        let on_disk: BTreeSet<PodUid> =
            names.into_iter().filter_map(|(name, _)| name.into_string().ok().map(PodUid::from)).collect();
        self.failed_removals.retain(|uid, _| on_disk.contains(uid));
        let wishes = self.wishes.borrow().clone();
        let mut touched = BTreeSet::new();
        for uid in on_disk {
            let waits = self.failed_removals.get(&uid).is_some_and(|failed| failed.retry_at > now);
            if !known.contains(&uid) && !wishes.contains_key(&uid) && !waits {
                self.removals.entry(uid.clone()).or_default();
                touched.insert(uid);
            }
        }
        self.tell_stuck();
        touched
    }

    /// Begins the removal of a pod's directory if one is asked for and nothing works in it.
    fn begin_removal(&mut self, uid: &PodUid) {
        let Some(removal) = self.removals.get_mut(uid) else { return };
        if removal.running || self.entries.get(uid).is_some_and(Entry::is_busy) {
            return;
        }
        removal.running = true;
        // Nothing else may work in it meanwhile, and afterwards nothing of it is there.
        if let Some(mut entry) = self.entries.remove(uid) {
            entry.let_go();
        }
        let (mounter, paths, owned) = (self.parts.mounter.clone(), Arc::clone(&self.parts.paths), uid.clone());
        let work = move || Ended::Removed(directories::remove_pod(&mounter, &paths, &owned));
        let job = self.jobs.spawn_blocking(work).id();
        self.running.insert(job, Job::Removal(uid.clone()));
    }

    fn removal_ended(&mut self, uid: &PodUid, result: Result<(), TearDownError>) {
        let replies = self.removals.remove(uid).unwrap_or_default().replies;
        match &result {
            Ok(()) => {
                self.failed_removals.remove(uid);
                publish(&self.parts.shared, uid, VolumesState::Absent);
                self.parts.sources.tokens.forget(uid);
                debug!(pod = %uid, "The pod's directory is gone");
            }
            Err(error) => {
                let (now, text) = (self.parts.clock.now().mono, error.text());
                let before = self.failed_removals.get(uid);
                if before.is_none_or(|before| before.text != text) {
                    warn!(pod = %uid, error = text, "Could not remove the directory of a pod that is gone");
                }
                let count = before.map_or(0, |before| before.count) + 1;
                let retry_at = now.after(wait_after(count));
                self.failed_removals.insert(uid.clone(), Failed { count, retry_at, text });
            }
        }
        self.tell_stuck();
        let text = result.as_ref().err().map(TearDownError::text);
        let mut replies = replies.into_iter();
        if let Some(first) = replies.next() {
            // Nobody waits any more: fine.
            drop(first.send(result));
        }
        for reply in replies {
            drop(reply.send(text.clone().map_or(Ok(()), |text| Err(TearDownError::Again(text)))));
        }
        // A pod that was asked for meanwhile (a static pod that came back) is taken up again.
        if self.wishes.borrow().contains_key(uid) {
            self.wishes.mark_changed();
        }
    }

    fn tell_stuck(&self) {
        let stuck = self.failed_removals.iter();
        let stuck: Vec<Stuck> =
            stuck.map(|(uid, failed)| Stuck { uid: uid.clone(), problem: failed.text.clone() }).collect();
        self.parts.shared.stuck.send_if_modified(|known| {
            let changed = *known != stuck;
            *known = stuck;
            changed
        });
    }

    /// Files that were kept for a container that has started go with the next write, which is now due.
    fn prune(&mut self, uid: &PodUid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if !entry.has_old_files || self.parts.shared.is_starting(uid) {
            return;
        }
        entry.has_old_files = false;
        for (volume, meta) in entry.volumes.iter_mut().zip(&entry.metas) {
            volume.dirty |= meta.plugin.as_deref().is_some_and(is_payload);
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
    fn due(&self) -> BTreeSet<PodUid> {
        let now = self.parts.clock.now().mono;
        let due = self.entries.values().filter(|entry| entry.wake_at.is_some_and(|at| at <= now));
        due.map(|entry| entry.uid.clone()).collect()
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

async fn sleep_until(clock: Clock, moment: Option<Mono>) {
    match moment {
        Some(moment) => clock.sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Whether trying again may help although no input has changed.
fn retries_by_itself(error: &SetUpError) -> bool {
    match error {
        SetUpError::Object(_) | SetUpError::Payload(_) => false,
        SetUpError::Several(errors) => errors.iter().any(retries_by_itself),
        SetUpError::Token(_) | SetUpError::HostPath(_) | SetUpError::Io { .. } | SetUpError::Panicked(_) => true,
    }
}

/// Publishes a state, if anybody has ever asked for it.
fn publish(shared: &Shared, uid: &PodUid, state: VolumesState) {
    let Some(sender) = shared.states.lock().get(uid).cloned() else { return };
    sender.send_if_modified(|known| {
        let changed = *known != state;
        *known = state;
        changed
    });
}

/// Records events for what is new: each volume's failure once, upstream's summary at upstream's moment.
fn tell<O: ObjectSource>(entry: &mut Entry<O>, state: &VolumesState, recorder: &Recorder, now: Mono) {
    let Some(pod) = entry.pod.clone() else { return };
    // A pod that goes away gets no events about volumes that it will not need.
    if entry.goal != Goal::Present || pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let again = entry.summary_at.is_some_and(|at| at <= now);
    if again {
        entry.told.clear();
    }
    tell_failures(entry, &pod, recorder, now);
    tell_unsupported(entry, &pod, recorder);
    match state {
        VolumesState::Pending { .. } => {
            if again && !has_unsupported(entry) {
                record(recorder, &pod, plan::summary(&entry.volumes, SUMMARY_CAUSE));
            }
            let next = entry.summary_at.filter(|at| *at > now).unwrap_or(now.after(SUMMARY));
            entry.summary_at = Some(next);
            entry.wake_at = Some(entry.wake_at.map_or(next, |at| at.min(next)));
        }
        VolumesState::Ready | VolumesState::Absent | VolumesState::TearingDown { .. } => entry.summary_at = None,
    }
}

fn tell_failures<O: ObjectSource>(entry: &mut Entry<O>, pod: &Pod, recorder: &Recorder, now: Mono) {
    for volume in entry.volumes.iter().filter(|volume| volume.wanted && volume.care == Care::Ours) {
        let refused_at = entry.refused_since.get(&volume.name).map(|since| since.after(REFUSED));
        let text = match (&volume.problem, &volume.inputs, refused_at) {
            (Some(problem), _, _) => &problem.text,
            (None, Inputs::Waiting(text), Some(at)) if at <= now => text,
            (None, Inputs::Waiting(_), Some(at)) => {
                entry.wake_at = Some(entry.wake_at.map_or(at, |known| known.min(at)));
                continue;
            }
            (None, Inputs::Waiting(_) | Inputs::Known, _) => continue,
        };
        if entry.told.get(&volume.name) != Some(text) {
            entry.told.insert(volume.name.clone(), text.clone());
            // The blank before the colon is upstream's.
            record(recorder, pod, format!("MountVolume.SetUp failed for volume {:?} : {text}", volume.name));
        }
    }
}

fn tell_unsupported<O: ObjectSource>(entry: &mut Entry<O>, pod: &Pod, recorder: &Recorder) {
    let mut reasons = Vec::new();
    for volume in entry.volumes.iter().filter(|volume| volume.wanted) {
        if let Care::Nobody(why) = &volume.care {
            reasons.push(why.as_str());
        }
    }
    let cause = reasons.join("; ");
    if !cause.is_empty() && entry.told.get("") != Some(&cause) {
        record(recorder, pod, plan::summary(&entry.volumes, &cause));
        entry.told.insert(String::new(), cause);
    }
}

fn has_unsupported<O: ObjectSource>(entry: &Entry<O>) -> bool {
    entry.volumes.iter().any(|volume| volume.wanted && matches!(volume.care, Care::Nobody(_)))
}

fn record(recorder: &Recorder, pod: &Pod, message: String) {
    info!(pod = %pod::key(pod), message, "A pod waits for its volumes");
    recorder.pod(pod, None, EventType::Warning, FAILED_MOUNT, message);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::{mpsc, watch};
    use tokio_util::task::{AbortOnDropHandle, TaskTracker};

    use crate::apiserver::events::{Event, Recorder};
    use crate::apiserver::objects::ObjectError;
    use crate::apiserver::tokens::{Token, TokenError};
    use crate::clock::Clock;
    use crate::linux::fs::write_atomic;
    use crate::model::{Mono, Pod, PodUid, VolumesState, Wall};
    use crate::volumes::mounter::fake::FakeMounter;
    use crate::volumes::source::fake::{FakeObjects, FakeTokens};
    use crate::volumes::{Allocatable, Config, Handle, Paths, Sources, new};

    struct World {
        dir: tempfile::TempDir,
        objects: FakeObjects,
        tokens: FakeTokens,
        mounter: FakeMounter,
        clock: Clock,
        handle: Handle,
        events: mpsc::Receiver<Event>,
        task: AbortOnDropHandle<()>,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        begin(dir, FakeObjects::default(), FakeTokens::default(), FakeMounter::default())
    }

    fn begin(dir: tempfile::TempDir, objects: FakeObjects, tokens: FakeTokens, mounter: FakeMounter) -> World {
        let config =
            Config { paths: Paths::new(dir.path(), dir.path().join("logs")), allocatable: Allocatable::default() };
        let (recorder, events) = Recorder::channel();
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let sources = Sources { objects: objects.clone(), tokens: tokens.clone() };
        let (handle, volumes) = new(config, sources, recorder, clock, mounter.clone());
        let tracker = TaskTracker::new();
        let task = AbortOnDropHandle::new(tracker.spawn(volumes.run()));
        World { dir, objects, tokens, mounter, clock, handle, events, task }
    }

    fn uid() -> PodUid {
        PodUid::from("u1")
    }

    /// A pod of which one container mounts every volume.
    fn pod(volumes: &str) -> Pod {
        let volumes: serde_json::Value = serde_json::from_str(volumes).expect("volumes");
        let names = volumes.as_array().expect("a list").iter().map(|volume| volume["name"].clone());
        let mounts: Vec<_> = names
            .enumerate()
            .map(|(index, name)| serde_json::json!({"name": name, "mountPath": format!("/m{index}")}))
            .collect();
        let pod = serde_json::json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "labels": {"a": "1"}},
            "spec": {"volumes": volumes, "containers": [{"name": "app", "volumeMounts": mounts}]},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    impl World {
        fn volume(&self, plugin: &str, file: &str) -> PathBuf {
            self.dir.path().join(format!("pods/u1/volumes/kubernetes.io~{plugin}/v/{file}"))
        }

        fn read(&self, plugin: &str, file: &str) -> String {
            std::fs::read_to_string(self.volume(plugin, file)).expect("readable")
        }

        fn messages(&mut self) -> Vec<String> {
            let mut messages = Vec::new();
            while let Ok(event) = self.events.try_recv() {
                assert_eq!((event.reason.as_str(), event.object.name.as_str()), ("FailedMount", "web"));
                messages.push(event.message);
            }
            messages
        }

        /// The next message; the task is about to record it.
        async fn message(&mut self) -> String {
            self.events.recv().await.expect("the task runs").message
        }

        /// Waits until a file has that content: the task is about to write it.
        async fn shows(&self, plugin: &str, file: &str, content: &str) {
            let path = self.volume(plugin, file);
            while std::fs::read_to_string(&path).unwrap_or_default() != content {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn ready(state: &mut watch::Receiver<VolumesState>) {
        drop(state.wait_for(|state| *state == VolumesState::Ready).await.expect("the task runs"));
    }

    async fn absent(state: &mut watch::Receiver<VolumesState>) {
        drop(state.wait_for(|state| *state == VolumesState::Absent).await.expect("the task runs"));
    }

    async fn pending(state: &mut watch::Receiver<VolumesState>, wanted: &str) {
        let shows = |state: &VolumesState| match state {
            VolumesState::Pending { missing, .. } => missing.iter().any(|(_, why)| why == wanted),
            VolumesState::Absent | VolumesState::Ready | VolumesState::TearingDown { .. } => false,
        };
        drop(state.wait_for(shows).await.expect("the task runs"));
    }

    const CONFIG: &str = r#"[{"name":"v","configMap":{"name":"c"}}]"#;

    #[tokio::test]
    async fn waits_for_a_config_map_follows_it_and_lets_it_go() {
        let mut world = world();
        let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
        pending(&mut state, "waiting for configmap \"c\"").await;
        world.objects.set_config_map("c", 1, &[("key", "one")]);
        ready(&mut state).await;
        assert_eq!(world.read("configmap", "key"), "one");
        world.objects.set_config_map("c", 2, &[("key", "two")]);
        world.shows("configmap", "key", "two").await;
        assert_eq!(world.objects.subscribers("c"), 2, "one to read, one to wait");
        assert_eq!(*state.borrow(), VolumesState::Ready);
        world.handle.release(&uid());
        absent(&mut state).await;
        assert!(!world.volume("configmap", "").exists());
        while world.objects.subscribers("c") > 0 {
            tokio::task::yield_now().await;
        }
        world.handle.remove_pod_dir(&uid()).await.expect("removed");
        assert!(!world.dir.path().join("pods/u1").exists());
        assert_eq!(world.messages(), [""; 0]);
        assert_eq!(*world.tokens.forgotten.lock(), [uid()]);
    }

    #[tokio::test]
    async fn a_missing_object_is_told_once_and_tried_when_it_appears() {
        let mut world = world();
        let not_found = ObjectError::NotFound { kind: "configmap", name: "c".to_owned() };
        world.objects.fail_config_map("c", not_found);
        let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
        let told = "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found";
        assert_eq!(world.message().await, told);
        pending(&mut state, "configmap \"c\" not found").await;
        world.objects.set_config_map("c", 1, &[("key", "one")]);
        ready(&mut state).await;
        assert_eq!(world.messages(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn upstreams_summary_comes_at_upstreams_moment_and_again() {
        let mut world = world();
        drop(world.handle.ensure(Arc::new(pod(CONFIG))));
        let began = world.clock.now().mono;
        let summary = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], \
                       failed to process volumes=[]: context deadline exceeded";
        assert_eq!(world.message().await, summary);
        assert_eq!(world.clock.now().mono.since(began).as_secs(), 123);
        assert_eq!(world.message().await, summary);
        assert_eq!(world.clock.now().mono.since(began).as_secs(), 246);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_when_it_lasts() {
        let mut world = world();
        let (namespace, name, problem) = ("ns".to_owned(), "c".to_owned(), "forbidden".to_owned());
        world.objects.fail_config_map("c", ObjectError::Failed { kind: "configmap", namespace, name, problem });
        let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
        pending(&mut state, "failed to fetch configmap ns/c: forbidden").await;
        assert_eq!(world.messages(), [""; 0]);
        assert!(world.message().await.ends_with(" : failed to fetch configmap ns/c: forbidden"));
        assert_eq!(world.clock.now().mono.0.as_secs(), 5);
    }

    #[tokio::test]
    async fn an_unsupported_kind_is_told_at_once_and_the_rest_is_set_up() {
        let mut world = world();
        let volumes = r#"[{"name":"data","persistentVolumeClaim":{"claimName":"pvc1"}},{"name":"v","emptyDir":{}}]"#;
        let mut state = world.handle.ensure(Arc::new(pod(volumes)));
        let told = world.message().await;
        assert!(told.starts_with("Unable to attach or mount volumes: unmounted volumes=[data v]"), "{told}");
        assert!(told.contains("failed to process volumes=[data]: error processing PVC ns/pvc1"), "{told}");
        let only_data = |state: &VolumesState| match state {
            VolumesState::Pending { missing, .. } => {
                missing.len() == 1 && missing[0].1.contains("persistentVolumeClaim")
            }
            VolumesState::Absent | VolumesState::Ready | VolumesState::TearingDown { .. } => false,
        };
        drop(state.wait_for(only_data).await.expect("the task runs"));
        assert!(world.volume("empty-dir", "").is_dir());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_written_renewed_and_retried() {
        let world = world();
        let volumes = r#"[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]"#;
        let mut state = world.handle.ensure(Arc::new(pod(volumes)));
        pending(&mut state, "failed to fetch token: no token is scripted").await;
        let token = |text: &str, seconds: u64| Token {
            secret: text.into(),
            expires_at: Wall::UNIX_EPOCH,
            refresh_at: Mono(Duration::from_secs(seconds)),
        };
        *world.tokens.answer.lock() = Ok(token("first", 1000));
        ready(&mut state).await;
        assert!(world.clock.now().mono.0 <= Duration::from_secs(2), "the back-off starts at half a second");
        assert_eq!(world.read("projected", "token"), "first");
        let mounts = world.mounter.mounts();
        assert!(mounts.keys().any(|path| path.ends_with("kubernetes.io~projected/v")), "{mounts:?}");
        *world.tokens.answer.lock() = Err(TokenError { problem: "down".to_owned() });
        tokio::time::sleep(Duration::from_secs(1000)).await;
        *world.tokens.answer.lock() = Ok(token("second", 1_000_000));
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.shows("projected", "token", "second").await;
        assert_eq!(*state.borrow(), VolumesState::Ready, "a failed renewal leaves the volume as it is");
    }

    #[tokio::test]
    async fn a_changed_label_reaches_the_file() {
        let world = world();
        let volumes =
            r#"[{"name":"v","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}}]"#;
        let mut changed = pod(volumes);
        let mut state = world.handle.ensure(Arc::new(changed.clone()));
        ready(&mut state).await;
        assert_eq!(world.read("downward-api", "labels"), "a=\"1\"");
        changed.metadata.labels = Some([("a".to_owned(), "2".to_owned())].into());
        world.handle.update(Arc::new(changed));
        world.shows("downward-api", "labels", "a=\"2\"").await;
    }

    #[tokio::test]
    async fn after_a_restart_volumes_are_ready_at_once_or_removed_by_a_sweep() {
        let first = world();
        first.objects.set_config_map("c", 1, &[("key", "one")]);
        ready(&mut first.handle.ensure(Arc::new(pod(CONFIG)))).await;
        let World { dir, tokens, mounter, task, .. } = first;
        drop(task);
        std::fs::create_dir_all(dir.path().join("pods/u2/volumes/kubernetes.io~empty-dir/x")).expect("made");
        // The API server is away after the restart.
        let second = begin(dir, FakeObjects::default(), tokens, mounter);
        ready(&mut second.handle.ensure(Arc::new(pod(CONFIG)))).await;
        assert_eq!(second.read("configmap", "key"), "one");
        second.objects.set_config_map("c", 2, &[("key", "two")]);
        second.shows("configmap", "key", "two").await;
        second.handle.sweep([uid()]);
        while second.dir.path().join("pods/u2").exists() {
            tokio::task::yield_now().await;
        }
        assert!(second.volume("configmap", "key").exists(), "a known pod is left alone");
    }

    #[tokio::test]
    async fn a_stuck_directory_is_reported_and_foreign_data_stays() {
        let world = world();
        let foreign = world.dir.path().join("pods/u9/volumes/kubernetes.io~csi/pv/mount");
        std::fs::create_dir_all(&foreign).expect("made");
        write_atomic(&foreign.join("data"), "x", 0o600).expect("written");
        let mut stuck = world.handle.stuck();
        world.handle.sweep([]);
        let stuck = stuck.wait_for(|stuck| !stuck.is_empty()).await.expect("the task runs");
        assert_eq!(stuck[0].uid, PodUid::from("u9"));
        assert!(stuck[0].problem.contains("kubernetes.io~csi/pv"), "{}", stuck[0].problem);
        assert!(foreign.join("data").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_mount_is_tried_again() {
        let world = world();
        let mut state = world.handle.ensure(Arc::new(pod(r#"[{"name":"v","emptyDir":{"medium":"Memory"}}]"#)));
        ready(&mut state).await;
        let target = world.dir.path().join("pods/u1/volumes/kubernetes.io~empty-dir/v");
        world.mounter.set_busy(&target, true);
        world.handle.release(&uid());
        let failed = |state: &VolumesState| match state {
            VolumesState::TearingDown { last_error } => last_error.contains("could not unmount"),
            VolumesState::Absent | VolumesState::Ready | VolumesState::Pending { .. } => false,
        };
        drop(state.wait_for(failed).await.expect("the task runs"));
        assert!(target.exists());
        world.mounter.set_busy(&target, false);
        absent(&mut state).await;
        assert!(world.mounter.mounts().is_empty() && !target.exists());
    }

    #[tokio::test]
    async fn old_files_stay_until_the_container_has_started() {
        let world = world();
        world.objects.set_config_map("c", 1, &[("key", "one")]);
        ready(&mut world.handle.ensure(Arc::new(pod(CONFIG)))).await;
        let old = std::fs::read_link(world.volume("configmap", "..data")).expect("a link");
        let old = world.volume("configmap", "").join(old);
        let guards = (world.handle.starting(&uid()), world.handle.starting(&uid()));
        world.objects.set_config_map("c", 2, &[("key", "two")]);
        world.shows("configmap", "key", "two").await;
        drop(guards.0);
        assert!(old.join("key").exists());
        drop(guards.1);
        while old.exists() {
            tokio::task::yield_now().await;
        }
    }
}
