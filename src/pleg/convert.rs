//! Converts the runtime's answers to the vocabulary of `model`. Pure. Fed by `read` and the relist.

use std::collections::HashMap;
use std::net::IpAddr;

use super::termination::Source;
use crate::cri::{labels, v1};
use crate::model::observed::{AppliedResources, Exit, LinuxUser, ObservedMount};
use crate::model::pod;
use crate::model::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, PodKey, PodUid,
    SandboxId, SandboxState, Wall,
};

/// A sandbox as a list describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SandboxRow {
    pub(super) id: SandboxId,
    pub(super) state: SandboxState,
}

/// A container as a list describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerRow {
    pub(super) id: ContainerId,
    pub(super) sandbox: SandboxId,
    pub(super) state: v1::ContainerState,
}

/// One pod as the lists describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) key: Option<PodKey>,
    pub(super) sandboxes: Vec<SandboxRow>,
    pub(super) containers: Vec<ContainerRow>,
}

/// Groups the lists by pod. Entries without a UID are not ours and are left out.
pub(super) fn group(
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
) -> HashMap<PodUid, Rows> {
    let mut pods: HashMap<PodUid, Rows> = HashMap::new();
    for mut sandbox in sandboxes {
        let Some(rows) = pod_of(&mut pods, &mut sandbox.labels) else { continue };
        let state = sandbox_state(sandbox.state());
        rows.sandboxes.push(SandboxRow { id: SandboxId::new(sandbox.id), state });
    }

    for mut container in containers {
        let Some(rows) = pod_of(&mut pods, &mut container.labels) else { continue };
        let state = container.state();
        rows.containers.push(ContainerRow {
            id: ContainerId::new(container.id),
            sandbox: SandboxId::new(container.pod_sandbox_id),
            state,
        });
    }

    pods
}

/// Returns the rows of the pod that the labels name; takes the labels that it needs.
fn pod_of<'a>(
    pods: &'a mut HashMap<PodUid, Rows>,
    found: &mut HashMap<String, String>,
) -> Option<&'a mut Rows> {
    let uid = found.remove(labels::POD_UID).filter(|uid| !uid.is_empty())?;
    let rows = pods.entry(PodUid::new(uid)).or_default();
    if rows.key.is_none()
        && let (Some(namespace), Some(name)) =
            (found.remove(labels::POD_NAMESPACE), found.remove(labels::POD_NAME))
    {
        rows.key = Some(PodKey::new(namespace, name));
    }
    Some(rows)
}

/// Returns true if a list's state of a container equals the known one.
pub(super) fn same_state(row: v1::ContainerState, known: &ContainerState) -> bool {
    matches!(
        (row, known),
        (v1::ContainerState::ContainerCreated, ContainerState::Created)
            | (v1::ContainerState::ContainerRunning, ContainerState::Running { .. })
            | (v1::ContainerState::ContainerExited, ContainerState::Exited(_))
            | (v1::ContainerState::ContainerUnknown, ContainerState::Unknown)
    )
}

fn sandbox_state(state: v1::PodSandboxState) -> SandboxState {
    match state {
        v1::PodSandboxState::SandboxReady => SandboxState::Ready,
        v1::PodSandboxState::SandboxNotready => SandboxState::NotReady,
    }
}

/// Converts a sandbox's status.
pub(super) fn sandbox(status: v1::PodSandboxStatus) -> ObservedSandbox {
    let state = sandbox_state(status.state());
    let source = status.annotations.get(pod::CONFIG_SOURCE);
    let is_static = source.is_some_and(|source| pod::is_of_node(source));
    let options =
        status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);

    ObservedSandbox {
        id: SandboxId::new(status.id),
        attempt: status.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
        state,
        created_at: wall(status.created_at),
        ips: addresses(status.network.as_ref()),
        host_network: options.is_some_and(|options| options.network() == v1::NamespaceMode::Node),
        runtime_handler: status.runtime_handler,
        is_static,
    }
}

/// Parses a sandbox's addresses, the primary one first. If one of them is malformed the result is
/// empty, as upstream's.
fn addresses(network: Option<&v1::PodSandboxNetworkStatus>) -> Vec<IpAddr> {
    let Some(network) = network else { return Vec::new() };
    let additional = network.additional_ips.iter().map(|ip| ip.ip.as_str());
    let all = std::iter::once(network.ip.as_str()).filter(|ip| !ip.is_empty()).chain(additional);
    all.map(|ip| ip.parse().ok()).collect::<Option<_>>().unwrap_or_default()
}

