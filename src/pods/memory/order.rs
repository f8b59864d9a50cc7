//! What an order of dispatch changes in the memory of a pod: a newer object, an order to stop, a
//! decision about a resize, an object that is gone. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{Removal, Source};
use super::slot::NextImage;
use super::{Ending, Memory, Now, ObjectChange};
use crate::dispatch::{Resize, Stop};
use crate::model::{ContainerId, Lifecycle, Mono, Pod, pod};
use crate::pods::plan::types::{Key, Transition};
use crate::pods::request::container_hash;
use crate::resources::Figures;
use crate::resources::allocation::requirements;

/// How long the remains of a deleted pod stay. A deleted pod often has a successor, and the runtime
/// would remove the old one at the expense of the new one's start. A manifest's pod goes at once:
/// its successor has the same names.
const REMOVAL_DELAY: Duration = Duration::from_millis(500);

/// How long they may stay while other pods wait for their start or stop. Short: a kubelet that is
/// killed again and again begins to count anew each time, and remains slow the runtime.
const REMOVAL_DELAY_AT_MOST: Duration = Duration::from_secs(2);

/// What dispatch wants of a pod's task; the newest order replaces the ones before.
#[derive(Clone, Debug)]
pub struct Order {
    /// The newest object.
    pub pod: Arc<Pod>,
    /// Whether the object is gone from its source.
    pub gone: bool,
    /// Stop the pod for the node's sake; the grace only shrinks.
    pub stop: Option<Stop>,
    /// What was decided about the newest change of its resources.
    pub resize: Resize,
    /// Containers that have ended and that the node wants removed.
    pub collect: BTreeSet<ContainerId>,
}

impl Memory {
    /// Applies the newest order.
    pub(super) fn follow(&mut self, order: Order, now: Now) {
        if !Arc::ptr_eq(&order.pod, &self.pod) {
            self.update(order.pod);
        }
        if self.resize.decide(&order.resize, &self.pod, &mut self.next.notices) {
            self.known.failures.remove(&Key::Resize);
        }
        self.set_source(order.gone, now.mono);
        self.facts.collect = order.collect;
        if let Some(stop) = order.stop {
            self.obey_stop(stop, now);
        }
        if let ObjectChange::Updated { is_stopping } = &mut self.next.object {
            *is_stopping = self.lifecycle.is_stopping();
        }
    }

    fn set_source(&mut self, gone: bool, now: Mono) {
        if !gone {
            self.facts.source = Source::Present;
        } else if !self.facts.is_gone() {
            let removal = if pod::is_static(&self.pod) {
                Removal::Due
            } else {
                Removal::Delayed {
                    at: now.after(REMOVAL_DELAY),
                    at_most: now.after(REMOVAL_DELAY_AT_MOST),
                }
            };
            self.facts.source = Source::Gone(removal);
        }
    }

    /// Stops the pod. An order is obeyed once; its grace counts from when the pod began to stop.
    fn obey_stop(&mut self, Stop { cause, grace }: Stop, now: Now) {
        match &self.lifecycle {
            Lifecycle::Syncing => {
                self.transit(&Transition::Terminate { cause, grace }, now);
            }
            Lifecycle::Terminating(terminating) if self.last_stop_grace != Some(grace) => {
                let elapsed = now.mono.since(terminating.since.mono);
                self.transit(&Transition::Shorten { grace: elapsed.saturating_add(grace) }, now);
            }
            Lifecycle::Terminating(_) | Lifecycle::Terminated(_) => {}
        }
        self.last_stop_grace = Some(grace);
    }

    /// Delays the removal of what is left for as long as others wait, within bounds.
    pub(super) fn delay_removal(&mut self, now: Mono) {
        let Source::Gone(Removal::Delayed { at, at_most }) = self.facts.source else { return };
        if at > now {
            return;
        }
        let removal = if now < at_most && self.facts.has_backlog {
            Removal::Delayed { at: now.after(REMOVAL_DELAY).min(at_most), at_most }
        } else {
            // Once begun it goes on.
            Removal::Due
        };
        self.facts.source = Source::Gone(removal);
    }

    /// Takes in a newer object. A container whose image has changed starts afresh: its failures and
    /// back-off belong to the old image. A change of its resources ends the back-off too: the key
    /// of upstream's contains name, image and resources.
    fn update(&mut self, newer: Arc<Pod>) {
        let old = std::mem::replace(&mut self.pod, newer);
        for container in
            pod::main_containers(&self.pod).iter().chain(pod::init_containers(&self.pod))
        {
            let name = &container.name;
            let Some((_, before)) = pod::find_container(&old, name) else { continue };
            if before.resources != container.resources {
                self.known.slot_mut(name).backoff = None;
            }
            if before.image != container.image {
                let slot = self.known.slot_mut(name);
                slot.image = NextImage::Unknown;
                slot.backoff = None;
                self.known.failures.remove(&Key::Start(name.clone()));
                self.known.failures.remove(&Key::Image(name.clone()));
            }
        }

        // A pod may have finished long before its deletion is asked for.
        let is_deleted_now = self.pod.metadata.deletion_timestamp.is_some()
            && old.metadata.deletion_timestamp.is_none();
        if is_deleted_now && self.ending == Ending::Announced {
            self.ending = Ending::Finished;
        }
        self.expect_hashes();
        let before = self.known.cgroup.wants;
        self.expect_cgroup();
        if requirements(&self.pod) != requirements(&old) || self.known.cgroup.wants != before {
            self.known.failures.remove(&Key::Resize);
        }
        self.next.object = ObjectChange::Updated { is_stopping: self.lifecycle.is_stopping() };
    }

    /// Computes the figures that the pod's cgroup should have.
    pub(super) fn expect_cgroup(&mut self) {
        self.known.cgroup.wants = Figures::wanted(&self.pod, &self.facts.config.cgroups);
    }

    /// Computes the hashes that running containers should have.
    pub(super) fn expect_hashes(&mut self) {
        let pod = Arc::clone(&self.pod);
        for container in pod::main_containers(&pod).iter().chain(pod::init_containers(&pod)) {
            self.known.slot_mut(&container.name).expected_hash = Some(container_hash(container));
        }
    }
}
