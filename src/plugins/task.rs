//! The task that owns the registered plugins.
//!
//! In: inotify on the folder and its subfolders, ends of handshakes, a timer after failures. Out:
//! calls of handlers. Each handshake is a task of its own: a plugin that hangs holds up no other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tracing::{info, warn};

use super::handshake::{self, HandshakeError, TakenOn};
use super::plan::{Identity, Sockets, Step};
use super::scan::scan;
use super::{Handlers, Plugin};
use crate::clock::Clock;
use crate::linux::blocking;
use crate::linux::fs::ensure_root_dir;
use crate::model::Mono;

/// The pause before the folder is read again where it cannot be watched.
const AGAIN: Duration = Duration::from_secs(10);
/// The size of the buffer for events. Events beyond it come with the next read.
const BUFFER: usize = 4096;

/// The end of one step.
enum Ended {
    Registered { path: PathBuf, by: Identity, outcome: Result<TakenOn, HandshakeError> },
    Deregistered { path: PathBuf },
}

pub(super) struct Task {
    folder: PathBuf,
    handlers: Arc<Handlers>,
    clock: Clock,
    sockets: Sockets,
    /// The plugins that were taken on, by their sockets.
    taken: BTreeMap<PathBuf, TakenOn>,
    steps: JoinSet<Ended>,
    /// The last failure of each socket, so that each is logged once.
    said: BTreeMap<PathBuf, String>,
    /// True if a folder is not watched: then it is read after a pause.
    is_blind: bool,
}

impl Task {
    pub(super) fn new(folder: PathBuf, handlers: Handlers, clock: Clock) -> Self {
        Self {
            folder,
            handlers: Arc::new(handlers),
            clock,
            sockets: Sockets::default(),
            taken: BTreeMap::new(),
            steps: JoinSet::new(),
            said: BTreeMap::new(),
            is_blind: true,
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut events = self.watch();
        self.look(events.as_ref()).await;
        loop {
            let (steps, wake_at) = self.sockets.steps(self.clock.now().mono);
            for step in steps {
                self.begin(step);
            }
            let again = self.is_blind.then(|| self.clock.now().mono.after(AGAIN));
            let wake_at = Mono::earliest(wake_at, again);
            let news = OptionFuture::from(events.as_mut().map(EventStream::next));

            tokio::select! {
                // Each arm is cancel-safe: what it waits on keeps its state outside of the future.
                Some(ended) = self.steps.join_next() => {
                    if let Ok(ended) = ended {
                        self.ended(ended);
                    }
                }
                Some(event) = news => {
                    if event.is_none_or(|event| event.is_err()) {
                        events = self.watch();
                    }
                    self.look(events.as_ref()).await;
                }
                () = self.clock.sleep_until_some(wake_at) => {
                    if self.is_blind {
                        if events.is_none() {
                            events = self.watch();
                        }
                        self.look(events.as_ref()).await;
                    }
                }
            }
        }
    }

    /// Opens the watch; `None` where that is not possible.
    fn watch(&self) -> Option<EventStream<Vec<u8>>> {
        let opened = Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER]));
        let folder = self.folder.display();
        opened
            .inspect_err(|error| warn!(%folder, %error, "the folder of plugins cannot be watched"))
            .ok()
    }

    /// Reads the folder, after every folder in it is watched. A folder that is missing is made.
    async fn look(&mut self, events: Option<&EventStream<Vec<u8>>>) {
        // A subfolder may get its sockets between its scan and its watch: it is read once more.
        for _ in 0..2 {
            let folder = self.folder.clone();
            let read = blocking::spawn(move || {
                ensure_root_dir(&folder, 0o755)?;
                scan(&folder)
            })
            .await;
            let found = match read.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
                Ok(found) => found,
                Err(error) => {
                    let folder = self.folder.display();
                    warn!(%folder, %error, "the folder of plugins cannot be read");
                    self.is_blind = true;
                    return;
                }
            };
            let mut is_blind = events.is_none();
            if let Some(events) = events {
                for folder in &found.folders {
                    is_blind |= !add(events, folder);
                }
            }
            self.is_blind = is_blind;
            self.sockets.look(&found.sockets);
        }
    }

    fn begin(&mut self, step: Step) {
        match step {
            Step::Register(path, by) => {
                let handlers = Arc::clone(&self.handlers);
                self.steps.spawn(async move {
                    let outcome = handshake::register(&path, &handlers).await;
                    Ended::Registered { path, by, outcome }
                });
            }
            Step::Deregister(path) => {
                let taken = self.taken.remove(&path);
                self.steps.spawn(async move {
                    if let Some(TakenOn { plugin, handler }) = taken {
                        info!(plugin = plugin.name, "plugin deregistered");
                        handler.deregister(&plugin).await;
                    }
                    Ended::Deregistered { path }
                });
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let now = self.clock.now().mono;
        match ended {
            Ended::Registered { path, by, outcome: Ok(taken) } => {
                let Plugin { name, endpoint, .. } = &taken.plugin;
                info!(plugin = name, endpoint = %endpoint.display(), "plugin registered");
                self.said.remove(&path);
                self.sockets.registered(&path, by, true, now);
                self.taken.insert(path, taken);
            }
            Ended::Registered { path, by, outcome: Err(error) } => {
                let text = error.to_string();
                if self.said.get(&path) != Some(&text) {
                    warn!(socket = %path.display(), error = text, "a plugin is not registered");
                    self.said.insert(path.clone(), text);
                }
                self.sockets.registered(&path, by, false, now);
            }
            Ended::Deregistered { path } => {
                self.said.remove(&path);
                self.sockets.deregistered(&path);
            }
        }
    }
}

/// Watches one folder; returns true if it is watched now. Watching it again changes nothing.
fn add(events: &EventStream<Vec<u8>>, folder: &Path) -> bool {
    let mask = WatchMask::CREATE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    events
        .watches()
        .add(folder, mask)
        .inspect_err(|error| {
            tracing::debug!(folder = %folder.display(), %error, "a folder of plugins is not watched");
        })
        .is_ok()
}
