//! Asking admission: with the facts of the node, the pods that count, and what runs already.
//!
//! The decision is `admission`'s. Here are its inputs, the events that follow, and the pods whose
//! decision waits for an answer: a pod that only the node's labels refuse is decided again with the
//! Node object read afresh, since the labels may be older than the pod.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tracing::info;

use super::allocate::Allocated;
use crate::admission::{self, AdmitInput, Rejection, SysctlAllowlist};
use crate::apiserver::events::Recorder;
use crate::model::quantity::Amount;
use crate::model::{EventType, NodeFacts, Pod, PodUid, TerminationCause, pod, time};

/// What admission looks at and does not change.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the node.
    pub node_name: String,
    /// The sysctls that pods may set.
    pub sysctls: SysctlAllowlist,
    /// Whether the kernel can enforce AppArmor profiles.
    pub apparmor: bool,
    /// The features of the node that pods may ask for.
    pub features: admission::Features,
    /// What is carried out of resizes.
    pub resizes: Resizable,
}

/// What is carried out of resizes in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resizable {
    /// Whether pods are resized as a whole (feature gate
    /// `InPlacePodLevelResourcesVerticalScaling`).
    pub whole_pods: bool,
    /// Whether containers may swap: one that does is not resized.
    pub swap: bool,
}

/// Reads this node's object from the API server, past every cache. `None`: no answer in time.
pub type ReadNode = Arc<dyn Fn() -> BoxFuture<'static, Option<Arc<Node>>> + Send + Sync>;

/// What a pod asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// To run here.
    Entry {
        /// Whether it runs here already.
        is_running: bool,
    },
    /// Other resources in place.
    Resize,
}

/// A pod that makes room for a critical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Preempt {
    /// Its UID.
    pub(super) uid: PodUid,
    /// Why it stops.
    pub(super) cause: TerminationCause,
    /// Its grace period.
    pub(super) grace: Duration,
}

/// The door of the node.
pub(super) struct Door {
    pub(super) config: Config,
    pub(super) node: watch::Receiver<Option<Arc<NodeFacts>>>,
    pub(super) read_node: Option<ReadNode>,
    pub(super) recorder: Recorder,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Door {
    /// Waits until the node is known. False: it never will be. Cancel-safe.
    pub(super) async fn wait(&self) -> bool {
        self.node.clone().wait_for(Option::is_some).await.is_ok()
    }

    /// Decides on a pod: the pods that must make room for it, or why the node does not take it so.
    /// `others` are the pods that count, without itself; `fresh` is a newer Node object than the
    /// facts are from.
    pub(super) fn admit(
        &self,
        pod: &Pod,
        others: &[Arc<Pod>],
        asks: Asks,
        fresh: Option<&Node>,
        allocated: Option<&Allocated>,
    ) -> Result<Vec<Preempt>, Rejection> {
        let known = self.node.borrow().clone().unwrap_or_default();
        let facts = match fresh {
            Some(node) => Arc::new((*known).clone().with_object(node)),
            None => known,
        };

        // What pods have counts, also while its plugin is away.
        let mut allocatable = Cow::Borrowed(&facts.allocatable);
        for (resource, count) in allocated.into_iter().flat_map(|allocated| &allocated.given) {
            let least = Amount::from_units(*count);
            let amount = allocatable.to_mut().entry(resource.clone()).or_insert(least);
            *amount = least.max(*amount);
        }

        let decision = admission::admit(&AdmitInput {
            pod,
            node: admission::NodeView {
                name: &self.config.node_name,
                labels: &facts.labels,
                taints: &facts.taints,
                supplemental_groups_policy: facts.supplemental_groups_policy,
            },
            allocatable: &allocatable,
            others,
            adopted: asks == Asks::Entry { is_running: true },
            refused: allocated.and_then(|allocated| allocated.refused.as_ref()),
            sysctls: &self.config.sysctls,
            apparmor: self.config.apparmor,
            features: &self.config.features,
            pressure: facts.pressure,
            shutting_down: facts.shutting_down,
        })?;

        if let Some(Rejection { reason, message, .. }) = decision.overlooked {
            info!(
                pod = %pod::key(pod),
                reason, message, "a pod that runs already would not be taken today"
            );
        }

        Ok(decision.preempt.iter().map(|pod| self.preempt(pod)).collect())
    }

    /// Says in an event that the pod is not taken.
    pub(super) fn tell_rejected(&self, pod: &Pod, rejection: &Rejection) {
        let message = rejection.message.clone();
        self.recorder.pod(pod, None, EventType::Warning, &rejection.reason, message);
    }

    /// Whether a second look at the Node object may change the decision.
    pub(super) fn may_be_stale(&self, rejection: &Rejection) -> Option<&ReadNode> {
        self.read_node.as_ref().filter(|_| rejection.is_stale_node)
    }

    /// Says in an event that a pod makes room.
    fn preempt(&self, pod: &Pod) -> Preempt {
        let reason = admission::PREEMPTING;
        let message = admission::PREEMPTION_MESSAGE;
        self.recorder.pod(pod, None, EventType::Warning, reason, message);
        Preempt {
            uid: pod::uid(pod),
            cause: TerminationCause::Evicted {
                reason: reason.to_owned(),
                message: message.to_owned(),
            },
            grace: time::seconds(pod::spec_grace_seconds(pod)),
        }
    }
}

/// Pods whose admission waits for an answer. They have no task yet; the newest object counts.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    pods: BTreeMap<PodUid, Arc<Pod>>,
    answers: JoinSet<Option<Arc<Node>>>,
    asked: BTreeMap<Id, PodUid>,
}

impl Undecided {
    /// Puts a pod off until the Node object has been read.
    pub(super) fn put_off(&mut self, pod: Arc<Pod>, read_node: &ReadNode) {
        let uid = pod::uid(&pod);
        let id = self.answers.spawn(read_node()).id();
        self.asked.insert(id, uid.clone());
        self.pods.insert(uid, pod);
    }

    /// Takes in a newer object of a pod that waits; false: it does not wait.
    pub(super) fn update(&mut self, pod: &Arc<Pod>) -> bool {
        let waiting = self.pods.get_mut(&pod::uid(pod));
        waiting.map(|waiting| waiting.clone_from(pod)).is_some()
    }

    /// A pod that may wait is gone.
    pub(super) fn remove(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// The next answer and the pod that waited for it; `None` when that is gone meanwhile. Pending
    /// while nothing waits. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(Arc<Pod>, Option<Arc<Node>>)> {
        let Some(answer) = self.answers.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, node) = match answer {
            Ok((id, node)) => (id, node),
            // The read panicked, which the panic itself has said: decided as without an answer.
            Err(error) => (error.id(), None),
        };
        let uid = self.asked.remove(&id)?;
        Some((self.pods.remove(&uid)?, node))
    }
}
