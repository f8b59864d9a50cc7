//! What the task knows of one pod: its volumes as the planner sees them, and the objects that they
//! are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ProjectedVolumeSource, ResourceRequirements, Secret};
use tokio_util::sync::CancellationToken;

use super::directories::Found;
use super::kinds::{Kind, local, nested, unsupported_text};
use super::ledger::Record;
use super::payload::Objects;
use super::plan::{Actual, Care, Goal, Inputs, Volume};
use super::source::{ObjectSource, Subscription};
use crate::apiserver::objects::ObjectError;
use crate::model::{Mono, Pod, PodUid, pod};

/// How long an object may take to come before that is worth a word: nearly all do in milliseconds,
/// some after a refusal or two, and each word is a status to be written on the pod's way to Ready.
const QUIET: Duration = Duration::from_secs(1);

/// The certificates of the API server, which the controller manager puts into each namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// An object that a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectRef {
    ConfigMap(String),
    Secret(String),
}

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

/// What was last seen of an object: enough to tell whether it has changed.
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

/// What a volume is, beside what the planner needs to know.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    /// The plugin, for tearing down; `None` for what has no directory of ours.
    pub(super) plugin: Option<String>,
    /// Its directory's name: its own, or its persistent volume's.
    pub(super) directory: String,
    /// What a claim has led to.
    pub(super) claimed: Option<Record>,
    /// Which of the pod's volumes it is; `None` if it was found on disk and is not in the spec.
    pub(super) spec_index: Option<usize>,
    /// The objects that it is made of.
    objects: Vec<ObjectRef>,
    /// Whether it shows the pod's own fields.
    shows_pod: bool,
    /// Whether nothing but its objects can be missing for it.
    may_be_sure: bool,
}

/// One pod.
pub(super) struct Entry<O: ObjectSource> {
    pub(super) uid: PodUid,
    /// The newest object; `None` while the pod is only known from disk.
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) goal: Goal,
    pub(super) volumes: Vec<Volume>,
    pub(super) metas: Vec<Meta>,
    objects: BTreeMap<ObjectRef, Box<Watched<O>>>,
    /// Ends the waiting for changes of the objects.
    pub(super) unwatch: CancellationToken,
    /// When to look again.
    pub(super) wake_at: Option<Mono>,
    /// When to say again that volumes are missing.
    pub(super) summary_at: Option<Mono>,
    /// The last text told about each volume (and about the pod, under the empty name).
    pub(super) told: BTreeMap<String, String>,
    /// Since when an object cannot be read.
    pub(super) refused_since: BTreeMap<String, Mono>,
    /// Since when there is an object that the API server has not shown.
    unanswered_since: Option<Mono>,
    /// Whether old generations of files are still there for a container that was being started.
    pub(super) has_old_files: bool,
}

impl<O: ObjectSource> Entry<O> {
    /// A pod that only the disk knows of.
    pub(super) fn from_disk(uid: PodUid, found: Vec<Found>) -> Self {
        let (mut volumes, mut metas) = (Vec::new(), Vec::new());
        for Found { plugin, name, usable, claimed } in found {
            let actual = if usable { Actual::Present } else { Actual::Partial };
            volumes.push(volume(name.clone(), actual));
            let plugin = Some(plugin);
            let (spec_index, objects, shows_pod) = (None, Vec::new(), false);
            metas.push(Meta {
                plugin,
                directory: name,
                claimed,
                spec_index,
                objects,
                shows_pod,
                may_be_sure: false,
            });
        }
        Self {
            uid,
            pod: None,
            goal: Goal::Unclaimed,
            volumes,
            metas,
            objects: BTreeMap::new(),
            unwatch: CancellationToken::new(),
            wake_at: None,
            summary_at: None,
            told: BTreeMap::new(),
            refused_since: BTreeMap::new(),
            unanswered_since: None,
            has_old_files: false,
        }
    }

    /// Takes the pod's object: the first one, or a newer one. Answers the subscriptions to watch.
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

