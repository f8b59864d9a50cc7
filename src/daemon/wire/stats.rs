//! What the node reports of its use.

use std::sync::Arc;

use super::RuntimeParts;
use crate::config::Host;
use crate::daemon::Kubelet;
use crate::daemon::tasks::Tasks;
use crate::resources::cgroup_names::CgroupTree;
use crate::stats::cadvisor::{Machine, machine};
use crate::stats::{self, StatsHandle};
use crate::telemetry::metrics::{DEFAULT_BUCKETS, Kind};
use crate::volumes::mounter::Mounter;
use crate::{desired, pleg, volumes};

impl<M: Mounter> Kubelet<M> {
    /// Starts what reads the use of the node and its pods.
    pub(in crate::daemon) fn start_stats(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        volumes: &volumes::Handle,
        desired: &desired::Handle,
    ) -> StatsHandle {
        let driver = runtime.condition.borrow().cgroup_driver;
        let tree = match &runtime.cgroups {
            Some(cgroups) => cgroups.tree().clone(),
            None => CgroupTree::without_pods(&self.core.loaded, driver),
        };
        let name = &self.core.identity.name;
        let config =
            stats::Config::from_loaded(&self.core.loaded, name, tree, self.machine_facts());
        let desired = desired.clone();
        let deps = stats::Deps {
            runtime: self.runtime.clone(),
            pleg: runtime.pleg.clone(),
            volumes: volumes.clone(),
            pods: Arc::new(move || desired.pods()),
            volume_durations: self.core.metrics.histograms(
                "kubelet_volume_metric_collection_duration_seconds",
                "[ALPHA] Duration in seconds to calculate volume stats",
                &["metric_source"],
                DEFAULT_BUCKETS,
            ),
            clock: self.core.clock,
        };
        let (stats, task) = stats::new(config, deps);
        tasks.run("statistics", task);
        self.register_node(runtime.pleg.clone());
        stats
    }

    /// Registers the metrics of the node itself.
    fn register_node(&self, pleg: pleg::Handle) {
        let metrics = &self.core.metrics;
        let help = "[ALPHA] The node's name. The count is always 1.";
        let names = metrics.gauges("kubelet_node_name", help, &["node"]);
        names.with(&[&self.core.identity.name]).set(1.0);
        let help = "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'";
        let providers = metrics.gauges("kubelet_metrics_provider", help, &["provider"]);
        providers.with(&["cadvisor"]).set(1.0);
        let help = "[ALPHA] cgroup version on the hosts.";
        let version = if Host::detect().cgroup_v2 { 2.0 } else { 1.0 };
        metrics.gauge("kubelet_cgroup_version", help).set(version);

        let clock = self.core.clock;
        metrics.on_collect(move |out| {
            let Some(last) = pleg.last_relist() else { return };
            let now = clock.now();
            let seen = now.wall.as_duration().as_secs_f64() - now.mono.since(last).as_secs_f64();
            let help = "[ALPHA] Timestamp in seconds when PLEG was last seen active.";
            let name = "kubelet_pleg_last_seen_seconds";
            out.family(name, help, Kind::Gauge, &[], &[(&[], seen.floor())]);
        });
    }

    /// The facts of the machine that metrics show.
    fn machine_facts(&self) -> Machine {
        let info = &self.core.identity.machine;
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Machine {
            machine_id: info.machine_id.clone(),
            system_uuid: info.system_uuid.clone(),
            boot_id: info.boot_id.clone(),
            kernel_version: info.kernel_version.clone(),
            os_image: info.os_image.clone(),
            cores: info.cores,
            physical_cores: machine::different(&cpuinfo, "core id"),
            sockets: machine::different(&cpuinfo, "physical id"),
            memory: info.memory,
            swap: info.swap,
        }
    }
}
