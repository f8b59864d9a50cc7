//! The services that a backend's pods need of the agent: statuses, the environment of containers,
//! events, the node's addresses. [`Services`] is what a backend is made with.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use super::shared::Shared;
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::cri::CriError;
use crate::cri::client::ExecOutput;
use crate::dispatch::{Cause, Output};
use crate::model::{ContainerId, Pod};
use crate::probes::{Exec, PodProbes, ProbeDeps};

/// Runs the commands of probes in containers of a backend.
pub trait Commands: fmt::Debug + Send + Sync + 'static {
    /// Runs `command` in a container and waits for its end, for `timeout` at most. Dropping the
    /// future cancels the command.
    fn run(
        &self,
        container: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Output, CommandError>>;
}

/// Why a command has no exit code.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It ran longer than it may.
    #[error("the command ran longer than it may")]
    TimedOut,
    /// It could not be run.
    #[error(transparent)]
    Failed(Cause),
}

/// Probes see a backend's commands as those of a runtime.
#[derive(Debug)]
struct ProbeCommands(Arc<dyn Commands>);

impl Exec for ProbeCommands {
    fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ExecOutput, CriError>> {
        let ended = self.0.run(id, command, timeout);
        Box::pin(async move {
            match ended.await {
                Ok(Output { exit_code, written }) => {
                    Ok(ExecOutput { stdout: written, stderr: Vec::new(), exit_code })
                }
                Err(CommandError::TimedOut) => Err(CriError::deadline("ExecSync")),
                Err(CommandError::Failed(cause)) => {
                    Err(CriError::unusable_answer("ExecSync", cause.to_string()))
                }
            }
        })
    }
}

/// The services of the agent for a backend. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes the reporter of a pod, and starts its probes; they run commands by `commands`.
    pub fn reporter(&self, pod: &Arc<Pod>, commands: Arc<dyn Commands>) -> Reporter {
        let deps = ProbeDeps {
            exec: Arc::new(ProbeCommands(commands)),
            recorder: self.shared.recorder.clone(),
            clock: self.shared.clock,
            observer: self.shared.observer.clone(),
        };
        let probes = PodProbes::start(deps, pod);
        Reporter::new(Arc::clone(&self.shared), pod, probes)
    }

    /// Sets the problem that keeps the backend from running pods; `None`: there is none. A problem
    /// makes the node not ready, with this text.
    pub fn set_problem(&self, problem: Option<String>) {
        let health = problem.map_or(Ok(()), Err);
        self.shared.condition.send_if_modified(|condition| {
            let has_changed = condition.runtime != health;
            condition.runtime = health;
            has_changed
        });
    }

    /// Returns the node's own addresses, preferred first: those of pods on its network.
    pub fn host_ips(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.shared.host_ips.clone()
    }

    /// Returns the clocks that the agent goes by.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Returns the recorder of events.
    pub fn recorder(&self) -> Recorder {
        self.shared.recorder.clone()
    }

    /// Returns the end of the process; pods run on.
    pub fn shutdown(&self) -> CancellationToken {
        self.shared.shutdown.clone()
    }
}
