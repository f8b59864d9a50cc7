//! Images: references, pull policies, credentials, pulls.
//!
//! [`Handle::ensure`] prepares the image of one container. It decides by policy, pulls if
//! necessary, records the events that users know from upstream, and returns either the reference to
//! create the container with, or the reason, message and time with which the container waits. The
//! caller (a pod's task) decides when to call it.
//!
//! [`gc::Collector`] removes unneeded images when they are old or the disk is full.
//!
//! In: a container and its pull secrets. Out: the answer, events, records of pulls on disk. It
//! never touches containers.
//!
//! A pull ahead of its turn (`silent`) has no event, no status and no back-off; only its success
//! counts. When the container's turn comes, the events report that pull.

pub mod allowlist;
mod config;
pub mod credentials;
pub mod gc;
pub mod gc_plan;
mod listing;
pub mod metrics;
pub mod plugins;
pub mod policy;
mod pull;
mod records;
pub mod reference;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::cri::{CriError, Runtime, v1};
use crate::model::reason::{container as waiting, event};
use crate::model::{ContainerKind, EventType, Mono, Pod, PodUid};

pub use credentials::{NodeCredentials, PullSecret};
pub use listing::listing;
pub use plugins::Plugins;
pub use policy::PullPolicy;
pub use pull::{Limits, PullState};
pub use records::Verification;

use policy::BackOffs;
use pull::{Order, Pulled, Puller};
use records::Records;

/// The time for which a container shows `ErrImagePull`. Then it is tried again, and shows
/// `ImagePullBackOff`.
const SHOW_FAILURE: Duration = Duration::from_secs(2);
/// The wait before another attempt if only others can change the outcome: an image that is never
/// pulled, a runtime that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// The time for which a pull ahead of its turn counts as the pull of that turn.
const AHEAD_FOR: Duration = Duration::from_secs(600);
/// The names of an image that the node's status lists, at most; upstream's limit.
const NAMES_PER_IMAGE: usize = 5;

/// The configuration of pulls.
#[derive(Clone, Debug)]
pub struct Config {
    /// The limits on pulls.
    pub limits: Limits,
    /// The places of the node's own credentials.
    pub node_credentials: NodeCredentials,
    /// The kubelet's root directory, for the records of pulls.
    pub root_dir: PathBuf,
    /// The rule for access to an image that is on the node.
    pub verification: Verification,
    /// Programs that have credentials.
    pub plugins: Plugins,
}

/// A request for a container's image.
#[derive(Clone, Debug)]
pub struct EnsureImage {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's kind.
    pub kind: ContainerKind,
    /// The container's name.
    pub container: String,
    /// The container's image, as in the spec.
    pub image: String,
    /// True if it is the image of a volume that the container mounts: the events of its pull are
    /// then the pod's.
    pub of_volume: bool,
    /// The pull policy.
    pub policy: PullPolicy,
    /// The pod's pull secrets, fetched.
    pub secrets: Vec<PullSecret>,
    /// True for a pull ahead of its turn: no event, no status, no back-off.
    pub silent: bool,
    /// The runtime handler, if the runtime keeps images by handler (upstream: gate
    /// `RuntimeClassInImageCriApi`); else empty.
    pub runtime_handler: String,
    /// The sandbox's configuration, by which some runtimes choose the snapshotter.
    pub sandbox: Option<v1::PodSandboxConfig>,
}

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The reference to create the container with.
    pub image_ref: String,
}

/// An image that is not available at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ImageError {
    /// The waiting reason, e.g. `ErrImagePull`.
    pub reason: String,
    /// The waiting message.
    pub message: String,
    /// The time to ask again; `None` if only a change of the spec helps (or, for a silent pull, the
    /// container's turn).
    pub retry_at: Option<Mono>,
}

/// One event for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// An image was requested. `None`: unknown.
    Ensured {
        /// The policy.
        policy: PullPolicy,
        /// True if the image was on the node.
        present: Option<bool>,
        /// True if the image had to be pulled.
        pull_required: Option<bool>,
    },
    /// An image was pulled.
    Pulled {
        /// The image's size; zero if unknown.
        size: u64,
        /// The duration, with the wait in the queue.
        took: Duration,
    },
    /// An unneeded image was removed.
    Collected {
        /// `age` or `space`.
        reason: &'static str,
    },
}

/// Receives every [`Measure`].
pub type Observer = Arc<dyn Fn(Measure) + Send + Sync>;

/// An image as the node's status lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    /// Digests, then tags; at most five.
    pub names: Vec<String>,
    /// The image's size in bytes.
    pub size: u64,
}

