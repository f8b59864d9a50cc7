//! Lists the reasons that users and controllers match on: those of events, of waiting and
//! terminated containers, and of conditions.
//!
//! They are API: byte for byte upstream's. A subsystem that needs a further reason adds it here, in
//! its group.

/// Reasons of events about pods and containers.
pub mod event {
    #![allow(missing_docs, reason = "each constant is its own documentation")]
    pub const CREATED: &str = "Created";
    pub const STARTED: &str = "Started";
    pub const FAILED: &str = "Failed";
    pub const KILLING: &str = "Killing";
    pub const PREEMPTING: &str = "Preempting";
    pub const BACK_OFF: &str = "BackOff";
    pub const EXCEEDED_GRACE_PERIOD: &str = "ExceededGracePeriod";
    pub const FAILED_KILL_POD: &str = "FailedKillPod";
    pub const FAILED_CREATE_POD_CONTAINER: &str = "FailedCreatePodContainer";
    pub const FAILED_PREPARE_DYNAMIC_RESOURCES: &str = "FailedPrepareDynamicResources";
    pub const FAILED_CREATE_POD_SANDBOX: &str = "FailedCreatePodSandBox";
    pub const FAILED_POD_SANDBOX_STATUS: &str = "FailedPodSandBoxStatus";
    pub const SANDBOX_CHANGED: &str = "SandboxChanged";
    pub const NETWORK_NOT_READY: &str = "NetworkNotReady";
    pub const FAILED_SYNC: &str = "FailedSync";
    pub const FAILED_MOUNT: &str = "FailedMount";
    pub const ALREADY_MOUNTED_VOLUME: &str = "AlreadyMountedVolume";
    pub const VOLUME_PERMISSION_CHANGE_IN_PROGRESS: &str = "VolumePermissionChangeInProgress";
    pub const FAILED_VALIDATION: &str = "FailedValidation";
    pub const PULLING: &str = "Pulling";
    pub const PULLED: &str = "Pulled";
    pub const INSPECT_FAILED: &str = "InspectFailed";
    pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
    pub const UNHEALTHY: &str = "Unhealthy";
    pub const PROBE_WARNING: &str = "ProbeWarning";
    pub const FAILED_POST_START_HOOK: &str = "FailedPostStartHook";
    pub const FAILED_PRE_STOP_HOOK: &str = "FailedPreStopHook";
    pub const LIFECYCLE_HTTP_FALLBACK: &str = "LifecycleHTTPFallback";
    pub const FAILED_TO_RETRIEVE_IMAGE_PULL_SECRET: &str = "FailedToRetrieveImagePullSecret";
    pub const DNS_CONFIG_FORMING: &str = "DNSConfigForming";
    pub const MISSING_CLUSTER_DNS: &str = "MissingClusterDNS";
    pub const EVICTED: &str = "Evicted";
    pub const EVICTION_THRESHOLD_MET: &str = "EvictionThresholdMet";
    pub const CONTAINER_GC_FAILED: &str = "ContainerGCFailed";
    pub const NODE_SHUTDOWN: &str = "Shutdown";
    pub const SYSTEM_OOM: &str = "SystemOOM";
    pub const INVALID_DISK_CAPACITY: &str = "InvalidDiskCapacity";
    pub const FREE_DISK_SPACE_FAILED: &str = "FreeDiskSpaceFailed";
    pub const IMAGE_GC_FAILED: &str = "ImageGCFailed";
    pub const RESIZE_DEFERRED: &str = "ResizeDeferred";
    pub const RESIZE_INFEASIBLE: &str = "ResizeInfeasible";
    pub const RESIZE_STARTED: &str = "ResizeStarted";
    pub const RESIZE_COMPLETED: &str = "ResizeCompleted";
    pub const RESIZE_ERROR: &str = "ResizeError";
    pub const FAILED_TO_MAKE_POD_DATA_DIRECTORIES: &str = "Failed";
    /// Ours: a pod has waited for long.
    pub const POD_BLOCKED: &str = "PodBlocked";
    /// Ours: the kernel has killed a process of a container, which went on.
    pub const OOM_KILLING: &str = "OOMKilling";
    /// Ours: a volume or directory of a pod that is gone cannot be removed.
    pub const ORPHANED_VOLUME_STUCK: &str = "OrphanedVolumeStuck";
}

/// Reasons of `state.waiting` and `state.terminated`.
pub mod container {
    #![allow(missing_docs, reason = "each constant is its own documentation")]
    pub const CONTAINER_CREATING: &str = "ContainerCreating";
    pub const POD_INITIALIZING: &str = "PodInitializing";
    pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
    pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
    pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
    pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
    pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
    pub const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";
    pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
    pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
    pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
    pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
    pub const POST_START_HOOK_ERROR: &str = "PostStartHookError";
    pub const CONTAINER_STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
    pub const COMPLETED: &str = "Completed";
    pub const ERROR: &str = "Error";
    pub const OOM_KILLED: &str = "OOMKilled";
}
