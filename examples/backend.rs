//! A whole backend in one file: its pods run nothing, and each container's log is one line.
//!
//! A source is filled by hand, dispatch admits the pod and has the backend launch it, the log is
//! read as the kubelet's API would read it, and the pod goes when its source has it no longer.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use rkubelet::backend::desired::{self, Source, SourceKind, SourceState};
use rkubelet::backend::{
    Allocated, Amount, Backend, Clock, Config, Deps, Directive, Dispatch, Ended, Features,
    Forgetters, Found, Give, Launched, Lifecycle, LogChunks, LogOptions, NodeFacts, Opening, Pod,
    PodStates, PodUid, PodView, Recorder, Resizable, Streams, SysctlAllowlist, ViewState,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs pods that do nothing.
struct Idle {
    /// Kept, as dispatch ends when the sender is gone. No pod is found: none outlives the process.
    found: watch::Sender<Option<Found>>,
}

impl Backend for Idle {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> Launched {
        let (sender, view) = watch::channel(PodView::new(&pod, &lifecycle));
        // One that was rejected, say; the directive does not repeat it.
        let begins_stopped = lifecycle.is_stopping();
        Launched { task: live(directive, sender, begins_stopped).boxed(), view }
    }

    fn found(&self) -> watch::Receiver<Option<Found>> {
        self.found.subscribe()
    }

    fn streams(&self) -> Arc<dyn Streams> {
        Arc::new(OneLine)
    }
}

/// The life of one pod: it obeys the latest directive until the pod is gone from its source.
async fn live(
    mut directive: watch::Receiver<Directive>,
    view: watch::Sender<PodView>,
    begins_stopped: bool,
) -> Ended {
    loop {
        let order = directive.borrow_and_update().clone();
        let stops = begins_stopped || order.gone || order.stop.is_some();
        view.send_modify(|view| {
            view.state = if stops { ViewState::Terminated } else { ViewState::Syncing };
            view.pod = order.pod;
            let phase = if stops { "Failed" } else { "Running" };
            Arc::make_mut(&mut view.status).phase = Some(phase.to_owned());
        });
        if order.gone {
            return Ended::Gone;
        }
        if directive.changed().await.is_err() {
            return Ended::Shutdown;
        }
    }
}

/// Logs of one line. Exec, attach and port-forward are refused, as the trait does by default.
#[derive(Debug)]
struct OneLine;

impl Streams for OneLine {
    fn logs(
        &self,
        pod: watch::Receiver<PodView>,
        container: String,
        _: LogOptions,
    ) -> Opening<'_, LogChunks> {
        async move {
            let line = format!("{}/{container} does nothing\n", pod.borrow().key);
            Ok(futures::stream::iter([Ok(line.into())]).boxed())
        }
        .boxed()
    }
}

/// Gives nothing besides CPU time and memory.
struct NoDevices;

impl Give for NoDevices {
    fn allocate(&self, _: &Arc<Pod>, _: &[String]) -> Option<BoxFuture<'static, Allocated>> {
        None
    }

    fn release(&self, _: &PodUid) {}
}

/// Starts a pod on the backend, reads its log, and lets it go.
pub(crate) async fn play() -> String {
    let clock = Clock::system();
    let shutdown = CancellationToken::new();
    let (recorder, _events) = Recorder::channel();

    // A real node agent has a source that watches the API server, and keeps mirrors there.
    let (source, state) = watch::channel(SourceState::default());
    let sources = vec![Source { kind: SourceKind::Api, state }];
    let (desired, changes, merging) =
        desired::new(desired::Deps { sources, mirrors: None, recorder: recorder.clone(), clock });

    let facts = NodeFacts {
        allocatable: BTreeMap::from([("pods".to_owned(), Amount::from_units(10))]),
        ..NodeFacts::default()
    };
    let (_facts, node) = watch::channel(Some(Arc::new(facts)));
    let config = Config {
        node_name: "example".to_owned(),
        sysctls: SysctlAllowlist::new((6, 8), &[]).expect("no patterns"),
        apparmor: false,
        features: Features { pod_level_resources: true, declared: None },
        resizes: Resizable { whole_pods: true, swap: false },
    };
    let deps = Deps {
        backend: Idle { found: watch::Sender::new(Some(Found::new())) },
        desired,
        node,
        read_node: None,
        give: Arc::new(NoDevices),
        allocated: PodStates::new(BTreeMap::new()),
        forget: Forgetters::default(),
        recorder,
        clock,
        shutdown: shutdown.clone(),
    };
    let (dispatch, pods) = Dispatch::new(config, deps);

    let script = async {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u1"},
            "spec": {"nodeName": "example", "containers": [{"name": "main", "image": "web:1"}]},
        }))
        .expect("a pod");
        let uid = PodUid::from("u1");
        source.send_modify(|state| {
            state.ready = true;
            state.pods.insert(uid.clone(), Arc::new(pod));
        });

        // Once it is admitted it counts, and has a task.
        pods.active().wait_for(|active| !active.is_empty()).await.expect("it is admitted");
        let mut view = pods.watch(&uid).expect("a task");
        let runs = |view: &PodView| view.status.phase.as_deref() == Some("Running");
        view.wait_for(runs).await.expect("it runs");
        let log = pods.streams().logs(view.clone(), "main".to_owned(), LogOptions::default());
        let chunks: Vec<_> = log.await.expect("a log").collect().await;

        source.send_modify(|state| state.pods.clear());
        while view.changed().await.is_ok() {}
        shutdown.cancel();
        let text = chunks.into_iter().map(|chunk| chunk.expect("a chunk")).collect::<Vec<_>>();
        String::from_utf8_lossy(&text.concat()).into_owned()
    };
    let merging = shutdown.run_until_cancelled(merging);
    let (text, (), _) = tokio::join!(script, dispatch.run(changes), merging);
    text
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, clippy::print_stdout, reason = "a program; the tests run what it plays")]
async fn main() {
    print!("{}", play().await);
}
