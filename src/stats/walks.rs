//! Measures the volumes of pods, in the background and not too often.
//!
//! There are two ways:
//!
//! - A local directory is measured by reading its whole tree. Trees are read one after the other
//!   on one blocking thread ([`Batch`]), each within a budget, those first that were measured
//!   longest ago.
//! - A claim and a driver's volume are asked for their file system's space. The server behind one
//!   may hang for ever, and the call with it, so each has a thread of its own ([`Space`]) and holds
//!   up no other volume. It is not asked again before it has answered.
//!
//! Readers get the last sizes, and wait briefly for a first one. `targets` is pure. It never
//! decides which size is too much.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use tokio_util::sync::CancellationToken;

use super::compose::FsReading;
use super::usage::{Fs, VolumeUsage};
use crate::clock::Clock;
use crate::linux::measure::measure;
use crate::linux::mount::fs_usage;
use crate::model::{Mono, Pod, PodKey, PodUid, pod};
use crate::telemetry::metrics::Histogram;
use crate::volumes;

/// How long one tree may take. One that takes longer is reported as far as it was measured.
const TREE: Duration = Duration::from_secs(20);
/// After this long no further tree is begun; the rest is for the next batch.
const BATCH: Duration = Duration::from_secs(60);

/// How long a reader waits for volumes that are being measured, and for one of them at most.
pub(super) const FIRST_SIZES: Duration = Duration::from_secs(2);
/// Volumes that are asked for their space at a time, those that hang included: the bound of the
/// threads that servers can hold. While so many hang, no other is asked, and the last sizes stay.
const ASKED: usize = 64;

/// A volume to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    name: String,
    path: PathBuf,
    /// True if the volume is a directory of a larger file system; its tree is read.
    is_tree: bool,
    claim: Option<PodKey>,
    ephemeral: bool,
}

/// A pod and its volumes.
type PodTargets = (PodUid, Vec<Target>);

/// Returns the volumes of a pod that can be measured, as upstream chooses them.
pub(super) fn targets(pod: &Pod, volumes: &volumes::Handle) -> Vec<Target> {
    let uid = pod::uid(pod);
    let own = volumes.paths().pod(&uid);
    let all = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let target = |volume: &Volume| {
        let placed = volumes.place(&uid, volume)?;
        // A hostPath, its own or a persistent volume's, is not the pod's to account for.
        if placed.is_device || !placed.path.starts_with(&own) {
            return None;
        }
        let claim = claim(pod, volume);
        Some(Target {
            name: volume.name.clone(),
            path: placed.path,
            is_tree: claim.is_none() && volume.csi.is_none(),
            claim,
            ephemeral: is_ephemeral(volume),
        })
    };
    all.iter().filter_map(target).collect()
}

/// The claim that a volume refers to, or that is made for it.
fn claim(pod: &Pod, volume: &Volume) -> Option<PodKey> {
    let key = pod::key(pod);
    let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{}-{}", key.name, volume.name),
        (None, None) => return None,
    };
    Some(PodKey::new(key.namespace, name))
}

/// True if a volume counts as local ephemeral storage: an emptyDir on the disk, a configMap.
fn is_ephemeral(volume: &Volume) -> bool {
    let on_disk = |medium: &Option<String>| medium.as_deref().unwrap_or_default().is_empty();
    volume.empty_dir.as_ref().is_some_and(|source| on_disk(&source.medium))
        || volume.config_map.is_some()
}

/// The sizes of the volumes, by pod.
pub(super) type Volumes = HashMap<PodUid, Arc<[VolumeUsage]>>;

/// The sizes of all volumes.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// The last ones.
    pub(super) volumes: Volumes,
    /// True while volumes are being measured that a reader waits for.
    pub(super) are_awaited: bool,
}

/// A volume of a pod, by its name.
pub(super) type VolumeKey = (PodUid, String);

