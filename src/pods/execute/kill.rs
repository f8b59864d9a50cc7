//! Stopping a container: event, preStop within the deadline, StopContainer with what is left; all
//! of it sooner when the deadline shrinks meanwhile.

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::super::hooks;
use super::super::plan::kill_message;
use super::super::plan::types::{Key, KillReason};
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Outcome};
use crate::cri::v1;
use crate::model::reason::event;
use crate::model::{ContainerId, ContainerKind, EventType, Mono, pod};

/// Even with no grace left, a container gets this long (upstream's `minimumGracePeriodInSeconds`).
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// A kill as it was planned.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) id: ContainerId,
    pub(super) container: String,
    pub(super) why: KillReason,
    pub(super) deadline: Mono,
    pub(super) pre_stop: bool,
}

impl PodExecutor {
    /// Carries out a kill.
    pub(super) async fn kill(&self, key: Key, kill: Kill, context: Context) -> Completion {
        let mut deadline = context.hurry.clone().unwrap_or_else(|| watch::channel(kill.deadline).1);
        self.container_event(
            &context.pod,
            &kill.container,
            EventType::Normal,
            event::KILLING,
            kill_message(&context.pod, &kill.container, &kill.why),
        );
        if let Some(restored) = self.restore(&kill.id, &kill.container, &context.pod).await {
            if let Some(grace) = restored.grace {
                deadline = watch::channel(self.deps.clock.now().mono.after(grace)).1;
            }
            self.run_pre_stop(
                &kill.id,
                (ContainerKind::Main, &restored.container),
                &context,
                &mut deadline,
            )
            .await;
        } else if kill.pre_stop {
            self.pre_stop(&kill.id, &kill.container, &context, &mut deadline).await;
        }
        let mut mutation = self.deps.pleg.begin(&self.uid);
        if let Some(container) = context.observed.container(&kill.id) {
            mutation.touched_container(&kill.id, &container.sandbox);
        }
        let stopped = self.stop_until_done(&kill.id, &mut deadline).await;
        mutation.end();
        let outcome = match stopped {
            Ok(()) => Ok(Outcome::Killed { id: kill.id, why: kill.why }),
            Err(error) if error.is_not_found() => {
                Ok(Outcome::Killed { id: kill.id, why: kill.why })
            }
            Err(error) => {
                warn!(container = kill.container, %error, "stopping a container failed");
                self.pod_event(
                    &context.pod,
                    EventType::Warning,
                    event::FAILED_KILL_POD,
                    format!("error killing pod: failed to \"KillContainer\" for \"{}\" with KillContainerError: \"{error}\"", kill.container),
                );
                Err(ActionError::new("KillContainerError", error.to_string()))
            }
        };
        Completion { key, outcome, mutated: true }
    }

    /// Runs a sidecar's preStop hook ahead of its turn to stop.
    pub(super) async fn pre_stop_ahead(
        &self,
        key: Key,
        id: ContainerId,
        container: String,
        deadline: Mono,
        context: Context,
    ) -> Completion {
        let mut deadline = watch::channel(deadline).1;
        self.pre_stop(&id, &container, &context, &mut deadline).await;
        Completion { key, outcome: Ok(Outcome::PreStopped { id }), mutated: false }
    }

    /// Runs the preStop hook until it ends or the deadline, which may shrink, is reached.
    async fn pre_stop(
        &self,
        id: &ContainerId,
        container: &str,
        context: &Context,
        deadline: &mut watch::Receiver<Mono>,
    ) {
        let Some((kind, spec)) = pod::find_container(&context.pod, container) else { return };
        self.run_pre_stop(id, (kind, &spec), context, deadline).await;
    }

    async fn run_pre_stop(
        &self,
        id: &ContainerId,
        (kind, spec): (ContainerKind, &api::Container),
        context: &Context,
        deadline: &mut watch::Receiver<Mono>,
    ) {
        let container = &spec.name;
        let mut may_hurry = true;
        let target = hooks::HookTarget {
            exec: &*self.deps.exec,
            recorder: &self.deps.recorder,
            pod: &context.pod,
            kind,
            container: spec,
            id,
            pod_ip: self.pod_ip(context),
        };
        // The hook looks at one deadline, and says so when it has passed; a shorter one ends it
        // from outside.
        let own = *deadline.borrow();
        let hook = hooks::pre_stop(target, &self.deps.clock, own);
        tokio::pin!(hook);
        loop {
            let until = *deadline.borrow_and_update();
            // Cancel-safe: the hook is pinned outside, `changed` and `sleep_until` lose nothing
            // when dropped.
            tokio::select! {
                ended = &mut hook => {
                    debug!(container, ?ended, "preStop hook ended");
                    return;
                }
                () = self.deps.clock.sleep_until(until), if until < own => {
                    debug!(container, "preStop hook not completed in grace period");
                    return;
                }
                changed = deadline.changed(), if may_hurry => may_hurry = changed.is_ok(),
            }
        }
    }

    /// Asks the runtime to stop the container with what is left, and again each time the deadline
    /// shrinks.
    async fn stop_until_done(
        &self,
        id: &ContainerId,
        deadline: &mut watch::Receiver<Mono>,
    ) -> Result<(), crate::cri::CriError> {
        let mut may_hurry = true;
        loop {
            let until = *deadline.borrow_and_update();
            let left = until.since(self.deps.clock.now().mono).max(MINIMUM_GRACE);
            let timeout = i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
            let request =
                v1::StopContainerRequest { container_id: id.as_str().to_owned(), timeout };
            // Cancel-safe: dropping StopContainer leaves the stop signal sent; it is asked for
            // again with less grace.
            tokio::select! {
                stopped = self.deps.cri.stop_container(request) => return stopped.map(|_| ()),
                changed = deadline.changed(), if may_hurry => may_hurry = changed.is_ok(),
            }
        }
    }
}
