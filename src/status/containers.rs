//! Computes the statuses of a pod's containers. Pure.
//!
//! Each container of the spec takes its state from the first of these that knows it:
//!
//! 1. the runtime: the newest container gives the state, the one before gives the last state;
//! 2. the memory of this process, for containers that the runtime forgot;
//! 3. the previous status.
//!
//! Only if none knows the end of a container that was running does it become
//! `ContainerStatusUnknown` with exit code 137.

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::input::ComputeInput;
use super::phase::RESTARTING_ALL;
use super::{resources, restart};
use crate::model::observed::Exit;
use crate::model::reason::container::{
    COMPLETED, CONTAINER_CREATING, CONTAINER_STATUS_UNKNOWN, POD_INITIALIZING,
};
use crate::model::waiting::{ContainerVerdict, ProbeOutcome};
use crate::model::{ContainerState, ObservedContainer, Wall, pod};

/// The exit code of a container whose end is not known.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 137;
/// The message of a container that cannot be found at the pod's end.
pub(super) const UNKNOWN_AT_END: &str =
    "The container could not be located when the pod was terminated";
/// The message of a container that vanished.
const UNKNOWN_VANISHED: &str = "The container could not be located when the pod was deleted.  The container used to be Running";
const RESTARTING_ALL_MESSAGE: &str =
    "The container is removed because RestartAllContainers in place";
pub(super) const INIT_ASSUMED_DONE: &str = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";

/// The three lists of container statuses.
pub(super) struct Groups<'a> {
    input: &'a ComputeInput<'a>,
    old: &'a api::PodStatus,
    restarting_all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Init,
    Main,
    Ephemeral,
}

impl<'a> Groups<'a> {
    /// `old` is the previous status.
    pub(super) fn new(input: &'a ComputeInput<'a>, old: &'a api::PodStatus) -> Self {
        Self { input, old, restarting_all: restart::is_restarting_all(input, old) }
    }

    /// Returns the main containers, by name.
    pub(super) fn main(&self) -> Vec<api::ContainerStatus> {
        let specs = pod::main_containers(self.input.pod).iter().map(Cow::Borrowed);
        by_name(self.list(Group::Main, specs, self.old.container_statuses.as_deref()))
    }

    /// Returns the init containers, in the order of the spec.
    pub(super) fn init(&self) -> Vec<api::ContainerStatus> {
        let specs = pod::init_containers(self.input.pod).iter().map(Cow::Borrowed);
        self.list(Group::Init, specs, self.old.init_container_statuses.as_deref())
    }

    /// Returns the ephemeral containers, by name.
    pub(super) fn ephemeral(&self) -> Vec<api::ContainerStatus> {
        let specs = pod::ephemeral_containers(self.input.pod)
            .iter()
            .map(pod::ephemeral_as_container)
            .map(Cow::Owned);
        by_name(self.list(
            Group::Ephemeral,
            specs,
            self.old.ephemeral_container_statuses.as_deref(),
        ))
    }

