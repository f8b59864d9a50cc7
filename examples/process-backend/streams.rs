//! The ways into a pod: its logs, and commands beside its processes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use rkubelet::agent::{CommandError, Commands};
use rkubelet::backend::{
    ContainerId, LogChunks, LogOptions, Opening, Output, PodView, StreamError, Streams,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::process::Command;
use tokio::sync::watch;

use crate::process::{Attempt, Folder};

/// The pause between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);
/// The bytes that are passed on at once.
const CHUNK: usize = 32 << 10;

/// Logs and commands of processes. Sessions (exec, attach, port-forward) are refused.
#[derive(Debug)]
pub(crate) struct ProcessStreams {
    folder: Folder,
}

impl ProcessStreams {
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder }
    }
}

/// Runs a command with the environment of a container. Dropping the future kills it.
async fn run(attempt: Option<Attempt>, command: Vec<String>) -> io::Result<Output> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the container does not run");
    let attempt = attempt.ok_or_else(gone)?;
    let (program, arguments) = command.split_first().ok_or_else(gone)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(attempt.environment()).kill_on_drop(true);
    let ended = command.output().await?;
    let mut written = ended.stdout;
    written.extend(ended.stderr);
    Ok(Output { exit_code: ended.status.code().unwrap_or(137), written })
}

impl Commands for ProcessStreams {
    fn run(
        &self,
        container: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Output, CommandError>> {
        let attempt = self.folder.container(container.as_str());
        async move {
            match tokio::time::timeout(timeout, run(attempt, command)).await {
                Ok(ended) => ended.map_err(|error| CommandError::Failed(error.into())),
                Err(_) => Err(CommandError::TimedOut),
            }
        }
        .boxed()
    }
}

impl Streams for ProcessStreams {
    fn run<'a>(
        &'a self,
        pod: &'a PodView,
        container: &'a str,
        command: Vec<String>,
    ) -> Opening<'a, Output> {
        let newest = pod.observed.latest(container);
        let attempt = newest.and_then(|newest| self.folder.container(newest.id.as_str()));
        let ended = run(attempt, command);
        async move { ended.await.map_err(|error| StreamError::Failed(error.into())) }.boxed()
    }

    fn logs(
        &self,
        pod: watch::Receiver<PodView>,
        container: String,
        options: LogOptions,
    ) -> Opening<'_, LogChunks> {
        async move {
            let observed = pod.borrow().observed.clone();
            let mut attempts = observed.containers.iter().filter(|seen| seen.name == container);
            let wanted = if options.previous { attempts.nth(1) } else { attempts.next() };
            let Some(wanted) = wanted else {
                let text = format!("container \"{container}\" has no log on this node");
                return Err(StreamError::NotFound(text.into()));
            };
            let path = PathBuf::from(&wanted.log_path);
            let log = Log::open(path, &options).await;
            let mut log = log.map_err(|error| StreamError::Failed(error.into()))?;
            log.follows = options.follow.then(|| (pod, wanted.id.clone()));
            Ok(futures::stream::unfold(log, Log::next).boxed())
        }
        .boxed()
    }
}

/// A log that is being read.
struct Log {
    file: tokio::fs::File,
    /// The bytes that may still be passed on.
    left: u64,
    /// The container whose end ends the log.
    follows: Option<(watch::Receiver<PodView>, ContainerId)>,
}

impl Log {
    /// Opens a log at the begin of its last lines. Times are not kept: they cannot be shown.
    async fn open(path: PathBuf, options: &LogOptions) -> io::Result<Self> {
        let mut file = tokio::fs::File::open(&path).await?;
        if let Some(lines) = options.tail_lines {
            let text = tokio::fs::read(&path).await?;
            let begin = begin_of_last(&text, usize::try_from(lines).unwrap_or(usize::MAX));
            file.seek(io::SeekFrom::Start(begin)).await?;
        }
        Ok(Self { file, left: options.limit_bytes.unwrap_or(u64::MAX), follows: None })
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            // Before the read: what was written until the container's end is read.
            let goes_on = self.goes_on();
            let most = CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK));
            let mut chunk = vec![0; most];
            match self.file.read(&mut chunk).await {
                Ok(0) if most == 0 || !goes_on => return None,
                Ok(0) => tokio::time::sleep(LOOK).await,
                Ok(read) => {
                    chunk.truncate(read);
                    self.left -= read as u64;
                    return Some((Ok(chunk.into()), self));
                }
                Err(error) => return Some((Err(error), self)),
            }
        }
    }

    fn goes_on(&self) -> bool {
        let Some((pod, id)) = &self.follows else { return false };
        let view = pod.borrow();
        let runs = view.observed.container(id).is_some_and(|seen| seen.state.is_running());
        runs && pod.has_changed().is_ok()
    }
}

/// The position at which the last lines begin.
fn begin_of_last(text: &[u8], lines: usize) -> u64 {
    let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    // The end of the last line does not count.
    let skip = usize::from(text.last() == Some(&b'\n'));
    let before = ends.map(|(at, _)| at).nth(lines.saturating_sub(1).saturating_add(skip));
    if lines == 0 { text.len() as u64 } else { before.map_or(0, |at| at as u64 + 1) }
}
