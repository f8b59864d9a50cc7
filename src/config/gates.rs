//! Feature gates: which are on, given what files and flags said. Pure.
//!
//! Fed by `load` with the merged `featureGates` of files and flags. The result is a value that is
//! handed to whoever looks at a gate; there is no global.

use std::collections::BTreeMap;

use super::gates_table::{GATES, Spec};

/// How mature a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off by default, may vanish.
    Alpha,
    /// Mostly on by default.
    Beta,
    /// Done; the gate itself will vanish.
    Ga,
    /// On its way out.
    Deprecated,
}

impl Stage {
    /// The `stage` label of `kubernetes_feature_enabled`.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

/// A gate that this kubelet looks at, or will. A test holds each against the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(&'static str);

macro_rules! gates {
    ($($constant:ident = $name:literal),* $(,)?) => {
        #[expect(missing_docs, reason = "each constant is named as its gate")]
        impl Gate {
            $(pub const $constant: Self = Self($name);)*
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$constant),*];
        }
    };
}

gates! {
    CLUSTER_TRUST_BUNDLE_PROJECTION = "ClusterTrustBundleProjection",
    CONTAINER_CHECKPOINT = "ContainerCheckpoint",
    CONTAINER_RESTART_RULES = "ContainerRestartRules",
    CONTAINER_STOP_SIGNALS = "ContainerStopSignals",
    CPU_MANAGER_POLICY_ALPHA_OPTIONS = "CPUManagerPolicyAlphaOptions",
    CPU_MANAGER_POLICY_BETA_OPTIONS = "CPUManagerPolicyBetaOptions",
    CUSTOM_CPU_CFS_QUOTA_PERIOD = "CustomCPUCFSQuotaPeriod",
    DISABLE_NODE_KUBE_PROXY_VERSION = "DisableNodeKubeProxyVersion",
    DYNAMIC_RESOURCE_ALLOCATION = "DynamicResourceAllocation",
    ENV_FILES = "EnvFiles",
    EVENTED_PLEG = "EventedPLEG",
    GRACEFUL_NODE_SHUTDOWN = "GracefulNodeShutdown",
    GRACEFUL_NODE_SHUTDOWN_BASED_ON_POD_PRIORITY = "GracefulNodeShutdownBasedOnPodPriority",
    HOSTNAME_OVERRIDE = "HostnameOverride",
    IMAGE_MAXIMUM_GC_AGE = "ImageMaximumGCAge",
    IMAGE_VOLUME = "ImageVolume",
    IN_PLACE_POD_VERTICAL_SCALING = "InPlacePodVerticalScaling",
    IN_PLACE_POD_VERTICAL_SCALING_INIT_CONTAINERS = "InPlacePodVerticalScalingInitContainers",
    KUBELET_CRASH_LOOP_BACK_OFF_MAX = "KubeletCrashLoopBackOffMax",
    KUBELET_ENSURE_SECRET_PULLED_IMAGES = "KubeletEnsureSecretPulledImages",
    KUBELET_FINE_GRAINED_AUTHZ = "KubeletFineGrainedAuthz",
    KUBELET_IN_USER_NAMESPACE = "KubeletInUserNamespace",
    KUBELET_REGISTRATION_GET_ON_EXISTS_ONLY = "KubeletRegistrationGetOnExistsOnly",
    KUBELET_SERVICE_ACCOUNT_TOKEN_FOR_CREDENTIAL_PROVIDERS =
        "KubeletServiceAccountTokenForCredentialProviders",
    LOGGING_ALPHA_OPTIONS = "LoggingAlphaOptions",
    LOGGING_BETA_OPTIONS = "LoggingBetaOptions",
    MEMORY_QOS = "MemoryQoS",
    NODE_DECLARED_FEATURES = "NodeDeclaredFeatures",
    NODE_LOG_QUERY = "NodeLogQuery",
    NODE_SWAP = "NodeSwap",
    POD_AND_CONTAINER_STATS_FROM_CRI = "PodAndContainerStatsFromCRI",
    POD_CERTIFICATE_REQUEST = "PodCertificateRequest",
    POD_LEVEL_RESOURCES = "PodLevelResources",
    POD_LIFECYCLE_SLEEP_ACTION = "PodLifecycleSleepAction",
    POD_LOGS_QUERY_SPLIT_STREAMS = "PodLogsQuerySplitStreams",
    POD_OBSERVED_GENERATION_TRACKING = "PodObservedGenerationTracking",
    POD_READY_TO_START_CONTAINERS_CONDITION = "PodReadyToStartContainersCondition",
    PREVENT_STATIC_POD_API_REFERENCES = "PreventStaticPodAPIReferences",
    QOS_RESERVED = "QOSReserved",
    RECURSIVE_READ_ONLY_MOUNTS = "RecursiveReadOnlyMounts",
    REDUCE_DEFAULT_CRASH_LOOP_BACK_OFF_DECAY = "ReduceDefaultCrashLoopBackOffDecay",
    RESOURCE_HEALTH_STATUS = "ResourceHealthStatus",
    RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS = "RestartAllContainersOnContainerExits",
    ROTATE_KUBELET_SERVER_CERTIFICATE = "RotateKubeletServerCertificate",
    RUNTIME_CLASS_IN_IMAGE_CRI_API = "RuntimeClassInImageCriApi",
    SELINUX_MOUNT = "SELinuxMount",
    SUPPLEMENTAL_GROUPS_POLICY = "SupplementalGroupsPolicy",
    TOPOLOGY_MANAGER_POLICY_ALPHA_OPTIONS = "TopologyManagerPolicyAlphaOptions",
    TOPOLOGY_MANAGER_POLICY_BETA_OPTIONS = "TopologyManagerPolicyBetaOptions",
    TOPOLOGY_MANAGER_POLICY_OPTIONS = "TopologyManagerPolicyOptions",
    USER_NAMESPACES_SUPPORT = "UserNamespacesSupport",
}

