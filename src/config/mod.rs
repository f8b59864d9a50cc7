//! Flags and `KubeletConfiguration`: parse, defaults, precedence, validation. The only place that
//! reads argv and the environment.
//!
//! `load` reads once, at the start: argv over the file over the defaults, with drop-in files
//! between. What comes out is immutable; every subsystem is handed the few values that it needs, by
//! `daemon`. All that is wrong is reported at once. A new field is a row in `types`, a default in
//! `defaults`, a row in `effects`, and a check in `validate`.
//!
//! ```text
//! argv ─► flags ─► file ─► drop-ins ─► flags again ─► validate ─► Loaded
//!                  └─ decode ─┘ (strict, then lenient with a warning)
//! ```

pub mod credential_providers;
mod decode;
pub mod defaults;
pub mod document;
mod effects;
mod explain;
mod file;
mod flags;
pub mod gates;
mod gates_table;
pub mod machine;
mod proxies;
pub mod types;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use credential_providers::CredentialProviders;
pub use decode::DecodeError;
pub use effects::{Area, Effect};
pub use explain::{Explanation, explain, field_names, file_defaults, similar};
pub use file::clean_path;
pub use flags::{FlagError, Flags, Version, help, names as flag_names};
pub use gates::{FeatureGates, Gate, GateError};
pub use proxies::Proxies;
pub use types::{GoDuration, KubeletConfiguration};

/// The release of Kubernetes that is implemented.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// The configuration that the kubelet runs with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The flags that are no fields of the file.
    pub flags: Flags,
    /// The effective configuration.
    pub config: KubeletConfiguration,
    /// The effective gates.
    pub gates: FeatureGates,
    /// The value of each flag, whatever files say (`/flagz`).
    pub flag_values: BTreeMap<String, String>,
    /// Notices about deprecated flags, for stderr before anything is logged.
    pub deprecated_flags: Vec<String>,
    /// Warnings to be logged at the start.
    pub warnings: Vec<ConfigWarning>,
    /// The proxies that the environment names.
    pub proxies: Proxies,
    /// True if only HTTP/1.1 is spoken to the API server (`DISABLE_HTTP2` in the environment).
    pub disable_http2: bool,
    /// Plug-ins that have credentials for images, if the flags name some.
    pub credential_providers: Option<CredentialProviders>,
}

/// Something that the administrator should know about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// One sentence.
    pub text: String,
    /// True if it is also a Warning event on the Node: the node is less protected than its
    /// administrator believes.
    pub node_event: bool,
}

/// The error of a configuration that the kubelet does not start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The command line cannot be read.
    #[error(transparent)]
    Flags(#[from] FlagError),
    /// `--node-labels` asks for labels that a node may not set, or for invalid ones.
    #[error("failed to validate kubelet flags: {0}")]
    NodeLabels(String),
    /// The file cannot be read or decoded.
    #[error("failed to load kubelet config file, path: {}, error: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The drop-in directory, or a file in it, cannot be read or decoded.
    #[error(
        "failed to merge kubelet configs: failed to walk through kubelet dropin directory {dir:?}: {problem}"
    )]
    DropIns {
        /// The directory.
        dir: String,
        /// What is wrong.
        problem: String,
    },
    /// The gates that are set are not possible.
    #[error("failed to set feature gates from initial flags-based config: {}", aggregate(.0))]
    Gates(Vec<String>),
    /// The configuration is not possible: every reason.
    #[error("failed to validate kubelet configuration, error: {}", aggregate(.0))]
    Invalid(Vec<String>),
    /// Parts of the kubelet would refuse to start: every reason.
    #[error("{}", aggregate(.0))]
    Startup(Vec<String>),
}

/// A configuration that is not taken, with what should be said besides: an unknown field may be the
/// other half of the mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// The error.
    pub error: ConfigError,
    /// The warnings until then.
    pub warnings: Vec<ConfigWarning>,
    /// Notices about deprecated flags.
    pub deprecated_flags: Vec<String>,
}

