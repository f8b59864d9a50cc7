//! Which field and flag has an effect in this version. What a node sets without effect is said at its start.
//!
//! One row per field of the file and per flag that is no field. To say that one took effect, change `No` to `Yes` in
//! its row (and run `UPDATE=1 cargo test --lib config::effects`, which writes EFFECTS.md again).

use serde_json::Value;

use super::flags::Flags;
use super::types::KubeletConfiguration;
use super::{ConfigWarning, defaults};
use Area::{Authentication, Authorization, Cgroups, Eviction, Other, Reservation};
use Effect::{Never, No, Yes};

/// What a field is about. All but `Other` are worth a Warning event on the Node when they have no effect: the node is
/// then less protected than its administrator believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// When pods are evicted.
    Eviction,
    /// What is kept back from pods.
    Reservation,
    /// Who may call.
    Authentication,
    /// What callers may do.
    Authorization,
    /// How containers are confined.
    Cgroups,
    /// Everything else.
    Other,
}

/// Whether setting a field changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Yes,
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
    ("enableServer", Other, No),
    ("staticPodPath", Other, No),
    ("podLogsDir", Other, No),
    ("syncFrequency", Other, No),
    ("fileCheckFrequency", Other, No),
    ("httpCheckFrequency", Other, No),
    ("staticPodURL", Other, No),
    ("staticPodURLHeader", Other, No),
    ("address", Other, No),
    ("port", Other, No),
    ("readOnlyPort", Other, No),
    ("tlsCertFile", Other, No),
    ("tlsPrivateKeyFile", Other, No),
    ("tlsCipherSuites", Other, No),
    ("tlsCurvePreferences", Other, No),
    ("tlsMinVersion", Other, No),
    ("rotateCertificates", Other, No),
    ("serverTLSBootstrap", Other, No),
    ("authentication.x509.clientCAFile", Authentication, No),
    ("authentication.webhook.enabled", Authentication, No),
    ("authentication.webhook.cacheTTL", Authentication, No),
    ("authentication.anonymous.enabled", Authentication, No),
    ("authorization.mode", Authorization, No),
    ("authorization.webhook.cacheAuthorizedTTL", Authorization, No),
    ("authorization.webhook.cacheUnauthorizedTTL", Authorization, No),
    ("registryPullQPS", Other, No),
    ("registryBurst", Other, No),
    ("imagePullCredentialsVerificationPolicy", Other, No),
    ("preloadedImagesVerificationAllowlist", Other, No),
    ("eventRecordQPS", Other, No),
    ("eventBurst", Other, No),
    ("enableDebuggingHandlers", Other, No),
    ("enableContentionProfiling", Other, Never),
    ("healthzPort", Other, No),
    ("healthzBindAddress", Other, No),
    ("oomScoreAdj", Other, No),
    ("clusterDomain", Other, No),
    ("clusterDNS", Other, No),
    ("streamingConnectionIdleTimeout", Other, No),
    ("nodeStatusUpdateFrequency", Other, No),
    ("nodeStatusReportFrequency", Other, No),
    ("nodeLeaseDurationSeconds", Other, No),
    ("imageMinimumGCAge", Other, No),
    ("imageMaximumGCAge", Other, No),
    ("imageGCHighThresholdPercent", Other, No),
    ("imageGCLowThresholdPercent", Other, No),
    ("volumeStatsAggPeriod", Other, No),
    ("kubeletCgroups", Cgroups, No),
    ("systemCgroups", Cgroups, No),
    ("cgroupRoot", Cgroups, No),
    ("cgroupsPerQOS", Cgroups, No),
    ("cgroupDriver", Cgroups, No),
    ("cpuManagerPolicy", Cgroups, No),
    ("singleProcessOOMKill", Cgroups, No),
    ("cpuManagerPolicyOptions", Other, No),
    ("cpuManagerReconcilePeriod", Other, No),
    ("memoryManagerPolicy", Other, No),
    ("topologyManagerPolicy", Other, No),
    ("topologyManagerScope", Other, No),
    ("topologyManagerPolicyOptions", Other, No),
    ("qosReserved", Reservation, No),
    ("runtimeRequestTimeout", Other, No),
    ("hairpinMode", Other, Never),
    ("maxPods", Other, No),
    ("podCIDR", Other, No),
    ("podPidsLimit", Cgroups, No),
    ("resolvConf", Other, No),
    ("runOnce", Other, Never),
    ("cpuCFSQuota", Cgroups, No),
    ("cpuCFSQuotaPeriod", Cgroups, No),
    ("nodeStatusMaxImages", Other, No),
    ("maxOpenFiles", Other, No),
    ("contentType", Other, Never),
    ("kubeAPIQPS", Other, No),
    ("kubeAPIBurst", Other, No),
    ("serializeImagePulls", Other, No),
    ("maxParallelImagePulls", Other, No),
    ("evictionHard", Eviction, No),
    ("evictionSoft", Eviction, No),
    ("evictionSoftGracePeriod", Eviction, No),
    ("evictionPressureTransitionPeriod", Eviction, No),
    ("evictionMaxPodGracePeriod", Eviction, No),
    ("evictionMinimumReclaim", Eviction, No),
    ("mergeDefaultEvictionSettings", Eviction, No),
    ("podsPerCore", Other, No),
    ("enableControllerAttachDetach", Other, No),
    ("protectKernelDefaults", Other, No),
    ("makeIPTablesUtilChains", Other, No),
    ("iptablesMasqueradeBit", Other, Never),
    ("iptablesDropBit", Other, Never),
    ("featureGates", Other, Yes),
    ("failSwapOn", Other, No),
    ("memorySwap", Cgroups, No),
    ("containerLogMaxSize", Other, No),
    ("containerLogMaxFiles", Other, No),
    ("containerLogMaxWorkers", Other, No),
    ("containerLogMonitorInterval", Other, No),
    ("configMapAndSecretChangeDetectionStrategy", Other, No),
    ("systemReserved", Reservation, No),
    ("kubeReserved", Reservation, No),
    ("reservedSystemCPUs", Reservation, No),
    ("showHiddenMetricsForVersion", Other, No),
    ("systemReservedCgroup", Cgroups, No),
    ("kubeReservedCgroup", Cgroups, No),
    ("enforceNodeAllocatable", Cgroups, No),
    ("allowedUnsafeSysctls", Other, No),
    ("volumePluginDir", Other, No),
    ("providerID", Other, No),
    ("kernelMemcgNotification", Eviction, No),
    ("logging", Other, Yes),
    ("enableSystemLogHandler", Other, No),
    ("enableSystemLogQuery", Other, No),
    ("shutdownGracePeriod", Other, No),
    ("shutdownGracePeriodCriticalPods", Other, No),
    ("shutdownGracePeriodByPodPriority", Other, No),
    ("crashLoopBackOff", Other, No),
    ("reservedMemory", Reservation, No),
    ("enableProfilingHandler", Other, No),
    ("enableDebugFlagsHandler", Other, No),
    ("seccompDefault", Other, No),
    ("memoryThrottlingFactor", Cgroups, No),
    ("memoryReservationPolicy", Cgroups, No),
    ("registerWithTaints", Other, No),
    ("registerNode", Other, No),
    ("tracing", Other, No),
    ("localStorageCapacityIsolation", Eviction, No),
    ("containerRuntimeEndpoint", Other, No),
    ("imageServiceEndpoint", Other, No),
    ("failCgroupV1", Cgroups, Yes),
    ("userNamespaces", Other, No),
];