/// Gives the other rooms access to images. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("images::Handle")
            .field("pulls", &self.inner.puller.states().len())
            .finish_non_exhaustive()
    }
}

struct Inner {
    runtime: Runtime,
    clock: Clock,
    recorder: Recorder,
    observer: Observer,
    node_credentials: NodeCredentials,
    plugins: Plugins,
    puller: Arc<Puller>,
    records: Arc<Records>,
    /// The number of pulls that have succeeded.
    pulled: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    backoffs: BackOffs,
    /// Pulls ahead of their turn that have succeeded, by pod and container.
    ahead: HashMap<(PodUid, String), Ahead>,
}

struct Ahead {
    image: String,
    pulled: Pulled,
    at: Mono,
}

/// The result of the check before a pull.
enum Precheck {
    Present {
        image_ref: String,
    },
    Absent,
    /// Not checked, as for the policy `Always`.
    Unknown,
}

impl Handle {
    /// Returns the handle. Its pulls need a tokio runtime.
    pub fn new(
        settings: Config,
        runtime: Runtime,
        clock: Clock,
        recorder: Recorder,
        observer: Observer,
    ) -> Self {
        let inner = Inner {
            puller: Arc::new(Puller::new(runtime.clone(), clock, settings.limits)),
            records: Arc::new(Records::new(&settings.root_dir, settings.verification)),
            node_credentials: settings.node_credentials,
            plugins: settings.plugins,
            runtime,
            clock,
            recorder,
            observer,
            pulled: watch::Sender::new(0),
            state: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Prepares a container's image. Cancel-safe: dropping the future cancels the pull, unless
    /// others wait for it.
    pub async fn ensure(&self, request: EnsureImage) -> Result<Present, ImageError> {
        let outcome = Box::pin(self.inner.ensure(&request)).await;
        if let Err(error) = &outcome {
            request.tell_of_container(&self.inner, format!("Error: {}", error.reason));
        }
        outcome
    }

    /// Turns the unfinished pulls of a killed kubelet into records. Call it once, when the runtime
    /// is up.
    pub async fn recover_records(&self) -> Result<(), CriError> {
        let answer = self.inner.runtime.list_images(v1::ListImagesRequest::default()).await?;
        let images: Vec<(String, Vec<String>)> = answer
            .images
            .into_iter()
            .map(|image| {
                (image.id, image.repo_digests.into_iter().chain(image.repo_tags).collect())
            })
            .collect();
        self.inner.records.recover(&images, self.inner.clock.now().wall);

        Ok(())
    }

    /// Forgets the records of images that are no longer on the node. `images` are ids; `until` is
    /// the time at which they were listed.
    pub fn prune_records(&self, images: &[String], until: crate::model::Wall) {
        self.inner.records.prune(images, until);
    }

    /// Lists the node's images for its status, the largest first. `limit` is `nodeStatusMaxImages`,
    /// negative for all.
    pub async fn list(&self, limit: i32) -> Result<Vec<NodeImage>, CriError> {
        let mut images =
            self.inner.runtime.list_images(v1::ListImagesRequest::default()).await?.images;
        images.sort_by(|a, b| (b.size, &b.id).cmp(&(a.size, &a.id)));
        images.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let names = |image: v1::Image| {
            image.repo_digests.into_iter().chain(image.repo_tags).take(NAMES_PER_IMAGE)
        };

        Ok(images
            .into_iter()
            .map(|image| NodeImage { size: image.size, names: names(image).collect() })
            .collect())
    }

    /// Counts the pulls that have succeeded.
    pub fn pulled(&self) -> watch::Receiver<u64> {
        self.inner.pulled.subscribe()
    }

    /// Returns the pulls that are running.
    pub fn pulls(&self) -> Vec<PullState> {
        self.inner.puller.states()
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod: &PodUid) {
        let mut state = self.inner.state.lock();
        state.backoffs.forget(pod.as_str());
        state.ahead.retain(|(uid, _), _| uid != pod);
        drop(state);
        self.inner.plugins.forget(pod);
    }
}

impl EnsureImage {
    fn tell(&self, inner: &Inner, event_type: EventType, reason: &str, message: String) {
        if !self.silent {
            let container = (!self.of_volume).then_some((self.kind, self.container.as_str()));
            inner.recorder.pod(&self.pod, container, event_type, reason, message);
        }
    }

    /// Records the event that the container cannot start, on the container also for a volume's
    /// image.
    fn tell_of_container(&self, inner: &Inner, message: String) {
        if !self.silent {
            let container = Some((self.kind, self.container.as_str()));
            inner.recorder.pod(&self.pod, container, EventType::Warning, event::FAILED, message);
        }
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn turn(&self) -> (PodUid, String) {
        (PodUid::new(self.uid()), self.container.clone())
    }

    /// Returns the image as the runtime's requests name it.
    fn spec(&self, image: String) -> v1::ImageSpec {
        v1::ImageSpec {
            image,
            runtime_handler: self.runtime_handler.clone(),
            annotations: self
                .pod
                .metadata
                .annotations
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ..v1::ImageSpec::default()
        }
    }
}

fn failure(reason: &str, message: impl Into<String>, retry_at: Option<Mono>) -> ImageError {
    ImageError { reason: reason.to_owned(), message: message.into(), retry_at }
}

impl Inner {
    async fn ensure(&self, request: &EnsureImage) -> Result<Present, ImageError> {
        let count = |present, pull_required| {
            (self.observer)(Measure::Ensured { policy: request.policy, present, pull_required });
        };
        let image = match reference::with_default_tag(&request.image) {
            Ok(image) => image,
            Err(error) => {
                count(None, None);
                let message = policy::invalid_name(&request.image, &error);
                request.tell(self, EventType::Warning, event::INSPECT_FAILED, message.clone());
                return Err(failure(waiting::INVALID_IMAGE_NAME, message, None));
            }
        };

        if let Some(pulled) = self.take_ahead(request) {
            count(Some(false), Some(true));
            self.tell_pulled(request, &pulled, pulled.took, true);
            return Ok(Present { image_ref: pulled.image_ref });
        }

        let spec = request.spec(image);
        let precheck = self.precheck(request, &spec).await.inspect_err(|error| {
            count((error.reason == waiting::ERR_IMAGE_NEVER_PULL).then_some(false), None);
        })?;

        let present = match &precheck {
            Precheck::Present { .. } => Some(true),
            Precheck::Absent => Some(false),
            Precheck::Unknown => None,
        };
        let mut credentials = None;
        if let Precheck::Present { image_ref } = &precheck {
            let now = self.clock.now().wall;
            let must_pull = |known: &[credentials::Tracked]| {
                self.records.must_pull(&request.image, image_ref, known, now)
            };
            let mut needed = must_pull(&[]);
            // Plug-ins are asked only if it matters, and a broken secret matters only then.
            if needed && self.records.knows_credentials(&request.image, image_ref) {
                let found = self.credentials(request).await;
                let found = found.inspect_err(|_| count(present, None))?;
                needed = must_pull(&found);
                credentials = Some(found);
            }
            if !needed {
                count(Some(true), Some(false));
                let verified = self.records.verifies();
                let message = policy::already_present(&request.image, verified);
                request.tell(self, EventType::Normal, event::PULLED, message);
                return Ok(Present { image_ref: image_ref.clone() });
            }
        }
        if matches!(precheck, Precheck::Present { .. }) && request.policy == PullPolicy::Never {
            count(Some(true), Some(true));
            return Err(self.never_pull(request));
        }
        let credentials = if let Some(found) = credentials {
            found
        } else {
            let found = self.credentials(request).await;
            found.inspect_err(|_| count(present, Some(true)))?
        };

        count(present, Some(true));
        self.pull(request, Order { image: spec, credentials, sandbox: request.sandbox.clone() })
            .await
    }

    async fn precheck(
        &self,
        request: &EnsureImage,
        spec: &v1::ImageSpec,
    ) -> Result<Precheck, ImageError> {
        if request.policy == PullPolicy::Always {
            return Ok(Precheck::Unknown);
        }

        let status = v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        match self.runtime.image_status(status).await {
            Ok(answer) => match answer.image.map(|image| image.id).filter(|id| !id.is_empty()) {
                Some(image_ref) => Ok(Precheck::Present { image_ref }),
                None if request.policy == PullPolicy::Never => Err(self.never_pull(request)),
                None => Ok(Precheck::Absent),
            },
            Err(error) => {
                let message = policy::inspect_failed(&error.to_string());
                request.tell(self, EventType::Warning, event::INSPECT_FAILED, message.clone());
                Err(failure(waiting::IMAGE_INSPECT_ERROR, message, Some(self.ask_again())))
            }
        }
    }

    fn never_pull(&self, request: &EnsureImage) -> ImageError {
        let message = policy::never_pull(&request.image);
        request.tell(self, EventType::Warning, event::ERR_IMAGE_NEVER_PULL, message.clone());
        failure(waiting::ERR_IMAGE_NEVER_PULL, message, Some(self.ask_again()))
    }

    fn ask_again(&self) -> Mono {
        self.clock.now().mono.after(ASK_AGAIN)
    }

    /// Returns the pod's credentials for the image, then the node's, then those of plug-ins. A
    /// broken secret fails the pull, as it does upstream.
    async fn credentials(
        &self,
        request: &EnsureImage,
    ) -> Result<Vec<credentials::Tracked>, ImageError> {
        let Ok(reference) = reference::Reference::parse(&request.image) else {
            return Ok(Vec::new());
        };
        let own = credentials::Keyring::of_secrets(&request.secrets).map_err(|error| {
            failure(waiting::ERR_IMAGE_PULL, error.to_string(), Some(self.ask_again()))
        })?;
        let mut found = own.lookup(&reference.repository);
        found.extend(self.node_credentials.read().lookup(&reference.repository));
        let given = self.plugins.keyring(&reference.repository, &request.pod).await;
        found.extend(given.lookup(&reference.repository));
        Ok(found)
    }

    async fn pull(&self, request: &EnsureImage, order: Order) -> Result<Present, ImageError> {
        let began = self.clock.now().mono;
        if let Some(error) = self.backing_off(request, began) {
            return Err(error);
        }

        let record = self.records.begin(&request.image).map_err(|error| {
            let message = format!(
                "Failed to record image pull intent for container image {:?}: {error}",
                request.image
            );
            failure(waiting::ERR_IMAGE_PULL, message, Some(self.ask_again()))
        })?;
        request.tell(self, EventType::Normal, event::PULLING, policy::pulling(&request.image));
        let outcome = self.puller.pull(order).await;
        let now = self.clock.now();

        match &*outcome {
            Ok(pulled) => {
                self.records.succeed(record, &pulled.image_ref, pulled.used.as_ref(), now.wall);
                if request.silent {
                    let ahead = Ahead {
                        image: request.image.clone(),
                        pulled: pulled.clone(),
                        at: now.mono,
                    };
                    self.state.lock().ahead.insert(request.turn(), ahead);
                } else {
                    self.tell_pulled(request, pulled, now.mono.since(began), false);
                }

                Ok(Present { image_ref: pulled.image_ref.clone() })
            }
            Err(error) => {
                let error = &error.to_string();
                let message = policy::pull_failed(&request.image, error);
                request.tell(self, EventType::Warning, event::FAILED, message);
                let (reason, message) = policy::judge_failure(&request.image, error);
                if request.silent {
                    return Err(failure(reason, message, None));
                }

                let shown = format!("{reason}: {message}");
                let until =
                    self.state.lock().backoffs.note(request.uid(), &request.image, now.mono, shown);
                Err(failure(reason, message, Some(until.min(now.mono.after(SHOW_FAILURE)))))
            }
        }
    }

    fn backing_off(&self, request: &EnsureImage, now: Mono) -> Option<ImageError> {
        let state = self.state.lock();
        let (until, error) = state.backoffs.waiting(request.uid(), &request.image, now)?;
        let text = policy::back_off(&request.image);
        let error = failure(waiting::IMAGE_PULL_BACK_OFF, format!("{text}: {error}"), Some(until));
        drop(state);
        request.tell(self, EventType::Normal, event::BACK_OFF, text);
        Some(error)
    }

    /// Takes the pull ahead of its turn that belongs to this turn.
    fn take_ahead(&self, request: &EnsureImage) -> Option<Pulled> {
        let now = self.clock.now().mono;
        let mut state = self.state.lock();
        let turn = request.turn();

        let ahead = state.ahead.get(&turn)?;
        if ahead.image != request.image || now.since(ahead.at) > AHEAD_FOR {
            state.ahead.remove(&turn);
            return None;
        }

        let pulled = ahead.pulled.clone();
        if !request.silent {
            state.ahead.remove(&turn);
        }

        Some(pulled)
    }

    fn tell_pulled(
        &self,
        request: &EnsureImage,
        pulled: &Pulled,
        with_wait: Duration,
        ahead: bool,
    ) {
        if ahead {
            request.tell(self, EventType::Normal, event::PULLING, policy::pulling(&request.image));
        }

        let message =
            policy::pulled(&request.image, pulled.took.min(with_wait), with_wait, pulled.size);
        request.tell(self, EventType::Normal, event::PULLED, message);

        if !request.silent {
            (self.observer)(Measure::Pulled { size: pulled.size, took: with_wait });
            self.pulled.send_modify(|count| *count += 1);
        }
    }
}
