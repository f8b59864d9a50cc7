//! The streams into pods: exec, attach, port-forward, commands and logs.
//!
//! Implemented by a backend, used by `server`, which authenticates and authorises each request
//! first, finds the pod, and passes bytes on. A backend finds the container and opens the stream.
//! It never sees who asks.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch;

use super::view::PodView;
use crate::model::Wall;

/// Opens streams into pods. Every method that a backend does not implement is refused with
/// [`StreamError::Unsupported`].
///
/// A call is dropped when the client goes away. It has to end by itself within a deadline of the
/// backend's own, but for `run`, which lasts as long as its command; what a call returned may last
/// as long as the client.
#[allow(unused_variables, reason = "the defaults refuse whatever they are asked")]
pub trait Streams: fmt::Debug + Send + Sync + 'static {
    /// Prepares a session with a new process in a container.
    fn exec<'a>(&'a self, pod: &'a PodView, exec: Exec) -> Opening<'a, Session> {
        unsupported()
    }

    /// Prepares a session with the main process of a container.
    fn attach<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        channels: Channels,
    ) -> Opening<'a, Session> {
        unsupported()
    }

    /// Prepares a session that carries connections to ports of the pod.
    fn port_forward<'a>(&'a self, pod: &'a PodView, ports: Vec<u16>) -> Opening<'a, Session> {
        unsupported()
    }

    /// Runs a command in a container to its end.
    fn run<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        command: Vec<String>,
    ) -> Opening<'a, Output> {
        unsupported()
    }

    /// Writes a checkpoint of a running container to `path`. A `timeout` that is shorter than the
    /// backend's own deadline does not count.
    fn checkpoint<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        path: &'a Path,
        timeout: Duration,
    ) -> Opening<'a, ()> {
        unsupported()
    }

    /// Opens the log of a container.
    ///
    /// `pod` is the pod as it changes: with [`LogOptions::follow`] the log ends once the container
    /// no longer runs. If the sender is gone, the pod has no task any more.
    fn logs(
        &self,
        pod: watch::Receiver<PodView>,
        container: String,
        options: LogOptions,
    ) -> Opening<'_, LogChunks> {
        unsupported()
    }
}

/// A stream that is being opened.
pub type Opening<'a, T> = BoxFuture<'a, Result<T, StreamError>>;

/// The bytes of a log. An error ends the client's connection.
pub type LogChunks = BoxStream<'static, io::Result<Bytes>>;

fn unsupported<'a, T>() -> Opening<'a, T> {
    async { Err(StreamError::Unsupported) }.boxed()
}

/// The streams of a backend that has none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoStreams;

impl Streams for NoStreams {}

/// A session with a process or a port, ready for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Session {
    /// A server at `url` speaks the client's protocol (SPDY or WebSocket). The client's upgraded
    /// connection is passed through to it, byte for byte, without the client's credentials.
    PassThrough {
        /// E.g. `http://127.0.0.1:41235/exec/Zk2mUcXb`.
        url: String,
    },
}

/// A command to start in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The container's name.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The channels of the session.
    pub channels: Channels,
}

/// The channels of a session, as the client asks for them. At least one of the first three is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// The process's input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors; not set if `tty` is: a terminal has one output.
    pub stderr: bool,
    /// The process gets a terminal.
    pub tty: bool,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub exit_code: i32,
    /// All that it wrote.
    pub written: Vec<u8>,
}

/// The part of a log that is asked for (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The container before this one.
    pub previous: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only lines from this time on.
    pub since: Option<Wall>,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only so many bytes.
    pub limit_bytes: Option<u64>,
}

/// The cause of a [`StreamError`]. Its text is the answer's.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a stream is not opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// What is asked for is not there (404).
    #[error(transparent)]
    NotFound(Cause),
    /// There are too many streams already (429).
    #[error(transparent)]
    Exhausted(Cause),
    /// Anything else (500).
    #[error(transparent)]
    Failed(Cause),
    /// The backend has no such stream (501).
    #[error("this node's backend does not support the request")]
    Unsupported,
}
