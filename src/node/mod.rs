//! The Node object: what this machine is, registration, status, lease.
//!
//! ```text
//!  machine (procfs, sysfs) ─┐
//!  addresses (rtnetlink) ───┼─► status* ─► task ──► register, PATCH status, events
//!  NodeInputs (watch) ──────┘                │
//!                                            └─► lease (a task and connections of its own)
//! ```
//!
//! Fed by the runtime's readiness and by eviction through [`NodeInputs`]; never looks at pods.

pub mod addresses;
pub mod info;
mod lease;
pub mod packet_filter;
pub mod patch;
pub mod register;
pub mod resources;
pub mod status;
mod task;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apiserver::Clients;
use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::clock::Clock;

/// What the node says of itself by configuration.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name in the API.
    pub node_name: String,
    /// The value of the label `kubernetes.io/hostname` and of the Hostname address.
    pub hostname: String,
    /// `--node-ip`: none, one, or one per family; an unspecified address asks for that family's
    /// default route.
    pub node_ips: Vec<IpAddr>,
    /// `registerNode`: whether to make the object if there is none.
    pub register: bool,
    /// `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`.
    pub taints: Vec<Taint>,
    /// `--cloud-provider=external`.
    pub external_cloud_provider: bool,
    /// `providerID`; empty for none.
    pub provider_id: String,
    /// `enableControllerAttachDetach`.
    pub controller_attach_detach: bool,
    /// `maxPods`.
    pub max_pods: i64,
    /// `podsPerCore`; zero for no such limit.
    pub pods_per_core: i64,
    /// `kubeReserved` by resource name.
    pub kube_reserved: BTreeMap<String, String>,
    /// `systemReserved` by resource name.
    pub system_reserved: BTreeMap<String, String>,
    /// `evictionHard` by signal, e.g. `memory.available` → `100Mi`.
    pub eviction_hard: BTreeMap<String, String>,
    /// `localStorageCapacityIsolation`.
    pub local_storage: bool,
    /// `nodeStatusUpdateFrequency`.
    pub status_update_frequency: Duration,
    /// `nodeStatusReportFrequency`.
    pub status_report_frequency: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease_duration: Duration,
    /// `nodeStatusMaxImages`; negative for all.
    pub max_images: i64,
    /// The HTTPS server's port.
    pub port: u16,
    /// `v1.36.3`.
    pub kubelet_version: String,
    /// Features that pods may ask a node for and that this kubelet carries out, sorted.
    pub declared_features: Vec<String>,
    /// The kubelet's root directory: its file system is the node's ephemeral storage.
    pub root_dir: PathBuf,
}

/// What the rest of the kubelet says about the node's readiness; the integrator keeps it up to
/// date.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInputs {
    /// What is wrong with the runtime: upstream's `container runtime status check may not have
    /// completed yet`, `container runtime is down`, or what the runtime says. `None`: it is ready.
    pub runtime_problem: Option<String>,
    /// `container runtime network not ready: NetworkReady=false reason:… message:…`.
    pub network_problem: Option<String>,
    /// `PLEG is not healthy: …`, whole.
    pub pleg_problem: Option<String>,
    /// What is wrong with storage, e.g. `CSINode is not yet initialized`.
    pub storage_problem: Option<String>,
    /// `node is shutting down`.
    pub shutdown_problem: Option<String>,
    /// `containerd://2.3.7`.
    pub runtime_version: String,
    /// The images on the node, in any order.
    pub images: Arc<Vec<NodeImage>>,
    /// The runtime's handlers.
    pub runtime_handlers: Vec<RuntimeHandler>,
    /// Whether the runtime knows supplementalGroupsPolicy; `None`: it does not say.
    pub supplemental_groups_policy: Option<bool>,
    /// Whether the node is short of memory.
    pub memory_pressure: bool,
    /// Whether the node is short of disk.
    pub disk_pressure: bool,
    /// Whether the node is short of process ids.
    pub pid_pressure: bool,
    /// Extended resources (device plugins): capacity and allocatable by name.
    pub extended: BTreeMap<String, (i64, i64)>,
    /// Attachable volumes in use; `None`: not known yet, the object is left as it is.
    pub volumes_in_use: Option<Vec<String>>,
}

