//! The backend that drives a container runtime by CRI: makes the task of a pod, with its feeds, its
//! prober and its executor, and says what the runtime has without a task.
//!
//! Called by dispatch. It decides nothing about pods: which of them run is dispatch's, what each of
//! them does next is `plan`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::execute::{self, PodExecutor};
use super::former::FormerLives;
use super::memory;
use super::memory::facts::Config;
use super::memory::known::Preparation;
use super::recorded;
use super::report::{PodReporter, ReportDeps};
use super::streams::CriStreams;
use super::worker::{Feeds, Start, Worker};
use crate::cni::NetworkProblem;
use crate::dispatch::{Backend, Directive, Ended, Found, FoundPod, Launched, Streams};
use crate::model::{Lifecycle, ObservedPod, Pod, PodKey, PodUid, SandboxState, pod};
use crate::probes::{PodProbes, ProbeDeps};
use crate::{desired, pleg, status};

/// The grace of a pod that no source knows: what a pod has unless it says otherwise. (Upstream: one
/// second.)
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// How long a static pod that runs waits for what the API server knows of it. Nothing looks after
/// it meanwhile.
const LATE_MIRROR: Duration = Duration::from_secs(5);

/// What the backend works with.
#[derive(Debug)]
pub struct Deps {
    /// What the executors share.
    pub execute: Arc<execute::Deps>,
    /// What the reporters share.
    pub report: Arc<ReportDeps>,
    /// What the probers share.
    pub probes: ProbeDeps,
    /// Why no sandbox may be made, if so.
    pub network_not_ready: watch::Receiver<Option<NetworkProblem>>,
    /// The end of the process; containers run on.
    pub shutdown: CancellationToken,
}

/// Runs pods by CRI.
#[derive(Debug)]
pub struct CriBackend {
    config: Config,
    deps: Deps,
    found: watch::Sender<Option<Found>>,
    /// Shared with the tasks of static pods, which put themselves in at their end.
    former: Arc<Mutex<FormerLives>>,
}

impl CriBackend {
    /// The backend, and the task that keeps up what is found; it ends with `deps.shutdown`.
    pub fn new(config: Config, deps: Deps) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let found = watch::Sender::new(None);
        let pleg = deps.execute.runtime.pleg.clone();
        let shutdown = deps.shutdown.clone();
        let sender = found.clone();
        let task = async move {
            shutdown.run_until_cancelled(look(pleg, sender)).await;
        };
        (Self { config, deps, found, former: Arc::default() }, task)
    }
}

impl Backend for CriBackend {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> Launched {
        let shared = &self.deps.execute;
        let report = &self.deps.report;
        let shutdown = &self.deps.shutdown;
        let uid = pod::uid(&pod);

        let mirror = if pod::is_static(&pod) { report.desired.mirror_of(&uid) } else { None };
        let api_status =
            mirror.as_ref().map_or(pod.status.as_ref(), |mirror| mirror.status.as_ref());
        let of_mirror = api_status.filter(|_| pod::is_static(&pod)).map(status::of_mirror);
        let now = shared.clock.now();
        let remembered = if pod::is_static(&pod) {
            self.former.lock().take(&uid, now.mono)
        } else {
            recorded::remembered(api_status, now.wall)
        };
        let has_directory = shared.settings.paths.pod(&uid).exists();
        let memory = memory::Start {
            pod: pod.clone(),
            lifecycle,
            config: self.config,
            recorded: recorded::recorded(of_mirror.as_ref().or(api_status)),
            remembered,
            kept: report.actuated.get(&uid),
            preparation: if has_directory { Preparation::LeftBehind } else { Preparation::Absent },
        };

        let probes = PodProbes::start(self.deps.probes.clone(), &pod);
        let feeds = Feeds {
            directive,
            observation: shared.runtime.pleg.subscribe(&uid),
            volumes: shared.volumes.subscribe(&uid),
            verdicts: probes.verdicts(),
            network_not_ready: self.deps.network_not_ready.clone(),
        };
        // After the subscription: `look` sees the pod either with it or before this.
        self.found.send_if_modified(|found| {
            found.as_mut().is_some_and(|found| found.remove(&uid).is_some())
        });

