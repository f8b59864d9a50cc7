//! The floor: what the runtime alone takes for the same pods. Nobody asks the API server, nobody
//! writes a status.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rkubelet::internals::cri::{Runtime, v1};
use rkubelet::internals::model::{ContainerId, SandboxId};

use crate::node::Node;
use crate::pods::{IMAGE, Kind, NAMESPACE};
use crate::samples::{FLOOR, Samples};
use crate::turn::{self, BURST};
use crate::{Options, pods};

/// So many pods are in the works at a time when there are many: more only makes each slower.
const AT_A_TIME: usize = 4;

/// Measures starting and stopping, for every phase that is wanted.
pub(crate) async fn measure(node: &Node, options: &Options, samples: &mut Samples) -> Result<()> {
    FLOOR.clone_into(&mut samples.who);
    node.sweep().await?;
    let bare = Bare { runtime: node.runtime()?, node };
    for kind in [Kind::Plain, Kind::Volumes] {
        if !options.wants(kind.phase()) {
            continue;
        }
        let phase = kind.phase();
        // The first one warms up.
        for number in 0..=turn::singles(options) {
            let pod = bare.start(kind, &format!("{phase}-{number}")).await?;
            tokio::time::sleep(turn::RUN).await;
            let stopped = bare.stop(&pod).await?;
            if number > 0 {
                samples.add(&format!("{phase}.sandbox"), turn::millis(pod.sandbox_took));
                samples.add(&format!("{phase}.ready"), turn::millis(pod.took));
                samples.add(&format!("{phase}.gone"), turn::millis(stopped));
            }
        }
    }
    if options.wants("burst") {
        let began = Instant::now();
        let started: Vec<_> = stream::iter(0..BURST)
            .map(|number| bare.start_since(began, number))
            .buffered(AT_A_TIME)
            .try_collect()
            .await?;
        let (pods, took): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        turn::add_burst(samples, "ready", took);
        tokio::time::sleep(turn::RUN).await;
        let began = Instant::now();
        let stops = pods.iter().map(|pod| async { bare.stop(pod).await.map(|_| began.elapsed()) });
        let took: Vec<_> = stream::iter(stops).buffered(AT_A_TIME).try_collect().await?;
        turn::add_burst(samples, "gone", took);
    }
    Ok(())
}

struct Bare<'a> {
    runtime: Runtime,
    node: &'a Node,
}

struct Started {
    sandbox: SandboxId,
    container: ContainerId,
    sandbox_took: Duration,
    took: Duration,
}

impl Bare<'_> {
    async fn start_since(&self, began: Instant, number: usize) -> Result<(Started, Duration)> {
        let pod = self.start(Kind::Plain, &format!("burst-{number}")).await?;
        Ok((pod, began.elapsed()))
    }

    async fn start(&self, kind: Kind, name: &str) -> Result<Started> {
        let uid = format!("bare-{name}");
        let mounts = self.mounts(kind, &uid)?;
        let config = self.sandbox(name, &uid)?;
        let log_directory = self.node.path(&format!("{}/main", config.log_directory))?;
        fs::create_dir_all(log_directory)?;
        let began = Instant::now();
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let (sandbox, ()) = self.runtime.run_pod_sandbox(request, ()).await;
        let sandbox = sandbox?;
        let sandbox_took = began.elapsed();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.as_str().to_owned(),
            config: Some(container(mounts)),
            sandbox_config: Some(config),
        };
        let (container, ()) = self.runtime.create_container(request, ()).await;
        let container = container?;
        let (started, ()) = self.runtime.start_container(&container, ()).await;
        started?;
        Ok(Started { sandbox, container, sandbox_took, took: began.elapsed() })
    }

    async fn stop(&self, pod: &Started) -> Result<Duration> {
        let began = Instant::now();
        let container_id = pod.container.as_str().to_owned();
        self.runtime.stop_container(v1::StopContainerRequest { container_id, timeout: 30 }).await?;
        let pod_sandbox_id = pod.sandbox.as_str().to_owned();
        self.runtime
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
            .await?;
        self.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok(began.elapsed())
    }

    /// What a kubelet asks for a pod of the class BestEffort.
    fn sandbox(&self, name: &str, uid: &str) -> Result<v1::PodSandboxConfig> {
        let cgroup = self.node.cgroup()?;
        let security_context = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces()),
            // Every kubelet asks for that, whatever the containers get: the filter takes the
            // runtime some 25 ms to make.
            seccomp: Some(seccomp(v1::security_profile::ProfileType::RuntimeDefault)),
            ..Default::default()
        };
        Ok(v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: format!("/var/log/pods/{NAMESPACE}_{name}_{uid}"),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec![
                    format!("{NAMESPACE}.svc.cluster.local"),
                    "svc.cluster.local".to_owned(),
                ],
                options: vec!["ndots:5".to_owned()],
            }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{cgroup}/kubepods/besteffort/pod{uid}"),
                security_context: Some(security_context),
                resources: Some(best_effort()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// The folders and files that a kubelet would have made, made beforehand: the floor is the
    /// runtime alone.
    fn mounts(&self, kind: Kind, uid: &str) -> Result<Vec<v1::Mount>> {
        let pod = format!("/var/lib/kubelet/pods/{uid}");
        let mut mounts = Vec::new();
        for (file, inside) in [("etc-hosts", "/etc/hosts"), ("termination", "/dev/termination-log")]
        {
            fs::create_dir_all(self.node.path(&pod)?)?;
            fs::write(self.node.path(&format!("{pod}/{file}"))?, "127.0.0.1 localhost\n")?;
            mounts.push((format!("{pod}/{file}"), inside.to_owned(), false));
        }
        let volumes: &[(&str, &str)] = match kind {
            Kind::Plain => &[],
            Kind::Volumes => &[
                ("empty-dir/scratch", "/scratch"),
                ("configmap/settings", "/settings"),
                ("secret/password", "/password"),
                ("downward-api/about", "/about"),
                ("projected/kube-api-access", "/var/run/secrets/kubernetes.io/serviceaccount"),
            ],
        };
        for (volume, inside) in volumes {
            let path = format!("{pod}/volumes/kubernetes.io~{volume}");
            fs::create_dir_all(self.node.path(&path)?)?;
            fs::write(self.node.path(&format!("{path}/{}", pods::KEY))?, "first")?;
            mounts.push((path, (*inside).to_owned(), *inside != "/scratch"));
        }
        let mount = |(host_path, container_path, readonly)| v1::Mount {
            host_path,
            container_path,
            readonly,
            ..Default::default()
        };
        Ok(mounts.into_iter().map(mount).collect())
    }
}

fn container(mounts: Vec<v1::Mount>) -> v1::ContainerConfig {
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        mounts,
        log_path: "main/0.log".to_owned(),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(best_effort()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp(v1::security_profile::ProfileType::Unconfined)),
                masked_paths: paths(&[
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/interrupts",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ]),
                readonly_paths: paths(&[
                    "/proc/bus",
                    "/proc/fs",
                    "/proc/irq",
                    "/proc/sys",
                    "/proc/sysrq-trigger",
                ]),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}

fn seccomp(profile: v1::security_profile::ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: profile.into(), ..Default::default() }
}

fn best_effort() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_shares: 2,
        oom_score_adj: 1000,
        ..Default::default()
    }
}
