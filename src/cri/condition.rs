//! Watches the condition of the runtime and its network: one task calls `Status` and publishes the
//! answer.
//!
//! In: the runtime, its connection, and a `look_again` channel (fed by `cni` when the network
//! configuration changes). Out: a `watch` of [`RuntimeCondition`]. It is notified only when
//! something other than the time of the last answer changes. Reading it never calls the runtime.

use std::time::Duration;

use tokio::sync::watch;

use super::client::Runtime;
use super::error::CriError;
use super::v1;
use crate::clock::Clock;
use crate::model::Mono;

/// The time between two calls of `Status`; upstream's period.
const PERIOD: Duration = Duration::from_secs(5);
/// The time between two calls while the runtime does not answer: its return is then noticed within
/// a second.
const PERIOD_WHEN_DOWN: Duration = Duration::from_secs(1);
/// The runtime counts as down without a good answer for this long; upstream's threshold.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// The runtime as its last answers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// Ready, or upstream's text of the problem (`container runtime not ready: …`).
    pub runtime: Result<(), String>,
    /// Ready, or upstream's text of the problem (`container runtime network not ready:
    /// NetworkReady=false reason:… message:…`).
    pub network: Result<(), String>,
    /// The time of the last answer that said ready. It changes without a notification.
    pub last_ready: Option<Mono>,
    /// The error of the last `Status`, if it failed.
    pub last_error: Option<CriError>,
    /// The runtime's handlers, by name.
    pub handlers: Vec<RuntimeHandler>,
    /// The runtime's features, if it reports them.
    pub features: Option<RuntimeFeatures>,
    /// The runtime's name and version, once it has reported them.
    pub identity: Option<RuntimeIdentity>,
    /// The cgroup driver that the runtime wants; `None` if it does not report one.
    pub cgroup_driver: Option<CgroupDriver>,
}

/// The runtime's name and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeIdentity {
    /// The name, e.g. `containerd`.
    pub name: String,
    /// The version, e.g. `2.3.7` or `v2.3.7`.
    pub version: String,
    /// The version of the API, e.g. `v1`.
    pub api_version: String,
}

impl RuntimeIdentity {
    /// Returns `containerRuntimeVersion` of the node's status: `containerd://2.3.7`.
    pub fn node_info(&self) -> String {
        format!("{}://{}", self.name, self.version)
    }

    /// Returns true if the runtime's event stream is a reliable hint. containerd before 2.0 shares
    /// one lossy queue among all subscribers, so each of them sees only some events.
    pub fn has_event_stream(&self) -> bool {
        let major = self
            .version
            .trim_start_matches('v')
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        self.name != "containerd" || major.is_none_or(|major| major >= 2)
    }
}

/// A runtime handler: the target of a RuntimeClass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuntimeHandler {
    /// The handler's name; empty for the default.
    pub name: String,
    /// True if the handler can make mounts read-only recursively.
    pub recursive_read_only_mounts: bool,
    /// True if the handler supports user namespaces.
    pub user_namespaces: bool,
}

/// The features that the runtime reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// True if the runtime knows `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// True if user namespaces can be combined with the host's network.
    pub user_namespaces_host_network: bool,
}

/// The party that creates the cgroups of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd; the names are slices.
    Systemd,
    /// The runtime itself.
    Cgroupfs,
}

impl Default for RuntimeCondition {
    /// Returns the condition before the first answer.
    fn default() -> Self {
        Self {
            runtime: Ok(()),
            network: Err("network state unknown".to_owned()),
            last_ready: None,
            last_error: None,
            handlers: Vec::new(),
            features: None,
            identity: None,
            cgroup_driver: None,
        }
    }
}

impl RuntimeCondition {
    /// Returns upstream's text for a runtime that has been silent for too long, or has never
    /// answered.
    pub fn silence(&self, now: Mono) -> Option<&'static str> {
        match self.last_ready {
            None => Some("container runtime status check may not have completed yet"),
            Some(last) if now.since(last) >= DOWN_AFTER => Some("container runtime is down"),
            Some(_) => None,
        }
    }

    /// Returns the time from which the runtime counts as down, unless it answers before; `None`
    /// before its first answer.
    pub fn silent_at(&self) -> Option<Mono> {
        self.last_ready.map(|last| last.after(DOWN_AFTER))
    }

    /// Returns true if the last `Status` was answered: the runtime can be called.
    pub fn answers(&self) -> bool {
        self.last_error.is_none() && self.last_ready.is_some()
    }

    /// Takes a `Status` answer over, as upstream does.
    pub fn apply(&mut self, answer: &v1::StatusResponse, now: Mono) {
        self.last_error = None;
        let conditions =
            answer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        self.network = verdict(conditions, "NetworkReady", "container runtime network not ready");
        self.runtime = verdict(conditions, "RuntimeReady", "container runtime not ready");
        if self.runtime.is_err() {
            return;
        }

        self.handlers = answer.runtime_handlers.iter().map(handler).collect();
        self.handlers.sort();
        self.features = answer.features.as_ref().map(|features| RuntimeFeatures {
            supplemental_groups_policy: features.supplemental_groups_policy,
            user_namespaces_host_network: features.user_namespaces_host_network,
        });
        self.last_ready = Some(now);
    }
}

