//! The devices of every resource, and who has them. Pure: time is an argument.
//!
//! A plugin that goes leaves its devices as unhealthy ones; after [`GRACE`] the resource counts as
//! zero. What containers have they keep, until their pod is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use super::error::DeviceError;
use super::v1beta1::ContainerAllocateResponse;
use super::{Answer, Call, Figures, Health, PodHealth, Request};
use crate::model::{Mono, PodUid};
use crate::resources::manager::Allocation;
use crate::resources::manager::provider::{Ask, Hint, Provider, Step};

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
pub struct Grant {
    /// The devices, with the NUMA nodes that they are near to.
    pub devices: BTreeMap<String, Vec<i64>>,
    /// What the plugin said; `None` until it has answered.
    pub response: Option<ContainerAllocateResponse>,
}

/// By container, then by resource.
pub type PodGrants = BTreeMap<String, BTreeMap<String, Grant>>;

/// Everything known of devices.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    resources: BTreeMap<String, Resource>,
    pods: BTreeMap<PodUid, PodGrants>,
}

/// What a container lacks of a resource.
#[derive(Clone, Debug, PartialEq)]
enum Need {
    /// Nothing: no plugin has ever offered the resource, or the container has it already.
    Nothing,
    /// Some of these.
    Some {
        /// Healthy and free.
        free: BTreeSet<String>,
        /// Healthy, and those of init containers that are over by then: they go first.
        first: BTreeSet<String>,
    },
}

impl Inventory {
    /// What was known before the kubelet's start.
    pub fn restored(
        resources: impl IntoIterator<Item = String>,
        pods: BTreeMap<PodUid, PodGrants>,
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

    /// Returns capacity and allocatable. A resource that was known once stays listed, as zero in
    /// the end: one that is left out would keep its last value in the Node's status.
    pub fn figures(&self) -> Figures {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let figure = |known: &Resource| {
            let healthy = known.devices.values().filter(|device| device.healthy).count();
            (count(known.devices.len()), count(healthy))
        };
        self.resources.iter().map(|(name, known)| (name.clone(), figure(known))).collect()
    }

    /// The health of the devices that containers have. A device that no list has counts as healthy,
    /// as with upstream: its plugin has yet to come.
    pub fn health(&self) -> Health {
        let of_device = |resource: &str, id: &String| {
            let known = self.resources.get(resource).and_then(|known| known.devices.get(id));
            let is_healthy = known.is_none_or(|device| device.healthy);
            api::ResourceHealth {
                health: Some(if is_healthy { "Healthy" } else { "Unhealthy" }.to_owned()),
                message: None,
                resource_id: id.clone(),
            }
        };
        let of_container = |grants: &BTreeMap<String, Grant>| {
            let given = grants.iter().filter(|(_, grant)| grant.response.is_some());
            let statuses = given.map(|(resource, grant)| api::ResourceStatus {
                name: resource.clone(),
                resources: Some(grant.devices.keys().map(|id| of_device(resource, id)).collect()),
            });
            statuses.collect::<Vec<_>>()
        };
        let of_pod = |containers: &PodGrants| -> PodHealth {
            let statuses =
                containers.iter().map(|(name, grants)| (name.clone(), of_container(grants)));
            statuses.filter(|(_, statuses)| !statuses.is_empty()).collect()
        };
        let pods = self.pods.iter().map(|(uid, containers)| (uid.clone(), of_pod(containers)));
        let pods = pods.filter(|(_, health)| !health.is_empty());
        pods.map(|(uid, health)| (uid, Arc::new(health))).collect()
    }

    /// The devices that the container has of each resource that plugins offer or that it was given;
    /// none for what it lacks. The error is about a resource whose plugin has gone for good.
    pub fn held(
        &self,
        ask: &Ask,
    ) -> Result<BTreeMap<String, Option<BTreeSet<String>>>, DeviceError> {
        let request = Request::new(ask);
        let mut held = BTreeMap::new();
        for resource in request.wanted.keys() {
            let known = self.known(resource);
            let own = self.granted(&request, resource);
            if known.is_none() && (own.is_some() || self.is_given(resource)) {
                return Err(DeviceError::NoPlugin(resource.clone()));
            }
            if known.is_some() {
                let devices = own.map(|own| own.devices.keys().cloned().collect());
                held.insert(resource.clone(), devices);
            }
        }
        Ok(held)
    }

    /// How many devices of each resource pods have.
    pub fn given(&self) -> BTreeMap<String, i64> {
        let mut given: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
        for (resource, grant) in self.pods.values().flat_map(BTreeMap::values).flatten() {
            given.entry(resource.clone()).or_default().extend(grant.devices.keys());
        }
        let count = |devices: BTreeSet<&String>| i64::try_from(devices.len()).unwrap_or(i64::MAX);
        given.into_iter().map(|(resource, devices)| (resource, count(devices))).collect()
    }

    /// What the container lacks of a resource, or why it cannot have it, in upstream's order.
    fn need(&self, request: &Request, resource: &str, count: usize) -> Result<Need, DeviceError> {
        let own = self.granted(request, resource);
        if let Some(own) = own.filter(|own| own.devices.len() != count) {
            return Err(DeviceError::Changed {
                uid: request.uid.to_string(),
                container: request.container.clone(),
                resource: resource.to_owned(),
                has: own.devices.len(),
                asks: count,
            });
        }
        if request.running {
            // The kubelet has started anew: what runs has its devices.
            return Ok(Need::Nothing);
        }

        let Some(known) = self.known(resource) else {
            if own.is_some() || self.is_given(resource) {
                return Err(DeviceError::Unregistered(resource.to_owned()));
            }
            return Ok(Need::Nothing);
        };
        let healthy: BTreeSet<&String> =
            known.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id).collect();
        if healthy.is_empty() {
            return Err(DeviceError::NoneHealthy(resource.to_owned()));
        }
        if let Some(own) = own {
            if own.devices.keys().all(|id| healthy.contains(id)) {
                return Ok(Need::Nothing);
            }
            return Err(DeviceError::NoLongerHealthy(resource.to_owned()));
        }

        let (reusable, kept) = self.of_pod(request, resource);
        let taken = self.taken_by_others(&request.uid, resource);
        let is_free = |id: &&String| !taken.contains(*id) && !kept.contains(*id);
        let (first, free): (BTreeSet<String>, BTreeSet<String>) =
            healthy.into_iter().filter(is_free).cloned().partition(|id| reusable.contains(id));
        let needed = count.saturating_sub(first.len());
        if free.len() < needed {
            let free = free.len();
            return Err(DeviceError::TooFew { resource: resource.to_owned(), needed, free });
        }
        Ok(Need::Some { free, first })
    }

