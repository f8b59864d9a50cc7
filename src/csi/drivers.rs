//! The CSI drivers that are registered on this node.
//!
//! Written by the registration, read by volumes, which wait for a driver on the `watch`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::client::{Client, Observer};
use super::error::CsiError;
use crate::clock::Clock;

/// One registered driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The socket of the driver's own API.
    pub endpoint: PathBuf,
    /// The highest version that the driver speaks, as major, minor, patch.
    pub version: (u64, u64, u64),
}

/// The registered drivers by name.
pub type Table = BTreeMap<String, Registered>;

/// Reads and writes the table of drivers, and makes their clients. Cheap to clone.
#[derive(Clone)]
pub struct Drivers {
    table: Arc<watch::Sender<Table>>,
    clock: Clock,
    observer: Observer,
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers").field("table", &*self.table.borrow()).finish_non_exhaustive()
    }
}

impl Drivers {
    /// Creates an empty table.
    pub fn new(clock: Clock, observer: Observer) -> Self {
        Self { table: Arc::new(watch::Sender::default()), clock, observer }
    }

    /// Creates an empty table whose calls are not counted; for tests and nodes without an API
    /// server.
    pub fn uncounted(clock: Clock) -> Self {
        Self::new(clock, Arc::new(|_, _, _, _| {}))
    }

    /// The table, now and from now on.
    pub fn subscribe(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }

    /// Returns the entry of a driver.
    pub fn get(&self, name: &str) -> Option<Registered> {
        self.table.borrow().get(name).cloned()
    }

    /// Enters a driver, or replaces its entry.
    pub fn insert(&self, name: &str, driver: Registered) {
        self.table.send_modify(|table| drop(table.insert(name.to_owned(), driver)));
    }

    /// Removes a driver. A missing one is done.
    pub fn remove(&self, name: &str) {
        self.table.send_if_modified(|table| table.remove(name).is_some());
    }

    /// Returns the client of a driver.
    pub fn client(&self, name: &str) -> Result<Client, CsiError> {
        let driver = self.get(name).ok_or_else(|| CsiError::NotRegistered(name.to_owned()))?;
        Ok(Client::new(name, driver.endpoint, self.clock, Arc::clone(&self.observer)))
    }
}
