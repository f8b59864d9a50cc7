//! Names, resolv.conf, the hosts file, the host's network and ports.

use anyhow::{Context as _, Result};
use tokio::io::AsyncReadExt as _;

use crate::bed::{Bed, has_line, same};
use crate::look::text;
use crate::{Case, beyond, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(resolv_conf_of_the_cluster),
        case(resolv_conf_of_the_node),
        case(resolv_conf_of_the_pod),
        case(hostname_and_subdomain),
        case(long_hostname_is_cut),
        case(fqdn_as_host_name),
        case(fqdn_that_is_too_long),
        case(host_name_override),
        case(more_name_servers_than_a_resolver_reads),
        beyond(told_once_of_name_servers_left_out),
        case(hosts_file_with_aliases),
        case(host_network),
        case(host_port),
        case(chains_of_the_kubelet),
    ]
}

/// Runs `cat FILE` in a pod with these further lines of spec.
async fn cat(bed: &Bed, file: &str, spec: &str) -> Result<String> {
    bed.pod(
        "p",
        &format!(
            "restartPolicy: Never\n{spec}\ncontainers: [{{name: main, image: busybox, command: [cat, {file}]}}]\n"
        ),
    )
    .await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    bed.logs("p", "main").await
}

async fn resolv_conf_of_the_cluster(bed: Bed) -> Result<()> {
    let seen = cat(&bed, "/etc/resolv.conf", "").await?;
    has_line("resolv.conf", &seen, "nameserver 10.96.0.10")?;
    has_line(
        "resolv.conf",
        &seen,
        &format!("search {}.svc.cluster.local svc.cluster.local cluster.local*", bed.name),
    )?;
    has_line("resolv.conf", &seen, "options ndots:5")
}

async fn resolv_conf_of_the_node(bed: Bed) -> Result<()> {
    let node = std::fs::read_to_string(bed.cluster.on_node("/etc/resolv.conf"))?;
    let seen = cat(&bed, "/etc/resolv.conf", "dnsPolicy: Default").await?;
    for line in node.lines().filter(|line| line.starts_with("nameserver")) {
        has_line("resolv.conf", &seen, line)?;
    }
    Ok(())
}

async fn resolv_conf_of_the_pod(bed: Bed) -> Result<()> {
    let spec = "
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2], searches: [a.example, b.example], options: [{name: ndots, value: '2'}, {name: edns0}]}
";
    let seen = cat(&bed, "/etc/resolv.conf", spec).await?;
    let wanted = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\noptions ndots:2 edns0\n";
    let mut lines: Vec<&str> = seen.lines().collect();
    let mut wanted: Vec<&str> = wanted.lines().collect();
    lines.sort_unstable();
    wanted.sort_unstable();
    same("resolv.conf", lines, wanted)
}

