//! The work on one volume: its files gathered, then written on a blocking thread. No decisions
//! about when or whether.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::atomic_writer::{self, Write};
use super::directories::make_pod_dirs;
use super::error::SetUpError;
use super::kinds::claim::{self, Bound, Source};
use super::kinds::empty_dir::{self, Medium, Place};
use super::kinds::projected::{self, Inputs, found, fs_group};
use super::kinds::{Allocatable, Kind, config_map, downward_api, host_path, local, nested, secret};
use super::ledger::{self, Made, Record};
use super::mounter::Mounter;
use super::paths::{Paths, is_component};
use super::payload::{Objects, Payload};
use super::source::{ClaimSource, TokenSource};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::linux::beneath::Root;
use crate::linux::blocking;
use crate::linux::ownership::Progress;
use crate::model::reason::event::{ALREADY_MOUNTED_VOLUME, VOLUME_PERMISSION_CHANGE_IN_PROGRESS};
use crate::model::{EventType, Mono, Pod, PodUid, Wall, pod};

/// After how long upstream says that a change of group goes on.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// How long upstream waits until it says so again.
const NEXT_WORD: Duration = Duration::from_secs(60);

/// One job at a time works on a directory of the node that several pods may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks(Arc<Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>>);

impl Locks {
    fn of(&self, path: PathBuf) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&path).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(path, Arc::downgrade(&lock));
        lock
    }
}

/// What a job needs of the node.
#[derive(Clone, Debug)]
pub(super) struct Tools<M, T> {
    pub(super) mounter: M,
    pub(super) tokens: T,
    pub(super) claims: Arc<dyn ClaimSource>,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
    pub(super) locks: Locks,
}

/// What a set-up has led to.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// When to do it again, if there is such a moment.
    pub(super) refresh_at: Option<Mono>,
    /// Whether older files are still there, for a container that is being started.
    pub(super) kept_old: bool,
    /// What a claim was found to be.
    pub(super) claimed: Option<Record>,
}

/// What the blocking part has done.
enum Work {
    Written { kept_old: bool },
    Claimed(local::Outcome),
}

/// Knows whether containers of one pod are being started.
#[derive(Clone, Debug)]
pub(super) struct Starting {
    pub(super) uid: PodUid,
    pub(super) shared: Arc<Shared>,
}

impl Starting {
    fn now(&self) -> bool {
        self.shared.is_starting(&self.uid)
    }
}

/// The work to set up one volume of a pod.
#[derive(Debug)]
pub(super) struct SetUp {
    pub(super) paths: Arc<Paths>,
    pub(super) allocatable: Allocatable,
    pub(super) pod: Arc<Pod>,
    /// Which of the pod's volumes.
    pub(super) index: usize,
    /// What is known of the objects that it is made of.
    pub(super) objects: Objects,
    pub(super) now: Wall,
    /// Knows whether a container is being started, for which files of earlier generations stay.
    pub(super) starting: Starting,
    /// Persistent volumes that other pods use.
    pub(super) used_elsewhere: BTreeSet<String>,
    /// Ends with the pod.
    pub(super) cancel: CancellationToken,
}

