//! What a case works with: a namespace of its own, objects written as YAML, and waits that say what
//! they missed.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams,
    PostParams,
};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::look;

/// How long a wait takes at most, unless the case says otherwise: generous, since the machine may
/// be busy.
const PATIENCE: Duration = Duration::from_secs(90);

const IMAGES: [(&str, &str); 3] = [
    ("busybox", "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"),
    ("agnhost", "registry.k8s.io/e2e-test-images/agnhost:2.63.0"),
    ("nginx", "registry.k8s.io/e2e-test-images/nginx:1.15-4"),
];

/// One case's place in the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Bed {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// A client of its API server, as cluster-admin.
    pub client: Client,
    /// The namespace.
    pub name: String,
    /// How long its waits take at most.
    pub patience: Duration,
}

impl fmt::Debug for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bed").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A client of the API server as cluster-admin; the thread must be in the cluster's network.
pub async fn client(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.env("KUBECONFIG"))?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

fn resource(kind: &str) -> (ApiResource, bool) {
    let (group, plural, namespaced) = match kind {
        "Namespace" => ("", "namespaces", false),
        "Node" => ("", "nodes", false),
        "ConfigMap" => ("", "configmaps", true),
        "Secret" => ("", "secrets", true),
        "Service" => ("", "services", true),
        "ServiceAccount" => ("", "serviceaccounts", true),
        "PersistentVolume" => ("", "persistentvolumes", false),
        "PersistentVolumeClaim" => ("", "persistentvolumeclaims", true),
        "Event" => ("", "events", true),
        "ResourceClaim" => ("resource.k8s.io", "resourceclaims", true),
        "RuntimeClass" => ("node.k8s.io", "runtimeclasses", false),
        "Lease" => ("coordination.k8s.io", "leases", true),
        "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "clusterrolebindings", false),
        "CSIDriver" => ("storage.k8s.io", "csidrivers", false),
        "CSINode" => ("storage.k8s.io", "csinodes", false),
        "CertificateSigningRequest" => ("certificates.k8s.io", "certificatesigningrequests", false),
        "StorageClass" => ("storage.k8s.io", "storageclasses", false),
        "RoleBinding" => ("rbac.authorization.k8s.io", "rolebindings", true),
        _ => ("", "pods", true),
    };
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let resource = ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    (resource, namespaced)
}

/// YAML as JSON; images by their short names.
fn parse(yaml: &str) -> Result<Value> {
    // Modes are written as kubectl reads them: 0440.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut value: Value = serde_saphyr::from_str_with_options(yaml, options)
        .with_context(|| format!("the case's YAML is none:\n{yaml}"))?;
    full_images(&mut value);
    Ok(value)
}

