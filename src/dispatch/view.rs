//! What others may see of a pod's task: the latest value of a `watch` channel.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;

use crate::model::timeline::SharedTimeline;
use crate::model::{
    Blocked, Lifecycle, ObservedPod, Phase, Pod, PodKey, PodUid, Terminating, TerminationCause,
    phase, pod,
};

/// A pod as its task sees it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub key: PodKey,
    /// The object.
    pub pod: Arc<Pod>,
    /// Where it is in its life.
    pub state: ViewState,
    /// What runs.
    pub observed: Arc<ObservedPod>,
    /// The newest computed status.
    pub status: Arc<PodStatus>,
    /// What it waits for.
    pub blocked: Option<Blocked>,
    /// The steps of its life on this node.
    pub timeline: SharedTimeline,
}

/// A pod's lifecycle without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// It should run.
    Syncing,
    /// It stops.
    Terminating,
    /// It has stopped.
    Terminated,
}

impl PodView {
    /// The view before the first step.
    pub fn new(pod: &Arc<Pod>, lifecycle: &Lifecycle) -> Self {
        let mut status = pod.status.clone().unwrap_or_default();
        if let Lifecycle::Terminating(Terminating {
            cause: TerminationCause::Rejected { .. },
            ..
        }) = lifecycle
        {
            // It is not taken: it must not count even before its task has said so.
            status.phase = Some(Phase::Failed.as_str().to_owned());
        }
        Self {
            uid: pod::uid(pod),
            key: pod::key(pod),
            pod: pod.clone(),
            state: lifecycle.into(),
            observed: Arc::default(),
            status: Arc::new(status),
            blocked: None,
            timeline: SharedTimeline::default(),
        }
    }

    /// Whether the pod still counts against the node's resources (upstream's active pods).
    pub fn is_active(&self) -> bool {
        let is_terminal = phase::is_terminal(&self.status);
        let is_asked_to_go = self.pod.metadata.deletion_timestamp.is_some();
        self.state != ViewState::Terminated && (!is_terminal || is_asked_to_go)
    }
}

impl From<&Lifecycle> for ViewState {
    fn from(lifecycle: &Lifecycle) -> Self {
        match lifecycle {
            Lifecycle::Syncing => Self::Syncing,
            Lifecycle::Terminating(_) => Self::Terminating,
            Lifecycle::Terminated(_) => Self::Terminated,
        }
    }
}