    /// The pod is gone: everything shall go.
    pub(super) fn let_go(&mut self) {
        self.goal = Goal::Gone;
        self.unwatch.cancel();
        self.objects.clear();
        self.summary_at = None;
        for volume in &mut self.volumes {
            // What kept it from being set up does not keep it from being torn down.
            volume.problem = None;
        }
    }

    fn take_spec(&mut self, pod: &Pod) {
        let used = nested::used(pod);
        let mut left: Vec<(Volume, Meta)> =
            self.volumes.drain(..).zip(self.metas.drain(..)).collect();
        let specs = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        for (index, spec) in specs.iter().enumerate() {
            let kind = Kind::of(spec);
            let plugin = kind.plugin().map(str::to_owned);
            let is_it = |volume: &Volume, meta: &Meta| match (kind, &meta.claimed) {
                (Kind::Claim(_), claimed) => {
                    claimed.as_ref().is_some_and(|record| record.volume == spec.name)
                }
                (_, claimed) => {
                    claimed.is_none() && volume.name == spec.name && meta.plugin == plugin
                }
            };
            let known = left.iter().position(|(volume, meta)| is_it(volume, meta));
            let (mut volume, before) = match known.map(|position| left.swap_remove(position)) {
                Some((volume, meta)) => (volume, Some(meta)),
                None => (volume(spec.name.clone(), Actual::Absent), None),
            };
            volume.name.clone_from(&spec.name);
            // What was found is shown at once and brought up to date as soon as its inputs are
            // known. What a claim led to never changes.
            volume.dirty = before.is_some() && !matches!(kind, Kind::Claim(_));
            volume.wanted = used.contains(spec.name.as_str());
            volume.care = match kind {
                Kind::Image => Care::Runtime,
                Kind::Unsupported(name) => Care::Nobody(unsupported_text(spec, name)),
                Kind::EmptyDir(_)
                | Kind::HostPath(_)
                | Kind::ConfigMap(_)
                | Kind::Secret(_)
                | Kind::DownwardApi(_)
                | Kind::Projected(_)
                | Kind::Claim(_) => Care::Ours,
            };
            self.volumes.push(volume);
            let (objects, shows_pod) = sources(kind);
            let (found_plugin, directory, claimed) = match before {
                Some(meta) => (meta.plugin, meta.directory, meta.claimed),
                None => (None, spec.name.clone(), None),
            };
            let plugin = plugin.or(found_plugin);
            let may_be_sure = match kind {
                Kind::EmptyDir(_) | Kind::DownwardApi(_) => true,
                // Keys that are asked for by name may be missing.
                Kind::ConfigMap(source) => source.items.is_none(),
                Kind::Secret(source) => source.items.is_none(),
                Kind::Projected(source) => projects_no_foreign_keys(source),
                Kind::HostPath(_) | Kind::Claim(_) | Kind::Image | Kind::Unsupported(_) => false,
            };
            let spec_index = Some(index);
            self.metas.push(Meta {
                plugin,
                directory,
                claimed,
                spec_index,
                objects,
                shows_pod,
                may_be_sure,
            });
        }
        for (volume, meta) in left {
            self.volumes.push(volume);
            self.metas.push(meta);
        }
        self.volumes.shrink_to_fit();
        self.metas.shrink_to_fit();
        self.hold();
    }

    /// Holds back what was found of persistent volumes, for as long as a claim has not been read
    /// that may lead to it: without a record (upstream's kubelet made it) nothing else tells.
    fn hold(&mut self) {
        let specs = self
            .pod
            .as_ref()
            .and_then(|pod| pod.spec.as_ref())
            .and_then(|spec| spec.volumes.as_deref());
        let specs = specs.unwrap_or_default();
        let is_open = self.volumes.iter().zip(&self.metas).any(|(volume, meta)| {
            let spec = meta.spec_index.and_then(|index| specs.get(index));
            volume.wanted
                && meta.claimed.is_none()
                && spec.is_some_and(|spec| matches!(Kind::of(spec), Kind::Claim(_)))
        });
        for (volume, meta) in self.volumes.iter_mut().zip(&self.metas) {
            let is_persistent = meta.plugin.as_deref() == Some(local::PLUGIN);
            volume.held = is_open && meta.spec_index.is_none() && is_persistent;
        }
    }

