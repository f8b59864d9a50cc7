//! What the node, its pods and their containers use.
//!
//! One task reads; every reader asks it by the [`StatsHandle`] and gets a shared, immutable value
//! of [`usage`]. Nothing is read while nobody asks: a question says how old its answer may be, and
//! questions that come together share one reading.
//!
//! ```text
//!   question ──► task ──► cgroups          processors, memory, swap; no call to the runtime
//!                  │      ├► node           and file systems, traffic, processes
//!                  │      ├► pods           and writable layers, logs, volumes
//!                  │      └► detailed       and open files, devices: cAdvisor's metrics
//!                  └────► walks            trees of volumes, in the background
//! ```
//!
//! `summary`, [`resource`] and [`cadvisor`] render what was read. It never decides what is too much
//! (`eviction` does), and never changes anything.

pub mod cadvisor;
pub mod cgroups;
mod compose;
mod config;
mod flight;
mod rates;
pub mod read;
pub mod resource;
mod sources;
pub mod summary;
mod task;
pub mod usage;
pub mod volumes;
mod walks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use self::cgroups::CgroupsUsage;
pub use self::config::Config;
pub use self::sources::Detailed;
use self::sources::Sources;
pub use self::summary::Part;
use self::task::StatsTask;
use self::usage::{NodeUsage, PodsUsage};
use crate::clock::Clock;
use crate::cri::{CriError, Runtime};
use crate::linux::blocking;
use crate::linux::cgroup::CgroupError;
use crate::model::Pod;
use crate::pleg;
use crate::telemetry::metrics::{Family, Histogram};

/// Questions that may wait for the task.
const QUESTIONS: usize = 64;
/// The file that is there where the kernel counts stalls by cgroup.
const PRESSURE: &str = "/sys/fs/cgroup/cpu.pressure";
/// How old the readings of a page may be: scrapes that come together share one. (cAdvisor's are up
/// to 15 s old.)
const PAGE: Duration = Duration::from_secs(5);

