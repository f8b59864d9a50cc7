//! Small tasks that turn one subsystem's state into another's input, and the observers that count.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use tracing::debug;

use super::{Core, RuntimeParts};
use crate::cri::RuntimeCondition;
use crate::model::{Now, error_chain};
use crate::pods::NetworkProblem;
use crate::volumes::mounter::Mounter;
use crate::{cni, images, node, pleg};

/// How often time alone can change a condition (the runtime or the pleg has been silent for too
/// long).
const SILENCE_CHECK: Duration = Duration::from_secs(10);

/// How often the images of the node are listed even if none was pulled: others remove some.
const IMAGES_EVERY: Duration = Duration::from_secs(60);

fn node_images(images: Vec<images::NodeImage>) -> Vec<node::NodeImage> {
    let split = |image: images::NodeImage| {
        let (repo_digests, repo_tags) =
            image.names.into_iter().partition(|name| name.contains('@'));
        node::NodeImage {
            repo_digests,
            repo_tags,
            bytes: i64::try_from(image.size).unwrap_or(i64::MAX),
        }
    };
    images.into_iter().map(split).collect()
}

/// What is wrong with the runtime or its network now, in upstream's words.
fn problems(condition: &RuntimeCondition, pleg: &pleg::Handle, now: Now) -> Problems {
    let runtime = condition.runtime_errors(now.mono);
    Problems {
        runtime: (!runtime.is_empty()).then(|| runtime.join(", ")),
        network: condition.network.clone().err(),
        pleg: pleg.healthy(now.mono).err(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Problems {
    runtime: Option<String>,
    network: Option<String>,
    pleg: Option<String>,
}

impl<M: Mounter> Core<M> {
    /// Runs `apply` at each change of the runtime's condition, at the first relist, and every
    /// [`SILENCE_CHECK`].
    fn on_condition(
        &self,
        tasks: &mut JoinSet<()>,
        parts: &RuntimeParts,
        mut apply: impl FnMut(&RuntimeCondition, Problems) + Send + 'static,
    ) {
        let (mut condition, pleg, clock) =
            (parts.condition.clone(), parts.pleg.clone(), self.clock);
        let stop = self.shutdown.clone();
        tasks.spawn(async move {
            let work = async {
                loop {
                    let current = condition.borrow_and_update().clone();
                    let relisted = pleg.last_relist().is_some();
                    let problems = problems(&current, &pleg, clock.now());
                    apply(&current, problems);
                    // Every arm is cancel-safe.
                    tokio::select! {
                        changed = condition.changed() => if changed.is_err() { return },
                        () = pleg.relisted(), if !relisted => {}
                        () = tokio::time::sleep(SILENCE_CHECK) => {}
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
    }

    /// The node's inputs: what is wrong, what the runtime is and has.
    pub(super) fn bridge_node(
        &self,
        tasks: &mut JoinSet<()>,
        parts: &RuntimeParts,
        inputs: watch::Sender<node::NodeInputs>,
    ) {
        let sender = Arc::new(inputs);
        let images_sender = sender.clone();
        self.bridge_devices(tasks, parts, sender.clone());
        self.on_condition(tasks, parts, move |condition, problems| {
            sender.send_if_modified(|inputs| {
                let before = inputs.clone();
                inputs.runtime_problem = problems.runtime;
                inputs.network_problem = problems.network;
                inputs.pleg_problem = problems.pleg;
                if let Some(identity) = &condition.identity {
                    inputs.runtime_version = identity.node_info();
                }
                inputs.runtime_handlers = condition
                    .handlers
                    .iter()
                    .map(|handler| node::RuntimeHandler {
                        name: handler.name.clone(),
                        recursive_read_only_mounts: handler.recursive_read_only_mounts,
                        user_namespaces: handler.user_namespaces,
                    })
                    .collect();
                inputs.supplemental_groups_policy =
                    condition.features.as_ref().map(|features| features.supplemental_groups_policy);
                *inputs != before
            });
        });
        let (images, mut pulls) = (parts.images.clone(), parts.pulls.clone());
        let limit = self.loaded.config.node_status_max_images;
        let stop = self.shutdown.clone();
        tasks.spawn(async move {
            let work = async {
                loop {
                    match images.list(limit).await {
                        Ok(found) => images_sender.send_modify(|inputs| {
                            inputs.images = Arc::new(node_images(found));
                        }),
                        Err(error) => debug!(%error, "listing images failed; the node's status keeps the last list"),
                    }
                    // Cancel-safe: a timeout loses no change.
                    if let Ok(Err(_)) = tokio::time::timeout(IMAGES_EVERY, pulls.changed()).await {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
    }

    /// What device plugins offer.
    fn bridge_devices(
        &self,
        tasks: &mut JoinSet<()>,
        parts: &RuntimeParts,
        inputs: Arc<watch::Sender<node::NodeInputs>>,
    ) {
        let (mut figures, stop) = (parts.manager.figures(), self.shutdown.clone());
        tasks.spawn(async move {
            let work = async {
                loop {
                    let now = figures.borrow_and_update().clone();
                    inputs.send_if_modified(|inputs| {
                        let changed = inputs.extended != now;
                        inputs.extended = now;
                        changed
                    });
                    if figures.changed().await.is_err() {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
    }

    /// Why no sandbox may be made.
    pub(super) fn bridge_network(
        &self,
        tasks: &mut JoinSet<()>,
        parts: &RuntimeParts,
    ) -> watch::Receiver<Option<NetworkProblem>> {
        let (sender, receiver) = watch::channel(None);
        self.on_condition(tasks, parts, move |_, problems| {
            // A few small files are read, and only while there is a problem.
            let diagnose = || {
                cni::diagnose(&cni::Places::default()).err().map(|problem| error_chain(&problem))
            };
            let problem =
                problems.network.map(|message| NetworkProblem { message, diagnosis: diagnose() });
            sender.send_if_modified(|current| {
                let changed = *current != problem;
                *current = problem;
                changed
            });
        });
        receiver
    }

    /// Why `/healthz/syncloop` fails.
    pub(super) fn bridge_health(
        &self,
        tasks: &mut JoinSet<()>,
        parts: &RuntimeParts,
    ) -> watch::Receiver<Option<String>> {
        let (sender, receiver) = watch::channel(None);
        let pleg = parts.pleg.clone();
        self.on_condition(tasks, parts, move |_, problems| {
            // A kubelet that has just started is as healthy as upstream's, whose loop is judged
            // from its first turn on.
            let problem = problems.pleg.filter(|_| pleg.last_relist().is_some());
            sender.send_if_modified(|current| {
                let changed = *current != problem;
                *current = problem;
                changed
            });
        });
        receiver
    }
}
