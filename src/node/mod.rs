//! Keeps the Node object: this machine's description, registration, status and lease.
//!
//! ```text
//!  machine (procfs, sysfs) ─┐
//!  addresses (rtnetlink) ───┼─► status*, conditions* ─► task ──► register, PATCH status, events
//!  Sources (one watch each) ┘                             ├────► host_ips (watch): pods' `hostIP`
//!                                                         └────► described (watch): allocatable
//!  lease: beside it, on connections of its own
//! ```
//!
//! Fed by the receivers of [`Sources`]. It never looks at pods.

pub mod addresses;
mod conditions;
mod config;
pub mod csi_node;
pub mod info;
mod lease;
pub mod packet_filter;
pub mod patch;
pub mod register;
pub mod resources;
mod sources;
pub mod standalone;
mod startup;
pub mod status;
mod status_input;
mod task;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

pub use self::config::{Names, NodeConfig};
pub use self::sources::{Facts, Shutdown, Sources};
pub use self::startup::Startup;
use crate::apiserver::Clients;
use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::clock::Clock;

/// The parts of the kubelet that the Node object is made from.
#[derive(Debug)]
pub struct Deps {
    /// The clients of the API server.
    pub clients: Clients,
    /// The API's Node object; see `apiserver::nodes::new`.
    pub view: watch::Receiver<NodeView>,
    /// The inputs of the status.
    pub sources: Sources,
    /// Records events about the node.
    pub recorder: Recorder,
    /// Measures the start of the node.
    pub startup: Startup,
    /// The time.
    pub clock: Clock,
}

/// Reads the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    node: watch::Receiver<Option<Arc<Node>>>,
    view: watch::Receiver<NodeView>,
    host_ips: watch::Receiver<Vec<IpAddr>>,
}

impl Handle {
    /// Returns the API's Node object, else this kubelet's own description of the node. `None` only
    /// in the first moments.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.view.borrow().node.clone().or_else(|| self.node.borrow().clone())
    }

    /// Waits until there is a node. Cancel-safe. Does not return if a shutdown comes first.
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

    /// Returns this kubelet's description of the node; it changes with every look at the machine.
    pub fn described(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.node.clone()
    }

    /// Returns the node's own addresses, preferred first: those of the API's object, else those
    /// that this kubelet has found.
    pub fn host_ips(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.host_ips.clone()
    }
}

