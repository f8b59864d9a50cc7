//! The devices of every resource, and who has them. Pure: time is an argument.
//!
//! A plugin that goes leaves its devices as unhealthy ones; after [`GRACE`] the resource counts as
//! zero. What containers have they keep, until their pod is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::v1beta1::ContainerAllocateResponse;
use super::{DeviceOptions, Figures, Request};
use crate::model::{Mono, PodUid};

/// How long a plugin that went may take to come back.
pub const GRACE: Duration = Duration::from_secs(300);

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Whether a container may get it.
    pub healthy: bool,
    /// The NUMA nodes that it is near to.
    pub nodes: Vec<i64>,
}

/// What a plugin is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    /// It answers; the number tells it from one before it.
    Connected(u64),
    /// It went then.
    Stopped(Mono),
    /// It went so long ago that the resource counts as zero.
    Forgotten,
}

#[derive(Clone, Debug)]
struct Resource {
    plugin: Plugin,
    devices: BTreeMap<String, Device>,
}

/// What a container has of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// The devices, with the NUMA nodes that they are near to.
    pub devices: BTreeMap<String, Vec<i64>>,
    /// What the plugin said; `None` until it has answered.
    pub response: Option<ContainerAllocateResponse>,
}

/// By container, then by resource.
pub type PodAllocations = BTreeMap<String, BTreeMap<String, Allocation>>;

/// Everything known of devices.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    resources: BTreeMap<String, Resource>,
    pods: BTreeMap<PodUid, PodAllocations>,
}

/// What has to be done so that a container has a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// No plugin has ever offered it: it is not ours to give.
    None,
    /// It has it already.
    Has(BTreeSet<String>),
    /// It gets some of these.
    Some {
        /// Healthy and free, those of init containers included.
        available: BTreeSet<String>,
        /// Of them those that init containers had: they go first.
        first: BTreeSet<String>,
    },
}

impl Inventory {
    /// What was known before the kubelet's start.
    pub fn restored(
        resources: impl IntoIterator<Item = String>,
        pods: BTreeMap<PodUid, PodAllocations>,
        now: Mono,
    ) -> Self {
        let absent =
            |name| (name, Resource { plugin: Plugin::Stopped(now), devices: BTreeMap::new() });
        Self { resources: resources.into_iter().map(absent).collect(), pods }
    }

    /// A plugin has been taken on. Its devices come with the first list.
    pub fn connected(&mut self, resource: &str, generation: u64) {
        let known = self.resources.entry(resource.to_owned());
        known.or_insert(Resource { plugin: Plugin::Forgotten, devices: BTreeMap::new() }).plugin =
            Plugin::Connected(generation);
    }

    /// A plugin's list; one that a later plugin has replaced is not heard.
    pub fn listed(&mut self, resource: &str, generation: u64, devices: BTreeMap<String, Device>) {
        if let Some(known) =
            self.resources.get_mut(resource).filter(|r| r.plugin == Plugin::Connected(generation))
        {
            known.devices = devices;
        }
    }

    /// A plugin has gone.
    pub fn disconnected(&mut self, resource: &str, generation: u64, now: Mono) {
        if let Some(known) =
            self.resources.get_mut(resource).filter(|r| r.plugin == Plugin::Connected(generation))
        {
            known.plugin = Plugin::Stopped(now);
            known.devices.values_mut().for_each(|device| device.healthy = false);
        }
    }

