//! What this process did with one pod and what came of it: one entry per container id, one per
//! container name, the failures, the sandboxes that were stopped. Pure.
//!
//! Written by [`super::Memory`] when actions begin and end; read by the planner.

use std::collections::{BTreeMap, BTreeSet};

use super::container::{ContainerMemory, HookState};
use super::slot::{Backoff, ImageState, NextImage, Slot};
use crate::model::observed::Remembered;
use crate::model::{ContainerId, Now, SandboxId};
use crate::pods::plan::types::{Key, KillReason};
use crate::resources::Figures;
use crate::resources::allocation::Requirements;

/// What this process did with one pod.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// By container id.
    pub containers: BTreeMap<ContainerId, ContainerMemory>,
    /// By container name. Boxed: a map of any size has room for eleven values.
    pub slots: BTreeMap<String, Box<Slot>>,
    /// The last failure of each key that has failed since it last succeeded.
    pub failures: BTreeMap<Key, Failure>,
    /// Sandboxes that were stopped with success. One that merely is not ready may still hold an
    /// address.
    pub stopped: BTreeSet<SandboxId>,
    /// The pod's cgroup and directories.
    pub preparation: Preparation,
    /// CPU and memory of the pod's cgroup.
    pub cgroup: CgroupState,
}

/// CPU and memory of a pod's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupState {
    /// The figures that it has; `None`: there is no cgroup, or it is not known yet.
    pub has: Option<Figures>,
    /// The figures that follow from the pod's spec.
    pub wants: Figures,
}

impl CgroupState {
    /// Returns true if the cgroup was made for other resources than the spec's.
    pub fn is_outdated(self) -> bool {
        self.has.is_some_and(|has| has.differ_from(self.wants))
    }
}

/// The state of a pod's cgroup and directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preparation {
    /// There are none.
    #[default]
    Absent,
    /// An earlier process left some: they have to go even if the pod stops before it is prepared.
    LeftBehind,
    /// This process has made them.
    Prepared,
}

/// The last failure of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How often in a row.
    pub count: u32,
    /// When.
    pub at: Now,
    /// The waiting reason for a container start (`CreateContainerConfigError`, …); else the stage.
    pub reason: String,
    /// The message.
    pub message: String,
}

impl Known {
    /// Returns true once the pod's cgroup and directories exist.
    pub fn is_prepared(&self) -> bool {
        self.preparation == Preparation::Prepared
    }

    /// Returns why a container was stopped by this process. One that was stopped in order to be
    /// replaced is started again whatever its exit code; one whose state stays unknown counts as
    /// stopped.
    pub fn killed(&self, id: &ContainerId) -> Option<&KillReason> {
        self.containers.get(id)?.stop.killed()
    }

    /// Returns why a container is being stopped, from the kill's begin to its end.
    pub fn killing(&self, id: &ContainerId) -> Option<&KillReason> {
        self.containers.get(id)?.stop.killing()
    }

    /// Returns how a container's postStart hook ended, once it has.
    pub fn hook(&self, id: &ContainerId) -> Option<&HookState> {
        self.containers.get(id)?.hook.as_ref()
    }

    /// Returns true if a container's preStop hook has been run ahead of its kill.
    pub fn is_pre_stopped(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|container| container.pre_stopped)
    }

    /// Returns the resources last applied to a container.
    pub fn given(&self, id: &ContainerId) -> Option<&Requirements> {
        self.containers.get(id)?.given.as_ref()
    }

    /// Returns the image subsystem's answer for a container's next start.
    pub fn image(&self, name: &str) -> Option<&ImageState> {
        match &self.slots.get(name)?.image {
            NextImage::Answered(state) => Some(state),
            NextImage::Unknown | NextImage::PulledAhead => None,
        }
    }

    /// Returns true if nothing is known of the image for a container's next start.
    pub fn is_image_unknown(&self, name: &str) -> bool {
        self.slots.get(name).is_none_or(|slot| slot.image == NextImage::Unknown)
    }

    /// Returns a container's crash back-off.
    pub fn backoff(&self, name: &str) -> Option<&Backoff> {
        self.slots.get(name)?.backoff.as_ref()
    }

    /// Returns restart count and exit of the newest removed container of that name.
    pub fn remembered(&self, name: &str) -> Option<&Remembered> {
        self.slots.get(name)?.remembered.as_ref()
    }

    /// Returns the hash that a container of that name should have.
    pub fn expected_hash(&self, name: &str) -> Option<u64> {
        self.slots.get(name)?.expected_hash
    }

    /// Returns the entry of a container, made if need be.
    pub(super) fn container_mut(&mut self, id: &ContainerId) -> &mut ContainerMemory {
        self.containers.entry(id.clone()).or_default()
    }

    /// Returns the entry of a container name, made if need be.
    pub(super) fn slot_mut(&mut self, name: &str) -> &mut Slot {
        self.slots.entry(name.to_owned()).or_default()
    }
}