/// Returns the Node object's handle, and the task that keeps the object and its lease.
pub fn new(config: NodeConfig, deps: Deps) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (described, node) = watch::channel(None);
    let (addresses, host_ips) = watch::channel(standalone::specified(&config.node_ips));
    let view = deps.view.clone();
    let lease = lease::Lease::new(&config, &deps);
    let task = task::Task::new(config, deps, task::Outputs { described, host_ips: addresses });

    // Boxed: the tasks hold whole Node objects across their waits.
    let lease = Box::pin(lease.run());
    let task = Box::pin(task.run());
    let both = async move {
        tokio::join!(lease, task);
    };

    (Handle { node, view, host_ips }, both)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::sync::{mpsc, watch};
    use tokio::task::JoinSet;

    use super::status::tests::{config, ready_runtime};
    use super::{Deps, Handle, NodeConfig, Sources, Startup, new};
    use crate::apiserver::connectivity::Connectivity;
    use crate::apiserver::events::{Event, Recorder};
    use crate::apiserver::fake::FakeApi;
    use crate::apiserver::nodes;
    use crate::clock::Clock;
    use crate::cri::RuntimeCondition;
    use crate::cri::fake::FakeRuntime;
    use crate::model::Mono;
    use crate::pleg;
    use crate::telemetry::metrics::Registry;

    struct World {
        fake: FakeApi,
        runtime: watch::Sender<RuntimeCondition>,
        events: mpsc::Receiver<Event>,
        node: Handle,
        reach: Connectivity,
        clock: Clock,
        _tasks: JoinSet<()>,
    }

    fn world(prepare: impl FnOnce(&FakeApi)) -> World {
        world_of(config(), prepare)
    }

    fn world_of(config: NodeConfig, prepare: impl FnOnce(&FakeApi)) -> World {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeApi::new(clock);
        let mut tasks = JoinSet::new();
        prepare(&fake);
        let clients = fake.clients("n");
        let (view, watching) = nodes::new(&clients);
        tasks.spawn(watching);
        let (recorder, events) = Recorder::channel();
        let (runtime, condition) = watch::channel(RuntimeCondition::default());
        let reads = FakeRuntime::new(clock).client();
        let (pleg, reader) = pleg::new(reads, clock, std::sync::Arc::new(|_| {}));
        tasks.spawn(reader);
        let sources = Sources {
            runtime: condition,
            pleg: Some(pleg),
            images: watch::channel(std::sync::Arc::default()).1,
            devices: watch::channel([].into()).1,
            pressure: watch::channel(crate::model::Pressure::default()).1,
            storage: watch::channel(None).1,
            shutdown: watch::channel(None).1,
            volumes_in_use: watch::channel(None).1,
        };
        let reach = clients.reach.clone();
        let startup = Startup::register(&Registry::new(), clock);
        let (node, task) = new(config, Deps { clients, view, sources, recorder, startup, clock });
        tasks.spawn(task);
        World { fake, runtime, events, node, reach, clock, _tasks: tasks }
    }

    impl World {
        /// The runtime answers now, and never again.
        fn set_ready(&self) {
            let last_ready = Some(self.clock.now().mono);
            self.runtime.send_replace(RuntimeCondition { last_ready, ..ready_runtime() });
        }

        /// The runtime answers for ever.
        fn stay_ready(&self) {
            let last_ready = Some(Mono(Duration::from_secs(1 << 30)));
            self.runtime.send_replace(RuntimeCondition { last_ready, ..ready_runtime() });
        }

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
        world.stay_ready();
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
        world.stay_ready();
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
        world.stay_ready();
        let node = world.ready("True").await;
        assert_eq!(node["metadata"]["labels"]["mine"], "x");
        assert_eq!(
            node["metadata"]["annotations"]["volumes.kubernetes.io/controller-managed-attach-detach"],
            "true"
        );
        world.fake.set_down(true);
        world.runtime.send_replace(RuntimeCondition::default());
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.fake.set_down(false);
        let before = world.clock.now();
        world.ready("False").await;
        assert!(world.clock.now().mono.since(before.mono) < Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_may_not_be_created_is_read_unless_the_gate_forbids_it() {
        for get_on_exists_only in [false, true] {
            let config = NodeConfig { get_on_exists_only, ..config() };
            let world = world_of(config, |fake| {
                fake.put("api/v1/nodes", json!({"metadata": {"name": "n"}}));
                fake.fail("POST", "/api/v1/nodes", 403, 1000);
            });
            world.stay_ready();
            if get_on_exists_only {
                tokio::time::sleep(Duration::from_secs(60)).await;
            } else {
                world.ready("True").await;
            }

            let requests = world.fake.requests();
            let is_read = requests.iter().any(|made| made.starts_with("GET /api/v1/nodes/n"));
            assert_eq!(is_read, !get_on_exists_only, "{requests:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_in_an_outage_is_told_as_soon_as_somebody_is_answered() {
        let world = world(|_| {});
        world.stay_ready();
        world.ready("True").await;
        for away in 60..70 {
            world.fake.set_down(true);
            world.runtime.send_replace(RuntimeCondition::default());
            tokio::time::sleep(Duration::from_secs(away)).await;
            world.fake.set_down(false);
            world.reach.lost();
            world.reach.answered(http::StatusCode::OK);
            let before = world.clock.now();
            world.ready("False").await;
            let took = world.clock.now().mono.since(before.mono);
            assert!(took < Duration::from_secs(1), "{away} s away: {took:?}");
            world.stay_ready();
            world.ready("True").await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_silence_of_the_runtime_is_told_when_it_becomes_a_problem() {
        let config = NodeConfig { status_update_frequency: Duration::from_secs(300), ..config() };
        let world = world_of(config, |_| {});
        let before = world.clock.now().mono;
        world.set_ready();
        world.ready("True").await;
        world.ready("False").await;
        let took = world.clock.now().mono.since(before);
        assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(32), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pods_get_the_addresses_of_the_apis_object() {
        // A cloud provider chose them; this machine has none of them.
        let external = NodeConfig { external_cloud_provider: true, ..config() };
        let addresses = json!([
            {"type": "InternalIP", "address": "10.9.9.9"},
            {"type": "InternalIP", "address": "fd00::9"},
            {"type": "ExternalIP", "address": "203.0.113.9"},
        ]);
        let object = json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}});
        let world = world_of(external, |fake| drop(fake.put("api/v1/nodes", object)));
        let mut host_ips = world.node.host_ips();
        let wanted: [std::net::IpAddr; 2] =
            ["10.9.9.9", "fd00::9"].map(|ip| ip.parse().expect("an address"));
        host_ips.wait_for(|found| found[..] == wanted).await.expect("it runs");
    }
}