impl Default for NodeInputs {
    fn default() -> Self {
        Self {
            runtime_problem: Some(
                "container runtime status check may not have completed yet".to_owned(),
            ),
            network_problem: None,
            pleg_problem: None,
            storage_problem: None,
            shutdown_problem: None,
            runtime_version: "containerd://Unknown".to_owned(),
            images: Arc::default(),
            runtime_handlers: Vec::new(),
            supplemental_groups_policy: None,
            memory_pressure: false,
            disk_pressure: false,
            pid_pressure: false,
            extended: BTreeMap::new(),
            volumes_in_use: None,
        }
    }
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeImage {
    /// `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// Its size.
    pub bytes: i64,
}

/// A runtime handler and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// Its name; empty for the default one.
    pub name: String,
    /// Whether read-only mounts can be recursive.
    pub recursive_read_only_mounts: bool,
    /// Whether pods can have user namespaces.
    pub user_namespaces: bool,
}

/// What [`start`] connects.
#[derive(Debug)]
pub struct Parts {
    /// The clients.
    pub clients: Clients,
    /// The API's Node object, see `apiserver::nodes::start`.
    pub view: watch::Receiver<NodeView>,
    /// Readiness.
    pub inputs: watch::Receiver<NodeInputs>,
    /// For events about the node.
    pub recorder: Recorder,
    /// The clock.
    pub clock: Clock,
}

/// Reads the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    node: watch::Receiver<Option<Arc<Node>>>,
    view: watch::Receiver<NodeView>,
}