/// Several errors as one text: upstream's brackets, one error per line when there are many.
fn aggregate(problems: &[String]) -> String {
    match problems {
        [problem] => problem.clone(),
        problems => format!("[{}]", problems.join(",\n ")),
    }
}

/// The facts of the machine that the configuration depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// True if `/sys/fs/cgroup` is the unified hierarchy.
    pub cgroup_v2: bool,
}

impl Host {
    /// This machine.
    pub fn detect() -> Self {
        let cgroup_v2 = nix::sys::statfs::statfs("/sys/fs/cgroup")
            .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC);
        Self { cgroup_v2 }
    }
}

/// Reads `args` (without the program's name) and the files that they name.
///
/// With `--help` or `--version` the files are not read and nothing is checked: look at `flags.help`
/// and `flags.version` first, in this order.
pub fn load(args: &[String]) -> Result<Loaded, Refused> {
    let loaded = load_on(args, Host::detect())?;
    let disable_http2 = std::env::var_os("DISABLE_HTTP2").is_some_and(|value| !value.is_empty());
    Ok(Loaded { proxies: Proxies::from_environment(), disable_http2, ..loaded })
}

/// [`load`] for a machine that is described.
pub fn load_on(args: &[String], host: Host) -> Result<Loaded, Refused> {
    let mut warnings = Vec::new();
    match read(args, host, &mut warnings) {
        Ok(loaded) => Ok(Loaded { warnings, ..loaded }),
        Err(error) => {
            let deprecated_flags = flags::deprecated(args, defaults::flag_defaults());
            Err(Refused { error, warnings, deprecated_flags })
        }
    }
}

/// What [`load_on`] returns, but for the warnings, which are there even when this fails.
fn read(
    args: &[String],
    host: Host,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<Loaded, ConfigError> {
    let first = flags::parse(args, defaults::flag_defaults())?;
    if first.flags.help || first.flags.version != Version::No {
        let gates = FeatureGates::default();
        let flags::Parsed { flags, config, deprecated } = first;
        return Ok(Loaded {
            flags,
            config,
            gates,
            flag_values: BTreeMap::new(),
            deprecated_flags: deprecated,
            warnings: Vec::new(),
            credential_providers: None,
            disable_http2: false,
            proxies: Proxies::default(),
        });
    }

    validate::node_labels(&first.flags.node_labels).map_err(ConfigError::NodeLabels)?;
    let flag_values = flags::values(&first.flags, &first.config);
    let files = !first.flags.config.is_empty() || !first.flags.config_dir.is_empty();
    let flags::Parsed { flags, config, deprecated } = if files {
        let mut config = first.config;
        if !first.flags.config.is_empty() {
            config = file::load(&first.flags.config, warnings)?;
        }
        if !first.flags.config_dir.is_empty() {
            config = file::merge_drop_ins(&config, &first.flags.config_dir, warnings)?;
        }
        flags::parse(args, config)?
    } else {
        first
    };

    let mut gates = FeatureGates::default();
    let problems: Vec<String> =
        gates.set(&config.feature_gates).iter().map(ToString::to_string).collect();
    let mut invalid = validate::configuration(&config, &gates, host);
    match (problems.is_empty(), invalid.is_empty()) {
        (true, true) => {}
        // Nothing but gates is wrong: upstream says so before it looks at the rest.
        (false, true) => return Err(ConfigError::Gates(problems)),
        (_, false) => {
            invalid.splice(0..0, problems);
            return Err(ConfigError::Invalid(invalid));
        }
    }

    let refused = validate::startup(&flags, &config, &gates, host);
    if !refused.is_empty() {
        return Err(ConfigError::Startup(refused));
    }

    let credential_providers = credential_providers(&flags, &gates)?;
    let mut config = config;
    reserve_system_cpus(&mut config);

    warnings.extend(validate::doubtful(&config, &gates));
    warnings.extend(gates.named_on_their_way_out().map(|(spec, value)| ConfigWarning {
        text: format!(
            "the feature gate {}={value} is set but will be removed in a future release",
            spec.name
        ),
        node_event: false,
    }));
    warnings.extend(effects::without_effect(&flags, &config, files));

    Ok(Loaded {
        flags,
        config,
        gates,
        flag_values,
        deprecated_flags: deprecated,
        warnings: Vec::new(),
        credential_providers,
        disable_http2: false,
        proxies: Proxies::default(),
    })
}

/// The credential provider plug-ins, if the flags name some.
fn credential_providers(
    flags: &Flags,
    gates: &FeatureGates,
) -> Result<Option<CredentialProviders>, ConfigError> {
    let config = &flags.image_credential_provider_config;
    let bin_dir = &flags.image_credential_provider_bin_dir;
    if config.is_empty() && bin_dir.is_empty() {
        return Ok(None);
    }
    credential_providers::load(config, bin_dir, gates).map(Some).map_err(|problem| {
        ConfigError::Startup(vec![format!("Failed to register CRI auth plugins: {problem}")])
    })
}

/// Counts `reservedSystemCPUs` as the cpu of `systemReserved`, in place of that of both
/// reservations.
fn reserve_system_cpus(config: &mut KubeletConfiguration) {
    let cpus = machine::cpu_list(&config.reserved_system_cpus).unwrap_or_default();
    if !cpus.is_empty() {
        config.kube_reserved.remove("cpu");
        config.system_reserved.insert("cpu".to_owned(), cpus.len().to_string());
    }
}

impl Loaded {
    /// What of `--node-ip` is an address, and what is none and is ignored.
    pub fn node_ips(&self) -> (Vec<std::net::IpAddr>, Vec<&str>) {
        validate::split_node_ips(&self.flags.node_ip)
    }

    /// The configuration as a file in `directory` would have to say it: relative paths, which
    /// drop-ins may leave, made absolute.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn with_paths_of(&self, directory: &std::path::Path) -> KubeletConfiguration {
        let mut config = self.config.clone();
        file::resolve_paths(&mut config, directory);
        config
    }
}