/// What was measured, and when.
#[derive(Debug, Default)]
pub(super) struct Walks {
    trees: HashMap<PodUid, (Mono, Vec<VolumeUsage>)>,
    /// Claims and drivers' volumes. `None`: it could not be read.
    spaces: BTreeMap<VolumeKey, (Mono, Option<VolumeUsage>)>,
    /// Those that have not answered, since when.
    asked: HashMap<VolumeKey, Mono>,
    is_under_way: bool,
}

/// What is to be measured now.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Trees, for one thread.
    pub(super) batch: Option<Batch>,
    /// Volumes with a file system of their own, each for a thread of its own.
    pub(super) spaces: Vec<Space>,
}

impl Walks {
    /// Chooses the volumes whose sizes are older than `period` and that are not being measured.
    pub(super) fn begin(&mut self, pods: &[PodTargets], period: Duration, now: Mono) -> Due {
        let present: HashSet<&PodUid> = pods.iter().map(|(uid, _)| uid).collect();
        self.trees.retain(|uid, _| present.contains(uid));
        let is_there = |(uid, name): &VolumeKey| {
            let targets = pods.iter().find(|(pod, _)| pod == uid).map(|(_, targets)| targets);
            targets.is_some_and(|targets| targets.iter().any(|target| target.name == *name))
        };
        self.spaces.retain(|key, _| is_there(key));

        Due { batch: self.batch(pods, period, now), spaces: self.spaces(pods, period, now) }
    }

    /// Returns the trees that are due, of the pods that were measured longest ago first.
    fn batch(&mut self, pods: &[PodTargets], period: Duration, now: Mono) -> Option<Batch> {
        if self.is_under_way {
            return None;
        }
        let mut due: Vec<(Option<Mono>, &PodTargets)> = pods
            .iter()
            .map(|pod| (self.trees.get(&pod.0).map(|(at, _)| *at), pod))
            .filter(|(at, _)| at.is_none_or(|at| now.since(at) >= period))
            .collect();
        due.sort_by_key(|(at, _)| *at);
        let trees = |(_, (uid, targets)): (_, &PodTargets)| {
            let trees = targets.iter().filter(|target| target.is_tree).cloned().collect();
            (uid.clone(), trees)
        };
        let targets: Vec<_> = due.into_iter().map(trees).collect();
        self.is_under_way = !targets.is_empty();
        self.is_under_way.then_some(Batch { targets })
    }

    /// Returns the other volumes that are due, those first that were read longest ago.
    fn spaces(&mut self, pods: &[PodTargets], period: Duration, now: Mono) -> Vec<Space> {
        let all = pods.iter().flat_map(|(uid, targets)| {
            let others = targets.iter().filter(|target| !target.is_tree);
            others.map(|target| Space { uid: uid.clone(), target: target.clone() })
        });
        let read_at = |space: &Space| self.spaces.get(&space.key()).map(|(at, _)| *at);
        let mut due: Vec<Space> = all
            .filter(|space| !self.asked.contains_key(&space.key()))
            .filter(|space| read_at(space).is_none_or(|at| now.since(at) >= period))
            .collect();
        due.sort_by_key(read_at);
        due.truncate(ASKED.saturating_sub(self.asked.len()));
        self.asked.extend(due.iter().map(|space| (space.key(), now)));
        due
    }

    /// Takes the sizes of a batch in.
    pub(super) fn end(&mut self, measured: Vec<(PodUid, Vec<VolumeUsage>)>, now: Mono) {
        self.is_under_way = false;
        for (uid, volumes) in measured {
            self.trees.insert(uid, (now, volumes));
        }
    }

    /// Takes the answer of a volume in.
    pub(super) fn answered(&mut self, key: VolumeKey, usage: Option<VolumeUsage>, now: Mono) {
        if let Some(since) = self.asked.remove(&key)
            && now.since(since) > TREE
        {
            let (uid, name) = &key;
            tracing::warn!(%uid, name, after = ?now.since(since), "a volume's space was read late");
        }
        self.spaces.insert(key, (now, usage));
    }

