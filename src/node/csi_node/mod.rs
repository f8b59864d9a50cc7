//! Registers CSI drivers with the API server: the CSINode, and what the Node shows of drivers.
//!
//! ```text
//!  plugins (Handler) ─► Registrar ─┬─► csi::Drivers: volumes may use the driver
//!                                  └─► Node (annotation, labels), CSINode
//! ```
//!
//! - The CSINode exists before any driver registers; until then the node is not ready, as upstream.
//! - A driver that leaves is taken off both objects. Its topology labels stay, as upstream.
//! - A newer version takes the place of an older one. If it fails or leaves, the older one is back,
//!   as long as that has not left itself.
//! - One change at a time: both objects are read before they are written.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{Mutex, watch};

use self::plan::{DriverNode, PlanError};
use super::patch;
use crate::apiserver::Clients;
use crate::apiserver::failure::{self, FailureKind};
use crate::apiserver::nodes::NodeView;
use crate::csi::{CsiError, Drivers, Registered, v1};
use crate::plugins::{Handler, Plugin, Refusal};
use crate::watch::set_if_changed;

/// The attempts to write an object; upstream's.
const ATTEMPTS: u32 = 4;
/// The first wait between two attempts; each further one is five times as long. Upstream's.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest wait before the CSINode is tried again at the start.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The reasons why a driver is not registered. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("validation failed for CSI Driver {name} at endpoint {endpoint}: {source}")]
    Validation { name: String, endpoint: String, source: VersionError },
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error(transparent)]
    Driver(#[from] CsiError),
    #[error("error adding CSI driver node info: driverNodeID must not be empty")]
    NoNodeId,
    #[error(
        "error updating Node object with CSI driver node info: error updating node: timed out waiting for the condition; caused by: {0}"
    )]
    Node(WriteError),
    #[error(
        "error updating CSINode object with CSI driver node info: error updating CSINode: timed out waiting for the condition; caused by: {0}"
    )]
    CsiNode(WriteError),
}