/// The line that `--version` prints; nothing if it was not asked for.
pub fn version_text(version: Version) -> Option<String> {
    match version {
        Version::No => None,
        Version::Plain => Some(format!("Kubernetes {KUBERNETES_VERSION}")),
        Version::Raw => Some(format!(
            "version.Info{{Major:\"1\", Minor:\"36\", GitVersion:\"{KUBERNETES_VERSION}\", Compiler:\"rustc\", \
             Platform:\"linux/{}\", Rkubelet:\"{}\"}}",
            go_architecture(),
            env!("CARGO_PKG_VERSION")
        )),
    }
}

/// The machine's architecture by the name that Go, and so the API, has for it.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const V2: Host = Host { cgroup_v2: true };
    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    /// Writes a file that a test prepares.
    #[expect(clippy::disallowed_methods, reason = "tests prepare files")]
    pub(super) fn write(path: &Path, text: &str) {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a directory");
        }
        std::fs::write(path, text).expect("writable");
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            for (name, body) in files {
                write(&dir.path().join(name), &format!("{HEAD}{body}"));
            }
            Self(dir)
        }

        fn load(&self, args: &[&str]) -> Result<Loaded, ConfigError> {
            self.load_or_refuse(args).map_err(|refused| refused.error)
        }

        fn load_or_refuse(&self, args: &[&str]) -> Result<Loaded, Refused> {
            let root = self.0.path().display().to_string();
            // Without a kubeconfig nobody can be asked about callers, which is refused.
            let kubeconfig = "--kubeconfig=/etc/kubernetes/kubelet.conf".to_owned();
            let args = args.iter().map(|arg| arg.replace('@', &root)).chain([kubeconfig]);
            load_on(&args.collect::<Vec<_>>(), V2)
        }
    }

    fn load_args(args: &[&str]) -> Result<Loaded, ConfigError> {
        Files::new(&[]).load(args)
    }

    #[test]
    fn flags_alone_have_the_old_open_defaults() {
        let loaded = load_args(&[]).expect("valid");
        assert!(loaded.config.authentication.anonymous.enabled);
        assert_eq!(loaded.config.authorization.mode, "AlwaysAllow");
        assert_eq!(loaded.config.read_only_port, 10255);
        assert!(loaded.config.eviction_hard.is_empty());
        assert_eq!(loaded.warnings, []);
    }

    #[test]
    fn an_empty_file_has_the_safe_defaults() {
        let loaded = Files::new(&[("c.yaml", "{}")]).load(&["--config=@/c.yaml"]);
        // `{}` after the head is no mapping of the head's document.
        assert!(loaded.is_err());
        let loaded = Files::new(&[("c.yaml", "")]).load(&["--config=@/c.yaml"]).expect("valid");
        assert!(!loaded.config.authentication.anonymous.enabled);
        assert_eq!(loaded.config.authorization.mode, "Webhook");
        assert_eq!(loaded.config.read_only_port, 0);
        assert_eq!(loaded.config.eviction_hard["nodefs.inodesFree"], "5%");
        assert_eq!(loaded.warnings, []);
    }

    #[test]
    fn flags_win_over_drop_ins_over_the_file() {
        let files = Files::new(&[
            (
                "c.yaml",
                "maxPods: 1\npodsPerCore: 1\noomScoreAdj: 1\nevictionHard: {memory.available: 1Gi}\n",
            ),
            (
                "d/20-b.conf",
                "podsPerCore: 3\noomScoreAdj: 3\nevictionHard: {nodefs.available: 1%}\n",
            ),
            ("d/10-a.conf", "podsPerCore: 2\nclusterDomain: a\n"),
            ("d/30/c.conf", "clusterDomain: c\nevictionHard: {memory.available: null}\n"),
            ("d/99.yaml", "maxPods: 99\n"),
            ("d/.conf", "imageGCLowThresholdPercent: 7\n"),
        ]);
        let loaded = files
            .load(&[
                "--config=@/c.yaml",
                "--config-dir=@/d",
                "--oom-score-adj=4",
                "--feature-gates=AllAlpha=false",
            ])
            .expect("valid");
        let config = &loaded.config;
        assert_eq!((config.max_pods, config.pods_per_core, config.oom_score_adj), (1, 3, 4));
        assert_eq!(config.cluster_domain, "c");
        assert_eq!(config.image_gc_low_threshold_percent, 7);
        assert_eq!(
            config.eviction_hard.iter().collect::<Vec<_>>(),
            [(&"nodefs.available".into(), &"1%".into())]
        );
        assert!(
            loaded
                .deprecated_flags
                .iter()
                .any(|text| text.starts_with("Flag --oom-score-adj has been"))
        );
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let files = Files::new(&[(
            "c.yaml",
            "staticPodPath: manifests\nresolvConf: \"\"\ntlsCertFile: /abs\ntlsPrivateKeyFile: key\n",
        )]);
        let config = files.load(&["--config=@/c.yaml"]).expect("valid").config;
        assert_eq!(config.static_pod_path, files.0.path().join("manifests").display().to_string());
        assert_eq!((config.resolv_conf.as_str(), config.tls_cert_file.as_str()), ("", "/abs"));
    }

    #[test]
    fn zero_means_the_default_where_the_api_cannot_tell() {
        let files = Files::new(&[(
            "c.yaml",
            "maxPods: 0\nsyncFrequency: 0s\nhealthzPort: 0\nnodeStatusUpdateFrequency: 20s\npodPidsLimit: -7\n\
             maxParallelImagePulls: 4\nlogging: {flushFrequency: 0, verbosity: 3}\nenforceNodeAllocatable: []\n",
        )]);
        let config = files.load(&["--config=@/c.yaml"]).expect("valid").config;
        assert_eq!((config.max_pods, config.healthz_port, config.pod_pids_limit), (110, 0, -1));
        assert_eq!(config.sync_frequency.to_string(), "1m0s");
        assert_eq!(config.node_status_report_frequency.to_string(), "20s");
        assert!(!config.serialize_image_pulls);
        assert_eq!(config.logging.flush_frequency.duration.to_string(), "5s");
        assert!(config.enforce_node_allocatable.is_empty());
    }

    #[test]
    fn warns_by_name_about_unknown_and_repeated_fields() {
        let files = Files::new(&[("c.yaml", "maxPods: 5\nmaxPod: 6\nmaxPods: 7\n")]);
        let texts: Vec<String> = files
            .load(&["--config=@/c.yaml"])
            .expect("lenient")
            .warnings
            .into_iter()
            .map(|w| w.text)
            .collect();
        assert!(
            texts.iter().any(|text| text.contains("\"maxPod\"") && text.contains("unknown")),
            "{texts:?}"
        );
        assert!(
            texts.iter().any(|text| text.contains("\"maxPods\"") && text.contains("twice")),
            "{texts:?}"
        );
    }

    #[test]
    fn deprecated_flags_are_named_also_when_it_refuses() {
        // Whatever is refused: the configuration, or a flag behind it.
        for args in [&["--port=99999"][..], &["--port=10250", "--nope"]] {
            let refused = Files::new(&[]).load_or_refuse(args).expect_err("refused");
            assert!(
                refused.deprecated_flags[0].starts_with("Flag --port has been deprecated"),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn configz_shows_what_runs_as_it_was_written() {
        let files = Files::new(&[(
            "c.yaml",
            "reservedSystemCPUs: 0-1\nkubeReserved: {cpu: 70m}\nlogging: {flushFrequency: 5000000000}\n",
        )]);
        let loaded = files.load(&["--config=@/c.yaml", "--seccomp-default"]).expect("valid");
        let shown = &loaded.config.configz()["kubeletconfig"];
        assert_eq!(shown["systemReserved"], serde_json::json!({ "cpu": "2" }));
        assert!(shown.get("kubeReserved").is_none(), "{shown}");
        assert_eq!(shown["logging"]["flushFrequency"], serde_json::json!(5_000_000_000_i64));
        assert_eq!(shown["seccompDefault"], serde_json::json!(false), "the flag is none of it");
    }

    #[test]
    fn warns_also_when_it_refuses() {
        let files =
            Files::new(&[("c.yaml", "maxPods: -1\nmaxPod: 6\n"), ("d/x.conf", "port: [\n")]);
        for args in [&["--config=@/c.yaml"][..], &["--config=@/c.yaml", "--config-dir=@/d"]] {
            let refused = files.load_or_refuse(args).expect_err("invalid");
            let texts: Vec<String> =
                refused.warnings.into_iter().map(|warning| warning.text).collect();
            assert!(
                texts.iter().any(|text| text.contains("\"maxPod\"")),
                "{}: {texts:?}",
                refused.error
            );
        }
    }

    #[test]
    fn warns_of_relative_paths_in_a_drop_in() {
        let files = Files::new(&[
            ("c.yaml", "staticPodPath: here\n"),
            (
                "d/x.conf",
                "authentication: {x509: {clientCAFile: pki/ca.crt}}\nresolvConf: /abs\npodLogsDir: \"\"\n",
            ),
        ]);
        let loaded = files.load(&["--config=@/c.yaml", "--config-dir=@/d"]).expect("valid");
        assert_eq!(loaded.config.authentication.x509.client_ca_file, "pki/ca.crt");
        let texts: Vec<String> = loaded.warnings.into_iter().map(|warning| warning.text).collect();
        let [text] = texts.iter().filter(|text| text.contains("relative")).collect::<Vec<_>>()[..]
        else {
            panic!("{texts:?}")
        };
        assert!(
            text.contains("clientCAFile") && text.contains("x.conf") && text.contains("pki/ca.crt"),
            "{text}"
        );
    }

    #[test]
    fn reports_everything_that_is_wrong_at_once() {
        let files = Files::new(&[(
            "c.yaml",
            "maxPods: -1\nhealthzPort: 70000\nrunOnce: true\nfeatureGates: {Nope: true, NodeSwap: false}\n",
        )]);
        let error = files.load(&["--config=@/c.yaml"]).expect_err("invalid");
        let ConfigError::Invalid(problems) = &error else { panic!("{error}") };
        for text in ["maxPods", "healthzPort", "runOnce", "gate: Nope", "gate NodeSwap"] {
            assert!(problems.iter().any(|problem| problem.contains(text)), "{text}: {error}");
        }
        let error = load_args(&["--feature-gates=Foo=true"]).expect_err("unknown gate");
        assert_eq!(
            error.to_string(),
            "failed to set feature gates from initial flags-based config: unrecognized feature gate: Foo"
        );
    }

    #[test]
    fn names_the_file_that_is_wrong() {
        let files = Files::new(&[("c.yaml", "maxPods: many\n"), ("d/x.conf", "port: [\n")]);
        let error = files.load(&["--config=@/c.yaml"]).expect_err("wrong type").to_string();
        assert!(error.contains("c.yaml") && error.contains("maxPods"), "{error}");
        let error = files.load(&["--config-dir=@/d"]).expect_err("no YAML").to_string();
        assert!(error.contains("x.conf"), "{error}");
        let error = files.load(&["--config=@/none"]).expect_err("no file").to_string();
        assert!(error.contains("none") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn labels_that_a_node_may_not_set_are_refused() {
        let error =
            load_args(&["--node-labels=kubernetes.io/x=1"]).expect_err("refused").to_string();
        assert!(error.starts_with(
            "failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels"
        ));
        load_args(&["--node-labels=node.kubernetes.io/x=1,a/b=c"]).expect("allowed");
    }

    #[test]
    fn a_threshold_without_a_value_is_refused() {
        for field in ["evictionHard: {memory.available: }", "systemReserved: {cpu: null}"] {
            let error =
                Files::new(&[("c.yaml", field)]).load(&["--config=@/c.yaml"]).expect_err("refused");
            assert!(matches!(error, ConfigError::Invalid(_)), "{error}");
        }
    }

    #[test]
    fn help_and_version_need_no_valid_files() {
        let loaded = load_args(&["--config=/none", "--version"]).expect("not read");
        assert_eq!(version_text(loaded.flags.version).as_deref(), Some("Kubernetes v1.36.3"));
        assert!(load_args(&["--config=/none", "--help"]).expect("not read").flags.help);
    }

    #[test]
    fn configz_is_upstreams_document() {
        let document = defaults::flag_defaults().configz();
        let upstream: serde_json::Value =
            serde_json::from_str(include_str!("testdata/configz_flag_defaults.json"))
                .expect("JSON");
        assert_eq!(document, upstream);
    }

    #[test]
    fn what_configz_shows_can_be_loaded_again() {
        let files = Files::new(&[(
            "c.yaml",
            "maxPods: 5\nregisterWithTaints: [{key: a, effect: NoSchedule}]\n",
        )]);
        let config = files.load(&["--config=@/c.yaml"]).expect("valid").config;
        let document = config.configz()["kubeletconfig"].to_string();
        let again = tempfile::tempdir().expect("a directory");
        let path = again.path().join("c.json");
        write(&path, &document);
        let args = [format!("--config={}", path.display()), "--kubeconfig=/k".to_owned()];
        let loaded = load_on(&args, V2).expect("valid");
        assert_eq!(loaded.config, config);
        assert_eq!(loaded.warnings.iter().filter(|w| w.text.contains("unknown")).count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(body in "(?s).{0,120}", key in "[a-z][a-zA-Z]{0,12}", value in ".{0,20}") {
            let files = Files::new(&[("c.yaml", &format!("{key}: {value}\n{body}"))]);
            drop(files.load(&["--config=@/c.yaml"]));
        }
    }
}
