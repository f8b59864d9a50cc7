//! What all pods may use together, and what the reserved daemons may (`enforceNodeAllocatable`).
//!
//! [`plan`] is pure. [`Enforcer`] applies it with upstream's events:
//!
//! - The cgroup of all pods always has limits: the machine's, less what is reserved if `pods` is
//!   enforced. A limit that is refused (pods use more already) is tried again each minute.
//! - `systemReservedCgroup` and `kubeReservedCgroup` must exist and take their limits; without them
//!   the kubelet does not start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::allocatable::{self, Reservations};
use super::apply::{PodCgroupError, PodCgroups};
use super::cgroup_names::CgroupName;
use super::list::{Amounts, CPU, MEMORY, PIDS};
use super::pod_config::{self, CgroupSettings, HugePages};
use crate::apiserver::events::Recorder;
use crate::linux::cgroup::CgroupError;
use crate::model::quantity::Amount;
use crate::model::{EventType, error_chain};

/// How soon a refused limit is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// The event of limits that are in force.
const ENFORCED: &str = "NodeAllocatableEnforced";
/// The event of limits that are not.
const FAILED: &str = "FailedNodeAllocatableEnforcement";

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Processors on line.
    pub cores: u32,
    /// Which ones, e.g. `0-3`.
    pub cpus: Option<String>,
    /// Memory in bytes.
    pub memory: u64,
    /// How many processes there can be.
    pub pids: Option<i64>,
}

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `enforceNodeAllocatable`
    pub enforce: Vec<String>,
    /// `systemReserved`
    pub system_reserved: Amounts,
    /// `kubeReserved`
    pub kube_reserved: Amounts,
    /// `systemReservedCgroup`
    pub system_cgroup: String,
    /// `kubeReservedCgroup`
    pub kube_cgroup: String,
    /// `cpuManagerPolicy: static`: the CPU manager keeps the sets of CPUs.
    pub cpus_are_managed: bool,
}

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// Of all pods together.
    pub pods: CgroupSettings,
    /// Of cgroups outside the pods', in upstream's order.
    pub reserved: Vec<ReservedLimits>,
}

/// The limits of one cgroup of daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedLimits {
    /// Whose it is.
    pub of: Daemons,
    /// Whether only what can be given back is limited: CPU.
    pub compressible: bool,
    /// Its name as configured.
    pub cgroup: String,
    /// The limits; none if nothing is reserved, which is an error.
    pub settings: Option<CgroupSettings>,
}

/// Daemons that something is reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemons {
    /// The system's.
    System,
    /// Those of Kubernetes.
    Kube,
}

impl Daemons {
    /// As events name them.
    fn title(self) -> &'static str {
        match self {
            Self::System => "System",
            Self::Kube => "Kube",
        }
    }

    /// As events and the configuration name them.
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Kube => "kube",
        }
    }
}

/// Decides the limits. Pure.
pub fn plan(config: &Config, machine: &Machine) -> NodeLimits {
    let memory = i64::try_from(machine.memory).unwrap_or(i64::MAX);
    let mut amounts: Amounts = BTreeMap::from([
        (CPU.to_owned(), Amount::from_units(machine.cores.into())),
        (MEMORY.to_owned(), Amount::from_units(memory)),
    ]);
    amounts.extend(machine.pids.map(|pids| (PIDS.to_owned(), Amount::from_units(pids))));
    let enforces = |what: &str| config.enforce.iter().any(|level| level == what);
    if enforces("pods") {
        let reservations = Reservations {
            system: config.system_reserved.clone(),
            kube: config.kube_reserved.clone(),
            ..Reservations::default()
        };
        amounts = allocatable::enforced(&amounts, &reservations);
    }
    // Without a CPU manager all CPUs are named: systemd would not make the cpuset otherwise.
    let cpus = machine.cpus.clone().filter(|_| !config.cpus_are_managed);

    let mut pods = pod_config::node(&amounts, false);
    pods.cpus.clone_from(&cpus);
    // Upstream limits huge pages first and lifts the limit with the first update of the tiers.
    pods.huge_pages = Some(HugePages::Unlimited);

    let mut reserved = Vec::new();
    for compressible in [false, true] {
        for of in [Daemons::System, Daemons::Kube] {
            let suffix = if compressible { "-compressible" } else { "" };
            if !enforces(&format!("{}-reserved{suffix}", of.name())) {
                continue;
            }
            let (amounts, cgroup) = match of {
                Daemons::System => (&config.system_reserved, &config.system_cgroup),
                Daemons::Kube => (&config.kube_reserved, &config.kube_cgroup),
            };
            let settings = (!amounts.is_empty()).then(|| {
                let mut settings = pod_config::node(amounts, compressible);
                settings.cpus.clone_from(&cpus);
                // Upstream gives no huge pages to who has none reserved, whatever is enforced.
                settings.huge_pages.get_or_insert_with(|| HugePages::Limits(BTreeMap::new()));
                settings
            });
            reserved.push(ReservedLimits { of, compressible, cgroup: cgroup.clone(), settings });
        }
    }
    NodeLimits { pods, reserved }
}

