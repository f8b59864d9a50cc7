//! The table of fields and flags that have an effect in this version. A setting without effect is
//! warned about at the start.
//!
//! One row per field of the file and per flag that is no field. To say that one took effect, change
//! `No` to `Yes` (or `Partly`) in its row (and run `UPDATE=1 cargo test --lib config::effects`,
//! which writes EFFECTS.md again).

use serde_json::Value;

use super::flags::Flags;
use super::types::KubeletConfiguration;
use super::{ConfigWarning, defaults};
use Area::{Authentication, Authorization, Cgroups, Eviction, Other, Reservation};
use Effect::{Never, No, Partly, Yes};

/// What a field is about. All but `Other` are worth a Warning event on the Node when they have no
/// effect: the node is then less protected than its administrator believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// When pods are evicted.
    Eviction,
    /// Resources that are reserved from pods.
    Reservation,
    /// Authentication of callers.
    Authentication,
    /// Authorization of callers.
    Authorization,
    /// Confinement of containers.
    Cgroups,
    /// Everything else.
    Other,
}

/// Every area, in the order in which a start warns.
const AREAS: [Area; 6] = [Eviction, Reservation, Authentication, Authorization, Cgroups, Other];

impl Area {
    fn about(self) -> &'static str {
        match self {
            Eviction => "eviction",
            Reservation => "reservation",
            Authentication => "authentication",
            Authorization => "authorization",
            Cgroups => "cgroups",
            Other => "",
        }
    }
}

/// The effect of a field or flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The setting has its effect.
    Yes,
    /// Some of what it does upstream: what is done and what is not.
    Partly(&'static str),
    /// Not in this version.
    No,
    /// Nor will it: what it was for is gone upstream, or has no counterpart here.
    Never,
}