    /// Sets devices aside for the container: of what is free those of its init containers, then
    /// those that the plugin prefers, then any.
    fn set_aside(
        &mut self,
        request: &Request,
        resource: &str,
        wished: impl Iterator<Item = String>,
        count: usize,
    ) -> BTreeSet<String> {
        let mut chosen = BTreeSet::new();
        for id in wished {
            if chosen.len() < count {
                chosen.insert(id);
            }
        }
        let known = self.resources.get(resource);
        let nodes = |id: &String| {
            known.and_then(|known| known.devices.get(id)).map_or(Vec::new(), |d| d.nodes.clone())
        };
        let devices = chosen.iter().map(|id| (id.clone(), nodes(id))).collect();
        let pod = self.pods.entry(request.uid.clone()).or_default();
        let grant = Grant { devices, response: None };
        pod.entry(request.container.clone()).or_default().insert(resource.to_owned(), grant);
        chosen
    }

    /// The plugin has answered for what was set aside; `None`: it refused.
    fn answered(
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

    /// What is worth keeping: allocations that plugins have answered, and the healthy devices of
    /// each resource.
    pub fn allocations(&self) -> &BTreeMap<PodUid, PodGrants> {
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

    /// The resource, unless its plugin has gone for good.
    fn known(&self, resource: &str) -> Option<&Resource> {
        self.resources.get(resource).filter(|known| known.plugin != Plugin::Forgotten)
    }

    /// Whether any pod has a device of the resource.
    fn is_given(&self, resource: &str) -> bool {
        let given = |grant: &Grant| grant.response.is_some();
        let mut containers = self.pods.values().flat_map(BTreeMap::values);
        containers.any(|container| container.get(resource).is_some_and(given))
    }

    /// What the container has of a resource, once its plugin has agreed.
    fn granted(&self, request: &Request, resource: &str) -> Option<&Grant> {
        let own = self.grant(&request.uid, &request.container, resource);
        own.filter(|own| own.response.is_some())
    }

    fn grant(&self, uid: &PodUid, container: &str, resource: &str) -> Option<&Grant> {
        self.pods.get(uid)?.get(container)?.get(resource)
    }

    /// What containers of the pod have that are over by the time this one runs, and what the others
    /// keep.
    fn of_pod(&self, request: &Request, resource: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let of = |containers: &[String]| -> BTreeSet<String> {
            let allocations =
                containers.iter().filter_map(|name| self.grant(&request.uid, name, resource));
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

impl Provider for Inventory {
    fn hints(&self, ask: &Ask, nodes: &BTreeSet<i64>) -> BTreeMap<String, Vec<Hint>> {
        let request = Request::new(ask);
        let mut hints = BTreeMap::new();
        for (resource, count) in &request.wanted {
            let has_nodes =
                |known: &&Resource| known.devices.values().any(|device| !device.nodes.is_empty());
            let Some(known) = self.known(resource).filter(has_nodes) else { continue };
            if self.granted(&request, resource).is_some() {
                continue;
            }
            let found = match self.need(&request, resource, *count) {
                Ok(Need::Nothing) => continue,
                Ok(Need::Some { free, first }) => {
                    hints_from(known, &free.union(&first).cloned().collect(), *count, nodes)
                }
                Err(_) => Vec::new(),
            };
            hints.insert(resource.clone(), found);
        }
        hints
    }

    fn allocate(
        &mut self,
        ask: &Ask,
        affinity: Option<&BTreeSet<i64>>,
        answer: Option<Answer>,
    ) -> Result<Step, DeviceError> {
        let request = Request::new(ask);
        let mut preferred = None;
        match answer {
            None => {}
            Some(Answer::Preferred { resource, devices }) => preferred = Some((resource, devices)),
            Some(Answer::Allocated { resource, response }) => {
                self.answered(&request, &resource, Some(response));
            }
            Some(Answer::Refused { resource, problem }) => {
                self.answered(&request, &resource, None);
                return Err(problem);
            }
        }

        for (resource, &count) in &request.wanted {
            let (free, first) = match self.need(&request, resource, count)? {
                Need::Nothing => continue,
                Need::Some { free, first } => (free, first),
            };
            let (near, far) = self.by_affinity(resource, free, affinity);
            let wish = preferred.take().filter(|(about, _)| about == resource);
            if wish.is_none() && first.len() < count {
                // Of enough near devices the plugin chooses among those only.
                let needed = count - first.len();
                let own: &[&BTreeSet<String>] =
                    if needed < near.len() { &[&near, &first] } else { &[&near, &far, &first] };
                return Ok(Step::Call(Call::Prefer {
                    resource: resource.clone(),
                    available: own.iter().copied().flatten().cloned().collect(),
                    included: first,
                    count,
                }));
            }
            let wish = wish.map(|(_, devices)| devices).unwrap_or_default();
            let is_free = |id: &&String| near.contains(*id) || far.contains(*id);
            let wish: Vec<String> = if first.len() + near.len() > count {
                wish.intersection(&near).cloned().collect()
            } else {
                near.iter().chain(wish.iter().filter(is_free)).cloned().collect()
            };
            let wished = first.into_iter().chain(wish).chain(near).chain(far);
            let devices = self.set_aside(&request, resource, wished, count);
            return Ok(Step::Call(Call::Allocate { resource: resource.clone(), devices }));
        }
        Ok(Step::Done)
    }

    fn add_to(&self, uid: &PodUid, container: &str, allocation: &mut Allocation) {
        let container = self.pods.get(uid).and_then(|pod| pod.get(container));
        for response in
            container.into_iter().flat_map(BTreeMap::values).filter_map(|own| own.response.as_ref())
        {
            // Of two that say something of the same name or path the first counts.
            for (name, value) in &response.envs {
                allocation.envs.entry(name.clone()).or_insert_with(|| value.clone());
            }
            for mount in &response.mounts {
                let value = || (mount.host_path.clone(), mount.read_only);
                allocation.mounts.entry(mount.container_path.clone()).or_insert_with(value);
            }
            for device in &response.devices {
                let value = || (device.host_path.clone(), device.permissions.clone());
                allocation.devices.entry(device.container_path.clone()).or_insert_with(value);
            }
            for (name, value) in &response.annotations {
                allocation.annotations.entry(name.clone()).or_insert_with(|| value.clone());
            }
            for device in &response.cdi_devices {
                if !allocation.cdi.contains(&device.name) {
                    allocation.cdi.push(device.name.clone());
                }
            }
        }
    }

    fn forget(&mut self, uid: &PodUid) -> bool {
        self.pods.remove(uid).is_some()
    }
}

impl Inventory {
    /// The free devices that are near to a node of `affinity`, and the others.
    fn by_affinity(
        &self,
        resource: &str,
        free: BTreeSet<String>,
        affinity: Option<&BTreeSet<i64>>,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let Some(affinity) = affinity else { return (BTreeSet::new(), free) };
        let known = self.known(resource);
        let device = |id: &String| known.and_then(|known| known.devices.get(id));
        let is_near = |id: &String| {
            device(id).is_some_and(|device| device.nodes.iter().any(|n| affinity.contains(n)))
        };
        free.into_iter().partition(is_near)
    }
}

/// The sets of nodes that have enough of the `free` devices. The smallest sets that would be enough
/// with every device free are preferred.
fn hints_from(
    known: &Resource,
    free: &BTreeSet<String>,
    count: usize,
    nodes: &BTreeSet<i64>,
) -> Vec<Hint> {
    let has =
        |set: &BTreeSet<i64>, device: &Device| device.nodes.iter().any(|node| set.contains(node));
    let all = |set: &BTreeSet<i64>| known.devices.values().filter(|d| has(set, d)).count();
    let now = |set: &BTreeSet<i64>| {
        free.iter().filter_map(|id| known.devices.get(id)).filter(|d| has(set, d)).count()
    };
    let sets: Vec<BTreeSet<i64>> = subsets(nodes);
    let smallest = sets.iter().filter(|set| all(set) >= count).map(BTreeSet::len).min();
    sets.into_iter()
        .filter(|set| now(set) >= count)
        .map(|nodes| Hint { preferred: Some(nodes.len()) == smallest, nodes })
        .collect()
}

/// All sets of the nodes but the empty one. A machine has at most a few nodes.
fn subsets(nodes: &BTreeSet<i64>) -> Vec<BTreeSet<i64>> {
    let mut sets = vec![BTreeSet::new()];
    for node in nodes {
        let with: Vec<BTreeSet<i64>> = sets
            .iter()
            .cloned()
            .map(|mut set| {
                set.insert(*node);
                set
            })
            .collect();
        sets.extend(with);
    }
    sets.retain(|set| !set.is_empty());
    sets
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::resources::devices::error::PluginError;

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

    /// A container of a pod with an init container `init`, a sidecar `side` and a main container
    /// `main`.
    fn ask(uid: &str, container: &str, count: usize) -> Ask {
        let named = |name: &str| {
            let mut limits = json!({});
            if name == container {
                limits["a/b"] = json!(count.to_string());
            }
            json!({"name": name, "resources": {"limits": limits}})
        };
        let mut side = named("side");
        side["restartPolicy"] = json!("Always");
        let pod: Arc<crate::model::Pod> = Arc::new(
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {
                "initContainers": [named("init"), side], "containers": [named("main")]}}))
            .expect("a pod"),
        );
        let own = serde_json::from_value(named(container)).expect("a container");
        Ask { pod, container: own, running: false }
    }

    /// Plays a plugin that prefers `wish`: the devices that the container is given, or why it is
    /// given none.
    fn wishing(inventory: &mut Inventory, ask: &Ask, wish: &[&str]) -> String {
        let mut answer = None;
        let mut given = BTreeSet::new();
        loop {
            match inventory.allocate(ask, None, answer.take()) {
                Err(problem) => return problem.to_string(),
                Ok(Step::Done) => return Vec::from_iter(given).join(" "),
                Ok(Step::Call(Call::Prefer { resource, .. })) => {
                    let devices = wish.iter().map(|&id| id.to_owned()).collect();
                    answer = Some(Answer::Preferred { resource, devices });
                }
                Ok(Step::Call(Call::Allocate { resource, devices })) => {
                    given = devices;
                    let response = ContainerAllocateResponse::default();
                    answer = Some(Answer::Allocated { resource, response });
                }
            }
        }
    }

    fn take(inventory: &mut Inventory, ask: &Ask) -> String {
        wishing(inventory, ask, &[])
    }

    fn holds(inventory: &Inventory, ask: &Ask) -> String {
        let held = inventory.held(ask).map(|held| held.get("a/b").cloned().flatten());
        match held {
            Ok(devices) => devices.map_or("none".into(), |ids| Vec::from_iter(ids).join(" ")),
            Err(problem) => problem.to_string(),
        }
    }

    fn offering(ids: &[(&str, bool)]) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.connected("a/b", 1);
        inventory.listed("a/b", 1, devices(ids));
        inventory
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
    fn says_how_devices_that_containers_have_are() {
        let mut inventory = offering(&[("1", true), ("2", true), ("3", true)]);
        assert!(inventory.health().is_empty(), "no container has any");
        take(&mut inventory, &ask("p", "main", 2));
        let health = |inventory: &Inventory| {
            let pod = inventory.health().remove(&PodUid::new("p")).expect("a pod");
            let resource = pod["main"][0].clone();
            let devices = resource.resources.into_iter().flatten();
            let devices = devices.map(|device| (device.resource_id, device.health));
            let text = |(id, health): (String, Option<String>)| {
                format!("{id} {}", health.unwrap_or_default())
            };
            devices.map(text).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(health(&inventory), "1 Healthy, 2 Healthy");
        inventory.listed("a/b", 1, devices(&[("1", false), ("2", true), ("3", false)]));
        assert_eq!(health(&inventory), "1 Unhealthy, 2 Healthy");
        inventory.listed("a/b", 1, devices(&[("2", true)]));
        assert_eq!(health(&inventory), "1 Healthy, 2 Healthy", "one that no list has");
        inventory.disconnected("a/b", 1, at(10));
        assert_eq!(health(&inventory), "1 Healthy, 2 Unhealthy");
    }

    #[test]
    fn gives_each_device_once() {
        let mut inventory = offering(&[("1", true), ("2", true), ("3", false), ("4", true)]);
        let main = ask("p", "main", 1);
        assert_eq!(holds(&inventory, &main), "none");
        assert_eq!(take(&mut inventory, &main), "1");
        assert_eq!(take(&mut inventory, &main), "", "it has it already");
        assert_eq!(holds(&inventory, &main), "1");
        assert_eq!(take(&mut inventory, &ask("q", "main", 2)), "2 4");
        assert_eq!(inventory.given()["a/b"], 3);
        assert_eq!(
            take(&mut inventory, &ask("r", "main", 1)),
            "requested number of devices unavailable for a/b. Requested: 1, Available: 0"
        );
        assert!(inventory.forget(&PodUid::new("p")));
        assert_eq!(take(&mut inventory, &ask("r", "main", 1)), "1");
        assert_eq!(
            take(&mut inventory, &ask("r", "main", 2)),
            "pod \"r\" container \"main\" changed request for resource \"a/b\" from 1 to 2"
        );
    }

    #[test]
    fn what_a_plugin_that_went_has_given_is_kept_and_no_new_pod_gets_it() {
        let mut inventory = offering(&[("1", true), ("2", true)]);
        let main = ask("p", "main", 1);
        assert_eq!(take(&mut inventory, &main), "1");
        inventory.disconnected("a/b", 1, at(1));
        assert_eq!(holds(&inventory, &main), "1", "a restart keeps it");
        let unhealthy = "no healthy devices present; cannot allocate unhealthy devices a/b";
        assert_eq!(take(&mut inventory, &ask("q", "main", 1)), unhealthy);

        // A kubelet that starts anew, before the plugin has come back.
        let running = Ask { running: true, ..main.clone() };
        assert_eq!(take(&mut inventory, &running), "", "what runs has its devices");
        assert_eq!(take(&mut inventory, &main), unhealthy, "the node has started anew, too");
        inventory.connected("a/b", 2);
        inventory.listed("a/b", 2, devices(&[("1", false), ("2", true)]));
        assert_eq!(
            take(&mut inventory, &main),
            "previously allocated devices are no longer healthy; cannot allocate unhealthy devices a/b"
        );
        inventory.disconnected("a/b", 2, at(2));
        inventory.expire(at(1000));
        let gone = "cannot allocate unregistered device a/b";
        assert_eq!(take(&mut inventory, &main), gone);
        assert_eq!(take(&mut inventory, &ask("q", "main", 1)), gone);
        assert_eq!(
            holds(&inventory, &main),
            "endpoint not found in cache for a registered resource: a/b"
        );
        inventory.forget(&PodUid::new("p"));
        assert_eq!(take(&mut inventory, &main), "", "nobody's resource is not ours to give");
    }

    #[test]
    fn hands_on_what_init_containers_had() {
        let mut inventory = offering(&[("1", true), ("2", true), ("3", true)]);
        assert_eq!(take(&mut inventory, &ask("q", "main", 1)), "1");
        assert_eq!(take(&mut inventory, &ask("p", "init", 1)), "2");
        assert_eq!(take(&mut inventory, &ask("p", "side", 1)), "2");
        assert_eq!(take(&mut inventory, &ask("p", "main", 1)), "3", "a sidecar keeps what it has");

        let mut few = offering(&[("1", true), ("2", true)]);
        assert_eq!(take(&mut few, &ask("p", "init", 1)), "1");
        assert_eq!(
            take(&mut few, &ask("p", "main", 3)),
            "requested number of devices unavailable for a/b. Requested: 2, Available: 1",
            "what the init container had is not counted"
        );
    }

    #[test]
    fn follows_the_plugins_wish() {
        let mut inventory = offering(&[("1", true), ("2", true)]);
        let main = ask("p", "main", 1);
        assert_eq!(wishing(&mut inventory, &main, &["2", "9"]), "2");
        inventory.forget(&PodUid::new("p"));

        let set_aside = Answer::Preferred { resource: "a/b".into(), devices: BTreeSet::new() };
        let step = inventory.allocate(&main, None, Some(set_aside)).expect("a call");
        assert!(matches!(step, Step::Call(Call::Allocate { .. })), "{step:?}");
        let problem = DeviceError::from(PluginError::NoContainers);
        let refused = Answer::Refused { resource: "a/b".into(), problem };
        let error = inventory.allocate(&main, None, Some(refused)).expect_err("refused");
        assert_eq!(error.to_string(), "no containers return in allocation response {}");
        assert_eq!(take(&mut inventory, &main), "1", "after a refusal nothing is set aside");
    }

    fn on_nodes(ids: &[(&str, &[i64])]) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.connected("a/b", 1);
        let device = |nodes: &[i64]| Device { healthy: true, nodes: nodes.to_vec() };
        let list = ids.iter().map(|(id, nodes)| ((*id).to_owned(), device(nodes))).collect();
        inventory.listed("a/b", 1, list);
        inventory
    }

    #[test]
    fn hints_at_the_nodes_that_have_enough() {
        let mut inventory = on_nodes(&[("1", &[0]), ("2", &[0]), ("3", &[1]), ("4", &[])]);
        let nodes = BTreeSet::from([0, 1]);
        let hints = |inventory: &Inventory, count| {
            let found = inventory.hints(&ask("p", "main", count), &nodes).remove("a/b");
            let show = |hint: Hint| (Vec::from_iter(hint.nodes), hint.preferred);
            found.unwrap_or_default().into_iter().map(show).collect::<Vec<_>>()
        };
        assert_eq!(hints(&inventory, 2), [(vec![0], true), (vec![0, 1], false)]);
        assert_eq!(take(&mut inventory, &ask("q", "main", 1)), "1");
        assert_eq!(hints(&inventory, 2), [(vec![0, 1], false)], "one is taken");
        assert_eq!(hints(&inventory, 4), [], "it cannot be had");
        let indifferent = offering(&[("1", true)]).hints(&ask("p", "main", 1), &nodes);
        assert!(indifferent.is_empty(), "devices without nodes have no preference");
    }

    #[test]
    fn devices_near_to_the_chosen_nodes_go_first() {
        let mut inventory = on_nodes(&[("1", &[0]), ("2", &[1]), ("3", &[1])]);
        let affinity = BTreeSet::from([1]);
        let main = ask("p", "main", 1);
        let step = inventory.allocate(&main, Some(&affinity), None).expect("a step");
        let Step::Call(Call::Prefer { resource, available, .. }) = step else {
            panic!("no such call")
        };
        assert_eq!(Vec::from_iter(available), ["2", "3"]);
        let wish = Answer::Preferred { resource, devices: ["1".to_owned(), "3".to_owned()].into() };
        let step = inventory.allocate(&main, Some(&affinity), Some(wish)).expect("a step");
        let Step::Call(Call::Allocate { devices, .. }) = step else { panic!("no such call") };
        assert_eq!(Vec::from_iter(devices), ["3"]);
    }
}