/// Applies limits, and tells of it.
#[derive(Debug)]
pub struct Enforcer {
    /// Where.
    pub cgroups: PodCgroups,
    /// What.
    pub limits: NodeLimits,
    /// Who hears of it.
    pub recorder: Recorder,
    /// The node that events are about.
    pub node_name: String,
}

impl Enforcer {
    /// Limits the reserved daemons. The error is fatal.
    pub async fn enforce_reserved(&self) -> Result<(), EnforceError> {
        for limits in &self.limits.reserved {
            if let Err(problem) = self.reserve(limits).await {
                let (title, cgroup) = (limits.of.title(), &limits.cgroup);
                let kind = if limits.compressible { "Reserved Compressible" } else { "Reserved" };
                let text = format!(
                    "Failed to enforce {title} {kind} Cgroup Limits on {cgroup:?}: {problem}"
                );
                self.tell(EventType::Warning, FAILED, text.clone());
                return Err(EnforceError(text));
            }
            let text =
                format!("Updated limits on {} reserved cgroup {}", limits.of.name(), limits.cgroup);
            self.tell(EventType::Normal, ENFORCED, text);
        }
        Ok(())
    }

    async fn reserve(&self, limits: &ReservedLimits) -> Result<(), ReserveError> {
        let name = CgroupName::parse(&limits.cgroup, self.cgroups.tree().driver());
        let Some(settings) = limits.settings.clone() else {
            return Err(ReserveError::NotConfigured(name.quoted()));
        };
        let outcome = self.cgroups.enforce_reserved(&name, settings).await;
        outcome.map_err(|error| ReserveError::Cgroup { name, error })
    }