/// What was said about gates; everything else is at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    said: BTreeMap<String, bool>,
}

/// Why a set of gates is refused. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// There is no such gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// It can no longer be changed.
    #[error("cannot set feature gate {name} to {wanted}, feature is locked to {locked}")]
    Locked {
        /// The gate.
        name: String,
        /// What was said.
        wanted: bool,
        /// What it is.
        locked: bool,
    },
    /// It is on while something it depends on is off.
    #[error("{name} is enabled, but depends on features that are disabled: [{}]", .missing.join(" "))]
    Depends {
        /// The gate.
        name: &'static str,
        /// What it lacks.
        missing: Vec<&'static str>,
    },
}

impl FeatureGates {
    /// Whether `gate` is on.
    pub fn enabled(&self, gate: Gate) -> bool {
        spec(gate.0).is_some_and(|spec| self.state(spec))
    }

    /// Adds what a file or the flags say and returns everything that is wrong with the outcome.
    pub fn set(&mut self, said: &BTreeMap<String, bool>) -> Vec<GateError> {
        let mut errors = self.set_valid(said);
        if errors.is_empty() {
            errors = self.unmet();
        }
        errors
    }

    /// Like [`Self::set`] without the check of dependencies; what is refused is left out.
    pub fn set_valid(&mut self, said: &BTreeMap<String, bool>) -> Vec<GateError> {
        let mut errors = Vec::new();
        for (name, &wanted) in said {
            match spec(name) {
                None => errors.push(GateError::Unknown(name.clone())),
                Some(spec) if spec.locked && spec.default != wanted => {
                    errors.push(GateError::Locked {
                        name: name.clone(),
                        wanted,
                        locked: spec.default,
                    });
                }
                Some(_) => {
                    self.said.insert(name.clone(), wanted);
                }
            }
        }
        errors
    }

