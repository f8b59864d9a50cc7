//! Registers the Node object, then keeps its status up to date.
//!
//! In: [`Sources`](super::Sources), the watch of the object, a tick every
//! `nodeStatusUpdateFrequency`. Out:
//!
//! - PATCHes of the status: at once when a condition changes, with the next tick when only images
//!   do, and every `nodeStatusReportFrequency` in any case;
//! - events, once the API server has accepted the status that caused them;
//! - the node's description and the addresses of pods on the host's network, each on a `watch`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeAddress};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::watch;

use super::addresses::{self, AddressError, Network};
use super::info::{self, MachineInfo};
use super::sources::Facts;
use super::status;
use super::status_input::{StatusEvent, StatusInput};
use super::{Deps, NodeConfig, patch, register};
use crate::apiserver::failure::{self, FailureKind};
use crate::apiserver::nodes::NodeView;
use crate::apiserver::random;
use crate::model::{EventType, Mono};
use crate::watch::set_if_changed;

/// The first wait between two attempts to register; it doubles up to [`LONGEST_WAIT`]. Upstream's.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait between two attempts to register; upstream's.
const LONGEST_WAIT: Duration = Duration::from_secs(7);
/// The time that the runtime's first answers may take before a node that was ready when this
/// process began is reported as not ready. Upstream's node flaps at each restart. The time is
/// shorter than the usual `nodeStatusUpdateFrequency`, so the next tick checks it again.
const STARTING: Duration = Duration::from_secs(8);
/// The first wait after a status could not be written.
const RETRY: Duration = Duration::from_millis(200);
/// The delay of a write after an input has changed. Runtime, network and images become ready
/// together, and one write reports them.
const SETTLE: Duration = Duration::from_millis(10);
/// The age at which the addresses are read again.
const NETWORK_AGE: Duration = Duration::from_secs(60);
/// The age at which the resolver is queried again.
const LOOK_UP_AGE: Duration = Duration::from_secs(300);

/// The values that the task publishes.
pub(super) struct Outputs {
    /// This kubelet's description of the node.
    pub(super) described: watch::Sender<Option<Arc<Node>>>,
    /// The addresses of pods on the host's network, preferred first.
    pub(super) host_ips: watch::Sender<Vec<IpAddr>>,
}

pub(super) struct Task {
    config: NodeConfig,
    deps: Deps,
    outputs: Outputs,
    facts: Facts,
    api: Api<Node>,
    machine: MachineInfo,
    network: Cached<Network>,
    looked_up: Cached<Vec<IpAddr>>,
    /// The object as the last answer to a request of ours had it.
    answered: Option<Arc<Node>>,
    /// The time at which the status is written even if nothing has changed.
    report_at: Mono,
    /// The time until which a node that was ready is not reported as not ready.
    starting_until: Mono,
    failures: u32,
    said: String,
    unschedulable: bool,
}

/// A value with the time at which it was read.
struct Cached<T> {
    value: T,
    read: Option<Mono>,
}

