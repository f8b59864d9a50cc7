//! Reads one pod: the lists of the pod, then the status of each sandbox and container that is new
//! or has changed. Fed by the task. It changes nothing and publishes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};

use super::convert::{self, ContainerRow, Rows, same_state};
use super::dirty::Look;
use super::termination;
use crate::cri::{CriError, Runtime, labels, v1};
use crate::model::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, PodKey, PodUid,
    SandboxId, SandboxState,
};

/// The statuses of one pod that are requested at the same time, at most.
const STATUSES_AT_ONCE: usize = 8;
/// The time that one pod's read may take. A longer one is given up and tried again, so that a
/// status call that hangs does not hold a place for ever.
const LIMIT: Duration = Duration::from_secs(10);

/// A read that the task orders.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) uid: PodUid,
    pub(super) look: Look,
    /// The pod's rows of a recent relist, so that it need not be listed again.
    pub(super) rows: Option<Rows>,
    /// The last observation: what has not changed is taken from here.
    pub(super) known: Arc<ObservedPod>,
}

/// The result of a read.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) pod: ObservedPod,
    pub(super) key: Option<PodKey>,
}

/// Reads a pod as ordered, within [`LIMIT`].
pub(super) async fn read(runtime: &Runtime, order: Order) -> Result<Outcome, CriError> {
    let work = async {
        if order.look.whole { whole(runtime, order).await } else { part(runtime, order).await }
    };

    tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(CriError::deadline("ContainerStatus")))
}

/// Lists one pod, or all pods with `None`.
pub(super) async fn list(
    runtime: &Runtime,
    uid: Option<&PodUid>,
) -> Result<HashMap<PodUid, Rows>, CriError> {
    let selector: HashMap<String, String> =
        uid.map(|uid| (labels::POD_UID.to_owned(), uid.as_str().to_owned())).into_iter().collect();
    let sandboxes = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let containers = v1::ContainerFilter { label_selector: selector, ..Default::default() };

    let (sandboxes, containers) = tokio::try_join!(
        runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(sandboxes) }),
        runtime.list_containers(v1::ListContainersRequest { filter: Some(containers) }),
    )?;
    Ok(convert::group(sandboxes.items, containers.containers))
}

/// Reads the whole pod. The statuses of rows that have not changed are not requested again.
async fn whole(runtime: &Runtime, order: Order) -> Result<Outcome, CriError> {
    let Order { uid, look, rows, known } = order;
    let rows = match rows {
        Some(rows) => rows,
        None => list(runtime, Some(&uid)).await?.remove(&uid).unwrap_or_default(),
    };

    let unchanged_sandbox = |row: &convert::SandboxRow| {
        let known =
            known.sandboxes.iter().find(|known| known.id == row.id && known.state == row.state)?;
        // A working sandbox that had no address yet is read again.
        let complete =
            !known.ips.is_empty() || known.host_network || known.state == SandboxState::NotReady;
        (complete && !look.sandboxes.contains(&row.id)).then(|| known.clone())
    };
    let unchanged_container = |row: &ContainerRow| {
        let known = known.container(&row.id).filter(|known| same_state(row.state, &known.state))?;
        (!look.containers.contains_key(&row.id)).then(|| known.clone())
    };
    let mut pod = ObservedPod::default();

    let mut sandboxes = BTreeSet::new();
    for row in &rows.sandboxes {
        match unchanged_sandbox(row) {
            Some(known) => pod.sandboxes.push(known),
            None => drop(sandboxes.insert(row.id.clone())),
        }
    }

    let mut containers = BTreeMap::new();
    for row in rows.containers {
        match unchanged_container(&row) {
            Some(known) => pod.containers.push(known),
            None => drop(containers.insert(row.id, row.sandbox)),
        }
    }

    let (sandboxes, containers) = tokio::try_join!(
        sandbox_statuses(runtime, sandboxes),
        container_statuses(runtime, containers)
    )?;
    pod.sandboxes.extend(sandboxes.into_iter().filter_map(|(_, found)| found));
    pod.containers.extend(containers.into_iter().filter_map(|(_, found)| found));
    convert::sort(&mut pod);

    Ok(Outcome { pod, key: rows.key })
}

