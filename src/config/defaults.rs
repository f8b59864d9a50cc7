//! What an empty file means, what flags alone mean, and what a zero in a file means.
//!
//! The API has fields where zero cannot be told from "not said" (they take the default) and fields
//! where it can (a zero stays). The second kind is settled by serde's defaults, the first kind by
//! [`fill_zeros`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::gates::{FeatureGates, Gate};
use super::types::{
    CrashLoopBackOff, GoDuration, Headers, KubeletAuthentication, KubeletAuthorization,
    KubeletConfiguration, LoggingConfiguration, MemorySwap,
};

/// Longest pause between restarts of a crashing container unless configured.
const MAX_CONTAINER_RESTART_PERIOD: GoDuration = GoDuration::from_secs(300);

/// The read-only port that flags without a file open.
const LEGACY_READ_ONLY_PORT: i32 = 10255;

/// The hard eviction thresholds of a file that names none.
pub const DEFAULT_EVICTION_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

impl Default for KubeletConfiguration {
    #[expect(clippy::too_many_lines, reason = "one line per field of the API")]
    fn default() -> Self {
        Self {
            enable_server: true,
            static_pod_path: String::new(),
            pod_logs_dir: "/var/log/pods".to_owned(),
            sync_frequency: GoDuration::from_secs(60),
            file_check_frequency: GoDuration::from_secs(20),
            http_check_frequency: GoDuration::from_secs(20),
            static_pod_url: String::new(),
            static_pod_url_header: Headers::default(),
            address: "0.0.0.0".to_owned(),
            port: 10_250,
            read_only_port: 0,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            tls_cipher_suites: Vec::new(),
            tls_curve_preferences: Vec::new(),
            tls_min_version: String::new(),
            rotate_certificates: false,
            server_tls_bootstrap: false,
            authentication: KubeletAuthentication::default(),
            authorization: KubeletAuthorization::default(),
            registry_pull_qps: 5,
            registry_burst: 10,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            event_record_qps: 50,
            event_burst: 100,
            enable_debugging_handlers: true,
            enable_contention_profiling: false,
            healthz_port: 10_248,
            healthz_bind_address: "127.0.0.1".to_owned(),
            oom_score_adj: -999,
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            streaming_connection_idle_timeout: GoDuration::from_secs(14400),
            node_status_update_frequency: GoDuration::from_secs(10),
            node_status_report_frequency: GoDuration::from_secs(300),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: GoDuration::from_secs(120),
            image_maximum_gc_age: GoDuration::ZERO,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            volume_stats_agg_period: GoDuration::from_secs(60),
            kubelet_cgroups: String::new(),
            system_cgroups: String::new(),
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".to_owned(),
            cpu_manager_policy: "none".to_owned(),
            single_process_oom_kill: None,
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: GoDuration::from_secs(10),
            memory_manager_policy: "None".to_owned(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            qos_reserved: BTreeMap::new(),
            runtime_request_timeout: GoDuration::from_secs(120),
            hairpin_mode: "promiscuous-bridge".to_owned(),
            max_pods: 110,
            pod_cidr: String::new(),
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".to_owned(),
            run_once: false,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: GoDuration::from_millis(100),
            node_status_max_images: 50,
            max_open_files: 1_000_000,
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            kube_api_qps: 50,
            kube_api_burst: 100,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            eviction_hard: BTreeMap::new(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: GoDuration::from_secs(300),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            merge_default_eviction_settings: false,
            pods_per_core: 0,
            enable_controller_attach_detach: true,
            protect_kernel_defaults: false,
            make_iptables_util_chains: true,
            iptables_masquerade_bit: 14,
            iptables_drop_bit: 15,
            feature_gates: BTreeMap::new(),
            fail_swap_on: true,
            memory_swap: MemorySwap::default(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: GoDuration::from_secs(10),
            config_map_and_secret_change_detection_strategy: "Watch".to_owned(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            show_hidden_metrics_for_version: String::new(),
            system_reserved_cgroup: String::new(),
            kube_reserved_cgroup: String::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            allowed_unsafe_sysctls: Vec::new(),
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".to_owned(),
            provider_id: String::new(),
            kernel_memcg_notification: false,
            logging: LoggingConfiguration::default(),
            enable_system_log_handler: true,
            enable_system_log_query: false,
            shutdown_grace_period: GoDuration::ZERO,
            shutdown_grace_period_critical_pods: GoDuration::ZERO,
            shutdown_grace_period_by_pod_priority: Vec::new(),
            crash_loop_back_off: CrashLoopBackOff::default(),
            reserved_memory: Vec::new(),
            enable_profiling_handler: true,
            enable_debug_flags_handler: true,
            seccomp_default: false,
            memory_throttling_factor: 0.9,
            memory_reservation_policy: "None".to_owned(),
            register_with_taints: Vec::new(),
            register_node: true,
            tracing: None,
            local_storage_capacity_isolation: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            image_service_endpoint: String::new(),
            fail_cgroup_v1: true,
            user_namespaces: None,
        }
    }
}

/// Returns the configuration without a file and without a drop-in directory: open, as it was before
/// files.
pub fn flag_defaults() -> KubeletConfiguration {
    let mut config = KubeletConfiguration::default();
    config.authentication.anonymous.enabled = true;
    config.authentication.webhook.enabled = false;
    "AlwaysAllow".clone_into(&mut config.authorization.mode);
    config.read_only_port = LEGACY_READ_ONLY_PORT;
    fill_gated(&mut config, &FeatureGates::default());
    config
}

/// Completes a freshly decoded configuration. `document` is what it was decoded from and tells what
/// was said.
pub fn complete(config: &mut KubeletConfiguration, document: &Value) {
    let said = |name: &str| document.get(name).is_some_and(|value| !value.is_null());
    if document.pointer("/nodeStatusReportFrequency").is_none()
        || config.node_status_report_frequency == GoDuration::ZERO
    {
        // A file from before the report frequency existed expects its update frequency to be both.
        let update_said = said("nodeStatusUpdateFrequency")
            && config.node_status_update_frequency != GoDuration::ZERO;
        config.node_status_report_frequency = if update_said {
            config.node_status_update_frequency
        } else {
            GoDuration::from_secs(300)
        };
    }
    if !said("serializeImagePulls") {
        config.serialize_image_pulls =
            config.max_parallel_image_pulls.is_none_or(|pulls| pulls < 2);
    }
    if config.pod_pids_limit < 0 {
        config.pod_pids_limit = -1;
    }
    fill_zeros(config);
    let mut gates = FeatureGates::default();
    gates.set_valid(&config.feature_gates);
    fill_gated(config, &gates);
    if !said("imagePullCredentialsVerificationPolicy")
        && !gates.enabled(Gate::KUBELET_ENSURE_SECRET_PULLED_IMAGES)
    {
        // The default exists only with the gate; without it any value is refused.
        config.image_pull_credentials_verification_policy.clear();
    }
}

/// The hard thresholds of a file: the defaults if it names none, completed with them if it asks for
/// that.
pub fn default_eviction_hard(config: &mut KubeletConfiguration, document: &Value) {
    let said = document.get("evictionHard").is_some_and(|value| !value.is_null());
    if said && !config.merge_default_eviction_settings {
        return;
    }
    for (signal, threshold) in DEFAULT_EVICTION_HARD {
        config.eviction_hard.entry(signal.to_owned()).or_insert_with(|| threshold.to_owned());
    }
}

fn fill_gated(config: &mut KubeletConfiguration, gates: &FeatureGates) {
    if gates.enabled(Gate::KUBELET_CRASH_LOOP_BACK_OFF_MAX) {
        config
            .crash_loop_back_off
            .max_container_restart_period
            .get_or_insert(MAX_CONTAINER_RESTART_PERIOD);
    }
}

fn or_default<T: Default + PartialEq + Clone>(slot: &mut T, default: &T) {
    if *slot == T::default() {
        slot.clone_from(default);
    }
}

/// Gives every field in which zero means "not said" its default.
fn fill_zeros(config: &mut KubeletConfiguration) {
    let defaults = KubeletConfiguration::default();
    if config.logging.flush_frequency.duration == GoDuration::ZERO {
        config.logging.flush_frequency = defaults.logging.flush_frequency;
    }
    macro_rules! fill {
        ($($($field:ident).+),* $(,)?) => {
            $( or_default(&mut config.$($field).+, &defaults.$($field).+); )*
        };
    }
    fill!(
        authentication.webhook.cache_ttl,
        authorization.mode,
        authorization.webhook.cache_authorized_ttl,
        authorization.webhook.cache_unauthorized_ttl,
        logging.format,
        pod_logs_dir,
        sync_frequency,
        file_check_frequency,
        http_check_frequency,
        address,
        port,
        registry_burst,
        image_pull_credentials_verification_policy,
        event_burst,
        healthz_bind_address,
        streaming_connection_idle_timeout,
        node_status_update_frequency,
        node_status_report_frequency,
        node_lease_duration_seconds,
        image_minimum_gc_age,
        volume_stats_agg_period,
        cgroup_driver,
        cpu_manager_policy,
        cpu_manager_reconcile_period,
        memory_manager_policy,
        topology_manager_policy,
        topology_manager_scope,
        runtime_request_timeout,
        hairpin_mode,
        max_pods,
        max_open_files,
        content_type,
        kube_api_burst,
        eviction_pressure_transition_period,
        container_log_max_size,
        config_map_and_secret_change_detection_strategy,
        volume_plugin_dir,
        memory_reservation_policy,
        container_runtime_endpoint,
    );
}
