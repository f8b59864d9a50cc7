//! Renders `/stats/summary`: upstream's JSON (`stats/v1alpha1`). Pure.
//!
//! A field that upstream leaves out when it has no value is left out here; a field of upstream's
//! that Linux never fills (accelerators, user-defined metrics) does not exist here.

use serde::Serialize;

use super::usage::{
    ContainerUsage, Cpu, Fs, Interface, Io, Memory, Network, NodeUsage, PodUsage, PodsUsage, Psi,
    Resources, Stall, Swap, SystemUsage, VolumeUsage,
};
use crate::model::Wall;

/// The interface whose traffic stands for that of all, as upstream names it.
const DEFAULT_INTERFACE: &str = "eth0";

/// Which part of the usage is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Processors, memory and swap (`only_cpu_and_memory=true`).
    CpuAndMemory,
}

/// What a summary says besides the usage.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The node's name.
    pub node_name: &'a str,
    /// Which part is shown.
    pub part: Part,
}

/// Renders the summary.
pub fn render(frame: Frame<'_>, node: &NodeUsage, pods: &PodsUsage) -> serde_json::Result<String> {
    serde_json::to_string(&Summary {
        node: frame.node(node),
        pods: pods.pods.iter().map(|pod| frame.pod(pod)).collect(),
    })
}

#[derive(Serialize)]
struct Summary<'a> {
    node: NodeStats<'a>,
    pods: Vec<PodStats<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats<'a> {
    node_name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system_containers: Vec<ContainerStats<'a>>,
    start_time: String,
    #[serde(flatten)]
    resources: ResourceStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkStats<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<RlimitStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStats<'a> {
    pod_ref: PodReference<'a>,
    start_time: String,
    containers: Vec<ContainerStats<'a>>,
    #[serde(flatten)]
    resources: ResourceStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkStats<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volume: Vec<VolumeStats<'a>>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<FsStats>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    process_stats: Option<ProcessStats>,
}

#[derive(Serialize)]
struct PodReference<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct ProcessStats {
    process_count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats<'a> {
    name: &'a str,
    start_time: String,
    #[serde(flatten)]
    resources: ResourceStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<FsStats>,
}

#[derive(Default, Serialize)]
struct ResourceStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<SwapStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    time: String,
    usage_nano_cores: u64,
    usage_core_nano_seconds: u64,
    psi: PsiStats,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    rss_bytes: u64,
    page_faults: u64,
    major_page_faults: u64,
    psi: PsiStats,
}

#[derive(Serialize)]
struct IoStats {
    time: String,
    psi: PsiStats,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SwapStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_available_bytes: Option<u64>,
    swap_usage_bytes: u64,
}

#[derive(Serialize)]
struct PsiStats {
    full: PsiData,
    some: PsiData,
}

#[derive(Serialize)]
struct PsiData {
    total: u64,
    avg10: f64,
    avg60: f64,
    avg300: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FsStats {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_used: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeStats<'a> {
    #[serde(flatten)]
    fs: FsStats,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvc_ref: Option<PvcReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_health_stats: Option<VolumeHealthStats>,
}

#[derive(Serialize)]
struct PvcReference<'a> {
    name: &'a str,
    namespace: &'a str,
}

#[derive(Serialize)]
struct VolumeHealthStats {
    abnormal: bool,
}

#[derive(Serialize)]
struct NetworkStats<'a> {
    time: String,
    #[serde(flatten)]
    default: InterfaceStats<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceStats<'a>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceStats<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_errors: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_fs: Option<FsStats>,
}

#[derive(Serialize)]
struct RlimitStats {
    time: String,
    maxpid: i64,
    curproc: i64,
}

impl<'a> Frame<'a> {
    fn is_whole(self) -> bool {
        self.part == Part::Whole
    }

    fn node(self, node: &'a NodeUsage) -> NodeStats<'a> {
        let whole = self.is_whole().then_some(node);
        // Upstream shows the age of the top cgroup in the short form, which is that of the boot.
        NodeStats {
            node_name: self.node_name,
            system_containers: node.system.iter().map(|system| self.system(system)).collect(),
            start_time: time(node.booted),
            resources: self.resources(&node.resources),
            network: whole.and_then(|node| node.network.as_ref()).map(network),
            fs: whole.and_then(|node| node.fs.as_ref()).map(fs),
            runtime: whole.map(|node| RuntimeStats {
                image_fs: node.image_fs.as_ref().map(fs),
                container_fs: node.container_fs.as_ref().map(fs),
            }),
            rlimit: whole.and_then(|node| node.processes.as_ref()).map(|processes| RlimitStats {
                time: time(processes.at),
                maxpid: processes.limit,
                curproc: processes.running,
            }),
        }
    }

    fn system(self, system: &SystemUsage) -> ContainerStats<'a> {
        ContainerStats {
            name: system.container.as_str(),
            start_time: time(system.started),
            resources: self.resources(&system.resources),
            rootfs: None,
            logs: None,
        }
    }

