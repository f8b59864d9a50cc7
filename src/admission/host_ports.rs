//! Two pods cannot have the same port of the node.

use k8s_openapi::api::core::v1 as api;

use super::{AdmitInput, Misfit};
use crate::model::pod;

const EVERY_ADDRESS: &str = "0.0.0.0";

pub(super) fn check(input: &AdmitInput<'_>) -> Option<Misfit> {
    let taken: Vec<Port<'_>> = input.others.iter().flat_map(|other| ports(other)).collect();
    ports(input.pod)
        .iter()
        .any(|wanted| taken.iter().any(|taken| wanted.collides(taken)))
        .then_some(Misfit::Predicate {
            name: "NodePorts",
            description: "node(s) didn't have free ports for the requested pod ports",
        })
}

struct Port<'a> {
    address: &'a str,
    protocol: &'a str,
    number: i32,
}

impl Port<'_> {
    fn collides(&self, other: &Self) -> bool {
        let same_address = self.address == other.address
            || self.address == EVERY_ADDRESS
            || other.address == EVERY_ADDRESS;
        same_address && self.protocol == other.protocol && self.number == other.number
    }
}

/// The ports of the containers that run as long as the pod does.
fn ports(pod: &api::Pod) -> Vec<Port<'_>> {
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    let all = sidecars
        .chain(pod::main_containers(pod))
        .flat_map(|container| container.ports.iter().flatten());
    all.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address =
            port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(EVERY_ADDRESS);
        let protocol =
            port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        Some(Port { address, protocol, number })
    })
    .collect()
}
