//! Starts what talks to the runtime: its condition, PLEG, images, cgroups, the resource manager.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apiserver::{resource_claims, tokens};
use crate::daemon::Core;
use crate::daemon::tasks::Tasks;
use crate::linux::machine;
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
}

impl<M: Mounter> Core<M> {
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
        let (mut condition, task) = cri::condition::new(runtime, self.clock, look_again);
        tasks.run("runtime condition", task);

        let endpoint = &self.loaded.config.container_runtime_endpoint;
        let Some(answer) = first_answer(&mut condition, endpoint, &self.shutdown).await? else {
            return Ok(None);
        };
        if let Some(identity) = &answer.identity {
            info!(runtime = identity.node_info(), "container runtime answers");
        }

        let driver = answer.cgroup_driver;
        let cgroups = resources::PodCgroups::from_loaded(&self.loaded, driver)?;
        if let Some(cgroups) = &cgroups {
            self.limit_node(cgroups, tasks).await?;
        }

        let observer = pleg::metrics::observer(&self.metrics);
        let (pleg, task) = pleg::new(self.runtime.clone(), self.clock, observer);
        tasks.run("pleg", task);
        let health = pleg::health(pleg.clone(), self.clock, self.health.clone());
        tasks.run("health", health);

        let images = images::Handle::new(
            images::Config { plugins: self.plugins(), ..images::Config::from(&self.loaded) },
            self.runtime.clone(),
            self.clock,
            self.recorder.clone(),
            images::metrics::observer(&self.metrics),
        );
        if let Err(error) = images.recover_records().await {
            warn!(%error, "records of images that were pulled before could not be checked");
        }

        let folder = self.machine.device_plugins_dir.clone();
        let claims = self.clients.as_ref().map(resource_claims::new);
        let (manager, task) = resources::manager::new(folder, claims, self.clock);
        tasks.run("resource manager", task);
        Ok(Some(RuntimeParts { pleg, condition, images, cgroups, manager }))
    }

    /// Makes the credential provider plug-ins of the configuration.
    fn plugins(&self) -> images::Plugins {
        let Some(configured) = &self.loaded.credential_providers else {
            return images::Plugins::default();
        };
        let accounts: Box<dyn images::plugins::Accounts> = match &self.clients {
            None => Box::new(images::plugins::NoAccounts),
            Some(clients) => {
                let tokens = tokens::new(clients, self.clock);
                Box::new(images::plugins::ApiAccounts::new(clients, tokens))
            }
        };
        let observer = images::metrics::plugin_observer(&self.metrics, &configured.hash);
        images::Plugins::new(configured, accounts, self.clock, &observer)
    }

    /// Makes the cgroups of all pods and has the node's limits enforced. The limit of all pods may
    /// be refused for a while; one of reserved daemons must not.
    async fn limit_node(
        &self,
        cgroups: &resources::PodCgroups,
        tasks: &mut Tasks,
    ) -> anyhow::Result<()> {
        let machine = resources::node_limits::Machine {
            cores: self.identity.machine.cores,
            cpus: machine::cpus(),
            memory: self.identity.machine.memory,
            pids: machine::processes(),
        };
        let limits = resources::NodeLimits::from_loaded(&self.loaded, &machine);
        cgroups.setup(limits.pods.clone()).await.context("setting up the cgroups of pods")?;
        let enforcer = resources::node_limits::Enforcer {
            cgroups: cgroups.clone(),
            limits,
            recorder: self.recorder.clone(),
            node_name: self.identity.name.clone(),
        };
        enforcer.enforce_reserved().await?;
        let stop = self.shutdown.clone();
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