/// The reasons why a driver's versions do not fit. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum VersionError {
    #[error(
        "kubernetes.io/csi: {call} for CSI driver {name:?} failed. Plugin returned an empty list for supported versions"
    )]
    None { call: &'static str, name: String },
    #[error("kubernetes.io/csi: {call} for CSI driver {name:?} failed. None of the versions specified {versions:?} are supported. err=could not find a highest supported version from versions ({}) reported: <nil>", bracketed(.versions))]
    Unsupported { call: &'static str, name: String, versions: Vec<String> },
    #[error("kubernetes.io/csi: {call} for CSI driver {name:?} failed. Another driver with the same name is already registered with a higher supported version: \"{}.{}.{}\"", .present.0, .present.1, .present.2)]
    Taken { call: &'static str, name: String, present: (u64, u64, u64) },
}

/// Words a list as Go does: `[a b]`.
fn bracketed(versions: &[String]) -> String {
    format!("[{}]", versions.join(" "))
}

/// The reasons why one of the objects cannot be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{}", failure::text(.0))]
    Api(#[from] kube::Error),
    #[error("CSINode {0:?} was owned by different node, deleted it")]
    Foreign(String),
}

/// Takes CSI drivers on. Cheap to clone.
#[derive(Clone)]
pub struct Registrar {
    drivers: Drivers,
    objects: Option<Arc<Objects>>,
    /// By driver: the entries whose place others have taken.
    replaced: Arc<parking_lot::Mutex<BTreeMap<String, Replaced>>>,
}

/// The entries of one driver whose place others have taken, the last one at the end. Locked while a
/// socket of the driver comes or goes, its calls and the writes of both objects included: what was
/// decided for one socket stays true until it is carried out.
type Replaced = Arc<Mutex<Vec<Registered>>>;

/// The two objects of this node.
struct Objects {
    name: String,
    nodes: Api<Node>,
    csi_nodes: Api<CSINode>,
    /// Held while an object is read and written.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("drivers", &self.drivers).finish_non_exhaustive()
    }
}

/// Returns the registrar, the problem of storage that keeps the node from being ready, and the task
/// that makes the CSINode once the Node exists.
pub fn new(
    clients: Option<&Clients>,
    view: watch::Receiver<NodeView>,
    drivers: Drivers,
) -> (Registrar, watch::Receiver<Option<String>>, impl Future<Output = ()> + Send + use<>) {
    let objects = clients.map(|clients| {
        Arc::new(Objects {
            name: clients.node_name.to_string(),
            nodes: Api::all(clients.writes.clone()),
            csi_nodes: Api::all(clients.writes.clone()),
            turn: Mutex::new(()),
        })
    });
    let missing = || "CSINode is not yet initialized".to_owned();
    let (problem, storage) = watch::channel(objects.is_some().then(missing));
    let registrar = Registrar { drivers, objects: objects.clone(), replaced: Arc::default() };
    let task = async move {
        if let Some(objects) = objects {
            objects.initialize(view, &problem).await;
        }
        // The receivers stay useful.
        std::future::pending::<()>().await;
    };
    (registrar, storage, task)
}

impl Objects {
    /// Makes the CSINode, or its annotation, however long that takes.
    async fn initialize(
        &self,
        mut view: watch::Receiver<NodeView>,
        problem: &watch::Sender<Option<String>>,
    ) {
        // Without the Node there is no owner. Its watch has no task where it ends.
        if view.wait_for(|view| view.node.is_some()).await.is_err() {
            return;
        }
        let mut wait = FIRST_WAIT;
        loop {
            let made = {
                let _turn = self.turn.lock().await;
                self.csi_node().await
            };
            match made {
                Ok(_) => {
                    set_if_changed(problem, None);
                    return;
                }
                Err(error) => {
                    let text = format!("failed to initialize CSINode: {error}");
                    if set_if_changed(problem, Some(text)) {
                        tracing::warn!(%error, "the CSINode cannot be made");
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(5).min(LONGEST_WAIT);
        }
    }

    /// Returns the CSINode: present, owned by the Node, annotated.
    async fn csi_node(&self) -> Result<CSINode, WriteError> {
        let node = self.nodes.get(&self.name).await?;
        let uid = node.metadata.uid.unwrap_or_default();
        let present = match self.csi_nodes.get(&self.name).await {
            Ok(present) => present,
            Err(error) if failure::kind(&error) == FailureKind::NotFound => {
                let owner =
                    json!({"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": uid});
                let made = json!({
                    "metadata": {
                        "name": self.name,
                        "ownerReferences": [owner],
                        "annotations": {plan::MIGRATED: plan::MIGRATED_PLUGINS},
                    },
                    "spec": {"drivers": []},
                });
                let made: CSINode = serde_json::from_value(made)
                    .map_err(|error| WriteError::Api(kube::Error::SerdeError(error)))?;
                return Ok(self.csi_nodes.create(&PostParams::default(), &made).await?);
            }
            Err(error) => return Err(error.into()),
        };
        if !plan::is_owned(&present, &self.name, &uid) {
            // Of an earlier Node of this name: the next attempt makes a new one.
            self.csi_nodes.delete(&self.name, &DeleteParams::default()).await?;
            return Err(WriteError::Foreign(self.name.clone()));
        }
        if plan::is_annotated(&present) {
            return Ok(present);
        }
        let annotations = json!({plan::MIGRATED: plan::MIGRATED_PLUGINS});
        let change = json!({"metadata": {"annotations": annotations}});
        self.patch(&present, change).await
    }

    /// Changes the CSINode as it was read.
    async fn patch(
        &self,
        present: &CSINode,
        mut change: serde_json::Value,
    ) -> Result<CSINode, WriteError> {
        change["metadata"]["resourceVersion"] = json!(present.metadata.resource_version);
        let params = PatchParams::default();
        Ok(self.csi_nodes.patch(&self.name, &params, &Patch::Merge(&change)).await?)
    }

    async fn show_on_node(
        &self,
        change: impl Fn(&Node) -> Result<Node, PlanError>,
    ) -> Result<(), WriteError> {
        let _turn = self.turn.lock().await;
        let present = self.nodes.get(&self.name).await?;
        let wanted = change(&present)?;
        if let Some(patch) = patch::between(&present, &wanted) {
            let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
            self.nodes.patch_status(&self.name, &params, &patch).await?;
        }
        Ok(())
    }

    async fn install(&self, driver: &DriverNode) -> Result<(), RegisterError> {
        attempt(|| self.show_on_node(|node| plan::with_driver(node, driver)))
            .await
            .map_err(RegisterError::Node)?;
        attempt(async || {
            let _turn = self.turn.lock().await;
            let present = self.csi_node().await?;
            if let Some(drivers) = plan::drivers_with(&present, driver) {
                self.patch(&present, json!({"spec": {"drivers": drivers}})).await?;
            }
            Ok(())
        })
        .await
        .map_err(RegisterError::CsiNode)
    }

    async fn uninstall(&self, driver: &str) -> Result<(), WriteError> {
        attempt(async || {
            let _turn = self.turn.lock().await;
            let present = match self.csi_nodes.get(&self.name).await {
                Ok(present) => present,
                Err(error) if failure::kind(&error) == FailureKind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if let Some(drivers) = plan::drivers_without(&present, driver) {
                self.patch(&present, json!({"spec": {"drivers": drivers}})).await?;
            }
            Ok(())
        })
        .await?;
        attempt(|| self.show_on_node(|node| plan::without_driver(node, driver))).await
    }
}

/// Makes upstream's attempts; the error is the last one's.
async fn attempt<F: Future<Output = Result<(), WriteError>>>(
    mut work: impl FnMut() -> F,
) -> Result<(), WriteError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        if let Ok(()) = work().await {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(5);
    }
    work().await
}

impl Registrar {
    /// Returns the version to speak with a driver.
    fn version(
        &self,
        call: &'static str,
        plugin: &Plugin,
    ) -> Result<(u64, u64, u64), VersionError> {
        let (name, versions) = (plugin.name.clone(), plugin.versions.clone());
        if versions.is_empty() {
            return Err(VersionError::None { call, name });
        }
        let Some(highest) = highest_supported(&versions) else {
            return Err(VersionError::Unsupported { call, name, versions });
        };
        match self.drivers.get(&name) {
            Some(present) if present.version >= highest => {
                Err(VersionError::Taken { call, name, present: present.version })
            }
            Some(_) | None => Ok(highest),
        }
    }

    fn replaced(&self, name: &str) -> Replaced {
        Arc::clone(self.replaced.lock().entry(name.to_owned()).or_default())
    }

    async fn take_on(&self, plugin: &Plugin) -> Result<(), RegisterError> {
        let replaced = self.replaced(&plugin.name);
        let mut replaced = replaced.lock().await;
        let version = self.version("RegisterPlugin", plugin)?;
        let driver = Registered { endpoint: plugin.endpoint.clone(), version };
        if let Some(present) = self.drivers.get(&plugin.name) {
            replaced.push(present);
        }
        // Volumes may use it from here on, as upstream's.
        self.drivers.insert(&plugin.name, driver.clone());
        let installed = self.install(&plugin.name).await;
        if installed.is_err() {
            self.take_off(&mut replaced, &plugin.name, &driver).await;
        }
        installed
    }

    /// Shows a driver on both objects as its entry is now.
    async fn install(&self, name: &str) -> Result<(), RegisterError> {
        let client = self.drivers.client(name)?;
        let info = client.node_info(v1::NodeGetInfoRequest {}).await?;
        if info.node_id.is_empty() {
            return Err(RegisterError::NoNodeId);
        }
        let topology = info.accessible_topology.map(|topology| topology.segments);
        let driver = DriverNode {
            driver: name.to_owned(),
            node_id: info.node_id,
            limit: info.max_volumes_per_node,
            topology: topology.into_iter().flatten().collect::<BTreeMap<_, _>>(),
        };
        match &self.objects {
            Some(objects) => objects.install(&driver).await,
            None => Ok(()),
        }
    }

    /// Removes what one socket has registered. The driver whose place it took is back.
    async fn take_off(&self, replaced: &mut Vec<Registered>, name: &str, leaving: &Registered) {
        if self.drivers.get(name).as_ref() != Some(leaving) {
            // Another socket has taken its place.
            replaced.retain(|entry| entry != leaving);
            return;
        }

        if let Some(former) = replaced.pop() {
            self.drivers.insert(name, former);
            let Err(error) = self.install(name).await else { return };
            // Better no entry than that of the driver that has left.
            let advice = "restart the driver's registrar to have it shown";
            tracing::warn!(driver = name, %error, advice, "a CSI driver is back and not shown");
        } else {
            self.drivers.remove(name);
        }
        let Some(objects) = &self.objects else { return };
        if let Err(error) = objects.uninstall(name).await {
            tracing::warn!(driver = name, %error, "a CSI driver that has left is still shown");
        }
    }
}

impl Handler for Registrar {
    fn validate(&self, plugin: &Plugin) -> Result<(), Refusal> {
        let failed = |source| RegisterError::Validation {
            name: plugin.name.clone(),
            endpoint: plugin.endpoint.display().to_string(),
            source,
        };
        self.version("ValidatePlugin", plugin).map_err(failed)?;
        Ok(())
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move { Ok(self.take_on(plugin).await?) })
    }

    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // One that was taken on has such a version.
            if let Some(version) = highest_supported(&plugin.versions) {
                let endpoint = plugin.endpoint.clone();
                let replaced = self.replaced(&plugin.name);
                let mut replaced = replaced.lock().await;
                self.take_off(&mut replaced, &plugin.name, &Registered { endpoint, version }).await;
            }
        })
    }
}