impl Handle {
    /// The node as the API has it, else as this kubelet would describe it; `None` only in the first
    /// moments.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.view.borrow().node.clone().or_else(|| self.node.borrow().clone())
    }

    /// Waits until there is a node. Cancel-safe; never returns after a shutdown before that.
    pub async fn wait(&self) -> Arc<Node> {
        let mut described = self.node.clone();
        loop {
            if let Some(node) = self.node() {
                return node;
            }
            if described.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The node as this kubelet describes it, changing with every look at the machine.
    pub fn described(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.node.clone()
    }
}

/// Starts the task of the Node object and that of the lease.
pub fn start(
    config: NodeConfig,
    parts: Parts,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) -> Handle {
    let (described, node) = watch::channel(None);
    let view = parts.view.clone();
    let lease = lease::Lease::new(&config, &parts);
    let task = task::Task::new(config, parts, described);
    // Boxed: they hold whole Node objects across their waits.
    let (lease, task) = (Box::pin(lease.run()), Box::pin(task.run()));
    let (for_lease, for_task) = (cancel.clone(), cancel.clone());
    tasks.spawn(async move {
        for_lease.run_until_cancelled(lease).await;
    });
    tasks.spawn(async move {
        for_task.run_until_cancelled(task).await;
    });
    Handle { node, view }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::sync::{mpsc, watch};
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::status::tests::{config, ready};
    use super::{Handle, NodeInputs, Parts, start};
    use crate::apiserver::connectivity::Connectivity;
    use crate::apiserver::events::{Event, Recorder};
    use crate::apiserver::fake::FakeApi;
    use crate::apiserver::nodes;
    use crate::clock::Clock;

    struct World {
        fake: FakeApi,
        inputs: watch::Sender<NodeInputs>,
        events: mpsc::Receiver<Event>,
        node: Handle,
        reach: Connectivity,
        clock: Clock,
        _tasks: JoinSet<()>,
    }

    fn world(prepare: impl FnOnce(&FakeApi)) -> World {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let (fake, cancel, mut tasks) =
            (FakeApi::new(clock), CancellationToken::new(), JoinSet::new());
        prepare(&fake);
        let clients = fake.clients("n");
        let view = nodes::start(&clients, &mut tasks, cancel.clone());
        let (recorder, events) = Recorder::channel();
        let (inputs, receiver) = watch::channel(NodeInputs::default());
        let reach = clients.reach.clone();
        let parts = Parts { clients, view, inputs: receiver, recorder, clock };
        let node = start(config(), parts, &mut tasks, &cancel);
        World { fake, inputs, events, node, reach, clock, _tasks: tasks }
    }

    impl World {
        async fn ready(&self, status: &str) -> Value {
            let is = |node: &&Value| {
                let conditions =
                    node["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == status)
            };
            self.fake.wait_for("api/v1/nodes", |nodes| nodes.iter().find(is).cloned()).await
        }

        fn reasons(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| event.reason).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn registers_becomes_ready_at_once_and_renews_its_lease() {
        let mut world = world(|fake| fake.fail("POST", "nodes", 503, 2));
        let node = world.ready("False").await;
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n");
        assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.3");
        let before = world.clock.now();
        world.inputs.send_replace(ready());
        world.ready("True").await;
        assert!(
            world.clock.now().mono.since(before.mono) < Duration::from_millis(300),
            "a change is told at once"
        );
        assert!(world.node.node().is_some());
        let lease = world
            .fake
            .wait_for("apis/coordination.k8s.io/v1/leases", |leases| leases.first().cloned())
            .await;
        assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
        let renewed = |leases: &[Value]| {
            leases.iter().find(|l| l["spec"]["renewTime"] != lease["spec"]["renewTime"]).cloned()
        };
        world.fake.wait_for("apis/coordination.k8s.io/v1/leases", renewed).await;
        let reasons = world.reasons();
        for reason in ["Starting", "NodeHasSufficientMemory", "NodeReady"] {
            assert!(reasons.iter().any(|told| told == reason), "{reason}: {reasons:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reports_seldom_when_nothing_changes() {
        let world = world(|_| {});
        world.inputs.send_replace(ready());
        world.ready("True").await;
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let writes = world
            .fake
            .requests()
            .iter()
            .filter(|r| r.starts_with("PATCH /api/v1/nodes/n/status"))
            .count();
        assert!((2..=6).contains(&writes), "{writes} writes in 1000 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_ready_is_not_called_unready_because_the_kubelet_starts() {
        let object = json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}]}});
        let world = world(|fake| drop(fake.put("api/v1/nodes", object)));
        let before = world.clock.now();
        let node = world.ready("False").await;
        assert!(world.clock.now().mono.since(before.mono) >= Duration::from_secs(8), "{node}");
        assert!(
            world.clock.now().mono.since(before.mono) < Duration::from_secs(12),
            "but it is, in the end"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn adopts_an_existing_node_and_survives_an_outage() {
        let world = world(|fake| {
            fake.put(
                "api/v1/nodes",
                json!({"metadata": {"name": "n", "labels": {"mine": "x"}}, "spec": {"unschedulable": true}}),
            );
        });
        world.inputs.send_replace(ready());
        let node = world.ready("True").await;
        assert_eq!(node["metadata"]["labels"]["mine"], "x");
        assert_eq!(
            node["metadata"]["annotations"]["volumes.kubernetes.io/controller-managed-attach-detach"],
            "true"
        );
        world.fake.set_down(true);
        world.inputs.send_replace(NodeInputs::default());
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.fake.set_down(false);
        let before = world.clock.now();
        world.ready("False").await;
        assert!(world.clock.now().mono.since(before.mono) < Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_in_an_outage_is_told_as_soon_as_somebody_is_answered() {
        let world = world(|_| {});
        world.inputs.send_replace(ready());
        world.ready("True").await;
        for away in 60..70 {
            world.fake.set_down(true);
            world.inputs.send_replace(NodeInputs::default());
            tokio::time::sleep(Duration::from_secs(away)).await;
            world.fake.set_down(false);
            world.reach.lost();
            world.reach.answered(http::StatusCode::OK);
            let before = world.clock.now();
            world.ready("False").await;
            let took = world.clock.now().mono.since(before.mono);
            assert!(took < Duration::from_secs(1), "{away} s away: {took:?}");
            world.inputs.send_replace(ready());
            world.ready("True").await;
        }
    }
}