    /// Every gate with its stage and whether it is on, sorted by name:
    /// `kubernetes_feature_enabled`.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        GATES.iter().map(|spec| (spec.name, spec.stage.as_label(), self.state(spec)))
    }

    /// The gates that were named although they are about to vanish.
    pub fn named_on_their_way_out(&self) -> impl Iterator<Item = (&'static Spec, bool)> {
        self.said.iter().filter_map(|(name, &value)| Some((spec(name)?, value))).filter(
            |(spec, _)| match spec.stage {
                Stage::Ga | Stage::Deprecated => true,
                Stage::Alpha | Stage::Beta => false,
            },
        )
    }

    fn unmet(&self) -> Vec<GateError> {
        GATES
            .iter()
            .filter(|gate| self.state(gate))
            .filter_map(|gate| {
                let off =
                    |name: &&&'static str| spec(name).is_some_and(|needed| !self.state(needed));
                let missing: Vec<&'static str> = gate.needs.iter().filter(off).copied().collect();
                (!missing.is_empty()).then_some(GateError::Depends { name: gate.name, missing })
            })
            .collect()
    }

    fn state(&self, spec: &Spec) -> bool {
        if let Some(&said) = self.said.get(spec.name) {
            return said;
        }
        let of_its_stage = match spec.stage {
            Stage::Alpha => self.said.get("AllAlpha"),
            Stage::Beta => self.said.get("AllBeta"),
            Stage::Ga | Stage::Deprecated => None,
        };
        // The two collective gates are gates of their stage themselves and do not set each other or
        // themselves.
        match of_its_stage {
            Some(&said) if spec.name != "AllAlpha" && spec.name != "AllBeta" => said,
            Some(_) | None => spec.default,
        }
    }
}

fn spec(name: &str) -> Option<&'static Spec> {
    GATES.binary_search_by(|spec| spec.name.cmp(name)).ok().and_then(|index| GATES.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, bool)]) -> BTreeMap<String, bool> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    #[track_caller]
    fn errors(pairs: &[(&str, bool)]) -> Vec<String> {
        FeatureGates::default().set(&map(pairs)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_is_sorted_and_every_constant_is_in_it() {
        assert!(GATES.is_sorted_by(|a, b| a.name < b.name));
        for gate in Gate::ALL {
            assert!(spec(gate.0).is_some(), "{gate:?}");
        }
        for gate in GATES {
            assert!(gate.needs.iter().all(|name| spec(name).is_some()), "{gate:?}");
        }
        assert!(FeatureGates::default().unmet().is_empty());
    }

    #[test]
    fn says_what_is_wrong_with_each_gate() {
        assert_eq!(
            errors(&[("Foo", true), ("NodeSwap", false), ("Bar", false)]),
            [
                "unrecognized feature gate: Bar",
                "unrecognized feature gate: Foo",
                "cannot set feature gate NodeSwap to false, feature is locked to true"
            ]
        );
        assert_eq!(errors(&[("NodeSwap", true)]), [""; 0]);
        assert_eq!(
            errors(&[("PodLevelResources", false)]),
            [
                "InPlacePodLevelResourcesVerticalScaling is enabled, but depends on features that are disabled: \
              [PodLevelResources]"
            ]
        );
    }

    #[test]
    fn collective_gates_yield_to_what_is_said() {
        let mut gates = FeatureGates::default();
        assert!(!gates.enabled(Gate::MEMORY_QOS));
        gates.set_valid(&map(&[("AllAlpha", true), ("EventedPLEG", false)]));
        assert!(gates.enabled(Gate::MEMORY_QOS));
        assert!(!gates.enabled(Gate::EVENTED_PLEG));
        gates.set_valid(&map(&[("AllBeta", false)]));
        assert!(!gates.enabled(Gate::ENV_FILES));
        assert!(gates.enabled(Gate::NODE_SWAP));
    }
}
