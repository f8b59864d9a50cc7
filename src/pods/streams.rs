//! The streams into pods that run by CRI.
//!
//! Called by `server`, through dispatch's handle. The runtime answers exec, attach and port-forward
//! with a URL of its streaming server; logs are read from the file that the runtime writes. It
//! never authorises anything: `server` has done so.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::logs::select;
use super::logs::stream::LogStream;
use crate::cri::{CriError, Runtime, v1};
use crate::dispatch::{
    Channels, Exec, LogChunks, LogOptions, Opening, Output, PodView, Session, StreamError, Streams,
};
use crate::model::{ContainerId, SandboxState, pod};

/// Chunks between reading and sending: enough to overlap the two.
const CHUNKS: usize = 4;

/// Opens streams by the runtime.
#[derive(Clone, Debug)]
pub(super) struct CriStreams {
    cri: Runtime,
}

impl CriStreams {
    pub(super) fn new(cri: Runtime) -> Self {
        Self { cri }
    }

    async fn open_log(
        &self,
        pod: watch::Receiver<PodView>,
        container: &str,
        options: LogOptions,
    ) -> Result<LogChunks, StreamError> {
        let id = {
            let view = pod.borrow();
            select::container_of_logs(&view.key.name, &view.status, container, options.previous)
                .map_err(failed)?
        };

        let message =
            v1::ContainerStatusRequest { container_id: id.as_str().to_owned(), verbose: false };
        let answer = self.cri.container_status(message).await.map_err(|error| {
            failed(format!("unable to retrieve container logs for containerd://{id}: {error}"))
        })?;
        let log_path = answer.status.map(|status| status.log_path).unwrap_or_default();
        if log_path.is_empty() {
            return Err(failed(format!("unable to retrieve container logs for containerd://{id}")));
        }

        let log = LogStream::open(Path::new(&log_path), options)
            .await
            .map_err(|error| StreamError::Failed(error.into()))?;
        Ok(read(log, pod, id))
    }
}

impl Streams for CriStreams {
    fn exec<'a>(&'a self, pod: &'a PodView, exec: Exec) -> Opening<'a, Session> {
        async move {
            let Exec { container, command, channels } = exec;
            let Channels { stdin, stdout, stderr, tty } = channels;
            let id = running_container(pod, &container)?;
            let container_id = id.as_str().to_owned();
            let message =
                v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr };
            session(self.cri.exec(message).await.map(|answer| answer.url))
        }
        .boxed()
    }

    fn attach<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        channels: Channels,
    ) -> Opening<'a, Session> {
        async move {
            let Channels { stdin, stdout, stderr, .. } = channels;
            let id = running_container(pod, container)?;
            // The terminal is the container's, whatever the client thinks.
            let tty = pod::find_container(&pod.pod, container)
                .and_then(|(_, spec)| spec.tty)
                .unwrap_or(false);
            let container_id = id.as_str().to_owned();
            let message =
                v1::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty };
            session(self.cri.attach(message).await.map(|answer| answer.url))
        }
        .boxed()
    }

    fn port_forward<'a>(&'a self, pod: &'a PodView, ports: Vec<u16>) -> Opening<'a, Session> {
        async move {
            let sandbox = pod
                .observed
                .latest_sandbox()
                .filter(|sandbox| sandbox.state == SandboxState::Ready)
                .ok_or_else(|| failed(format!("failed to find sandboxID for pod {:?}", pod.key)))?;
            let message = v1::PortForwardRequest {
                pod_sandbox_id: sandbox.id.as_str().to_owned(),
                port: ports.into_iter().map(i32::from).collect(),
            };
            session(self.cri.port_forward(message).await.map(|answer| answer.url))
        }
        .boxed()
    }

    fn run<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        command: Vec<String>,
    ) -> Opening<'a, Output> {
        async move {
            let id = running_container(pod, container)?;
            let output = self.cri.exec_sync(&id, command, Duration::ZERO).await.map_err(refused)?;
            let mut written = output.stdout;
            written.extend_from_slice(&output.stderr);
            Ok(Output { exit_code: output.exit_code, written })
        }
        .boxed()
    }

    fn checkpoint<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        path: &'a Path,
        timeout: Duration,
    ) -> Opening<'a, ()> {
        async move {
            let id = pod
                .observed
                .containers
                .iter()
                .find(|found| found.name == container && found.state.is_running())
                .map(|found| found.id.clone())
                .ok_or_else(|| failed(format!("container {container} not found")))?;
            self.cri.checkpoint_container(&id, path, timeout).await.map_err(refused)
        }
        .boxed()
    }

    fn logs(
        &self,
        pod: watch::Receiver<PodView>,
        container: String,
        options: LogOptions,
    ) -> Opening<'_, LogChunks> {
        async move { self.open_log(pod, &container, options).await }.boxed()
    }
}

/// Reads the log; following ends when the container no longer runs or the client is gone.
fn read(log: LogStream, mut pod: watch::Receiver<PodView>, id: ContainerId) -> LogChunks {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let ended: BoxFuture<'static, ()> = async move {
        // An error means that the pod's task has ended: the container does not run any more.
        drop(pod.wait_for(|view| !runs(view, &id)).await);
    }
    .boxed();
    // The reading is part of the body's stream: it goes when the client goes.
    let reading = futures::stream::once(log.run(sender, ended)).map(|()| None);
    let chunks = ReceiverStream::new(receiver).map(Some);
    futures::stream::select(chunks, reading).filter_map(futures::future::ready).boxed()
}

fn runs(view: &PodView, id: &ContainerId) -> bool {
    view.observed.container(id).is_some_and(|container| container.state.is_running())
}

/// The running container of a name, or upstream's text.
fn running_container(pod: &PodView, name: &str) -> Result<ContainerId, StreamError> {
    let found =
        pod.observed.containers.iter().find(|found| found.name == name && found.state.is_running());
    found
        .map(|found| found.id.clone())
        .ok_or_else(|| failed(format!("container not found ({name:?})")))
}

fn failed(text: String) -> StreamError {
    StreamError::Failed(text.into())
}

fn session(url: Result<String, CriError>) -> Result<Session, StreamError> {
    url.map(|url| Session::PassThrough { url }).map_err(refused)
}

/// An error of the runtime, of the kind that upstream maps its code to.
fn refused(error: CriError) -> StreamError {
    match error.code {
        tonic::Code::NotFound => StreamError::NotFound(error.into()),
        tonic::Code::ResourceExhausted => StreamError::Exhausted(error.into()),
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::InvalidArgument
        | tonic::Code::DeadlineExceeded
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Internal
        | tonic::Code::Unavailable
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => StreamError::Failed(error.into()),
    }
}