fn handler(handler: &v1::RuntimeHandler) -> RuntimeHandler {
    let features = handler.features.unwrap_or_default();
    RuntimeHandler {
        name: handler.name.clone(),
        recursive_read_only_mounts: features.recursive_read_only_mounts,
        user_namespaces: features.user_namespaces,
    }
}

/// Reads one of the runtime's conditions: ready, or upstream's text of the problem.
fn verdict(conditions: &[v1::RuntimeCondition], name: &str, prefix: &str) -> Result<(), String> {
    match conditions.iter().find(|condition| condition.r#type == name) {
        None => Err(format!("{prefix}: <nil>")),
        Some(condition) if condition.status => Ok(()),
        Some(v1::RuntimeCondition { r#type, status, reason, message }) => {
            Err(format!("{prefix}: {type}={status} reason:{reason} message:{message}"))
        }
    }
}

/// The task that keeps the condition.
#[derive(Debug)]
struct ConditionTask {
    runtime: Runtime,
    clock: Clock,
    look_again: watch::Receiver<u64>,
    state: watch::Sender<RuntimeCondition>,
}

/// Returns the condition, and the task that keeps it. A change of `look_again` means that the
/// network may have become ready.
pub fn new(
    runtime: Runtime,
    clock: Clock,
    look_again: watch::Receiver<u64>,
) -> (watch::Receiver<RuntimeCondition>, impl Future<Output = ()> + Send + 'static) {
    let (state, receiver) = watch::channel(RuntimeCondition::default());
    let task = ConditionTask { runtime, clock, look_again, state };
    (receiver, task.run())
}

impl ConditionTask {
    /// Calls `Status` for ever. May be dropped at any await.
    async fn run(mut self) {
        let mut connection = self.runtime.connection();
        let mut asked_on = None;

        loop {
            connection.mark_unchanged();
            self.look_again.mark_unchanged();
            self.ask(&mut asked_on).await;

            let period = if self.state.borrow().answers() { PERIOD } else { PERIOD_WHEN_DOWN };
            // Every branch only waits: dropping it loses nothing.
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = changed(&mut connection) => {}
                () = changed(&mut self.look_again) => {}
            }
        }
    }

    /// Calls `Status` once. `asked_on` is the connection on which the identity was read last.
    async fn ask(&self, asked_on: &mut Option<u64>) {
        let answer = self.runtime.status(v1::StatusRequest { verbose: false }).await;
        let now = self.clock.now().mono;
        let connection = self.runtime.connection().borrow().opened;
        let news = if answer.is_ok() && *asked_on != Some(connection) {
            self.identify().await
        } else {
            None
        };
        if news.is_some() {
            *asked_on = Some(connection);
        }

        self.state.send_if_modified(|state| {
            let mut next = state.clone();
            match &answer {
                Ok(answer) => next.apply(answer, now),
                Err(error) => next.last_error = Some(error.clone()),
            }

            if let Some((identity, cgroup_driver)) = news {
                next.identity = Some(identity);
                next.cgroup_driver = cgroup_driver;
            }

            let first = state.last_ready.is_none() != next.last_ready.is_none();
            state.last_ready = next.last_ready;
            let changed = first || *state != next;
            *state = next;

            changed
        });
    }

    /// Returns the runtime's identity and the cgroup driver that it wants; `None` to ask again.
    async fn identify(&self) -> Option<(RuntimeIdentity, Option<CgroupDriver>)> {
        let version =
            self.runtime.version(v1::VersionRequest { version: "0.1.0".to_owned() }).await.ok()?;
        let driver = match self.runtime.runtime_config(v1::RuntimeConfigRequest {}).await {
            Ok(config) => config.linux.map(|linux| match linux.cgroup_driver() {
                v1::CgroupDriver::Systemd => CgroupDriver::Systemd,
                v1::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            }),
            Err(error) if error.is_unimplemented() => None,
            Err(_) => return None,
        };
        let identity = RuntimeIdentity {
            name: version.runtime_name,
            version: version.runtime_version,
            api_version: version.runtime_api_version,
        };

        Some((identity, driver))
    }
}

