//! The lock of `--lock-file`: one kubelet at a time on a node.
//!
//! 1. The lock is taken before anything else is done, however long that takes; as upstream.
//! 2. The lock is held until the process ends.
//! 3. With `--exit-on-lock-contention` the kubelet ends as soon as another process opens the file.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The lock, held for as long as this lives.
#[derive(Debug)]
pub(super) struct LockFile {
    _lock: Flock<File>,
}

/// Takes the lock of the file. Returns `None` if the kubelet was stopped before it had the lock.
pub(super) async fn acquire(
    path: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<LockFile>> {
    info!(path, "Acquiring file lock");
    let file = PathBuf::from(path);
    let locked = crate::linux::blocking::spawn(move || lock(&file));
    match shutdown.run_until_cancelled(locked).await {
        None => Ok(None),
        Some(lock) => lock?
            .map(|lock| Some(LockFile { _lock: lock }))
            .with_context(|| format!("unable to acquire file lock on {path:?}")),
    }
}

fn lock(path: &Path) -> std::io::Result<Flock<File>> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Watches the file: the task ends the kubelet through `shutdown` when it is opened or removed.
pub(super) fn end_on_contention(
    path: &str,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    info!(path, "Watching for inotify events");
    let inotify = Inotify::init().context("Unable to create watcher for lockfile")?;
    let mask = WatchMask::OPEN | WatchMask::DELETE_SELF;
    inotify.watches().add(path, mask).context("Unable to watch lockfile")?;
    let mut events = inotify.into_event_stream([0_u8; 1024])?;
    Ok(async move {
        if let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
            info!(event = ?event.map(|event| event.mask), "Inotify event");
            shutdown.cancel();
        }
        shutdown.cancelled().await;
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_second_kubelet_waits_and_ends_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock").display().to_string();
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let held = acquire(&path, &first).await.expect("taken").expect("not ended");
        let watched = end_on_contention(&path, first.clone()).expect("watched");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watched);
        let waits = acquire(&path, &second);
        let mut waits = std::pin::pin!(waits);
        tokio::time::timeout(Duration::from_millis(100), &mut waits).await.expect_err("held");
        tokio::time::timeout(Duration::from_secs(10), first.cancelled()).await.expect("told");
        drop(held);
        waits.await.expect("taken").expect("not ended");
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_is_an_error() {
        let error = acquire("/nonexistent/lock", &CancellationToken::new()).await;
        let error = format!("{:#}", error.expect_err("there is no folder"));
        assert_eq!(
            error,
            "unable to acquire file lock on \"/nonexistent/lock\": No such file or directory (os error 2)"
        );
    }
}
