//! `KubeletConfiguration` v1beta1 as data: every field of the file, resolved (a default stands
//! where nothing was said).
//!
//! The names, types and the rules of what is written out are the API's, so that serialising it
//! gives what `/configz` shows and what a drop-in file is merged onto. Fed by `decode`, `file`
//! and `flags`; it reads nothing itself.

mod duration;
mod parts;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

pub use duration::{DurationError, GoDuration};
pub use parts::{
    Anonymous, CrashLoopBackOff, FlushFrequency, FormatOptions, Headers, KubeletAuthentication,
    KubeletAuthorization, LoggingConfiguration, MemoryReservation, MemorySwap, OutputRouting,
    QuantityText, ShutdownGracePeriodByPodPriority, Tracing, UserNamespaces, VModule,
    WebhookAuthentication, WebhookAuthorization, X509,
};

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// The `kind` of the file.
pub const KIND: &str = "KubeletConfiguration";

/// The configuration of the kubelet. [`Default`] is what an empty file means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    /// Serve the HTTPS API on `address`:`port`.
    pub enable_server: bool,
    /// Directory of static pod files, or one such file. Names that begin with a dot are ignored.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_pod_path: String,
    /// Absolute, normalised directory below which the runtime writes container logs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod_logs_dir: String,
    /// Longest time between two full checks of a running pod.
    pub sync_frequency: GoDuration,
    /// How often static pod files are read again where the kernel reports no changes.
    pub file_check_frequency: GoDuration,
    /// How often `staticPodURL` is fetched.
    pub http_check_frequency: GoDuration,
    /// URL of further static pods.
    #[serde(rename = "staticPodURL", skip_serializing_if = "String::is_empty")]
    pub static_pod_url: String,
    /// Headers sent with requests to the static pod URL.
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "Headers::is_empty")]
    pub static_pod_url_header: Headers,
    /// Address to serve on; `0.0.0.0` or `::` for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Port of the HTTPS API.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: i32,
    /// Port of the plain HTTP API without authentication; 0 turns it off.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_port: i32,
    /// Serving certificate, with intermediates after it. Without one a self-signed one is made in
    /// the cert directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_cert_file: String,
    /// Private key of the serving certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_private_key_file: String,
    /// Cipher suites of the server, by their Go names; empty means the library's defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_cipher_suites: Vec<String>,
    /// Key exchange groups of the server, by their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_curve_preferences: Vec<i32>,
    /// Lowest TLS version of the server: VersionTLS12 or VersionTLS13 (older ones are refused by
    /// the TLS library).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_min_version: String,
    /// Request a new client certificate from the API server when the present one is about to
    /// expire.
    #[serde(skip_serializing_if = "is_false")]
    pub rotate_certificates: bool,
    /// Request the serving certificate from the API server, and rotate it.
    #[serde(rename = "serverTLSBootstrap", skip_serializing_if = "is_false")]
    pub server_tls_bootstrap: bool,
    /// How callers of the HTTPS API are identified.
    pub authentication: KubeletAuthentication,
    /// What callers of the HTTPS API may do.
    pub authorization: KubeletAuthorization,
    /// Image pulls per second; 0 means no limit.
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    /// Image pulls at once above `registryPullQPS`.
    #[serde(skip_serializing_if = "is_zero")]
    pub registry_burst: i32,
    /// When a pod must show credentials for an image that is already on the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_pull_credentials_verification_policy: String,
    /// Images exempt from that check under `NeverVerifyAllowlistedImages`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Events created per second; 0 means no limit.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    /// Events at once above `eventRecordQPS`.
    #[serde(skip_serializing_if = "is_zero")]
    pub event_burst: i32,
    /// Serve logs, exec, attach, port forwarding and the debugging endpoints.
    pub enable_debugging_handlers: bool,
    /// Go's block profiling; nothing here profiles blocks.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_contention_profiling: bool,
    /// Port of the plain HTTP health endpoint; 0 turns it off.
    pub healthz_port: i32,
    /// Address of the health endpoint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub healthz_bind_address: String,
    /// The kubelet's own oom_score_adj, -1000 to 1000.
    pub oom_score_adj: i32,
    /// DNS domain of the cluster, put into the search list of containers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_domain: String,
    /// Addresses of the cluster's DNS servers, for pods whose DNS policy uses them.
    #[serde(rename = "clusterDNS", skip_serializing_if = "Vec::is_empty")]
    pub cluster_dns: Vec<String>,
    /// How long exec, attach and port-forward connections may be idle; 0 means for ever.
    pub streaming_connection_idle_timeout: GoDuration,
    /// How often the node's status is computed.
    pub node_status_update_frequency: GoDuration,
    /// How often an unchanged node status is sent.
    pub node_status_report_frequency: GoDuration,
    /// Duration written into the node's Lease, which is renewed four times as often.
    #[serde(skip_serializing_if = "is_zero")]
    pub node_lease_duration_seconds: i32,
    /// How long an unused image is kept at least.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    /// How long an unused image is kept at most; 0 means as long as there is room.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    /// Disk usage in percent above which image garbage collection always runs.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: i32,
    /// Disk usage in percent that image garbage collection frees down to.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: i32,
    /// How often the disk usage of volumes is measured; negative means never.
    pub volume_stats_agg_period: GoDuration,
    /// Cgroup to run the kubelet in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubelet_cgroups: String,
    /// Cgroup for all other non-kernel processes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_cgroups: String,
    /// Cgroup below which pods are put.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_root: String,
    /// Create a cgroup per QoS class and per pod.
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    /// Who manages cgroups: `cgroupfs` or `systemd`. The runtime's answer wins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_driver: String,
    /// CPU manager policy: `none` or `static`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu_manager_policy: String,
    /// Kill one process, not the whole container, when it is out of memory; unset means false on
    /// cgroup v2, true on v1.
    #[serde(rename = "singleProcessOOMKill", skip_serializing_if = "Option::is_none")]
    pub single_process_oom_kill: Option<bool>,
    /// Options of the CPU manager policy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    /// How often CPU assignments are checked.
    pub cpu_manager_reconcile_period: GoDuration,
    /// Memory manager policy: `None` or `Static`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub memory_manager_policy: String,
    /// Topology manager policy: `none`, `best-effort`, `restricted` or `single-numa-node`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_manager_policy: String,
    /// What is aligned: `container` or `pod`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_manager_scope: String,
    /// Options of the topology manager policy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub topology_manager_policy_options: BTreeMap<String, String>,
    /// Percentage of a resource that is reserved for the requests of a QoS class (only memory;
    /// alpha).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub qos_reserved: BTreeMap<String, String>,
    /// Deadline of runtime calls other than pull, logs, exec and attach.
    pub runtime_request_timeout: GoDuration,
    /// Legacy: the network plug-in decides. `promiscuous-bridge`, `hairpin-veth` or `none`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hairpin_mode: String,
    /// Number of pods that the node takes.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_pods: i32,
    /// Addresses of pods in standalone mode; otherwise the Node object says.
    #[serde(rename = "podCIDR", skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    /// Processes per pod; -1 means as many as the node has.
    pub pod_pids_limit: i64,
    /// Resolver configuration that containers' DNS configuration is based on; empty means none.
    pub resolv_conf: String,
    /// Refused: running pods once is no longer supported.
    #[serde(skip_serializing_if = "is_false")]
    pub run_once: bool,
    /// Enforce CPU limits with CFS quotas.
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    /// Period of CFS quotas, 1ms to 1s.
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: GoDuration,
    /// Number of images reported in the node's status; -1 means all.
    pub node_status_max_images: i32,
    /// The kubelet's limit of open files.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_open_files: i64,
    /// Content type of requests to the API server; this kubelet always speaks JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// Requests per second to the API server, apart from events and leases.
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    /// Requests at once above `kubeAPIQPS`.
    #[serde(rename = "kubeAPIBurst", skip_serializing_if = "is_zero")]
    pub kube_api_burst: i32,
    /// Pull one image at a time.
    pub serialize_image_pulls: bool,
    /// Images pulled at once; unset means no limit other than `serializeImagePulls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<i32>,
    /// Thresholds that evict pods at once, such as memory.available<100Mi.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub eviction_hard: BTreeMap<String, String>,
    /// Thresholds that evict pods once they held for their grace period.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub eviction_soft: BTreeMap<String, String>,
    /// Grace period of each soft threshold, such as memory.available=1m30s.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    /// How long a pressure condition stays after its threshold is no longer met.
    pub eviction_pressure_transition_period: GoDuration,
    /// Longest grace in seconds that a pod gets on soft eviction.
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_max_pod_grace_period: i32,
    /// How much to free at least when a threshold was met, such as imagefs.available=2Gi.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// Keep the default hard thresholds that the file does not name.
    pub merge_default_eviction_settings: bool,
    /// Pods per CPU core, up to `maxPods`; 0 means no such limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub pods_per_core: i32,
    /// Leave attaching and detaching volumes to the controller manager.
    pub enable_controller_attach_detach: bool,
    /// Fail instead of setting kernel parameters that differ from what the kubelet needs.
    #[serde(skip_serializing_if = "is_false")]
    pub protect_kernel_defaults: bool,
    /// Keep the kubelet's iptables chains in place.
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    /// Legacy: bit of the fwmark for masquerading.
    pub iptables_masquerade_bit: i32,
    /// Legacy: bit of the fwmark for dropping.
    pub iptables_drop_bit: i32,
    /// Feature gates to turn on or off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub feature_gates: BTreeMap<String, bool>,
    /// Refuse to start on a node with swap.
    pub fail_swap_on: bool,
    /// How containers may use swap.
    pub memory_swap: MemorySwap,
    /// Size at which a container's log is rotated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_log_max_size: String,
    /// Log files kept per container, at least 2.
    pub container_log_max_files: i32,
    /// Logs rotated at once.
    pub container_log_max_workers: i32,
    /// How often log sizes are checked, at least 3s.
    pub container_log_monitor_interval: GoDuration,
    /// How changes of ConfigMaps and Secrets are seen: `Watch`, `Cache` or `Get`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config_map_and_secret_change_detection_strategy: String,
    /// Resources kept for the system, such as cpu=200m,memory=500Mi.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub system_reserved: BTreeMap<String, String>,
    /// Resources kept for Kubernetes components, such as cpu=200m,memory=500Mi.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "parts::members")]
    pub kube_reserved: BTreeMap<String, String>,
    /// CPUs kept for the system, as a list of ranges; supersedes the cpu of both reservations.
    #[serde(rename = "reservedSystemCPUs", skip_serializing_if = "String::is_empty")]
    pub reserved_system_cpus: String,
    /// Previous minor version whose hidden metrics are shown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub show_hidden_metrics_for_version: String,
    /// Cgroup on which `systemReserved` is enforced.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_reserved_cgroup: String,
    /// Cgroup on which `kubeReserved` is enforced.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_reserved_cgroup: String,
    /// Levels at which allocatable is enforced: none, pods, system-reserved, kube-reserved, or
    /// those -compressible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enforce_node_allocatable: Vec<String>,
    /// Unsafe sysctls that pods may set; a trailing * matches a prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Directory of flexvolume drivers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_plugin_dir: String,
    /// Name of this node for the cloud provider.
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// Be told by the kernel when memory thresholds are crossed.
    #[serde(skip_serializing_if = "is_false")]
    pub kernel_memcg_notification: bool,
    /// Format, level and destination of the log.
    pub logging: LoggingConfiguration,
    /// Serve files of /var/log at /logs/.
    pub enable_system_log_handler: bool,
    /// Serve queries of system logs at /logs/?query=.
    pub enable_system_log_query: bool,
    /// How long a node shutdown is delayed for pods to end.
    pub shutdown_grace_period: GoDuration,
    /// The part of `shutdownGracePeriod` that is kept for critical pods.
    pub shutdown_grace_period_critical_pods: GoDuration,
    /// Shutdown grace by pod priority, instead of the two fields above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority>,
    /// Limits of the back-off of crashing containers.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Memory reserved per NUMA node, such as 0:memory=1Gi,hugepages-1Gi=2Gi.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved_memory: Vec<MemoryReservation>,
    /// Serve /debug/pprof/.
    pub enable_profiling_handler: bool,
    /// Serve /debug/flags/v.
    pub enable_debug_flags_handler: bool,
    /// Use the runtime's default seccomp profile for pods that name none. The flag of this name is
    /// or-ed with it.
    pub seccomp_default: bool,
    /// Share of its limit at which a container is throttled under MemoryQoS, above 0 to 1.
    pub memory_throttling_factor: f64,
    /// Memory protection under MemoryQoS: `None` or `TieredReservation`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub memory_reservation_policy: String,
    /// Taints of a Node that is registered, as key=value:effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_with_taints: Vec<Taint>,
    /// Create the Node object.
    pub register_node: bool,
    /// OpenTelemetry export; unset means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Account for and limit local ephemeral storage.
    pub local_storage_capacity_isolation: bool,
    /// Socket of the container runtime, as unix:///path.
    pub container_runtime_endpoint: String,
    /// Socket of the image service; empty means the runtime's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_service_endpoint: String,
    /// Refuse to start on cgroup v1.
    pub fail_cgroup_v1: bool,
    /// Identifier ranges of pods in user namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<UserNamespaces>,
}

impl KubeletConfiguration {
    /// The document that `/configz` serves: the effective configuration under its component's name.
    pub fn configz(&self) -> serde_json::Value {
        let mut document = self.to_document();
        if let Some(object) = document.as_object_mut() {
            object.insert("kind".into(), KIND.into());
            object.insert("apiVersion".into(), API_VERSION.into());
        }
        serde_json::json!({ "kubeletconfig": document })
    }

    /// The fields as JSON, without `kind` and `apiVersion`.
    pub fn to_document(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("every field has a JSON form and every map has text keys")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero<T: PartialEq + Default>(value: &T) -> bool {
    *value == T::default()
}
