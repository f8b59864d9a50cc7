//! A node whose pods are plain Linux processes: no container runtime, no images, no isolation.
//!
//! ```text
//! process-backend NODE KUBECONFIG ROOT [FLAG…]
//! ```
//!
//! Each container is a process group that runs `command` and `args` of the spec on this machine,
//! with the environment of the spec resolved. The processes outlive the backend: it finds them
//! again in its folder. What follows `ROOT` are flags of the kubelet, e.g. `--client-ca-file=…`.
//!
//! | file | what it does |
//! |---|---|
//! | `process` | starts, finds and stops processes; owns the folder |
//! | `plan` | decides what a pod needs next; pure |
//! | `pod` | the task of a pod |
//! | `streams` | logs and commands |
#![allow(
    clippy::disallowed_methods,
    reason = "small files of the backend's own, and its arguments"
)]

mod plan;
mod pod;
mod process;
mod streams;

use std::sync::Arc;

use anyhow::{Result, bail};
use futures::FutureExt as _;
use rkubelet::agent::{Agent, Services};
use rkubelet::backend::{
    Backend, Directive, Found, Launched, Lifecycle, Pod, PodUid, PodView, Streams,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::process::Folder;
use self::streams::ProcessStreams;

/// Runs pods as processes.
struct ProcessBackend {
    services: Services,
    folder: Folder,
    found: watch::Sender<Option<Found>>,
}

impl Backend for ProcessBackend {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> Launched {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        self.found.send_if_modified(|found| {
            found.as_mut().is_some_and(|found| found.remove(&uid).is_some())
        });

        let (sender, view) = watch::channel(PodView::new(&pod, &lifecycle));
        let streams = Arc::new(ProcessStreams::new(self.folder.clone()));
        let services = self.services.clone();
        let reporter = services.reporter(&pod, streams);
        let folder = self.folder.of(&uid);
        let task = pod::Task::new(services, reporter, folder, sender, (pod, lifecycle));
        Launched { task: task.live(directive).boxed(), view }
    }

    fn found(&self) -> watch::Receiver<Option<Found>> {
        self.found.subscribe()
    }

    fn streams(&self) -> Arc<dyn Streams> {
        Arc::new(ProcessStreams::new(self.folder.clone()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(node), Some(kubeconfig), Some(root)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: process-backend NODE KUBECONFIG ROOT [FLAG…]");
    };
    let mut agent = Agent::new(&node, "process", env!("CARGO_PKG_VERSION"))
        .kubeconfig(kubeconfig)
        .root_dir(&root)
        .label("type", "virtual-kubelet")
        .taint("virtual-kubelet.io/provider=process:NoSchedule");
    for argument in arguments {
        agent = agent.argument(argument);
    }

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = async move {
        terminate.recv().await;
        stop.cancel();
        std::future::pending::<Result<()>>().await
    };
    let folder = Folder::open(&root)?;
    let running = agent.run(
        |services| {
            let found = watch::Sender::new(Some(folder.found()));
            ProcessBackend { services, folder, found }
        },
        shutdown,
    );
    tokio::select! {
        ended = running => ended,
        never = stopping => never,
    }
}
