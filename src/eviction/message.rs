//! The words of an eviction: what pods, events and annotations say of its cause. Pure.
//!
//! All texts are upstream's.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::quantity::Quantity;
use super::rank::Candidate;
use super::signals::{Observations, Resource};
use super::thresholds::Threshold;
use crate::model::pod;
use crate::resources::list::{self, Column, MEMORY};
use crate::stats::usage::{ContainerUsage, PodUsage};

/// The annotation with the names of the containers that use more than they asked for.
const OFFENDING_CONTAINERS: &str = "offending_containers";
/// The annotation with what those use.
const OFFENDING_CONTAINERS_USAGE: &str = "offending_containers_usage";
/// The annotation with the pod's name, if it uses more than it asked for as a whole.
const OFFENDING_POD: &str = "offending_pod";
/// The annotation with what the pod uses.
const OFFENDING_POD_USAGE: &str = "offending_pod_usage";
/// The annotation with the resource that the node is short of.
const STARVED_RESOURCE: &str = "starved_resource";

/// The words of one eviction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The message of the pod's status, of its condition and of the event.
    pub message: String,
    /// The annotations of the event.
    pub annotations: BTreeMap<String, String>,
}

/// Describes the eviction of a pod for the sake of `resource`. `thresholds` are those that are due;
/// the first one about the resource is quoted.
pub fn describe(
    resource: Resource,
    candidate: &Candidate<'_>,
    thresholds: &[Threshold],
    observations: &Observations,
) -> Words {
    let name = resource.as_str();
    let mut message = format!("The node was low on resource: {name}. ");
    let quoted = thresholds
        .iter()
        .filter(|threshold| threshold.signal.resource() == resource)
        .find_map(|threshold| Some((threshold, observations.get(&threshold.signal)?)));
    if let Some((threshold, observed)) = quoted {
        let quantity = threshold.value.of(observed.capacity);
        let available = observed.available;
        let text = format!("Threshold quantity: {quantity}, available: {available}. ");
        message.push_str(&text);
    }

    let Some(usage) = candidate.usage else {
        return Words { message, annotations: BTreeMap::new() };
    };

    let mut annotations = BTreeMap::new();
    if let Some((used, request)) = pod_level(resource, candidate, usage) {
        let pod = candidate.pod.metadata.name.clone().unwrap_or_default();
        let text = format!(
            "Pod {pod} was using {used}, request is {request}, has larger consumption of {name}. "
        );
        message.push_str(&text);
        annotations.insert(OFFENDING_POD.to_owned(), pod);
        annotations.insert(OFFENDING_POD_USAGE.to_owned(), used.to_string());
    }

    let mut names = Vec::new();
    let mut amounts = Vec::new();
    for (container, used, request) in greedy(resource, candidate, usage) {
        let text = format!(
            "Container {container} was using {used}, request is {request}, has larger consumption of {name}. "
        );
        message.push_str(&text);
        names.push(container);
        amounts.push(used.to_string());
    }

    annotations.insert(OFFENDING_CONTAINERS.to_owned(), names.join(","));
    annotations.insert(OFFENDING_CONTAINERS_USAGE.to_owned(), amounts.join(","));
    annotations.insert(STARVED_RESOURCE.to_owned(), name.to_owned());
    Words { message, annotations }
}

/// Returns usage and request of the pod as a whole, where it asks for memory as a whole.
fn pod_level(
    resource: Resource,
    candidate: &Candidate<'_>,
    usage: &PodUsage,
) -> Option<(Quantity, Quantity)> {
    if resource != Resource::Memory {
        return None;
    }
    let request = list::pod_level(candidate.pod, Column::Requests)?.get(MEMORY)?;
    let memory = usage.resources.memory.as_ref()?;
    Some((Quantity::bytes(memory.working_set), parse(request)))
}

/// Returns the containers that use more than they ask for, with usage and request. Ephemeral ones
/// cannot ask for anything and are left out.
fn greedy<'a>(
    resource: Resource,
    candidate: &Candidate<'_>,
    usage: &'a PodUsage,
) -> Vec<(&'a str, Quantity, Quantity)> {
    let specs =
        pod::main_containers(candidate.pod).iter().chain(pod::init_containers(candidate.pod));
    let specs: Vec<_> = specs.collect();
    let mut greedy = Vec::new();
    for container in &usage.containers {
        let Some(spec) = specs.iter().find(|spec| spec.name == container.name) else { continue };
        let requests = list::column(spec.resources.as_ref(), Column::Requests);
        let request = requests.and_then(|requests| requests.get(resource.as_str()));
        let request = request.map_or_else(Quantity::zero, parse);
        let Some(used) = used(resource, container) else { continue };
        if used.amount() > request.amount() {
            greedy.push((container.name.as_str(), used, request));
        }
    }
    greedy
}

fn used(resource: Resource, container: &ContainerUsage) -> Option<Quantity> {
    match resource {
        Resource::Memory => {
            container.resources.memory.as_ref().map(|memory| Quantity::bytes(memory.working_set))
        }
        Resource::EphemeralStorage => {
            let rootfs = container.rootfs.as_ref()?.used?;
            let logs = container.logs.as_ref()?.used?;
            Some(Quantity::bytes(rootfs.saturating_add(logs)))
        }
        Resource::Inodes | Resource::Pids => None,
    }
}

/// Reads a quantity of a pod; nothing when it is malformed: the API server has validated it.
pub(super) fn parse(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_else(|_| Quantity::zero())
}