    /// Returns the last sizes.
    pub(super) fn sizes(&self, now: Mono) -> Sizes {
        let mut by_pod: HashMap<PodUid, Vec<VolumeUsage>> = HashMap::new();
        for (uid, (_, volumes)) in &self.trees {
            by_pod.insert(uid.clone(), volumes.clone());
        }
        for ((uid, _), (_, usage)) in &self.spaces {
            by_pod.entry(uid.clone()).or_default().extend(usage.clone());
        }
        let volumes = by_pod.into_iter().map(|(uid, volumes)| (uid, volumes.into()));
        // One that hangs is not waited for again and again.
        let is_young = |since: &Mono| now.since(*since) < FIRST_SIZES;
        Sizes {
            volumes: volumes.collect(),
            are_awaited: self.is_under_way || self.asked.values().any(is_young),
        }
    }
}

/// A volume to be asked for the space on its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Space {
    uid: PodUid,
    target: Target,
}

impl Space {
    pub(super) fn key(&self) -> VolumeKey {
        (self.uid.clone(), self.target.name.clone())
    }

    /// Asks; `None` if the space cannot be read. It blocks, maybe for ever.
    pub(super) fn read(self, clock: Clock) -> Option<VolumeUsage> {
        let usage = fs_usage(&self.target.path).ok()?;
        let reading = FsReading { at: clock.now().wall, usage };
        Some(usage_of(&self.target, reading.whole()))
    }
}

/// Trees to measure, those first that were measured longest ago.
#[derive(Debug)]
pub(super) struct Batch {
    targets: Vec<(PodUid, Vec<Target>)>,
}

impl Batch {
    /// Measures until all is done, the budget is spent, or `stop`. `took` takes the time of each
    /// tree. It blocks.
    pub(super) fn run(
        self,
        clock: Clock,
        stop: &CancellationToken,
        took: &Histogram,
    ) -> Vec<(PodUid, Vec<VolumeUsage>)> {
        let end = clock.now().mono.after(BATCH);
        let mut measured = Vec::new();
        for (uid, targets) in self.targets {
            if stop.is_cancelled() || clock.now().mono >= end {
                break;
            }
            let measured_one = |target: &Target| {
                let began = clock.now().mono;
                let usage = volume(target, clock, stop);
                took.observe_duration(clock.now().mono.since(began));
                usage
            };
            let volumes = targets.iter().filter_map(measured_one).collect();
            measured.push((uid, volumes));
        }
        measured
    }
}

/// Measures one tree; `None` if it is not there (yet, or any more).
fn volume(target: &Target, clock: Clock, stop: &CancellationToken) -> Option<VolumeUsage> {
    let usage = fs_usage(&target.path).ok()?;
    let now = clock.now();
    let reading = FsReading { at: now.wall, usage };
    let end = now.mono.after(TREE);
    let is_cancelled = || stop.is_cancelled() || clock.now().mono >= end;
    let measured = measure(&target.path, &is_cancelled).ok()?;
    Some(usage_of(target, reading.part(Some(measured))))
}