/// Converts a container's status. For a container that has ended, also returns the source of its
/// termination message.
pub(super) fn container(
    status: v1::ContainerStatus,
    sandbox: SandboxId,
) -> (ObservedContainer, Option<Source>) {
    let annotation =
        |name: &str| status.annotations.get(name).map(String::as_str).unwrap_or_default();
    let attempt = status.metadata.as_ref().map(|metadata| metadata.attempt).unwrap_or_default();
    let state = container_state(&status);
    let source = state.exit().map(|exit| source(&status, exit));

    let observed = ObservedContainer {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox,
        restart_count: annotation(labels::CONTAINER_RESTART_COUNT).parse().unwrap_or(attempt),
        hash: u64::from_str_radix(annotation(labels::CONTAINER_HASH), 16).unwrap_or_default(),
        created_at: wall(status.created_at),
        state,
        stop_signal: stop_signal(status.stop_signal()),
        id: ContainerId::new(status.id),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_ref: status.image_ref,
        user: status.user.and_then(|user| user.linux).map(|user| LinuxUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups,
        }),
        resources: status
            .resources
            .and_then(|resources| resources.linux)
            .map(|linux| applied(&linux)),
        mounts: mounts(status.mounts),
        log_path: status.log_path,
    };

    (observed, source)
}

/// Converts mounts into a vector of exact size. Collecting in place would keep the memory of the
/// runtime's longer form.
fn mounts(mounts: Vec<v1::Mount>) -> Vec<ObservedMount> {
    let mut made = Vec::with_capacity(mounts.len());
    made.extend(mounts.into_iter().map(mount));
    made
}

fn container_state(status: &v1::ContainerStatus) -> ContainerState {
    match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => {
            ContainerState::Running { started_at: wall(status.started_at) }
        }
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
        v1::ContainerState::ContainerExited => ContainerState::Exited(Exit {
            started_at: (status.started_at > 0).then(|| wall(status.started_at)),
            finished_at: wall(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }),
    }
}

fn source(status: &v1::ContainerStatus, exit: &Exit) -> Source {
    let annotation =
        |name: &str| status.annotations.get(name).map(String::as_str).unwrap_or_default();

    let path = annotation(labels::CONTAINER_TERMINATION_MESSAGE_PATH);
    // A relative path starts at the container's root.
    let path =
        if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);

    // A container that could not be started has no log.
    let fallback = annotation(labels::CONTAINER_TERMINATION_MESSAGE_POLICY)
        == "FallbackToLogsOnError"
        && exit.exit_code != 0
        && exit.reason != "ContainerCannotRun";

    Source {
        file: mount.map(|mount| mount.host_path.clone()),
        log: fallback.then(|| status.log_path.clone()),
    }
}

fn mount(mount: v1::Mount) -> ObservedMount {
    ObservedMount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
    }
}

fn applied(linux: &v1::LinuxContainerResources) -> AppliedResources {
    let said = |value: i64| (value != 0).then_some(value);
    AppliedResources {
        cpu_shares: said(linux.cpu_shares),
        cpu_quota: said(linux.cpu_quota),
        cpu_period: said(linux.cpu_period),
        memory_limit: said(linux.memory_limit_in_bytes),
    }
}

