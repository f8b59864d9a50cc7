//! The worker's memory: commands taken in, adoption of what already runs, what stays known of
//! removed containers, and what is told to status, probes and readers after each step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::execute::{Execute, Published, Report};
use super::super::plan::types::{HookState, Key, Plan, Remembered, Transition};
use super::super::recorded;
use super::super::request::container_hash;
use super::Worker;
use crate::dispatch::{Directive, PodView, Stop, ViewState};
use crate::model::{ContainerState, Lifecycle, Mono, Now, Pod, pod};
use crate::resources::allocation::{Requirements, requirements};

/// How long what is left of a deleted pod stays. Whoever deletes a pod often makes another one, and
/// the runtime would remove the old one at the expense of the new one's start; nobody waits for the
/// removal. A manifest's pod goes at once: its successor has the same names.
const GIVE_WAY: Duration = Duration::from_millis(500);

/// How long it may stay while other pods wait for their start or stop. Short: a kubelet that is
/// killed again and again begins to count anew each time, and what it leaves slows the runtime.
const GIVE_WAY_AT_MOST: Duration = Duration::from_secs(2);

impl<E: Execute> Worker<E> {
    /// Takes in what it is told.
    pub(super) fn obey(&mut self, directive: Directive) {
        if !Arc::ptr_eq(&directive.pod, &self.pod) {
            self.update(directive.pod);
        }
        self.obey_resize(&directive.resize);
        if directive.gone && !self.inputs.gone_from_source && !pod::is_static(&self.pod) {
            let now = self.clock.now().mono;
            self.inputs.removable_at = Some(now.after(GIVE_WAY));
            self.gives_way_until = Some(now.after(GIVE_WAY_AT_MOST));
        }
        self.inputs.gone_from_source = directive.gone;
        if let Some(Stop { cause, grace }) = directive.stop {
            let now = self.clock.now();
            match &self.lifecycle {
                Lifecycle::Syncing => {
                    self.transit(Transition::Terminate { cause, grace }, now);
                }
                // Counted from when the pod began to stop; an order is obeyed once.
                Lifecycle::Terminating(terminating) if self.obeyed != Some(grace) => {
                    let elapsed = now.mono.since(terminating.since.mono);
                    self.transit(Transition::Shorten { grace: elapsed.saturating_add(grace) }, now);
                }
                Lifecycle::Terminating(_) | Lifecycle::Terminated(_) => {}
            }
            self.obeyed = Some(grace);
        }
    }

    /// A map that was filled once keeps the room of eleven entries; most are empty while the pod
    /// runs.
    pub(super) fn give_room_back(&mut self) {
        fn empty<K, V>(map: &mut BTreeMap<K, V>) {
            if map.is_empty() {
                *map = BTreeMap::new();
            }
        }
        empty(&mut self.in_flight);
        empty(&mut self.aborts);
        empty(&mut self.kills);
        empty(&mut self.starting);
        empty(&mut self.notices);
        empty(&mut self.inputs.images);
        empty(&mut self.inputs.failures);
        empty(&mut self.inputs.killing);
    }

    /// Puts the removal of what is left off for as long as others wait, within bounds.
    pub(super) fn give_way(&mut self, now: Mono) {
        let Some(until) = self.gives_way_until else { return };
        if self.inputs.removable_at.is_none_or(|moment| moment > now) {
            return;
        }
        if now < until && self.executor.is_rush() {
            self.inputs.removable_at = Some(now.after(GIVE_WAY).min(until));
        } else {
            // Once begun it goes on.
            self.gives_way_until = None;
        }
    }

    /// Takes in a newer object. A container whose image has changed starts afresh: its failures and
    /// back-off belong to the old image (upstream's back-off key contains the hash of image and
    /// name).
    fn update(&mut self, newer: Arc<Pod>) {
        for container in all_containers(&newer) {
            let name = &container.0;
            let before = pod::find_container(&self.pod, name).map(|(_, old)| old.image.clone());
            if before.is_some_and(|image| image != container.1) {
                self.inputs.images.remove(name);
                self.inputs.warmed.remove(name);
                self.inputs.backoff.remove(name);
                self.inputs.failures.remove(&Key::Start(name.clone()));
                self.inputs.failures.remove(&Key::Image(name.clone()));
            }
        }
        if newer.metadata.deletion_timestamp.is_some()
            && self.pod.metadata.deletion_timestamp.is_none()
        {
            // A pod may have finished long before somebody asks for its deletion.
            self.is_announced = false;
        }
        if requirements(&newer) != requirements(&self.pod) {
            self.inputs.failures.remove(&Key::Resize);
        }
        self.pod = newer;
        self.expect_hashes();
        self.is_updated = true;
    }

