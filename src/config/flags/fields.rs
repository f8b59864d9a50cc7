//! The flags that shadow fields of the configuration file. All of them are deprecated: the file is
//! where they belong.

use super::table::Group;
use super::{Bind, FlagSpec};

const USE_THE_FILE: &str = "This parameter should be set via the config file specified by the Kubelet's --config flag. \
                            See https://kubernetes.io/docs/tasks/administer-cluster/kubelet-config-file/ for more \
                            information.";

const fn field(name: &'static str, bind: Bind, help: &'static str) -> FlagSpec {
    FlagSpec { name, short: None, bind, deprecated: Some(USE_THE_FILE), help }
}

/// By what they are about.
pub(super) static FIELDS: &[Group] = &[
    (
        "Server",
        &[
            field(
                "enable-server",
                Bind::Bool(|t| &mut t.config.enable_server),
                "Serve the HTTPS API on --address and --port.",
            ),
            field(
                "address",
                Bind::Ip(|t| &mut t.config.address),
                "Address to serve on; 0.0.0.0 or :: for all.",
            ),
            field("port", Bind::Int32(|t| &mut t.config.port), "Port of the HTTPS API."),
            field(
                "read-only-port",
                Bind::Int32(|t| &mut t.config.read_only_port),
                "Port of the plain HTTP API without authentication; 0 turns it off.",
            ),
            field(
                "healthz-port",
                Bind::Int32(|t| &mut t.config.healthz_port),
                "Port of the plain HTTP health endpoint; 0 turns it off.",
            ),
            field(
                "healthz-bind-address",
                Bind::Ip(|t| &mut t.config.healthz_bind_address),
                "Address of the health endpoint.",
            ),
            field(
                "tls-cert-file",
                Bind::Text(|t| &mut t.config.tls_cert_file),
                "Serving certificate, with intermediates after it. Without one a self-signed one is made in the cert directory.",
            ),
            field(
                "tls-private-key-file",
                Bind::Text(|t| &mut t.config.tls_private_key_file),
                "Private key of the serving certificate.",
            ),
            field(
                "tls-cipher-suites",
                Bind::List(|t| &mut t.config.tls_cipher_suites),
                "Cipher suites of the server, by their Go names; empty means the library's defaults.",
            ),
            field(
                "tls-min-version",
                Bind::Text(|t| &mut t.config.tls_min_version),
                "Lowest TLS version of the server: VersionTLS12 or VersionTLS13 (older ones are refused by the TLS library).",
            ),
            field(
                "rotate-certificates",
                Bind::Bool(|t| &mut t.config.rotate_certificates),
                "Request a new client certificate from the API server when the present one is about to expire.",
            ),
            field(
                "rotate-server-certificates",
                Bind::Bool(|t| &mut t.config.server_tls_bootstrap),
                "Request the serving certificate from the API server, and rotate it.",
            ),
            field(
                "enable-debugging-handlers",
                Bind::Bool(|t| &mut t.config.enable_debugging_handlers),
                "Serve logs, exec, attach, port forwarding and the debugging endpoints.",
            ),
            field(
                "contention-profiling",
                Bind::Bool(|t| &mut t.config.enable_contention_profiling),
                "Go's block profiling; nothing here profiles blocks.",
            ),
            field(
                "streaming-connection-idle-timeout",
                Bind::Duration(|t| &mut t.config.streaming_connection_idle_timeout),
                "How long exec, attach and port-forward connections may be idle; 0 means for ever.",
            ),
        ],
    ),
    (
        "Authentication and authorization",
        &[
            field(
                "anonymous-auth",
                Bind::Bool(|t| &mut t.config.authentication.anonymous.enabled),
                "Let requests without a certificate or token through to authorization, as system:anonymous.",
            ),
            field(
                "authentication-token-webhook",
                Bind::Bool(|t| &mut t.config.authentication.webhook.enabled),
                "Check bearer tokens with the TokenReview API.",
            ),
            field(
                "authentication-token-webhook-cache-ttl",
                Bind::Duration(|t| &mut t.config.authentication.webhook.cache_ttl),
                "How long the answers about tokens are kept.",
            ),
            field(
                "client-ca-file",
                Bind::Text(|t| &mut t.config.authentication.x509.client_ca_file),
                "Authorities whose client certificates identify callers, by common name and organisations.",
            ),
            field(
                "authorization-mode",
                Bind::Text(|t| &mut t.config.authorization.mode),
                "Who may do what: Webhook (the SubjectAccessReview API decides) or AlwaysAllow.",
            ),
            field(
                "authorization-webhook-cache-authorized-ttl",
                Bind::Duration(|t| &mut t.config.authorization.webhook.cache_authorized_ttl),
                "How long a yes of the SubjectAccessReview API is kept.",
            ),
            field(
                "authorization-webhook-cache-unauthorized-ttl",
                Bind::Duration(|t| &mut t.config.authorization.webhook.cache_unauthorized_ttl),
                "How long a no of the SubjectAccessReview API is kept.",
            ),
        ],
    ),
    (
        "Node and API server",
        &[
            field(
                "register-node",
                Bind::Bool(|t| &mut t.config.register_node),
                "Create the Node object.",
            ),
            field(
                "register-with-taints",
                Bind::Taints(|t| &mut t.config.register_with_taints),
                "Taints of a Node that is registered, as key=value:effect.",
            ),
            field(
                "node-status-update-frequency",
                Bind::Duration(|t| &mut t.config.node_status_update_frequency),
                "How often the node's status is computed.",
            ),
            field(
                "node-status-max-images",
                Bind::Int32(|t| &mut t.config.node_status_max_images),
                "Number of images reported in the node's status; -1 means all.",
            ),
            field(
                "max-pods",
                Bind::Int32(|t| &mut t.config.max_pods),
                "Number of pods that the node takes.",
            ),
            field(
                "pods-per-core",
                Bind::Int32(|t| &mut t.config.pods_per_core),
                "Pods per CPU core, up to --max-pods; 0 means no such limit.",
            ),
            field(
                "kube-api-qps",
                Bind::Int32(|t| &mut t.config.kube_api_qps),
                "Requests per second to the API server, apart from events and leases.",
            ),
            field(
                "kube-api-burst",
                Bind::Int32(|t| &mut t.config.kube_api_burst),
                "Requests at once above --kube-api-qps.",
            ),
            field(
                "kube-api-content-type",
                Bind::Text(|t| &mut t.config.content_type),
                "Content type of requests to the API server; this kubelet always speaks JSON.",
            ),
            field(
                "event-qps",
                Bind::Int32(|t| &mut t.config.event_record_qps),
                "Events created per second; 0 means no limit.",
            ),
            field(
                "event-burst",
                Bind::Int32(|t| &mut t.config.event_burst),
                "Events at once above --event-qps.",
            ),
            field(
                "feature-gates",
                Bind::BoolMap(|t| &mut t.config.feature_gates),
                "Feature gates to turn on or off.",
            ),
        ],
    ),
    (
        "Pods",
        &[
            field(
                "pod-manifest-path",
                Bind::Text(|t| &mut t.config.static_pod_path),
                "Directory of static pod files, or one such file. Names that begin with a dot are ignored.",
            ),
            field(
                "manifest-url",
                Bind::Text(|t| &mut t.config.static_pod_url),
                "URL of further static pods.",
            ),
            field(
                "manifest-url-header",
                Bind::MultiMap(|t| &mut t.config.static_pod_url_header),
                "Headers sent with requests to the static pod URL.",
            ),
            field(
                "sync-frequency",
                Bind::Duration(|t| &mut t.config.sync_frequency),
                "Longest time between two full checks of a running pod.",
            ),
            field(
                "file-check-frequency",
                Bind::Duration(|t| &mut t.config.file_check_frequency),
                "How often static pod files are read again where the kernel reports no changes.",
            ),
            field(
                "http-check-frequency",
                Bind::Duration(|t| &mut t.config.http_check_frequency),
                "How often staticPodURL is fetched.",
            ),
            field(
                "pod-cidr",
                Bind::Text(|t| &mut t.config.pod_cidr),
                "Addresses of pods in standalone mode; otherwise the Node object says.",
            ),
            field(
                "pod-max-pids",
                Bind::Int64(|t| &mut t.config.pod_pids_limit),
                "Processes per pod; -1 means as many as the node has.",
            ),
            field(
                "allowed-unsafe-sysctls",
                Bind::List(|t| &mut t.config.allowed_unsafe_sysctls),
                "Unsafe sysctls that pods may set; a trailing * matches a prefix.",
            ),
            field(
                "runonce",
                Bind::Bool(|t| &mut t.config.run_once),
                "Refused: running pods once is no longer supported.",
            ),
            field(
                "volume-plugin-dir",
                Bind::Text(|t| &mut t.config.volume_plugin_dir),
                "Directory of flexvolume drivers.",
            ),
            field(
                "volume-stats-agg-period",
                Bind::Duration(|t| &mut t.config.volume_stats_agg_period),
                "How often the disk usage of volumes is measured; negative means never.",
            ),
            field(
                "enable-controller-attach-detach",
                Bind::Bool(|t| &mut t.config.enable_controller_attach_detach),
                "Leave attaching and detaching volumes to the controller manager.",
            ),
            field(
                "local-storage-capacity-isolation",
                Bind::Bool(|t| &mut t.config.local_storage_capacity_isolation),
                "Account for and limit local ephemeral storage.",
            ),
        ],
    ),
    (
        "Network",
        &[
            field(
                "cluster-dns",
                Bind::List(|t| &mut t.config.cluster_dns),
                "Addresses of the cluster's DNS servers, for pods whose DNS policy uses them.",
            ),
            field(
                "cluster-domain",
                Bind::Text(|t| &mut t.config.cluster_domain),
                "DNS domain of the cluster, put into the search list of containers.",
            ),
            field(
                "resolv-conf",
                Bind::Text(|t| &mut t.config.resolv_conf),
                "Resolver configuration that containers' DNS configuration is based on; empty means none.",
            ),
            field(
                "hairpin-mode",
                Bind::Text(|t| &mut t.config.hairpin_mode),
                "Legacy: the network plug-in decides. promiscuous-bridge, hairpin-veth or none.",
            ),
            field(
                "make-iptables-util-chains",
                Bind::Bool(|t| &mut t.config.make_iptables_util_chains),
                "Keep the kubelet's iptables chains in place.",
            ),
        ],
    ),
    (
        "Runtime, images and container logs",
        &[
            field(
                "container-runtime-endpoint",
                Bind::Text(|t| &mut t.config.container_runtime_endpoint),
                "Socket of the container runtime, as unix:///path.",
            ),
            field(
                "image-service-endpoint",
                Bind::Text(|t| &mut t.config.image_service_endpoint),
                "Socket of the image service; empty means the runtime's.",
            ),
            field(
                "runtime-request-timeout",
                Bind::Duration(|t| &mut t.config.runtime_request_timeout),
                "Deadline of runtime calls other than pull, logs, exec and attach.",
            ),
            field(
                "serialize-image-pulls",
                Bind::Bool(|t| &mut t.config.serialize_image_pulls),
                "Pull one image at a time.",
            ),
            field(
                "registry-qps",
                Bind::Int32(|t| &mut t.config.registry_pull_qps),
                "Image pulls per second; 0 means no limit.",
            ),
            field(
                "registry-burst",
                Bind::Int32(|t| &mut t.config.registry_burst),
                "Image pulls at once above --registry-qps.",
            ),
            field(
                "minimum-image-ttl-duration",
                Bind::Duration(|t| &mut t.config.image_minimum_gc_age),
                "How long an unused image is kept at least.",
            ),
            field(
                "image-gc-high-threshold",
                Bind::Int32(|t| &mut t.config.image_gc_high_threshold_percent),
                "Disk usage in percent above which image garbage collection always runs.",
            ),
            field(
                "image-gc-low-threshold",
                Bind::Int32(|t| &mut t.config.image_gc_low_threshold_percent),
                "Disk usage in percent that image garbage collection frees down to.",
            ),
            field(
                "container-log-max-size",
                Bind::Text(|t| &mut t.config.container_log_max_size),
                "Size at which a container's log is rotated.",
            ),
            field(
                "container-log-max-files",
                Bind::Int32(|t| &mut t.config.container_log_max_files),
                "Log files kept per container, at least 2.",
            ),
        ],
    ),
    (
        "Cgroups, CPU, memory, topology",
        &[
            field(
                "cgroup-driver",
                Bind::Text(|t| &mut t.config.cgroup_driver),
                "Who manages cgroups: cgroupfs or systemd. The runtime's answer wins.",
            ),
            field(
                "cgroup-root",
                Bind::Text(|t| &mut t.config.cgroup_root),
                "Cgroup below which pods are put.",
            ),
            field(
                "cgroups-per-qos",
                Bind::Bool(|t| &mut t.config.cgroups_per_qos),
                "Create a cgroup per QoS class and per pod.",
            ),
            field(
                "kubelet-cgroups",
                Bind::Text(|t| &mut t.config.kubelet_cgroups),
                "Cgroup to run the kubelet in.",
            ),
            field(
                "system-cgroups",
                Bind::Text(|t| &mut t.config.system_cgroups),
                "Cgroup for all other non-kernel processes.",
            ),
            field(
                "cpu-cfs-quota",
                Bind::Bool(|t| &mut t.config.cpu_cfs_quota),
                "Enforce CPU limits with CFS quotas.",
            ),
            field(
                "cpu-cfs-quota-period",
                Bind::Duration(|t| &mut t.config.cpu_cfs_quota_period),
                "Period of CFS quotas, 1ms to 1s.",
            ),
            field(
                "cpu-manager-policy",
                Bind::Text(|t| &mut t.config.cpu_manager_policy),
                "CPU manager policy: none or static.",
            ),
            field(
                "cpu-manager-policy-options",
                Bind::Pair(|t| &mut t.config.cpu_manager_policy_options),
                "Options of the CPU manager policy.",
            ),
            field(
                "cpu-manager-reconcile-period",
                Bind::Duration(|t| &mut t.config.cpu_manager_reconcile_period),
                "How often CPU assignments are checked.",
            ),
            field(
                "memory-manager-policy",
                Bind::Text(|t| &mut t.config.memory_manager_policy),
                "Memory manager policy: None or Static.",
            ),
            field(
                "reserved-memory",
                Bind::ReservedMemory(|t| &mut t.config.reserved_memory),
                "Memory reserved per NUMA node, such as 0:memory=1Gi,hugepages-1Gi=2Gi.",
            ),
            field(
                "topology-manager-policy",
                Bind::Text(|t| &mut t.config.topology_manager_policy),
                "Topology manager policy: none, best-effort, restricted or single-numa-node.",
            ),
            field(
                "topology-manager-policy-options",
                Bind::Map(|t| &mut t.config.topology_manager_policy_options),
                "Options of the topology manager policy.",
            ),
            field(
                "topology-manager-scope",
                Bind::Text(|t| &mut t.config.topology_manager_scope),
                "What is aligned: container or pod.",
            ),
            field(
                "qos-reserved",
                Bind::Map(|t| &mut t.config.qos_reserved),
                "Percentage of a resource that is reserved for the requests of a QoS class (only memory; alpha).",
            ),
            field(
                "fail-swap-on",
                Bind::Bool(|t| &mut t.config.fail_swap_on),
                "Refuse to start on a node with swap.",
            ),
            field(
                "protect-kernel-defaults",
                Bind::Bool(|t| &mut t.config.protect_kernel_defaults),
                "Fail instead of setting kernel parameters that differ from what the kubelet needs.",
            ),
            field(
                "oom-score-adj",
                Bind::Int32(|t| &mut t.config.oom_score_adj),
                "The kubelet's own oom_score_adj, -1000 to 1000.",
            ),
            field(
                "max-open-files",
                Bind::Int64(|t| &mut t.config.max_open_files),
                "The kubelet's limit of open files.",
            ),
        ],
    ),
    (
        "Reservations and eviction",
        &[
            field(
                "system-reserved",
                Bind::Map(|t| &mut t.config.system_reserved),
                "Resources kept for the system, such as cpu=200m,memory=500Mi.",
            ),
            field(
                "system-reserved-cgroup",
                Bind::Text(|t| &mut t.config.system_reserved_cgroup),
                "Cgroup on which --system-reserved is enforced.",
            ),
            field(
                "kube-reserved",
                Bind::Map(|t| &mut t.config.kube_reserved),
                "Resources kept for Kubernetes components, such as cpu=200m,memory=500Mi.",
            ),
            field(
                "kube-reserved-cgroup",
                Bind::Text(|t| &mut t.config.kube_reserved_cgroup),
                "Cgroup on which --kube-reserved is enforced.",
            ),
            field(
                "reserved-cpus",
                Bind::Text(|t| &mut t.config.reserved_system_cpus),
                "CPUs kept for the system, as a list of ranges; supersedes the cpu of both reservations.",
            ),
            field(
                "enforce-node-allocatable",
                Bind::List(|t| &mut t.config.enforce_node_allocatable),
                "Levels at which allocatable is enforced: none, pods, system-reserved, kube-reserved, or those -compressible.",
            ),
            field(
                "eviction-hard",
                Bind::LessMap(|t| &mut t.config.eviction_hard),
                "Thresholds that evict pods at once, such as memory.available<100Mi.",
            ),
            field(
                "eviction-soft",
                Bind::LessMap(|t| &mut t.config.eviction_soft),
                "Thresholds that evict pods once they held for their grace period.",
            ),
            field(
                "eviction-soft-grace-period",
                Bind::Map(|t| &mut t.config.eviction_soft_grace_period),
                "Grace period of each soft threshold, such as memory.available=1m30s.",
            ),
            field(
                "eviction-pressure-transition-period",
                Bind::Duration(|t| &mut t.config.eviction_pressure_transition_period),
                "How long a pressure condition stays after its threshold is no longer met.",
            ),
            field(
                "eviction-max-pod-grace-period",
                Bind::Int32(|t| &mut t.config.eviction_max_pod_grace_period),
                "Longest grace in seconds that a pod gets on soft eviction.",
            ),
            field(
                "eviction-minimum-reclaim",
                Bind::Map(|t| &mut t.config.eviction_minimum_reclaim),
                "How much to free at least when a threshold was met, such as imagefs.available=2Gi.",
            ),
            field(
                "kernel-memcg-notification",
                Bind::Bool(|t| &mut t.config.kernel_memcg_notification),
                "Be told by the kernel when memory thresholds are crossed.",
            ),
        ],
    ),
    (
        "Log",
        &[
            field(
                "logging-format",
                Bind::Text(|t| &mut t.config.logging.format),
                "Format of the log: text or json.",
            ),
            field(
                "log-text-split-stream",
                Bind::Bool(|t| &mut t.config.logging.options.text.split_stream),
                "In text format, errors to stderr and the rest to stdout (gate LoggingAlphaOptions).",
            ),
            field(
                "log-text-info-buffer-size",
                Bind::Quantity(|t| &mut t.config.logging.options.text.info_buffer_size),
                "Buffer of stdout in split text format; lines are never held back here.",
            ),
            field(
                "log-json-split-stream",
                Bind::Bool(|t| &mut t.config.logging.options.json.split_stream),
                "In JSON format, errors to stderr and the rest to stdout (gate LoggingAlphaOptions).",
            ),
            field(
                "log-json-info-buffer-size",
                Bind::Quantity(|t| &mut t.config.logging.options.json.info_buffer_size),
                "Buffer of stdout in split JSON format; lines are never held back here.",
            ),
        ],
    ),
];
