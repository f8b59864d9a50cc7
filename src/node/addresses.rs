//! Chooses the node's addresses: `--node-ip`, else the host name's, else that of the interface with
//! the default route.
//!
//! [`read`] queries the kernel (rtnetlink) and [`look_up`] the resolver. The resolver is queried
//! only when no address is configured, and for at most [`LOOK_UP_DEADLINE`]. [`choose`] is pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::NodeAddress;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

/// The deadline of the resolver's answer.
pub const LOOK_UP_DEADLINE: Duration = Duration::from_secs(2);
/// The deadline of the kernel's answer.
const KERNEL_DEADLINE: Duration = Duration::from_secs(5);

/// The kernel's addresses and default routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Every address and the index of its interface.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Default routes, best first: family and interface.
    pub default_routes: Vec<(Family, u32)>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The reasons why the node has no address; upstream's texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The configured address cannot be used.
    #[error("failed to validate nodeIP: {0}")]
    Invalid(#[from] InvalidAddress),
    /// No address was found.
    #[error("can't get ip address of node {node}. error: {problem}")]
    None {
        /// The node's name.
        node: String,
        /// The reason, in upstream's words.
        problem: String,
    },
}

/// The reasons why an address cannot be the node's; upstream's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is a loopback address.
    #[error("nodeIP can't be loopback address")]
    Loopback,
    /// It is a multicast address.
    #[error("nodeIP can't be a multicast address")]
    Multicast,
    /// It is link-local.
    #[error("nodeIP can't be a link-local unicast address")]
    LinkLocal,
    /// It names a family only.
    #[error("nodeIP can't be an all zeros address")]
    Unspecified,
    /// No interface has it.
    #[error("node IP: \"{0}\" not found in the host's network interfaces")]
    NotFound(IpAddr),
}

/// The reasons why the kernel's addresses cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no netlink socket.
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
    /// The kernel did not answer in time.
    #[error("the kernel does not answer over netlink")]
    Silent,
    /// The connection broke.
    #[error("the netlink connection broke")]
    Broken,
}

/// The inputs of [`choose`], from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The node's name.
    pub node_name: &'a str,
    /// The machine's host name.
    pub hostname: &'a str,
    /// `--node-ip`.
    pub node_ips: &'a [IpAddr],
    /// True if a cloud provider sets the addresses.
    pub external_cloud_provider: bool,
}

impl Wanted<'_> {
    /// Returns true if the host name has to be resolved because nothing else names an address.
    pub fn needs_look_up(&self) -> bool {
        let specified = self.node_ips.first().is_some_and(|address| !address.is_unspecified());
        !specified && !self.external_cloud_provider && self.hostname.parse::<IpAddr>().is_err()
    }
}

/// Chooses the addresses to report. `present` are the Node object's addresses: those that a cloud
/// provider has set take precedence.
pub fn choose(
    wanted: Wanted<'_>,
    network: &Network,
    looked_up: &[IpAddr],
    present: &[NodeAddress],
) -> Result<Vec<NodeAddress>, AddressError> {
    let hostname =
        NodeAddress { type_: "Hostname".to_owned(), address: wanted.hostname.to_owned() };
    let first = wanted.node_ips.first().copied();
    let specified = first.filter(|address| !address.is_unspecified());
    let second = wanted.node_ips.get(1).copied().filter(|address| !address.is_unspecified());
    for address in specified.into_iter().chain(second) {
        validate(address, network)?;
    }

    if wanted.external_cloud_provider {
        if !present.is_empty() {
            return Ok(present.to_vec());
        }
        if first.is_none() {
            return Ok(vec![hostname]);
        }
    }

    let internal = |address: IpAddr| NodeAddress {
        type_: "InternalIP".to_owned(),
        address: address.to_string(),
    };
    if let (Some(first), Some(second)) = (specified, second) {
        return Ok(vec![internal(first), internal(second), hostname]);
    }

    let preferred = first.map_or(Family::V4, Family::of);
    let address = specified
        .or_else(|| wanted.hostname.parse().ok())
        .or_else(|| from_look_up(looked_up, network, preferred))
        .or_else(|| from_default_route(network, preferred))
        .ok_or_else(|| AddressError::None {
            node: wanted.node_name.to_owned(),
            problem: "unable to select an IP from default routes.".to_owned(),
        })?;

    Ok(vec![internal(address), hostname])
}

