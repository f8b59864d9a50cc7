//! Whether a container that was killed is started again, whatever its exit code. Pure.
//!
//! What its exit code asks for is [`crate::model::restart`].

use super::container_spec::ContainerSpec;
use super::types::KillReason;
use crate::model::RestartPolicy;
use crate::model::observed::Exit;
use crate::model::reason::container::OOM_KILLED;

/// Returns true if a container that was killed for `why` is replaced whatever its exit code.
pub(super) fn after_kill(spec: &ContainerSpec<'_>, why: &KillReason) -> bool {
    match why {
        KillReason::DefinitionChanged | KillReason::Unknown | KillReason::Resize => true,
        KillReason::Liveness | KillReason::Startup => spec.restart.policy() != RestartPolicy::Never,
        KillReason::SandboxChanged => spec.restart.pod_policy() != RestartPolicy::Never,
        KillReason::PodStopping
        | KillReason::PostStart { .. }
        | KillReason::NotWanted
        | KillReason::RestartAll => false,
    }
}

/// Returns true if a container that is being killed for `why` is not started again, whatever its
/// exit code will be.
pub(super) fn stays_stopped(spec: &ContainerSpec<'_>, why: &KillReason) -> bool {
    spec.restart.policy() == RestartPolicy::Never
        && !spec.restart.has_rules()
        && !after_kill(spec, why)
}

/// Returns true if an init container has failed: an OOM kill counts even where the exit code is
/// zero.
pub(super) fn init_failed(exit: &Exit) -> bool {
    exit.exit_code != 0 || exit.reason == OOM_KILLED
}
