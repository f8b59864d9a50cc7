//! Who looks on: a simulation sees every call when it is made and every change before it happens,
//! and may interfere.

use std::collections::BTreeMap;

use super::Effect;
use super::world::{FakeContainer, FakeSandbox};
use crate::cri::v1;

/// A call that is being made.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// E.g. `CreateContainer`.
    pub call: &'static str,
    /// What it is about; see [`super::Call`].
    pub target: &'a str,
    /// The UID of the pod that it is about, if it changes one.
    pub pod: &'a str,
}

/// A change that is about to happen because somebody has asked for it.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    /// A sandbox is made.
    RunSandbox(&'a v1::PodSandboxConfig),
    /// A container is made.
    Create {
        /// The sandbox's id.
        sandbox: &'a str,
        /// The container.
        config: &'a v1::ContainerConfig,
    },
    /// A container is started.
    Start(&'a FakeContainer),
    /// A container is asked to stop.
    Stop {
        /// The container.
        container: &'a FakeContainer,
        /// Its grace in seconds.
        grace: i64,
    },
    /// A container is removed.
    Remove(&'a FakeContainer),
    /// A sandbox is stopped.
    StopSandbox(&'a FakeSandbox),
    /// A sandbox is removed.
    RemoveSandbox(&'a FakeSandbox),
}

/// The runtime as it is.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Every sandbox.
    pub sandboxes: &'a BTreeMap<String, FakeSandbox>,
    /// Every container.
    pub containers: &'a BTreeMap<String, FakeContainer>,
}

/// What becomes of an event on its way to one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It arrives.
    Once,
    /// It arrives twice.
    Twice,
    /// It is lost.
    Never,
    /// It arrives with a later one.
    Late,
}

/// Looks on. Called with locks of the runtime held (but for `call`): it must not call the runtime.
pub trait Witness: Send + Sync {
    /// A call is made; what to do to it.
    fn call(&self, attempt: &Attempt<'_>) -> Option<Effect>;
    /// A change is about to happen.
    fn deed(&self, deed: &Deed<'_>, scene: &Scene<'_>);
    /// An event is about to be delivered.
    fn event(&self) -> Delivery;
}
