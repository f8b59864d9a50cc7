//! The local socket, `rkubelet.sock` in the root directory: what the tools of this binary ask the
//! running kubelet. Only root can open it.
//!
//! Fed by the table of pods and the registries of metrics. It only reads, and shows neither Secrets
//! nor the environment of containers.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Path as Named, State as Shared};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{State, health, pods, text};
use crate::dispatch::{PodView, ViewState};
use crate::model::timeline::{StepState, TimelineStep};
use crate::model::{Mono, PodKey, Wall, pod};

/// The name of the socket in the root directory.
const NAME: &str = "rkubelet.sock";

/// The error of a socket that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A process answers at the socket.
    #[error("{0}: another kubelet answers there")]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("{path}: the socket cannot be made")]
    Make {
        /// The path of the socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Returns the path of the socket below a root directory, e.g. `/var/lib/kubelet/rkubelet.sock`.
pub fn socket_path(root_dir: &Path) -> PathBuf {
    root_dir.join(NAME)
}

/// Makes the socket. One that a dead process left is replaced.
pub async fn bind_local(root_dir: &Path) -> Result<UnixListener, SocketError> {
    let path = socket_path(root_dir);
    if UnixStream::connect(&path).await.is_ok() {
        return Err(SocketError::Taken(path));
    }
    match make(&path) {
        Ok(listener) => Ok(listener),
        Err(source) => Err(SocketError::Make { path, source }),
    }
}

fn make(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }

    // Made under another name: nobody can connect before the mode is set.
    let hidden = path.with_extension("sock.new");
    drop(std::fs::remove_file(&hidden));
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

/// Serves the socket until `shutdown`, then removes it.
pub async fn serve_local(
    listener: UnixListener,
    root_dir: PathBuf,
    router: Router,
    shutdown: CancellationToken,
) {
    let stop = shutdown.cancelled_owned();
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the local socket is not served any more");
    }
    drop(std::fs::remove_file(socket_path(&root_dir)));
}

/// The routes of the socket.
pub fn local_router(state: State) -> Router {
    Router::new()
        .route("/configz", get(pods::configz))
        .route("/metrics", get(health::metrics))
        .route("/pods", get(list))
        .route("/timeline/{namespace}/{name}", get(timeline))
        .with_state(state)
}

/// A pod as `rkubelet pods` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// True for a pod from a file or URL.
    pub is_static: bool,
    /// The phase, e.g. `Running`.
    pub phase: String,
    /// The number of containers that are ready.
    pub ready: usize,
    /// The number of containers.
    pub containers: usize,
    /// The restarts of all containers.
    pub restarts: i32,
    /// `syncing`, `terminating` or `terminated`.
    pub state: String,
    /// The wait, if the pod waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedReport>,
}

/// The wait of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedReport {
    /// The stage, e.g. `volumes`.
    pub stage: String,
    /// The awaited thing, e.g. `volume "config": configmap "web" not found`.
    pub on: String,
    /// The begin of the wait.
    pub since: Wall,
    /// The length of the wait so far, in seconds.
    pub seconds: f64,
    /// The last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The time until the next attempt, in seconds; none: as soon as the awaited thing happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_in_seconds: Option<f64>,
}

/// The steps of a pod's life, as `rkubelet timeline` shows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineReport {
    /// The pod.
    pub pod: PodReport,
    /// The creation of the object; none for a static pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Wall>,
    /// The steps, oldest first.
    pub steps: Vec<StepReport>,
    /// The number of older steps that are not kept any more.
    pub dropped: u64,
}

/// One step of a pod's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// The begin.
    pub at: Wall,
    /// The kind of step, e.g. `create and start`.
    pub what: String,
    /// The container; empty for the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// How the step ended.
    pub result: StepResult,
    /// The duration in seconds; so far, for a step that runs. None for a change of phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepResult {
    /// It has not ended.
    Running,
    /// It did what it should.
    Done,
    /// It failed.
    Failed,
    /// It was given up.
    Cancelled,
    /// It took no time.
    Moment,
}

async fn list(Shared(state): Shared<State>) -> Response {
    let now = state.clock.now().mono;
    let mut pods: Vec<PodReport> =
        state.pods.views().iter().map(|view| pod_report(view, now)).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods::write(&pods)
}

async fn timeline(
    Shared(state): Shared<State>,
    Named((namespace, name)): Named<(String, String)>,
) -> Response {
    let key = PodKey::new(namespace.as_str(), name.as_str());
    let Some(view) = state.pods.views().into_iter().find(|view| view.key == key) else {
        let problem = format!("pod {key} is not on this node\n");
        return text(StatusCode::NOT_FOUND, problem);
    };
    pods::write(&timeline_report(&view, state.clock.now().mono))
}

fn pod_report(view: &PodView, now: Mono) -> PodReport {
    let statuses = view.status.container_statuses.iter().flatten();
    let init = view.status.init_container_statuses.iter().flatten();
    PodReport {
        namespace: view.key.namespace.to_string(),
        name: view.key.name.to_string(),
        uid: view.uid.to_string(),
        is_static: pod::is_static(&view.pod),
        phase: view.status.phase.clone().unwrap_or_default(),
        ready: statuses.clone().filter(|status| status.ready).count(),
        containers: pod::main_containers(&view.pod).len(),
        restarts: statuses.chain(init).map(|status| status.restart_count).sum(),
        state: match view.state {
            ViewState::Syncing => "syncing",
            ViewState::Terminating => "terminating",
            ViewState::Terminated => "terminated",
        }
        .to_owned(),
        blocked: view.blocked.as_ref().map(|blocked| BlockedReport {
            stage: blocked.stage.to_string(),
            on: blocked.on.clone(),
            since: blocked.since.wall,
            seconds: now.since(blocked.since.mono).as_secs_f64(),
            last_error: blocked.last_error.clone(),
            next_try_in_seconds: blocked.next_try.map(|at| at.since(now).as_secs_f64()),
        }),
    }
}

fn timeline_report(view: &PodView, now: Mono) -> TimelineReport {
    let timeline = view.timeline.lock();
    let created = view.pod.metadata.creation_timestamp.as_ref();
    TimelineReport {
        pod: pod_report(view, now),
        created: created.map(|time| time.0),
        steps: timeline.steps().map(|(at, step)| step_report(at, step, now)).collect(),
        dropped: timeline.dropped(),
    }
}

fn step_report(at: Wall, step: &TimelineStep, now: Mono) -> StepReport {
    let (result, took, problem) = match &step.state {
        StepState::Running => (StepResult::Running, Some(now.since(step.began)), None),
        StepState::Done(took) => (StepResult::Done, Some(*took), None),
        StepState::Failed(took, problem) => (StepResult::Failed, Some(*took), Some(problem)),
        StepState::Cancelled(took) => (StepResult::Cancelled, Some(*took), None),
        StepState::Moment => (StepResult::Moment, None, None),
    };
    StepReport {
        at,
        what: step.what.to_owned(),
        container: step.container.to_string(),
        result,
        seconds: took.map(|took| took.as_secs_f64()),
        problem: problem.map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{SocketError, bind_local, socket_path};

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let first = bind_local(root.path()).await.expect("made");
        let mode = std::fs::metadata(socket_path(root.path())).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        let taken = bind_local(root.path()).await;
        assert!(matches!(taken, Err(SocketError::Taken(_))), "{taken:?}");

        drop(first);
        drop(bind_local(root.path()).await.expect("replaced"));
    }
}
