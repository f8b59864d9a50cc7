//! Renders `/metrics/resource`: processors, memory and swap of the node, its pods and their
//! containers, for metrics-server. Pure.
//!
//! Each sample carries the time of its reading: metrics-server computes rates by it.

use super::usage::{Cpu, Memory, NodeUsage, PodsUsage, Resources, Swap};
use crate::model::Wall;
use crate::telemetry::metrics::{Collected, FamilyWriter, Kind};

const CONTAINER: &[&str] = &["container", "namespace", "pod"];
const POD: &[&str] = &["namespace", "pod"];

/// Renders the page; `None`: there is no reading.
pub fn render(usage: Option<(&NodeUsage, &PodsUsage)>) -> String {
    let mut page = Collected::default();
    let failed = [(&[][..], if usage.is_some() { 0.0 } else { 1.0 })];
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    page.family("resource_scrape_error", help, Kind::Gauge, &[], &failed);
    if let Some((node, pods)) = usage {
        for family in FAMILIES {
            let mut writer = page.begin(family.name, family.help, family.kind);
            write(&mut writer, family, node, pods);
        }
    }
    page.into_text()
}

/// A family: whose it is, and its value.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    of: Of,
    value: Value,
}

#[derive(Clone, Copy)]
enum Of {
    Node,
    Pod,
    Container,
}

#[derive(Clone, Copy)]
enum Value {
    CpuSeconds,
    WorkingSet,
    SwapUsage,
    SwapLimit,
    /// The only one without a time.
    Start,
}

impl Value {
    fn of(self, resources: &Resources, created: Wall) -> Option<(f64, Option<i64>)> {
        let (value, at) = match self {
            Self::CpuSeconds => {
                let Cpu { core_nanos, at, .. } = resources.cpu.as_ref()?;
                (float(*core_nanos) / 1e9, *at)
            }
            Self::WorkingSet => {
                let Memory { working_set, at, .. } = resources.memory.as_ref()?;
                (float(*working_set), *at)
            }
            Self::SwapUsage => {
                let Swap { usage, at, .. } = resources.swap.as_ref()?;
                (float(*usage), *at)
            }
            Self::SwapLimit => {
                let swap = resources.swap.as_ref()?;
                (float(swap.available()?) + float(swap.usage), swap.at)
            }
            Self::Start => {
                let is_known = created.as_second() > 0;
                return is_known.then(|| (seconds(created), None));
            }
        };
        Some((value, Some(at.as_millisecond())))
    }
}

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family { name: "node_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the node in core-seconds", kind: Kind::Counter, of: Of::Node, value: Value::CpuSeconds },
    Family { name: "node_memory_working_set_bytes", help: "[STABLE] Current working set of the node in bytes", kind: Kind::Gauge, of: Of::Node, value: Value::WorkingSet },
    Family { name: "node_swap_usage_bytes", help: "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems", kind: Kind::Gauge, of: Of::Node, value: Value::SwapUsage },
    Family { name: "container_start_time_seconds", help: "[STABLE] Start time of the container since unix epoch in seconds", kind: Kind::Gauge, of: Of::Container, value: Value::Start },
    Family { name: "container_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds", kind: Kind::Counter, of: Of::Container, value: Value::CpuSeconds },
    Family { name: "container_memory_working_set_bytes", help: "[STABLE] Current working set of the container in bytes", kind: Kind::Gauge, of: Of::Container, value: Value::WorkingSet },
    Family { name: "container_swap_usage_bytes", help: "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems", kind: Kind::Gauge, of: Of::Container, value: Value::SwapUsage },
    Family { name: "container_swap_limit_bytes", help: "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems", kind: Kind::Gauge, of: Of::Container, value: Value::SwapLimit },
    Family { name: "pod_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", kind: Kind::Counter, of: Of::Pod, value: Value::CpuSeconds },
    Family { name: "pod_memory_working_set_bytes", help: "[STABLE] Current working set of the pod in bytes", kind: Kind::Gauge, of: Of::Pod, value: Value::WorkingSet },
    Family { name: "pod_swap_usage_bytes", help: "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems", kind: Kind::Gauge, of: Of::Pod, value: Value::SwapUsage },
];

fn write(writer: &mut FamilyWriter<'_>, family: &Family, node: &NodeUsage, pods: &PodsUsage) {
    let mut sample = |labels: &[&str], values: &[&str], resources: &Resources, created: Wall| {
        if let Some((value, at)) = family.value.of(resources, created) {
            writer.read_at(labels, values, value, at);
        }
    };
    match family.of {
        Of::Node => sample(&[], &[], &node.resources, node.booted),
        Of::Pod => {
            for pod in &pods.pods {
                let values = [&*pod.key.namespace, &*pod.key.name];
                sample(POD, &values, &pod.resources, pod.created);
            }
        }
        Of::Container => {
            for pod in &pods.pods {
                for container in &pod.containers {
                    let values = [container.name.as_str(), &*pod.key.namespace, &*pod.key.name];
                    sample(CONTAINER, &values, &container.resources, container.created);
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn float(value: u64) -> f64 {
    value as f64
}

/// Seconds since the epoch, with their fraction.
#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn seconds(at: Wall) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::model::{ContainerId, PodKey, PodUid, Wall};
    use crate::stats::usage::{
        ContainerUsage, Cpu, Memory, NodeUsage, PodUsage, PodsUsage, Resources, Swap,
    };

    #[test]
    fn samples_have_upstreams_names_and_times() {
        let at = Wall::from_millisecond(1_700_000_000_123).expect("a time");
        let resources = Resources {
            cpu: Some(Cpu { at, core_nanos: 1_500_000_000, nano_cores: 0, psi: None }),
            memory: Some(Memory {
                at,
                limit: None,
                usage: 9,
                working_set: 8,
                rss: 7,
                page_faults: 0,
                major_page_faults: 0,
                psi: None,
            }),
            swap: Some(Swap { at, usage: 2, limit: Some(5) }),
            io: None,
        };
        let node = NodeUsage {
            booted: at,
            resources: resources.clone(),
            network: None,
            fs: None,
            image_fs: None,
            container_fs: None,
            processes: None,
            system: Vec::new(),
        };
        let container = ContainerUsage {
            name: "app".to_owned(),
            id: ContainerId::from("c"),
            created: at,
            resources: resources.clone(),
            rootfs: None,
            logs: None,
            processes: None,
        };
        let pod = PodUsage {
            uid: PodUid::from("u"),
            key: PodKey::new("ns", "web"),
            created: at,
            containers: vec![container],
            resources,
            network: None,
            volumes: Vec::new(),
            ephemeral_storage: None,
            processes: None,
        };
        let page = render(Some((&node, &PodsUsage { pods: vec![pod] })));
        for line in [
            "node_cpu_usage_seconds_total 1.5 1700000000123",
            "node_memory_working_set_bytes 8 1700000000123",
            "container_start_time_seconds{container=\"app\",namespace=\"ns\",pod=\"web\"} 1.7000000001230001e+09",
            "container_swap_limit_bytes{container=\"app\",namespace=\"ns\",pod=\"web\"} 5 1700000000123",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 1.5 1700000000123",
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert_eq!(page.matches("# TYPE").count(), 12);
        assert!(render(None).contains("resource_scrape_error 1\n"));
    }
}