impl SetUp {
    /// Does it. Dropping the future leaves a blocking part running; it ends by itself.
    pub(super) async fn run<M: Mounter, T: TokenSource>(
        self,
        tools: Tools<M, T>,
    ) -> Result<Done, SetUpError> {
        let mut texts = Vec::new();
        let mut refresh_at: Option<Mono> = None;
        let mut bound = None;
        match self.volume().map(Kind::of) {
            Some(Kind::Projected(source)) => {
                for request in projected::token_requests(source, &self.pod) {
                    let token = tools.tokens.token(request).await?;
                    refresh_at = Some(
                        refresh_at.map_or(token.refresh_at, |known| known.min(token.refresh_at)),
                    );
                    texts.push(token.secret);
                }
            }
            Some(Kind::Claim(reference)) => {
                bound = Some(self.resolve(reference, &*tools.claims).await?);
            }
            Some(
                Kind::EmptyDir(_)
                | Kind::HostPath(_)
                | Kind::ConfigMap(_)
                | Kind::Secret(_)
                | Kind::DownwardApi(_)
                | Kind::Image
                | Kind::Unsupported(_),
            )
            | None => {}
        }
        let lock = match bound.as_ref().map(|bound| &bound.source) {
            Some(Source::Local(path)) => {
                let turn = tools.locks.of(PathBuf::from(path)).lock_owned();
                Some(self.cancel.run_until_cancelled(turn).await.ok_or(SetUpError::Cancelled)?)
            }
            Some(Source::HostPath(_) | Source::Csi(_)) | None => None,
        };
        let progress = Arc::new(Progress::default());
        let walk = self.watch(&tools, bound.as_ref(), &progress);
        let (mounter, watched) = (tools.mounter.clone(), Arc::clone(&progress));
        let (name, pod) = (self.name().to_owned(), Arc::clone(&self.pod));
        let work = blocking::spawn(move || match &bound {
            Some(bound) => {
                let local = local::Local {
                    paths: &self.paths,
                    uid: &pod::uid(&self.pod),
                    volume: self.name(),
                    bound,
                    fs_group: fs_group(&self.pod).map(|gid| (gid, only_on_mismatch(&self.pod))),
                    progress: &watched,
                };
                make_pod_dirs(&self.paths, local.uid)
                    .map_err(SetUpError::io("make", &self.paths.pod(local.uid)))?;
                local::set_up(&mounter, &local).map(Work::Claimed)
            }
            None => self.write(&mounter, &texts).map(|kept_old| Work::Written { kept_old }),
        });
        let ended = tokio::select! {
            ended = work => ended,
            // Only says how far the work is: losing it loses nothing.
            never = walk => match never {},
        };
        drop(lock);
        match ended.unwrap_or_else(|panicked| Err(SetUpError::Panicked(panicked.to_string())))? {
            Work::Written { kept_old } => Ok(Done { refresh_at, kept_old, claimed: None }),
            Work::Claimed(local::Outcome { record, warning }) => {
                if let Some(warning) = warning {
                    tracing::info!(pod = %pod::key(&pod), volume = name, warning, "A volume is shared");
                    tools.recorder.pod(
                        &pod,
                        None,
                        EventType::Warning,
                        ALREADY_MOUNTED_VOLUME,
                        warning,
                    );
                }
                Ok(Done { refresh_at, kept_old: false, claimed: Some(record) })
            }
        }
    }

    /// From the claim to its persistent volume.
    async fn resolve(
        &self,
        reference: claim::Reference<'_>,
        claims: &dyn ClaimSource,
    ) -> Result<Bound, SetUpError> {
        let Some(volume) = self.volume() else { return Err(SetUpError::Cancelled) };
        let namespace = pod::key(&self.pod).namespace;
        let name = claim::name(&self.pod, &volume.name, reference);
        let wrong = |problem: String| claim::processing(&namespace, &name, &problem);
        let claim = claims.claim(&namespace, &name).await;
        let claim = claim
            .map_err(|error| wrong(format!("failed to fetch PVC from API server: {error}")))?;
        let volume_name = claim::volume_of(&self.pod, reference, &claim)?;
        let found = claims.volume(&volume_name).await;
        let found = found.map_err(|error| {
            wrong(format!("failed to fetch PV {volume_name} from API server: {error}"))
        })?;
        let bound = claim::bound(&self.pod, volume, reference, &claim, &found)?;
        if bound.affinity.is_some() {
            let node = claims.node().await;
            let node = node.map_err(|error| {
                bound.failed("MountVolume.NodeAffinity check", error.to_string())
            })?;
            bound.check_node(&node.name, &node.labels)?;
        }
        bound.check_use(self.used_elsewhere.contains(&bound.name))?;
        Ok(bound)
    }

