//! Variables that tell a container where the services of its namespace are: `WEB_SERVICE_HOST` and
//! Docker's links.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apiserver::services::{Service, ServicePort};

/// The variables for a pod of `namespace`. The API server's own service is always among them; the
/// others of the namespace only with `links`, and one of them called `kubernetes` takes precedence.
pub(super) fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let services = || services.iter().filter(|service| service.has_address());
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services()
        .filter(|service| &*service.namespace == "default" && &*service.name == "kubernetes")
    {
        chosen.insert(&service.name, service);
    }
    if links {
        for service in services().filter(|service| &*service.namespace == namespace) {
            chosen.insert(&service.name, service);
        }
    }
    let mut out = BTreeMap::new();
    for service in chosen.values() {
        add(&mut out, service);
    }
    out
}

fn add(out: &mut BTreeMap<String, String>, service: &Service) {
    let prefix = variable_name(&service.name);
    let ip = service.cluster_ip.as_str();
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
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: &[(&str, i32, &str)]) -> Arc<Service> {
        let port = |(name, port, protocol): &(&str, i32, &str)| ServicePort {
            name: (*name).to_owned(),
            protocol: (*protocol).to_owned(),
            port: *port,
        };
        Arc::new(Service {
            namespace: namespace.into(),
            name: name.into(),
            cluster_ip: ip.to_owned(),
            service_type: "ClusterIP".to_owned(),
            ports: ports.iter().map(port).collect(),
        })
    }

    fn text(services: &[Arc<Service>], namespace: &str, links: bool) -> String {
        let all = service_variables(services, namespace, links);
        all.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn makes_docker_links_and_service_variables() {
        let services = [
            service("default", "kubernetes", "10.0.0.1", &[("https", 443, "TCP")]),
            service("prod", "my-db", "fd00::5", &[("", 53, "UDP"), ("a-b", 8, "TCP")]),
            service("prod", "headless", "None", &[("", 1, "TCP")]),
            service("dev", "other", "10.0.0.9", &[("", 1, "TCP")]),
        ];
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