/// Returns a stop signal in the API's spelling, e.g. `SIGRTMIN+3`; `None` if the runtime does not
/// report one.
fn stop_signal(signal: v1::Signal) -> Option<String> {
    if signal == v1::Signal::RuntimeDefault {
        return None;
    }
    let name = signal.as_str_name();
    Some(name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// Converts nanoseconds since the epoch. A value out of range becomes the epoch.
fn wall(nanoseconds: i64) -> Wall {
    Wall::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Wall::UNIX_EPOCH)
}

/// Sorts the newest first: sandboxes by attempt, creation and id; containers by creation and id.
pub(super) fn sort(pod: &mut ObservedPod) {
    pod.sandboxes.sort_by(|a, b| {
        b.attempt
            .cmp(&a.attempt)
            .then_with(|| b.created_at.cmp(&a.created_at))
            .then_with(|| a.id.cmp(&b.id))
    });
    pod.containers.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
}

#[cfg(test)]
mod tests {
    use super::{addresses, container, group, sort, stop_signal};
    use crate::cri::{labels, v1};
    use crate::model::{ContainerState, ObservedPod, SandboxId};

    fn strings(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn check_addresses(primary: &str, additional: &[&str], expected: &[&str]) {
        let additional_ips =
            additional.iter().map(|ip| v1::PodIp { ip: (*ip).to_owned() }).collect();
        let network = v1::PodSandboxNetworkStatus { ip: primary.to_owned(), additional_ips };
        let found: Vec<String> =
            addresses(Some(&network)).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_are_all_or_nothing() {
        check_addresses("10.0.0.1", &["fd00::1"], &["10.0.0.1", "fd00::1"]);
        check_addresses("", &[], &[]);
        check_addresses("10.0.0.1", &["x"], &[]);
    }

    #[test]
    fn foreign_objects_are_left_out() {
        let ours = strings(&[
            (labels::POD_UID, "u"),
            (labels::POD_NAME, "web"),
            (labels::POD_NAMESPACE, "shop"),
        ]);
        let sandbox =
            |id: &str, labels| v1::PodSandbox { id: id.to_owned(), labels, ..Default::default() };
        let pods = group(vec![sandbox("a", ours), sandbox("b", strings(&[]))], Vec::new());
        assert_eq!(pods.len(), 1);
        let rows = &pods[&"u".into()];
        assert_eq!(rows.key.as_ref().map(ToString::to_string).as_deref(), Some("shop/web"));
        assert_eq!(rows.sandboxes.len(), 1);
    }

    #[test]
    fn a_container_is_read_from_labels_and_annotations() {
        let status = v1::ContainerStatus {
            id: "c1".to_owned(),
            metadata: Some(v1::ContainerMetadata { name: "web".to_owned(), attempt: 4 }),
            state: v1::ContainerState::ContainerExited.into(),
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
            finished_at: 1_700_000_000_000_000_000,
            labels: strings(&[(labels::CONTAINER_NAME, "web")]),
            annotations: strings(&[
                (labels::CONTAINER_HASH, "1f"),
                (labels::CONTAINER_RESTART_COUNT, "3"),
                (labels::CONTAINER_TERMINATION_MESSAGE_PATH, "dev/termination-log"),
                (labels::CONTAINER_TERMINATION_MESSAGE_POLICY, "FallbackToLogsOnError"),
            ]),
            mounts: vec![v1::Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: "/host/log".to_owned(),
                ..Default::default()
            }],
            log_path: "/var/log/pods/x/web/3.log".to_owned(),
            ..Default::default()
        };
        let (observed, source) = container(status.clone(), SandboxId::new("s"));
        assert_eq!(
            (observed.name.as_str(), observed.hash, observed.restart_count),
            ("web", 0x1f, 3)
        );
        let exit = observed.state.exit().expect("it has ended");
        assert_eq!((exit.started_at, exit.reason.as_str()), (None, "OOMKilled"));
        let source = source.expect("it has ended");
        assert_eq!(source.file.as_deref(), Some("/host/log"));
        assert_eq!(source.log.as_deref(), Some("/var/log/pods/x/web/3.log"));
        let bare = v1::ContainerStatus { annotations: strings(&[]), exit_code: 0, ..status };
        let (observed, source) = container(bare, SandboxId::new("s"));
        assert_eq!((observed.hash, observed.restart_count), (0, 4));
        let source = source.expect("it has ended");
        assert_eq!((source.file, source.log), (None, None));
    }

    #[test]
    fn signals_are_spelled_as_in_the_api() {
        assert_eq!(stop_signal(v1::Signal::RuntimeDefault), None);
        assert_eq!(stop_signal(v1::Signal::Sigusr1).as_deref(), Some("SIGUSR1"));
        assert_eq!(stop_signal(v1::Signal::Sigrtminplus3).as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(stop_signal(v1::Signal::Sigrtmaxminus2).as_deref(), Some("SIGRTMAX-2"));
    }

    #[test]
    fn the_newest_comes_first() {
        let sandbox = |id: &str, attempt, created_at| {
            super::sandbox(v1::PodSandboxStatus {
                id: id.to_owned(),
                metadata: Some(v1::PodSandboxMetadata { attempt, ..Default::default() }),
                created_at,
                ..Default::default()
            })
        };
        let one = |id: &str, created_at| {
            let status =
                v1::ContainerStatus { id: id.to_owned(), created_at, ..Default::default() };
            container(status, SandboxId::new("s")).0
        };
        let mut pod = ObservedPod {
            sandboxes: vec![sandbox("old", 0, 9), sandbox("new", 1, 5)],
            containers: vec![one("b", 1), one("a", 1), one("c", 2)],
        };
        sort(&mut pod);
        assert_eq!(pod.latest_sandbox().map(|sandbox| sandbox.id.as_str()), Some("new"));
        let order: Vec<&str> =
            pod.containers.iter().map(|container| container.id.as_str()).collect();
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(pod.containers[0].state, ContainerState::Created);
    }
}
