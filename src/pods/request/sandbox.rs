//! Pod → `RunPodSandbox`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;

use crate::cri::v1::{
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use crate::model::{Pod, pod};

use super::dns::{PodDns, ResolvConf, pod_dns};
use super::hosts::hostname;
use super::log_paths::pod_log_directory;
use super::resources::{PodTotals, overhead, sandbox_resources};
use super::security::sandbox_security;
use super::warning::Warning;
use super::{IdRange, Settings, SpecError, annotations};
use crate::admission::sysctls::normalize;

/// What a sandbox is made from.
#[derive(Clone, Copy, Debug)]
pub struct SandboxInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The attempt number.
    pub attempt: u32,
    /// The pod's cgroup as the runtime wants it named (by the cgroup driver).
    pub cgroup_parent: &'a str,
    /// The node's parsed `resolvConf`.
    pub resolv_conf: &'a ResolvConf,
    /// Requests and limits of the pod.
    pub totals: PodTotals,
    /// Groups that come with the pod's volumes.
    pub extra_groups: &'a [i64],
    /// The ids of its user namespace; `None` where it shares the node's.
    pub user_ids: Option<IdRange>,
    /// The node's settings.
    pub settings: &'a Settings,
}

/// The request and what to tell about it.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxRequest {
    /// The request. The runtime handler is not part of it: `RunPodSandbox` takes it beside.
    pub config: PodSandboxConfig,
    /// Events.
    pub warnings: Vec<Warning>,
}

/// Makes the request for a sandbox.
pub fn sandbox_config(input: &SandboxInput<'_>) -> Result<SandboxRequest, SpecError> {
    let (pod, settings) = (input.pod, input.settings);
    let Some(spec) = &pod.spec else { return Err(SpecError::sandbox("the pod has no spec")) };
    let PodDns { config: dns, warnings } = pod_dns(pod, &settings.dns, input.resolv_conf);
    let kernel_name = if pod::is_host_network(pod) {
        String::new()
    } else {
        let name = hostname(pod, &settings.dns.cluster_domain)?;
        name.kernel_name(spec.set_hostname_as_fqdn.unwrap_or(false))?
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            attempt: input.attempt,
        }),
        hostname: kernel_name,
        log_directory: pod_log_directory(pod, &settings.pod_logs_dir),
        dns_config: Some(dns),
        port_mappings: spec.containers.iter().flat_map(port_mappings).collect(),
        labels: annotations::sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.to_owned(),
            security_context: Some(sandbox_security(pod, input.extra_groups, input.user_ids)?),
            // runc takes names with dots only.
            sysctls: sysctls
                .map(|sysctl| (normalize(&sysctl.name), sysctl.value.clone()))
                .collect(),
            overhead: Some(overhead(pod, settings)?),
            resources: Some(sandbox_resources(&input.totals, settings)),
        }),
        windows: None,
    };
    Ok(SandboxRequest { config, warnings })
}

