//! The cases, one file per area; each function is one case and its name is the case's.

use crate::{Case, case, slow};

mod admission;
mod backend;
pub(crate) mod certs;
mod claims;
pub(crate) mod csi;
mod debugging;
mod disturbed;
mod ends;
mod env;
mod eviction;
mod identity;
mod images;
mod in_place;
mod init;
mod lifecycle;
mod metrics;
mod network;
mod node;
mod probes;
mod security;
mod static_pods;
mod stats;
mod streams;
mod tools;
mod volumes;
mod volumes_killed;

/// What all cases ask of the kubelet's configuration, over what kubeadm would write.
pub(crate) const KUBELET_CONFIG: &str = "
# The content of volumes is looked at again at this pace: within a case's patience.
syncFrequency: 10s
";

/// Cases that run side by side.
pub(crate) fn together() -> Vec<Case> {
    [
        admission::cases(),
        claims::cases(),
        csi::cases(),
        debugging::cases(),
        ends::cases(),
        env::cases(),
        eviction::cases(),
        identity::cases(),
        images::cases(),
        in_place::cases(),
        init::cases(),
        lifecycle::cases(),
        network::cases(),
        node::cases(),
        probes::cases(),
        security::cases(),
        static_pods::cases(),
        metrics::cases(),
        stats::cases(),
        streams::cases(),
        tools::cases(),
        volumes::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Cases that disturb the node: one after the other.
pub(crate) fn alone() -> Vec<Case> {
    let disturbing = [
        streams::alone(),
        eviction::alone(),
        volumes_killed::cases(),
        csi::alone(),
        disturbed::cases(),
        backend::cases(),
    ];
    disturbing.into_iter().flatten().collect()
}

/// What must work on every containerd.
pub(crate) fn smoke() -> Vec<Case> {
    vec![
        case(lifecycle::runs_and_is_ready),
        case(lifecycle::fails_with_its_exit_code),
        slow(lifecycle::crash_loop_waits_and_says_so),
        case(lifecycle::termination_message_falls_back_to_the_log),
        case(images::never_pulled),
        case(images::missing_command),
        case(init::init_containers_run_in_order),
        case(init::sidecars_end_after_the_main_container_in_reverse),
        case(init::ephemeral_container),
        case(probes::exec_readiness_fails_and_recovers),
        slow(probes::exec_liveness_restarts),
        case(probes::exec_probe_times_out),
        case(ends::pre_stop_exec),
        case(ends::grace_period_then_killed),
        case(ends::same_name_again),
    ]
}