    fn pod(self, pod: &'a PodUsage) -> PodStats<'a> {
        let whole = self.is_whole().then_some(pod);
        let processes = whole.and_then(|pod| pod.processes);
        PodStats {
            pod_ref: PodReference {
                name: &pod.key.name,
                namespace: &pod.key.namespace,
                uid: pod.uid.as_str(),
            },
            start_time: time(pod.created),
            containers: pod.containers.iter().map(|one| self.container(one)).collect(),
            resources: self.resources(&pod.resources),
            network: whole.and_then(|pod| pod.network.as_ref()).map(network),
            volume: whole.map(|pod| pod.volumes.iter().map(volume).collect()).unwrap_or_default(),
            ephemeral_storage: whole.and_then(|pod| pod.ephemeral_storage.as_ref()).map(fs),
            process_stats: processes.map(|process_count| ProcessStats { process_count }),
        }
    }

    fn container(self, container: &'a ContainerUsage) -> ContainerStats<'a> {
        let whole = self.is_whole().then_some(container);
        ContainerStats {
            name: &container.name,
            start_time: time(container.created),
            resources: self.resources(&container.resources),
            rootfs: whole.and_then(|container| container.rootfs.as_ref()).map(fs),
            logs: whole.and_then(|container| container.logs.as_ref()).map(fs),
        }
    }

    fn resources(self, resources: &Resources) -> ResourceStats {
        let io = resources.io.as_ref().filter(|_| self.is_whole());
        ResourceStats {
            cpu: resources.cpu.as_ref().map(cpu),
            memory: resources.memory.as_ref().map(memory),
            io: io.map(|io: &Io| IoStats { time: time(io.at), psi: psi(io.psi) }),
            swap: resources.swap.as_ref().map(|swap: &Swap| SwapStats {
                time: time(swap.at),
                swap_available_bytes: swap.available(),
                swap_usage_bytes: swap.usage,
            }),
        }
    }
}

fn cpu(cpu: &Cpu) -> CpuStats {
    CpuStats {
        time: time(cpu.at),
        usage_nano_cores: cpu.nano_cores,
        usage_core_nano_seconds: cpu.core_nanos,
        psi: psi(cpu.psi),
    }
}

fn memory(memory: &Memory) -> MemoryStats {
    MemoryStats {
        time: time(memory.at),
        available_bytes: memory.available(),
        usage_bytes: memory.usage,
        working_set_bytes: memory.working_set,
        rss_bytes: memory.rss,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
        psi: psi(memory.psi),
    }
}

/// Stalls; upstream shows zeros where the kernel has none.
fn psi(psi: Option<Psi>) -> PsiStats {
    let data = |stall: Stall| PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    let psi = psi.unwrap_or_default();
    PsiStats { full: data(psi.full), some: data(psi.some) }
}

fn fs(fs: &Fs) -> FsStats {
    FsStats {
        time: time(fs.at),
        available_bytes: fs.available,
        capacity_bytes: fs.capacity,
        used_bytes: fs.used,
        inodes_free: fs.inodes_free,
        inodes: fs.inodes,
        inodes_used: fs.inodes_used,
    }
}

fn volume(volume: &VolumeUsage) -> VolumeStats<'_> {
    VolumeStats {
        fs: fs(&volume.fs),
        name: &volume.name,
        pvc_ref: volume
            .claim
            .as_ref()
            .map(|claim| PvcReference { name: &claim.name, namespace: &claim.namespace }),
        volume_health_stats: volume.abnormal.map(|abnormal| VolumeHealthStats { abnormal }),
    }
}

fn network(network: &Network) -> NetworkStats<'_> {
    let mut all = network.interfaces.iter();
    let default = all.find(|interface| interface.name == DEFAULT_INTERFACE);
    NetworkStats {
        time: time(network.at),
        default: default.map(interface).unwrap_or_default(),
        interfaces: network.interfaces.iter().map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> InterfaceStats<'_> {
    InterfaceStats {
        name: &interface.name,
        rx_bytes: Some(interface.received.bytes),
        rx_errors: Some(interface.received.errors),
        tx_bytes: Some(interface.sent.bytes),
        tx_errors: Some(interface.sent.errors),
    }
}

/// A time as the API writes it: whole seconds, UTC.
fn time(at: Wall) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Frame, Part, render};
    use crate::model::{ContainerId, PodKey, PodUid, Wall};
    use crate::stats::usage::{
        ContainerUsage, Cpu, Fs, Interface, Io, Memory, Network, NodeUsage, PodUsage, PodsUsage,
        Processes, Resources, Swap, SystemContainer, SystemUsage, VolumeUsage,
    };

    const AT: Wall = Wall::UNIX_EPOCH;

    fn resources() -> Resources {
        Resources {
            cpu: Some(Cpu { at: AT, core_nanos: 7, nano_cores: 3, psi: None }),
            memory: Some(Memory {
                at: AT,
                limit: Some(100),
                usage: 50,
                working_set: 40,
                rss: 30,
                page_faults: 2,
                major_page_faults: 1,
                psi: None,
            }),
            swap: Some(Swap { at: AT, usage: 0, limit: None }),
            io: Some(Io { at: AT, psi: None }),
        }
    }

    fn space(used: u64) -> Fs {
        Fs { used: Some(used), available: Some(9), ..Fs::unknown(AT) }
    }

    fn node() -> NodeUsage {
        let eth0 = Interface { name: "eth0".to_owned(), ..Interface::default() };
        NodeUsage {
            booted: AT,
            resources: resources(),
            network: Some(Network { at: AT, interfaces: vec![eth0] }),
            fs: Some(space(1)),
            image_fs: Some(space(2)),
            container_fs: Some(space(3)),
            processes: Some(Processes { at: AT, limit: 100, running: 9 }),
            system: vec![SystemUsage {
                container: SystemContainer::Pods,
                started: AT,
                resources: resources(),
            }],
        }
    }

    fn pods() -> PodsUsage {
        let pod = PodUsage {
            uid: PodUid::from("u"),
            key: PodKey::new("ns", "web"),
            created: AT,
            containers: vec![ContainerUsage {
                name: "app".to_owned(),
                id: ContainerId::from("c1"),
                created: AT,
                resources: resources(),
                rootfs: Some(space(4)),
                logs: Some(space(5)),
                processes: Some(1),
            }],
            resources: resources(),
            network: None,
            volumes: vec![VolumeUsage {
                name: "data".to_owned(),
                fs: space(6),
                claim: Some(PodKey::new("ns", "claim")),
                ephemeral: false,
                abnormal: None,
            }],
            ephemeral_storage: Some(space(9)),
            processes: Some(1),
        };
        PodsUsage { pods: vec![pod] }
    }

    fn rendered(part: Part) -> Value {
        let frame = Frame { node_name: "n1", part };
        let text = render(frame, &node(), &pods()).expect("it is JSON");
        serde_json::from_str(&text).expect("it is JSON")
    }

    #[test]
    fn the_whole_has_upstreams_names() {
        let summary = rendered(Part::Whole);
        let node = &summary["node"];
        assert_eq!(node["nodeName"], "n1");
        assert_eq!(node["startTime"], "1970-01-01T00:00:00Z");
        assert_eq!(
            node["rlimit"],
            json!({"time": "1970-01-01T00:00:00Z", "maxpid": 100, "curproc": 9})
        );
        assert_eq!(node["network"]["name"], "eth0");
        assert_eq!(node["network"]["interfaces"][0]["rxBytes"], 0);
        assert_eq!(node["runtime"]["containerFs"]["usedBytes"], 3);
        assert_eq!(node["systemContainers"][0]["name"], "pods");
        let zero = json!({"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0});
        assert_eq!(node["io"]["psi"], json!({"full": zero, "some": zero}));

        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "ns", "uid": "u"}));
        assert_eq!(pod["process_stats"]["process_count"], 1);
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 9);
        assert_eq!(pod["volume"][0]["pvcRef"], json!({"name": "claim", "namespace": "ns"}));
        assert_eq!(pod["volume"][0]["usedBytes"], 6);
        assert_eq!(pod["memory"]["availableBytes"], 60);
        assert_eq!(pod["swap"], json!({"time": "1970-01-01T00:00:00Z", "swapUsageBytes": 0}));
        assert_eq!(pod["containers"][0]["logs"]["usedBytes"], 5);
        assert!(pod.get("network").is_none());
    }

    #[test]
    fn the_short_form_has_processors_memory_and_swap_only() {
        let keys = |value: &Value| {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect::<Vec<_>>()
        };
        let summary = rendered(Part::CpuAndMemory);
        let mut node = keys(&summary["node"]);
        node.sort();
        assert_eq!(node, ["cpu", "memory", "nodeName", "startTime", "swap", "systemContainers"]);
        let mut pod = keys(&summary["pods"][0]);
        pod.sort();
        assert_eq!(pod, ["containers", "cpu", "memory", "podRef", "startTime", "swap"]);
        let mut container = keys(&summary["pods"][0]["containers"][0]);
        container.sort();
        assert_eq!(container, ["cpu", "memory", "name", "startTime", "swap"]);
    }
}
