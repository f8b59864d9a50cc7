//! Keeps one pod's volumes in the task's memory: each as the planner sees it and as the kinds need
//! it, and the subscriptions to the objects that they consist of.
//!
//! Fed by the task. It never touches the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceRequirements, Secret};
use tokio_util::sync::CancellationToken;

use super::directories::Found;
use super::kinds::{Kind, Plugin, VolumeInputs, host_path};
use super::ledger::Record;
use super::nested;
use super::payload::{ObjectRef, Objects};
use super::plan::{Actual, Goal, Inputs, MountedBy, Volume};
use super::source::{ObjectSource, Subscription};
use crate::apiserver::objects::ObjectError;
use crate::model::{Mono, Pod, PodUid, pod};

/// A missing ConfigMap or Secret is reported only after this delay. Most arrive within
/// milliseconds, and each report costs a status write while the pod is starting.
const OBJECT_REPORT_DELAY: Duration = Duration::from_secs(1);

/// A subscription to either kind of object.
pub(super) enum AnySubscription<O: ObjectSource> {
    ConfigMap(O::ConfigMaps),
    Secret(O::Secrets),
}

impl<O: ObjectSource> Clone for AnySubscription<O> {
    fn clone(&self) -> Self {
        match self {
            Self::ConfigMap(subscription) => Self::ConfigMap(subscription.clone()),
            Self::Secret(subscription) => Self::Secret(subscription.clone()),
        }
    }
}

impl<O: ObjectSource> AnySubscription<O> {
    fn new(objects: &O, namespace: &str, object: &ObjectRef) -> Self {
        match object {
            ObjectRef::ConfigMap(name) => Self::ConfigMap(objects.config_map(namespace, name)),
            ObjectRef::Secret(name) => Self::Secret(objects.secret(namespace, name)),
        }
    }

    pub(super) async fn changed(&mut self) {
        match self {
            Self::ConfigMap(subscription) => subscription.changed().await,
            Self::Secret(subscription) => subscription.changed().await,
        }
    }

    fn seen(&self) -> Seen {
        match self {
            Self::ConfigMap(subscription) => Seen::of(subscription.latest()),
            Self::Secret(subscription) => Seen::of(subscription.latest()),
        }
    }
}

/// The last state of an object: enough to tell whether it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Object { uid: Option<String>, version: Option<String> },
    Missing,
    Failed(String),
}

impl Seen {
    fn of<
        T: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    >(
        latest: Option<Result<Arc<T>, ObjectError>>,
    ) -> Self {
        match latest {
            None => Self::Nothing,
            Some(Ok(object)) => {
                let meta = object.metadata();
                Self::Object { uid: meta.uid.clone(), version: meta.resource_version.clone() }
            }
            Some(Err(error)) if error.is_not_found() => Self::Missing,
            Some(Err(error)) => Self::Failed(error.to_string()),
        }
    }
}

struct Watched<O: ObjectSource> {
    subscription: AnySubscription<O>,
    seen: Seen,
}

/// One volume: as the planner sees it, and as the kinds need it.
#[derive(Clone, Debug)]
pub(super) struct OneVolume {
    pub(super) plan: Volume,
    pub(super) meta: Meta,
}

impl AsRef<Volume> for OneVolume {
    fn as_ref(&self) -> &Volume {
        &self.plan
    }
}

/// The part of a volume that the planner does not need.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    /// The plugin's qualified name, for the tear-down; `None` for a volume without a directory of
    /// ours.
    plugin: Option<String>,
    /// The directory's name: the volume's, or the persistent volume's.
    pub(super) directory: String,
    /// The persistent volume behind a claim.
    claimed: Option<Record>,
    /// The index of the volume in the pod's spec; `None` if it was found on disk and is not in the
    /// spec.
    pub(super) spec_index: Option<usize>,
    /// The objects and fields that the volume consists of.
    inputs: VolumeInputs,
}

impl Meta {
    /// Returns the plugin that tears the volume down. A volume without a plugin of ours has at most
    /// subPaths.
    pub(super) fn plugin_name(&self) -> &str {
        self.plugin.as_deref().unwrap_or(host_path::PLUGIN)
    }

    /// Returns true if the volume's files are written by this process.
    pub(super) fn is_payload(&self) -> bool {
        matches!(Plugin::named(self.plugin_name()), Plugin::Payload(_))
    }

    /// Returns true if the volume may be the persistent volume of a claim.
    fn may_be_persistent(&self) -> bool {
        matches!(Plugin::named(self.plugin_name()), Plugin::Local | Plugin::Csi)
    }

    /// Returns true if the volume is a CSI driver's.
    fn is_of_a_driver(&self) -> bool {
        Plugin::named(self.plugin_name()) == Plugin::Csi
    }
}

