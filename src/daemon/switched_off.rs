//! Removes the fields of pods whose feature gates are off, before anything else reads the pod, as
//! if the API had never had them.
//!
//! Fed by the changes of desired pods, on their way to dispatch. With every gate on, which is the
//! default, the changes go the direct way.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::mpsc;

use super::tasks::Tasks;
use crate::config::{FeatureGates, Gate};
use crate::desired::Change;
use crate::model::{Pod, pod};

/// The features that are switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SwitchedOff {
    /// `ContainerRestartRules`: restart policies and rules of single containers, but for sidecars.
    restart_rules: bool,
    /// `EnvFiles`: variables from files.
    env_files: bool,
    /// `HostnameOverride`.
    hostname_override: bool,
}

impl From<&FeatureGates> for SwitchedOff {
    fn from(gates: &FeatureGates) -> Self {
        Self {
            restart_rules: !gates.enabled(Gate::CONTAINER_RESTART_RULES),
            env_files: !gates.enabled(Gate::ENV_FILES),
            hostname_override: !gates.enabled(Gate::HOSTNAME_OVERRIDE),
        }
    }
}

impl SwitchedOff {
    /// Returns the changes without the fields that are switched off.
    pub(super) fn strip(
        self,
        mut changes: mpsc::Receiver<Change>,
        tasks: &mut Tasks,
    ) -> mpsc::Receiver<Change> {
        if !(self.restart_rules || self.env_files || self.hostname_override) {
            return changes;
        }
        let (sender, stripped) = mpsc::channel(1);
        tasks.run("features of pods", async move {
            while let Some(change) = changes.recv().await {
                let change = match change {
                    Change::Upsert(pod) => Change::Upsert(self.without(pod)),
                    Change::Gone(uid) => Change::Gone(uid),
                };
                if sender.send(change).await.is_err() {
                    break;
                }
            }
            // The other side has ended, which only a stop does.
            std::future::pending::<()>().await;
        });
        stripped
    }

    /// Returns the pod without the fields that are switched off; the same pod if it has none.
    fn without(self, pod: Arc<Pod>) -> Arc<Pod> {
        let mut stripped = Pod::clone(&pod);
        if let Some(spec) = &mut stripped.spec {
            if self.hostname_override {
                spec.hostname_override = None;
            }
            let init = spec.init_containers.iter_mut().flatten();
            init.chain(&mut spec.containers).for_each(|container| self.strip_container(container));
        }
        if stripped == *pod { pod } else { Arc::new(stripped) }
    }

    fn strip_container(self, container: &mut api::Container) {
        if self.restart_rules {
            container.restart_policy_rules = None;
            if !pod::is_sidecar(container) {
                container.restart_policy = None;
            }
        }
        if self.env_files {
            let from_file = |variable: &&mut api::EnvVar| {
                variable.value_from.as_ref().is_some_and(|from| from.file_key_ref.is_some())
            };
            // Upstream leaves such a variable empty.
            for variable in container.env.iter_mut().flatten().filter(from_file) {
                variable.value_from = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod() -> Arc<Pod> {
        let pod = serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {
                "hostnameOverride": "other",
                "initContainers": [{"name": "s", "restartPolicy": "Always"}],
                "containers": [{
                    "name": "c",
                    "restartPolicy": "Never",
                    "restartPolicyRules": [{"action": "Restart",
                        "exitCodes": {"operator": "In", "values": [1]}}],
                    "env": [
                        {"name": "F", "valueFrom":
                            {"fileKeyRef": {"key": "k", "path": "p", "volumeName": "v"}}},
                        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ],
                }],
            },
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    /// The pod, as JSON, with one gate off.
    fn with_gate_off(gate: &str) -> serde_json::Value {
        let mut gates = FeatureGates::default();
        let said = BTreeMap::from([
            (gate.to_owned(), false),
            ("RestartAllContainersOnContainerExits".to_owned(), false),
        ]);
        assert_eq!(gates.set(&said), [], "{gate}");
        let stripped = SwitchedOff::from(&gates).without(pod());
        serde_json::to_value(&*stripped).expect("JSON")
    }

    #[test]
    fn each_gate_takes_its_own_fields() {
        let whole = serde_json::to_value(&*pod()).expect("JSON");

        let stripped = with_gate_off("ContainerRestartRules");
        let container = &stripped["spec"]["containers"][0];
        assert_eq!(container.get("restartPolicy"), None);
        assert_eq!(container.get("restartPolicyRules"), None);
        assert_eq!(stripped["spec"]["initContainers"], whole["spec"]["initContainers"]);

        let stripped = with_gate_off("EnvFiles");
        let env = &stripped["spec"]["containers"][0]["env"];
        assert_eq!(env[0], serde_json::json!({"name": "F"}));
        assert_eq!(env[1], whole["spec"]["containers"][0]["env"][1]);

        let stripped = with_gate_off("HostnameOverride");
        assert_eq!(stripped["spec"].get("hostnameOverride"), None);
        assert_eq!(stripped["spec"]["containers"], whole["spec"]["containers"]);
    }

    #[test]
    fn with_every_gate_on_the_pod_is_the_same_one() {
        let pod = pod();
        let all_on = SwitchedOff::from(&FeatureGates::default());
        assert!(Arc::ptr_eq(&pod, &all_on.without(Arc::clone(&pod))));
    }
}
