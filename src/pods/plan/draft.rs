//! The plan while it is made. It keeps the rules that every action obeys: one action per key, and
//! none while the last failure of the key is too fresh. Pure.
//!
//! The stages fill it from the [`View`]; what they have planned so far can be asked here.

use std::collections::BTreeSet;

use super::types::{Action, Key, Notice, Plan, Transition};
use super::view::View;
use crate::model::{Blocked, ContainerId, Mono, Now, Stage, Waiting};
use crate::pods::memory::slot::Backoff;

/// A plan in the making.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) view: &'a View<'a>,
    plan: Plan,
    /// The keys of the planned actions.
    taken: BTreeSet<Key>,
    /// The containers that the plan kills.
    kills: BTreeSet<ContainerId>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self { view, plan: Plan::default(), taken: BTreeSet::new(), kills: BTreeSet::new() }
    }

    /// The finished plan: removal before addition.
    pub(super) fn into_plan(self) -> Plan {
        let mut plan = self.plan;
        plan.actions.sort_by_key(is_addition);
        if plan.transition.is_some() {
            // The worker plans again at once.
            plan.wake_at = None;
        }
        plan
    }

    /// Returns true if nothing may be planned for `key`: an action is in flight or already planned.
    pub(super) fn is_busy(&self, key: &Key) -> bool {
        self.view.doing(key).is_some() || self.taken.contains(key)
    }

    /// Returns true if a container is being stopped, or is to be by this plan.
    pub(super) fn is_being_killed(&self, id: &ContainerId) -> bool {
        self.kills.contains(id) || self.view.is_being_killed(id)
    }

    /// Plans `action` unless its key is busy or its last failure is too fresh. Returns whether it
    /// was planned.
    pub(super) fn attempt(&mut self, action: Action) -> bool {
        let key = action.key();
        if self.is_busy(&key) {
            return false;
        }
        if let Some((_, next)) = self.view.retry_pending(&key) {
            self.wake(next);
            return false;
        }

        self.taken.insert(key);
        if let Action::KillContainer { id, .. } = &action {
            self.kills.insert(id.clone());
        }
        self.plan.actions.push(action);
        true
    }

    /// Plans each of several actions, as [`Draft::attempt`] does.
    pub(super) fn attempt_all(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            self.attempt(action);
        }
    }

    /// Plans an earlier deadline for the kill in flight.
    pub(super) fn hurry_kill(&mut self, id: ContainerId, deadline: Mono) {
        self.plan.actions.push(Action::HurryKill { id, deadline });
    }

    /// Stores a back-off together with the actions.
    pub(super) fn store_backoff(&mut self, name: &str, raised: Backoff) {
        self.plan.backoff.insert(name.to_owned(), raised);
    }

    /// Plans a change of lifecycle.
    pub(super) fn transition(&mut self, transition: Transition) {
        self.plan.transition = Some(transition);
    }

    /// Plans again at `moment`, if that lies ahead.
    pub(super) fn wake(&mut self, moment: Mono) {
        if moment > self.view.now.mono {
            let earlier = self.plan.wake_at;
            self.plan.wake_at = Some(earlier.map_or(moment, |earlier| earlier.min(moment)));
        }
    }

    /// Says why a container does not run; a later reason replaces an earlier one.
    pub(super) fn wait(&mut self, name: &str, reason: &str, message: String) {
        self.plan.waiting.insert(name.to_owned(), Waiting { reason: reason.to_owned(), message });
    }

    /// Emits an event that follows from the state.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.plan.notices.push(notice);
    }

    /// Reports what the pod waits for; the first report of a plan counts.
    pub(super) fn block(&mut self, blocked: Blocked) {
        self.plan.blocked.get_or_insert(blocked);
    }

    /// Reports that the pod has been waiting since a moment, without an error.
    pub(super) fn block_since(&mut self, stage: Stage, on: String, since: Now) {
        self.block(Blocked { stage, on, since, last_error: None, next_try: None });
    }

    /// Reports that the pod waits for `key`: in flight, or failing.
    pub(super) fn block_on(&mut self, stage: Stage, on: String, key: &Key) {
        let view = self.view;
        let failure = view.known.failures.get(key);
        let since = view.busy_since(key).or(failure.map(|failure| failure.at)).unwrap_or(view.now);
        let next_try = view.retry_pending(key).map(|(_, next)| next);
        let last_error = failure.map(|failure| failure.message.clone());
        self.block(Blocked { stage, on, since, last_error, next_try });
    }

    /// Reports that the pod waits for a container to stop.
    pub(super) fn block_on_kill(&mut self, stage: Stage, id: &ContainerId, name: &str) {
        self.block_on(stage, format!("container \"{name}\" to stop"), &Key::Container(id.clone()));
    }

    /// Reports the sandbox and the containers that are being created. Returns whether there are
    /// any.
    pub(super) fn wait_for_starts(&mut self, stage: Stage) -> bool {
        let mut waits = false;
        for key in self.view.keys_in_flight() {
            let on = match key {
                Key::NewSandbox => "the pod sandbox that is being made".to_owned(),
                Key::Start(name) => format!("container \"{name}\", which is being started"),
                Key::Prepare
                | Key::Volumes
                | Key::Sandbox(_)
                | Key::Image(_)
                | Key::Container(_)
                | Key::PostStart(_)
                | Key::PreStop(_)
                | Key::Resize
                | Key::CleanUp => continue,
            };
            waits = true;
            self.block_on(stage, on, key);
        }
        waits
    }
}

/// Returns true if an action adds to what runs; those come last.
fn is_addition(action: &Action) -> bool {
    match action {
        Action::PreStop { .. }
        | Action::KillContainer { .. }
        | Action::HurryKill { .. }
        | Action::RemoveContainer { .. }
        | Action::StopSandbox { .. }
        | Action::RemoveSandbox { .. }
        | Action::UnmountVolumes
        | Action::CleanUp => false,
        Action::Prepare
        | Action::MountVolumes
        | Action::CreateSandbox { .. }
        | Action::EnsureImage { .. }
        | Action::StartContainer { .. }
        | Action::Resize { .. }
        | Action::PostStart { .. } => true,
    }
}
