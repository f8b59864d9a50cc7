//! A pod's host name, its domain, and the `/etc/hosts` that its containers see.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::model::Pod;

use super::{SpecError, validate};

/// Longest host name: 64 bytes in the kernel, the last one a zero.
const MAX_HOSTNAME: usize = 63;
/// Longest name that `setHostnameAsFQDN` may make.
const MAX_FQDN: usize = 64;

/// What a pod is called on its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    /// The short name.
    pub name: String,
    /// `SUBDOMAIN.NAMESPACE.svc.CLUSTER-DOMAIN`, or empty.
    pub domain: String,
}

impl Hostname {
    /// The name that the kernel of the sandbox gets.
    pub(super) fn kernel_name(&self, as_fqdn: bool) -> Result<String, SpecError> {
        if self.domain.is_empty() || !as_fqdn {
            return Ok(self.name.clone());
        }
        let full = format!("{}.{}", self.name, self.domain);
        if full.len() > MAX_FQDN {
            let length = full.len();
            return Err(SpecError::sandbox(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({MAX_FQDN} \
                 characters is the max, {length} characters requested)"
            )));
        }
        Ok(full)
    }
}

/// The name and domain of a pod.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, SpecError> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Err(SpecError::sandbox("the pod has no spec")) };
    if let Some(name) = &spec.hostname_override {
        validate::dns_subdomain(name).map_err(|problem| {
            SpecError::sandbox(format!(
                "pod HostnameOverride {name:?} is not a valid DNS subdomain: {problem}"
            ))
        })?;
        return Ok(Hostname { name: truncated(own, name)?, domain: String::new() });
    }
    let wanted = spec.hostname.as_deref().unwrap_or_default();
    if !wanted.is_empty() {
        validate::dns_label(wanted).map_err(|problem| {
            SpecError::sandbox(format!(
                "pod Hostname {wanted:?} is not a valid DNS label: {problem}"
            ))
        })?;
    }
    let name = truncated(own, if wanted.is_empty() { own } else { wanted })?;
    let subdomain = spec.subdomain.as_deref().unwrap_or_default();
    if subdomain.is_empty() {
        return Ok(Hostname { name, domain: String::new() });
    }
    validate::dns_label(subdomain).map_err(|problem| {
        SpecError::sandbox(format!(
            "pod Subdomain {subdomain:?} is not a valid DNS label: {problem}"
        ))
    })?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Ok(Hostname { name, domain: format!("{subdomain}.{namespace}.svc.{cluster_domain}") })
}

fn truncated(pod: &str, name: &str) -> Result<String, SpecError> {
    if name.len() <= MAX_HOSTNAME {
        return Ok(name.to_owned());
    }
    let cut =
        name.char_indices().take_while(|(start, c)| start + c.len_utf8() <= MAX_HOSTNAME).count();
    let cut: String = name.chars().take(cut).collect();
    let cut = cut.trim_end_matches(['-', '.']);
    if cut.is_empty() {
        return Err(SpecError::sandbox(format!("hostname for pod {pod:?} was invalid: {name:?}")));
    }
    Ok(cut.to_owned())
}

/// The managed `/etc/hosts` of a pod with a network of its own.
pub fn hosts_file(pod: &Pod, name: &Hostname, pod_ips: &[IpAddr]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let Hostname { name, domain } = name;
    for ip in pod_ips {
        if domain.is_empty() {
            writeln!(out, "{ip}\t{name}").expect("a String takes everything");
        } else {
            writeln!(out, "{ip}\t{name}.{domain}\t{name}").expect("a String takes everything");
        }
    }
    add_aliases(&mut out, pod);
    out
}

/// The managed `/etc/hosts` of a hostNetwork pod: the node's own plus the pod's aliases.
pub fn node_hosts_file(pod: &Pod, node_file: &str) -> String {
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{node_file}");
    add_aliases(&mut out, pod);
    out
}

fn add_aliases(out: &mut String, pod: &Pod) {
    let aliases =
        pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        writeln!(out, "{}\t{names}", alias.ip).expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::request::testing;
    use serde_json::json;

    #[track_caller]
    fn check(spec: serde_json::Value, expected: Result<(&str, &str), &str>) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let found = hostname(&testing::pod(spec), "cluster.local").map_err(|error| error.message);
        let found = found
            .as_ref()
            .map(|found| (found.name.as_str(), found.domain.as_str()))
            .map_err(String::as_str);
        assert_eq!(found, expected);
    }

    #[test]
    fn names_a_pod() {
        check(json!({}), Ok(("web", "")));
        check(
            json!({"hostname": "db-0", "subdomain": "db"}),
            Ok(("db-0", "db.prod.svc.cluster.local")),
        );
        check(json!({"subdomain": "db"}), Ok(("web", "db.prod.svc.cluster.local")));
        check(
            json!({"hostnameOverride": "a.b.c", "hostname": "x", "subdomain": "y"}),
            Ok(("a.b.c", "")),
        );
        let dashes = format!("{}--{}", "a".repeat(61), "b".repeat(5));
        check(json!({"hostnameOverride": dashes}), Ok((&"a".repeat(61), "")));
        let found = hostname(&testing::pod(json!({"containers": [], "hostname": "No"})), "x")
            .expect_err("invalid");
        assert!(found.message.starts_with("pod Hostname \"No\" is not a valid DNS label: "));
    }

    #[test]
    fn makes_the_kernel_name() {
        let name = Hostname { name: "db-0".into(), domain: "db.prod.svc.cluster.local".into() };
        assert_eq!(name.kernel_name(false).as_deref(), Ok("db-0"));
        assert_eq!(name.kernel_name(true).as_deref(), Ok("db-0.db.prod.svc.cluster.local"));
        let long = Hostname { name: "a".repeat(50), domain: "db.prod.svc".into() };
        let name = "a".repeat(50);
        assert_eq!(
            long.kernel_name(true).map_err(|error| error.message),
            Ok(format!("{name}.db.prod.svc"))
        );
        let longer = Hostname { name: name.clone(), domain: "db.production.svc".into() };
        let message = longer.kernel_name(true).expect_err("too long").message;
        assert!(
            message.ends_with("is too long (64 characters is the max, 68 characters requested)"),
            "{message}"
        );
    }

    #[test]
    fn writes_hosts_files() {
        let pod = testing::pod(
            json!({"containers": [], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let ips = ["10.0.0.5".parse().expect("ip"), "fd00::5".parse().expect("ip")];
        let name = Hostname { name: "web".into(), domain: "sub.prod.svc.c".into() };
        let text = hosts_file(&pod, &name, &ips);
        let expected = "10.0.0.5\tweb.sub.prod.svc.c\tweb\nfd00::5\tweb.sub.prod.svc.c\tweb\n\n\
            # Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert!(text.starts_with(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"
        ));
        assert!(text.ends_with(expected), "{text}");
        let name = Hostname { name: "web".into(), domain: String::new() };
        assert!(hosts_file(&pod, &name, &ips).contains("\n10.0.0.5\tweb\nfd00::5\tweb\n"));
        let text = node_hosts_file(&pod, "127.0.0.1 node\n");
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        );
    }
}
