//! The subject that a certificate is requested for, and whether a certificate has it. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::NodeAddress;

use super::pair::Leaf;

/// The group of all nodes.
const NODES: &str = "system:nodes";

/// The names of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// `system:node:NAME`.
    pub(super) common_name: String,
    /// The organisation.
    pub(super) organization: &'static str,
    /// The host names, sorted.
    pub(super) dns_names: Vec<String>,
    /// The addresses, sorted by their text.
    pub(super) ips: Vec<IpAddr>,
}

impl Template {
    /// Returns the template of a node's client certificate.
    pub(super) fn client(node: &str) -> Self {
        Self {
            common_name: format!("system:node:{node}"),
            organization: NODES,
            dns_names: Vec::new(),
            ips: Vec::new(),
        }
    }

    /// Returns the template of a node's serving certificate. `None` until the node has an IP
    /// address; with `dns_only` (gate `AllowDNSOnlyNodeCSR`) a host name is enough.
    pub(super) fn serving(node: &str, addresses: &[NodeAddress], dns_only: bool) -> Option<Self> {
        let mut names = BTreeSet::new();
        let mut ips = BTreeSet::new();
        for NodeAddress { address, type_ } in addresses {
            let ip = address.parse::<IpAddr>().ok();
            match (type_.as_str(), ip) {
                ("Hostname" | "InternalIP" | "ExternalIP", Some(ip)) => {
                    ips.insert((ip.to_string(), ip));
                }
                ("Hostname" | "InternalDNS" | "ExternalDNS", _) if !address.is_empty() => {
                    names.insert(address.clone());
                }
                _ => {}
            }
        }

        let is_enough = !ips.is_empty() || dns_only && !names.is_empty();
        is_enough.then(|| Self {
            dns_names: names.into_iter().collect(),
            ips: ips.into_iter().map(|(_, ip)| ip).collect(),
            ..Self::client(node)
        })
    }

    /// Returns true if a certificate has all that the template names. More names in it are no
    /// reason to request another one.
    pub(super) fn is_satisfied_by(&self, leaf: &Leaf) -> bool {
        self.common_name == leaf.common_name
            && leaf.organizations.iter().any(|name| name == self.organization)
            && self.dns_names.iter().all(|name| leaf.dns_names.contains(name))
            && self.ips.iter().all(|ip| leaf.ips.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeAddress;

    use super::Template;

    fn addresses(list: &[(&str, &str)]) -> Vec<NodeAddress> {
        let address = |(type_, address): &(&str, &str)| NodeAddress {
            address: (*address).to_owned(),
            type_: (*type_).to_owned(),
        };
        list.iter().map(address).collect()
    }

    #[test]
    fn names_and_addresses_are_sorted_and_come_once() {
        let list = addresses(&[
            ("InternalIP", "10.0.0.2"),
            ("Hostname", "n1"),
            ("ExternalIP", "10.0.0.10"),
            ("ExternalIP", "10.0.0.2"),
            ("InternalDNS", "a.example"),
            ("InternalIP", "no address"),
            ("Hostname", ""),
        ]);
        let template = Template::serving("n1", &list, false).expect("a template");
        assert_eq!(template.common_name, "system:node:n1");
        assert_eq!(template.dns_names, ["a.example", "n1"]);
        let ips: Vec<_> = template.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.10", "10.0.0.2"], "in the order of Go's strings");
    }

    #[test]
    fn without_an_address_nothing_is_requested() {
        let list = addresses(&[("Hostname", "n1")]);
        assert_eq!(Template::serving("n1", &list, false), None);
        assert!(Template::serving("n1", &list, true).is_some());
        assert_eq!(Template::serving("n1", &[], true), None);
        let by_ip = addresses(&[("Hostname", "10.0.0.1")]);
        assert!(Template::serving("10.0.0.1", &by_ip, false).is_some());
    }
}
