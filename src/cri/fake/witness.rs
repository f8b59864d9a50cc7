//! Shows the fake runtime's work to a simulation, which sees every call when it is made and every
//! change before it happens, and may interfere.

use std::collections::BTreeMap;

use super::Effect;
use super::world::{FakeContainer, FakeSandbox};
use crate::cri::v1;

/// A call that is being made.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The call's name, e.g. `CreateContainer`.
    pub call: &'static str,
    /// The call's target; see [`super::Call`].
    pub target: &'a str,
    /// The UID of the pod that the call changes, if it changes one.
    pub pod: &'a str,
}

/// A change that a call is about to make.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    /// A sandbox is created.
    RunSandbox(&'a v1::PodSandboxConfig),
    /// A container is created.
    Create {
        /// The sandbox's id.
        sandbox: &'a str,
        /// The container's configuration.
        config: &'a v1::ContainerConfig,
    },
    /// A container is started.
    Start(&'a FakeContainer),
    /// A container is stopped.
    Stop {
        /// The container.
        container: &'a FakeContainer,
        /// The container's grace in seconds.
        grace: i64,
    },
    /// A container is removed.
    Remove(&'a FakeContainer),
    /// A sandbox is stopped.
    StopSandbox(&'a FakeSandbox),
    /// A sandbox is removed.
    RemoveSandbox(&'a FakeSandbox),
}

/// The runtime's present state.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Every sandbox.
    pub sandboxes: &'a BTreeMap<String, FakeSandbox>,
    /// Every container.
    pub containers: &'a BTreeMap<String, FakeContainer>,
}

/// The delivery of an event to one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The event arrives.
    Once,
    /// The event arrives twice.
    Twice,
    /// The event is lost.
    Never,
    /// The event arrives with a later one.
    Late,
}

/// Observes the runtime. Its methods (but for `call`) run under locks of the runtime: they must not
/// call the runtime.
pub trait Witness: Send + Sync {
    /// A call is made. Returns its effect.
    fn call(&self, attempt: &Attempt<'_>) -> Option<Effect>;
    /// A change is about to happen.
    fn deed(&self, deed: &Deed<'_>, scene: &Scene<'_>);
    /// An event is about to be delivered. Returns its delivery.
    fn event(&self) -> Delivery;
}
