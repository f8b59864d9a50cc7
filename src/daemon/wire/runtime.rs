//! Starts what talks to the runtime: its condition, PLEG, images, cgroups, the resource manager.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apiserver::{resource_claims, tokens};
use crate::config::Gate;
use crate::daemon::Kubelet;
use crate::daemon::tasks::Tasks;
use crate::linux::machine;
use crate::resources::pod_states;
use crate::volumes::mounter::Mounter;
use crate::{cni, cri, images, pleg, resources};

/// The pause between two warnings that the runtime does not answer.
const COMPLAINT: Duration = Duration::from_secs(10);

/// The handles of the subsystems that talk to the runtime.
pub(in crate::daemon) struct RuntimeParts {
    pub(in crate::daemon) pleg: pleg::Handle,
    pub(in crate::daemon) condition: watch::Receiver<cri::RuntimeCondition>,
    pub(in crate::daemon) images: images::Handle,
    pub(in crate::daemon) cgroups: Option<resources::PodCgroups>,
    pub(in crate::daemon) manager: resources::manager::Handle,
    pub(in crate::daemon) states: pod_states::Files,
}

impl<M: Mounter> Kubelet<M> {
    /// Starts what talks to the runtime, once the runtime has said its version: nothing works
    /// without it. `None`: the stop came first. May be dropped at any point, with `tasks`.
    pub(in crate::daemon) async fn start_runtime(
        &self,
        tasks: &mut Tasks,
    ) -> anyhow::Result<Option<RuntimeParts>> {
        // The runtime has its own setting for the folder; it is watched only to ask the runtime at
        // once.
        let (look_again, watcher) = cni::watch(Path::new(cni::CONF_DIR));
        tasks.run("cni watch", watcher.run());
        let runtime = self.runtime.clone();
        let (mut condition, task) = cri::condition::new(runtime, self.core.clock, look_again);
        tasks.run("runtime condition", task);

        let endpoint = &self.core.loaded.config.container_runtime_endpoint;
        let Some(answer) = first_answer(&mut condition, endpoint, &self.core.shutdown).await?
        else {
            return Ok(None);
        };
        if let Some(identity) = &answer.identity {
            info!(runtime = identity.node_info(), "container runtime answers");
        }

        let driver = answer.cgroup_driver;
        if driver.is_none() {
            self.report_missing_runtime_config();
        }
        let durations = resources::Durations::register(&self.core.metrics, self.core.clock);
        let cgroups = resources::PodCgroups::from_loaded(&self.core.loaded, driver, durations)?;
        if let Some(cgroups) = &cgroups {
            self.limit_node(cgroups, tasks).await?;
        }

        let observer = {
            let is_evented = self.core.loaded.gates.enabled(Gate::EVENTED_PLEG);
            pleg::metrics::observer(&self.core.metrics, is_evented)
        };
        let (pleg, task) = pleg::new(self.runtime.clone(), self.core.clock, observer);
        tasks.run("pleg", task);
        let health = pleg::health(pleg.clone(), self.core.clock, self.core.health.clone());
        tasks.run("health", health);

        let images = images::Handle::new(
            images::Config { plugins: self.plugins(), ..images::Config::from(&self.core.loaded) },
            self.runtime.clone(),
            self.core.clock,
            self.core.recorder.clone(),
            images::metrics::observer(&self.core.metrics),
        );
        if let Err(error) = images.recover_records().await {
            warn!(%error, "records of images that were pulled before could not be checked");
        }

        let folder = self.machine.device_plugins_dir.clone();
        let claims = self.core.clients.as_ref().map(resource_claims::new);
        let (manager, task) = resources::manager::new(folder, claims, self.core.clock);
        tasks.run("resource manager", task);

        let root = PathBuf::from(&self.core.loaded.flags.root_dir);
        let states = pod_states::open(&root)?;
        tasks.run("pods' resources", pod_states::keep(states.clone(), root));
        Ok(Some(RuntimeParts { pleg, condition, images, cgroups, manager, states }))
    }