    fn list<'c>(
        &self,
        group: Group,
        specs: impl Iterator<Item = Cow<'c, api::Container>>,
        old: Option<&[api::ContainerStatus]>,
    ) -> Vec<api::ContainerStatus> {
        specs
            .map(|spec| {
                let old = old.into_iter().flatten().find(|old| old.name == spec.name);
                let mut status = self.one(group, &spec, old);
                self.probe(group, &spec, old, &mut status);
                status
            })
            .collect()
    }

    fn one(
        &self,
        group: Group,
        spec: &api::Container,
        old: Option<&api::ContainerStatus>,
    ) -> api::ContainerStatus {
        let mut own =
            self.input.observed.containers.iter().filter(|container| container.name == spec.name);
        let newest = own.next();
        let mut status = match newest {
            Some(newest) => self.seen(spec, newest, own.next(), old),
            None => self.unseen(spec, old),
        };
        if self.is_init_done(group, spec, newest, &mut status) {
            return status;
        }

        self.say_why_it_waits(spec, newest, &mut status);
        match newest.zip(old) {
            Some((newest, old)) if self.end_is_not_told(spec, newest, old, &status) => old.clone(),
            Some(_) | None => status,
        }
    }

    /// Computes a status from the newest container of this name and the one before.
    fn seen(
        &self,
        spec: &api::Container,
        newest: &ObservedContainer,
        before: Option<&ObservedContainer>,
        old: Option<&api::ContainerStatus>,
    ) -> api::ContainerStatus {
        let mut status = self.convert(newest, old);
        if let Some(before) = before {
            status.last_state = self.convert(before, old).state;
            if before.restart_count < newest.restart_count {
                // Both exist, so their own numbers are right: a successor that was removed before
                // it had started must not be counted.
                status.restart_count =
                    count(newest.restart_count).max(old.map_or(0, |old| old.restart_count));
            }
        } else if let Some(exit) = self.remembered_before(&spec.name, status.restart_count) {
            let known = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            // The API keeps whole seconds.
            let is_older = |time: &Time| time.0.as_second() < exit.finished_at.as_second();

            let newer = known.and_then(|known| known.finished_at.as_ref()).is_none_or(is_older);
            if newer {
                let id = old
                    .filter(|old| old.container_id != status.container_id)
                    .and_then(|old| old.container_id.clone());
                status.last_state = Some(terminated(exit, id));
            }
        }

        status.volume_mounts =
            old.and_then(|old| old.volume_mounts.clone()).or_else(|| self.volume_mounts(spec));
        status.resources = Some(resources::container(
            spec,
            newest,
            old.filter(|old| old.container_id == status.container_id),
            self.input.resize.in_progress.is_some(),
        ));
        status.allocated_resources = resources::canonical(resources::requests(spec));
        status.stop_signal =
            newest.stop_signal.clone().filter(|_| self.input.node.shows_stop_signals);
        status.user = newest.user.as_ref().map(|user| api::ContainerUser {
            linux: Some(api::LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: (!user.supplemental_groups.is_empty())
                    .then(|| user.supplemental_groups.clone()),
            }),
        });

        status
    }

    /// Converts one container of the runtime, with the values that are carried on from before.
    fn convert(
        &self,
        container: &ObservedContainer,
        old: Option<&api::ContainerStatus>,
    ) -> api::ContainerStatus {
        let id = self.scheme(container.id.as_str());
        let mut status = api::ContainerStatus {
            name: container.name.clone(),
            restart_count: count(container.restart_count),
            image: container.image.clone(),
            image_id: container.image_ref.clone(),
            container_id: Some(id.clone()),
            ..api::ContainerStatus::default()
        };
        let old_state = old.and_then(|old| old.state.as_ref());
        let old_end = old_state.and_then(|state| state.terminated.as_ref());

        if let Some(old) = old {
            status.restart_count = status.restart_count.max(old.restart_count);
            let replaced = old.container_id.as_deref() != Some(id.as_str());
            let end = old_end
                .filter(|_| replaced)
                .or_else(|| old.last_state.as_ref()?.terminated.as_ref());
            status.last_state = end.map(|end| api::ContainerState {
                terminated: Some(end.clone()),
                ..Default::default()
            });
        }

        status.state = Some(match &container.state {
            ContainerState::Running { started_at } => {
                let old_count = old.filter(|_| old_end.is_some()).map(|old| old.restart_count);
                if let Some(old_count) =
                    old_count.filter(|old_count| *old_count >= count(container.restart_count))
                {
                    status.restart_count = old_count.saturating_add(1);
                }

                api::ContainerState {
                    running: Some(api::ContainerStateRunning {
                        started_at: Some(Time(*started_at)),
                    }),
                    ..Default::default()
                }
            }
            ContainerState::Exited(exit) => terminated(exit, Some(id)),
            ContainerState::Unknown if old_state.is_some_and(|state| state.running.is_some()) => {
                status.restart_count = old.map_or(0, |old| old.restart_count).saturating_add(1);
                unknown_end(
                    if self.restarting_all { RESTARTING_ALL } else { CONTAINER_STATUS_UNKNOWN },
                    UNKNOWN_AT_END,
                )
            }
            // Between creation and start; upstream gives no reason for the moment.
            ContainerState::Created => waiting(Some(self.default_reason()), None),
            ContainerState::Unknown => waiting(None, None),
        });

        status
    }

    /// Computes the status of a container that the runtime does not have.
    fn unseen(
        &self,
        spec: &api::Container,
        old: Option<&api::ContainerStatus>,
    ) -> api::ContainerStatus {
        let old_state = old.and_then(|old| old.state.as_ref());
        if let Some(old) = old.filter(|_| old_state.is_some_and(|state| state.terminated.is_some()))
        {
            return if self.restarting_all { self.restarting(old.clone()) } else { old.clone() };
        }
        let mut status = api::ContainerStatus {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            state: Some(waiting(Some(self.default_reason()), None)),
            volume_mounts: self.volume_mounts(spec),
            restart_count: old.map_or(0, |old| old.restart_count),
            last_state: old.and_then(|old| old.last_state.clone()),
            ..api::ContainerStatus::default()
        };

        if let Some(end) = self.remembered_end(&spec.name, old) {
            status.restart_count = count(end.0);
            status.container_id = old.and_then(|old| old.container_id.clone());
            status.image_id = old.map(|old| old.image_id.clone()).unwrap_or_default();
            status.state = Some(terminated(end.1, status.container_id.clone()));
            return if self.restarting_all { self.restarting(status) } else { status };
        }

        let was_running = old_state.is_some_and(|state| state.running.is_some());
        if !was_running {
            return status;
        }
        if self.restarting_all {
            return self.restarting(status);
        }

        if status.last_state.as_ref().is_none_or(|last| last.terminated.is_none()) {
            status.last_state = Some(unknown_end(CONTAINER_STATUS_UNKNOWN, UNKNOWN_VANISHED));
            if self.input.pod.metadata.deletion_timestamp.is_none() {
                status.restart_count = status.restart_count.saturating_add(1);
            }
        }

        status
    }

    /// Computes the status of a container that was removed to start the whole pod again.
    #[expect(clippy::unused_self, reason = "one of the steps, named as the others")]
    fn restarting(&self, mut status: api::ContainerStatus) -> api::ContainerStatus {
        status.state = Some(waiting(Some(RESTARTING_ALL), Some(RESTARTING_ALL_MESSAGE)));
        status.last_state = Some(unknown_end(RESTARTING_ALL, RESTARTING_ALL_MESSAGE));
        status.restart_count = status.restart_count.saturating_add(1);
        status
    }

    /// Returns true for an init container that will not run again and therefore keeps its end. One
    /// that the runtime has forgotten must have succeeded if main containers exist.
    fn is_init_done(
        &self,
        group: Group,
        spec: &api::Container,
        newest: Option<&ObservedContainer>,
        status: &mut api::ContainerStatus,
    ) -> bool {
        if group != Group::Init {
            return false;
        }
        if let Some(newest) = newest {
            return newest.state.exit().is_some_and(|exit| exit.exit_code == 0);
        }

        let is_waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
        // While all containers are started again, it is gone because it will run again, though main
        // containers still exist.
        if pod::is_sidecar(spec) || !is_waiting || self.restarting_all || !self.has_main_container()
        {
            return false;
        }
        status.state = Some(api::ContainerState {
            terminated: Some(api::ContainerStateTerminated {
                reason: Some(COMPLETED.into()),
                message: Some(INIT_ASSUMED_DONE.into()),
                ..Default::default()
            }),
            ..Default::default()
        });

        true
    }

    /// Shows a container that is about to be started as waiting, for the planner's reason; its end
    /// moves to the last state. A container that merely comes next keeps showing its end.
    fn say_why_it_waits(
        &self,
        spec: &api::Container,
        newest: Option<&ObservedContainer>,
        status: &mut api::ContainerStatus,
    ) {
        let Some(why) = self.input.waiting.get(&spec.name) else { return };
        if !self.is_to_be_started(spec, newest) {
            return;
        }

        let state = status.state.clone().unwrap_or_default();
        let is_default = why.reason == CONTAINER_CREATING
            || why.reason == POD_INITIALIZING
            || why.reason.is_empty();
        let keeps =
            is_default && (state.terminated.is_some() || newest.is_some() || is_restarting(&state));
        if keeps {
            return;
        }
        if state.terminated.is_some() {
            status.last_state = Some(state);
        }

        status.state = Some(waiting(Some(&why.reason), Some(&why.message)));
    }

    /// Returns true if a container that was stopped in order to be replaced is still shown as it
    /// was: by its policy its end would be final, and the API server would refuse its successor.
    fn end_is_not_told(
        &self,
        spec: &api::Container,
        newest: &ObservedContainer,
        old: &api::ContainerStatus,
        status: &api::ContainerStatus,
    ) -> bool {
        let ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        let was_running = old.state.as_ref().is_some_and(|state| state.running.is_some());
        let is_final = newest
            .state
            .exit()
            .is_some_and(|e| !restart::rules(self.input.pod, spec).restarts(e.exit_code));

        ended
            && was_running
            && is_final
            && old.container_id == status.container_id
            && self.input.replaced.contains(&newest.id)
    }

    fn is_to_be_started(&self, spec: &api::Container, newest: Option<&ObservedContainer>) -> bool {
        if self.input.pod.metadata.deletion_timestamp.is_some()
            || self.input.lifecycle.is_stopping()
        {
            return false;
        }

        match newest.map(|newest| &newest.state) {
            None | Some(ContainerState::Created | ContainerState::Unknown) => true,
            Some(ContainerState::Running { .. }) => false,
            Some(ContainerState::Exited(exit)) => {
                restart::rules(self.input.pod, spec).restarts(exit.exit_code)
                    || newest.is_some_and(|newest| self.input.replaced.contains(&newest.id))
            }
        }
    }

    /// Sets `started` and `ready` by the probes' verdicts. Without a verdict, a container that was
    /// started and ready stays so (a restart of this process changes nothing). A container without
    /// a probe is started and ready.
    fn probe(
        &self,
        group: Group,
        spec: &api::Container,
        old: Option<&api::ContainerStatus>,
        status: &mut api::ContainerStatus,
    ) {
        if group == Group::Ephemeral {
            return;
        }

        let is_running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        let same =
            old.filter(|old| old.container_id.is_some() && old.container_id == status.container_id);
        let newest = self.input.observed.latest(&spec.name);
        let none = ContainerVerdict::default();
        let verdict =
            newest.and_then(|newest| self.input.probes.containers.get(&newest.id)).unwrap_or(&none);
        let started = is_running
            && verdict.startup.map_or_else(
                || {
                    spec.startup_probe.is_none()
                        || same.is_some_and(|old| old.started == Some(true))
                },
                |outcome| outcome == ProbeOutcome::Success,
            );
        status.started = Some(started);

        if group == Group::Init && !pod::is_sidecar(spec) {
            let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            status.ready = end.is_some_and(|end| end.exit_code == 0);
            return;
        }

        status.ready = started
            && verdict.readiness.map_or_else(
                || spec.readiness_probe.is_none() || same.is_some_and(|old| old.ready),
                |outcome| outcome == ProbeOutcome::Success,
            );
    }

    fn default_reason(&self) -> &'static str {
        if pod::init_containers(self.input.pod).is_empty() {
            CONTAINER_CREATING
        } else {
            POD_INITIALIZING
        }
    }

    fn has_main_container(&self) -> bool {
        pod::main_containers(self.input.pod).iter().any(|spec| {
            self.input.observed.latest(&spec.name).is_some_and(|newest| match newest.state {
                ContainerState::Created
                | ContainerState::Running { .. }
                | ContainerState::Exited(_) => true,
                ContainerState::Unknown => false,
            })
        })
    }

    /// Returns the end of the container before this restart count, if this process saw it.
    fn remembered_before(&self, name: &str, restart_count: i32) -> Option<&Exit> {
        let known = self.input.remembered.get(name)?;
        known.exit.as_ref().filter(|_| count(known.restart_count) < restart_count)
    }

    /// Returns the end of the last container, if this process saw it and nothing newer is known.
    fn remembered_end(
        &self,
        name: &str,
        old: Option<&api::ContainerStatus>,
    ) -> Option<(u32, &Exit)> {
        let known = self.input.remembered.get(name)?;
        let newest = old.is_none_or(|old| old.restart_count <= count(known.restart_count));
        let told =
            old.and_then(|old| old.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
        let exit = known.exit.as_ref()?;
        let untold = told.is_none_or(|told| told.0.as_second() < exit.finished_at.as_second());
        (newest && untold).then_some((known.restart_count, exit))
    }

    fn volume_mounts(&self, spec: &api::Container) -> Option<Vec<api::VolumeMountStatus>> {
        let handler =
            self.input.observed.latest_sandbox().map(|sandbox| sandbox.runtime_handler.as_str());
        let supported = self.input.node.recursive_read_only.contains(handler.unwrap_or_default());
        let mounts = spec.volume_mounts.as_deref().filter(|mounts| !mounts.is_empty())?;
        let status = |mount: &api::VolumeMount| {
            let read_only = mount.read_only == Some(true);
            let mode = if is_recursive(mount, supported) { "Enabled" } else { "Disabled" };
            api::VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| mode.to_owned()),
                volume_status: None,
            }
        };

        Some(mounts.iter().map(status).collect())
    }

    fn scheme(&self, id: &str) -> String {
        format!("{}://{id}", self.input.node.runtime)
    }
}