/// Every flag that is no field, apart from the leftovers of cAdvisor.
#[rustfmt::skip]
pub(super) static FLAGS: &[Row] = &[
    ("--bootstrap-kubeconfig", Other, No),
    ("--cert-dir", Other, No),
    ("--cloud-provider", Other, No),
    ("--config", Other, Yes),
    ("--config-dir", Other, Yes),
    ("--exit-on-lock-contention", Other, No),
    ("--help", Other, Yes),
    ("--hostname-override", Other, No),
    ("--housekeeping-interval", Other, Never),
    ("--image-credential-provider-bin-dir", Other, No),
    ("--image-credential-provider-config", Other, No),
    ("--kubeconfig", Other, No),
    ("--lock-file", Other, No),
    ("--node-ip", Other, No),
    ("--node-labels", Other, No),
    ("--root-dir", Other, No),
    ("--runtime-cgroups", Cgroups, No),
    ("--seccomp-default", Other, Yes),
    ("--version", Other, Yes),
    ("--minimum-container-ttl-duration", Other, No),
    ("--maximum-dead-containers", Other, No),
    ("--maximum-dead-containers-per-container", Other, No),
    ("--experimental-mounter-path", Other, Never),
    ("--experimental-allocatable-ignore-eviction", Reservation, No),
];
/// A warning for each field and flag that was set to something else than its default and has no effect.
pub(super) fn without_effect(flags: &Flags, config: &KubeletConfiguration, from_file: bool) -> Vec<ConfigWarning> {
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
    let fields = FIELDS.iter().filter(|(path, ..)| differs(path)).map(|row| (row, "field"));
    let flags =
        FLAGS.iter().filter(|(name, ..)| flags.was_given(name.trim_start_matches('-'))).map(|row| (row, "flag"));
    fields.chain(flags).filter_map(|(row, what)| warning(row, what)).collect()
}