/// Returns the addresses that pods on the host's network have, and that `hostIP` reports: the first
/// InternalIP, else the first ExternalIP, and the first one of the other family.
pub fn host_ips(addresses: &[NodeAddress]) -> Vec<IpAddr> {
    let of = |type_: &'static str| {
        addresses
            .iter()
            .filter(move |address| address.type_ == type_)
            .filter_map(|address| address.address.parse::<IpAddr>().ok())
    };
    let all: Vec<IpAddr> = of("InternalIP").chain(of("ExternalIP")).collect();
    let Some(first) = all.first().copied() else { return Vec::new() };

    let other = all.into_iter().find(|address| Family::of(*address) != Family::of(first));
    [first].into_iter().chain(other).collect()
}

/// Chooses an address of the host name: one of the machine's, of the preferred family if possible.
fn from_look_up(looked_up: &[IpAddr], network: &Network, preferred: Family) -> Option<IpAddr> {
    let mut usable =
        looked_up.iter().copied().filter(|address| validate(*address, network).is_ok());
    let first = usable.clone().next();
    usable.find(|address| Family::of(*address) == preferred).or(first)
}

/// Chooses an address of the interface that has the best default route.
fn from_default_route(network: &Network, preferred: Family) -> Option<IpAddr> {
    let other = match preferred {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let on = |family: Family, interface: u32| {
        network
            .addresses
            .iter()
            .find(|(index, address)| {
                *index == interface && Family::of(*address) == family && is_global(*address)
            })
            .map(|(_, address)| *address)
    };

    // The loopback interface (index 1) may carry the address of a node whose links have only
    // link-local ones.
    [preferred, other].into_iter().find_map(|family| {
        let routes = network.default_routes.iter().filter(|(of, _)| *of == family);
        routes
            .into_iter()
            .find_map(|(_, interface)| on(family, *interface).or_else(|| on(family, 1)))
    })
}

/// Returns true if the address can be reached from other machines.
fn is_global(address: IpAddr) -> bool {
    !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unspecified()
        && !is_link_local(address)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Refuses an address that cannot be the node's.
fn validate(address: IpAddr, network: &Network) -> Result<(), InvalidAddress> {
    if address.is_loopback() {
        return Err(InvalidAddress::Loopback);
    }
    if address.is_multicast() {
        return Err(InvalidAddress::Multicast);
    }
    if is_link_local(address) {
        return Err(InvalidAddress::LinkLocal);
    }
    if address.is_unspecified() {
        return Err(InvalidAddress::Unspecified);
    }

    if network.addresses.iter().any(|(_, known)| *known == address) {
        Ok(())
    } else {
        Err(InvalidAddress::NotFound(address))
    }
}

/// Resolves the host name without blocking a worker thread. The result is empty if the resolver
/// does not answer in time.
pub async fn look_up(hostname: &str) -> Vec<IpAddr> {
    match tokio::time::timeout(LOOK_UP_DEADLINE, tokio::net::lookup_host((hostname, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Reads addresses and default routes from the kernel.
pub async fn read() -> Result<Network, NetworkError> {
    let (connection, handle, _messages) = rtnetlink::new_connection()?;
    let ask = async {
        let mut network = Network::default();
        let mut addresses = handle.address().get().execute().boxed();
        while let Some(message) = addresses.try_next().await? {
            let mut address = None;
            for attribute in &message.attributes {
                // IFA_LOCAL is the interface's own address where IFA_ADDRESS is the peer's.
                if let AddressAttribute::Local(ip) = attribute {
                    address = Some(*ip);
                } else if let AddressAttribute::Address(ip) = attribute {
                    address = address.or(Some(*ip));
                }
            }

            network.addresses.extend(address.map(|address| (message.header.index, address)));
        }

        let mut routes: Vec<(Family, u32, u32)> = Vec::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();

        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for (family, request) in [(Family::V4, v4), (Family::V6, v6)] {
            let mut answers = handle.route().get(request).execute().boxed();
            // A kernel without IPv6 answers with an error: it has no such routes.
            while let Ok(Some(route)) = answers.try_next().await {
                routes.extend(
                    default_interface(&route)
                        .map(|(interface, metric)| (family, interface, metric)),
                );
            }
        }

        routes.sort_by_key(|(_, _, metric)| *metric);
        network.default_routes =
            routes.into_iter().map(|(family, interface, _)| (family, interface)).collect();
        Ok(network)
    };

    // The connection only carries these requests: it ends with them.
    tokio::select! {
        answer = tokio::time::timeout(KERNEL_DEADLINE, ask) => {
            answer.unwrap_or(Err(NetworkError::Silent))
        }
        () = connection => Err(NetworkError::Broken),
    }
}

/// Returns the interface and metric of a default route of the main table.
fn default_interface(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0
        || route.header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let mut interface = None;
    let mut metric = 0;

    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            interface = interface.or_else(|| hops.first().map(|hop| hop.interface_index));
        }
    }

    interface.map(|interface| (interface, metric))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use k8s_openapi::api::core::v1::NodeAddress;

    use super::{Family, Network, Wanted, choose};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn network() -> Network {
        Network {
            addresses: vec![
                (1, ip("127.0.0.1")),
                (2, ip("169.254.1.1")),
                (2, ip("10.0.0.5")),
                (2, ip("fe80::1")),
                (2, ip("fd00::5")),
                (3, ip("192.168.1.1")),
            ],
            default_routes: vec![(Family::V4, 2), (Family::V6, 2)],
        }
    }

    #[track_caller]
    fn check(
        node_ips: &[&str],
        hostname: &str,
        looked_up: &[&str],
        external: bool,
        expected: Result<&str, &str>,
    ) {
        let node_ips: Vec<IpAddr> = node_ips.iter().map(|text| ip(text)).collect();
        let looked_up: Vec<IpAddr> = looked_up.iter().map(|text| ip(text)).collect();
        let wanted = Wanted {
            node_name: "n",
            hostname,
            node_ips: &node_ips,
            external_cloud_provider: external,
        };
        let chosen = choose(wanted, &network(), &looked_up, &[])
            .map(|addresses| {
                let text = |address: NodeAddress| format!("{} {}", address.type_, address.address);
                addresses.into_iter().map(text).collect::<Vec<_>>().join(", ")
            })
            .map_err(|error| error.to_string());
        assert_eq!(chosen.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn follows_upstreams_order() {
        check(&["10.0.0.5"], "h", &[], false, Ok("InternalIP 10.0.0.5, Hostname h"));
        check(
            &["10.0.0.5", "fd00::5"],
            "h",
            &[],
            false,
            Ok("InternalIP 10.0.0.5, InternalIP fd00::5, Hostname h"),
        );
        check(&[], "192.168.1.1", &[], false, Ok("InternalIP 192.168.1.1, Hostname 192.168.1.1"));
        check(&[], "h", &["192.168.1.1"], false, Ok("InternalIP 192.168.1.1, Hostname h"));
        check(&[], "h", &["127.0.1.1"], false, Ok("InternalIP 10.0.0.5, Hostname h"));
        check(&["0.0.0.0"], "h", &[], false, Ok("InternalIP 10.0.0.5, Hostname h"));
        check(&["::"], "h", &[], false, Ok("InternalIP fd00::5, Hostname h"));
        check(&["::"], "h", &["10.0.0.5", "fd00::5"], false, Ok("InternalIP fd00::5, Hostname h"));
        check(&[], "h", &[], true, Ok("Hostname h"));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let absent = "failed to validate nodeIP: node IP: \"10.0.0.6\" not found in the host's network interfaces";
        check(&["10.0.0.6"], "h", &[], false, Err(absent));
        check(
            &["127.0.0.1"],
            "h",
            &[],
            false,
            Err("failed to validate nodeIP: nodeIP can't be loopback address"),
        );
    }

    #[test]
    fn pods_on_the_hosts_network_have_one_address_per_family() {
        let addresses = |list: &[(&str, &str)]| {
            let address = |(type_, address): &(&str, &str)| NodeAddress {
                type_: (*type_).to_owned(),
                address: (*address).to_owned(),
            };
            let list: Vec<NodeAddress> = list.iter().map(address).collect();
            super::host_ips(&list)
        };
        assert_eq!(addresses(&[("Hostname", "n")]), Vec::<IpAddr>::new());
        assert_eq!(
            addresses(&[("ExternalIP", "203.0.113.1"), ("InternalIP", "10.0.0.5")]),
            [ip("10.0.0.5")]
        );
        assert_eq!(addresses(&[("ExternalIP", "203.0.113.1")]), [ip("203.0.113.1")]);
        assert_eq!(
            addresses(&[("InternalIP", "fd00::5"), ("InternalIP", "10.0.0.5")]),
            [ip("fd00::5"), ip("10.0.0.5")]
        );
    }

    #[test]
    fn looks_up_only_when_nothing_else_says() {
        let wanted = |node_ips, hostname| Wanted {
            node_name: "n",
            hostname,
            node_ips,
            external_cloud_provider: false,
        };
        assert!(wanted(&[], "h").needs_look_up());
        assert!(!wanted(&[], "10.0.0.5").needs_look_up());
        assert!(!wanted(&[ip("10.0.0.5")], "h").needs_look_up());
    }

    #[tokio::test]
    async fn the_kernel_answers() {
        let network = super::read().await.expect("an answer");
        assert!(network.addresses.iter().any(|(_, address)| address.is_loopback()), "{network:?}");
    }
}