        let executor = Arc::new(PodExecutor::new(shared.clone(), uid.clone()));
        let reporter = Arc::new(PodReporter::new(report.clone(), &pod, api_status, probes));
        let recall = (pod::is_static(&pod) && mirror.is_none())
            .then(|| {
                let desired = report.desired.clone();
                late_mirror(desired, feeds.observation.clone(), uid.clone(), shutdown.clone())
            })
            .map(Box::pin);
        let start = Start { memory, shutdown: shutdown.clone() };
        let (mut worker, view) =
            Worker::new(start, Arc::clone(&executor), Arc::clone(&reporter), shared.clock);
        let former = pod::is_static(&pod).then(|| Arc::clone(&self.former));
        let clock = shared.clock;
        // The task lives as long as the pod: with the first object it would keep that in memory
        // beside the newest.
        let logs = executor.log_directory(&pod);
        let task = async move {
            if let Some(recall) = recall
                && let Some(mirror) = recall.await
            {
                reporter.adopt_mirror(mirror.status.as_ref());
                let status = mirror.status.as_ref().map(status::of_mirror);
                worker.recall(recorded::recorded(status.as_ref()));
            }
            let (ended, remembered) = worker.run(feeds).await;
            if ended == Ended::Gone {
                if let Some(former) = former {
                    former.lock().keep(uid, remembered, clock.now().mono);
                }
                // Nothing of the pod is left in the runtime: its logs go.
                executor.remove_log_directory(&logs);
            }
            ended
        };
        Launched { task: Box::pin(task), view }
    }

    fn found(&self) -> watch::Receiver<Option<Found>> {
        self.found.subscribe()
    }

    fn streams(&self) -> Arc<dyn Streams> {
        Arc::new(CriStreams::new(self.deps.execute.runtime.cri.clone()))
    }
}

/// Keeps `found` up to date.
async fn look(pleg: pleg::Handle, found: watch::Sender<Option<Found>>) {
    let mut changes = pleg.changes();
    pleg.synced().await;
    loop {
        changes.mark_unchanged();
        // Read under the lock of `found`: a pod that is launched meanwhile is taken out after this.
        found.send_if_modified(|before| {
            let now = Some(without_task(&pleg));
            let is_changed = *before != now;
            *before = now;
            is_changed
        });
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The pods of which the runtime has anything and that have no task.
fn without_task(pleg: &pleg::Handle) -> Found {
    let known = pleg.pods().into_iter();
    known
        .filter(|known| !known.subscribed && !known.observation.pod.is_empty())
        .map(|known| {
            let observed = &known.observation.pod;
            let names: BTreeSet<String> =
                observed.containers.iter().map(|container| container.name.clone()).collect();
            let found = FoundPod {
                key: known.key.unwrap_or_else(|| PodKey::new("unknown", known.uid.as_str())),
                containers: names.into_iter().collect(),
                grace: ORPHAN_GRACE,
                is_running: is_running(observed),
                is_static: observed.latest_sandbox().is_some_and(|sandbox| sandbox.is_static),
            };
            (known.uid, found)
        })
        .collect()
}

/// Whether the pod runs: it has a sandbox that works or a container that runs. What a reboot left
/// has neither.
fn is_running(observed: &ObservedPod) -> bool {
    observed.sandboxes.iter().any(|sandbox| sandbox.state == SandboxState::Ready)
        || observed.containers.iter().any(|container| container.state.is_running())
}

/// The mirror of a static pod that ran before this process, once the API server has been read: it
/// says what the probes had found, and without it the pod would turn unready until they have found
/// it again. `None`: the pod does not run, has no mirror, or the API server took too long.
/// Cancel-safe.
async fn late_mirror(
    desired: desired::Handle,
    mut observation: watch::Receiver<pleg::Observation>,
    uid: PodUid,
    shutdown: CancellationToken,
) -> Option<Arc<Pod>> {
    let wait = async {
        let observed =
            observation.wait_for(|observation| observation.fresh).await.ok()?.pod.clone();
        // One that has to be started must not wait: it may be the API server itself.
        if !observed.containers.iter().any(|container| container.state.is_running()) {
            return None;
        }
        desired.wait_sources_ready().await;
        desired.mirror_of(&uid)
    };
    shutdown.run_until_cancelled(tokio::time::timeout(LATE_MIRROR, wait)).await?.ok()?
}

#[cfg(test)]
mod tests {
    use super::is_running;
    use crate::model::{ObservedPod, ObservedSandbox, SandboxState};

    #[test]
    fn what_a_reboot_left_does_not_run() {
        let sandbox = |state| ObservedSandbox {
            id: "s".into(),
            attempt: 0,
            state,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            ips: Vec::new(),
            host_network: false,
            runtime_handler: String::new(),
            is_static: false,
        };
        let pod = |state| ObservedPod { sandboxes: vec![sandbox(state)], containers: Vec::new() };
        assert!(!is_running(&pod(SandboxState::NotReady)));
        assert!(is_running(&pod(SandboxState::Ready)));
    }
}
