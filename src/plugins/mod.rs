//! Registers plugins that announce themselves by a socket in `plugins_registry`.
//!
//! ```text
//!  plugins_registry (inotify) ─► task ─► plan* ─► handshake: GetInfo, a Handler, NotifyRegistrationStatus
//! ```
//!
//! - A socket that appears is asked who it is; the [`Handler`] of its type takes the plugin on.
//! - A socket that goes, or is replaced, has its plugin taken off first.
//! - A failed registration is tried again, ever more rarely, while the socket is there.
//! - The folder is made where it is missing. A folder that cannot be watched is read every 10 s.
//!
//! One task owns the state. Handlers are given by `daemon`; a type without one is refused with
//! upstream's text.

mod handshake;
mod plan;
mod scan;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::clock::Clock;

/// The plugin registration API as generated from `proto/pluginregistration/api.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
pub mod v1 {
    include!("../../proto/gen/pluginregistration.rs");
}

/// The type of CSI drivers.
pub const CSI_PLUGIN: &str = "CSIPlugin";
/// The type of device plugins.
pub const DEVICE_PLUGIN: &str = "DevicePlugin";

/// A plugin, as its socket describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The plugin's name, e.g. that of a CSI driver.
    pub name: String,
    /// The socket of the plugin's own API.
    pub endpoint: PathBuf,
    /// The versions of that API that the plugin speaks.
    pub versions: Vec<String>,
}

/// The reason why a plugin is not taken on. The plugin reads its text.
pub type Refusal = Box<dyn Error + Send + Sync>;

/// Takes on plugins of one type.
pub trait Handler: Send + Sync + 'static {
    /// Checks a plugin before anything of it is used.
    fn validate(&self, plugin: &Plugin) -> Result<(), Refusal>;
    /// Takes a plugin on. Dropping the future leaves no half-made state that a later call would not
    /// repair.
    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), Refusal>>;
    /// Takes a plugin off that was taken on.
    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()>;
}

/// The handlers by the type of plugins.
pub type Handlers = BTreeMap<&'static str, Arc<dyn Handler>>;

/// Returns the task that registers plugins; it runs until it is dropped. `folder` is made if it is
/// missing.
pub fn new(
    folder: PathBuf,
    handlers: Handlers,
    clock: Clock,
) -> impl Future<Output = ()> + Send + 'static {
    task::Task::new(folder, handlers, clock).run()
}
