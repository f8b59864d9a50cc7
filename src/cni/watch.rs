//! Watches the folder of CNI configurations.
//!
//! In: inotify. Out: a `watch` that counts changes. It never reads a file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

/// The quiet time that ends a change: a configuration is often several files and renames.
const SETTLE: Duration = Duration::from_millis(100);
/// The wait before watching is tried again where it is not possible (no inotify instances left).
const AGAIN: Duration = Duration::from_secs(60);
/// The size of the buffer for events. Events beyond it come with the next read.
const BUFFER: usize = 4096;

/// The watching task; made by [`watch()`].
#[derive(Debug)]
pub struct Watcher {
    dir: PathBuf,
    changes: watch::Sender<u64>,
}

/// Returns the changes of a folder that may not exist yet, and the task that finds them.
pub fn watch(dir: &Path) -> (watch::Receiver<u64>, Watcher) {
    let (changes, receiver) = watch::channel(0);
    (receiver, Watcher { dir: dir.to_owned(), changes })
}

impl Watcher {
    /// Watches for ever. May be dropped at any await.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.follow().await {
                let dir = self.dir.display();
                tracing::warn!(%dir, %error, "the CNI configuration cannot be watched");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Watches the folder, or its nearest ancestor that exists, until the watch has to be set up
    /// anew.
    async fn follow(&self) -> io::Result<()> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let watched = self.watch_nearest(&inotify, mask)?;
        let mut events = inotify.into_event_stream([0; BUFFER])?;

        // A change may have come between the last read and this watch.
        self.changes.send_modify(|changes| *changes += 1);
        while let Some(event) = events.next().await {
            let mut gone = is_gone(event?.mask);
            let settled = tokio::time::sleep(SETTLE);
            tokio::pin!(settled);

            loop {
                tokio::select! {
                    () = &mut settled => break,
                    event = events.next() => match event {
                        Some(event) => gone |= is_gone(event?.mask),
                        None => return Ok(()),
                    },
                }
            }

            self.changes.send_modify(|changes| *changes += 1);
            if gone || (watched != self.dir && self.nearest() != watched) {
                return Ok(());
            }
        }

        Ok(())
    }

    /// Adds a watch on the folder or its nearest ancestor that exists. Returns the watched path.
    fn watch_nearest(&self, inotify: &Inotify, mask: WatchMask) -> io::Result<PathBuf> {
        loop {
            let nearest = self.nearest();
            match inotify.watches().add(&nearest, mask) {
                Ok(_) if self.nearest() == nearest => return Ok(nearest),
                // A deeper folder was created meanwhile: watch it too. The events of its parent do
                // no harm.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the folder, or its nearest ancestor that exists.
    fn nearest(&self) -> PathBuf {
        self.dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
    }
}

/// Returns true if the folder is gone from its place, so that the watch must be set up anew.
fn is_gone(mask: EventMask) -> bool {
    mask.intersects(
        EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT,
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::time::Duration;

    use super::watch;

    #[tokio::test]
    async fn sees_a_folder_that_comes_later_and_its_files() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("cni/net.d");
        let (mut changes, watcher) = watch(&dir);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watcher.run());
        let limit = Duration::from_secs(20);
        let next = async |changes: &mut watch::Receiver<u64>| {
            tokio::time::timeout(limit, changes.changed())
                .await
                .expect("a change")
                .expect("the watcher lives");
        };
        next(&mut changes).await;
        std::fs::create_dir_all(&dir).expect("made");
        next(&mut changes).await;
        for name in ["10-a.conflist", "20-b.conflist"] {
            std::fs::write(dir.join(name), "x").expect("written");
            next(&mut changes).await;
        }
        std::fs::remove_dir_all(&dir).expect("removed");
        next(&mut changes).await;
    }
}
