//! The cgroups of pods: made before a pod's first sandbox, removed after its last, and the tiers
//! above them.
//!
//! [`PodCgroups`] is a cheap handle over one [`Backend`]; every call runs on a blocking thread. Per
//! pod, calls come one at a time from the pod's own worker; the tier of burstable pods is written
//! by its owner, [`super::tiers`]. Nothing above `cgroupRoot` or beside `kubepods` is ever made or
//! removed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use tracing::warn;

use super::cgroup_names::{CgroupName, CgroupTree};
use super::cpu;
use super::pod_config::{self, CgroupSettings, PodCgroupPolicy};
use super::qos::{self, QosClass};
use crate::linux::cgroup::{CgroupError, CgroupFs};
use crate::model::{PodUid, error_chain};

/// How long the processes of a finished pod may take to vanish after SIGKILL before its removal is
/// reported as failed.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// The first wait between two attempts at removal; doubled up to [`REMOVE_PAUSE_MAX`].
const REMOVE_PAUSE: Duration = Duration::from_millis(5);
/// The longest wait between two attempts.
const REMOVE_PAUSE_MAX: Duration = Duration::from_millis(250);

/// What the cgroups of pods are made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where they are.
    pub tree: CgroupTree,
    /// What is written into those of pods.
    pub policy: PodCgroupPolicy,
}

/// The effects. Paths are below the mount point. Every function blocks.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Whether the cgroup is complete.
    fn validate(&self, path: &str) -> Result<(), CgroupError>;
    /// Makes what is missing between `top` and `path`.
    fn create(&self, top: &str, path: &str) -> Result<(), CgroupError>;
    /// Sets an existing cgroup: every value that can be set is; the first failure is the error.
    fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError>;
    /// The names of the cgroups right inside.
    fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError>;
    /// Kills everything inside; answers how many processes there were.
    fn kill(&self, path: &str) -> Result<usize, CgroupError>;
    /// Removes the cgroup with all inside it, once.
    fn remove(&self, path: &str) -> Result<(), CgroupError>;
}

impl Backend for CgroupFs {
    fn validate(&self, path: &str) -> Result<(), CgroupError> {
        Self::validate(self, path)
    }

    fn create(&self, top: &str, path: &str) -> Result<(), CgroupError> {
        Self::create(self, top, path)
    }

    fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
        Self::update(self, path, settings)
    }

    fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        Self::children(self, path)
    }

    fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        Self::kill(self, path)
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        Self::remove(self, path)
    }
}

/// Why a pod's cgroup could not be had or be got rid of.
#[derive(Debug, thiserror::Error)]
pub enum PodCgroupError {
    /// The configured root is not there.
    #[error(
        "cgroupRoot {root:?} is not a usable cgroup; make it, or set cgroupRoot to one that exists"
    )]
    Root {
        /// `cgroupRoot`
        root: String,
        /// What is wrong with it.
        #[source]
        source: CgroupError,
    },
    /// A UID that cannot be part of a path.
    #[error("pod UID {uid:?} cannot name a cgroup; it may have letters, digits and dashes only")]
    Uid {
        /// The UID.
        uid: String,
    },
    /// The kernel refused.
    #[error("cgroup {path:?}")]
    Cgroup {
        /// The cgroup.
        path: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// Processes did not end in time.
    #[error("cgroup {path:?} still has processes {waited:?} after they were killed")]
    Busy {
        /// The cgroup.
        path: String,
        /// For how long.
        waited: Duration,
        /// What the last attempt said.
        #[source]
        source: CgroupError,
    },
    /// The blocking thread is gone: the process is ending.
    #[error("the process is shutting down")]
    Shutdown,
}

/// The cgroups of pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Box<dyn Backend>,
    config: Config,
}

impl PodCgroups {
    /// A handle; nothing is made before [`Self::setup`].
    pub fn new(backend: impl Backend, config: Config) -> Self {
        Self { inner: Arc::new(Inner { backend: Box::new(backend), config }) }
    }

    /// The names of the cgroups.
    pub fn tree(&self) -> &CgroupTree {
        &self.inner.config.tree
    }