fn warning(&(name, area, effect): &Row, what: &str) -> Option<ConfigWarning> {
    let text = match effect {
        Yes => return None,
        No => format!("the {what} {name} is set but has no effect in this version of rkubelet"),
        Never => format!("the {what} {name} is set but has no effect: what it was for no longer exists"),
    };
    let node_event = effect == No && area != Other;
    Some(ConfigWarning { text, node_event })
}

/// EFFECTS.md, which a test holds against this table.
#[cfg(test)]
pub(super) fn document() -> String {
    use std::fmt::Write;

    let mut text = String::from(
        "# Configuration without effect\n\n\
         Generated from `src/config/effects.rs` by its test; do not edit. Setting one of these is a warning when the\n\
         kubelet starts, and a Warning event on the Node where the table says so. Every other field and flag has the\n\
         effect that it has upstream.\n\n\
         | field or flag | about | Node event | why |\n|---|---|---|---|\n",
    );
    for &(name, area, effect) in FIELDS.iter().chain(FLAGS) {
        let why = match effect {
            Yes => continue,
            No => "not in this version",
            Never => "what it was for no longer exists",
        };
        let event = if effect == No && area != Other { "yes" } else { "" };
        let about = match area {
            Eviction => "eviction",
            Reservation => "reservation",
            Authentication => "authentication",
            Authorization => "authorization",
            Cgroups => "cgroups",
            Other => "",
        };
        let _ = writeln!(text, "| `{name}` | {about} | {event} | {why} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_flag_has_a_row() {
        // A configuration in which nothing is empty, so that nothing is left out of its document.
        let mut fields: Vec<&str> = FIELDS.iter().map(|(path, ..)| path.split('.').next().unwrap_or(path)).collect();
        fields.dedup();
        assert_eq!(fields.len(), 125, "the API has 125 fields");
        let mut unknown = Vec::new();
        for name in &fields {
            let alone = serde_json::json!({ (*name): {} });
            // The value has the wrong type for most fields; only whether the field exists is looked at.
            drop(serde_ignored::deserialize::<_, _, KubeletConfiguration>(alone, |path| {
                unknown.push(path.to_string());
            }));
        }
        assert_eq!(unknown, [""; 0], "rows that are no field");
        let mut flags: Vec<&str> = super::super::flags::own_flags().collect();
        let mut rows: Vec<&str> = FLAGS.iter().map(|(name, ..)| name.trim_start_matches("--")).collect();
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
        assert!(committed == document(), "{path} is stale: UPDATE=1 cargo test --lib config::effects");
    }

    #[test]
    fn warns_about_what_differs_from_the_default_only() {
        let mut config = KubeletConfiguration::default();
        defaults::complete(&mut config, &Value::Null);
        defaults::default_eviction_hard(&mut config, &Value::Null);
        let flags = Flags::default();
        assert_eq!(without_effect(&flags, &config, true), []);
        config.run_once = true;
        let warnings = without_effect(&flags, &config, true);
        assert_eq!(warnings.len(), 1);
        assert!(!warnings[0].node_event && warnings[0].text.contains("runOnce"), "{warnings:?}");
    }
}
