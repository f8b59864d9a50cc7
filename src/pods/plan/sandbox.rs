//! The pod's sandbox: whether the newest one can be used, and how it is replaced when not.

use super::planner::Planner;
use super::restart;
use super::types::{Action, Key, KillReason, Notice};
use crate::model::reason::event;
use crate::model::{
    Blocked, ContainerKind, EventType, ObservedSandbox, RestartPolicy, SandboxState, Stage,
    VolumesState, pod,
};
use crate::pods::memory::facts::NetworkProblem;
use crate::resources::claims;

/// What is to be done about the sandbox.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// The newest sandbox is good.
    Keep(&'a ObservedSandbox),
    /// A new one is needed.
    Replace {
        /// Its attempt number.
        attempt: u32,
    },
}

impl<'a> Planner<'a> {
    /// Judges the newest sandbox as upstream's `PodSandboxChanged` does: it must be the only one
    /// that is ready, in the right network, and have an address.
    pub(super) fn sandbox_verdict(&self) -> Verdict<'a> {
        let Some(latest) = self.observed.latest_sandbox() else {
            return Verdict::Replace { attempt: 0 };
        };
        let ready = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.state == SandboxState::Ready)
            .count();
        let host_network = pod::is_host_network(self.pod);
        let good = latest.state == SandboxState::Ready
            && ready == 1
            && latest.host_network == host_network
            && (host_network || !latest.ips.is_empty())
            // One that is being stopped, or has been, only looks ready.
            && !self.is_busy(&Key::Sandbox(latest.id.clone()))
            && !self.known.stopped.contains(&latest.id);
        if good {
            Verdict::Keep(latest)
        } else {
            Verdict::Replace { attempt: latest.attempt.saturating_add(1) }
        }
    }

    /// Whether a sandbox that is needed may be made.
    ///
    /// A pod that is never restarted gets no second one after a main container was created or
    /// initialization has failed; no pod gets one when none of its main containers is to be started
    /// any more.
    pub(super) fn may_make_sandbox(&self) -> bool {
        let mains = self.of_kind(ContainerKind::Main);
        let began = mains.iter().any(|spec| self.was_created(spec.name));
        if !began {
            return !self.init_has_failed();
        }
        let is_second = self.observed.latest_sandbox().is_some();
        let is_over = mains.iter().all(|spec| self.is_done(spec));
        !(is_over || is_second && self.restart_policy() == RestartPolicy::Never)
    }

    /// Whether an init container has failed for good.
    pub(super) fn init_has_failed(&self) -> bool {
        self.of_kind(ContainerKind::Init).iter().any(|spec| {
            self.last_exit(spec.name).is_some_and(restart::init_failed) && self.is_done(spec)
        })
    }

    /// Stops everything that runs, then the old sandboxes, then makes a new one.
    pub(super) fn replace_sandbox(&mut self, attempt: u32) {
        if attempt > 0 && !self.observed.sandboxes.is_empty() {
            self.notice(Notice {
                dedup: format!("attempt {attempt}"),
                container: None,
                event_type: EventType::Normal,
                reason: event::SANDBOX_CHANGED,
                message: "Pod sandbox changed, it will be killed and re-created.".into(),
            });
        }
        // A start that is under way would bring up a container in the old sandbox after the kills.
        let starting = self.wait_for_starts(Stage::Sandbox);
        let quiet = self.stop_containers(None, &KillReason::SandboxChanged);
        if starting || !quiet || !self.stop_sandboxes(Stage::Sandbox) {
            return;
        }
        self.purge_init_containers();
        if self.expects_cgroup_resize() {
            self.resize(None);
            return;
        }

        if let Some(problem) = self.facts.network.as_ref()
            && !pod::is_host_network(self.pod)
        {
            self.block_on_network(problem);
            return;
        }
        if self.pod_is_prepared(true) {
            self.attempt(Action::CreateSandbox { attempt });
            let claims = claims::names(self.pod);
            let on = if claims.is_empty() {
                "the pod sandbox and its network".to_owned()
            } else {
                format!("resource claim \"{}\" and the pod sandbox", claims.join("\", \""))
            };
            self.block_on(Stage::Sandbox, on, &Key::NewSandbox);
        }
    }

    fn block_on_network(&mut self, problem: &NetworkProblem) {
        let message = format!("network is not ready: {}", problem.message);
        self.notice(Notice {
            dedup: message.clone(),
            container: None,
            event_type: EventType::Warning,
            reason: event::NETWORK_NOT_READY,
            message: message.clone(),
        });
        // The event is upstream's; what the pod waits for says more.
        let on = match &problem.diagnosis {
            Some(diagnosis) => format!("{message}; {diagnosis}"),
            None => message,
        };
        self.block(Blocked {
            stage: Stage::Network,
            on,
            since: self.now,
            last_error: None,
            next_try: None,
        });
    }

    /// Removes the init containers of old sandboxes: they run again in the new one.
    fn purge_init_containers(&mut self) {
        for container in &self.observed.containers {
            let kind = self.spec(&container.name).map(|spec| spec.kind);
            if matches!(kind, Some(ContainerKind::Init | ContainerKind::Sidecar))
                && !self.may_run(container)
            {
                self.attempt(Action::RemoveContainer { id: container.id.clone(), reset: false });
            }
        }
    }

    /// Stops every sandbox that has not been. True when all have: nothing is in flight for any of
    /// them.
    pub(super) fn stop_sandboxes(&mut self, stage: Stage) -> bool {
        let mut all = true;
        for sandbox in &self.observed.sandboxes {
            let key = Key::Sandbox(sandbox.id.clone());
            let stopped =
                self.known.stopped.contains(&sandbox.id) && sandbox.state == SandboxState::NotReady;
            if stopped && self.doing(&key).is_none() {
                continue;
            }
            all = false;
            self.attempt(Action::StopSandbox { id: sandbox.id.clone() });
            self.block_on(
                stage,
                "the old pod sandbox to stop and release its network".into(),
                &key,
            );
        }
        all
    }

    /// Has the pod's cgroup, directories and volumes made, side by side; nothing waits for it here.
    pub(super) fn prepare_pod(&mut self) {
        if !self.known.is_prepared() {
            self.attempt(Action::Prepare);
        }
        let asked_before = self.known.failures.contains_key(&Key::Volumes);
        match self.facts.volumes {
            VolumesState::Absent => {
                self.attempt(Action::MountVolumes);
            }
            // The volume subsystem tries again by itself; an action that failed as a whole has to
            // be repeated.
            VolumesState::Pending { .. } if asked_before => {
                self.attempt(Action::MountVolumes);
            }
            VolumesState::Pending { .. }
            | VolumesState::Ready
            | VolumesState::TearingDown { .. } => {}
        }
    }

    /// Whether cgroup, directories and volumes are there; says what is missing when not. A sandbox
    /// does not wait for volumes that are on their way (upstream's does): they take about as long,
    /// and only containers need them.
    pub(super) fn pod_is_prepared(&mut self, for_sandbox: bool) -> bool {
        if !self.facts.preemption_victims.is_empty() {
            let on = format!(
                "{} to stop and make room for it",
                self.facts.preemption_victims.join(", ")
            );
            self.block(Blocked {
                stage: Stage::Admission,
                on,
                since: self.now,
                last_error: None,
                next_try: None,
            });
            return false;
        }
        if !self.known.is_prepared() {
            self.block_on(Stage::Cgroup, "the pod's cgroup and directories".into(), &Key::Prepare);
            return false;
        }
        if self.expects_cgroup_resize() {
            // What starts now has the new resources, and its cgroup must hold them.
            self.block_on(
                Stage::Resize,
                "the pod's cgroup to be given other resources".into(),
                &Key::Resize,
            );
            return false;
        }
        match &self.facts.volumes {
            VolumesState::Ready => true,
            VolumesState::Absent => {
                self.block_on(Stage::Volumes, "its volumes to be set up".into(), &Key::Volumes);
                false
            }
            VolumesState::Pending { on_their_way: true, .. } if for_sandbox => true,
            VolumesState::Pending { missing, next_try, .. } => {
                let failing =
                    missing.iter().find(|(_, error)| !error.is_empty()).or(missing.first());
                let (on, last_error) = match failing {
                    Some((name, error)) => {
                        (format!("volume \"{name}\""), (!error.is_empty()).then(|| error.clone()))
                    }
                    None => ("its volumes to be set up".into(), None),
                };
                let since = self.busy_since(&Key::Volumes).unwrap_or(self.now);
                self.block(Blocked {
                    stage: Stage::Volumes,
                    on,
                    since,
                    last_error,
                    next_try: *next_try,
                });
                false
            }
            VolumesState::TearingDown { last_error } => {
                let last_error = (!last_error.is_empty()).then(|| last_error.clone());
                let on = "its volumes, which are still being torn down".into();
                self.block(Blocked {
                    stage: Stage::Volumes,
                    on,
                    since: self.now,
                    last_error,
                    next_try: None,
                });
                false
            }
        }
    }

    /// Whether a sandbox or a container is being made; says so.
    pub(super) fn wait_for_starts(&mut self, stage: Stage) -> bool {
        let mut waits = false;
        for key in self.keys_in_flight() {
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
