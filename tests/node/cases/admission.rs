//! Pods that somebody put on the node which the node cannot take.

use anyhow::Result;

use crate::bed::{Bed, shows};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(more_cpu_than_there_is),
        case(node_selector_that_does_not_match),
        case(host_port_that_is_taken),
        case(sysctl_that_is_not_allowed),
        case(profile_without_apparmor),
        case(pod_of_another_system),
    ]
}

async fn refused(bed: &Bed, name: &str, reason: &str, message: &str) -> Result<()> {
    bed.until(
        name,
        &[
            "phase=Failed",
            &format!("status.reason={reason}"),
            &format!("status.message=Pod was rejected: {message}"),
            "status.startTime=?*",
            "status.podIP=",
        ],
    )
    .await?;
    shows(&bed.event(name, reason, message).await?, &["type=Warning"])
}

async fn more_cpu_than_there_is(bed: Bed) -> Result<()> {
    bed.pod("p", "{nodeName: n1, containers: [{name: main, image: busybox, resources: {requests: {cpu: '1000'}}}]}")
        .await?;
    refused(
        &bed,
        "p",
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 1000000, used: *, capacity: *",
    )
    .await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await
}

async fn node_selector_that_does_not_match(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        "{nodeName: n1, nodeSelector: {disk: ssd}, containers: [{name: main, image: busybox}]}",
    )
    .await?;
    let message =
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    refused(&bed, "p", "NodeAffinity", message).await
}

async fn host_port_that_is_taken(bed: Bed) -> Result<()> {
    let spec = "{nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000'], ports: [{containerPort: 80, hostPort: 17001}]}]}";
    bed.pod("first", spec).await?;
    bed.until("first", &["cond[Ready]=True"]).await?;
    bed.pod("second", spec).await?;
    let message =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    refused(&bed, "second", "NodePorts", message).await?;
    bed.until("first", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    Ok(())
}

async fn sysctl_that_is_not_allowed(bed: Bed) -> Result<()> {
    let spec = "{securityContext: {sysctls: [{name: kernel/msgmax, value: '65536'}]}, containers: [{name: main, image: busybox}]}";
    bed.pod("p", spec).await?;
    refused(&bed, "p", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted")
        .await
}

async fn profile_without_apparmor(bed: Bed) -> Result<()> {
    let spec = "{securityContext: {appArmorProfile: {type: RuntimeDefault}}, containers: [{name: main, image: busybox, command: [sleep, '5']}]}";
    bed.pod("p", spec).await?;
    if std::path::Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        bed.until("p", &["phase=Running"]).await?;
        return Ok(());
    }
    refused(&bed, "p", "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
        .await
}

async fn pod_of_another_system(bed: Bed) -> Result<()> {
    let spec = "{nodeName: n1, os: {name: windows}, containers: [{name: main, image: busybox}]}";
    bed.pod("p", spec).await?;
    refused(
        &bed,
        "p",
        "PodOSNotSupported",
        "Failed to admit pod as the OS field doesn't match node OS",
    )
    .await?;
    let label = "{labels: {kubernetes.io/os: windows}}";
    bed.labelled_pod("q", label, "{nodeName: n1, containers: [{name: main, image: busybox}]}")
        .await?;
    let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
    refused(&bed, "q", "PodOSSelectorNodeLabelDoesNotMatch", message).await
}