fn full_images(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "image"
                    && let Some((_, full)) = IMAGES.iter().find(|(short, _)| value == short)
                {
                    *value = json!(full);
                }
                full_images(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(full_images),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An object as JSON.
pub fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Bed {
    /// A place in namespace `name`, which need not exist.
    pub fn at(cluster: Arc<Cluster>, client: Client, name: &str) -> Self {
        Self { cluster, client, name: name.to_owned(), patience: PATIENCE }
    }

    /// Makes the namespace, with what pods need of it.
    pub async fn prepare(&self) -> Result<()> {
        self.create(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}}}}}",
            self.name
        ))
        .await?;
        self.until_kind("ServiceAccount", "default", &[]).await?;
        self.until_kind("ConfigMap", "kube-root-ca.crt", &[]).await?;
        Ok(())
    }

    /// Deletes the namespace and its pods at once; does not wait for their end.
    pub async fn clear(&self) -> Result<()> {
        self.api("Pod").delete_collection(&grace(1), &ListParams::default()).await?;
        self.api("Namespace").delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The API of one kind of object, in the namespace if the kind has one.
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (resource, namespaced) = resource(kind);
        if namespaced {
            Api::namespaced_with(self.client.clone(), &self.name, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// Creates one object of any kind, written as YAML.
    pub async fn create(&self, yaml: &str) -> Result<Value> {
        let value = parse(yaml)?;
        let kind = look::text(&value, "kind");
        let object: DynamicObject = serde_json::from_value(value)?;
        let made = self.api(&kind).create(&PostParams::default(), &object).await;
        Ok(as_value(&made.with_context(|| format!("creating the {kind}"))?))
    }

    /// Creates a pod whose spec is `spec`.
    pub async fn pod(&self, name: &str, spec: &str) -> Result<Value> {
        self.labelled_pod(name, "{}", spec).await
    }

    /// Creates a pod whose metadata is `metadata` and its name, whose spec is `spec`.
    pub async fn labelled_pod(&self, name: &str, metadata: &str, spec: &str) -> Result<Value> {
        let mut metadata = parse(metadata)?;
        metadata["name"] = json!(name);
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": parse(spec)?});
        let object: DynamicObject = serde_json::from_value(pod)?;
        let made = self.api("Pod").create(&PostParams::default(), &object).await;
        Ok(as_value(&made.with_context(|| format!("creating pod {name}"))?))
    }

    /// An object as it is now.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let found = self.api(kind).get(name).await;
        Ok(as_value(&found.with_context(|| format!("reading {kind} {name}"))?))
    }

    /// Merges `change` (JSON) into an object.
    pub async fn patch(&self, kind: &str, name: &str, change: Value) -> Result<Value> {
        let done = self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        Ok(as_value(&done.with_context(|| format!("changing {kind} {name}"))?))
    }

    /// Asks for other resources (JSON) of a container of a running pod.
    pub async fn resize(&self, name: &str, container: &str, resources: &str) -> Result<()> {
        let resources: Value = serde_json::from_str(resources)?;
        let change = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
        self.patch_resize(name, change).await
    }

    /// Asks for other resources of a pod as a whole, which are given as JSON.
    pub async fn resize_pod(&self, name: &str, resources: &str) -> Result<()> {
        let resources: Value = serde_json::from_str(resources)?;
        self.patch_resize(name, json!({"spec": {"resources": resources}})).await
    }

    async fn patch_resize(&self, name: &str, change: Value) -> Result<()> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &self.name);
        let patch = Patch::Strategic(change);
        let done = pods.patch_subresource("resize", name, &PatchParams::default(), &patch).await;
        done.with_context(|| format!("resizing pod {name}"))?;
        Ok(())
    }

    /// Asks for a pod's deletion, with its own grace period or with `seconds`.
    pub async fn delete(&self, name: &str, seconds: Option<u32>) -> Result<()> {
        let params = DeleteParams { grace_period_seconds: seconds, ..DeleteParams::default() };
        self.api("Pod")
            .delete(name, &params)
            .await
            .with_context(|| format!("deleting pod {name}"))?;
        Ok(())
    }

    /// Deletes an object of any kind.
    pub async fn delete_kind(&self, kind: &str, name: &str) -> Result<()> {
        self.api(kind)
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {kind} {name}"))?;
        Ok(())
    }

    /// Waits until the pod shows all of `wants` (see [`look`]).
    pub async fn until(&self, name: &str, wants: &[&str]) -> Result<Value> {
        self.until_kind("Pod", name, wants).await
    }

    /// Waits until the object shows all of `wants`; survives an API server that is away.
    pub async fn until_kind(&self, kind: &str, name: &str, wants: &[&str]) -> Result<Value> {
        let mut missing = vec!["it does not exist".to_owned()];
        let found = tokio::time::timeout(self.patience, async {
            let mut versions =
                watcher::watch_object(self.api(kind), name).default_backoff().boxed();
            while let Some(version) = versions.next().await {
                let Ok(Some(object)) = version else { continue };
                let object = as_value(&object);
                missing = look::unmet(&object, wants);
                if missing.is_empty() {
                    return Some(object);
                }
            }
            None
        });
        match found.await {
            Ok(Some(object)) => Ok(object),
            Ok(None) | Err(_) => {
                bail!("{kind} {name}, after {} s: {}", self.patience.as_secs(), missing.join("; "))
            }
        }
    }

    /// Waits until the pod is Ready and the first process of each of `containers` has its handler
    /// for SIGTERM, without which a first process never gets the signal: the pod would end as one
    /// that does not listen.
    pub async fn until_heeds_term(&self, name: &str, containers: &[&str]) -> Result<Value> {
        let pod = self.until(name, &["cond[Ready]=True"]).await?;
        for container in containers {
            // Signal 15 is bit 14 of the mask of what is caught.
            let caught = ["grep", "-qE", "^SigCgt:.*[4-7c-f][0-9a-f]{3}$", "/proc/1/status"];
            self.until_exec(name, container, &caught).await?;
        }
        Ok(pod)
    }

    /// Waits until the object is gone, or another of its name has come.
    pub async fn until_gone(&self, kind: &str, name: &str) -> Result<()> {
        self.until_gone_from(kind, name, None).await
    }

    /// Waits until the object with `uid` is gone. For one that comes back at once under its name:
    /// the first look may already see its successor.
    pub async fn until_gone_from(
        &self,
        kind: &str,
        name: &str,
        mut uid: Option<String>,
    ) -> Result<()> {
        let gone = tokio::time::timeout(self.patience, async {
            let mut versions =
                watcher::watch_object(self.api(kind), name).default_backoff().boxed();
            while let Some(version) = versions.next().await {
                match version {
                    Ok(Some(object)) if uid.is_none() => uid = object.metadata.uid,
                    Ok(Some(object)) if uid != object.metadata.uid => return,
                    Ok(None) => return,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        });
        gone.await.map_err(|_| {
            anyhow!("{kind} {name} is still there after {} s", self.patience.as_secs())
        })
    }

    /// Fails if the object does not keep showing `wants` for `seconds`: for what must not happen.
    pub async fn stays(&self, name: &str, seconds: u64, wants: &[&str]) -> Result<()> {
        let broken = tokio::time::timeout(Duration::from_secs(seconds), async {
            let mut versions =
                watcher::watch_object(self.api("Pod"), name).default_backoff().boxed();
            while let Some(version) = versions.next().await {
                let Ok(object) = version else { continue };
                let object = object.as_ref().map(as_value).unwrap_or_default();
                let missing = look::unmet(&object, wants);
                if !missing.is_empty() {
                    return missing.join("; ");
                }
            }
            "the watch ended".to_owned()
        });
        match broken.await {
            Ok(what) => bail!("pod {name} did not stay as it was: {what}"),
            Err(_) => Ok(()),
        }
    }

    /// Waits for an event about `name` with this reason and message (a pattern).
    pub async fn event(&self, name: &str, reason: &str, message: &str) -> Result<Value> {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(self.patience, async {
            let about = watcher::Config::default().fields(&format!("involvedObject.name={name}"));
            let mut events =
                watcher(self.api("Event"), about).default_backoff().applied_objects().boxed();
            while let Some(event) = events.next().await {
                let Ok(event) = event else { continue };
                let event = as_value(&event);
                let (has_reason, has_message) =
                    (look::text(&event, "reason"), look::text(&event, "message"));
                if has_reason == reason && look::glob(message, &has_message) {
                    return Some(event);
                }
                seen.push(format!("{has_reason}: {has_message}"));
            }
            None
        });
        match found.await {
            Ok(Some(event)) => Ok(event),
            Ok(None) | Err(_) => bail!(
                "no event {reason} \"{message}\" about {name} after {} s; there are: {}",
                self.patience.as_secs(),
                seen.join(" | ")
            ),
        }
    }

    /// All events about `name` that there are now, oldest first: `(reason, message)`.
    pub async fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let mut list: Vec<Value> =
            self.api("Event").list(&about).await?.items.iter().map(as_value).collect();
        list.sort_by_key(|event| look::text(event, "metadata.creationTimestamp"));
        Ok(list
            .iter()
            .map(|event| (look::text(event, "reason"), look::text(event, "message")))
            .collect())
    }

    /// What a container has written so far, through the API server.
    pub async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.logs_with(
            pod,
            LogParams { container: Some(container.to_owned()), ..LogParams::default() },
        )
        .await
    }

    /// The same, with any parameters.
    pub async fn logs_with(&self, pod: &str, params: LogParams) -> Result<String> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &self.name);
        pods.logs(pod, &params).await.with_context(|| format!("reading the logs of {pod}"))
    }

    /// Waits until the log of a container has a line that `pattern` describes.
    pub async fn until_logged(&self, pod: &str, container: &str, pattern: &str) -> Result<()> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &self.name);
        let params = LogParams {
            container: Some(container.to_owned()),
            follow: true,
            ..LogParams::default()
        };
        let mut seen = Vec::new();
        let found = tokio::time::timeout(self.patience, async {
            use futures::AsyncBufReadExt as _;
            let mut lines = pods.log_stream(pod, &params).await?.lines();
            while let Some(line) = lines.try_next().await? {
                if look::glob(pattern, &line) {
                    return anyhow::Ok(true);
                }
                seen.push(line);
            }
            Ok(false)
        });
        let found = found.await.unwrap_or(Ok(false))?;
        ensure!(found, "the log of {pod}/{container} has no line \"{pattern}\": {seen:?}");
        Ok(())
    }

    /// A command in a container; its output. Fails with what it wrote to stderr.
    pub async fn exec(&self, pod: &str, container: &str, argv: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "-c", container, "--"], argv].concat()).await
    }

    /// Waits until a command in a container succeeds; its output. For what the container's own
    /// command does first: it counts as started, and without a probe as ready, before its shell has
    /// read a line.
    pub async fn until_exec(&self, pod: &str, container: &str, argv: &[&str]) -> Result<String> {
        let mut last = anyhow!("it has not ended once");
        let succeeded = async {
            loop {
                match self.exec(pod, container, argv).await {
                    Ok(output) => return output,
                    Err(error) => last = error,
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let output = tokio::time::timeout(self.patience, succeeded).await;
        output
            .map_err(|_| last.context(format!("still failing after {} s", self.patience.as_secs())))
    }

    /// kubectl, in the case's namespace; its output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.kubectl_command(args).output();
        let output = tokio::time::timeout(self.patience, output).await.map_err(|_| {
            anyhow!("kubectl {}: no end after {} s", args.join(" "), self.patience.as_secs())
        })??;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command itself, for those who talk to it while it runs.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.cluster.env("KUBECTL"));
        command
            .args(["--namespace", &self.name])
            .args(args)
            .env("KUBECONFIG", self.cluster.env("KUBECONFIG"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// What a reader of a failure needs: the pods, their events, the kubelet's last words about
    /// them.
    pub async fn facts(&self) -> String {
        let mut facts = Vec::new();
        let pods = self
            .api("Pod")
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default();
        for pod in pods {
            let value = as_value(&pod);
            let deleted = look::text(&value, "metadata.deletionTimestamp");
            let status = value.get("status").cloned().unwrap_or_default();
            let name = pod.metadata.name.unwrap_or_default();
            facts.push(format!("    pod {name} {deleted}: {status}"));
            for (reason, message) in self.events(&name).await.unwrap_or_default() {
                facts.push(format!("      event {reason}: {message}"));
            }
        }
        for line in self.cluster.kubelet_log(&self.name, 15).lines() {
            facts.push(format!("    kubelet: {}", line.chars().take(400).collect::<String>()));
        }
        facts.join("\n")
    }
}

/// Deletion with a grace period.
pub fn grace(seconds: u32) -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(seconds), ..DeleteParams::default() }
}

/// Compares, and names what is compared.
#[expect(clippy::needless_pass_by_value, reason = "reads better at its uses")]
pub fn same<T: PartialEq + fmt::Debug>(what: &str, seen: T, wanted: T) -> Result<()> {
    ensure!(seen == wanted, "{what}: is {seen:?}, wanted {wanted:?}");
    Ok(())
}

/// Checks that `text` has a line that `pattern` describes.
pub fn has_line(what: &str, text: &str, pattern: &str) -> Result<()> {
    ensure!(
        text.lines().any(|line| look::glob(pattern, line)),
        "{what} has no line \"{pattern}\":\n{text}"
    );
    Ok(())
}

/// Checks that the object shows all of `wants` now.
pub fn shows(object: &Value, wants: &[&str]) -> Result<()> {
    let missing = look::unmet(object, wants);
    ensure!(missing.is_empty(), "{}", missing.join("; "));
    Ok(())
}