/// Returns a terminated state without any known facts.
pub(super) fn unknown_end(reason: &str, message: &str) -> api::ContainerState {
    api::ContainerState {
        terminated: Some(api::ContainerStateTerminated {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            exit_code: UNKNOWN_EXIT_CODE,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn terminated(exit: &Exit, container_id: Option<String>) -> api::ContainerState {
    // Of a container that could not be started the runtime reports zero, which upstream shows as
    // the time that it would be.
    let never = (exit.reason != CONTAINER_STATUS_UNKNOWN).then_some(Wall::UNIX_EPOCH);
    api::ContainerState {
        terminated: Some(api::ContainerStateTerminated {
            exit_code: exit.exit_code,
            reason: some_text(&exit.reason),
            message: some_text(&exit.message),
            started_at: exit.started_at.or(never).map(Time),
            finished_at: Some(Time(exit.finished_at)),
            container_id,
            signal: None,
        }),
        ..Default::default()
    }
}

fn waiting(reason: Option<&str>, message: Option<&str>) -> api::ContainerState {
    api::ContainerState {
        waiting: Some(api::ContainerStateWaiting {
            reason: reason.and_then(some_text),
            message: message.and_then(some_text),
        }),
        ..Default::default()
    }
}

fn is_restarting(state: &api::ContainerState) -> bool {
    state.waiting.as_ref().is_some_and(|waiting| waiting.reason.as_deref() == Some(RESTARTING_ALL))
}

/// Returns true if a read-only mount is read-only with everything mounted below it.
fn is_recursive(mount: &api::VolumeMount, supported: bool) -> bool {
    let propagates =
        mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None");
    match mount.recursive_read_only.as_deref() {
        Some("IfPossible" | "Enabled") => supported && !propagates,
        _ => false,
    }
}

fn by_name(mut statuses: Vec<api::ContainerStatus>) -> Vec<api::ContainerStatus> {
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn count(restarts: u32) -> i32 {
    i32::try_from(restarts).unwrap_or(i32::MAX)
}
