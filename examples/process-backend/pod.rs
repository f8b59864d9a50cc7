//! The task of one pod: looks at its processes, does what the plan says, reports, and ends with the
//! pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rkubelet::agent::{Picture, Reporter, Services};
use rkubelet::backend::{
    Directive, Ended, EventType, Lifecycle, ObservedContainer, ObservedPod, ObservedSandbox, Pod,
    PodView, ProbeOutcome, SandboxId, SandboxState, Terminating, TerminationCause, ViewState,
    Waiting,
};
use tokio::sync::watch;

use crate::plan::plan;
use crate::process::{Attempt, PodFolder};

/// The pause between two looks at the processes.
const LOOK: Duration = Duration::from_millis(200);
/// The grace of a pod that says nothing.
const GRACE: Duration = Duration::from_secs(30);

/// One pod.
pub(crate) struct Task {
    services: Services,
    reporter: Reporter,
    folder: PodFolder,
    pod: Arc<Pod>,
    lifecycle: Lifecycle,
    view: watch::Sender<PodView>,
    /// The signal that the pod's processes were sent last.
    signalled: Option<Signal>,
    /// The pod's end has been reported.
    is_finished: bool,
}

impl Task {
    /// The task of a pod, before it begins.
    pub(crate) fn new(
        services: Services,
        reporter: Reporter,
        folder: PodFolder,
        view: watch::Sender<PodView>,
        (pod, lifecycle): (Arc<Pod>, Lifecycle),
    ) -> Self {
        Self {
            services,
            reporter,
            folder,
            pod,
            lifecycle,
            view,
            signalled: None,
            is_finished: false,
        }
    }

