//! Starts what stands around the pods: sources, desired pods, volumes, user namespaces, and the
//! housekeeping of images and logs.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::ApiParts;
use crate::apiserver::claims;
use crate::daemon::tasks::Tasks;
use crate::daemon::{Core, Kubelet, stuck_volumes, subordinate_ids};
use crate::dispatch::{PodView, PodsHandle};
use crate::model::pod;
use crate::pods::logs;
use crate::pods::user_namespaces::UserNamespaces;
use crate::volumes::mounter::Mounter;
use crate::{desired, images, sources, volumes};

impl Core {
    /// Starts every source of pods, and the merged view of them.
    pub(in crate::daemon) fn start_sources(
        &self,
        tasks: &mut Tasks,
        api: &ApiParts,
    ) -> anyhow::Result<(desired::Handle, mpsc::Receiver<desired::Change>)> {
        let loaded = &self.loaded;
        let name = &self.identity.name;
        let mut all = Vec::new();
        if let Some(config) = sources::manifests::Config::from_loaded(loaded, name) {
            let recorder = self.recorder.clone();
            let (source, task) = sources::manifests::new(config, recorder, self.clock);
            tasks.run("manifests", task);
            all.push(source);
        }
        if let Some(config) = sources::http::Config::from_loaded(loaded, name)? {
            let (source, task) = sources::http::new(config, self.clock);
            tasks.run("manifests over HTTP", task);
            all.push(source);
        }
        if let Some(clients) = &self.clients {
            let node = self.loaded.config.register_node.then(|| api.node.clone());
            let (source, task) = sources::apiserver::new(clients, node, self.clock);
            tasks.run("pods of the API server", task);
            all.push(source);
        }

        let mirrors = self.clients.as_ref().map(|clients| desired::MirrorSetup {
            clients: clients.clone(),
            node: api.node.clone(),
        });
        let deps = desired::Deps {
            sources: all,
            mirrors,
            recorder: self.recorder.clone(),
            clock: self.clock,
        };
        let (desired, changes, task) = desired::new(deps);
        tasks.run("desired", task);
        Ok((desired, changes))
    }
}

impl<M: Mounter> Kubelet<M> {
    /// Starts the owner of what is mounted, and the reports of what it cannot remove.
    pub(in crate::daemon) fn start_volumes(
        &self,
        tasks: &mut Tasks,
        api: &ApiParts,
        csi: volumes::Csi,
    ) -> volumes::Handle {
        let claims =
            self.core.clients.as_ref().map(|clients| claims::new(clients, api.node.clone()));
        let sources = volumes::Sources {
            objects: api.objects.clone(),
            tokens: api.tokens.clone(),
            claims: Arc::new(claims),
        };
        let allocatable = self.core.identity.allocatable(&self.core.loaded);
        let config = volumes::Config::from_loaded(&self.core.loaded, &allocatable);
        let recorder = self.core.recorder.clone();
        let mounter = self.machine.mounter.clone();
        let deps = volumes::Deps { sources, csi, mounter, recorder, clock: self.core.clock };
        let (volumes, task) = volumes::new(config, deps);
        volumes.measure(&self.core.metrics);
        tasks.run("volumes", task);

        stuck_volumes::register(&self.core.metrics, volumes.swept());
        let node = self.core.identity.name.clone();
        let reports = stuck_volumes::report(volumes.swept(), node, self.core.recorder.clone());
        tasks.run("stuck volumes", reports);
        volumes
    }

    /// Reads from the disk which ids the users of pods have.
    pub(in crate::daemon) async fn user_namespaces(&self) -> anyhow::Result<UserNamespaces> {
        let ids = subordinate_ids::ids(&self.core.loaded.config).await?;
        let paths = volumes::Paths::from(&self.core.loaded);
        Ok(crate::linux::blocking::spawn(move || UserNamespaces::new(ids, paths)).await?)
    }

    /// Starts what keeps the node's disk from filling up: the collection of unused images, and the
    /// rotation of logs. Returns the handle by which more images are deleted.
    pub(in crate::daemon) fn start_housekeeping(
        &self,
        tasks: &mut Tasks,
        images: images::Handle,
        pods: &PodsHandle,
    ) -> images::gc::Handle {
        let views = pods.clone();
        let wanted = move || {
            views.views().iter().filter(|view| view.is_active()).flat_map(images_of).collect()
        };
        let (handle, collector) = images::gc::Collector::new(
            images,
            images::gc_plan::Policy::from(&self.core.loaded),
            self.core.identity.name.clone(),
            Arc::new(wanted),
        );
        tasks.run("image collection", collector.run());

        if let Some(policy) = logs::Policy::from_loaded(&self.core.loaded) {
            let runtime = self.runtime.clone();
            let rotator = logs::Rotator::new(policy, pods.clone(), runtime, self.core.clock);
            tasks.run("log rotation", rotator.run());
        }
        handle
    }
}

/// Lists the images that a pod refers to: of its containers, and of its image volumes.
fn images_of(view: &PodView) -> Vec<String> {
    let spec = view.pod.spec.as_ref();
    let volumes = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mounted = volumes.iter().filter_map(|volume| volume.image.as_ref()?.reference.clone());
    let containers = pod::main_containers(&view.pod).iter().chain(pod::init_containers(&view.pod));
    containers.filter_map(|container| container.image.clone()).chain(mounted).collect()
}
