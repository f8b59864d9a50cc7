//! The table of flags: the kubelet's own, and the leftovers of cAdvisor. Those that shadow a field
//! of the file are in `fields`. A new flag is a row here or there, and a row in `effects` if it is
//! no field.

use super::{Bind, FlagSpec, Ignored, fields};

const EVICTION_INSTEAD: &str =
    "Use --eviction-hard or --eviction-soft instead. Will be removed in a future version.";
const CADVISOR: &str = "This is a cadvisor flag that was mistakenly registered with the Kubelet. \
                        Due to legacy concerns, it will follow the standard CLI deprecation timeline before being removed.";

/// Flags under a heading of the help.
pub(super) type Group = (&'static str, &'static [FlagSpec]);

const fn own(name: &'static str, bind: Bind, help: &'static str) -> FlagSpec {
    FlagSpec { name, short: None, bind, deprecated: None, help }
}

const fn letter(short: char, name: &'static str, bind: Bind, help: &'static str) -> FlagSpec {
    FlagSpec { name, short: Some(short), bind, deprecated: None, help }
}

const fn going(
    name: &'static str,
    bind: Bind,
    notice: &'static str,
    help: &'static str,
) -> FlagSpec {
    FlagSpec { name, short: None, bind, deprecated: Some(notice), help }
}

const fn cadvisor(name: &'static str, kind: Ignored, default: &'static str) -> FlagSpec {
    let bind = Bind::Ignored(kind, default);
    FlagSpec { name, short: None, bind, deprecated: Some(CADVISOR), help: "Accepted and ignored." }
}

/// The flags that a node is set up with.
pub(super) static OWN: &[Group] = &[
    (
        "Configuration",
        &[
            own(
                "config",
                Bind::Text(|t| &mut t.flags.config),
                "The KubeletConfiguration file. Flags win over it.",
            ),
            own(
                "config-dir",
                Bind::Text(|t| &mut t.flags.config_dir),
                "Directory of drop-in files *.conf, merged onto the file in the order of their paths.",
            ),
            letter('h', "help", Bind::Bool(|t| &mut t.flags.help), "Print this and exit."),
            own(
                "version",
                Bind::Version(|t| &mut t.flags.version),
                "Print the version of Kubernetes that this kubelet implements and exit; raw prints every detail.",
            ),
        ],
    ),
    (
        "API server",
        &[
            own(
                "kubeconfig",
                Bind::Text(|t| &mut t.flags.kubeconfig),
                "How to reach the API server. Without it the kubelet runs standalone: static pods only.",
            ),
            own(
                "bootstrap-kubeconfig",
                Bind::Text(|t| &mut t.flags.bootstrap_kubeconfig),
                "How to request the first client certificate when --kubeconfig does not exist yet; it is then written.",
            ),
            own(
                "cert-dir",
                Bind::Text(|t| &mut t.flags.cert_dir),
                "Directory of the kubelet's certificates and keys.",
            ),
        ],
    ),
    (
        "This node",
        &[
            own(
                "hostname-override",
                Bind::Text(|t| &mut t.flags.hostname_override),
                "Name of the node, instead of the host's.",
            ),
            own(
                "node-ip",
                Bind::Text(|t| &mut t.flags.node_ip),
                "Address of the node, or an IPv4 and an IPv6 one with a comma between. Unset: the default route's \
                 address, IPv4 first; '::' prefers IPv6.",
            ),
            own(
                "node-labels",
                Bind::Labels(|t| &mut t.flags.node_labels),
                "Labels of a Node that is registered. Of kubernetes.io only those that a node may set for itself.",
            ),
            own(
                "cloud-provider",
                Bind::Text(|t| &mut t.flags.cloud_provider),
                "Empty, or 'external': a cloud controller completes the Node.",
            ),
            own(
                "provider-id",
                Bind::Text(|t| &mut t.config.provider_id),
                "Name of this node for the cloud provider.",
            ),
            own(
                "root-dir",
                Bind::Text(|t| &mut t.flags.root_dir),
                "Directory of the kubelet's state and of volumes.",
            ),
            own(
                "seccomp-default",
                Bind::Bool(|t| &mut t.flags.seccomp_default),
                "Use the runtime's default seccomp profile for pods that name none.",
            ),
            own(
                "fail-cgroupv1",
                Bind::Bool(|t| &mut t.config.fail_cgroup_v1),
                "Refuse to start on cgroup v1.",
            ),
            own(
                "runtime-cgroups",
                Bind::Text(|t| &mut t.flags.runtime_cgroups),
                "Cgroup of the container runtime, for its statistics.",
            ),
            own(
                "image-credential-provider-config",
                Bind::Text(|t| &mut t.flags.image_credential_provider_config),
                "File, or directory of files, that says which credential plug-ins give passwords for images.",
            ),
            own(
                "image-credential-provider-bin-dir",
                Bind::Text(|t| &mut t.flags.image_credential_provider_bin_dir),
                "Directory of these plug-ins.",
            ),
            own(
                "lock-file",
                Bind::Text(|t| &mut t.flags.lock_file),
                "File that is locked, so that only one kubelet runs (alpha).",
            ),
            own(
                "exit-on-lock-contention",
                Bind::Bool(|t| &mut t.flags.exit_on_lock_contention),
                "End when somebody else opens the lock file.",
            ),
            own(
                "housekeeping-interval",
                Bind::Duration(|t| &mut t.flags.housekeeping_interval),
                "How often container statistics are taken.",
            ),
        ],
    ),
    (
        "Log",
        &[
            letter(
                'v',
                "v",
                Bind::Level(|t| &mut t.config.logging.verbosity),
                "Level: 4 shows decisions, 6 everything.",
            ),
            own(
                "vmodule",
                Bind::VModule(|t| &mut t.config.logging.vmodule),
                "Levels of single source files, in text format.",
            ),
            own(
                "log-flush-frequency",
                Bind::Duration(|t| &mut t.config.logging.flush_frequency.duration),
                "How often a buffered log is flushed; lines are never held back here.",
            ),
        ],
    ),
];