    /// Runs until the pod is gone, or the process ends.
    pub(crate) async fn live(mut self, mut directive: watch::Receiver<Directive>) -> Ended {
        let shutdown = self.services.shutdown();
        loop {
            let order = directive.borrow_and_update().clone();
            if order.pod.metadata.resource_version != self.pod.metadata.resource_version {
                self.pod = order.pod.clone();
                self.reporter.updated(&self.pod).await;
            }
            if !self.lifecycle.is_stopping() {
                self.lifecycle = self.next_life(&order);
            }

            let attempts = self.folder.attempts();
            let observed = self.observe(&attempts);
            let waiting = match self.lifecycle.clone() {
                Lifecycle::Syncing => self.sync(&attempts, &observed).await,
                Lifecycle::Terminating(terminating) => {
                    self.stop(&attempts, &observed, terminating);
                    BTreeMap::new()
                }
                Lifecycle::Terminated(_) => BTreeMap::new(),
            };
            self.publish(observed, &waiting).await;

            if matches!(self.lifecycle, Lifecycle::Terminated(_)) && self.end(&order).await {
                return Ended::Gone;
            }
            // Every arm only waits.
            tokio::select! {
                () = shutdown.cancelled() => return Ended::Shutdown,
                changed = directive.changed() => if changed.is_err() { return Ended::Shutdown },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// The life that follows from the orders.
    fn next_life(&self, order: &Directive) -> Lifecycle {
        let seconds = |seconds: Option<i64>| {
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            seconds.map_or(GRACE, Duration::from_secs)
        };
        let spec = self.pod.spec.as_ref();
        let own = seconds(spec.and_then(|spec| spec.termination_grace_period_seconds));
        let metadata = &self.pod.metadata;
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let (cause, grace) = if metadata.deletion_timestamp.is_some() {
            let grace = seconds(metadata.deletion_grace_period_seconds);
            (TerminationCause::Deleted, grace)
        } else if order.gone {
            (TerminationCause::Removed, own)
        } else if let Some(stop) = &order.stop {
            (stop.cause.clone(), stop.grace)
        } else if matches!(phase, Some("Succeeded" | "Failed")) {
            (TerminationCause::Finished, own)
        } else {
            return Lifecycle::Syncing;
        };
        let since = self.services.clock().now();
        Lifecycle::Terminating(Terminating { cause, since, grace })
    }

    fn observe(&self, attempts: &[Attempt]) -> ObservedPod {
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let sandbox = SandboxId::from(&*uid);
        let images: BTreeMap<&str, &str> = containers(&self.pod)
            .map(|container| (&*container.name, container.image.as_deref().unwrap_or_default()))
            .collect();
        let seen = attempts.iter().map(|attempt| ObservedContainer {
            id: attempt.id(),
            name: attempt.name.clone(),
            sandbox: sandbox.clone(),
            restart_count: attempt.number,
            hash: 0,
            image: images.get(&*attempt.name).copied().unwrap_or_default().to_owned(),
            image_ref: String::new(),
            created_at: attempt.created_at(),
            state: attempt.state(),
            user: None,
            resources: None,
            mounts: Vec::new(),
            log_path: attempt.log().to_string_lossy().into_owned(),
            stop_signal: None,
        });
        let seen: Vec<ObservedContainer> = seen.collect();
        let is_over = matches!(self.lifecycle, Lifecycle::Terminated(_));
        // A pod of processes has no sandbox. Its first process stands for it.
        let sandboxes = seen.iter().map(|container| container.created_at).min().map(|created_at| {
            ObservedSandbox {
                id: sandbox,
                attempt: 0,
                state: if is_over { SandboxState::NotReady } else { SandboxState::Ready },
                created_at,
                ips: self.services.host_ips().borrow().clone(),
                host_network: true,
                runtime_handler: String::new(),
                is_static: false,
            }
        });
        ObservedPod { sandboxes: sandboxes.into_iter().collect(), containers: seen }
    }

    /// Starts what should run, and stops what its probes have failed. Returns why the rest waits.
    async fn sync(
        &mut self,
        attempts: &[Attempt],
        observed: &ObservedPod,
    ) -> BTreeMap<String, Waiting> {
        let now = self.services.clock().now();
        let plan = plan(&self.pod, observed, now.wall);
        if plan.is_finished {
            let cause = TerminationCause::Finished;
            let terminating = Terminating { cause, since: now, grace: Duration::ZERO };
            self.lifecycle = Lifecycle::Terminating(terminating);
            return plan.waiting;
        }

        let mut waiting = plan.waiting;
        for (name, attempt) in &plan.start {
            if let Err(problem) = self.start(name, *attempt, observed).await {
                waiting.insert(name.clone(), problem);
            }
        }

        let verdicts = self.reporter.verdicts().borrow().clone();
        for attempt in attempts {
            let Some(verdict) = verdicts.containers.get(&attempt.id()) else { continue };
            let failed = Some(ProbeOutcome::Failure);
            if verdict.liveness == failed || verdict.startup == failed {
                let message =
                    format!("Container {} failed its probe, will be restarted", attempt.name);
                self.note(&attempt.name, ("Killing", message));
                attempt.signal(Signal::SIGKILL);
            }
        }

        waiting
    }

    async fn start(&self, name: &str, attempt: u32, observed: &ObservedPod) -> Result<(), Waiting> {
        let Some(container) = containers(&self.pod).find(|container| container.name == name) else {
            return Ok(());
        };
        let ips = observed.latest_sandbox().map(|sandbox| sandbox.ips.clone());
        let ips = ips.unwrap_or_else(|| self.services.host_ips().borrow().clone());
        let resolved = self.services.resolve(&self.pod, container, &ips).await;
        let resolved = resolved
            .map_err(|error| Waiting { reason: error.reason.to_owned(), message: error.message })?;
        let failed = |message: String| Waiting { reason: "RunContainerError".to_owned(), message };
        if resolved.command.is_empty() {
            return Err(failed("no command specified: this node has no images".to_owned()));
        }

        let directory = container.working_dir.as_deref();
        self.folder.note(&self.pod).map_err(|error| failed(error.to_string()))?;
        let started = self.folder.start(name, attempt, (&resolved, directory));
        started.map_err(|error| failed(error.to_string()))?;
        self.note(name, ("Started", "Container started".to_owned()));
        Ok(())
    }

    /// Stops what runs: TERM at first, KILL once the grace is over.
    fn stop(&mut self, attempts: &[Attempt], observed: &ObservedPod, terminating: Terminating) {
        let running = |name: &Attempt| {
            observed.container(&name.id()).is_some_and(|container| container.state.is_running())
        };
        let is_over = self.services.clock().now().mono >= terminating.deadline();
        let signal = if is_over { Signal::SIGKILL } else { Signal::SIGTERM };
        let mut stops = false;
        for attempt in attempts.iter().filter(|attempt| running(attempt)) {
            stops = true;
            if self.signalled != Some(signal) {
                attempt.signal(signal);
            }
        }
        self.signalled = Some(signal);
        if !stops {
            self.lifecycle = Lifecycle::Terminated(terminating);
        }
    }

    /// Says what is known, to the API and to those who look at the pod.
    async fn publish(&mut self, observed: ObservedPod, waiting: &BTreeMap<String, Waiting>) {
        let picture =
            Picture { pod: &self.pod, lifecycle: &self.lifecycle, observed: &observed, waiting };
        let status = self.reporter.publish(&picture).await;
        let pod = self.pod.clone();
        let state = ViewState::from(&self.lifecycle);
        self.view.send_if_modified(|view| {
            let is_same = *view.observed == observed && *view.status == *status;
            if is_same && view.state == state && Arc::ptr_eq(&view.pod, &pod) {
                return false;
            }
            view.pod = pod;
            view.state = state;
            view.observed = Arc::new(observed);
            view.status = status;
            true
        });
    }

    /// Ends the pod on the node. Returns true once it is gone from its source, too.
    async fn end(&mut self, order: &Directive) -> bool {
        let is_deleted = self.pod.metadata.deletion_timestamp.is_some();
        if (is_deleted || order.gone) && !self.is_finished {
            self.is_finished = true;
            if let Err(error) = self.folder.remove() {
                tracing::warn!(%error, "the folder of a pod could not be removed");
            }
            self.reporter.finish(&self.pod).await;
        }
        order.gone
    }

    fn note(&self, container: &str, (reason, message): (&'static str, String)) {
        self.reporter.event(&self.pod, Some(container), EventType::Normal, (reason, message));
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    init.iter().chain(main)
}
