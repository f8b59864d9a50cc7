//! The order of a pod's addresses. Pure.

use std::net::IpAddr;

/// The addresses that a pod has in the API, in order: the first of the family that the node
/// prefers, then the first of the other family. The first of them is the pod's `podIP`.
pub fn ordered(ips: &[IpAddr], prefers_ipv6: bool) -> Vec<IpAddr> {
    let first = |v6: bool| ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
    first(prefers_ipv6).into_iter().chain(first(!prefers_ipv6)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::ordered;

    #[test]
    fn the_preferred_family_comes_first() {
        let ips: Vec<IpAddr> = ["fd00::1", "10.0.0.1", "10.0.0.2"]
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        assert_eq!(ordered(&ips, false), [ips[1], ips[0]]);
        assert_eq!(ordered(&ips, true), [ips[0], ips[1]]);
        assert_eq!(ordered(&ips[1..], true), [ips[1]]);
        assert!(ordered(&[], true).is_empty());
    }
}