    /// A claim was found to be something. What was held back because it may be that is it.
    pub(super) fn claimed(&mut self, index: usize, record: Record) {
        for (volume, meta) in self.volumes.iter_mut().zip(&self.metas) {
            let is_same =
                meta.plugin.as_ref() == Some(&record.plugin) && meta.directory == record.directory;
            if meta.spec_index.is_none() && is_same {
                volume.actual = Actual::Absent;
                volume.held = false;
            }
        }
        let meta = &mut self.metas[index];
        meta.plugin = Some(record.plugin.clone());
        meta.directory.clone_from(&record.directory);
        meta.claimed = Some(record);
        self.hold();
    }

    /// What the pod's claims have led to, as far as it is in place, by the volume's name in the
    /// pod.
    pub(super) fn in_place(&self) -> BTreeMap<String, Record> {
        let both = self.volumes.iter().zip(&self.metas);
        both.filter(|(volume, _)| volume.actual == Actual::Present)
            .filter_map(|(volume, meta)| Some((volume.name.clone(), meta.claimed.clone()?)))
            .collect()
    }

    /// The persistent volumes that the pod has, or may have.
    pub(super) fn persistent(&self) -> impl Iterator<Item = &str> {
        let both = self.volumes.iter().zip(&self.metas);
        both.filter(|(volume, _)| volume.actual != Actual::Absent)
            .filter_map(|(_, meta)| meta.claimed.as_ref().map(|record| record.directory.as_str()))
    }

    /// A newer object: a pod's volumes never change, but what they show of the pod and who uses
    /// them may.
    fn follow_change(&mut self, before: &Pod, pod: &Pod) {
        let used = nested::used(pod);
        let shown = shown_fields(before) != shown_fields(pod);
        for (volume, meta) in self.volumes.iter_mut().zip(&self.metas) {
            if meta.spec_index.is_some() {
                volume.wanted = used.contains(volume.name.as_str());
            }
            if meta.shows_pod && shown {
                volume.dirty = true;
                volume.problem = None;
            }
        }
    }