    /// Makes the cgroup of all pods and the QoS tiers. Run it once, before the first pod.
    ///
    /// - A cgroup of all pods that is new gets the limits `node`; one that exists keeps its own
    ///   until [`Self::enforce_node`].
    /// - A burstable tier that exists keeps its shares until [`Self::share_burstable`]: pods may
    ///   run in it.
    /// - A value that the kernel refuses is logged; that a controller is missing for all pods is an
    ///   error.
    pub async fn setup(&self, node: CgroupSettings) -> Result<(), PodCgroupError> {
        if !self.inner.config.tree.per_qos() {
            return Ok(());
        }
        self.blocking(move |inner| {
            let tree = &inner.config.tree;
            let top = tree.top().path(tree.driver());
            let unusable = |source| PodCgroupError::Root { root: top.clone(), source };
            inner.backend.validate(&top).map_err(unusable)?;

            let path = tree.node().path(tree.driver());
            if inner.backend.validate(&path).is_err() {
                inner.create(&path, &node)?;
            }
            let failed = |source| PodCgroupError::Cgroup { path: path.clone(), source };
            inner.backend.validate(&path).map_err(failed)?;

            for class in [QosClass::Burstable, QosClass::BestEffort] {
                let path = tree.tier(class).path(tree.driver());
                let mut settings = pod_config::tier(class, []);
                if inner.backend.validate(&path).is_err() {
                    inner.create(&path, &settings)?;
                    continue;
                }
                if class == QosClass::Burstable {
                    settings.cpu_shares = None;
                }
                inner.update(&path, &settings)?;
            }
            Ok(())
        })
        .await
    }

    /// Sets what all pods may use together. A limit is refused while pods use more already.
    pub async fn enforce_node(&self, node: CgroupSettings) -> Result<(), PodCgroupError> {
        self.blocking(move |inner| {
            let tree = &inner.config.tree;
            inner.update(&tree.node().path(tree.driver()), &node)
        })
        .await
    }

    /// Sets what an existing cgroup outside the pods' own may use: `systemReservedCgroup`,
    /// `kubeReservedCgroup`.
    pub async fn enforce_reserved(
        &self,
        name: &CgroupName,
        settings: CgroupSettings,
    ) -> Result<(), PodCgroupError> {
        let path = name.path(self.inner.config.tree.driver());
        self.blocking(move |inner| {
            inner
                .backend
                .validate(&path)
                .and_then(|()| inner.backend.update(&path, &settings))
                .map_err(|source| PodCgroupError::Cgroup { path, source })
        })
        .await
    }

    /// Sets the CPU shares of the burstable tier. Called by the tier's owner, one call at a time.
    pub async fn share_burstable(&self, shares: u64) -> Result<(), PodCgroupError> {
        self.blocking(move |inner| {
            let tree = &inner.config.tree;
            let path = tree.tier(QosClass::Burstable).path(tree.driver());
            let settings = CgroupSettings { cpu_shares: Some(shares), ..CgroupSettings::default() };
            inner.update(&path, &settings)
        })
        .await
    }

    /// Makes the pod's cgroup unless it is there, and returns the cgroup parent for CRI (empty if
    /// pods have no cgroups of their own). A dropped call goes on to its end on its thread.
    pub async fn ensure(&self, pod: &api::Pod) -> Result<String, PodCgroupError> {
        let parent = self.cgroup_parent(pod);
        if parent.is_empty() {
            return Ok(parent);
        }
        check_uid(pod.metadata.uid.as_deref().unwrap_or_default())?;
        let settings = pod_config::pod(pod, &self.inner.config.policy);
        self.blocking(move |inner| {
            if inner.backend.validate(&parent).is_err() {
                inner.create(&parent, &settings)?;
            }
            Ok(parent)
        })
        .await
    }

    /// Gives the pod's cgroup what the pod's spec says now. Not cancelled half-way.
    pub async fn resize(&self, pod: &api::Pod) -> Result<(), PodCgroupError> {
        let path = self.cgroup_parent(pod);
        if path.is_empty() {
            return Ok(());
        }
        check_uid(pod.metadata.uid.as_deref().unwrap_or_default())?;
        let mut settings = pod_config::pod(pod, &self.inner.config.policy);
        // A resize is about CPU and memory only, and a limit that is not asked for any more stays,
        // as upstream.
        settings.huge_pages = None;
        settings.pids = None;
        self.blocking(move |inner| inner.update(&path, &settings)).await
    }

