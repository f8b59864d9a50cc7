//! The daemon's own composition on stand-ins for the machine: a runtime, an API server and mounts
//! in memory, a clock that stands still while something is to be done, files below a folder of the
//! test. What is left out: the Node object, the HTTPS server, cgroups.
//!
//! Dropping the future and the tokio runtime that runs it is what a crash is; the stand-ins outlive
//! it.

use std::net::IpAddr;
use std::path::PathBuf;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::tasks::Tasks;
use super::{Core, Kubelet, Machine, Outside};
use crate::apiserver::Clients;
use crate::clock::Clock;
use crate::config::Loaded;
use crate::cri;
use crate::cri::fake::FakeRuntime;
use crate::telemetry::metrics::Registry;
use crate::volumes::mounter::fake::FakeMounter;

/// The stand-ins for the machine.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The clock.
    pub clock: Clock,
    /// The runtime.
    pub runtime: FakeRuntime,
    /// Clients of the API server.
    pub clients: Clients,
    /// Mounts.
    pub mounter: FakeMounter,
    /// Where the links to containers' logs are.
    pub container_logs_dir: PathBuf,
    /// Where the registration socket of device plugins is.
    pub device_plugins_dir: PathBuf,
    /// The node's own addresses, preferred first.
    pub host_ips: watch::Receiver<Vec<IpAddr>>,
    /// How many processors there are.
    pub cores: usize,
}

/// Runs until `shutdown`. The directories of the configuration exist.
pub async fn run(loaded: Loaded, parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = Tasks::new(shutdown.clone());
    let identity = Identity::read(&loaded)?;
    let metrics = Registry::new();
    let machine = Machine {
        cores: parts.cores,
        mounter: parts.mounter,
        container_logs_dir: parts.container_logs_dir,
        device_plugins_dir: parts.device_plugins_dir,
    };
    let runtime = parts.runtime.client_with(cri::metrics::observer(&metrics));
    let outside = Outside {
        clock: parts.clock,
        clients: Some(parts.clients),
        metrics,
        describes_node: false,
        host_ips: parts.host_ips,
    };
    let health = watch::Sender::new(None);
    let core = Core::new(loaded, identity, outside, health, &mut tasks, shutdown);
    Box::pin(Kubelet { core, machine, runtime }.start(tasks)).await
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::{Parts, run};
    use crate::apiserver::fake::FakeApi;
    use crate::clock::Clock;
    use crate::config::{Host, load_on};
    use crate::cri::fake::FakeRuntime;
    use crate::volumes::mounter::fake::FakeMounter;

    const PODS: &str = "api/v1/pods";

    fn pod_on_the_hosts_network() -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u1"},
            "spec": {
                "nodeName": "n1",
                "hostNetwork": true,
                "enableServiceLinks": false,
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": "web:1", "imagePullPolicy": "Never"}],
            },
            "status": {"phase": "Pending"},
        })
    }

    /// Waits until the pod's status has these addresses.
    async fn wait_for_ips(api: &FakeApi, host_ip: &str, pod_ips: &[&str]) {
        let has = |pod: &&Value| {
            let status = &pod["status"];
            let ips = status["podIPs"].as_array().cloned().unwrap_or_default();
            let ips: Vec<&str> = ips.iter().filter_map(|ip| ip["ip"].as_str()).collect();
            status["hostIP"] == host_ip && ips == pod_ips
        };
        let wait = api.wait_for(PODS, |pods| pods.iter().find(has).cloned());
        tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the addresses");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_or_changed_address_of_the_node_reaches_its_pods() {
        let home = tempfile::tempdir().expect("a folder");
        for folder in ["root", "manifests", "logs", "links"] {
            std::fs::create_dir_all(home.path().join(folder)).expect("a folder");
        }
        let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "podLogsDir": path("logs"),
            "staticPodPath": path("manifests"),
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "enableServer": false,
            "healthzPort": 0,
            "registerNode": false,
            "resolvConf": "",
            "failSwapOn": false,
            "authentication": {"webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
        });
        std::fs::write(path("config.json"), config.to_string()).expect("a file");
        let arguments = [
            format!("--config={}", path("config.json")),
            format!("--root-dir={}", path("root")),
            "--hostname-override=n1".to_owned(),
        ];
        let loaded = load_on(&arguments, Host { cgroup_v2: true }).expect("a configuration");

        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(clock);
        api.put("api/v1/nodes", json!({"metadata": {"name": "n1", "uid": "node-uid"}}));
        api.put(PODS, pod_on_the_hosts_network());
        let runtime = FakeRuntime::new(clock);
        runtime.add_image("web:1", 1 << 20);
        let (addresses, host_ips) = watch::channel(Vec::new());
        let parts = Parts {
            clock,
            runtime,
            clients: api.clients("n1"),
            mounter: FakeMounter::default(),
            container_logs_dir: home.path().join("links"),
            device_plugins_dir: home.path().join("device-plugins"),
            host_ips,
            cores: 1,
        };
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let kubelet = tasks.spawn(run(loaded, parts, shutdown.clone()));

        // The pod runs before the node has an address (DHCP is late).
        let running = |pod: &&Value| pod["status"]["phase"] == "Running";
        api.wait_for(PODS, |pods| pods.iter().find(running).cloned()).await;
        addresses.send_replace(vec!["10.0.0.5".parse().expect("an address")]);
        wait_for_ips(&api, "10.0.0.5", &["10.0.0.5"]).await;

        // The lease changes. Upstream keeps the address that a pod on the host's network has.
        addresses.send_replace(vec!["10.0.0.6".parse().expect("an address")]);
        let moved = |pod: &&Value| pod["status"]["hostIP"] == "10.0.0.6";
        api.wait_for(PODS, |pods| pods.iter().find(moved).cloned()).await;

        shutdown.cancel();
        kubelet.await.expect("no panic").expect("asked for");
    }
}
