//! Tests of the composition.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Disks, FsReading, PodFiles, pods};
use crate::linux::measure::Measured;
use crate::linux::mount::FsUsage;
use crate::model::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, PodKey, PodUid,
    SandboxId, SandboxState, Wall,
};
use crate::pleg::{KnownPod, Observation};
use crate::resources::cgroup_names::{CgroupDriver, CgroupTree};
use crate::stats::cgroups::CgroupsUsage;
use crate::stats::read::sample::{
    CgroupUsage, CpuSample, MemoryLimits, MemorySample, PidsSample, Sample,
};
use crate::stats::usage::{Fs, PodsUsage, VolumeUsage};

const AT: Wall = Wall::UNIX_EPOCH;

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn container(name: &str, digit: char, running: bool) -> ObservedContainer {
    let state =
        if running { ContainerState::Running { started_at: AT } } else { ContainerState::Created };
    ObservedContainer {
        id: ContainerId::from(id(digit)),
        name: name.to_owned(),
        sandbox: SandboxId::from(id('f')),
        restart_count: 0,
        hash: 0,
        image: String::new(),
        image_ref: String::new(),
        created_at: AT,
        state,
        user: None,
        resources: None,
        mounts: Vec::new(),
        log_path: String::new(),
        stop_signal: None,
    }
}

fn known(containers: Vec<ObservedContainer>) -> Vec<KnownPod> {
    let sandbox = ObservedSandbox {
        id: SandboxId::from(id('f')),
        attempt: 0,
        state: SandboxState::Ready,
        created_at: AT,
        ips: Vec::new(),
        host_network: false,
        runtime_handler: String::new(),
        is_static: false,
    };
    let mut observation = Observation::default();
    observation.pod = Arc::new(ObservedPod { sandboxes: vec![sandbox], containers });
    let key = Some(PodKey::new("ns", "web"));
    vec![KnownPod { uid: PodUid::from("u1"), key, observation, subscribed: true }]
}

fn cgroup(core_nanos: u64, usage: u64, limit: u64) -> CgroupUsage {
    let limits = MemoryLimits { memory: limit, ..MemoryLimits::default() };
    let memory = MemorySample { usage, limits, ..MemorySample::default() };
    let sample = Sample {
        cpu: Some(CpuSample { total: core_nanos, ..CpuSample::default() }),
        memory: Some(memory),
        pids: PidsSample { processes: 2, ..PidsSample::default() },
        ..Sample::default()
    };
    CgroupUsage { sample, nano_cores: 5, ..CgroupUsage::default() }
}

fn read(cgroups: &[(&str, CgroupUsage)], disks: Option<&Disks>) -> PodsUsage {
    let tree = CgroupTree::new("/", CgroupDriver::Cgroupfs, true);
    let by_path = cgroups.iter().map(|(path, usage)| ((*path).to_owned(), usage.clone())).collect();
    let cgroups = CgroupsUsage { by_path, ..CgroupsUsage::default() };
    let known = known(vec![container("app", 'a', true), container("old", 'b', false)]);
    pods(&known, &cgroups, &tree, disks)
}

#[test]
fn a_pod_has_the_usage_of_its_cgroup_and_its_running_containers() {
    let path = format!("/kubepods/podu1/{}", id('a'));
    let usage =
        read(&[("/kubepods/podu1", cgroup(9, 90, u64::MAX)), (&path, cgroup(7, 70, 100))], None);
    let pod = usage.by_uid(&PodUid::from("u1")).expect("it runs");
    let names: Vec<&str> = pod.containers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["app"]);
    assert_eq!(pod.resources.cpu.as_ref().expect("processors").core_nanos, 9);
    assert_eq!(pod.resources.memory.as_ref().expect("memory").available(), None);
    let memory = pod.containers[0].resources.memory.as_ref().expect("memory");
    assert_eq!((memory.usage, memory.available()), (70, Some(30)));
    assert_eq!(pod.processes, Some(2));
    assert!(pod.ephemeral_storage.is_none() && pod.containers[0].logs.is_none());
}

#[test]
fn without_a_cgroup_of_its_own_a_pod_is_the_sum_of_its_containers() {
    let path = format!("/{}", id('a'));
    let usage = read(&[(&path, cgroup(7, 70, 100))], None);
    let memory = usage.pods[0].resources.memory.as_ref().expect("memory");
    assert_eq!((memory.usage, memory.limit), (70, Some(100)));
}

#[test]
fn ephemeral_storage_is_layers_logs_volumes_and_files() {
    let root = FsUsage { capacity: 1000, available: 400, used: 600, inodes: 10, inodes_free: 4 };
    let measured = |bytes| Measured { bytes, inodes: 1, partial: false };
    let uid = PodUid::from("u1");
    let volume = |name: &str, used, ephemeral| VolumeUsage {
        name: name.to_owned(),
        fs: Fs { used: Some(used), inodes_used: Some(1), ..Fs::unknown(AT) },
        claim: None,
        ephemeral,
        abnormal: None,
    };
    let files = PodFiles {
        logs: [("app".to_owned(), Some(measured(20)))].into(),
        pod_logs: Some(measured(3)),
        etc_hosts: Some(measured(4)),
    };
    let layer = Fs { used: Some(100), inodes_used: Some(1), ..Fs::unknown(AT) };
    let disks = Disks {
        root: Some(FsReading { at: AT, usage: root }),
        layers: HashMap::from([(id('a'), layer)]),
        files: HashMap::from([(uid.clone(), files)]),
        volumes: HashMap::from([(
            uid,
            Arc::from([volume("scratch", 1000, true), volume("claim", 9999, false)]),
        )]),
        networks: HashMap::new(),
    };
    let usage = read(&[], Some(&disks));
    let storage = usage.pods[0].ephemeral_storage.as_ref().expect("storage");
    assert_eq!((storage.used, storage.inodes_used), (Some(1127), Some(5)));
    assert_eq!((storage.available, storage.capacity), (Some(400), Some(1000)));
    let logs = usage.pods[0].containers[0].logs.as_ref().expect("logs");
    assert_eq!((logs.used, logs.inodes), (Some(20), Some(10)));
    assert_eq!(usage.pods[0].volumes.len(), 2);
}