async fn hostname_and_subdomain(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
hostname: box
subdomain: inner
containers: [{name: main, image: busybox, command: [sh, -c, 'hostname; cat /etc/hosts']}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    has_line("the log", &seen, "box")?;
    has_line(
        "/etc/hosts",
        &seen,
        &format!("10.244.1.*\tbox.inner.{}.svc.cluster.local\tbox", bed.name),
    )
}

async fn long_hostname_is_cut(bed: Bed) -> Result<()> {
    let name = format!("{}-b", "a".repeat(70));
    bed.pod(
        &name,
        "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [hostname]}]}",
    )
    .await?;
    bed.until(&name, &["phase=Succeeded"]).await?;
    same("the host name", bed.logs(&name, "main").await?, format!("{}\n", "a".repeat(63)))
}

async fn fqdn_as_host_name(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
hostname: h
subdomain: s
setHostnameAsFQDN: true
containers: [{name: main, image: busybox, command: [sh, -c, 'uname -n; cat /etc/hosts']}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    let full = format!("h.s.{}.svc.cluster.local", bed.name);
    has_line("the log", &seen, &full)?;
    has_line("/etc/hosts", &seen, &format!("10.244.1.*\t{full}\th"))
}

async fn fqdn_that_is_too_long(bed: Bed) -> Result<()> {
    let (name, subdomain) = ("n".repeat(40), "s".repeat(30));
    let spec = format!(
        "{{hostname: {name}, subdomain: {subdomain}, setHostnameAsFQDN: true, containers: [{{name: main, image: busybox}}]}}"
    );
    bed.pod("p", &spec).await?;
    let full = format!("{name}.{subdomain}.{}.svc.cluster.local", bed.name);
    let message = format!(
        "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too \
         long (64 characters is the max, {} characters requested)",
        full.len()
    );
    bed.event("p", "FailedCreatePodSandBox", &message).await?;
    Ok(())
}

async fn host_name_override(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
hostnameOverride: other.example
containers: [{name: main, image: busybox, command: [sh, -c, 'uname -n; cat /etc/hosts']}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    has_line("the log", &seen, "other.example")?;
    has_line("/etc/hosts", &seen, "10.244.1.*\tother.example")
}

const LEFT_OUT: &str = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
                        10.96.0.10 192.0.2.1 192.0.2.2";

async fn more_name_servers_than_a_resolver_reads(bed: Bed) -> Result<()> {
    let seen = cat(
        &bed,
        "/etc/resolv.conf",
        "dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3]}",
    )
    .await?;
    let servers: Vec<_> = seen.lines().filter(|line| line.starts_with("nameserver")).collect();
    same(
        "the servers",
        servers,
        vec!["nameserver 10.96.0.10", "nameserver 192.0.2.1", "nameserver 192.0.2.2"],
    )?;
    bed.event("p", "DNSConfigForming", LEFT_OUT).await?;
    Ok(())
}

async fn told_once_of_name_servers_left_out(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3]}
containers: [{name: main, image: busybox, command: [sleep, '3']}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[main].restartCount>1"]).await?;
    let event = bed.event("p", "DNSConfigForming", LEFT_OUT).await?;
    same("how often it was told", text(&event, "count"), "1".to_owned())
}

async fn hosts_file_with_aliases(bed: Bed) -> Result<()> {
    let seen = cat(
        &bed,
        "/etc/hosts",
        "hostAliases: [{ip: 192.0.2.9, hostnames: [one.example, two.example]}]",
    )
    .await?;
    has_line("/etc/hosts", &seen, "# Kubernetes-managed hosts file.")?;
    has_line("/etc/hosts", &seen, "127.0.0.1\tlocalhost")?;
    has_line("/etc/hosts", &seen, "10.244.1.*\tp")?;
    has_line("/etc/hosts", &seen, "# Entries added by HostAliases.")?;
    has_line("/etc/hosts", &seen, "192.0.2.9\tone.example\ttwo.example")
}

async fn host_network(bed: Bed) -> Result<()> {
    let spec = "
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
terminationGracePeriodSeconds: 1
containers: [{name: main, image: busybox, command: [sh, -c, 'hostname; cat /etc/resolv.conf; sleep 1000']}]
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "status.podIP=10.200.0.11",
            "status.podIPs=[{\"ip\":\"10.200.0.11\"}]",
        ],
    )
    .await?;
    bed.until_logged("p", "main", "options ndots:5").await?;
    let seen = bed.logs("p", "main").await?;
    let node = bed.cluster.node_exec(&["hostname"]).await?;
    has_line("the log", &seen, node.trim())?;
    has_line("resolv.conf", &seen, "nameserver 10.96.0.10")
}

async fn host_port(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'while true; do echo from the pod | nc -l -p 7000; done']
  ports: [{containerPort: 7000, hostPort: 17000}]
  readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    let read = async {
        loop {
            // The server takes one connection at a time, the probe's may be the one, and between
            // two nobody listens.
            let mut answer = String::new();
            let connected =
                tokio::net::TcpStream::connect((text(&pod, "status.hostIP").as_str(), 17000)).await;
            if let Ok(mut stream) = connected
                && stream.read_to_string(&mut answer).await.is_ok()
                && !answer.is_empty()
            {
                return answer;
            }
            tokio::time::sleep(tokio::time::Duration::from_millis(50)).await;
        }
    };
    let deadline = tokio::time::Duration::from_secs(20);
    let answer = tokio::time::timeout(deadline, read)
        .await
        .context("no answer from the host port in 20 s")?;
    same("what the host port answers", answer.as_str(), "from the pod\n")
}

/// What upstream's kubelet makes on the node with `makeIPTablesUtilChains`.
async fn chains_of_the_kubelet(bed: Bed) -> Result<()> {
    let pid = bed.cluster.run(&["kubelet", "pid", "n1"]).await?;
    let save = async |table: &str| -> Result<String> {
        let mut command = tokio::process::Command::new("nsenter");
        command.args(["-t", pid.trim(), "-m", "-n", "iptables-save", "-t", table]);
        let output = command.output().await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mangle = save("mangle").await?;
    for chain in [":KUBE-IPTABLES-HINT *", ":KUBE-KUBELET-CANARY *"] {
        has_line("mangle", &mangle, chain)?;
    }
    has_line("nat", &save("nat").await?, ":KUBE-KUBELET-CANARY *")?;
    let filter = save("filter").await?;
    for line in [
        ":KUBE-KUBELET-CANARY *",
        "-A INPUT -j KUBE-FIREWALL",
        "-A OUTPUT -j KUBE-FIREWALL",
        "-A KUBE-FIREWALL * -m comment --comment \"block incoming localnet connections\" *-j DROP",
    ] {
        has_line("filter", &filter, line)?;
    }
    Ok(())
}