    /// Returns the pod's cgroup parent for CRI. Pure.
    pub fn cgroup_parent(&self, pod: &api::Pod) -> String {
        self.inner
            .config
            .tree
            .cgroup_parent(qos::of(pod), pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// Kills what is left in the pod's cgroup and removes it, wherever it is. Tries again until the
    /// processes have gone, for at most ten seconds. Removing what is not there is no error.
    /// Cancel-safe: call it again.
    pub async fn remove(&self, uid: &PodUid) -> Result<(), PodCgroupError> {
        if !self.inner.config.tree.per_qos() {
            return Ok(());
        }
        check_uid(uid.as_str())?;
        for class in QosClass::ALL {
            let tree = &self.inner.config.tree;
            self.remove_path(tree.pod(class, uid.as_str()).path(tree.driver())).await?;
        }
        Ok(())
    }

    /// Gives the pod's cgroup the least CPU there is: for one whose processes are left over while
    /// something else of it cannot be removed yet.
    pub async fn throttle(&self, uid: &PodUid) -> Result<(), PodCgroupError> {
        check_uid(uid.as_str())?;
        let uid = uid.clone();
        self.blocking(move |inner| {
            let tree = &inner.config.tree;
            let least =
                CgroupSettings { cpu_shares: Some(cpu::MIN_SHARES), ..CgroupSettings::default() };
            for path in QosClass::ALL.map(|class| tree.pod(class, uid.as_str()).path(tree.driver()))
            {
                if inner.backend.validate(&path).is_ok() {
                    inner.update(&path, &least)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The pods that have a cgroup, in whichever hierarchy: what is not wanted any more is an
    /// orphan.
    pub async fn list(&self) -> Result<Vec<PodUid>, PodCgroupError> {
        if !self.inner.config.tree.per_qos() {
            return Ok(Vec::new());
        }
        self.blocking(|inner| {
            let tree = &inner.config.tree;
            let mut found = BTreeSet::new();
            for class in QosClass::ALL {
                let path = tree.tier(class).path(tree.driver());
                let children = inner
                    .backend
                    .children(&path)
                    .map_err(|source| PodCgroupError::Cgroup { path, source })?;
                found.extend(
                    children.iter().filter_map(|name| tree.pod_uid_of_dir(name)).map(PodUid::from),
                );
            }
            Ok(found.into_iter().collect())
        })
        .await
    }

    async fn remove_path(&self, path: String) -> Result<(), PodCgroupError> {
        let mut pause = REMOVE_PAUSE;
        let mut waited = Duration::ZERO;
        loop {
            let target = path.clone();
            // What was killed takes a moment to go: rmdir is tried all the same, it is what
            // decides.
            let outcome = self
                .blocking(move |inner| {
                    let killed = inner.backend.kill(&target);
                    Ok(inner.backend.remove(&target).and(killed.map(|_| ())))
                })
                .await?;
            let Err(source) = outcome else { return Ok(()) };
            if waited >= REMOVE_DEADLINE {
                return Err(PodCgroupError::Busy { path, waited, source });
            }
            tokio::time::sleep(pause).await;
            waited = waited.saturating_add(pause);
            pause = pause.saturating_mul(2).min(REMOVE_PAUSE_MAX);
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, PodCgroupError> + Send + 'static,
    ) -> Result<T, PodCgroupError> {
        let inner = Arc::clone(&self.inner);
        crate::linux::blocking::spawn(move || work(&inner))
            .await
            .map_err(|_| PodCgroupError::Shutdown)?
    }
}

impl Inner {
    /// Makes a cgroup and sets it. What cannot be set is logged, as upstream: a pod runs without
    /// that limit rather than not at all.
    fn create(&self, path: &str, settings: &CgroupSettings) -> Result<(), PodCgroupError> {
        let top = self.config.tree.top().path(self.config.tree.driver());
        self.backend
            .create(&top, path)
            .map_err(|source| PodCgroupError::Cgroup { path: path.to_owned(), source })?;
        if let Err(error) = self.backend.update(path, settings) {
            let error = error_chain(&error);
            warn!(cgroup = path, error, "a cgroup was made without all of its limits");
        }
        Ok(())
    }

    fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), PodCgroupError> {
        self.backend
            .update(path, settings)
            .map_err(|source| PodCgroupError::Cgroup { path: path.to_owned(), source })
    }
}

/// UIDs become directory names: one from a manifest on disk may be anything.
fn check_uid(uid: &str) -> Result<(), PodCgroupError> {
    let fine = !uid.is_empty() && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fine { Ok(()) } else { Err(PodCgroupError::Uid { uid: uid.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1 as api;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::{
        Backend, CgroupError, CgroupName, CgroupSettings, CgroupTree, Config, PodCgroupError,
        PodCgroupPolicy, PodCgroups,
    };
    use crate::linux::cgroup::Errno;
    use crate::model::PodUid;
    use crate::resources::CgroupDriver;

    /// A tree in memory. Processes take `linger` attempts to go after they were killed.
    #[derive(Clone, Debug, Default)]
    struct Fake(Arc<Mutex<State>>);

    #[derive(Debug, Default)]
    struct State {
        cgroups: BTreeMap<String, CgroupSettings>,
        linger: BTreeMap<String, usize>,
        updates: Vec<String>,
        /// The cgroups whose limits are refused.
        refused: BTreeSet<String>,
        kills: usize,
    }

    impl Backend for Fake {
        fn validate(&self, path: &str) -> Result<(), CgroupError> {
            if path == "/" || self.0.lock().cgroups.contains_key(path) {
                Ok(())
            } else {
                Err(CgroupError::NotMounted)
            }
        }

        fn create(&self, _top: &str, path: &str) -> Result<(), CgroupError> {
            self.0.lock().cgroups.insert(path.to_owned(), CgroupSettings::default());
            Ok(())
        }

        fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
            let mut state = self.0.lock();
            if state.refused.contains(path) {
                let source = Errno(io::ErrorKind::InvalidInput.into());
                let (path, value) = (format!("{path}/pids.max").into(), "5000000".to_owned());
                return Err(CgroupError::Write { path, value, source });
            }
            state.updates.push(path.to_owned());
            let own = state.cgroups.entry(path.to_owned()).or_default();
            let before = std::mem::replace(own, settings.clone());
            own.cpu_shares = own.cpu_shares.or(before.cpu_shares);
            Ok(())
        }

        fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
            let state = self.0.lock();
            let below = state
                .cgroups
                .keys()
                .filter_map(|other| other.strip_prefix(path)?.strip_prefix('/'));
            Ok(below.filter(|name| !name.contains('/')).map(str::to_owned).collect())
        }

        fn kill(&self, path: &str) -> Result<usize, CgroupError> {
            let mut state = self.0.lock();
            state.kills += 1;
            Ok(state.linger.get(path).copied().unwrap_or_default())
        }

        fn remove(&self, path: &str) -> Result<(), CgroupError> {
            let mut state = self.0.lock();
            if let Some(left) = state.linger.get_mut(path).filter(|left| **left > 0) {
                *left -= 1;
                return Err(CgroupError::Remove {
                    path: path.into(),
                    source: io::ErrorKind::ResourceBusy.into(),
                });
            }
            state.cgroups.remove(path);
            Ok(())
        }
    }

    fn pod(uid: &str, resources: &Value) -> api::Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "uid": uid},
            "spec": {"containers": [{"name": "c", "resources": resources}]}}))
        .expect("a pod")
    }

    fn cgroups(fake: &Fake, driver: CgroupDriver) -> PodCgroups {
        let tree = CgroupTree::new("/", driver, true);
        PodCgroups::new(fake.clone(), Config { tree, policy: PodCgroupPolicy::default() })
    }

    #[tokio::test]
    async fn makes_tiers_and_pods_once() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        handle.setup(CgroupSettings::default()).await.expect("set up");
        let pod = pod("a-1", &json!({"requests": {"cpu": "1"}}));
        assert_eq!(handle.ensure(&pod).await.expect("made"), "/kubepods/burstable/poda-1");
        fake.0.lock().cgroups.insert(
            "/kubepods/burstable/poda-1".into(),
            CgroupSettings { pids: Some(9), ..CgroupSettings::default() },
        );
        handle.ensure(&pod).await.expect("there");
        let state = fake.0.lock();
        assert_eq!(
            state.cgroups["/kubepods/burstable/poda-1"].pids,
            Some(9),
            "what exists is left alone"
        );
        assert!(state.cgroups.contains_key("/kubepods/besteffort"));
    }

    #[tokio::test]
    async fn a_start_leaves_the_shares_of_pods_that_run() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        let new = CgroupSettings { memory: Some(1 << 30), ..CgroupSettings::default() };
        handle.setup(new).await.expect("set up");
        let shares = |fake: &Fake| fake.0.lock().cgroups["/kubepods/burstable"].cpu_shares;
        assert_eq!(shares(&fake), Some(2), "a new tier has the least");
        handle.share_burstable(512).await.expect("written");
        handle.setup(CgroupSettings::default()).await.expect("set up");
        assert_eq!(shares(&fake), Some(512));
        let kept = fake.0.lock().cgroups["/kubepods"].memory;
        assert_eq!(kept, Some(1 << 30), "limits are another's to bring up to date");
    }

    #[tokio::test]
    async fn a_limit_that_is_refused_keeps_no_pod_from_running() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        for path in ["/kubepods", "/kubepods/besteffort", "/kubepods/besteffort/poda"] {
            fake.0.lock().refused.insert(path.to_owned());
        }
        handle.setup(CgroupSettings::default()).await.expect("set up all the same");
        handle.ensure(&pod("a", &json!({}))).await.expect("made all the same");
        assert!(handle.resize(&pod("a", &json!({}))).await.is_err(), "a resize says so");
        assert!(handle.enforce_node(CgroupSettings::default()).await.is_err());
    }

