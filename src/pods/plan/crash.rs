//! The crash back-off of one container name: from which end it counts, until when it holds the next
//! start back, and what it becomes with that start. Pure.
//!
//! The arithmetic is in `backoff`.

use std::time::Duration;

use super::backoff;
use super::container_spec::ContainerSpec;
use super::types::KillReason;
use super::view::View;
use crate::model::observed::Exit;
use crate::model::time::go_duration;
use crate::model::{ContainerKind, Mono};
use crate::pods::memory::slot::Backoff;

/// The crash back-off of one container name.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrashBackoff<'a> {
    view: &'a View<'a>,
    spec: &'a ContainerSpec<'a>,
    /// The stored entry, unless it is about another definition of the container.
    entry: Option<&'a Backoff>,
    bounds: backoff::Bounds,
}

impl<'a> CrashBackoff<'a> {
    pub(super) fn of(view: &'a View<'a>, spec: &'a ContainerSpec<'a>) -> Self {
        let latest = view.observed.latest(spec.name);
        let is_changed = latest.is_some_and(|container| view.definition_changed(container));
        let entry = view.known.backoff(spec.name).filter(|_| !is_changed);
        Self { view, spec, entry, bounds: (&view.facts.config).into() }
    }

    /// The moment until which a container that has crashed is held back.
    pub(super) fn held_until(self) -> Option<Mono> {
        let entry = self.entry?;
        // The start that this entry was raised for has been tried already; its failures have a
        // cadence of their own.
        if entry.restart_count >= self.view.next_restart_count(self.spec.name) {
            return None;
        }
        backoff::held_until(Some(entry), self.counted_from()?, self.view.now.mono)
    }

    /// The back-off to be stored together with the start.
    pub(super) fn raised(self, restart_count: u32) -> Option<Backoff> {
        let ended = self.counted_from()?;
        if self.entry.is_some_and(|entry| entry.restart_count >= restart_count) {
            return None;
        }
        Some(backoff::raised(self.entry, ended, self.view.now.mono, restart_count, self.bounds))
    }

    /// The wait that the start in progress has served, or that the next one will serve.
    pub(super) fn served(self) -> Option<Duration> {
        let entry = self.entry?;
        self.view.last_exit(self.spec.name)?;
        if entry.restart_count >= self.view.next_restart_count(self.spec.name) {
            // Raised when the start began: served was the step before. The first restart is
            // immediate.
            let backoff::Bounds { initial, max } = self.bounds;
            let before = if entry.wait >= max { max } else { entry.wait / 2 };
            return (entry.wait > initial).then_some(before);
        }

        let ended = self.counted_from()?;
        backoff::held_until(Some(entry), ended, ended).map(|_| entry.wait)
    }

    /// The text of the waiting message, upstream's.
    pub(super) fn text(self, wait: Duration) -> String {
        let wait = go_duration(wait);
        let pod = self.view.pod_text();
        format!("back-off {wait} restarting failed container={} pod={pod}", self.spec.name)
    }

    /// The end that the back-off counts from; `None` where there was no crash.
    ///
    /// A container that was stopped in order to be replaced has not crashed. One that a probe
    /// killed is restarted at once as long as it ran longer than the back-off: upstream decides
    /// before the kill, when it only knows of the end before.
    fn counted_from(self) -> Option<Mono> {
        let own = self.ended_at()?;
        let Some(latest) = self.view.observed.latest(self.spec.name) else {
            // An init container without a trace was removed for a new sandbox.
            return (self.spec.kind == ContainerKind::Main).then_some(own);
        };
        match self.view.known.killed(&latest.id) {
            None | Some(KillReason::PodStopping | KillReason::PostStart { .. }) => Some(own),
            Some(
                KillReason::SandboxChanged
                | KillReason::DefinitionChanged
                | KillReason::Unknown
                | KillReason::Resize
                | KillReason::NotWanted
                | KillReason::RestartAll,
            ) => None,
            Some(KillReason::Liveness | KillReason::Startup) => {
                let before = self.end_before()?;
                let is_held = backoff::held_until(self.entry, before, own).is_some();
                Some(if is_held { own } else { before })
            }
        }
    }

    /// The end of the newest container. A runtime that lost the time gets the time of creation.
    pub(super) fn ended_at(self) -> Option<Mono> {
        let exit = self.view.last_exit(self.spec.name)?;
        let latest = self.view.observed.latest(self.spec.name);
        let created = latest.map(|container| container.created_at);
        let ended = created.map_or(exit.finished_at, |created| exit.finished_at.max(created));
        Some(self.view.mono_at_wall(ended))
    }

    /// The end of the container before the newest one.
    fn end_before(self) -> Option<Mono> {
        let name = self.spec.name;
        let containers = self.view.observed.containers.iter();
        let mut twins = containers.filter(|container| container.name == name);
        let latest = twins.next()?;
        let observed: Option<&Exit> = twins.find_map(|container| container.state.exit());
        let remembered = self.view.known.remembered(name);
        let remembered = remembered.filter(|seen| seen.restart_count < latest.restart_count);
        let exit = observed.or_else(|| remembered?.exit.as_ref())?;
        Some(self.view.mono_at_wall(exit.finished_at))
    }
}