/// One pod's volumes.
pub(super) struct Entry<O: ObjectSource> {
    pub(super) uid: PodUid,
    /// The newest object; `None` while the pod is only known from disk.
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) goal: Goal,
    pub(super) volumes: Vec<OneVolume>,
    objects: BTreeMap<ObjectRef, Box<Watched<O>>>,
    /// Ends the watch of the pod's objects.
    pub(super) unwatch: CancellationToken,
    /// The time at which the pod's volumes must be planned again.
    pub(super) wake_at: Option<Mono>,
    /// The time of the next summary event about missing volumes.
    pub(super) summary_at: Option<Mono>,
    /// The last event about each volume (and about the pod, under the empty name).
    pub(super) reported: BTreeMap<String, String>,
    /// The times since when the API server has refused an object, by the volume that needs it.
    pub(super) refused_since: BTreeMap<String, Mono>,
    /// The time since when any volume has been waiting for an object.
    unanswered_since: Option<Mono>,
    /// True if old generations of files were kept for a container that was being started.
    pub(super) has_old_files: bool,
}

impl<O: ObjectSource> Entry<O> {
    /// Creates the entry of a pod that is only known from disk.
    pub(super) fn from_disk(uid: PodUid, found: Vec<Found>) -> Self {
        let volumes = found.into_iter().map(|found| {
            let actual = if found.usable { Actual::Present } else { Actual::Partial };
            let plan = volume(found.name.clone(), actual);
            let meta = Meta {
                plugin: Some(found.plugin),
                directory: found.name,
                claimed: found.claimed,
                ..Meta::default()
            };
            OneVolume { plan, meta }
        });
        let volumes = volumes.collect();

        Self {
            uid,
            pod: None,
            goal: Goal::Unclaimed,
            volumes,
            objects: BTreeMap::new(),
            unwatch: CancellationToken::new(),
            wake_at: None,
            summary_at: None,
            reported: BTreeMap::new(),
            refused_since: BTreeMap::new(),
            unanswered_since: None,
            has_old_files: false,
        }
    }

    /// Takes the pod's first or newer object. Returns the new subscriptions.
    pub(super) fn claim(
        &mut self,
        pod: &Arc<Pod>,
        objects: &O,
    ) -> Vec<(ObjectRef, AnySubscription<O>)> {
        self.goal = Goal::Present;
        match self.pod.replace(Arc::clone(pod)) {
            None => self.take_spec(pod),
            Some(before) if Arc::ptr_eq(&before, pod) => {}
            Some(before) => self.follow_change(&before, pod),
        }
        self.subscribe(pod, objects)
    }

    /// Marks the pod as gone: all its volumes are to be torn down.
    pub(super) fn let_go(&mut self) {
        self.goal = Goal::Gone;
        self.unwatch.cancel();
        self.objects.clear();
        self.summary_at = None;
        for volume in &mut self.volumes {
            // The failure of a set-up does not delay the tear-down.
            volume.plan.problem = None;
        }
    }

    /// Matches the pod's volumes with those that were found on disk. The unmatched ones stay in the
    /// entry, to be torn down.
    fn take_spec(&mut self, pod: &Pod) {
        let used = nested::used(pod);
        let mut left = std::mem::take(&mut self.volumes);

        let specs = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        for (index, spec) in specs.iter().enumerate() {
            let kind = Kind::of(spec);
            let plugin = kind.plugin().map(str::to_owned);
            let is_it = |known: &OneVolume| match &known.meta.claimed {
                Some(record) => kind.is_claim() && record.volume == spec.name,
                None => {
                    !kind.is_claim() && known.plan.name == spec.name && known.meta.plugin == plugin
                }
            };
            let known = left.iter().position(is_it).map(|position| left.swap_remove(position));

            let was_found = known.is_some();
            let mut volume = known.unwrap_or_else(|| OneVolume {
                plan: volume(spec.name.clone(), Actual::Absent),
                meta: Meta { directory: spec.name.clone(), ..Meta::default() },
            });
            volume.plan.name.clone_from(&spec.name);

            // Containers may use the volume as it was found; it is brought up to date as soon as
            // its inputs are known. The persistent volume behind a claim never changes; but a CSI
            // driver is asked again after a restart, as upstream does.
            volume.plan.dirty = was_found && (!kind.is_claim() || volume.meta.is_of_a_driver());
            volume.plan.wanted = used.contains(spec.name.as_str());
            volume.plan.mounted_by = kind.mounted_by(spec);
            volume.meta.plugin = plugin.or(volume.meta.plugin);
            volume.meta.spec_index = Some(index);
            volume.meta.inputs = kind.inputs();
            self.volumes.push(volume);
        }

        self.volumes.append(&mut left);
        self.volumes.shrink_to_fit();
        self.hold_maybe_claimed();
    }

