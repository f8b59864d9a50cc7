//! The actions of one pod that are being carried out: each is a task of its own, which can be
//! cancelled, and a kill that can be hurried.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, warn};

use crate::model::{Mono, ObservedPod, Pod};
use crate::pods::execute::{Completion, Context, Execute};
use crate::pods::lives::Busy;
use crate::pods::memory::Event;
use crate::pods::plan::types::{Action, Key};

/// The actions in flight.
#[derive(Debug, Default)]
pub(super) struct Actions {
    tasks: JoinSet<Completion>,
    running: BTreeMap<Key, Running>,
    /// Cancelled when the pod begins to stop: for what its actions wait for.
    stop: CancellationToken,
}

/// One action in flight.
#[derive(Debug)]
struct Running {
    abort: AbortHandle,
    /// The deadline of a kill, which may shrink.
    hurry: Option<watch::Sender<Mono>>,
}

impl Actions {
    /// Returns what the actions do.
    pub(super) fn busy(&self) -> Busy {
        let is_pull = |key: &Key| matches!(key, Key::Image(_));
        Busy { working: !self.running.is_empty(), pulling: self.running.keys().any(is_pull) }
    }

    /// Begins an action, or hurries the kill that runs.
    pub(super) fn begin<E: Execute>(
        &mut self,
        action: Action,
        executor: &Arc<E>,
        pod: &Arc<Pod>,
        observed: &Arc<ObservedPod>,
    ) {
        let key = action.key();
        if let Action::HurryKill { deadline, .. } = action {
            if let Some(hurry) = self.running.get(&key).and_then(|running| running.hurry.as_ref()) {
                hurry.send_replace(deadline);
            }
            return;
        }

        let (hurry, deadline) = match &action {
            Action::KillContainer { deadline, .. } => {
                let (sender, receiver) = watch::channel(*deadline);
                (Some(sender), Some(receiver))
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::EnsureImage { .. }
            | Action::StartContainer { .. }
            | Action::Resize { .. }
            | Action::PostStart { .. }
            | Action::PreStop { .. }
            | Action::HurryKill { .. }
            | Action::RemoveContainer { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::UnmountVolumes
            | Action::CleanUp => (None, None),
        };
        let context = Context {
            pod: pod.clone(),
            observed: observed.clone(),
            stop: self.stop.clone(),
            hurry: deadline,
        };
        let executor = executor.clone();
        let task = {
            let key = key.clone();
            async move { executor.execute(key, action, context).await }.in_current_span()
        };
        let abort = self.tasks.spawn(task);
        self.running.insert(key, Running { abort, hurry });
    }

    /// Tells every action that the pod stops: those that only wait give up.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Cancels the actions with these keys.
    pub(super) fn cancel(&self, keys: &[Key]) {
        for running in keys.iter().filter_map(|key| self.running.get(key)) {
            running.abort.abort();
        }
    }

    /// Waits for the next end of an action; `None`: none is in flight. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let joined = self.tasks.join_next_with_id().await?;
            if let Some(event) = self.ended(joined) {
                return Some(event);
            }
        }
    }

    /// Returns an action's end that has happened already, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        loop {
            let joined = self.tasks.try_join_next_with_id()?;
            if let Some(event) = self.ended(joined) {
                return Some(event);
            }
        }
    }

    fn ended(&mut self, joined: Result<(Id, Completion), JoinError>) -> Option<Event> {
        let error = match joined {
            Ok((_, completion)) => {
                self.forget(&completion.key);
                return Some(Event::Completed(completion));
            }
            Err(error) => error,
        };
        let mut running = self.running.iter();
        let key = running.find(|(_, running)| running.abort.id() == error.id())?.0.clone();
        self.forget(&key);
        if error.is_panic() {
            warn!(?key, "an action panicked; it is tried again with back-off");
            Some(Event::Panicked(key))
        } else {
            Some(Event::Cancelled(key))
        }
    }

    fn forget(&mut self, key: &Key) {
        self.running.remove(key);
        if self.running.is_empty() {
            // A map that was filled once keeps the room of eleven entries.
            self.running = BTreeMap::new();
        }
    }

    /// Returns true if nothing is being carried out.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Lets all actions run on without this owner.
    pub(super) fn detach_all(&mut self) {
        self.tasks.detach_all();
    }
}