    /// Reports a runtime that does not say which cgroup driver it wants: later kubelets need that.
    fn report_missing_runtime_config(&self) {
        let losing = self.core.metrics.gauges(
            "kubelet_cri_losing_support",
            "[ALPHA] the Kubernetes version that the currently running CRI implementation will \
             lose support on if not upgraded.",
            &["version"],
        );
        losing.with(&["1.37.0"]).inc();
        info!(
            "CRI implementation should be updated to support RuntimeConfig. Falling back to using \
             cgroupDriver from kubelet config."
        );
    }

    /// Makes the credential provider plug-ins of the configuration.
    fn plugins(&self) -> images::Plugins {
        let Some(configured) = &self.core.loaded.credential_providers else {
            return images::Plugins::default();
        };
        let accounts: Box<dyn images::plugins::Accounts> = match &self.core.clients {
            None => Box::new(images::plugins::NoAccounts),
            Some(clients) => {
                let tokens = tokens::new(clients, self.core.clock);
                Box::new(images::plugins::ApiAccounts::new(clients, tokens))
            }
        };
        let observer = images::metrics::plugin_observer(&self.core.metrics, &configured.hash);
        images::Plugins::new(configured, accounts, self.core.clock, &observer)
    }

    /// Makes the cgroups of all pods and has the node's limits enforced. The limit of all pods may
    /// be refused for a while; one of reserved daemons must not.
    async fn limit_node(
        &self,
        cgroups: &resources::PodCgroups,
        tasks: &mut Tasks,
    ) -> anyhow::Result<()> {
        let machine = resources::node_limits::Machine {
            cores: self.core.identity.machine.cores,
            cpus: machine::cpus(),
            memory: self.core.identity.machine.memory,
            pids: machine::processes(),
        };
        let limits = resources::NodeLimits::from_loaded(&self.core.loaded, &machine);
        cgroups.setup(limits.pods.clone()).await.context("setting up the cgroups of pods")?;
        let enforcer = resources::node_limits::Enforcer {
            cgroups: cgroups.clone(),
            limits,
            recorder: self.core.recorder.clone(),
            node_name: self.core.identity.name.clone(),
        };
        enforcer.enforce_reserved().await?;
        let stop = self.core.shutdown.clone();
        tasks.run("node limits", async move {
            enforcer.run().await;
            stop.cancelled().await;
        });
        Ok(())
    }
}

/// Waits until the runtime has said its name and version. `None`: the stop came first.
async fn first_answer(
    condition: &mut watch::Receiver<cri::RuntimeCondition>,
    endpoint: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<cri::RuntimeCondition>> {
    loop {
        let wait = condition.wait_for(|condition| condition.identity.is_some());
        // Cancel-safe: a lost wait is made again.
        match tokio::time::timeout(COMPLAINT, wait).await {
            Ok(Ok(condition)) => return Ok(Some(condition.clone())),
            // The stop ends the runtime's task too, and its end may be seen before the stop.
            Ok(Err(_)) if shutdown.is_cancelled() => return Ok(None),
            Ok(Err(_)) => anyhow::bail!("the runtime's task has ended"),
            Err(_) => {}
        }
        let problem = condition.borrow().last_error.as_ref().map(ToString::to_string);
        warn!(
            endpoint,
            error = problem,
            "waiting for the container runtime: is containerd running?"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::first_answer;
    use crate::cri::RuntimeCondition;

    #[tokio::test]
    async fn a_stop_before_the_runtime_answers_is_no_failure() {
        let (sender, mut condition) = watch::channel(RuntimeCondition::default());
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        // The runtime's task has seen the stop first.
        drop(sender);
        let answer = first_answer(&mut condition, "unix:///x", &shutdown).await;
        assert!(matches!(answer, Ok(None)), "{answer:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_runtimes_task_is_a_failure() {
        let (sender, mut condition) = watch::channel(RuntimeCondition::default());
        drop(sender);
        first_answer(&mut condition, "unix:///x", &CancellationToken::new())
            .await
            .expect_err("nobody asked for the end");
    }
}
