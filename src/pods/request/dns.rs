//! A pod's resolver configuration: its policy, the node's `resolv.conf`, the cluster's DNS and
//! `dnsConfig`, within the limits of the C library.

use std::net::IpAddr;

use crate::cri::v1::DnsConfig;
use crate::model::{Pod, pod, reason};

use super::pod_in_messages;
use super::warning::{Warning, WarningTarget};

/// Most nameservers that the C library reads.
const MAX_NAMESERVERS: usize = 3;
/// Most search domains.
const MAX_SEARCHES: usize = 32;
/// Longest search line, in bytes.
const MAX_SEARCH_LINE: usize = 2048;
/// Longest search domain; some C libraries abort on a longer one.
const MAX_DOMAIN: usize = 253;

/// DNS of the cluster and of the node.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`; may be empty.
    pub cluster_domain: String,
    /// The node's addresses: their families choose the loopback nameservers when there is no
    /// `resolvConf`.
    pub node_ips: Vec<IpAddr>,
    /// Whether `resolvConf` is the empty string: pods with the node's DNS then get none.
    pub no_resolv_conf: bool,
}

/// A parsed `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// All `options`; the last one of a name wins.
    pub options: Vec<String>,
}

/// A `nameserver` line without an address; upstream's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Encountered error while parsing resolv conf file. Error: nameserver list is empty ")]
pub struct NoNameserver;

