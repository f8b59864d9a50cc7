//! The task that owns the ledger: hears plugins and pods, publishes the figures, keeps the
//! checkpoint.
//!
//! In: commands of the handle, news of device plugins. Out: replies, figures, the file. It never
//! waits for a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Allocation;
use super::ledger::Ledger;
use super::provider::{Ask, Step};
use crate::clock::Clock;
use crate::linux::blocking;
use crate::linux::fs::{WriteOptions, write_atomic_with};
use crate::model::{Mono, PodUid};
use crate::resources::devices::error::DeviceError;
use crate::resources::devices::inventory::Inventory;
use crate::resources::devices::{self, Answer, Connection, Figures, Health, News, checkpoint};
use crate::watch::set_if_changed;

/// The record of the devices that containers have, in the folder of device plugins.
pub(super) const CHECKPOINT: &str = "kubelet_internal_checkpoint";

/// The pause before a checkpoint that could not be written is written again.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

/// What [`Command::Next`] is answered with: the step, and the plugin that it calls if it is there.
type Next = Result<(Step, Option<Connection>), DeviceError>;

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    /// The next step on a container's way to what it asks for.
    Next { ask: Ask, answer: Option<Answer>, reply: oneshot::Sender<Next> },
    /// What a container has, with the plugins that gave it.
    Held { ask: Ask, reply: oneshot::Sender<Result<Held, DeviceError>> },
    /// What a container gets.
    Read { ask: Ask, reply: oneshot::Sender<Allocation> },
    /// How many of each resource pods have.
    Given { reply: oneshot::Sender<BTreeMap<String, i64>> },
    /// A pod is over.
    Forget(PodUid),
}

/// What a container has.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The devices of each resource, and the plugin if it is there.
    pub(super) devices: Vec<(BTreeSet<String>, Option<Connection>)>,
    /// Whether it lacks something that it asks for.
    pub(super) is_short: bool,
}

pub(super) struct Task {
    ledger: Ledger,
    /// The plugins that are there, with their generation.
    plugins: BTreeMap<String, (u64, Connection)>,
    generation: u64,
    /// Follow the plugins' lists.
    followers: JoinSet<()>,
    /// For the followers.
    news: mpsc::Sender<News>,
    file: PathBuf,
    /// When the checkpoint is written again, after a write that failed.
    keep_at: Option<Mono>,
    clock: Clock,
    published: Published,
}

/// What others follow.
#[derive(Debug)]
pub(super) struct Published {
    /// Capacity and allocatable of each resource.
    pub(super) figures: watch::Sender<Figures>,
    /// The health of the devices that containers have.
    pub(super) health: watch::Sender<Health>,
}

impl Task {
    pub(super) fn new(
        folder: &Path,
        clock: Clock,
        published: Published,
        news: mpsc::Sender<News>,
    ) -> Self {
        let file = folder.join(CHECKPOINT);
        let ledger = Ledger { devices: restore(&file, clock) };
        published.figures.send_replace(ledger.devices.figures());
        published.health.send_replace(ledger.devices.health());
        Self {
            ledger,
            plugins: BTreeMap::new(),
            generation: 0,
            followers: JoinSet::new(),
            news,
            file,
            keep_at: None,
            clock,
            published,
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut news: mpsc::Receiver<News>,
    ) {
        loop {
            let next = self.ledger.devices.expire(self.clock.now().mono);
            self.publish();
            let clock = self.clock;
            let keep_at = self.keep_at;
            // Cancel-safe: all of them only wait.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                Some(news) = news.recv() => self.hear(news).await,
                Some(_) = self.followers.join_next() => {}
                () = clock.sleep_until_some(next) => {}
                () = clock.sleep_until_some(keep_at), if keep_at.is_some() => self.keep().await,
            }
        }
    }

    async fn command(&mut self, command: Command) {
        // Who asked and no longer waits needs no answer.
        match command {
            Command::Next { ask, answer, reply } => {
                reply.send(self.next(&ask, answer).await).ok();
            }
            Command::Held { ask, reply } => {
                reply.send(self.held(&ask)).ok();
            }
            Command::Read { ask, reply } => {
                reply.send(self.ledger.allocation(&ask.uid(), &ask.container.name)).ok();
            }
            Command::Given { reply } => {
                reply.send(self.ledger.devices.given()).ok();
            }
            Command::Forget(uid) => {
                if self.ledger.forget(&uid) {
                    self.keep().await;
                }
            }
        }
    }

    async fn next(&mut self, ask: &Ask, answer: Option<Answer>) -> Next {
        let is_settled = matches!(answer, Some(Answer::Allocated { .. } | Answer::Refused { .. }));
        let step = self.ledger.allocate(ask, answer);
        if is_settled {
            self.keep().await;
        }
        let step = step?;
        let plugin = match &step {
            Step::Done => None,
            Step::Call(call) => self.plugin(call.resource()),
        };
        Ok((step, plugin))
    }

    fn held(&self, ask: &Ask) -> Result<Held, DeviceError> {
        let mut held = Held::default();
        for (resource, devices) in self.ledger.devices.held(ask)? {
            match devices {
                Some(devices) => held.devices.push((devices, self.plugin(&resource))),
                None => held.is_short = true,
            }
        }
        Ok(held)
    }

    fn plugin(&self, resource: &str) -> Option<Connection> {
        self.plugins.get(resource).map(|(_, connection)| connection.clone())
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Connected { resource, connection, reply } => {
                self.generation += 1;
                self.ledger.devices.connected(&resource, self.generation);
                self.plugins.insert(resource.clone(), (self.generation, connection.clone()));
                let news = self.news.clone();
                self.followers.spawn(devices::follow(connection, resource, self.generation, news));
                reply.send(()).ok();
            }
            News::Listed { resource, generation, devices } => {
                self.ledger.devices.listed(&resource, generation, devices);
                self.keep().await;
            }
            News::Ended { resource, generation } => {
                info!(resource, "device plugin has gone");
                self.ledger.devices.disconnected(&resource, generation, self.clock.now().mono);
                if self.plugins.get(&resource).is_some_and(|(present, _)| *present == generation) {
                    self.plugins.remove(&resource);
                }
                self.keep().await;
            }
        }
    }

    fn publish(&self) {
        set_if_changed(&self.published.figures, self.ledger.devices.figures());
        set_if_changed(&self.published.health, self.ledger.devices.health());
    }

    /// Writes the checkpoint: a small file in the folder that plugins use. An answer that depends
    /// on it is given after it.
    async fn keep(&mut self) {
        let devices = &self.ledger.devices;
        let text = checkpoint::encode(devices.allocations(), &devices.registered());
        let path = self.file.clone();
        let options = WriteOptions::mode(0o600).synced();
        let written = blocking::spawn(move || write_atomic_with(&path, text, options)).await;
        self.keep_at = None;
        if let Err(error) = written.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            let file = self.file.display();
            warn!(%file, %error, "the devices of containers were not written");
            self.keep_at = Some(self.clock.now().mono.after(KEEP_AGAIN));
        }
    }
}

fn restore(file: &Path, clock: Clock) -> Inventory {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Inventory::default(),
        Err(error) => {
            warn!(file = %file.display(), %error, "the devices of containers could not be read");
            return Inventory::default();
        }
    };
    match checkpoint::decode(&text) {
        Ok(known) => {
            Inventory::restored(known.registered.into_keys(), known.pods, clock.now().mono)
        }
        Err(error) => {
            warn!(file = %file.display(), %error, "the devices of containers are not used");
            Inventory::default()
        }
    }
}