/// Waits for a change; for ever if the sender is gone.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::{CgroupDriver, RuntimeCondition, RuntimeIdentity, new};
    use crate::clock::Clock;
    use crate::cri::fake::{Effect, FakeRuntime};
    use crate::cri::v1;
    use crate::model::Mono;

    fn answer(runtime: bool, network: Option<bool>) -> v1::StatusResponse {
        let condition = |name: &str, status| v1::RuntimeCondition {
            r#type: name.to_owned(),
            status,
            reason: if status { String::new() } else { "NetworkPluginNotReady".to_owned() },
            message: if status { String::new() } else { "cni plugin not initialized".to_owned() },
        };
        let mut conditions = vec![condition("RuntimeReady", runtime)];
        conditions.extend(network.map(|ready| condition("NetworkReady", ready)));
        v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() }
    }

    #[test]
    fn speaks_as_upstream() {
        let mut state = RuntimeCondition::default();
        let at = |seconds| Mono(Duration::from_secs(seconds));
        assert_eq!(
            state.silence(at(1)),
            Some("container runtime status check may not have completed yet")
        );
        state.apply(&answer(true, Some(false)), at(1));
        assert_eq!(
            state.network.clone().expect_err("not ready"),
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not \
             initialized"
        );
        assert_eq!((state.silence(at(30)), state.runtime.clone()), (None, Ok(())));
        assert_eq!(state.silence(at(31)), Some("container runtime is down"));
        assert_eq!(state.silent_at(), Some(at(31)));
        state.apply(&answer(false, None), at(40));
        assert_eq!(state.network, Err("container runtime network not ready: <nil>".to_owned()));
        assert!(state.silence(at(40)).is_some() && state.runtime.is_err(), "both");
        state.apply(&answer(true, Some(true)), at(50));
        assert_eq!((state.runtime.clone(), state.network.clone()), (Ok(()), Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn is_asked_every_five_seconds_and_at_once_when_something_changes() {
        let clock = Clock::starting_at(crate::model::Wall::UNIX_EPOCH);
        let fake = FakeRuntime::new(clock);
        fake.set_ready(true, false);
        let (look_again, receiver) = watch::channel(0);
        let (mut state, task) = new(fake.client(), clock, receiver);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        state.wait_for(|state| state.identity.is_some()).await.expect("it runs");
        assert_eq!(state.borrow().cgroup_driver, Some(CgroupDriver::Cgroupfs));
        assert_eq!(
            state.borrow().identity.as_ref().map(RuntimeIdentity::node_info).as_deref(),
            Some("containerd://2.3.7")
        );
        assert!(state.borrow_and_update().network.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
        fake.set_ready(true, true);
        let before = clock.now().mono;
        look_again.send_modify(|changes| *changes += 1);
        state.wait_for(|state| state.network.is_ok()).await.expect("it runs");
        assert_eq!(clock.now().mono, before, "at once");
        fake.clear_calls();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!state.has_changed().expect("it runs"), "nothing has changed");
        assert!((11..=12).contains(&fake.count("Status")));
        assert_eq!(fake.count("Version"), 0);
        fake.script("Status", None, usize::MAX, Effect::Fail(tonic::Status::unavailable("gone")));
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(!state.borrow().answers());
        assert_eq!(state.borrow().silence(clock.now().mono), Some("container runtime is down"));
        fake.clear_script();
        let before = clock.now().mono;
        state.wait_for(RuntimeCondition::answers).await.expect("it runs");
        assert!(
            clock.now().mono.since(before) <= Duration::from_secs(1),
            "its return is noticed within a second"
        );
    }

    #[track_caller]
    fn check(name: &str, version: &str, stream: bool) {
        let identity = RuntimeIdentity {
            name: name.to_owned(),
            version: version.to_owned(),
            api_version: "v1".to_owned(),
        };
        assert_eq!(identity.has_event_stream(), stream, "{name} {version}");
    }

    #[test]
    fn knows_whose_events_are_lossy() {
        check("containerd", "1.7.35", false);
        check("containerd", "v1.7.35", false);
        check("containerd", "2.1.9", true);
        check("containerd", "v2.3.7", true);
        check("cri-o", "1.36.0", true);
    }
}
