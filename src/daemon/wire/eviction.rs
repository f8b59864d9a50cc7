//! What keeps the node alive: eviction, the limits of containers that have ended, the kernel's
//! reports of processes that it has killed. And what ends its pods when the machine shuts down.

use anyhow::Context as _;
use tokio::sync::watch;

use crate::cri::RuntimeCondition;
use crate::daemon::tasks::Tasks;
use crate::daemon::{Core, Kubelet};
use crate::dispatch::PodsHandle;
use crate::eviction::{self, MemcgConfig, collect, garbage, oom};
use crate::images::gc;
use crate::linux::cgroup::Layout;
use crate::linux::logind::Logind;
use crate::model::Pressure;
use crate::resources::PodCgroups;
use crate::stats::StatsHandle;
use crate::volumes::mounter::Mounter;
use crate::{node, shutdown};

/// What eviction is made from.
pub(in crate::daemon) struct EvictionParts {
    pub(in crate::daemon) stats: StatsHandle,
    pub(in crate::daemon) images: gc::Handle,
    /// Takes what the node is short of.
    pub(in crate::daemon) pressure: watch::Sender<Pressure>,
    pub(in crate::daemon) cgroups: Option<PodCgroups>,
    pub(in crate::daemon) condition: watch::Receiver<RuntimeCondition>,
}

impl<M: Mounter> Kubelet<M> {
    /// Starts eviction. A simulation has no machine that could run out of anything.
    pub(in crate::daemon) fn start_eviction(
        &self,
        tasks: &mut Tasks,
        parts: EvictionParts,
        pods: &PodsHandle,
    ) -> anyhow::Result<()> {
        let EvictionParts { stats, images, pressure, cgroups, condition } = parts;
        let policy = garbage::Policy::from(&self.core.loaded);
        tasks.run("dead containers", collect::run(policy, pods.clone(), self.core.clock));
        if !self.core.describes_node {
            return Ok(());
        }

        let memcg = cgroups.as_ref().and_then(memcg);
        let name = &self.core.identity.name;
        let config = eviction::Config::from_loaded(&self.core.loaded, name, memcg)
            .context("eviction thresholds")?;
        let deps = eviction::Deps {
            stats,
            pods: pods.clone(),
            images,
            runtime: self.runtime.clone(),
            pressure,
            recorder: self.core.recorder.clone(),
            metrics: eviction::Metrics::register(&self.core.metrics),
            clock: self.core.clock,
        };
        tasks.run("eviction", eviction::new(config, deps));

        let recorder = self.core.recorder.clone();
        let failures = collect::report_failures(condition, name.clone(), recorder.clone());
        tasks.run("collection failures", failures);
        let deps = oom::Deps { pods: pods.clone(), recorder, node_name: name.clone() };
        tasks.run("killed processes", oom::new(deps));
        Ok(())
    }
}

impl Core {
    /// Starts what waits for the machine's shutdown, if pods are to have time for it.
    pub(in crate::daemon) fn start_graceful_shutdown(
        &self,
        tasks: &mut Tasks,
        announced: watch::Sender<Option<node::Shutdown>>,
        pods: &PodsHandle,
    ) {
        let config = shutdown::Config::from_loaded(&self.loaded, &self.identity.name);
        let Some(config) = config.filter(|_| self.describes_node) else { return };
        let deps = shutdown::Deps {
            logind: Logind::default(),
            pods: pods.clone(),
            announced,
            recorder: self.recorder.clone(),
            metrics: shutdown::Metrics::register(&self.metrics),
            clock: self.clock,
        };
        tasks.run("graceful shutdown", shutdown::new(config, deps));
    }
}

/// The cgroups whose memory the kernel can watch; `None` if the hierarchies cannot be read.
fn memcg(cgroups: &PodCgroups) -> Option<MemcgConfig> {
    let tree = cgroups.tree();
    Some(MemcgConfig { layout: Layout::detect().ok()?, pods: tree.node().path(tree.driver()) })
}