    /// Lets go of resources whose plugin has been away too long; tells when the next one will be.
    pub fn expire(&mut self, now: Mono) -> Option<Mono> {
        let mut next: Option<Mono> = None;
        for known in self.resources.values_mut() {
            let Plugin::Stopped(since) = known.plugin else { continue };
            let end = since.after(GRACE);
            if now >= end {
                known.plugin = Plugin::Forgotten;
                known.devices.clear();
            } else {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        next
    }

    /// Capacity and allocatable. A resource that is known once is told for ever, as zero in the
    /// end: what is left out would stay in the Node's status.
    pub fn figures(&self) -> Figures {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let figure = |known: &Resource| {
            let healthy = known.devices.values().filter(|device| device.healthy).count();
            (count(known.devices.len()), count(healthy))
        };
        self.resources.iter().map(|(name, known)| (name.clone(), figure(known))).collect()
    }

    /// What the container lacks of a resource, or why it cannot have it.
    pub fn need(&self, request: &Request, resource: &str, count: usize) -> Result<Need, String> {
        let own = self.allocation(&request.uid, &request.container, resource);
        if let Some(own) = own.filter(|own| own.response.is_some()) {
            if own.devices.len() != count {
                let Request { uid, container, .. } = request;
                return Err(format!(
                    "pod {:?} container {container:?} changed request for resource {resource:?} from {} to {count}",
                    uid.as_str(),
                    own.devices.len()
                ));
            }
            return Ok(Need::Has(own.devices.keys().cloned().collect()));
        }
        let Some(known) =
            self.resources.get(resource).filter(|known| known.plugin != Plugin::Forgotten)
        else {
            return Ok(Need::None);
        };
        let healthy =
            known.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.clone());
        let healthy: BTreeSet<String> = healthy.collect();
        if healthy.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {resource}"
            ));
        }
        let (reusable, kept) = self.of_pod(request, resource);
        let taken = self.taken_by_others(&request.uid, resource);
        let free = |id: &String| !taken.contains(id) && !kept.contains(id);
        let available: BTreeSet<String> = healthy.into_iter().filter(free).collect();
        if available.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                available.len()
            ));
        }
        let first = reusable.intersection(&available).cloned().collect();
        Ok(Need::Some { available, first })
    }

    /// Sets devices aside for the container: of what is free those of its init containers, then
    /// those that the plugin prefers, then any.
    pub fn reserve(
        &mut self,
        request: &Request,
        resource: &str,
        count: usize,
        preferred: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        let (available, first) = match self.need(request, resource, count)? {
            Need::None => return Err(format!("cannot allocate unregistered device {resource}")),
            Need::Has(devices) => return Ok(devices),
            Need::Some { available, first } => (available, first),
        };
        let wished = first.iter().chain(preferred.intersection(&available)).chain(&available);
        let mut chosen = BTreeSet::new();
        for id in wished {
            if chosen.len() < count {
                chosen.insert(id.clone());
            }
        }
        let known = self.resources.get(resource);
        let nodes = |id: &String| {
            known.and_then(|known| known.devices.get(id)).map_or(Vec::new(), |d| d.nodes.clone())
        };
        let devices = chosen.iter().map(|id| (id.clone(), nodes(id))).collect();
        let pod = self.pods.entry(request.uid.clone()).or_default();
        let allocation = Allocation { devices, response: None };
        pod.entry(request.container.clone()).or_default().insert(resource.to_owned(), allocation);
        Ok(chosen)
    }

    /// The plugin has answered for what was set aside; `None`: it refused.
    pub fn answered(
        &mut self,
        request: &Request,
        resource: &str,
        response: Option<ContainerAllocateResponse>,
    ) {
        let Some(container) =
            self.pods.get_mut(&request.uid).and_then(|pod| pod.get_mut(&request.container))
        else {
            return;
        };
        match response {
            Some(_) => {
                if let Some(allocation) = container.get_mut(resource) {
                    allocation.response = response;
                }
            }
            None => {
                container.remove(resource);
            }
        }
    }

    /// What the container's devices come with.
    pub fn options(&self, request: &Request) -> DeviceOptions {
        let mut options = DeviceOptions::default();
        let container = self.pods.get(&request.uid).and_then(|pod| pod.get(&request.container));
        for response in
            container.into_iter().flat_map(BTreeMap::values).filter_map(|own| own.response.as_ref())
        {
            // Of two that say something of the same name or path the first counts.
            for (name, value) in &response.envs {
                options.envs.entry(name.clone()).or_insert_with(|| value.clone());
            }
            for mount in &response.mounts {
                let value = || (mount.host_path.clone(), mount.read_only);
                options.mounts.entry(mount.container_path.clone()).or_insert_with(value);
            }
            for device in &response.devices {
                let value = || (device.host_path.clone(), device.permissions.clone());
                options.devices.entry(device.container_path.clone()).or_insert_with(value);
            }
            for (name, value) in &response.annotations {
                options.annotations.entry(name.clone()).or_insert_with(|| value.clone());
            }
            for device in &response.cdi_devices {
                if !options.cdi.contains(&device.name) {
                    options.cdi.push(device.name.clone());
                }
            }
        }
        options
    }

    /// The pod is over. Tells whether it had anything.
    pub fn forget(&mut self, uid: &PodUid) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// What is worth keeping: allocations that plugins have answered, and the healthy devices of
    /// each resource.
    pub fn allocations(&self) -> &BTreeMap<PodUid, PodAllocations> {
        &self.pods
    }

    /// The healthy devices of each resource that counts.
    pub fn registered(&self) -> BTreeMap<String, Vec<String>> {
        let healthy = |known: &Resource| {
            known
                .devices
                .iter()
                .filter(|(_, device)| device.healthy)
                .map(|(id, _)| id.clone())
                .collect()
        };
        let counts = self.resources.iter().filter(|(_, known)| known.plugin != Plugin::Forgotten);
        counts.map(|(name, known)| (name.clone(), healthy(known))).collect()
    }

    fn allocation(&self, uid: &PodUid, container: &str, resource: &str) -> Option<&Allocation> {
        self.pods.get(uid)?.get(container)?.get(resource)
    }

    /// What containers of the pod have that are over by the time this one runs, and what the others
    /// keep.
    fn of_pod(&self, request: &Request, resource: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let of = |containers: &[String]| -> BTreeSet<String> {
            let allocations =
                containers.iter().filter_map(|name| self.allocation(&request.uid, name, resource));
            allocations.flat_map(|allocation| allocation.devices.keys().cloned()).collect()
        };
        let kept = of(&request.others);
        (of(&request.reusable).difference(&kept).cloned().collect(), kept)
    }

    fn taken_by_others(&self, uid: &PodUid, resource: &str) -> BTreeSet<String> {
        let others =
            self.pods.iter().filter(|(other, _)| *other != uid).flat_map(|(_, pod)| pod.values());
        let allocations = others.filter_map(|container| container.get(resource));
        allocations.flat_map(|allocation| allocation.devices.keys().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::default().after(Duration::from_secs(seconds))
    }

    fn devices(ids: &[(&str, bool)]) -> BTreeMap<String, Device> {
        ids.iter()
            .map(|(id, healthy)| {
                ((*id).to_owned(), Device { healthy: *healthy, nodes: Vec::new() })
            })
            .collect()
    }

    fn request(uid: &str, container: &str, count: usize) -> Request {
        Request {
            uid: PodUid::new(uid),
            container: container.to_owned(),
            wanted: [("a/b".to_owned(), count)].into(),
            reusable: vec!["init".to_owned()],
            others: ["main", "side"]
                .iter()
                .filter(|name| **name != container)
                .map(|&name| name.to_owned())
                .collect(),
        }
    }

    fn ids(chosen: Result<BTreeSet<String>, String>) -> String {
        chosen.map_or_else(
            |problem| problem,
            |chosen| chosen.into_iter().collect::<Vec<_>>().join(" "),
        )
    }

    fn take(inventory: &mut Inventory, request: &Request) -> String {
        let chosen = inventory.reserve(request, "a/b", request.wanted["a/b"], &BTreeSet::new());
        inventory.answered(request, "a/b", Some(ContainerAllocateResponse::default()));
        ids(chosen)
    }

    #[test]
    fn counts_a_plugin_through_its_life() {
        let mut inventory = Inventory::default();
        let check =
            |inventory: &Inventory, figures| assert_eq!(inventory.figures()["a/b"], figures);
        inventory.connected("a/b", 1);
        check(&inventory, (0, 0));
        inventory.listed("a/b", 1, devices(&[("x", true), ("y", false)]));
        check(&inventory, (2, 1));
        inventory.disconnected("a/b", 1, at(10));
        check(&inventory, (2, 0));
        assert_eq!(inventory.expire(at(20)), Some(at(310)));
        assert_eq!(inventory.expire(at(310)), None);
        check(&inventory, (0, 0));
        inventory.connected("a/b", 2);
        inventory.listed("a/b", 1, devices(&[("x", true)]));
        inventory.disconnected("a/b", 1, at(400));
        check(&inventory, (0, 0));
        inventory.listed("a/b", 2, devices(&[("x", true)]));
        check(&inventory, (1, 1));
    }

    #[test]
    fn gives_each_device_once() {
        let mut inventory = Inventory::default();
        inventory.connected("a/b", 1);
        inventory.listed("a/b", 1, devices(&[("1", true), ("2", true), ("3", false), ("4", true)]));
        let main = request("p", "main", 1);
        assert_eq!(take(&mut inventory, &main), "1");
        assert_eq!(take(&mut inventory, &main), "1", "a restart keeps it");
        assert_eq!(take(&mut inventory, &request("q", "main", 2)), "2 4");
        assert_eq!(
            take(&mut inventory, &request("r", "main", 1)),
            "requested number of devices unavailable for a/b. Requested: 1, Available: 0"
        );
        assert!(inventory.forget(&PodUid::new("p")));
        assert_eq!(take(&mut inventory, &request("r", "main", 1)), "1");
        inventory.disconnected("a/b", 1, at(1));
        assert_eq!(
            take(&mut inventory, &request("r", "main", 1)),
            "1",
            "kept when it becomes unhealthy"
        );
        let refused = take(&mut inventory, &request("s", "main", 1));
        assert_eq!(refused, "no healthy devices present; cannot allocate unhealthy devices a/b");
    }

    #[test]
    fn hands_on_what_init_containers_had() {
        let mut inventory = Inventory::default();
        inventory.connected("a/b", 1);
        inventory.listed("a/b", 1, devices(&[("1", true), ("2", true), ("3", true)]));
        assert_eq!(take(&mut inventory, &request("q", "main", 1)), "1");
        assert_eq!(take(&mut inventory, &request("p", "init", 1)), "2");
        assert_eq!(take(&mut inventory, &request("p", "side", 1)), "2");
        assert_eq!(
            take(&mut inventory, &request("p", "main", 1)),
            "3",
            "a sidecar keeps what it has"
        );
    }

    #[test]
    fn follows_the_plugins_wish() {
        let mut inventory = Inventory::default();
        inventory.connected("a/b", 1);
        inventory.listed("a/b", 1, devices(&[("1", true), ("2", true)]));
        let chosen = inventory.reserve(
            &request("p", "main", 1),
            "a/b",
            1,
            &["2".to_owned(), "9".to_owned()].into(),
        );
        assert_eq!(ids(chosen), "2");
        inventory.answered(&request("p", "main", 1), "a/b", None);
        assert_eq!(
            take(&mut inventory, &request("p", "main", 1)),
            "1",
            "after a refusal nothing is set aside"
        );
    }
}