/// Reads only what the look names; the rest is taken from the last observation.
async fn part(runtime: &Runtime, order: Order) -> Result<Outcome, CriError> {
    let Order { uid: _, look, rows: _, known } = order;
    let mut containers = BTreeMap::new();
    for (id, sandbox) in look.containers {
        let sandbox = sandbox.or_else(|| known.container(&id).map(|known| known.sandbox.clone()));
        match sandbox {
            Some(sandbox) => drop(containers.insert(id, sandbox)),
            None => containers.extend(sandbox_of(runtime, id).await?),
        }
    }

    let (sandboxes, mut containers) = tokio::try_join!(
        sandbox_statuses(runtime, look.sandboxes),
        container_statuses(runtime, containers)
    )?;

    let asked: BTreeSet<ContainerId> = containers.iter().map(|(id, _)| id.clone()).collect();
    let taken_along =
        taken_along(&known, &sandboxes).into_iter().filter(|(id, _)| !asked.contains(id)).collect();
    containers.extend(container_statuses(runtime, taken_along).await?);

    let mut pod = ObservedPod::clone(&known);
    for (id, found) in sandboxes {
        pod.sandboxes.retain(|known| known.id != id);
        pod.sandboxes.extend(found);
    }

    for (id, found) in containers {
        pod.containers.retain(|known| known.id != id);
        pod.containers.extend(found);
    }

    convert::sort(&mut pod);
    Ok(Outcome { pod, key: None })
}

/// Returns the containers that a changed sandbox affects: all of a sandbox that is gone, and those
/// that have not ended of a sandbox that has stopped.
fn taken_along(
    known: &ObservedPod,
    sandboxes: &[(SandboxId, Option<ObservedSandbox>)],
) -> BTreeMap<ContainerId, SandboxId> {
    let is_taken = |container: &&ObservedContainer| {
        sandboxes.iter().filter(|(id, _)| *id == container.sandbox).any(|(_, found)| match found {
            None => true,
            Some(sandbox) => {
                sandbox.state == SandboxState::NotReady && container.state.exit().is_none()
            }
        })
    };
    known
        .containers
        .iter()
        .filter(is_taken)
        .map(|found| (found.id.clone(), found.sandbox.clone()))
        .collect()
}

/// Returns the sandbox of a container. A list names it, a container's status does not.
async fn sandbox_of(
    runtime: &Runtime,
    id: ContainerId,
) -> Result<Option<(ContainerId, SandboxId)>, CriError> {
    let filter = v1::ContainerFilter { id: id.as_str().to_owned(), ..Default::default() };
    let found = runtime
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await?
        .containers;

    let found = found.into_iter().find(|container| container.id == id.as_str());
    Ok(found.map(|container| (id, SandboxId::new(container.pod_sandbox_id))))
}

async fn sandbox_statuses(
    runtime: &Runtime,
    ids: BTreeSet<SandboxId>,
) -> Result<Vec<(SandboxId, Option<ObservedSandbox>)>, CriError> {
    let ask = |id: SandboxId| async move {
        let request =
            v1::PodSandboxStatusRequest { pod_sandbox_id: id.as_str().to_owned(), verbose: false };
        match runtime.pod_sandbox_status(request).await {
            Ok(answer) => {
                let status =
                    answer.status.ok_or_else(|| nothing("PodSandboxStatus", id.as_str()))?;
                Ok((id, Some(convert::sandbox(status))))
            }
            // It was removed after it was listed.
            Err(error) if error.is_not_found() => Ok((id, None)),
            Err(error) => Err(error),
        }
    };
    futures::stream::iter(ids).map(ask).buffer_unordered(STATUSES_AT_ONCE).try_collect().await
}

async fn container_statuses(
    runtime: &Runtime,
    ids: BTreeMap<ContainerId, SandboxId>,
) -> Result<Vec<(ContainerId, Option<ObservedContainer>)>, CriError> {
    let ask = |(id, sandbox): (ContainerId, SandboxId)| async move {
        let request =
            v1::ContainerStatusRequest { container_id: id.as_str().to_owned(), verbose: false };
        match runtime.container_status(request).await {
            Ok(answer) => {
                let status =
                    answer.status.ok_or_else(|| nothing("ContainerStatus", id.as_str()))?;
                Ok((id, Some(with_message(status, sandbox).await)))
            }
            // It was removed after it was listed.
            Err(error) if error.is_not_found() => Ok((id, None)),
            Err(error) => Err(error),
        }
    };
    futures::stream::iter(ids).map(ask).buffer_unordered(STATUSES_AT_ONCE).try_collect().await
}

fn nothing(call: &'static str, id: &str) -> CriError {
    CriError::unusable_answer(call, format!("status of {id} is not set"))
}

/// Converts a status. A container that has ended gets its termination message.
async fn with_message(status: v1::ContainerStatus, sandbox: SandboxId) -> ObservedContainer {
    let (mut container, source) = convert::container(status, sandbox);
    let (Some(source), ContainerState::Exited(exit)) = (source, &mut container.state) else {
        return container;
    };
    if source == termination::Source::default() {
        return container;
    }

    let mut read = exit.clone();
    let read = crate::linux::blocking::spawn(move || {
        termination::complete(&mut read, &source);
        read
    });
    if let Ok(read) = read.await {
        *exit = read;
    }

    container
}
