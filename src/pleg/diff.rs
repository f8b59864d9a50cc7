//! Compares a list's rows with the published observation. Pure. Fed by the relist.

use super::convert::{Rows, same_state};
use crate::model::ObservedPod;

/// Returns true if the pod has to be read: something has come, gone or changed its state.
pub(super) fn differs(known: &ObservedPod, rows: Option<&Rows>) -> bool {
    let Some(rows) = rows else { return !known.is_empty() };
    if known.sandboxes.len() != rows.sandboxes.len()
        || known.containers.len() != rows.containers.len()
    {
        return true;
    }

    let sandbox = |row: &super::convert::SandboxRow| {
        known.sandboxes.iter().any(|known| known.id == row.id && known.state == row.state)
    };
    let container = |row: &super::convert::ContainerRow| {
        known.container(&row.id).is_some_and(|known| same_state(row.state, &known.state))
    };

    !rows.sandboxes.iter().all(sandbox) || !rows.containers.iter().all(container)
}

#[cfg(test)]
mod tests {
    use super::differs;
    use crate::cri::v1;
    use crate::model::{ObservedPod, SandboxId, SandboxState};
    use crate::pleg::convert::{self, ContainerRow, Rows, SandboxRow};

    #[track_caller]
    fn check(state: v1::ContainerState, sandbox: SandboxState, id: &str, expected: bool) {
        let status = v1::ContainerStatus {
            id: "c".to_owned(),
            state: v1::ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        let known = ObservedPod {
            sandboxes: vec![convert::sandbox(v1::PodSandboxStatus {
                id: "s".to_owned(),
                ..Default::default()
            })],
            containers: vec![convert::container(status, SandboxId::new("s")).0],
        };
        let rows = Rows {
            key: None,
            sandboxes: vec![SandboxRow { id: SandboxId::new("s"), state: sandbox }],
            containers: vec![ContainerRow { id: id.into(), sandbox: SandboxId::new("s"), state }],
        };
        assert_eq!(differs(&known, Some(&rows)), expected);
        assert!(differs(&known, None));
        assert!(!differs(&ObservedPod::default(), None));
        assert!(differs(&ObservedPod::default(), Some(&rows)));
    }

    #[test]
    fn sees_states_and_identities() {
        check(v1::ContainerState::ContainerRunning, SandboxState::Ready, "c", false);
        check(v1::ContainerState::ContainerExited, SandboxState::Ready, "c", true);
        check(v1::ContainerState::ContainerRunning, SandboxState::NotReady, "c", true);
        check(v1::ContainerState::ContainerRunning, SandboxState::Ready, "d", true);
    }
}
