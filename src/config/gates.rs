//! Feature gates: which are on, given what files and flags said. Pure.
//!
//! Fed by `load` with the merged `featureGates` of files and flags. The result is a value that is
//! handed to each subsystem that looks at a gate; there is no global.

use std::collections::BTreeMap;

use super::gates_table::{GATES, Spec};

/// The maturity of a gate.
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

/// A gate that this kubelet looks at. A test holds each against the table, and against the code
/// that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(&'static str);

macro_rules! gates {
    ($($constant:ident = $name:literal),* $(,)?) => {
        #[expect(missing_docs, reason = "each constant is named as its gate")]
        impl Gate {
            $(pub const $constant: Self = Self($name);)*
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$constant),*];
            #[cfg(test)]
            const NAMES: &'static [&'static str] = &[$(stringify!($constant)),*];
        }
    };
}

gates! {
    ALLOW_DNS_ONLY_NODE_CSR = "AllowDNSOnlyNodeCSR",
    CHANGE_CONTAINER_STATUS_ON_KUBELET_RESTART = "ChangeContainerStatusOnKubeletRestart",
    COMPONENT_FLAGZ = "ComponentFlagz",
    COMPONENT_STATUSZ = "ComponentStatusz",
    CONTAINER_CHECKPOINT = "ContainerCheckpoint",
    CONTAINER_RESTART_RULES = "ContainerRestartRules",
    CONTAINER_STOP_SIGNALS = "ContainerStopSignals",
    CPU_MANAGER_POLICY_ALPHA_OPTIONS = "CPUManagerPolicyAlphaOptions",
    CPU_MANAGER_POLICY_BETA_OPTIONS = "CPUManagerPolicyBetaOptions",
    CUSTOM_CPU_CFS_QUOTA_PERIOD = "CustomCPUCFSQuotaPeriod",
    ENV_FILES = "EnvFiles",
    EVENTED_PLEG = "EventedPLEG",
    EXTEND_WEB_SOCKETS_TO_KUBELET = "ExtendWebSocketsToKubelet",
    GRACEFUL_NODE_SHUTDOWN = "GracefulNodeShutdown",
    GRACEFUL_NODE_SHUTDOWN_BASED_ON_POD_PRIORITY = "GracefulNodeShutdownBasedOnPodPriority",
    HOSTNAME_OVERRIDE = "HostnameOverride",
    IMAGE_MAXIMUM_GC_AGE = "ImageMaximumGCAge",
    IN_PLACE_POD_LEVEL_RESOURCES_VERTICAL_SCALING = "InPlacePodLevelResourcesVerticalScaling",
    IN_PLACE_POD_VERTICAL_SCALING_INIT_CONTAINERS = "InPlacePodVerticalScalingInitContainers",
    KUBELET_CRASH_LOOP_BACK_OFF_MAX = "KubeletCrashLoopBackOffMax",
    KUBELET_ENSURE_SECRET_PULLED_IMAGES = "KubeletEnsureSecretPulledImages",
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
    POD_LEVEL_RESOURCES = "PodLevelResources",
    POD_READY_TO_START_CONTAINERS_CONDITION = "PodReadyToStartContainersCondition",
    PREVENT_STATIC_POD_API_REFERENCES = "PreventStaticPodAPIReferences",
    REDUCE_DEFAULT_CRASH_LOOP_BACK_OFF_DECAY = "ReduceDefaultCrashLoopBackOffDecay",
    RELOAD_KUBELET_CLIENT_CA_FILE = "ReloadKubeletClientCAFile",
    RELOAD_KUBELET_SERVER_CERTIFICATE_FILE = "ReloadKubeletServerCertificateFile",
    RESOURCE_HEALTH_STATUS = "ResourceHealthStatus",
    RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS = "RestartAllContainersOnContainerExits",
    ROTATE_KUBELET_SERVER_CERTIFICATE = "RotateKubeletServerCertificate",
    RUNTIME_CLASS_IN_IMAGE_CRI_API = "RuntimeClassInImageCriApi",
    TOPOLOGY_MANAGER_POLICY_OPTIONS = "TopologyManagerPolicyOptions",
}

/// The gates that were set; all others have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    said: BTreeMap<String, bool>,
}

/// The error of gates that cannot be set. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// There is no such gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// The gate is locked to its default.
    #[error("cannot set feature gate {name} to {wanted}, feature is locked to {locked}")]
    Locked {
        /// The gate.
        name: String,
        /// The value that was set.
        wanted: bool,
        /// The value that the gate has.
        locked: bool,
    },
    /// The gate is on while a gate that it depends on is off.
    #[error("{name} is enabled, but depends on features that are disabled: [{}]", .missing.join(" "))]
    Depends {
        /// The gate.
        name: &'static str,
        /// The gates that are off.
        missing: Vec<&'static str>,
    },
}

impl FeatureGates {
    /// Returns true if `gate` is on.
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

    /// Gates that can be switched, and whose feature is here: each has a reader in the code.
    const SWITCHES: &[&str] = &[
        "ChangeContainerStatusOnKubeletRestart",
        "ComponentFlagz",
        "ComponentStatusz",
        "ContainerCheckpoint",
        "ContainerRestartRules",
        "ContainerStopSignals",
        "EnvFiles",
        "EventedPLEG",
        "HostnameOverride",
        "InPlacePodLevelResourcesVerticalScaling",
        "KubeletCrashLoopBackOffMax",
        "KubeletEnsureSecretPulledImages",
        "KubeletInUserNamespace",
        "KubeletRegistrationGetOnExistsOnly",
        "KubeletServiceAccountTokenForCredentialProviders",
        "NodeDeclaredFeatures",
        "PodLevelResources",
        "PodReadyToStartContainersCondition",
        "PreventStaticPodAPIReferences",
        "ReduceDefaultCrashLoopBackOffDecay",
        "ReloadKubeletClientCAFile",
        "ReloadKubeletServerCertificateFile",
        "ResourceHealthStatus",
        "RestartAllContainersOnContainerExits",
        "RuntimeClassInImageCriApi",
    ];

    #[test]
    fn every_gate_that_is_named_has_a_reader() {
        let mut source = String::new();
        collect(concat!(env!("CARGO_MANIFEST_DIR"), "/src").as_ref(), &mut source);
        for (constant, gate) in Gate::NAMES.iter().zip(Gate::ALL) {
            let reader = format!("Gate::{constant}");
            let is_read = source.match_indices(&reader).any(|(at, _)| {
                let next = source[at + reader.len()..].chars().next();
                !next.is_some_and(|next| next == '_' || next.is_ascii_uppercase())
            });
            assert!(is_read, "{gate:?}");
        }
        for &name in SWITCHES {
            assert!(Gate::ALL.contains(&Gate(name)), "{name}");
            assert!(spec(name).is_some_and(|spec| !spec.locked), "{name}");
        }
    }

    /// The text of every source file but this one, each without its tests.
    fn collect(directory: &std::path::Path, source: &mut String) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, source);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.ends_with("config/gates.rs")
            {
                let text = std::fs::read_to_string(&path).expect("text");
                source.push_str(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
            }
        }
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
        gates.set_valid(&map(&[("AllAlpha", true), ("ContainerStopSignals", false)]));
        assert!(gates.enabled(Gate::MEMORY_QOS));
        assert!(!gates.enabled(Gate::CONTAINER_STOP_SIGNALS));
        gates.set_valid(&map(&[("AllBeta", false)]));
        assert!(!gates.enabled(Gate::ENV_FILES));
        assert!(gates.enabled(Gate::NODE_SWAP));
    }
}