    #[tokio::test]
    async fn a_reserved_cgroup_must_exist() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Systemd);
        let name = CgroupName::parse("/system.slice", CgroupDriver::Systemd);
        let some = CgroupSettings { cpu_shares: Some(102), ..CgroupSettings::default() };
        handle.enforce_reserved(&name, some.clone()).await.expect_err("it is not there");
        fake.0.lock().cgroups.insert("/system.slice".into(), CgroupSettings::default());
        handle.enforce_reserved(&name, some.clone()).await.expect("set");
        assert_eq!(fake.0.lock().cgroups["/system.slice"], some);
    }

    #[tokio::test(start_paused = true)]
    async fn removal_waits_for_processes_to_go() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        handle.ensure(&pod("a", &json!({}))).await.expect("made");
        fake.0.lock().linger.insert("/kubepods/besteffort/poda".into(), 4);
        assert_eq!(handle.list().await.expect("listed"), [PodUid::from("a")]);
        handle.remove(&PodUid::from("a")).await.expect("removed");
        assert!(handle.list().await.expect("listed").is_empty());
        assert_eq!(fake.0.lock().kills, 3 + 4, "one for each tier, four more while they linger");
    }

    #[tokio::test(start_paused = true)]
    async fn removal_gives_up_in_the_end() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        fake.0.lock().linger.insert("/kubepods/poda".into(), usize::MAX);
        let error = handle.remove(&PodUid::from("a")).await.expect_err("it never goes");
        assert!(
            matches!(&error, PodCgroupError::Busy { path, .. } if path == "/kubepods/poda"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn refuses_what_is_no_uid_and_what_it_cannot_do() {
        let fake = Fake::default();
        let handle = cgroups(&fake, CgroupDriver::Cgroupfs);
        for uid in ["", "../x", "a/b", "a_b"] {
            assert!(
                matches!(handle.remove(&PodUid::from(uid)).await, Err(PodCgroupError::Uid { .. })),
                "{uid:?}"
            );
            assert!(
                matches!(
                    handle.ensure(&pod(uid, &json!({}))).await,
                    Err(PodCgroupError::Uid { .. })
                ),
                "{uid:?}"
            );
        }
        let tree = CgroupTree::new("/absent", CgroupDriver::Cgroupfs, true);
        let absent = PodCgroups::new(fake, Config { tree, policy: PodCgroupPolicy::default() });
        assert!(matches!(
            absent.setup(CgroupSettings::default()).await,
            Err(PodCgroupError::Root { .. })
        ));
    }

    #[tokio::test]
    async fn without_tiers_nothing_is_made() {
        let fake = Fake::default();
        let tree = CgroupTree::new("/", CgroupDriver::Cgroupfs, false);
        let handle =
            PodCgroups::new(fake.clone(), Config { tree, policy: PodCgroupPolicy::default() });
        handle.setup(CgroupSettings::default()).await.expect("nothing to do");
        assert_eq!(handle.ensure(&pod("a", &json!({}))).await.expect("nothing to do"), "");
        handle.remove(&PodUid::from("a")).await.expect("nothing to do");
        assert!(fake.0.lock().cgroups.is_empty());
    }
}
