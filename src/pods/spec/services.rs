//! Variables that tell a container where the services of its namespace are: `WEB_SERVICE_HOST` and Docker's links.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

/// What the variables are made from: a service that has a cluster address. A small part of the object, because every
/// node keeps all services of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The cluster address.
    pub cluster_ip: Box<str>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name; may be empty.
    pub name: Box<str>,
    /// The number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
}

impl ServiceFacts {
    /// The facts of a service; `None` for one without a cluster address (headless, external).
    pub fn from_service(service: &api::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
            let name = port.name.as_deref().unwrap_or_default().into();
            ServicePort { name, port: port.port, protocol: protocol.into() }
        });
        Some(Self {
            namespace: service.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: service.metadata.name.as_deref().unwrap_or_default().into(),
            cluster_ip: cluster_ip.into(),
            ports: ports.collect(),
        })
    }
}

/// The variables for a pod of `namespace`. The API server's own service is always among them; the others of the
/// namespace only with `links`, and one of them called `kubernetes` takes precedence.
pub(super) fn service_variables(services: &[ServiceFacts], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &ServiceFacts> = BTreeMap::new();
    for service in services.iter().filter(|service| &*service.namespace == "default" && &*service.name == "kubernetes")
    {
        chosen.insert(&service.name, service);
    }
    if links {
        for service in services.iter().filter(|service| &*service.namespace == namespace) {
            chosen.insert(&service.name, service);
        }
    }
    let mut out = BTreeMap::new();
    for service in chosen.values() {
        add(&mut out, service);
    }
    out
}

fn add(out: &mut BTreeMap<String, String>, service: &ServiceFacts) {
    let prefix = variable_name(&service.name);
    let ip = &*service.cluster_ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, ServicePort { name, port, protocol }) in service.ports.iter().enumerate() {
        let scheme = protocol.to_ascii_lowercase();
        let url = format!("{scheme}://{host}:{port}");
        if index == 0 {
            out.insert(format!("{prefix}_SERVICE_PORT"), port.to_string());
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        if !name.is_empty() {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.to_string());
        }
        let link = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
        out.insert(format!("{link}_PROTO"), scheme);
        out.insert(format!("{link}_PORT"), port.to_string());
        out.insert(format!("{link}_ADDR"), ip.to_owned());
        out.insert(link, url);
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::needless_pass_by_value, reason = "JSON reads better at the calls without a borrow")]

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: serde_json::Value) -> Option<ServiceFacts> {
        let service: api::Service = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports},
        }))
        .expect("a service");
        ServiceFacts::from_service(&service)
    }

    fn text(services: &[ServiceFacts], namespace: &str, links: bool) -> String {
        let all = service_variables(services, namespace, links);
        all.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn makes_docker_links_and_service_variables() {
        let services: Vec<_> = [
            service("default", "kubernetes", "10.0.0.1", serde_json::json!([{"name": "https", "port": 443}])),
            service(
                "prod",
                "my-db",
                "fd00::5",
                serde_json::json!([{"port": 53, "protocol": "UDP"}, {"name": "a-b", "port": 8}]),
            ),
            service("prod", "headless", "None", serde_json::json!([{"port": 1}])),
            service("dev", "other", "10.0.0.9", serde_json::json!([{"port": 1}])),
        ]
        .into_iter()
        .flatten()
        .collect();
        assert_eq!(services.len(), 3);
        let kubernetes = "KUBERNETES_PORT=tcp://10.0.0.1:443\nKUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443\n\
            KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1\nKUBERNETES_PORT_443_TCP_PORT=443\nKUBERNETES_PORT_443_TCP_PROTO=tcp\n\
            KUBERNETES_SERVICE_HOST=10.0.0.1\nKUBERNETES_SERVICE_PORT=443\nKUBERNETES_SERVICE_PORT_HTTPS=443";
        assert_eq!(text(&services, "prod", false), kubernetes);
        let db = "MY_DB_PORT=udp://[fd00::5]:53\nMY_DB_PORT_53_UDP=udp://[fd00::5]:53\nMY_DB_PORT_53_UDP_ADDR=fd00::5\n\
            MY_DB_PORT_53_UDP_PORT=53\nMY_DB_PORT_53_UDP_PROTO=udp\nMY_DB_PORT_8_TCP=tcp://[fd00::5]:8\n\
            MY_DB_PORT_8_TCP_ADDR=fd00::5\nMY_DB_PORT_8_TCP_PORT=8\nMY_DB_PORT_8_TCP_PROTO=tcp\nMY_DB_SERVICE_HOST=fd00::5\n\
            MY_DB_SERVICE_PORT=53\nMY_DB_SERVICE_PORT_A_B=8";
        assert_eq!(text(&services, "prod", true), format!("{kubernetes}\n{db}"));
    }
}
