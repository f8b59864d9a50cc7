//! What the node, its pods and their containers use.
//!
//! One task reads; every reader asks it by the [`StatsHandle`] and gets a shared, immutable value
//! of [`usage`]. Nothing is read while nobody asks: a question says how old its answer may be, and
//! questions that come together share one reading.
//!
//! Three kinds of readings, from cheap to dear:
//!
//! 1. *Cgroups*: processors, memory, swap of every cgroup below the node's. No call to the runtime.
//! 2. *Node*: the first, and file systems.
//! 3. *Pods*: the first, and writable layers, logs and volumes.
//!
//! It never decides what is too much (`eviction` does), and never changes anything.

mod flight;
pub mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::flight::Answer;
use self::usage::{NodeUsage, PodsUsage};
use crate::cri::CriError;
use crate::linux::cgroup::CgroupError;

/// Questions that may wait for the task.
const QUESTIONS: usize = 64;

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// A cgroup cannot be read. Upstream's words.
    #[error("failed to get root cgroup stats: {0}")]
    Cgroup(#[source] CgroupError),
    /// The runtime does not answer.
    #[error("failed to list pod stats: failed to list all container stats: {0}")]
    Containers(#[source] CriError),
    /// The runtime does not say what images use.
    #[error("failed to get imageFs stats: {0}")]
    Images(#[source] CriError),
    /// A file system does not say what is free.
    #[error("failed to get rootFs stats: {path}: {source}")]
    FileSystem {
        /// The directory.
        path: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet is ending.
    #[error("the kubelet is stopping")]
    Stopped,
}

/// A question to the task.
#[derive(Debug)]
enum Question {
    Node { max_age: Duration, reply: oneshot::Sender<Answer<NodeUsage>> },
    Pods { max_age: Duration, reply: oneshot::Sender<Answer<PodsUsage>> },
}

/// Asks for usage. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatsHandle {
    questions: mpsc::Sender<Question>,
}

impl StatsHandle {
    /// Returns the usage of the node, read at most `max_age` ago. Cancel-safe.
    pub async fn node(&self, max_age: Duration) -> Result<Arc<NodeUsage>, Arc<StatsError>> {
        self.ask(|reply| Question::Node { max_age, reply }).await
    }

    /// Returns the usage of all pods, read at most `max_age` ago. Cancel-safe.
    pub async fn pods(&self, max_age: Duration) -> Result<Arc<PodsUsage>, Arc<StatsError>> {
        self.ask(|reply| Question::Pods { max_age, reply }).await
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Answer<T>>) -> Question,
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Arc::new(StatsError::Stopped);
        self.questions.send(question(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
