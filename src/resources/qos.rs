//! The QoS class of a pod: Guaranteed, Burstable or BestEffort. Pure.

use k8s_openapi::api::core::v1 as api;

use super::list::{self, Amounts, Column};
use crate::model::pod;

/// The three classes. A pod's class never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, and requests equal to them.
    Guaranteed,
    /// Neither of the others.
    Burstable,
    /// No container has a request or a limit for CPU or memory.
    BestEffort,
}

impl QosClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// The pod's class: what its status says, else computed from its spec.
pub fn of(pod: &api::Pod) -> QosClass {
    let recorded = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
    recorded.and_then(QosClass::parse).unwrap_or_else(|| compute(pod))
}

/// The class that follows from the spec. Ephemeral containers have no resources and do not count.
pub fn compute(pod: &api::Pod) -> QosClass {
    let mut requests = Amounts::new();
    let mut limits = Amounts::new();
    let mut guaranteed = true;
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    if pod_level.is_some() {
        list::add(&mut requests, &counted(list::pod_level(pod, Column::Requests)));
        let own = list::pod_level(pod, Column::Limits);
        if own.is_some_and(|own| !own.is_empty()) {
            let own = counted(own);
            guaranteed = has_both(&own);
            limits = own;
        }
    } else {
        for container in pod::main_containers(pod).iter().chain(pod::init_containers(pod)) {
            let resources = container.resources.as_ref();
            list::add(&mut requests, &counted(list::column(resources, Column::Requests)));
            let own = counted(list::column(resources, Column::Limits));
            guaranteed &= has_both(&own);
            list::add(&mut limits, &own);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if guaranteed && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// What counts for the class: CPU and memory, where greater than zero.
fn counted(list: Option<&list::Quantities>) -> Amounts {
    let mut amounts = list::amounts(list);
    amounts.retain(|name, amount| (name == list::CPU || name == list::MEMORY) && amount.nano() > 0);
    amounts
}

fn has_both(limits: &Amounts) -> bool {
    limits.contains_key(list::CPU) && limits.contains_key(list::MEMORY)
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1 as api;
    use serde_json::{Value, json};

    use super::{QosClass, compute, of};

    /// A pod with this spec, for the tables of this folder.
    #[track_caller]
    pub(crate) fn pod(spec: Value) -> api::Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "u-1"}, "spec": spec}))
            .expect("a pod")
    }

    fn both(requests: Value, limits: Value) -> Value {
        json!({"requests": requests, "limits": limits})
    }

    #[track_caller]
    fn check(spec: Value, expected: QosClass) {
        assert_eq!(compute(&pod(spec)), expected);
    }

    fn containers(resources: &[Value]) -> Value {
        let list: Vec<Value> =
            resources.iter().map(|r| json!({"name": "c", "resources": r})).collect();
        json!({"containers": list})
    }

    #[test]
    fn classes_follow_from_containers() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        check(containers(&[json!({})]), QosClass::BestEffort);
        check(containers(&[both(json!({"cpu": "0"}), json!({}))]), QosClass::BestEffort);
        check(containers(&[both(json!({"nvidia.com/gpu": "1"}), json!({}))]), QosClass::BestEffort);
        check(containers(&[both(full.clone(), full.clone())]), QosClass::Guaranteed);
        check(
            containers(&[both(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone())]),
            QosClass::Guaranteed,
        );
        check(containers(&[both(full.clone(), full.clone()), json!({})]), QosClass::Burstable);
        check(containers(&[both(json!({"cpu": "1"}), json!({"cpu": "1"}))]), QosClass::Burstable);
        check(
            containers(&[both(full.clone(), json!({"cpu": "2", "memory": "1Gi"}))]),
            QosClass::Burstable,
        );
        check(containers(&[both(json!({}), full)]), QosClass::Burstable);
    }

    #[test]
    fn init_containers_count() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        check(
            json!({"containers": [{"name": "c", "resources": both(full.clone(), full)}], "initContainers": [{"name": "i"}]}),
            QosClass::Burstable,
        );
    }

    #[test]
    fn pod_level_resources_decide_alone() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        check(
            json!({"containers": [{"name": "c"}], "resources": both(full.clone(), full.clone())}),
            QosClass::Guaranteed,
        );
        check(
            json!({"containers": [{"name": "c"}], "resources": both(full, json!({}))}),
            QosClass::Burstable,
        );
        check(
            json!({"containers": [{"name": "c"}], "resources": both(json!({"cpu": "1"}), json!({"cpu": "1"}))}),
            QosClass::Burstable,
        );
    }

    #[test]
    fn a_recorded_class_is_kept() {
        let mut pod = pod(containers(&[json!({})]));
        pod.status = Some(api::PodStatus {
            qos_class: Some("Burstable".into()),
            ..api::PodStatus::default()
        });
        assert_eq!(of(&pod), QosClass::Burstable);
    }
}