    /// Subscribes to the objects of wanted volumes that are not subscribed to yet.
    fn subscribe(&mut self, pod: &Pod, objects: &O) -> Vec<(ObjectRef, AnySubscription<O>)> {
        let namespace = pod::key(pod).namespace;
        let wanted: BTreeSet<ObjectRef> = self
            .volumes
            .iter()
            .zip(&self.metas)
            .filter(|(volume, _)| volume.wanted)
            .flat_map(|(_, meta)| meta.objects.iter().cloned())
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

    /// Looks at an object again; says whether it has changed, and marks what is made of it.
    pub(super) fn look_at(&mut self, object: &ObjectRef) -> bool {
        let Some(watched) = self.objects.get_mut(object) else { return false };
        let seen = watched.subscription.seen();
        if watched.seen == seen {
            return false;
        }
        watched.seen = seen;
        for (volume, meta) in self.volumes.iter_mut().zip(&self.metas) {
            if meta.objects.contains(object) {
                volume.dirty = true;
                volume.problem = None;
            }
        }
        true
    }

    /// Fills in which volumes' inputs are known.
    pub(super) fn refresh_inputs(&mut self, now: Mono) {
        let is_late = self.unanswered_since.is_some_and(|since| now.since(since) >= QUIET);
        let mut is_unanswered = false;
        for (volume, meta) in self.volumes.iter_mut().zip(&self.metas) {
            let waiting = meta.objects.iter().find_map(|object| {
                let kind = match object {
                    ObjectRef::ConfigMap(_) => "configmap",
                    ObjectRef::Secret(_) => "secret",
                };
                let (ObjectRef::ConfigMap(name) | ObjectRef::Secret(name)) = object;
                match self.objects.get(object).map(|watched| &watched.seen) {
                    None | Some(Seen::Nothing) => {
                        let text = if is_late {
                            format!("waiting for {kind} {name:?}")
                        } else {
                            String::new()
                        };
                        Some((text, false))
                    }
                    Some(Seen::Failed(text)) => {
                        Some((if is_late { text.clone() } else { String::new() }, true))
                    }
                    Some(Seen::Object { .. } | Seen::Missing) => None,
                }
            });
            match &waiting {
                Some((_, true)) => {
                    self.refused_since.entry(volume.name.clone()).or_insert(now);
                }
                Some((_, false)) | None => drop(self.refused_since.remove(&volume.name)),
            }
            let is_there = |object| {
                matches!(
                    self.objects.get(object).map(|watched| &watched.seen),
                    Some(Seen::Object { .. })
                )
            };
            volume.sure = meta.may_be_sure && meta.objects.iter().all(is_there);
            is_unanswered |= waiting.is_some();
            volume.inputs = waiting.map_or(Inputs::Known, |(text, _)| Inputs::Waiting(text));
        }
        self.unanswered_since = is_unanswered.then(|| self.unanswered_since.unwrap_or(now));
    }

    /// When a word is due about an object that does not come.
    pub(super) fn late_at(&self, now: Mono) -> Option<Mono> {
        self.unanswered_since.map(|since| since.after(QUIET)).filter(|at| *at > now)
    }

    /// The objects of one volume, as far as they are known.
    pub(super) fn objects_of(&self, index: usize) -> Objects {
        let mut known = Objects::default();
        for object in &self.metas[index].objects {
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

    /// Whether work on a volume is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.volumes.iter().any(|volume| volume.doing.is_some())
    }
}

fn volume(name: String, actual: Actual) -> Volume {
    Volume {
        name,
        wanted: false,
        held: false,
        care: Care::Ours,
        inputs: Inputs::Known,
        sure: false,
        actual,
        doing: None,
        dirty: false,
        refresh_at: None,
        problem: None,
    }
}

/// Whether a projected volume asks for no key by name that its objects may lack. Those of the
/// token's volume that every pod has (`kube-root-ca.crt`) are there.
fn projects_no_foreign_keys(source: &ProjectedVolumeSource) -> bool {
    source.sources.iter().flatten().all(|part| {
        part.secret.as_ref().is_none_or(|secret| secret.items.is_none())
            && part.config_map.as_ref().is_none_or(|map| map.items.is_none() || map.name == ROOT_CA)
    })
}

/// The objects that a volume is made of, and whether it shows fields of the pod.
fn sources(kind: Kind<'_>) -> (Vec<ObjectRef>, bool) {
    match kind {
        Kind::ConfigMap(source) => (vec![ObjectRef::ConfigMap(source.name.clone())], false),
        Kind::Secret(source) => {
            (vec![ObjectRef::Secret(source.secret_name.clone().unwrap_or_default())], false)
        }
        Kind::DownwardApi(_) => (Vec::new(), true),
        Kind::Projected(source) => {
            let mut objects = Vec::new();
            for part in source.sources.iter().flatten() {
                objects.extend(
                    part.config_map.as_ref().map(|part| ObjectRef::ConfigMap(part.name.clone())),
                );
                objects
                    .extend(part.secret.as_ref().map(|part| ObjectRef::Secret(part.name.clone())));
            }
            let shows_pod = source.sources.iter().flatten().any(|part| part.downward_api.is_some());
            (objects, shows_pod)
        }
        Kind::EmptyDir(_)
        | Kind::HostPath(_)
        | Kind::Claim(_)
        | Kind::Image
        | Kind::Unsupported(_) => (Vec::new(), false),
    }
}

type Map = BTreeMap<String, String>;

/// Everything that a downwardAPI file can show and that can change.
fn shown_fields(pod: &Pod) -> (Option<&Map>, Option<&Map>, Vec<Option<&ResourceRequirements>>) {
    let containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    let resources = containers.map(|container| container.resources.as_ref()).collect();
    (pod.metadata.labels.as_ref(), pod.metadata.annotations.as_ref(), resources)
}
