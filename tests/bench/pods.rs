//! The pods of the bench, and when the API server showed each of them made, Ready and gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use crate::node::Node;

/// The image of every container, on the node from the start.
pub(crate) const IMAGE: &str = "registry.k8s.io/pause:3.10.2";
/// The namespace of every pod.
pub(crate) const NAMESPACE: &str = "bench";
/// The ConfigMap of pods with volumes, and its key.
pub(crate) const CONFIG_MAP: &str = "settings";
pub(crate) const KEY: &str = "value";
/// The Secret of pods with volumes.
const SECRET: &str = "password";
/// The end of nearly every wait.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a pod brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One container.
    Plain,
    /// The same with an emptyDir, a ConfigMap, a Secret, downward files and a projected token.
    Volumes,
}

impl Kind {
    /// The phase that measures single pods of this kind.
    pub(crate) fn phase(self) -> &'static str {
        match self {
            Self::Plain => "single",
            Self::Volumes => "volumes",
        }
    }

    fn pod(self, name: &str) -> Result<Pod> {
        let (mounts, volumes) = match self {
            Self::Plain => (json!([]), json!([])),
            Self::Volumes => (
                json!([{"name": "scratch", "mountPath": "/scratch"}, {"name": "settings", "mountPath": "/settings"},
                       {"name": "password", "mountPath": "/password"}, {"name": "about", "mountPath": "/about"}]),
                json!([{"name": "scratch", "emptyDir": {}}, {"name": "settings", "configMap": {"name": CONFIG_MAP}},
                       {"name": "password", "secret": {"secretName": SECRET}},
                       {"name": "about", "downwardAPI": {"items": [
                           {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                           {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]),
            ),
        };
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench"}},
            "spec": {
                // With it comes the projected volume of the token.
                "automountServiceAccountToken": self == Self::Volumes,
                "tolerations": [{"operator": "Exists"}],
                "volumes": volumes,
                "containers": [{"name": "main", "image": IMAGE, "volumeMounts": mounts}],
            },
        }))?)
    }
}

/// When the watch first said something of a pod.
#[derive(Clone, Debug, Default)]
struct Seen {
    uid: String,
    ready: Option<Instant>,
    gone: Option<Instant>,
}

#[derive(Debug, Default)]
struct Board {
    pods: Mutex<HashMap<String, Seen>>,
    changed: Notify,
}

impl Board {
    fn note(&self, pod: &Pod, gone: bool) {
        let now = Instant::now();
        let mut pods = self.pods.lock();
        let seen = pods.entry(pod.metadata.name.clone().unwrap_or_default()).or_default();
        seen.uid = pod.metadata.uid.clone().unwrap_or_default();
        if seen.ready.is_none() && is_ready(pod) {
            seen.ready = Some(now);
        }
        if gone {
            seen.gone = Some(now);
        }
        drop(pods);
        self.changed.notify_waiters();
    }

    async fn when(
        &self,
        name: &str,
        what: &str,
        patience: Duration,
        pick: impl Fn(&Seen) -> Option<Instant>,
    ) -> Result<Instant> {
        let until = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            if let Some(when) = self.pods.lock().get(name).and_then(&pick) {
                return Ok(when);
            }
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                bail!("pod {name} is not {what} after {} s", patience.as_secs());
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Where pods are made and watched.
#[derive(Clone)]
pub(crate) struct Bed {
    pub(crate) client: Client,
    pods: Api<Pod>,
    board: Arc<Board>,
}

impl Bed {
    /// The namespace with what its pods need, and the watch.
    pub(crate) async fn make(node: &Node) -> Result<Self> {
        let client =
            rkubelet_bed::bed::client(node.cluster()).await.context("the cluster's API server")?;
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .patch(NAMESPACE, &PatchParams::apply("bench"), &Patch::Apply(&namespace))
            .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        let until = Instant::now() + Duration::from_secs(30);
        while accounts.get_opt("default").await?.is_none() {
            if Instant::now() > until {
                bail!("namespace {NAMESPACE} has no ServiceAccount after 30 s");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let board = Arc::new(Board::default());
        let bed = Self { client, pods: pods.clone(), board: Arc::clone(&board) };
        bed.set_value("first").await?;
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {KEY: "hidden"}});
        let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), NAMESPACE);
        secrets.patch(SECRET, &PatchParams::apply("bench").force(), &Patch::Apply(&secret)).await?;
        for pod in pods.list(&kube::api::ListParams::default()).await? {
            let name = pod.metadata.name.unwrap_or_default();
            pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        }
        node.sweep().await?;
        let started = watcher(pods, watcher::Config::default()).try_for_each(move |event| {
            match event {
                watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                    board.note(&pod, false);
                }
                watcher::Event::Delete(pod) => board.note(&pod, true),
                watcher::Event::Init | watcher::Event::InitDone => {}
            }
            std::future::ready(Ok(()))
        });
        tokio::spawn(async move {
            if let Err(error) = started.await {
                eprintln!("bench: the watch of pods ended: {error}");
            }
        });
        Ok(bed)
    }

    /// Writes the ConfigMap that pods with volumes have.
    pub(crate) async fn set_value(&self, value: &str) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP}, "data": {KEY: value}});
        maps.patch(CONFIG_MAP, &PatchParams::apply("bench").force(), &Patch::Apply(&map)).await?;
        Ok(())
    }

    /// Makes a pod and waits until it is Ready: how long that took.
    pub(crate) async fn start(&self, kind: Kind, name: &str) -> Result<Duration> {
        self.start_pod(&kind.pod(name)?, name, PATIENCE).await
    }

    /// The same with any pod and any patience.
    pub(crate) async fn start_pod(
        &self,
        pod: &Pod,
        name: &str,
        patience: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        self.pods
            .create(&PostParams::default(), pod)
            .await
            .with_context(|| format!("creating pod {name}"))?;
        Ok(self.board.when(name, "Ready", patience, |seen| seen.ready).await? - began)
    }

    /// Deletes a pod and waits until the API server has it no more: how long that took.
    pub(crate) async fn remove(&self, name: &str) -> Result<Duration> {
        let began = Instant::now();
        self.pods
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting pod {name}"))?;
        let gone = self.board.when(name, "gone", PATIENCE, |seen| seen.gone).await?;
        self.board.pods.lock().remove(name);
        Ok(gone - began)
    }

    /// Many pods at once: how long after the first request each was Ready, sorted.
    pub(crate) async fn start_all(&self, kind: Kind, names: &[String]) -> Result<Vec<Duration>> {
        sorted(names.iter().map(|name| self.start(kind, name))).await
    }

    /// Many pods at once: how long after the first request each was gone, sorted.
    pub(crate) async fn remove_all(&self, names: &[String]) -> Result<Vec<Duration>> {
        sorted(names.iter().map(|name| self.remove(name))).await
    }

    /// The uid of a pod that was seen.
    pub(crate) fn uid(&self, name: &str) -> Result<String> {
        self.board
            .pods
            .lock()
            .get(name)
            .map(|seen| seen.uid.clone())
            .with_context(|| format!("pod {name} was not seen"))
    }
}

/// All of them are polled, and so begin, before any of them goes on.
async fn sorted(
    all: impl Iterator<Item = impl Future<Output = Result<Duration>>>,
) -> Result<Vec<Duration>> {
    let mut out = try_join_all(all).await?;
    out.sort();
    Ok(out)
}