    /// Says how far a change of group is, as upstream does, and ends it when the pod goes away.
    /// Never returns.
    fn watch<M, T>(
        &self,
        tools: &Tools<M, T>,
        bound: Option<&Bound>,
        progress: &Arc<Progress>,
    ) -> impl Future<Output = std::convert::Infallible> + Send + use<M, T> {
        let (pod, cancel, progress) =
            (Arc::clone(&self.pod), self.cancel.clone(), Arc::clone(progress));
        let (recorder, clock) = (tools.recorder.clone(), tools.clock);
        let name = bound.map(|bound| bound.name.as_str()).unwrap_or_default();
        let place = self.paths.plugin_volume(&pod::uid(&pod), local::PLUGIN, name);
        // As upstream shows it: from the pod's UID on.
        let place = place.strip_prefix(self.paths.pods()).unwrap_or(&place).display().to_string();
        async move {
            let mut next = clock.now().mono.after(FIRST_WORD);
            let mut is_first = true;
            loop {
                if cancel.run_until_cancelled(clock.sleep_until(next)).await.is_none() {
                    progress.cancel.store(true, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }
                next = next.after(NEXT_WORD);
                if !progress.walking.load(Ordering::Relaxed) {
                    continue;
                }
                let message = if is_first {
                    format!(
                        "Setting volume ownership for {place} is taking longer than expected, consider using \
                         OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
                         #configure-volume-permission-and-ownership-change-policy-for-pods"
                    )
                } else {
                    let seen = progress.seen.load(Ordering::Relaxed);
                    format!("Setting volume ownership for {place}, processed {seen} files.")
                };
                is_first = false;
                recorder.pod(
                    &pod,
                    None,
                    EventType::Warning,
                    VOLUME_PERMISSION_CHANGE_IN_PROGRESS,
                    message,
                );
            }
        }
    }

    fn volume(&self) -> Option<&Volume> {
        self.pod.spec.as_ref()?.volumes.as_ref()?.get(self.index)
    }

    fn name(&self) -> &str {
        self.volume().map(|volume| volume.name.as_str()).unwrap_or_default()
    }

    /// Answers whether older files were kept.
    fn write<M: Mounter>(&self, mounter: &M, tokens: &[Arc<str>]) -> Result<bool, SetUpError> {
        let Some(kind) = self.volume().map(Kind::of) else { return Ok(false) };
        let uid = pod::uid(&self.pod);
        if !is_component(self.name()) || !is_component(uid.as_str()) {
            return Err(SetUpError::Payload(format!(
                "{:?} is not the name of a directory",
                self.name()
            )));
        }
        let dirs = || {
            make_pod_dirs(&self.paths, &uid).map_err(SetUpError::io("make", &self.paths.pod(&uid)))
        };
        match kind {
            Kind::HostPath(source) => host_path::set_up(source).map(|()| false),
            Kind::EmptyDir(source) => {
                let medium = empty_dir::medium(source, &self.pod, self.allocatable.memory)?;
                dirs()?;
                let place = self.place(empty_dir::PLUGIN, self.name());
                self.note(empty_dir::PLUGIN, &medium)?;
                empty_dir::set_up(mounter, &place, &medium, fs_group(&self.pod)).map(|()| false)
            }
            Kind::ConfigMap(_) | Kind::Secret(_) | Kind::DownwardApi(_) | Kind::Projected(_) => {
                let payload = self.payload(kind, tokens)?;
                dirs()?;
                self.write_payload(mounter, kind, payload)
            }
            Kind::Claim(_) | Kind::Image | Kind::Unsupported(_) => Ok(false),
        }
    }

    fn payload(&self, kind: Kind<'_>, tokens: &[Arc<str>]) -> Result<Payload, SetUpError> {
        match kind {
            Kind::ConfigMap(source) => {
                let optional = source.optional == Some(true);
                let object = self.objects.config_maps.get(&source.name);
                let object = found("configmap", &source.name, object, optional)?;
                config_map::payload(source.items.as_deref(), object, source.default_mode, optional)
            }
            Kind::Secret(source) => {
                let optional = source.optional == Some(true);
                let name = source.secret_name.as_deref().unwrap_or_default();
                let object = found("secret", name, self.objects.secrets.get(name), optional)?;
                secret::payload(source.items.as_deref(), object, source.default_mode, optional)
            }
            Kind::DownwardApi(source) => {
                let items = source.items.as_deref().unwrap_or_default();
                downward_api::payload(items, &self.pod, &self.allocatable, source.default_mode)
            }
            Kind::Projected(source) => {
                let inputs = Inputs {
                    pod: &self.pod,
                    objects: &self.objects,
                    tokens,
                    allocatable: &self.allocatable,
                };
                projected::payload(source, &inputs)
            }
            Kind::EmptyDir(_)
            | Kind::HostPath(_)
            | Kind::Claim(_)
            | Kind::Image
            | Kind::Unsupported(_) => Ok(Payload::new()),
        }
    }

    fn write_payload<M: Mounter>(
        &self,
        mounter: &M,
        kind: Kind<'_>,
        payload: Payload,
    ) -> Result<bool, SetUpError> {
        let place =
            self.place(kind.plugin().unwrap_or_default(), &format!("wrapped_{}", self.name()));
        // On disk as upstream has it: what a ConfigMap holds is no secret, and its memory would be
        // charged to nobody.
        let medium = match kind {
            Kind::ConfigMap(_) => Medium::Disk,
            Kind::Secret(_)
            | Kind::DownwardApi(_)
            | Kind::Projected(_)
            | Kind::EmptyDir(_)
            | Kind::HostPath(_)
            | Kind::Claim(_)
            | Kind::Image
            | Kind::Unsupported(_) => {
                Medium::Memory(empty_dir::memory_size(None, &self.pod, self.allocatable.memory))
            }
        };
        let fs_group = fs_group(&self.pod);
        self.note(kind.plugin().unwrap_or_default(), &medium)?;
        empty_dir::set_up(mounter, &place, &medium, fs_group)?;
        let inside = nested::mount_points(&self.pod, self.name()).map_err(SetUpError::Payload)?;
        make_nested(&place, &inside)
            .map_err(SetUpError::io("make the nested mount points in", &place.dir))?;
        let write =
            Write { dir: &place.dir, fs_group, now: self.now, keep_old: &|| self.starting.now() };
        atomic_writer::write(&write, payload).map(|written| written.kept_old)
    }

    /// Writes into the ledger what is about to be made.
    fn note(&self, plugin: &str, medium: &Medium) -> Result<(), SetUpError> {
        let uid = pod::uid(&self.pod);
        let record = Record::new(self.name(), plugin, Made::of_medium(medium));
        ledger::write(&self.paths, &uid, &record)
            .map_err(SetUpError::io("write the ledger in", &self.paths.ledger(&uid)))
    }

    fn place(&self, plugin: &str, ready_name: &str) -> Place {
        let uid = pod::uid(&self.pod);
        Place {
            dir: self.paths.plugin_volume(&uid, plugin, self.name()),
            ready_dir: self.paths.ready_dir(&uid, ready_name),
        }
    }
}

/// Whether a tree is given to the pod's group only if its root shows that it is not
/// (`OnRootMismatch`).
fn only_on_mismatch(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

fn make_nested(place: &Place, inside: &BTreeSet<String>) -> io::Result<()> {
    if inside.is_empty() {
        return Ok(());
    }
    let root = Root::open(&place.dir)?;
    inside.iter().try_for_each(|path| root.make_dirs(path.as_ref(), 0o755).map(drop))
}
