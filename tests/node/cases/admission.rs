//! Pods that somebody put on the node which the node cannot take.

use anyhow::Result;

use crate::bed::{Bed, shows};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(more_cpu_than_there_is), case(node_selector_that_does_not_match), case(host_port_that_is_taken)]
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
    refused(&bed, "p", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000000, used: *, capacity: *")
        .await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await
}

async fn node_selector_that_does_not_match(bed: Bed) -> Result<()> {
    bed.pod("p", "{nodeName: n1, nodeSelector: {disk: ssd}, containers: [{name: main, image: busybox}]}").await?;
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    refused(&bed, "p", "NodeAffinity", message).await
}

async fn host_port_that_is_taken(bed: Bed) -> Result<()> {
    let spec = "{nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000'], ports: [{containerPort: 80, hostPort: 17001}]}]}";
    bed.pod("first", spec).await?;
    bed.until("first", &["cond[Ready]=True"]).await?;
    bed.pod("second", spec).await?;
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    refused(&bed, "second", "NodePorts", message).await?;
    bed.until("first", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    Ok(())
}