/// Deprecated flags that are no fields of the file.
pub(super) static GOING: Group = (
    "Deprecated",
    &[
        going(
            "minimum-container-ttl-duration",
            Bind::Duration(|t| &mut t.flags.minimum_container_ttl_duration),
            EVICTION_INSTEAD,
            "Age of a dead container before it may be removed.",
        ),
        going(
            "maximum-dead-containers-per-container",
            Bind::Int32(|t| &mut t.flags.maximum_dead_containers_per_container),
            EVICTION_INSTEAD,
            "Dead instances kept per container.",
        ),
        going(
            "maximum-dead-containers",
            Bind::Int32(|t| &mut t.flags.maximum_dead_containers),
            EVICTION_INSTEAD,
            "Dead instances kept on the node; negative means no limit.",
        ),
        going(
            "experimental-mounter-path",
            Bind::Text(|t| &mut t.flags.experimental_mounter_path),
            "will be removed in 1.25 or later. in favor of using CSI.",
            "Accepted and ignored.",
        ),
        going(
            "experimental-allocatable-ignore-eviction",
            Bind::Bool(|t| &mut t.flags.experimental_allocatable_ignore_eviction),
            "will be removed in 1.25 or later.",
            "Do not subtract hard eviction thresholds from allocatable.",
        ),
    ],
);

/// Flags of the statistics library that upstream embeds. They never had a meaning for a kubelet.
pub(super) static CADVISOR_LEFTOVERS: Group = (
    "Ignored",
    &[
        cadvisor("application-metrics-count-limit", Ignored::Int, "100"),
        cadvisor("boot-id-file", Ignored::Text, "/proc/sys/kernel/random/boot_id"),
        cadvisor("container-hints", Ignored::Text, "/etc/cadvisor/container_hints.json"),
        cadvisor("containerd", Ignored::Text, "/run/containerd/containerd.sock"),
        cadvisor("containerd-namespace", Ignored::Text, "k8s.io"),
        cadvisor("enable-load-reader", Ignored::Bool, "false"),
        cadvisor("event-storage-age-limit", Ignored::Text, "default=24h"),
        cadvisor("event-storage-event-limit", Ignored::Text, "default=100000"),
        cadvisor("global-housekeeping-interval", Ignored::Duration, "1m0s"),
        cadvisor("log-cadvisor-usage", Ignored::Bool, "false"),
        cadvisor("machine-id-file", Ignored::Text, "/etc/machine-id,/var/lib/dbus/machine-id"),
        cadvisor("storage-driver-buffer-duration", Ignored::Duration, "1m0s"),
        cadvisor("storage-driver-db", Ignored::Text, "cadvisor"),
        cadvisor("storage-driver-host", Ignored::Text, "localhost:8086"),
        cadvisor("storage-driver-password", Ignored::Text, "root"),
        cadvisor("storage-driver-secure", Ignored::Bool, "false"),
        cadvisor("storage-driver-table", Ignored::Text, "stats"),
        cadvisor("storage-driver-user", Ignored::Text, "root"),
    ],
);

/// Every flag there is.
pub(super) fn all_flags() -> impl Iterator<Item = &'static FlagSpec> {
    let groups = OWN.iter().chain(fields::FIELDS).chain([&GOING, &CADVISOR_LEFTOVERS]);
    groups.flat_map(|(_, flags)| flags.iter())
}

/// The flag of this (normalised) name.
pub(super) fn find(name: &str) -> Option<&'static FlagSpec> {
    all_flags().find(|spec| spec.name == name)
}

/// The name and the sentence of `--help` of the flag of this name.
pub(in crate::config) fn described(name: &str) -> Option<(&'static str, &'static str)> {
    find(name).map(|spec| (spec.name, spec.help))
}

/// Returns the name of each flag with its sentence of `--help`, in the order of `--help`; the flags
/// that are accepted and ignored are left out.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let ignored = |spec: &FlagSpec| matches!(spec.bind, Bind::Ignored(..));
    all_flags().filter(move |spec| !ignored(spec)).map(|spec| (spec.name, spec.help))
}

/// The flag of this letter.
pub(super) fn find_short(letter: char) -> Option<&'static FlagSpec> {
    all_flags().find(|spec| spec.short == Some(letter))
}

/// The names of the flags that are no fields of the file, apart from the ignored ones.
#[cfg(test)]
pub(in crate::config) fn own_flags() -> impl Iterator<Item = &'static str> {
    const FIELDS: [&str; 5] =
        ["provider-id", "fail-cgroupv1", "v", "vmodule", "log-flush-frequency"];
    let groups = OWN.iter().chain([&GOING]);
    groups
        .flat_map(|(_, flags)| flags.iter())
        .map(|spec| spec.name)
        .filter(|name| !FIELDS.contains(name))
}
