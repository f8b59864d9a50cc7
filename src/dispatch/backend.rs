//! The seam between the node agent and what runs pods.
//!
//! Left of it stand the sources, admission and the table of pods; right of it a backend. `pods` is
//! the backend that drives a container runtime by CRI. A backend decides how a pod runs and reports
//! its state; it never decides which pods run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::directive::{Directive, Ended};
use super::streams::{NoStreams, Streams};
use super::view::PodView;
use crate::model::{Lifecycle, Pod, PodKey, PodUid};

/// Runs pods.
pub trait Backend: Send + 'static {
    /// Makes the task of a pod. The pod leaves [`Backend::found`] before this returns.
    ///
    /// The task obeys `directive`, always its latest value. It ends with [`Ended::Gone`] once the
    /// pod is gone from its source and from the node, and with [`Ended::Shutdown`] when the process
    /// ends; pods run on then. A task that panics is launched again after a pause.
    ///
    /// A pod may begin with its end: one that was rejected, or that no source has. `lifecycle` says
    /// so, `directive` does not repeat it, and nothing of the pod is started then.
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> Launched;

    /// What is on the node without a task of this process: left by an earlier one, or started by
    /// somebody else. `None` until the node has been looked at once.
    fn found(&self) -> watch::Receiver<Option<Found>>;

    /// The streams into pods: exec, attach, port-forward, commands, logs. Asked for once. By
    /// default there are none.
    fn streams(&self) -> Arc<dyn Streams> {
        Arc::new(NoStreams)
    }
}

/// Pods without a task, by UID.
pub type Found = BTreeMap<PodUid, FoundPod>;

/// The task of a pod, to be spawned, and the view of the pod.
pub struct Launched {
    /// Ends with the pod.
    pub task: BoxFuture<'static, Ended>,
    /// The latest state of the pod.
    pub view: watch::Receiver<PodView>,
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched").field("view", &self.view).finish_non_exhaustive()
    }
}

/// A pod on the node that has no task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPod {
    /// Its namespace and name.
    pub key: PodKey,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// The grace period with which it is stopped if no source has it.
    pub grace: Duration,
    /// Whether any of it runs, rather than only being left over.
    pub is_running: bool,
    /// Whether it was started as a static pod.
    pub is_static: bool,
}