fn usage_of(target: &Target, fs: Fs) -> VolumeUsage {
    VolumeUsage {
        name: target.name.clone(),
        fs,
        claim: target.claim.clone(),
        ephemeral: target.ephemeral,
        abnormal: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::{ASKED, Batch, Target, Walks, claim, is_ephemeral};
    use crate::clock::Clock;
    use crate::linux::fs::write_atomic;
    use crate::model::{Mono, Pod, PodKey, PodUid, Wall};
    use crate::telemetry::metrics::{DEFAULT_BUCKETS, Histogram, Registry};

    fn durations() -> Histogram {
        Registry::new().histogram("h", "Durations.", DEFAULT_BUCKETS)
    }

    const PERIOD: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn target(name: &str, is_tree: bool) -> Target {
        Target {
            name: name.to_owned(),
            path: "/proc".into(),
            is_tree,
            claim: (!is_tree).then(|| PodKey::new("ns", name)),
            ephemeral: is_tree,
        }
    }

    #[test]
    fn a_claim_that_hangs_holds_up_no_other_volume() {
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let pod = |uid: &str| {
            let targets = vec![target("claim", false), target("scratch", true)];
            (PodUid::from(uid), targets)
        };
        let pods = [pod("hangs"), pod("other")];
        let mut walks = Walks::default();
        let due = walks.begin(&pods, PERIOD, at(0));
        assert!(walks.sizes(at(0)).are_awaited);
        let (_hangs, mut others): (Vec<_>, Vec<_>) =
            due.spaces.into_iter().partition(|space| space.uid == pods[0].0);
        let space = others.pop().expect("a claim");
        let (key, usage) = (space.key(), space.read(clock));
        assert!(usage.is_some() && others.is_empty());
        walks.answered(key, usage, at(1));
        walks.end(
            due.batch.expect("trees").run(clock, &CancellationToken::new(), &durations()),
            at(1),
        );
        assert!(walks.sizes(at(1)).are_awaited, "the first answer may come yet");
        assert!(!walks.sizes(at(2)).are_awaited, "it hangs");

        let due = walks.begin(&pods, PERIOD, at(61));
        let asked: Vec<&str> = due.spaces.iter().map(|space| space.uid.as_str()).collect();
        assert_eq!(asked, ["other"], "one that hangs has one thread");
        assert_eq!(due.batch.expect("trees").targets.len(), 2);
        let sizes = walks.sizes(at(62));
        let names = |uid: &PodUid| -> Vec<String> {
            sizes.volumes[uid].iter().map(|volume| volume.name.clone()).collect()
        };
        assert_eq!(names(&pods[0].0), ["scratch"]);
        assert_eq!(names(&pods[1].0), ["scratch", "claim"]);
    }

    #[test]
    fn the_volumes_that_are_asked_at_a_time_are_bounded_and_end_with_their_pod() {
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let targets = (0..100).map(|number| target(&number.to_string(), false)).collect();
        let pods = [(PodUid::from("u"), targets)];
        let mut walks = Walks::default();
        let first = walks.begin(&pods, PERIOD, at(0)).spaces;
        assert_eq!(first.len(), ASKED);
        assert!(walks.begin(&pods, PERIOD, at(1)).spaces.is_empty());
        for space in first {
            let (key, usage) = (space.key(), space.read(clock));
            walks.answered(key, usage, at(2));
        }
        assert_eq!(walks.begin(&pods, PERIOD, at(3)).spaces.len(), 100 - ASKED);
        walks.begin(&[], PERIOD, at(4));
        assert!(walks.sizes(at(4)).volumes.is_empty());
    }

    #[test]
    fn which_volumes_are_local_ephemeral_storage_and_which_are_claims() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"containers": [], "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "own", "ephemeral": {}},
            ]},
        }))
        .expect("a pod");
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).expect("volumes");
        let ephemeral: Vec<bool> = volumes.iter().map(is_ephemeral).collect();
        assert_eq!(ephemeral, [true, false, true, false, false, false]);
        let claims: Vec<_> = volumes.iter().filter_map(|volume| claim(&pod, volume)).collect();
        assert_eq!(claims, [PodKey::new("ns", "claim"), PodKey::new("ns", "web-own")]);
    }

    #[tokio::test]
    async fn trees_are_measured_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        write_atomic(&dir.path().join("file"), vec![1; 100_000], 0o600).expect("written");
        let target = |name: &str, path| Target {
            name: name.to_owned(),
            path,
            is_tree: true,
            claim: None,
            ephemeral: true,
        };
        let gone = target("gone", dir.path().join("gone"));
        let targets = vec![target("scratch", dir.path().to_owned()), gone];
        let batch = Batch { targets: vec![(PodUid::from("u"), targets)] };
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let measured = batch.run(clock, &CancellationToken::new(), &durations());
        let [(_, volumes)] = measured.as_slice() else { panic!("one pod: {measured:?}") };
        let [volume] = volumes.as_slice() else { panic!("one volume: {volumes:?}") };
        assert_eq!((volume.name.as_str(), volume.fs.inodes_used), ("scratch", Some(2)));
        assert!(volume.fs.used >= Some(100_000) && volume.fs.capacity > Some(0), "{volume:?}");
    }
}
