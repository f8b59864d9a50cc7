//! The Node object, its lease and its events.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bed::{Bed, shows};
use crate::look::{at, text};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(node_object),
        case(node_conditions),
        case(lease_is_renewed),
        case(node_events),
        case(node_lists_its_images),
    ]
}

async fn node_object(bed: Bed) -> Result<()> {
    let node = bed.get("Node", "n1").await?;
    shows(
        &node,
        &[
            "metadata.labels[kubernetes.io/hostname]=n1",
            "metadata.labels[kubernetes.io/os]=linux",
            "metadata.labels[kubernetes.io/arch]=?*",
            "metadata.labels[beta.kubernetes.io/os]=linux",
            "metadata.annotations[volumes.kubernetes.io/controller-managed-attach-detach]=true",
            "status.addresses[InternalIP].address=10.200.0.11",
            "status.addresses[Hostname].address=n1",
            "status.capacity.cpu=?*",
            "status.capacity.memory=?*Ki",
            "status.capacity.pods=110",
            "status.capacity.ephemeral-storage=?*Ki",
            "status.allocatable.cpu=?*",
            "status.allocatable.memory=?*Ki",
            "status.allocatable.pods=110",
            "status.allocatable.ephemeral-storage=?*",
            "status.daemonEndpoints.kubeletEndpoint.Port=10250",
            "status.nodeInfo.kubeletVersion=v1.36.3",
            "status.nodeInfo.containerRuntimeVersion=containerd://?*",
            "status.nodeInfo.operatingSystem=linux",
            "status.nodeInfo.kernelVersion=?*",
            "status.nodeInfo.osImage=?*",
            "status.nodeInfo.machineID=?*",
            "status.nodeInfo.bootID=?*",
            "status.runtimeHandlers[runc].name=runc",
            "status.runtimeHandlers[test-handler].name=test-handler",
        ],
    )?;
    let memory = |path: &str| text(&node, path).trim_end_matches("Ki").parse::<u64>();
    // The threshold of evictionHard is not given to pods: 100 MiB.
    let kept = memory("status.capacity.memory")? - memory("status.allocatable.memory")?;
    ensure!(kept == 102_400, "{kept} KiB are kept from pods, wanted 102400");
    Ok(())
}

async fn node_conditions(bed: Bed) -> Result<()> {
    let node = bed.get("Node", "n1").await?;
    shows(
        &node,
        &[
            "cond[MemoryPressure]=False",
            "cond[MemoryPressure].reason=KubeletHasSufficientMemory",
            "cond[MemoryPressure].message=kubelet has sufficient memory available",
            "cond[DiskPressure]=False",
            "cond[DiskPressure].reason=KubeletHasNoDiskPressure",
            "cond[DiskPressure].message=kubelet has no disk pressure",
            "cond[PIDPressure]=False",
            "cond[PIDPressure].reason=KubeletHasSufficientPID",
            "cond[PIDPressure].message=kubelet has sufficient PID available",
            "cond[Ready]=True",
            "cond[Ready].reason=KubeletReady",
            "cond[Ready].message=kubelet is posting ready status",
            "cond[Ready].lastHeartbeatTime=?*",
        ],
    )?;
    let order: Vec<String> =
        (0..4).map(|index| text(&node, &format!("status.conditions[{index}].type"))).collect();
    ensure!(
        order == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"],
        "the order is {order:?}"
    );
    Ok(())
}

async fn lease_is_renewed(bed: Bed) -> Result<()> {
    let leases = Bed { name: "kube-node-lease".to_owned(), ..bed };
    let lease = leases.get("Lease", "n1").await?;
    shows(
        &lease,
        &[
            "spec.holderIdentity=n1",
            "spec.leaseDurationSeconds=40",
            "metadata.ownerReferences[0].kind=Node",
            "metadata.ownerReferences[0].name=n1",
        ],
    )?;
    let before = text(&lease, "spec.renewTime");
    let deadline = Instant::now() + Duration::from_secs(30);
    while text(&leases.get("Lease", "n1").await?, "spec.renewTime") == before {
        ensure!(Instant::now() < deadline, "the lease of {before} was not renewed in 30 s");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn node_events(bed: Bed) -> Result<()> {
    let default = Bed { name: "default".to_owned(), ..bed };
    let starting = default.event("n1", "Starting", "Starting kubelet.").await?;
    shows(&starting, &["type=Normal", "involvedObject.kind=Node", "source.component=kubelet"])?;
    for (reason, message) in [
        ("NodeHasSufficientMemory", "Node n1 status is now: NodeHasSufficientMemory"),
        ("NodeHasNoDiskPressure", "Node n1 status is now: NodeHasNoDiskPressure"),
        ("NodeHasSufficientPID", "Node n1 status is now: NodeHasSufficientPID"),
        ("NodeAllocatableEnforced", "Updated Node Allocatable limit across pods"),
    ] {
        default.event("n1", reason, message).await?;
    }
    Ok(())
}

async fn node_lists_its_images(bed: Bed) -> Result<()> {
    let name = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let node = bed.get("Node", "n1").await?;
        let images = at(&node, "status.images")
            .and_then(|list| list.as_array().cloned())
            .unwrap_or_default();
        let found = images
            .iter()
            .find(|image| at(image, "names").is_some_and(|names| names.to_string().contains(name)));
        if let Some(found) = found {
            ensure!(
                at(found, "sizeBytes").and_then(serde_json::Value::as_i64).unwrap_or_default()
                    > 1000,
                "{found}"
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after 60 s the node does not list {name}: {images:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