/// One field, by its path in the file, or one flag, with its dashes.
type Row = (&'static str, Area, Effect);

/// Every field of the file, in the order of the API.
#[rustfmt::skip]
pub(super) static FIELDS: &[Row] = &[
    ("enableServer", Other, Yes),
    ("staticPodPath", Other, Yes),
    ("podLogsDir", Other, Yes),
    ("syncFrequency", Other, No),
    ("fileCheckFrequency", Other, Yes),
    ("httpCheckFrequency", Other, Yes),
    ("staticPodURL", Other, Yes),
    ("staticPodURLHeader", Other, Yes),
    ("address", Other, Yes),
    ("port", Other, Yes),
    ("readOnlyPort", Other, Yes),
    ("tlsCertFile", Other, Yes),
    ("tlsPrivateKeyFile", Other, Yes),
    ("tlsCipherSuites", Other, No),
    ("tlsCurvePreferences", Other, No),
    ("tlsMinVersion", Other, Partly("TLS 1.3 can be demanded; below 1.2 nothing is offered")),
    ("rotateCertificates", Other, Yes),
    ("serverTLSBootstrap", Other, Yes),
    ("authentication.x509.clientCAFile", Authentication, Yes),
    ("authentication.webhook.enabled", Authentication, Yes),
    ("authentication.webhook.cacheTTL", Authentication, Yes),
    ("authentication.anonymous.enabled", Authentication, Yes),
    ("authorization.mode", Authorization, Yes),
    ("authorization.webhook.cacheAuthorizedTTL", Authorization, Yes),
    ("authorization.webhook.cacheUnauthorizedTTL", Authorization, Yes),
    ("registryPullQPS", Other, Yes),
    ("registryBurst", Other, Yes),
    ("imagePullCredentialsVerificationPolicy", Other, Yes),
    ("preloadedImagesVerificationAllowlist", Other, Yes),
    ("eventRecordQPS", Other, Yes),
    ("eventBurst", Other, Yes),
    ("enableDebuggingHandlers", Other, Yes),
    ("enableContentionProfiling", Other, Never),
    ("healthzPort", Other, Yes),
    ("healthzBindAddress", Other, Yes),
    ("oomScoreAdj", Other, Yes),
    ("clusterDomain", Other, Yes),
    ("clusterDNS", Other, Yes),
    ("streamingConnectionIdleTimeout", Other, No),
    ("nodeStatusUpdateFrequency", Other, Yes),
    ("nodeStatusReportFrequency", Other, Yes),
    ("nodeLeaseDurationSeconds", Other, Yes),
    ("imageMinimumGCAge", Other, Yes),
    ("imageMaximumGCAge", Other, Yes),
    ("imageGCHighThresholdPercent", Other, Yes),
    ("imageGCLowThresholdPercent", Other, Yes),
    ("volumeStatsAggPeriod", Other, Yes),
    ("kubeletCgroups", Cgroups, Partly("reported, the kubelet is not moved there")),
    ("systemCgroups", Cgroups, Partly("reported, processes are not moved there")),
    ("cgroupRoot", Cgroups, Yes),
    ("cgroupsPerQOS", Cgroups, Yes),
    ("cgroupDriver", Cgroups, Yes),
    ("cpuManagerPolicy", Cgroups, No),
    ("singleProcessOOMKill", Cgroups, Yes),
    ("cpuManagerPolicyOptions", Other, No),
    ("cpuManagerReconcilePeriod", Other, No),
    ("memoryManagerPolicy", Other, No),
    ("topologyManagerPolicy", Other, No),
    ("topologyManagerScope", Other, No),
    ("topologyManagerPolicyOptions", Other, No),
    ("qosReserved", Reservation, No),
    ("runtimeRequestTimeout", Other, Yes),
    ("hairpinMode", Other, Never),
    ("maxPods", Other, Yes),
    ("podCIDR", Other, No),
    ("podPidsLimit", Cgroups, Yes),
    ("resolvConf", Other, Yes),
    ("runOnce", Other, Never),
    ("cpuCFSQuota", Cgroups, Yes),
    ("cpuCFSQuotaPeriod", Cgroups, Yes),
    ("nodeStatusMaxImages", Other, Yes),
    ("maxOpenFiles", Other, Yes),
    ("contentType", Other, Never),
    ("kubeAPIQPS", Other, Yes),
    ("kubeAPIBurst", Other, Yes),
    ("serializeImagePulls", Other, Yes),
    ("maxParallelImagePulls", Other, Yes),
    ("evictionHard", Eviction, Yes),
    ("evictionSoft", Eviction, Yes),
    ("evictionSoftGracePeriod", Eviction, Yes),
    ("evictionPressureTransitionPeriod", Eviction, Yes),
    ("evictionMaxPodGracePeriod", Eviction, Yes),
    ("evictionMinimumReclaim", Eviction, Yes),
    ("mergeDefaultEvictionSettings", Eviction, Yes),
    ("podsPerCore", Other, Yes),
    ("enableControllerAttachDetach", Other, Yes),
    ("protectKernelDefaults", Other, Yes),
    ("makeIPTablesUtilChains", Other, Yes),
    ("iptablesMasqueradeBit", Other, Never),
    ("iptablesDropBit", Other, Never),
    ("featureGates", Other, Yes),
    ("failSwapOn", Other, Yes),
    ("memorySwap", Cgroups, Yes),
    ("containerLogMaxSize", Other, Yes),
    ("containerLogMaxFiles", Other, Yes),
    ("containerLogMaxWorkers", Other, Yes),
    ("containerLogMonitorInterval", Other, Yes),
    ("configMapAndSecretChangeDetectionStrategy", Other, Yes),
    ("systemReserved", Reservation, Yes),
    ("kubeReserved", Reservation, Yes),
    ("reservedSystemCPUs", Reservation, Partly("it counts as systemReserved; containers use these cpus too")),
    ("showHiddenMetricsForVersion", Other, No),
    ("systemReservedCgroup", Cgroups, Yes),
    ("kubeReservedCgroup", Cgroups, Yes),
    ("enforceNodeAllocatable", Cgroups, Yes),
    ("allowedUnsafeSysctls", Other, Yes),
    ("volumePluginDir", Other, No),
    ("providerID", Other, Yes),
    ("kernelMemcgNotification", Eviction, Yes),
    ("logging", Other, Yes),
    ("logging.flushFrequency", Other, Never),
    ("logging.options.text.infoBufferSize", Other, Never),
    ("logging.options.json.infoBufferSize", Other, Never),
    ("enableSystemLogHandler", Other, Yes),
    ("enableSystemLogQuery", Other, Yes),
    ("shutdownGracePeriod", Other, Yes),
    ("shutdownGracePeriodCriticalPods", Other, Yes),
    ("shutdownGracePeriodByPodPriority", Other, Yes),
    ("crashLoopBackOff", Other, Yes),
    ("reservedMemory", Reservation, No),
    ("enableProfilingHandler", Other, Partly("the command line only: profiles are those of Go's runtime")),
    ("enableDebugFlagsHandler", Other, Yes),
    ("seccompDefault", Other, Yes),
    ("memoryThrottlingFactor", Cgroups, No),
    ("memoryReservationPolicy", Cgroups, No),
    ("registerWithTaints", Other, Yes),
    ("registerNode", Other, Yes),
    ("tracing", Other, No),
    ("localStorageCapacityIsolation", Eviction, Yes),
    ("containerRuntimeEndpoint", Other, Yes),
    ("imageServiceEndpoint", Other, Yes),
    ("failCgroupV1", Cgroups, Yes),
    ("userNamespaces", Other, Yes),
];

/// Every flag that is no field, apart from the leftovers of cAdvisor.
#[rustfmt::skip]
pub(super) static FLAGS: &[Row] = &[
    ("--bootstrap-kubeconfig", Other, Yes),
    ("--cert-dir", Other, Yes),
    ("--cloud-provider", Other, Yes),
    ("--config", Other, Yes),
    ("--config-dir", Other, Yes),
    ("--exit-on-lock-contention", Other, Yes),
    ("--help", Other, Yes),
    ("--hostname-override", Other, Yes),
    ("--housekeeping-interval", Other, Never),
    ("--image-credential-provider-bin-dir", Other, Yes),
    ("--image-credential-provider-config", Other, Yes),
    ("--kubeconfig", Other, Yes),
    ("--lock-file", Other, Yes),
    ("--node-ip", Other, Yes),
    ("--node-labels", Other, Yes),
    ("--root-dir", Other, Yes),
    ("--runtime-cgroups", Cgroups, Yes),
    ("--seccomp-default", Other, Yes),
    ("--version", Other, Yes),
    ("--minimum-container-ttl-duration", Other, Yes),
    ("--maximum-dead-containers", Other, Yes),
    ("--maximum-dead-containers-per-container", Other, Yes),
    ("--experimental-mounter-path", Other, Never),
    ("--experimental-allocatable-ignore-eviction", Reservation, Yes),
];
/// What was set to something else than its default and has not its full effect: one warning for
/// each area that is concerned, so that a start says it in a few lines.
pub(super) fn without_effect(
    flags: &Flags,
    config: &KubeletConfiguration,
    from_file: bool,
) -> Vec<ConfigWarning> {
    let defaults = if from_file {
        let mut defaults = KubeletConfiguration::default();
        defaults::complete(&mut defaults, &Value::Null);
        defaults::default_eviction_hard(&mut defaults, &Value::Null);
        defaults
    } else {
        defaults::flag_defaults()
    };

    let (set, defaults) = (config.to_document(), defaults.to_document());
    let differs = |path: &str| {
        let pointer = format!("/{}", path.replace('.', "/"));
        set.pointer(&pointer) != defaults.pointer(&pointer)
    };

    // Without enforcement, or with that of pods, nothing is missing.
    let enforced_here = |level: &String| matches!(level.as_str(), "pods" | "none");
    let has_effect = |path: &str| {
        path == "enforceNodeAllocatable"
            && config.enforce_node_allocatable.iter().all(enforced_here)
    };

    let fields = FIELDS.iter().filter(|(path, ..)| differs(path) && !has_effect(path));
    let flags = FLAGS.iter().filter(|(name, ..)| flags.was_given(name.trim_start_matches('-')));
    let set: Vec<&Row> = fields.chain(flags).collect();
    let mut warnings: Vec<ConfigWarning> =
        AREAS.iter().filter_map(|&area| warning(&set, area)).collect();

    let gone: Vec<&str> = set
        .iter()
        .filter(|(.., effect)| matches!(effect, Never))
        .map(|&&(name, ..)| name)
        .collect();
    if !gone.is_empty() {
        let text = format!("set, but what they were for no longer exists: {}", gone.join(", "));
        warnings.push(ConfigWarning { text, node_event: false });
    }
    warnings
}

fn warning(set: &[&Row], area: Area) -> Option<ConfigWarning> {
    let of_area = set.iter().filter(|(_, about, _)| *about == area);
    let names: Vec<String> = of_area
        .filter_map(|&&(name, _, effect)| match effect {
            No => Some(name.to_owned()),
            Partly(what) => Some(format!("{name} ({what})")),
            Yes | Never => None,
        })
        .collect();
    let about = if area == Other { String::new() } else { format!(" on {}", area.about()) };
    (!names.is_empty()).then(|| ConfigWarning {
        text: format!(
            "set, but without (full) effect{about} in this version of rkubelet: {}",
            names.join(", ")
        ),
        node_event: area != Other,
    })
}

/// EFFECTS.md, which a test holds against this table.
#[cfg(test)]
pub(super) fn document() -> String {
    use std::fmt::Write;

    let mut text = String::from(
        "# Configuration without effect\n\n\
         Generated from `src/config/effects.rs` by its test; do not edit. What of these a node sets to something else\n\
         than the default is named in a warning when the kubelet starts, and in a Warning event on the Node where the\n\
         table says so. Every other field and flag has the effect that it has upstream.\n\n\
         | field or flag | about | Node event | effect |\n|---|---|---|---|\n",
    );
    for &(name, area, effect) in FIELDS.iter().chain(FLAGS) {
        let (what, planned) = match effect {
            Yes => continue,
            Partly(what) => (what, true),
            No => ("none in this version", true),
            Never => ("none: what it was for no longer exists", false),
        };
        let event = if planned && area != Other { "yes" } else { "" };
        let _ = writeln!(text, "| `{name}` | {} | {event} | {what} |", area.about());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_flag_has_a_row() {
        // A configuration in which nothing is empty, so that nothing is left out of its document.
        let mut fields: Vec<&str> =
            FIELDS.iter().map(|(path, ..)| path.split('.').next().unwrap_or(path)).collect();
        fields.dedup();
        assert_eq!(fields.len(), 125, "the API has 125 fields");
        let mut unknown = Vec::new();
        for name in &fields {
            let alone = serde_json::json!({ (*name): {} });
            // The value has the wrong type for most fields; only whether the field exists is looked
            // at.
            drop(serde_ignored::deserialize::<_, _, KubeletConfiguration>(alone, |path| {
                unknown.push(path.to_string());
            }));
        }
        assert_eq!(unknown, [""; 0], "rows that are no field");
        let mut flags: Vec<&str> = super::super::flags::own_flags().collect();
        let mut rows: Vec<&str> =
            FLAGS.iter().map(|(name, ..)| name.trim_start_matches("--")).collect();
        flags.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, flags);
    }

    #[test]
    fn the_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/EFFECTS.md");
        if std::env::var_os("UPDATE").is_some() {
            crate::config::tests::write(path.as_ref(), &document());
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == document(),
            "{path} is stale: UPDATE=1 cargo test --lib config::effects"
        );
    }

    #[test]
    fn warns_about_what_differs_from_the_default_only() {
        let mut config = KubeletConfiguration::default();
        defaults::complete(&mut config, &Value::Null);
        defaults::default_eviction_hard(&mut config, &Value::Null);
        let flags = Flags::default();
        assert_eq!(without_effect(&flags, &config, true), []);
        config.enforce_node_allocatable.clear();
        assert_eq!(without_effect(&flags, &config, true), [], "it is honoured");
        config.run_once = true;
        let warnings = without_effect(&flags, &config, true);
        assert_eq!(warnings.len(), 1);
        assert!(!warnings[0].node_event && warnings[0].text.contains("runOnce"), "{warnings:?}");
        config.run_once = false;
        config.tls_cipher_suites.push("TLS_AES_128_GCM_SHA256".to_owned());
        config.qos_reserved.insert("memory".to_owned(), "50%".to_owned());
        config.max_pods = 5;
        let texts: Vec<(String, bool)> = without_effect(&flags, &config, true)
            .into_iter()
            .map(|w| (w.text, w.node_event))
            .collect();
        let on = "set, but without (full) effect";
        let version = "in this version of rkubelet";
        assert_eq!(
            texts,
            [
                (format!("{on} on reservation {version}: qosReserved"), true),
                (format!("{on} {version}: tlsCipherSuites"), false),
            ]
        );
    }
}