/// Returns the highest version below 2 of a list; `None` if there is none, or if it is not 1.x.
fn highest_supported(versions: &[String]) -> Option<(u64, u64, u64)> {
    let parsed = versions.iter().filter_map(|text| {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = text.splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse::<u64>().ok()
        });
        let major = numbers.next()??;
        let minor = numbers.next()??;
        let patch = numbers.next().flatten().unwrap_or(0);
        Some((major, minor, patch))
    });
    parsed.filter(|version| version.0 <= 1).max().filter(|version| version.0 == 1)
}

#[cfg(test)]
mod tests {
    use super::{Registrar, highest_supported, new};
    use crate::apiserver::nodes::NodeView;
    use crate::clock::Clock;
    use crate::csi::{Drivers, Registered};
    use crate::plugins::{Handler as _, Plugin};

    fn registrar() -> Registrar {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let view = tokio::sync::watch::channel(NodeView::default()).1;
        new(None, view, Drivers::uncounted(clock)).0
    }

    fn plugin(versions: &[&str]) -> Plugin {
        Plugin {
            name: "d.io".to_owned(),
            endpoint: "/d.sock".into(),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        }
    }

    #[track_caller]
    fn check(versions: &[&str], expected: Option<(u64, u64, u64)>) {
        let versions: Vec<String> = versions.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(highest_supported(&versions), expected, "{versions:?}");
    }