    /// Limits all pods; tries again each minute until the limits are taken. Cancel-safe.
    pub async fn run(self) {
        let name = self.cgroups.tree().node();
        loop {
            match self.cgroups.enforce_node(self.limits.pods.clone()).await {
                Ok(()) => {
                    let text = "Updated Node Allocatable limit across pods";
                    self.tell(EventType::Normal, ENFORCED, text.to_owned());
                    return;
                }
                Err(error) => {
                    let text = format!(
                        "Failed to update Node Allocatable Limits {}: {}",
                        name.quoted(),
                        problem(&error)
                    );
                    self.tell(EventType::Warning, FAILED, text);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn tell(&self, event_type: EventType, reason: &str, text: String) {
        self.recorder.node(&self.node_name, event_type, reason, text);
    }
}

/// Why the reserved daemons could not be limited: upstream's text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EnforceError(String);

/// What the kernel said, without our own words before it.
fn problem(error: &PodCgroupError) -> String {
    match error {
        PodCgroupError::Cgroup { source, .. } => error_chain(source),
        PodCgroupError::Root { .. }
        | PodCgroupError::Uid { .. }
        | PodCgroupError::Busy { .. }
        | PodCgroupError::Shutdown => error_chain(error),
    }
}

/// Why a cgroup of daemons is not limited. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum ReserveError {
    /// Nothing is reserved for it.
    #[error("{0} cgroup is not configured properly")]
    NotConfigured(String),
    /// The kernel or systemd refused.
    #[error("{}", reserve_problem(.name, .error))]
    Cgroup {
        /// The cgroup.
        name: CgroupName,
        /// Why, which is part of the text.
        error: PodCgroupError,
    },
}

/// The same; what is missing is said of the name, as upstream.
fn reserve_problem(name: &CgroupName, error: &PodCgroupError) -> String {
    let PodCgroupError::Cgroup { source, .. } = error else { return problem(error) };
    let name = name.quoted();
    if let CgroupError::MissingPaths { missing, .. } = source {
        return format!("cgroup {name} has some missing paths: {missing}");
    }
    if let CgroupError::MissingControllers { missing, .. } = source {
        return format!("cgroup {name} has some missing controllers: {missing}");
    }
    problem(error)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::{Config, Daemons, Enforcer, Machine, NodeLimits, plan};
    use crate::apiserver::events::{Event, Recorder};
    use crate::linux::cgroup::{CgroupError, Errno};
    use crate::model::quantity::Amount;
    use crate::resources::apply::{self, Backend, PodCgroups};
    use crate::resources::cgroup_names::{CgroupDriver, CgroupTree};
    use crate::resources::list::Amounts;
    use crate::resources::pod_config::{
        CgroupSettings, Figures, HugePages, PodCgroupPolicy, Reading,
    };

    fn list(items: &[(&str, &str)]) -> Amounts {
        let amount = |text: &str| Amount::parse(text).expect("a quantity");
        items.iter().map(|(name, text)| ((*name).to_owned(), amount(text))).collect()
    }

    fn machine() -> Machine {
        Machine { cores: 2, cpus: Some("0-1".into()), memory: 4 << 30, pids: Some(47263) }
    }

    fn config(enforce: &[&str]) -> Config {
        Config {
            enforce: enforce.iter().map(|&level| level.to_owned()).collect(),
            system_reserved: list(&[("cpu", "100m"), ("memory", "1Gi"), ("pid", "1000")]),
            kube_reserved: list(&[("cpu", "200m"), ("hugepages-2Mi", "4Mi")]),
            system_cgroup: "/system".into(),
            kube_cgroup: "/runtime/kube".into(),
            cpus_are_managed: false,
        }
    }

    #[test]
    fn pods_have_what_is_not_reserved_and_every_huge_page() {
        let limits = plan(&config(&["pods"]), &machine());
        let expected = CgroupSettings {
            cpu_shares: Some(1740),
            memory: Some(3 << 30),
            pids: Some(46263),
            huge_pages: Some(HugePages::Unlimited),
            cpus: Some("0-1".into()),
            ..CgroupSettings::default()
        };
        assert_eq!(limits, NodeLimits { pods: expected, reserved: Vec::new() });
    }

    #[test]
    fn where_pods_are_not_enforced_they_have_the_machine() {
        for enforce in [&["none"][..], &[]] {
            let pods = plan(&config(enforce), &machine()).pods;
            assert_eq!(
                (pods.cpu_shares, pods.memory, pods.pids),
                (Some(2048), Some(4 << 30), Some(47263))
            );
        }
        let managed = Config { cpus_are_managed: true, ..config(&["pods"]) };
        assert_eq!(plan(&managed, &machine()).pods.cpus, None);
    }

    #[test]
    fn reserved_daemons_are_limited_in_upstreams_order() {
        let all = config(&["pods", "kube-reserved-compressible", "system-reserved"]);
        let [system, kube] = &plan(&all, &machine()).reserved[..] else { panic!("two") };
        assert_eq!((system.of, system.cgroup.as_str()), (Daemons::System, "/system"));
        let settings = system.settings.clone().expect("limits");
        assert_eq!(
            (settings.cpu_shares, settings.memory, settings.pids),
            (Some(102), Some(1 << 30), Some(1000))
        );
        assert_eq!((kube.of, kube.compressible), (Daemons::Kube, true));
        let settings = kube.settings.clone().expect("limits");
        assert_eq!((settings.cpu_shares, settings.memory), (Some(204), None));
        assert_eq!(settings.huge_pages, Some(HugePages::Limits(BTreeMap::new())));

        let none = Config { system_reserved: Amounts::new(), ..all };
        assert_eq!(plan(&none, &machine()).reserved[0].settings, None);
    }

    /// The cgroups that exist; how many limits of `/kubepods` are still refused.
    #[derive(Clone, Debug, Default)]
    struct Fake(Arc<Mutex<(BTreeMap<String, CgroupSettings>, usize)>>);

    impl Backend for Fake {
        fn validate(&self, path: &str) -> Result<(), CgroupError> {
            if path == "/" || self.0.lock().0.contains_key(path) {
                return Ok(());
            }
            let missing = format!("/sys/fs/cgroup/cpu{path}");
            Err(CgroupError::MissingPaths { path: path.into(), missing })
        }

        fn create(&self, _top: &str, path: &str) -> Result<(), CgroupError> {
            self.0.lock().0.insert(path.to_owned(), CgroupSettings::default());
            Ok(())
        }

        fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
            let mut state = self.0.lock();
            if let Some(left) = state.1.checked_sub(1).filter(|_| path == "/kubepods") {
                state.1 = left;
                return Err(CgroupError::Write {
                    path: "/sys/fs/cgroup/pids/kubepods/pids.max".into(),
                    value: "5000000".into(),
                    source: Errno(io::Error::from_raw_os_error(libc::EINVAL)),
                });
            }
            state.0.insert(path.to_owned(), settings.clone());
            Ok(())
        }

        fn read(&self, _path: &str) -> Result<Reading, CgroupError> {
            Ok(Reading::default())
        }

        fn kept(&self, figures: Figures) -> Figures {
            figures
        }

        fn children(&self, _path: &str) -> Result<BTreeSet<String>, CgroupError> {
            Ok(BTreeSet::new())
        }

        fn kill(&self, _path: &str) -> Result<usize, CgroupError> {
            Ok(0)
        }

        fn remove(&self, _path: &str) -> Result<(), CgroupError> {
            Ok(())
        }
    }

    fn enforcer(fake: &Fake, config: &Config) -> (Enforcer, mpsc::Receiver<Event>) {
        let tree = CgroupTree::new("/", CgroupDriver::Cgroupfs, true);
        let policy = PodCgroupPolicy::default();
        let cgroups = PodCgroups::new(fake.clone(), apply::Config { tree, policy });
        let (recorder, events) = Recorder::channel();
        let limits = plan(config, &machine());
        (Enforcer { cgroups, limits, recorder, node_name: "n".into() }, events)
    }

    fn told(events: &mut mpsc::Receiver<Event>) -> Vec<String> {
        std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| format!("{} {}", event.reason, event.message))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_limit_is_tried_again_each_minute_and_only_then_enforced() {
        let fake = Fake::default();
        fake.0.lock().1 = 2;
        let (enforcer, mut events) = enforcer(&fake, &config(&["pods"]));
        let clock = crate::clock::Clock::system();
        let begin = clock.now().mono;
        enforcer.run().await;
        assert!(clock.now().mono.since(begin) >= Duration::from_secs(120));
        let failed = "FailedNodeAllocatableEnforcement Failed to update Node Allocatable Limits \
            [\"kubepods\"]: failed to write \"5000000\": write \
            /sys/fs/cgroup/pids/kubepods/pids.max: invalid argument";
        let done = "NodeAllocatableEnforced Updated Node Allocatable limit across pods";
        assert_eq!(told(&mut events), [failed, failed, done]);
        assert_eq!(fake.0.lock().0["/kubepods"].pids, Some(46263));
    }

    #[tokio::test]
    async fn a_reserved_cgroup_that_is_missing_is_fatal() {
        let fake = Fake::default();
        let (enforcer, mut events) =
            enforcer(&fake, &config(&["system-reserved", "kube-reserved"]));
        fake.0.lock().0.insert("/system".into(), CgroupSettings::default());
        let fatal = enforcer.enforce_reserved().await.expect_err("one is missing").to_string();
        let missing = "Failed to enforce Kube Reserved Cgroup Limits on \"/runtime/kube\": cgroup \
            [\"runtime\" \"kube\"] has some missing paths: /sys/fs/cgroup/cpu/runtime/kube";
        assert_eq!(fatal, missing);
        assert_eq!(
            told(&mut events),
            [
                "NodeAllocatableEnforced Updated limits on system reserved cgroup /system".into(),
                format!("FailedNodeAllocatableEnforcement {missing}"),
            ]
        );
        assert_eq!(fake.0.lock().0["/system"].memory, Some(1 << 30));
    }
}