/// All ports of a container; the runtime's network plugin acts on those with a host port. A port
/// that is given twice under one name counts once.
fn port_mappings(container: &api::Container) -> Vec<PortMapping> {
    let mut names = BTreeSet::new();
    let mut out = Vec::new();
    for port in container.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host_ip = port.host_ip.as_deref().unwrap_or_default();
        let host_port = port.host_port.unwrap_or(0);
        let name = match port.name.as_deref() {
            Some(name) if !name.is_empty() => name.to_owned(),
            Some(_) | None => {
                // Ports of the two families are different ports.
                let family = if host_ip.is_empty() {
                    "any"
                } else if host_ip.contains(':') {
                    "v6"
                } else {
                    "v4"
                };
                format!("{family}-{protocol}-{host_ip}:{}:{host_port}", port.container_port)
            }
        };
        if !names.insert(name) {
            continue;
        }
        out.push(PortMapping {
            protocol: match protocol {
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port,
            host_ip: host_ip.to_owned(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::NamespaceMode;
    use crate::model::quantity::Amount;
    use crate::pods::request::testing;
    use serde_json::json;

    fn made(pod: &Pod) -> Result<SandboxRequest, SpecError> {
        let settings = Settings {
            dns: super::super::DnsSettings {
                cluster_dns: vec!["10.0.0.10".parse().expect("ip")],
                cluster_domain: "cluster.local".into(),
                ..super::super::DnsSettings::default()
            },
            ..Settings::default()
        };
        sandbox_config(&SandboxInput {
            pod,
            attempt: 2,
            cgroup_parent: "/kubepods/podu1",
            resolv_conf: &ResolvConf::default(),
            totals: PodTotals {
                cpu_request: Some(Amount::from_milli(250)),
                ..PodTotals::default()
            },
            extra_groups: &[77],
            user_ids: None,
            settings: &settings,
        })
    }

    #[test]
    fn makes_the_whole_request() {
        let mut pod = testing::pod(json!({
            "hostPID": true,
            "overhead": {"cpu": "100m", "memory": "32Mi"},
            "securityContext": {
                "runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [1, 2], "supplementalGroupsPolicy": "Strict",
                "sysctls": [
                    {"name": "net.core.somaxconn", "value": "1024"}, {"name": "net/ipv4/conf/eth0.1/rp_filter", "value": "2"},
                ],
                "seLinuxOptions": {"level": "s0:c1"},
            },
            "containers": [
                {"name": "a", "ports": [
                    {"containerPort": 80, "hostPort": 8080, "hostIP": "1.2.3.4"}, {"containerPort": 53, "protocol": "UDP"},
                    {"name": "same", "containerPort": 1}, {"name": "same", "containerPort": 2},
                ]},
                {"name": "b", "securityContext": {"privileged": true}},
            ],
        }));
        pod.metadata.annotations = Some([("note".to_owned(), "x".to_owned())].into());
        let config = made(&pod).expect("a request").config;
        assert_eq!(config.log_directory, "/var/log/pods/prod_web_u1");
        assert_eq!(config.hostname, "web");
        let metadata = config.metadata.expect("metadata");
        assert_eq!(
            (metadata.name.as_str(), metadata.uid.as_str(), metadata.attempt),
            ("web", "u1", 2)
        );
        assert_eq!(config.labels.get("app").map(String::as_str), Some("web"));
        assert_eq!(config.labels.get("io.kubernetes.pod.uid").map(String::as_str), Some("u1"));
        assert_eq!(config.annotations.get("note").map(String::as_str), Some("x"));
        let ports: Vec<_> = config
            .port_mappings
            .iter()
            .map(|port| (port.protocol, port.container_port, port.host_port, port.host_ip.as_str()))
            .collect();
        assert_eq!(ports, [(0, 80, 8080, "1.2.3.4"), (1, 53, 0, ""), (0, 1, 0, "")]);
        let linux = config.linux.expect("linux");
        assert_eq!(linux.cgroup_parent, "/kubepods/podu1");
        assert_eq!(linux.sysctls.get("net.core.somaxconn").map(String::as_str), Some("1024"));
        assert_eq!(
            linux.sysctls.get("net.ipv4.conf.eth0/1.rp_filter").map(String::as_str),
            Some("2")
        );
        assert_eq!(linux.resources.expect("resources").cpu_shares, 256);
        let overhead = linux.overhead.expect("overhead");
        assert_eq!((overhead.cpu_quota, overhead.memory_limit_in_bytes), (10_000, 33_554_432));
        let security = linux.security_context.expect("security");
        assert!(security.privileged);
        assert_eq!(security.supplemental_groups, [2000, 77, 1, 2]);
        assert_eq!(security.supplemental_groups_policy, 1);
        assert_eq!(security.seccomp.expect("seccomp").profile_type, 0);
        assert_eq!(security.selinux_options.expect("selinux").level, "s0:c1");
        let namespaces = security.namespace_options.expect("namespaces");
        assert_eq!(namespaces.pid, i32::from(NamespaceMode::Node));
        assert_eq!((namespaces.network, namespaces.ipc), (0, 0));
        assert_eq!(
            namespaces.userns_options.expect("user namespace").mode,
            i32::from(NamespaceMode::Node)
        );
    }

    #[test]
    fn a_host_network_pod_has_no_host_name_of_its_own() {
        let config = made(&testing::pod(json!({"hostNetwork": true, "containers": []})))
            .expect("a request")
            .config;
        assert_eq!(config.hostname, "");
        let security = config.linux.expect("linux").security_context.expect("security");
        assert_eq!(
            security.namespace_options.expect("namespaces").network,
            i32::from(NamespaceMode::Node)
        );
    }

    #[test]
    fn a_pod_with_users_of_its_own_says_which_ids_they_are() {
        let pod = testing::pod(json!({"hostUsers": false, "containers": []}));
        let ids = IdRange { first: 131_072, length: 65_536 };
        let users = sandbox_security(&pod, &[], Some(ids)).expect("security").namespace_options;
        let users = users.and_then(|namespaces| namespaces.userns_options).expect("user namespace");
        assert_eq!(users.mode, i32::from(NamespaceMode::Pod));
        assert_eq!(users.uids, users.gids);
        let mapped: Vec<_> =
            users.uids.iter().map(|ids| (ids.container_id, ids.host_id, ids.length)).collect();
        assert_eq!(mapped, [(0, 131_072, 65_536)]);
    }
}