impl ResolvConf {
    /// Parses the file's text. A `nameserver` line without an address is an error, as upstream has
    /// it.
    pub fn parse(text: &str) -> Result<Self, NoNameserver> {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            match fields.next() {
                Some("nameserver") => match fields.next() {
                    Some(server) => conf.servers.push(server.to_owned()),
                    None => return Err(NoNameserver),
                },
                Some("search") => {
                    let domains = fields.filter(|domain| *domain != ".");
                    conf.searches = domains
                        .map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned())
                        .collect();
                }
                Some("options") => {
                    for option in fields {
                        set_option(&mut conf.options, option.to_owned());
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(conf)
    }
}

/// Replaces the option of that name, or adds it.
fn set_option(options: &mut Vec<String>, new: String) {
    fn name(option: &str) -> &str {
        option.split_once(':').map_or(option, |(name, _)| name)
    }
    match options.iter_mut().find(|option| name(option) == name(&new)) {
        Some(option) => *option = new,
        None => options.push(new),
    }
}

/// A pod's DNS and what to tell about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodDns {
    /// For the sandbox.
    pub config: DnsConfig,
    /// Events.
    pub warnings: Vec<Warning>,
}

enum Source {
    Cluster,
    Node,
    Nothing,
}

/// The DNS of a pod. `host` is the node's parsed `resolvConf` (empty when that is the empty
/// string).
pub fn pod_dns(pod: &Pod, settings: &DnsSettings, host: &ResolvConf) -> PodDns {
    let mut dns = PodDns::default();
    let config = &mut dns.config;
    let policy =
        pod.spec.as_ref().and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut source = match policy {
        "None" => Source::Nothing,
        "Default" => Source::Node,
        "ClusterFirst" if pod::is_host_network(pod) => Source::Node,
        // `ClusterFirstWithHostNet`, and what the API server would have refused.
        _ => Source::Cluster,
    };

    if matches!(source, Source::Cluster) && settings.cluster_dns.is_empty() {
        let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. \
                    Falling back to \"Default\" policy.";
        let warn = |target, message| Warning {
            target,
            reason: reason::event::MISSING_CLUSTER_DNS,
            message,
        };
        dns.warnings.push(warn(WarningTarget::Node, text.to_owned()));
        dns.warnings
            .push(warn(WarningTarget::Pod, format!("pod: {:?}. {text}", pod_in_messages(pod))));
        source = Source::Node;
    }

    match source {
        Source::Nothing => {}
        Source::Cluster => {
            config.servers = settings.cluster_dns.iter().map(ToString::to_string).collect();
            config.searches = cluster_searches(pod, &settings.cluster_domain, &host.searches);
            config.options = vec!["ndots:5".to_owned()];
        }
        Source::Node if settings.no_resolv_conf => {
            // An empty list would make the runtime use the node's file after all.
            let loopback = |ip: &IpAddr| if ip.is_ipv6() { "::1" } else { "127.0.0.1" };
            config.servers = settings.node_ips.iter().map(|ip| loopback(ip).to_owned()).collect();
            if config.servers.is_empty() {
                config.servers.push("127.0.0.1".to_owned());
            }
            config.searches = vec![".".to_owned()];
        }
        Source::Node => {
            config.servers.clone_from(&host.servers);
            config.searches.clone_from(&host.searches);
            config.options.clone_from(&host.options);
        }
    }

    merge(config, pod);
    limit(&mut dns);
    dns
}

fn cluster_searches(pod: &Pod, domain: &str, host: &[String]) -> Vec<String> {
    if domain.is_empty() {
        return host.to_vec();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let cluster = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    without_duplicates(cluster.into_iter().chain(host.iter().cloned()))
}

fn without_duplicates(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for text in texts {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    unique
}

/// Adds the pod's own `dnsConfig`.
fn merge(config: &mut DnsConfig, pod: &Pod) {
    let Some(own) = pod.spec.as_ref().and_then(|spec| spec.dns_config.as_ref()) else { return };
    let join = |base: &mut Vec<String>, more: &Option<Vec<String>>| {
        let all = std::mem::take(base).into_iter().chain(more.iter().flatten().cloned());
        *base = without_duplicates(all);
    };
    join(&mut config.servers, &own.nameservers);
    join(&mut config.searches, &own.searches);
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let text = match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            Some(_) | None => name.to_owned(),
        };
        set_option(&mut config.options, text);
    }
}

/// Cuts to what the C library takes and says so.
fn limit(dns: &mut PodDns) {
    let config = &mut dns.config;
    let mut warn = |message| {
        let reason = reason::event::DNS_CONFIG_FORMING;
        dns.warnings.push(Warning { target: WarningTarget::Pod, reason, message });
    };
    if config.servers.len() > MAX_NAMESERVERS {
        config.servers.truncate(MAX_NAMESERVERS);
        let line = config.servers.join(" ");
        warn(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|search| search.len() <= MAX_DOMAIN);
    while config.searches.join(" ").len() > MAX_SEARCH_LINE {
        config.searches.pop();
    }
    if config.searches.len() < before {
        let line = config.searches.join(" ");
        warn(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::request::testing;
    use serde_json::json;

    fn settings() -> DnsSettings {
        DnsSettings {
            cluster_dns: vec!["10.0.0.10".parse().expect("ip")],
            cluster_domain: "cluster.local".into(),
            node_ips: vec!["192.168.0.1".parse().expect("ip"), "fd00::1".parse().expect("ip")],
            no_resolv_conf: false,
        }
    }

    fn host() -> ResolvConf {
        ResolvConf::parse("# by hand\nnameserver 8.8.8.8\nnameserver 1.1.1.1\nsearch old\nsearch lan. corp .\noptions ndots:1 rotate\noptions ndots:2\n")
            .expect("parses")
    }

    #[track_caller]
    fn check(
        spec: serde_json::Value,
        settings: &DnsSettings,
        servers: &str,
        searches: &str,
        options: &str,
    ) -> Vec<Warning> {
        let dns = pod_dns(&testing::pod(spec), settings, &host());
        let found = (
            dns.config.servers.join(" "),
            dns.config.searches.join(" "),
            dns.config.options.join(" "),
        );
        assert_eq!(
            (found.0.as_str(), found.1.as_str(), found.2.as_str()),
            (servers, searches, options)
        );
        dns.warnings
    }

    #[test]
    fn follows_the_policy() {
        let cluster = "prod.svc.cluster.local svc.cluster.local cluster.local lan corp";
        let with = |policy: &str, host_network: bool| json!({"containers": [], "dnsPolicy": policy, "hostNetwork": host_network});
        check(with("ClusterFirst", false), &settings(), "10.0.0.10", cluster, "ndots:5");
        check(
            with("ClusterFirst", true),
            &settings(),
            "8.8.8.8 1.1.1.1",
            "lan corp",
            "ndots:2 rotate",
        );
        check(with("ClusterFirstWithHostNet", true), &settings(), "10.0.0.10", cluster, "ndots:5");
        check(with("Default", false), &settings(), "8.8.8.8 1.1.1.1", "lan corp", "ndots:2 rotate");
        check(with("None", false), &settings(), "", "", "");
        let none = DnsSettings { no_resolv_conf: true, ..settings() };
        check(with("Default", false), &none, "127.0.0.1 ::1", ".", "");
    }

    #[test]
    fn merges_the_pods_own_configuration() {
        let spec = json!({"containers": [], "dnsPolicy": "ClusterFirst", "dnsConfig": {
            "nameservers": ["10.0.0.10", "9.9.9.9"], "searches": ["corp", "mine"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }});
        let searches = "prod.svc.cluster.local svc.cluster.local cluster.local lan corp mine";
        check(spec, &settings(), "10.0.0.10 9.9.9.9", searches, "ndots:2 edns0");
    }

    #[test]
    fn warns_about_limits_and_missing_cluster_dns() {
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"], "searches": ["a", "b".repeat(254)],
        }});
        let warnings = check(spec, &settings(), "1.0.0.1 1.0.0.2 1.0.0.3", "a", "");
        let texts: Vec<_> =
            warnings.iter().map(|warning| (warning.reason, warning.message.as_str())).collect();
        assert_eq!(
            texts,
            [
                (
                    "DNSConfigForming",
                    "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.0.0.1 1.0.0.2 1.0.0.3"
                ),
                (
                    "DNSConfigForming",
                    "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: a"
                ),
            ]
        );
        let none = DnsSettings { cluster_dns: Vec::new(), ..settings() };
        let warnings = check(
            json!({"containers": []}),
            &none,
            "8.8.8.8 1.1.1.1",
            "lan corp",
            "ndots:2 rotate",
        );
        assert_eq!(warnings.len(), 2);
        assert_eq!(warnings[0].target, WarningTarget::Node);
        assert!(
            warnings[1]
                .message
                .starts_with("pod: \"web_prod(u1)\". kubelet does not have ClusterDNS IP")
        );
    }

    #[test]
    fn cuts_a_long_search_line() {
        let searches: Vec<_> = (0..20).map(|index| format!("{index:0>200}")).collect();
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": searches}});
        let dns = pod_dns(&testing::pod(spec), &settings(), &host());
        assert_eq!((dns.config.searches.len(), dns.warnings.len()), (10, 1));
    }
}
