//! The task that owns the inventory: hears plugins and pods, tells the figures, keeps the
//! checkpoint.
//!
//! In: commands of the handle, events of the plugins that it follows. Out: replies, figures, the
//! file. It never waits for a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::inventory::{Inventory, Need};
use super::plugin::{self, Connection, Devices};
use super::v1beta1::ContainerAllocateResponse;
use super::{DeviceOptions, Figures, Request, checkpoint};
use crate::clock::Clock;
use crate::linux::fs::write_atomic;
use crate::model::PodUid;

const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// How many lists of plugins may wait.
const EVENTS: usize = 64;

/// What [`Command::Need`] is answered with: what to do, and the plugin if it is there.
type Needed = Result<(Need, Option<Connection>), String>;

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    /// A plugin has been taken on.
    Connected { resource: String, connection: Connection, reply: oneshot::Sender<()> },
    /// What a container lacks.
    Need { request: Request, resource: String, count: usize, reply: oneshot::Sender<Needed> },
    /// Set devices aside.
    Reserve {
        request: Request,
        resource: String,
        count: usize,
        preferred: BTreeSet<String>,
        reply: oneshot::Sender<Result<BTreeSet<String>, String>>,
    },
    /// The plugin has answered.
    Answered {
        request: Request,
        resource: String,
        response: Option<ContainerAllocateResponse>,
        reply: oneshot::Sender<()>,
    },
    /// What a container's devices come with.
    Options { request: Request, reply: oneshot::Sender<DeviceOptions> },
    /// A pod is over.
    Forget(PodUid),
}

/// What a plugin does.
#[derive(Debug)]
pub(super) enum Event {
    /// Its devices.
    Listed { resource: String, generation: u64, devices: Devices },
    /// It has gone.
    Ended { resource: String, generation: u64 },
}

pub(super) struct Task {
    inventory: Inventory,
    /// The plugins that are there, with their generation.
    plugins: BTreeMap<String, (u64, Connection)>,
    generation: u64,
    file: PathBuf,
    clock: Clock,
    figures: watch::Sender<Figures>,
}

impl Task {
    pub(super) fn new(folder: &Path, clock: Clock, figures: watch::Sender<Figures>) -> Self {
        let file = folder.join(CHECKPOINT);
        let inventory = restore(&file, clock);
        figures.send_replace(inventory.figures());
        Self { inventory, plugins: BTreeMap::new(), generation: 0, file, clock, figures }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (events, mut heard) = mpsc::channel(EVENTS);
        let mut followers: JoinSet<()> = JoinSet::new();
        loop {
            let next = self.inventory.expire(self.clock.now().mono);
            self.tell();
            let clock = self.clock;
            // Cancel-safe: all of them only wait.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command, &events, &mut followers),
                    None => return,
                },
                Some(event) = heard.recv() => self.event(event),
                Some(_) = followers.join_next() => {}
                () = clock.sleep_until_some(next) => {}
            }
        }
    }

    fn command(
        &mut self,
        command: Command,
        events: &mpsc::Sender<Event>,
        followers: &mut JoinSet<()>,
    ) {
        // Whoever asked and no longer waits needs no answer.
        match command {
            Command::Connected { resource, connection, reply } => {
                self.generation += 1;
                self.inventory.connected(&resource, self.generation);
                self.plugins.insert(resource.clone(), (self.generation, connection.clone()));
                followers.spawn(plugin::follow(
                    connection,
                    resource,
                    self.generation,
                    events.clone(),
                ));
                reply.send(()).ok();
            }
            Command::Need { request, resource, count, reply } => {
                let plugin = self.plugins.get(&resource).map(|(_, connection)| connection.clone());
                reply
                    .send(
                        self.inventory.need(&request, &resource, count).map(|need| (need, plugin)),
                    )
                    .ok();
            }
            Command::Reserve { request, resource, count, preferred, reply } => {
                reply.send(self.inventory.reserve(&request, &resource, count, &preferred)).ok();
            }
            Command::Answered { request, resource, response, reply } => {
                self.inventory.answered(&request, &resource, response);
                self.keep();
                reply.send(()).ok();
            }
            Command::Options { request, reply } => {
                reply.send(self.inventory.options(&request)).ok();
            }
            Command::Forget(uid) => {
                if self.inventory.forget(&uid) {
                    self.keep();
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Listed { resource, generation, devices } => {
                self.inventory.listed(&resource, generation, devices);
                self.keep();
            }
            Event::Ended { resource, generation } => {
                info!(resource, "device plugin has gone");
                self.inventory.disconnected(&resource, generation, self.clock.now().mono);
                if self.plugins.get(&resource).is_some_and(|(present, _)| *present == generation) {
                    self.plugins.remove(&resource);
                }
                self.keep();
            }
        }
    }

    fn tell(&self) {
        let now = self.inventory.figures();
        self.figures.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// A small file in the folder that plugins use, written in place of the one before.
    fn keep(&self) {
        let text = checkpoint::encode(self.inventory.allocations(), &self.inventory.registered());
        if let Err(error) = write_atomic(&self.file, text, 0o600) {
            warn!(file = %self.file.display(), %error, "what devices containers have could not be kept");
        }
    }
}

fn restore(file: &Path, clock: Clock) -> Inventory {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Inventory::default(),
        Err(error) => {
            warn!(file = %file.display(), %error, "what devices containers have could not be read");
            return Inventory::default();
        }
    };
    match checkpoint::decode(&text) {
        Ok(known) => {
            Inventory::restored(known.registered.into_keys(), known.pods, clock.now().mono)
        }
        Err(error) => {
            warn!(file = %file.display(), %error, "what devices containers have is not used");
            Inventory::default()
        }
    }
}