    /// Protects persistent volumes that were found on disk until every claim has been read that may
    /// lead to them. Without a record (upstream's kubelet made them) nothing else says which claim
    /// they belong to.
    fn hold_maybe_claimed(&mut self) {
        let specs = self
            .pod
            .as_ref()
            .and_then(|pod| pod.spec.as_ref())
            .and_then(|spec| spec.volumes.as_deref());
        let specs = specs.unwrap_or_default();
        let is_open = self.volumes.iter().any(|OneVolume { plan, meta }| {
            let spec = meta.spec_index.and_then(|index| specs.get(index));
            plan.wanted
                && meta.claimed.is_none()
                && spec.is_some_and(|spec| Kind::of(spec).is_claim())
        });

        for OneVolume { plan, meta } in &mut self.volumes {
            plan.maybe_claimed = is_open && meta.spec_index.is_none() && meta.may_be_persistent();
        }
    }

    /// Records the persistent volume that a claim leads to. If the volume was found on disk, that
    /// entry is merged into this one.
    pub(super) fn claimed(&mut self, index: usize, record: Record) {
        for OneVolume { plan, meta } in &mut self.volumes {
            let is_same =
                meta.plugin.as_ref() == Some(&record.plugin) && meta.directory == record.directory;
            if meta.spec_index.is_none() && is_same {
                plan.actual = Actual::Absent;
                plan.maybe_claimed = false;
            }
        }

        let meta = &mut self.volumes[index].meta;
        meta.plugin = Some(record.plugin.clone());
        meta.directory.clone_from(&record.directory);
        meta.claimed = Some(record);
        self.hold_maybe_claimed();
    }

    /// Returns the persistent volumes of the pod's claims that are in place, by the volume's name
    /// in the pod.
    pub(super) fn in_place(&self) -> BTreeMap<String, Record> {
        self.volumes
            .iter()
            .filter(|volume| volume.plan.actual == Actual::Present)
            .filter_map(|volume| Some((volume.plan.name.clone(), volume.meta.claimed.clone()?)))
            .collect()
    }

    /// Returns the names of the persistent volumes that the pod has, or may have.
    pub(super) fn persistent(&self) -> impl Iterator<Item = &str> {
        self.volumes
            .iter()
            .filter(|volume| volume.plan.actual != Actual::Absent)
            .filter_map(|volume| Some(volume.meta.claimed.as_ref()?.directory.as_str()))
    }

    /// Takes a newer object of the pod. A pod's volumes never change, but the fields that they show
    /// and the containers that use them may.
    fn follow_change(&mut self, before: &Pod, pod: &Pod) {
        let used = nested::used(pod);
        let shown = shown_fields(before) != shown_fields(pod);

        for OneVolume { plan, meta } in &mut self.volumes {
            if meta.spec_index.is_some() {
                plan.wanted = used.contains(plan.name.as_str());
            }
            if meta.inputs.shows_pod && shown {
                plan.dirty = true;
                plan.problem = None;
            }
        }
    }

    /// Subscribes to the objects of wanted volumes that have no subscription yet.
    fn subscribe(&mut self, pod: &Pod, objects: &O) -> Vec<(ObjectRef, AnySubscription<O>)> {
        let namespace = pod::key(pod).namespace;
        let wanted: BTreeSet<ObjectRef> = self
            .volumes
            .iter()
            .filter(|volume| volume.plan.wanted)
            .flat_map(|volume| volume.meta.inputs.objects.iter().cloned())
            .collect();
        let mut added = Vec::new();
        if self.unwatch.is_cancelled() {
            self.unwatch = CancellationToken::new();
        }

        for object in wanted {
            if self.objects.contains_key(&object) {
                continue;
            }
            let subscription = AnySubscription::<O>::new(objects, &namespace, &object);
            added.push((object.clone(), subscription.clone()));
            let seen = subscription.seen();
            self.objects.insert(object, Box::new(Watched { subscription, seen }));
        }

        added
    }

    /// Reads an object again. If it has changed, marks the volumes that contain it, and returns
    /// true.
    pub(super) fn look_at(&mut self, object: &ObjectRef) -> bool {
        let Some(watched) = self.objects.get_mut(object) else { return false };
        let seen = watched.subscription.seen();
        if watched.seen == seen {
            return false;
        }

        watched.seen = seen;
        for OneVolume { plan, meta } in &mut self.volumes {
            if meta.inputs.objects.contains(object) {
                plan.dirty = true;
                plan.problem = None;
            }
        }

        true
    }