    #[test]
    fn the_highest_version_below_two_is_spoken() {
        check(&["1.0.0"], Some((1, 0, 0)));
        check(&["0.3.0", "v1.2", "2.0.0"], Some((1, 2, 0)));
        check(&["2.0.0"], None);
        check(&["0.3.0"], None);
        check(&["x", ""], None);
    }

    #[test]
    fn a_driver_without_a_version_that_fits_is_refused() {
        let registrar = registrar();
        let refused = |versions: &[&str]| {
            registrar.validate(&plugin(versions)).expect_err("refused").to_string()
        };
        assert_eq!(
            refused(&[]),
            "validation failed for CSI Driver d.io at endpoint /d.sock: kubernetes.io/csi: ValidatePlugin for CSI \
             driver \"d.io\" failed. Plugin returned an empty list for supported versions"
        );
        assert!(refused(&["2.0.0"]).contains("None of the versions specified [\"2.0.0\"] are"));
        registrar.validate(&plugin(&["1.0.0"])).expect("fits");
        let driver = Registered { endpoint: "/d.sock".into(), version: (1, 0, 0) };
        registrar.drivers.insert("d.io", driver);
        assert!(refused(&["1.0.0"]).ends_with("higher supported version: \"1.0.0\""));
        registrar.validate(&plugin(&["1.1.0"])).expect("a newer one");
    }

    #[tokio::test]
    async fn a_driver_that_was_replaced_is_not_taken_off_with_its_old_socket() {
        let registrar = registrar();
        let newer = Registered { endpoint: "/new.sock".into(), version: (1, 1, 0) };
        registrar.drivers.insert("d.io", newer.clone());
        registrar.deregister(&plugin(&["1.0.0"])).await;
        assert_eq!(registrar.drivers.get("d.io"), Some(newer));
    }

    #[tokio::test]
    async fn a_driver_stays_when_another_cannot_take_its_place() {
        let registrar = registrar();
        let present = Registered { endpoint: "/d.sock".into(), version: (1, 0, 0) };
        registrar.drivers.insert("d.io", present.clone());
        let newer = Plugin { endpoint: "/missing.sock".into(), ..plugin(&["1.1.0"]) };
        registrar.register(&newer).await.expect_err("it does not answer");
        assert_eq!(registrar.drivers.get("d.io"), Some(present));
    }
}
