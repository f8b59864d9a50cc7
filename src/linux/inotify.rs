//! Watches a directory: a stream of coalesced hints that its entries may have changed.
//!
//! A hint names the entries that were touched; who gets one reads them again. A lost event (queue overflow) is a hint
//! about everything, so that losing events never loses a change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

/// Room for a few dozen events with names; the kernel keeps what does not fit.
const BUFFER: usize = 4096;

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These entries were made, written, moved, or removed.
    Entries(BTreeSet<OsString>),
    /// Anything: events were lost.
    Everything,
    /// The directory itself was removed, moved or unmounted; this watch will tell nothing more.
    Gone,
}

/// A watch of one directory (not of its subdirectories).
pub struct DirectoryWatch {
    path: PathBuf,
    events: EventStream<Vec<u8>>,
    /// Collected, not yet handed out: kept here so that a cancelled wait loses nothing.
    pending: BTreeSet<OsString>,
    lost: bool,
    gone: bool,
    told_gone: bool,
}

impl std::fmt::Debug for DirectoryWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectoryWatch").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DirectoryWatch {
    /// Begins to watch. Whoever wants to miss nothing reads the directory after this. Needs a tokio runtime.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(path, mask)?;
        let events = inotify.into_event_stream(vec![0; BUFFER])?;
        Ok(Self { path: path.to_owned(), events, pending: BTreeSet::new(), lost: false, gone: false, told_gone: false })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next change, then for `settle` longer, so that one write is one hint. Cancel-safe. After
    /// [`Change::Gone`] it never returns.
    pub async fn changed(&mut self, settle: Duration) -> Change {
        if self.told_gone {
            std::future::pending::<()>().await;
        }
        while self.pending.is_empty() && !self.lost && !self.gone {
            self.collect().await;
        }
        let more = async {
            while !self.gone {
                self.collect().await;
            }
        };
        // Ends by the time-out unless the directory goes away; either way what was collected is handed out.
        drop(tokio::time::timeout(settle, more).await);
        let entries = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.lost) {
            Change::Everything
        } else if !entries.is_empty() {
            Change::Entries(entries)
        } else {
            self.told_gone = true;
            Change::Gone
        }
    }

    /// Takes one event. Cancel-safe: nothing is awaited after it was taken.
    async fn collect(&mut self) {
        match self.events.next().await {
            Some(Ok(event)) => {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    self.lost = true;
                } else if event
                    .mask
                    .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED)
                {
                    self.gone = true;
                } else if let Some(name) = event.name {
                    self.pending.insert(name);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(path = %self.path.display(), error = %error, "Could not read file events");
                self.gone = true;
            }
            None => self.gone = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Change, DirectoryWatch};
    use crate::linux::fs::write_atomic;

    const SETTLE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn tells_what_was_written_moved_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = DirectoryWatch::new(dir.path()).expect("watched");
        write_atomic(&dir.path().join("a"), "1", 0o600).expect("written");
        let Change::Entries(names) = watch.changed(SETTLE).await else { panic!("entries") };
        assert!(names.contains(std::ffi::OsStr::new("a")), "{names:?}");
        std::fs::remove_file(dir.path().join("a")).expect("removed");
        assert_eq!(watch.changed(SETTLE).await, Change::Entries(BTreeSet::from(["a".into()])));
    }

    #[tokio::test]
    async fn tells_that_the_directory_is_gone_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("d");
        std::fs::create_dir(&path).expect("made");
        let mut watch = DirectoryWatch::new(&path).expect("watched");
        std::fs::remove_dir(&path).expect("removed");
        assert_eq!(watch.changed(SETTLE).await, Change::Gone);
        tokio::time::timeout(SETTLE, watch.changed(SETTLE)).await.expect_err("nothing more to tell");
        assert!(DirectoryWatch::new(&path).is_err(), "there is nothing to watch");
    }
}