impl<T> Cached<T> {
    fn is_old(&self, age: Duration, now: Mono) -> bool {
        self.read.is_none_or(|read| now.since(read) >= age)
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions =
        node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Task {
    pub(super) fn new(config: NodeConfig, mut deps: Deps, outputs: Outputs) -> Self {
        // The status uses the lease's connection: it is a heartbeat too, and nothing delays it
        // there.
        let api = Api::all(deps.clients.lease.clone());
        let facts = deps.sources.read(deps.clock.now().mono);
        Self {
            config,
            deps,
            outputs,
            facts,
            api,
            machine: MachineInfo::default(),
            network: Cached { value: Network::default(), read: None },
            looked_up: Cached { value: Vec::new(), read: None },
            answered: None,
            report_at: Mono::default(),
            starting_until: Mono::default(),
            failures: 0,
            said: String::new(),
            unschedulable: false,
        }
    }

    /// Registers, then writes statuses for ever. May be dropped at any await.
    pub(super) async fn run(mut self) {
        let name = self.config.node_name.clone();
        self.deps.recorder.node(&name, EventType::Normal, "Starting", "Starting kubelet.");
        self.starting_until = self.deps.clock.now().mono.after(STARTING);
        self.look().await;
        self.describe();
        if self.config.register {
            self.register().await;
        }

        let mut tick = self.next_tick();
        let mut retry: Option<Mono> = None;
        let mut returns = self.deps.clients.reach.listen();

        loop {
            let now = self.deps.clock.now().mono;
            let due = now >= tick;
            if due {
                self.look().await;
                tick = self.next_tick();
            }

            if retry.is_none_or(|retry| now >= retry) {
                retry = self.synchronise(due).await.err().map(|()| self.retry_at());
            }

            let wake = retry.map_or(tick, |retry| retry.min(tick));
            // Cancel-safe: all branches only wait.
            tokio::select! {
                () = self.deps.sources.changed(self.deps.clock) => {
                    tokio::time::sleep(SETTLE).await;
                }
                changed = self.deps.view.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                () = self.deps.clock.sleep_until(wake) => {}
                () = returns.next() => {
                    let soon = self.deps.clock.now().mono.after(RETRY);
                    retry = retry.map(|at| at.min(soon));
                }
            }
        }
    }

    fn next_tick(&self) -> Mono {
        self.deps.clock.now().mono.after(random::jitter(self.config.status_update_frequency, 0.04))
    }

    fn retry_at(&self) -> Mono {
        let wait = RETRY
            .saturating_mul(1 << self.failures.min(6))
            .min(self.config.status_update_frequency);
        self.deps.clock.now().mono.after(random::jitter(wait, 0.5))
    }

    /// Reads the machine once, and refreshes the addresses that have become too old.
    async fn look(&mut self) {
        let now = self.deps.clock.now().mono;
        // A node without an address waits for one, e.g. from DHCP.
        if self.network.is_old(NETWORK_AGE, now) || self.addresses(&Node::default()).is_err() {
            match addresses::read().await {
                Ok(network) => self.network = Cached { value: network, read: Some(now) },
                Err(problem) => {
                    self.say(format!("cannot read the addresses of this machine: {problem}"));
                }
            }

            let root_dir = self.config.root_dir.clone();
            if let Ok(machine) = crate::linux::blocking::spawn(move || info::read(&root_dir)).await
            {
                self.machine = machine;
            }
        }

        if self.config.wanted().needs_look_up() && self.looked_up.is_old(LOOK_UP_AGE, now) {
            let found = addresses::look_up(&self.config.hostname).await;
            self.looked_up = Cached { value: found, read: Some(now) };
        }
    }

    /// Returns the node's addresses. `present` is the object, whose addresses a cloud provider may
    /// have set.
    fn addresses(&self, present: &Node) -> Result<Vec<NodeAddress>, AddressError> {
        let known = addresses_of(present);
        let wanted = self.config.wanted();
        addresses::choose(wanted, &self.network.value, &self.looked_up.value, known)
    }

    /// Computes the Node object from the present one, and the events of the change.
    fn build(&self, present: &Node) -> (Node, Vec<StatusEvent>) {
        let addresses = self.addresses(present);
        let input = StatusInput {
            config: &self.config,
            info: &self.machine,
            addresses: &addresses,
            facts: &self.facts,
            now: self.deps.clock.now(),
        };
        status::build(input, present)
    }

    /// Publishes this kubelet's description of the node, for readers that need it before the API
    /// has it.
    fn describe(&mut self) {
        self.facts = self.deps.sources.read(self.deps.clock.now().mono);
        let (node, _) = self.build(&register::initial(&self.config, &self.machine));
        self.publish(node);
    }

    /// Publishes the description, and the node's addresses.
    fn publish(&self, described: Node) {
        self.publish_host_ips(&described);
        self.outputs.described.send_replace(Some(Arc::new(described)));
    }

    /// Publishes the addresses of pods on the host's network: those of the API's object, else those
    /// of the description, else the last ones.
    fn publish_host_ips(&self, described: &Node) {
        let view = self.deps.view.borrow().node.clone();
        let known = view.map(|node| addresses::host_ips(addresses_of(&node))).unwrap_or_default();
        let found =
            if known.is_empty() { addresses::host_ips(addresses_of(described)) } else { known };

        let host_ips = &self.outputs.host_ips;
        if !found.is_empty() && set_if_changed(host_ips, found) {
            tracing::info!(addresses = ?*host_ips.borrow(), "the addresses of the node have changed");
        }
    }

    /// Registers the node; tries again until the API server accepts it.
    async fn register(&mut self) {
        self.deps.startup.attempted();
        let mut wait = FIRST_WAIT;
        loop {
            match self.try_register().await {
                Ok(node) => {
                    tracing::info!(node = self.config.node_name, "registered the node");
                    self.answered = Some(Arc::new(node));
                    self.said.clear();
                    return;
                }
                Err(error) => {
                    let problem = failure::text(&error);
                    self.say(format!("cannot register the node: {problem}"));
                }
            }

            tokio::time::sleep(random::jitter(wait, 0.1)).await;
            wait = LONGEST_WAIT.min(wait * 2);

            // Pods do not wait for the API server, and the machine may change meanwhile.
            self.look().await;
            self.describe();
        }
    }

    /// Creates the object, or corrects the existing one.
    async fn try_register(&mut self) -> Result<Node, kube::Error> {
        let initial = register::initial(&self.config, &self.machine);
        let (node, events) = self.build(&initial);

        match self.api.create(&PostParams::default(), &node).await {
            Ok(created) => {
                self.deps.startup.registered();
                self.emit(&events);
                return Ok(created);
            }
            Err(error) => match failure::kind(&error) {
                FailureKind::AlreadyExists => {}
                FailureKind::Forbidden if !self.config.get_on_exists_only => {}
                FailureKind::Forbidden
                | FailureKind::NotFound
                | FailureKind::Conflict
                | FailureKind::Gone
                | FailureKind::Invalid
                | FailureKind::Busy
                | FailureKind::Unknown => return Err(error),
            },
        }

        let existing = self.api.get(&self.config.node_name).await?;
        let reconciled = register::reconciled(&self.config, &node, &existing);
        match patch::between(&existing, &reconciled) {
            None => Ok(existing),
            Some(patch) => self.send(&patch).await,
        }
    }

    /// Writes the status if it has changed or is due. An error has been logged already; the caller
    /// tries again.
    async fn synchronise(&mut self, due: bool) -> Result<(), ()> {
        let Some(present) = self.present().await? else { return Ok(()) };
        self.schedulable(&present);
        self.facts = self.deps.sources.read(self.deps.clock.now().mono);
        let (node, events) = self.build(&present);
        self.publish_host_ips(&node);
        if self.deps.clock.now().mono < self.starting_until
            && is_ready(&present)
            && !is_ready(&node)
        {
            // The node is well; only this process does not know it yet. A report would move pods to
            // other nodes for nothing.
            return Ok(());
        }

        // Admission reads allocatable here, and device plugins come and go.
        self.publish(node.clone());
        let now = self.deps.clock.now().mono;
        let changed = if due {
            status::differs(&present, &node)
        } else {
            status::differs_urgently(&present, &node)
        };
        if !changed && now < self.report_at {
            return Ok(());
        }

        let Some(patch) = patch::between(&present, &node) else { return Ok(()) };
        let first = self.report_at == Mono::default();

        match self.send(&patch).await {
            Ok(node) => {
                self.failures = 0;
                self.said.clear();
                if is_ready(&node) {
                    self.deps.startup.ready();
                }
                self.answered = Some(Arc::new(node));
                self.emit(&events);

                // After a change the next report is at a random time, so that nodes do not report
                // in step.
                let frequency = self.config.status_report_frequency;
                let share = if changed || first { 0.5 + random::unit() } else { 1.0 };
                self.report_at = self.deps.clock.now().mono.after(frequency.mul_f64(share));

                Ok(())
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.say(format!("cannot update the node's status: {}", failure::text(&error)));
                Err(())
            }
        }
    }

    /// Returns the newest known object. After a failure it is read, since the last write may have
    /// been carried out. `None` if the object does not exist, as after a deletion.
    async fn present(&mut self) -> Result<Option<Arc<Node>>, ()> {
        if self.failures > 0 {
            return match self.api.get(&self.config.node_name).await {
                Ok(mut node) => {
                    node.metadata.managed_fields = None;
                    Ok(Some(Arc::new(node)))
                }
                Err(error) if failure::kind(&error) == FailureKind::NotFound => {
                    self.failures = 0;
                    Ok(None)
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.say(format!("cannot read the node: {}", failure::text(&error)));
                    Err(())
                }
            };
        }

        let view: NodeView = self.deps.view.borrow_and_update().clone();
        Ok(newest(view, self.answered.clone()))
    }

    async fn send(&self, patch: &serde_json::Value) -> Result<Node, kube::Error> {
        let name = &self.config.node_name;
        let mut node =
            self.api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        node.metadata.managed_fields = None;
        Ok(node)
    }

    /// Records an event when the node becomes schedulable or unschedulable.
    fn schedulable(&mut self, node: &Node) {
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if unschedulable != self.unschedulable {
            self.unschedulable = unschedulable;
            let reason = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            let message = format!("Node {} status is now: {reason}", self.config.node_name);
            self.emit(&[StatusEvent { event_type: EventType::Normal, reason, message }]);
        }
    }

    /// Records the events of a status that the API server has accepted.
    fn emit(&self, events: &[StatusEvent]) {
        for event in events {
            self.deps.recorder.node(
                &self.config.node_name,
                event.event_type,
                event.reason,
                event.message.as_str(),
            );
        }
    }

    /// Logs a problem if it differs from the last one.
    fn say(&mut self, problem: String) {
        if self.said != problem {
            tracing::warn!(
                node = self.config.node_name,
                error = problem,
                "the Node object is not up to date"
            );
            self.said = problem;
        }
    }
}

/// Returns the addresses in a node's status.
fn addresses_of(node: &Node) -> &[NodeAddress] {
    node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default()
}

/// Returns the newer of the watch's object and the last answer to a request of ours.
fn newest(view: NodeView, answered: Option<Arc<Node>>) -> Option<Arc<Node>> {
    let version = |node: &Node| {
        node.metadata.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok())
    };
    match (view.node, answered) {
        (Some(watched), Some(answered)) => {
            let same = watched.metadata.uid == answered.metadata.uid;
            Some(if same && version(&answered) > version(&watched) { answered } else { watched })
        }
        (Some(watched), None) => Some(watched),
        // Before the watch has answered, only the request's answer is known. After that, an object
        // that the watch does not have does not exist.
        (None, answered) => answered.filter(|_| !view.synced),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;

    use super::newest;
    use crate::apiserver::nodes::NodeView;

    fn node(uid: &str, version: &str) -> Arc<Node> {
        let value =
            serde_json::json!({"metadata": {"name": "n", "uid": uid, "resourceVersion": version}});
        Arc::new(serde_json::from_value(value).expect("a node"))
    }

    #[track_caller]
    fn check(watched: Option<Arc<Node>>, answered: Option<Arc<Node>>, expected: Option<&str>) {
        let view = NodeView { synced: true, node: watched };
        let newest = newest(view, answered);
        assert_eq!(
            newest.as_ref().and_then(|node| node.metadata.resource_version.as_deref()),
            expected
        );
    }

    #[test]
    fn the_newer_object_counts() {
        check(Some(node("a", "9")), Some(node("a", "10")), Some("10"));
        check(Some(node("a", "11")), Some(node("a", "10")), Some("11"));
        check(Some(node("b", "5")), Some(node("a", "10")), Some("5"));
        check(None, Some(node("a", "10")), None);
        check(Some(node("a", "9")), None, Some("9"));
    }

    #[test]
    fn before_the_watch_answers_the_answer_counts() {
        assert!(newest(NodeView::default(), Some(node("a", "1"))).is_some());
    }
}
