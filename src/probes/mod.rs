//! Probes running containers: one task per pod that has probes, asleep until the next probe is due.
//!
//! ```text
//!  pods::worker ── running(targets), terminating() ──► task ── verdicts (watch) ──► planner, status
//!                                                       │ schedule (when) · check (one attempt) · verdict (thresholds)
//!                                                       └──► events, observer
//! ```
//!
//! Laws:
//!
//! 1. No probe waits for another one, of the same pod or of others: a slow command delays only its
//!    own container's probe.
//! 2. It never restarts anything. A verdict is an input of the planner.
//! 3. A verdict belongs to a container id and ends with the container.

pub mod check;
pub mod metrics;
pub mod schedule;
mod task;
pub mod verdict;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::model::{ContainerId, ContainerKind, Pod, Wall};

pub use check::{CheckResult, Exec};
pub use task::PodProbes;
pub use verdict::Recorded;

/// The three kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// A failure causes a restart.
    Liveness,
    /// A failure takes the container out of its services.
    Readiness,
    /// Holds the other probes back until it has succeeded. A failure causes a restart.
    Startup,
}

impl ProbeKind {
    /// Returns the name in events: `Liveness`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }

    /// Returns the container's probe of this kind.
    pub fn of(self, container: &api::Container) -> Option<&api::Probe> {
        match self {
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Startup => container.startup_probe.as_ref(),
        }
    }
}

/// A running container to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The container's name.
    pub container: String,
    /// The container's kind.
    pub kind: ContainerKind,
    /// The container's id.
    pub id: ContainerId,
    /// The `podIP` of the pod's status: of two addresses, the one of the node's first family (the
    /// node's own for a hostNetwork pod). Without an address, no network probe is made.
    pub pod_ip: Option<IpAddr>,
    /// The time when the container started.
    pub started_at: Wall,
    /// The recorded status of a container that ran before this process; `None` for a container that
    /// this process started.
    pub recorded: Option<Recorded>,
}

/// Observes every attempt that counts, for `prober_probe_total` and
/// `prober_probe_duration_seconds`.
pub trait ProbeObserver: Send + Sync {
    /// An attempt has ended.
    fn attempted(
        &self,
        pod: &Pod,
        container: &str,
        kind: ProbeKind,
        result: Counted,
        took: Duration,
    );

    /// The pod's probes have ended: their series can be removed.
    fn ended(&self, pod: &Pod);
}

/// The result of an attempt in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// `successful`.
    Successful,
    /// `failed`.
    Failed,
    /// `unknown`: the attempt failed, but this process was too late for a verdict.
    Unknown,
}

impl Counted {
    /// Returns the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The parts that the probes of all pods share. Cheap to clone.
#[derive(Clone)]
pub struct ProbeDeps {
    /// Runs commands in containers.
    pub exec: Arc<dyn Exec>,
    /// Records the events `Unhealthy` and `ProbeWarning`.
    pub recorder: Recorder,
    /// The clocks.
    pub clock: Clock,
    /// Feeds the metrics.
    pub observer: Arc<dyn ProbeObserver>,
}

impl fmt::Debug for ProbeDeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeDeps").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A runtime that answers commands from a script.

    use std::collections::VecDeque;
    use std::time::Duration;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    use crate::cri::CriError;
    use crate::cri::client::ExecOutput;
    use crate::model::ContainerId;

    use super::Exec;

    /// Answers commands in order; hangs when no answer is left.
    #[derive(Debug, Default)]
    pub(crate) struct FakeExec {
        answers: Mutex<VecDeque<Result<ExecOutput, CriError>>>,
        commands: Mutex<Vec<Vec<String>>>,
    }

    impl FakeExec {
        pub(crate) fn answering(
            answers: impl IntoIterator<Item = Result<ExecOutput, CriError>>,
        ) -> Self {
            Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
        }

        /// Answers commands with these exit codes.
        pub(crate) fn exiting(codes: &[i32]) -> Self {
            Self::answering(codes.iter().map(|exit_code| Ok(output(*exit_code))))
        }

        pub(crate) fn push(&self, exit_code: i32) {
            self.answers.lock().push_back(Ok(output(exit_code)));
        }

        pub(crate) fn commands(&self) -> Vec<Vec<String>> {
            self.commands.lock().clone()
        }
    }

    fn output(exit_code: i32) -> ExecOutput {
        ExecOutput {
            stdout: format!("exit {exit_code}").into_bytes(),
            stderr: Vec::new(),
            exit_code,
        }
    }

    impl Exec for FakeExec {
        fn exec_sync(
            &self,
            _: &ContainerId,
            command: Vec<String>,
            _: Duration,
        ) -> BoxFuture<'static, Result<ExecOutput, CriError>> {
            self.commands.lock().push(command);
            match self.answers.lock().pop_front() {
                Some(answer) => std::future::ready(answer).boxed(),
                None => std::future::pending().boxed(),
            }
        }
    }
}