    /// Takes over what runs already (the process was restarted): running containers are kept, their
    /// postStart hooks are not run again, ended ones keep their counts.
    pub(super) fn adopt(&mut self) {
        self.expect_hashes();
        self.adopt_resize();
        // The first `read` has not happened yet, so nothing observed is held: adopt on the first
        // step's observation.
        self.adopting = true;
    }

    /// Marks the hooks of containers that ran before this process as done.
    pub(super) fn adopt_observed(&mut self) {
        if !std::mem::take(&mut self.adopting) {
            return;
        }
        // What was done in an earlier sandbox has to be done again in this one (a process that
        // ended in between).
        let began = self.inputs.recorded.init_began;
        let latest =
            self.observed.latest_sandbox().filter(|sandbox| recorded::is_of(began, sandbox));
        self.inputs.recorded.sandbox = latest.map(|sandbox| sandbox.id.clone());
        for container in &self.observed.containers {
            if container.state.is_running() {
                self.inputs.post_start.insert(container.id.clone(), HookState::Done);
                if let Some((_, spec)) = pod::find_container(&self.pod, &container.name) {
                    let has = Requirements::adopted(
                        Requirements::of(&spec),
                        container.resources.as_ref(),
                    );
                    self.inputs.actuated.insert(container.id.clone(), has);
                }
            }
        }
    }

    fn expect_hashes(&mut self) {
        let mut hashes = BTreeMap::new();
        for container in
            pod::main_containers(&self.pod).iter().chain(pod::init_containers(&self.pod))
        {
            hashes.insert(container.name.clone(), container_hash(container));
        }
        self.inputs.expected_hash = hashes;
    }

    /// Keeps count and exit of containers that the runtime no longer has, and drops what was about
    /// them.
    pub(super) fn forget_removed(&mut self, before: &crate::model::ObservedPod) {
        for old in &before.containers {
            if self.observed.container(&old.id).is_some() {
                continue;
            }
            self.inputs.post_start.remove(&old.id);
            self.inputs.killing.remove(&old.id);
            self.inputs.killed.remove(&old.id);
            self.inputs.pre_stopped.remove(&old.id);
            self.inputs.actuated.remove(&old.id);
            self.inputs.failures.remove(&Key::Container(old.id.clone()));
            self.kills.remove(&old.id);
            if old.state == ContainerState::Created {
                // It has never run: the next one is not a restart of it.
                continue;
            }
            let remembered = self
                .inputs
                .remembered
                .entry(old.name.clone())
                .or_insert(Remembered { restart_count: old.restart_count, exit: None });
            if self.reset.remove(&old.id) {
                remembered.restart_count = remembered.restart_count.max(old.restart_count);
                // The pod begins anew: no end that was seen so far counts any more.
                self.inputs.recorded.init_done.clear();
                self.inputs.remembered.values_mut().for_each(|seen| seen.exit = None);
            } else if old.restart_count >= remembered.restart_count {
                remembered.restart_count = old.restart_count;
                remembered.exit = Some(match &old.state {
                    ContainerState::Exited(exit) => exit.clone(),
                    // Nobody has seen how it ended; upstream says the same.
                    ContainerState::Created
                    | ContainerState::Running { .. }
                    | ContainerState::Unknown => recorded::unknown_exit(self.clock.now().wall),
                });
            }
        }
    }

    /// Tells the status, the probes and the readers.
    pub(super) async fn publish(&mut self, plan: &Plan, now: Now) {
        let report = Report {
            pod: &self.pod,
            lifecycle: &self.lifecycle,
            observed: &self.observed,
            inputs: &self.inputs,
            waiting: &plan.waiting,
            replaced: &plan.replaced,
            blocked: plan.blocked.as_ref(),
            resize: &self.resize,
            finished: self.finished,
            now,
        };
        let Published { status, version } = self.executor.publish(&report).await;
        // What has just been sent is not accepted yet; the acknowledgement is a feed and plans
        // again.
        if self.inputs.recorded.start_time.is_none() {
            self.inputs.recorded.start_time = status.start_time.as_ref().map(|time| time.0);
        }
        if version != self.sent {
            self.sent = version;
            self.inputs.status_acked = version.is_none();
        }
        let view = PodView {
            uid: self.uid.clone(),
            key: pod::key(&self.pod),
            pod: self.pod.clone(),
            state: ViewState::from(&self.lifecycle),
            observed: self.observed.clone(),
            status,
            blocked: plan.blocked.clone(),
        };
        self.view.send_replace(view);
    }
}

/// Name and image of every container.
fn all_containers(pod: &Pod) -> Vec<(String, Option<String>)> {
    let regular = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    regular.map(|container| (container.name.clone(), container.image.clone())).collect()
}
