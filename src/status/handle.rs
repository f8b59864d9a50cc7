//! The handle of the status writer: the commands of a pod's worker, and their answers.
//!
//! Workers send [`Handle`]'s commands over one bounded channel; the answers come as [`Acked`] on a
//! `watch` for each pod. A handle never decides whether or when a status is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1 as api;
use tokio::sync::{mpsc, oneshot, watch};

use crate::model::{Pod, PodUid};

/// The commands that may wait for the writer. It takes each at once, so this is for bursts only.
const QUEUE: usize = 1024;

/// A new status.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    /// The API's object: for a static pod its mirror.
    pub pod: Arc<Pod>,
    /// The status, shared with the worker that computed it.
    pub status: Arc<api::PodStatus>,
    /// True if the pod waits because something failed. Its first status is then not held, so that
    /// a reader of the failure's Warning event finds the pod's conditions.
    pub is_failing: bool,
}

/// The part of a pod's status that the API server has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// The version of the last status that was accepted; zero before the first.
    pub version: u64,
    /// True if the accepted phase is terminal.
    pub is_terminal: bool,
    /// True if the object is gone from the API: deleted, or replaced by another of its name.
    pub is_gone: bool,
}

/// Sends commands to the [`super::Writer`]. Cheap to clone.
///
/// Each call waits only for room in the channel, and does nothing once the writer has ended. The
/// calls about one pod come from one task at a time: their order is the order of the writes.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    versions: Arc<AtomicU64>,
}

/// A command to the writer; each is a method of [`Handle`].
#[derive(Debug)]
pub(super) enum Command {
    Set { uid: PodUid, version: u64, update: StatusUpdate },
    Observed { uid: PodUid, pod: Arc<Pod> },
    Acked { uid: PodUid, reply: oneshot::Sender<watch::Receiver<Acked>> },
    Delete { uid: PodUid, pod: Arc<Pod> },
    Forget { uid: PodUid },
}

impl Handle {
    /// Opens the channel to a writer.
    pub(super) fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        (Self { commands, versions: Arc::default() }, receiver)
    }

    /// Makes a handle without a writer, for a kubelet without an API server: nothing is written,
    /// nothing is accepted.
    pub fn standalone() -> Self {
        Self { commands: mpsc::channel(1).0, versions: Arc::default() }
    }

    /// Requests the write of a status. Returns its version, which [`Acked`] reaches once the API
    /// server has accepted it. Only the newest status is written.
    pub async fn set(&self, uid: &PodUid, update: StatusUpdate) -> u64 {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(Command::Set { uid: uid.clone(), version, update }).await;
        version
    }

    /// Passes the watched object on: a newer base for the next patch.
    pub async fn observed(&self, uid: &PodUid, pod: Arc<Pod>) {
        self.send(Command::Observed { uid: uid.clone(), pod }).await;
    }

    /// Follows the statuses that the API server accepts. The channel closes when the pod is
    /// forgotten.
    pub async fn acked(&self, uid: &PodUid) -> watch::Receiver<Acked> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Acked { uid: uid.clone(), reply }).await;
        answer.await.unwrap_or_else(|_| watch::channel(Acked::default()).1)
    }

    /// Requests the deletion of a finished pod's object, once its newest status is accepted.
    /// Mirrors, and objects without a deletion timestamp, are left alone.
    pub async fn delete(&self, uid: &PodUid, pod: Arc<Pod>) {
        self.send(Command::Delete { uid: uid.clone(), pod }).await;
    }

    /// Forgets the pod: nothing more is written for it.
    pub async fn forget(&self, uid: &PodUid) {
        self.send(Command::Forget { uid: uid.clone() }).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a status command came after the writer had ended");
        }
    }
}