    /// Updates the state of each volume's inputs.
    pub(super) fn refresh_inputs(&mut self, now: Mono) {
        let is_late =
            self.unanswered_since.is_some_and(|since| now.since(since) >= OBJECT_REPORT_DELAY);
        let mut is_unanswered = false;

        for OneVolume { plan, meta } in &mut self.volumes {
            let objects = &meta.inputs.objects;
            let waiting = objects.iter().find_map(|object| {
                let seen = self.objects.get(object).map(|watched| &watched.seen);
                waiting_for(object, seen)
            });
            match &waiting {
                Some(Waiting { is_refused: true, .. }) => {
                    self.refused_since.entry(plan.name.clone()).or_insert(now);
                }
                Some(Waiting { is_refused: false, .. }) | None => {
                    self.refused_since.remove(&plan.name);
                }
            }

            let is_there = |object| {
                let seen = self.objects.get(object).map(|watched| &watched.seen);
                matches!(seen, Some(Seen::Object { .. }))
            };
            plan.inputs_complete = meta.inputs.objects_suffice && objects.iter().all(is_there);
            is_unanswered |= waiting.is_some();
            plan.inputs = match waiting {
                None => Inputs::Known,
                Some(waiting) if is_late => Inputs::Waiting(waiting.text),
                Some(_) => Inputs::Waiting(String::new()),
            };
        }

        self.unanswered_since = is_unanswered.then(|| self.unanswered_since.unwrap_or(now));
    }

    /// Returns the time at which a missing object must be reported, if it is ahead.
    pub(super) fn late_at(&self, now: Mono) -> Option<Mono> {
        self.unanswered_since.map(|since| since.after(OBJECT_REPORT_DELAY)).filter(|at| *at > now)
    }

    /// Returns the objects of one volume, as far as they are known.
    pub(super) fn objects_of(&self, index: usize) -> Objects {
        let mut known = Objects::default();
        for object in &self.volumes[index].meta.inputs.objects {
            match (object, self.objects.get(object).map(|watched| &watched.subscription)) {
                (ObjectRef::ConfigMap(name), Some(AnySubscription::ConfigMap(subscription))) => {
                    let latest: Option<Result<Arc<ConfigMap>, _>> = subscription.latest();
                    known.config_maps.insert(name.clone(), latest.and_then(Result::ok));
                }
                (ObjectRef::Secret(name), Some(AnySubscription::Secret(subscription))) => {
                    let latest: Option<Result<Arc<Secret>, _>> = subscription.latest();
                    known.secrets.insert(name.clone(), latest.and_then(Result::ok));
                }
                (ObjectRef::ConfigMap(_) | ObjectRef::Secret(_), _) => {}
            }
        }

        known
    }

    /// Ends the waits after failures of volumes that a CSI driver may have caused. Returns true if
    /// there are any.
    pub(super) fn driver_changed(&mut self, now: Mono) -> bool {
        let mut any = false;
        for OneVolume { plan, meta } in &mut self.volumes {
            let is_open = meta.plugin.is_none() && meta.spec_index.is_some();
            if let Some(problem) = &mut plan.problem
                && problem.retry_at.is_some_and(|at| at > now)
                && (is_open || meta.is_of_a_driver())
            {
                problem.retry_at = Some(now);
                any = true;
            }
        }
        any
    }

    /// Returns true if work on a volume is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.volumes.iter().any(|volume| volume.plan.doing.is_some())
    }
}

fn volume(name: String, actual: Actual) -> Volume {
    Volume {
        name,
        wanted: false,
        maybe_claimed: false,
        mounted_by: MountedBy::Kubelet,
        inputs: Inputs::Known,
        inputs_complete: false,
        actual,
        doing: None,
        dirty: false,
        refresh_at: None,
        problem: None,
    }
}

/// An object that a volume waits for.
struct Waiting {
    text: String,
    /// True if the API server refuses to show the object.
    is_refused: bool,
}

/// Returns the reason why a volume has to wait for an object; `None` if it has not.
fn waiting_for(object: &ObjectRef, seen: Option<&Seen>) -> Option<Waiting> {
    match seen {
        None | Some(Seen::Nothing) => {
            let text = format!("waiting for {} {:?}", object.kind(), object.name());
            Some(Waiting { text, is_refused: false })
        }
        Some(Seen::Failed(text)) => Some(Waiting { text: text.clone(), is_refused: true }),
        Some(Seen::Object { .. } | Seen::Missing) => None,
    }
}

type Map = BTreeMap<String, String>;

/// Returns all fields that a downwardAPI file can show and that can change.
fn shown_fields(pod: &Pod) -> (Option<&Map>, Option<&Map>, Vec<Option<&ResourceRequirements>>) {
    let containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    let resources = containers.map(|container| container.resources.as_ref()).collect();
    (pod.metadata.labels.as_ref(), pod.metadata.annotations.as_ref(), resources)
}