/// Why there is no reading. The words are upstream's where it has any.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The cgroups cannot be found.
    #[error("failed to get root cgroup stats: {0}")]
    Cgroup(#[source] CgroupError),
    /// There is no cgroup to read.
    #[error("failed to get root cgroup stats: no cgroup can be read")]
    NoCgroups,
    /// The runtime does not say what containers use.
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
    /// A reading that this one needs has failed.
    #[error("{0}")]
    Shared(Arc<StatsError>),
    /// A reading has panicked.
    #[error("a reading has failed: {0}")]
    Panicked(#[source] JoinError),
    /// The summary cannot be written.
    #[error("the summary cannot be written: {0}")]
    Json(#[source] serde_json::Error),
    /// The node's backend does not say what its pods use.
    #[error("this node's backend does not report usage")]
    Absent,
    /// The kubelet is ending.
    #[error("the kubelet is stopping")]
    Stopped,
}

impl StatsError {
    fn panicked(error: JoinError) -> Self {
        Self::Panicked(error)
    }
}

/// The answer to a question; those who asked together share it.
pub type Answer<T> = Result<Arc<T>, Arc<StatsError>>;

/// A question to the task.
#[derive(Debug)]
enum Question {
    Cgroups { max_age: Duration, reply: oneshot::Sender<Answer<CgroupsUsage>> },
    Detailed { max_age: Duration, reply: oneshot::Sender<Answer<Detailed>> },
    Node { max_age: Duration, reply: oneshot::Sender<Answer<NodeUsage>> },
    Pods { max_age: Duration, reply: oneshot::Sender<Answer<PodsUsage>> },
}

/// What the readings are taken from.
pub struct Deps {
    /// The container runtime.
    pub runtime: Runtime,
    /// What runs.
    pub pleg: pleg::Handle,
    /// Where volumes lie.
    pub volumes: crate::volumes::Handle,
    /// The pods whose volumes are measured.
    pub pods: Arc<dyn Fn() -> Vec<Arc<Pod>> + Send + Sync>,
    /// Takes how long each volume took to be measured, by the way it was.
    pub volume_durations: Family<Histogram>,
    /// The clocks.
    pub clock: Clock,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// Returns the handle, and the task that reads.
pub fn new(config: Config, deps: Deps) -> (StatsHandle, impl Future<Output = ()> + Send + 'static) {
    let (questions, receiver) = mpsc::channel(QUESTIONS);
    let sources = Arc::new(Sources::new(config, deps));
    let handle = StatsHandle { questions, sources: Some(Arc::clone(&sources)) };
    let task = StatsTask::new(sources, handle.clone());
    (handle, task.run(receiver))
}

/// Asks for usage. Cheap to clone.
#[derive(Clone)]
pub struct StatsHandle {
    questions: mpsc::Sender<Question>,
    /// `None`: nothing is read.
    sources: Option<Arc<Sources>>,
}

impl std::fmt::Debug for StatsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatsHandle").finish_non_exhaustive()
    }
}

impl StatsHandle {
    /// Returns a handle that refuses every question, for a backend that reports no usage.
    pub fn absent() -> Self {
        Self { questions: mpsc::channel(1).0, sources: None }
    }

    fn sources(&self) -> Result<&Arc<Sources>, Arc<StatsError>> {
        self.sources.as_ref().ok_or_else(|| Arc::new(StatsError::Absent))
    }

    /// Returns the usage of the node, read at most `max_age` ago. Cancel-safe.
    pub async fn node(&self, max_age: Duration) -> Answer<NodeUsage> {
        self.ask(|reply| Question::Node { max_age, reply }).await
    }

    /// Reads now what eviction watches: of the node's usage memory, file systems and the count of
    /// processes. Cancel-safe.
    pub async fn signals(&self) -> Result<NodeUsage, StatsError> {
        match &self.sources {
            Some(sources) => Arc::clone(sources).signals().await,
            None => Err(StatsError::Absent),
        }
    }

    /// Returns the usage of all pods, read at most `max_age` ago. Cancel-safe.
    pub async fn pods(&self, max_age: Duration) -> Answer<PodsUsage> {
        self.ask(|reply| Question::Pods { max_age, reply }).await
    }

    /// Returns the usage of all cgroups, read at most `max_age` ago. Cancel-safe.
    pub async fn cgroups(&self, max_age: Duration) -> Answer<CgroupsUsage> {
        self.ask(|reply| Question::Cgroups { max_age, reply }).await
    }

    /// Returns everything that cAdvisor's metrics show, read at most `max_age` ago. Cancel-safe.
    pub async fn detailed(&self, max_age: Duration) -> Answer<Detailed> {
        self.ask(|reply| Question::Detailed { max_age, reply }).await
    }

    /// Returns processors, memory and swap of the node and its pods. It calls no runtime and reads
    /// no disk. Cancel-safe.
    pub async fn cpu_and_memory(
        &self,
        max_age: Duration,
    ) -> Result<(NodeUsage, PodsUsage), Arc<StatsError>> {
        let cgroups = self.cgroups(max_age).await?;
        Ok(self.sources()?.light(&cgroups))
    }

    /// Renders `/stats/summary`. Cancel-safe.
    pub async fn summary(&self, part: Part) -> Result<String, Arc<StatsError>> {
        let config = &self.sources()?.config;
        let frame = summary::Frame { node_name: &config.node_name, part };
        let text = match part {
            Part::Whole => {
                let (node, pods) = futures::try_join!(self.node(PAGE), self.pods(PAGE))?;
                summary::render(frame, &node, &pods)
            }
            Part::CpuAndMemory => {
                let (node, pods) = self.cpu_and_memory(PAGE).await?;
                summary::render(frame, &node, &pods)
            }
        };
        text.map_err(|error| Arc::new(StatsError::Json(error)))
    }

    /// Renders `/metrics/resource`. Cancel-safe.
    pub async fn resource_page(&self) -> String {
        let read = self.cpu_and_memory(PAGE).await;
        if let Err(error) = &read {
            tracing::error!(%error, "processors and memory cannot be read");
        }
        let read = read.ok();
        resource::render(read.as_ref().map(|(node, pods)| (node, pods)))
    }

    /// Renders `/metrics/cadvisor`, on a blocking thread: it may have megabytes. Cancel-safe.
    pub async fn cadvisor_page(&self) -> Result<String, Arc<StatsError>> {
        let read = self.detailed(PAGE).await;
        if let Err(error) = &read {
            tracing::error!(%error, "the cgroups cannot be read");
        }
        let sources = Arc::clone(self.sources()?);
        let page = blocking::spawn(move || {
            let read = read.ok();
            let config = &sources.config;
            let empty = HashMap::new();
            let owners = read.as_ref().map(|read| sources.owners(read)).unwrap_or_default();
            cadvisor::render(&cadvisor::Input {
                machine: &config.machine,
                cgroups: read.as_ref().map(|read| &read.cgroups),
                owners: &owners,
                disks: read.as_ref().map(|read| read.disks.as_slice()).unwrap_or_default(),
                devices: read.as_ref().map_or(&empty, |read| &read.devices),
                psi: std::path::Path::new(PRESSURE).exists(),
                now: sources.deps.clock.now().wall,
            })
        });
        page.await.map_err(|error| Arc::new(StatsError::panicked(error)))
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Answer<T>>) -> Question,
    ) -> Answer<T> {
        self.sources()?;
        let (reply, answer) = oneshot::channel();
        let stopped = || Arc::new(StatsError::Stopped);
        self.questions.send(question(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
