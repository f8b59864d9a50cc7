//! The configuration, cut into what each subsystem asks for. Every error names the field or flag
//! and what to do.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tracing::warn;

use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::apiserver::objects::ChangeDetection;
use crate::apiserver::{ClientConfig, Clients};
use crate::clock::Clock;
use crate::config::types::GoDuration;
use crate::config::{Gate, KUBERNETES_VERSION, KubeletConfiguration, Loaded};
use crate::linux::fs::ensure_root_dir;
use crate::linux::systemd::Systemd;
use crate::model::EventType;
use crate::model::quantity::Amount;
use crate::node::addresses;
use crate::pods::request;
use crate::{cri, images, node, pods, resources, server, sources, volumes};

/// Settings of the node: what was configured and what the machine says.
#[derive(Debug)]
pub(super) struct NodeSettings {
    /// The node's name.
    pub(super) node_name: String,
    /// `--root-dir`.
    pub(super) root_dir: PathBuf,
    /// The machine.
    pub(super) machine: node::info::MachineInfo,
    /// The node's addresses, preferred first.
    pub(super) node_ips: Vec<IpAddr>,
    loaded: Loaded,
    hostname: String,
}

impl NodeSettings {
    /// Reads the machine.
    pub(super) fn new(loaded: &Loaded) -> anyhow::Result<Self> {
        let hostname = nix::unistd::gethostname().context("the machine has no host name")?;
        let hostname = hostname.to_string_lossy().trim().to_lowercase();
        let node_name = match loaded.flags.hostname_override.trim() {
            "" => hostname.clone(),
            name => name.to_lowercase(),
        };
        let root_dir = PathBuf::from(&loaded.flags.root_dir);
        let mut settings = Self {
            node_name: node_name.clone(),
            machine: node::info::read(&root_dir),
            root_dir,
            node_ips: Vec::new(),
            loaded: loaded.clone(),
            hostname: if loaded.flags.hostname_override.is_empty() { hostname } else { node_name },
        };
        settings.node_ips = settings.configured_ips()?;
        Ok(settings)
    }

    fn config(&self) -> &KubeletConfiguration {
        &self.loaded.config
    }

    /// `--node-ip`.
    fn configured_ips(&self) -> anyhow::Result<Vec<IpAddr>> {
        let text = self.loaded.flags.node_ip.trim();
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| {
                part.parse().with_context(|| format!("--node-ip: {part:?} is not an IP address"))
            })
            .collect()
    }

    /// The node's own addresses: those configured, else the one of the default route.
    pub(super) async fn find_ips(&mut self) -> anyhow::Result<()> {
        if !self.node_ips.is_empty() && self.node_ips.iter().all(|ip| !ip.is_unspecified()) {
            return Ok(());
        }
        let network = addresses::read()
            .await
            .map_err(anyhow::Error::msg)
            .context("reading the node's addresses")?;
        let wanted = addresses::Wanted {
            node_name: &self.node_name,
            hostname: &self.hostname,
            node_ips: &self.node_ips,
            external_cloud_provider: false,
        };
        match addresses::choose(wanted, &network, &[], &[]) {
            Ok(found) => {
                let internal = found.iter().filter(|address| address.type_ == "InternalIP");
                self.node_ips =
                    internal.filter_map(|address| address.address.parse().ok()).collect();
            }
            Err(problem) => warn!(%problem, "no address for this node was found; give --node-ip"),
        }
        Ok(())
    }

    /// Makes the directories of the root, with upstream's modes. What exists keeps its mode, and
    /// may be a link, as upstream.
    pub(super) fn make_directories(&self) -> anyhow::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the kubelet must run as root: it makes mounts and cgroups");
        }
        let make = |path: &Path, mode| {
            ensure_root_dir(path, mode).with_context(|| format!("cannot make {}", path.display()))
        };
        make(&self.root_dir, 0o750)?;
        for name in ["pods", "plugins", "plugins_registry", "pod-resources"] {
            make(&self.root_dir.join(name), 0o750)?;
        }
        make(&self.root_dir.join("checkpoints"), 0o700)?;
        make(Path::new(&self.config().pod_logs_dir), 0o750)?;
        make(Path::new("/var/log/containers"), 0o755)?;
        if let Err(error) = crate::linux::mount::make_rshared(&self.root_dir) {
            warn!(root = %self.root_dir.display(), %error, "the root directory is not shared: mounts may not reach containers");
        }
        Ok(())
    }

    /// Tells the node's users what the configuration promises and this kubelet does not do yet
    /// (`main` has logged it).
    pub(super) fn report_warnings(&self, recorder: &Recorder) {
        for warning in &self.loaded.warnings {
            if warning.node_event {
                recorder.node(
                    &self.node_name,
                    EventType::Warning,
                    "ConfigurationWithoutEffect",
                    warning.text.clone(),
                );
            }
        }
    }

    pub(super) fn cri(&self) -> cri::Settings {
        let image = &self.config().image_service_endpoint;
        cri::Settings {
            runtime_endpoint: self.config().container_runtime_endpoint.clone(),
            image_endpoint: (!image.is_empty()).then(|| image.clone()),
            request_timeout: duration(self.config().runtime_request_timeout),
        }
    }

    pub(super) fn clients(&self, clock: Clock) -> anyhow::Result<Option<Clients>> {
        let flags = &self.loaded.flags;
        if flags.kubeconfig.is_empty() {
            return Ok(None);
        }
        let kubeconfig = PathBuf::from(&flags.kubeconfig);
        if !kubeconfig.exists() && !flags.bootstrap_kubeconfig.is_empty() {
            bail!(
                "{} does not exist, and requesting a client certificate with --bootstrap-kubeconfig is not supported yet: \
                 let kubeadm or upstream's kubelet write it first",
                kubeconfig.display()
            );
        }
        let config = self.config();
        let clients = ClientConfig {
            kubeconfig,
            node_name: self.node_name.clone(),
            qps: f64::from(config.kube_api_qps),
            burst: u32::try_from(config.kube_api_burst).unwrap_or(0),
            event_qps: f64::from(config.event_record_qps),
            event_burst: u32::try_from(config.event_burst).unwrap_or(0),
            disable_http2: false,
        };
        Ok(Some(Clients::new(&clients, clock)?))
    }

    pub(super) fn change_detection(&self, node: watch::Receiver<NodeView>) -> ChangeDetection {
        let sync = self.config().sync_frequency.to_std();
        match self.config().config_map_and_secret_change_detection_strategy.as_str() {
            "Get" => ChangeDetection::Get(sync),
            "Cache" => ChangeDetection::Cache { sync, node },
            _ => ChangeDetection::Watch,
        }
    }

    /// The node's directories.
    pub(super) fn paths(&self) -> volumes::paths::Paths {
        volumes::paths::Paths::new(&self.root_dir, &self.config().pod_logs_dir)
    }

    pub(super) fn volumes(&self) -> volumes::Config {
        let all = self.allocatable();
        let amount =
            |name: &str| all.get(name).and_then(|quantity| Amount::parse(&quantity.0).ok());
        let allocatable = volumes::Allocatable {
            cpu: amount("cpu"),
            memory: amount("memory"),
            ephemeral_storage: amount("ephemeral-storage"),
        };
        volumes::Config { paths: self.paths(), allocatable }
    }

    pub(super) fn images(&self) -> images::Settings {
        let config = self.config();
        let parallel = match (config.serialize_image_pulls, config.max_parallel_image_pulls) {
            (true, _) => Some(1),
            (false, limit) => limit.and_then(|limit| usize::try_from(limit).ok()),
        };
        images::Settings {
            limits: images::Limits {
                parallel,
                qps: config.registry_pull_qps.into(),
                burst: u32::try_from(config.registry_burst).unwrap_or(0),
            },
            node_credentials: images::NodeCredentials::in_usual_places(
                &self.root_dir,
                Some(Path::new("/root")),
            ),
            root_dir: self.root_dir.clone(),
            verification: match config.image_pull_credentials_verification_policy.as_str() {
                "NeverVerify" => images::Verification::Never,
                "AlwaysVerify" => images::Verification::Always,
                "NeverVerifyAllowlistedImages" => images::Verification::NeverForAllowlisted(
                    config.preloaded_images_verification_allowlist.clone(),
                ),
                _ => images::Verification::NeverForPreloaded,
            },
        }
    }

    /// The cgroups of pods; `None` with `cgroupsPerQOS: false`.
    pub(super) async fn cgroups(
        &self,
        condition: &cri::RuntimeCondition,
    ) -> anyhow::Result<Option<resources::PodCgroups>> {
        let config = self.config();
        if !config.cgroups_per_qos {
            return Ok(None);
        }
        // The runtime's word counts, the configuration's only where it gives none
        // (KubeletCgroupDriverFromCRI).
        let driver = match condition.cgroup_driver {
            Some(cri::condition::CgroupDriver::Systemd) => resources::CgroupDriver::Systemd,
            None if config.cgroup_driver == "systemd" => resources::CgroupDriver::Systemd,
            Some(cri::condition::CgroupDriver::Cgroupfs) | None => {
                resources::CgroupDriver::Cgroupfs
            }
        };
        let unified = crate::config::Host::detect().cgroup_v2;
        if !unified && config.fail_cgroup_v1 {
            bail!(
                "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode: \
                 set failCgroupV1 to false to run here"
            );
        }
        let policy = resources::PodCgroupPolicy {
            enforce_cpu_limits: config.cpu_cfs_quota,
            cpu_period: u64::try_from(duration(config.cpu_cfs_quota_period).as_micros())
                .unwrap_or(100_000),
            pids_limit: config.pod_pids_limit,
        };
        let tree = resources::CgroupTree::new(&config.cgroup_root, driver, true);
        let fs =
            crate::linux::cgroup::CgroupFs::detect().context("reading the cgroup hierarchies")?;
        let pods = resources::Config { tree, policy };
        let cgroups = match driver {
            resources::CgroupDriver::Cgroupfs => resources::PodCgroups::new(fs, pods),
            resources::CgroupDriver::Systemd => {
                resources::PodCgroups::new(resources::Slices::new(fs, Systemd::default()), pods)
            }
        };
        let refused =
            cgroups.setup(self.node_cgroup()).await.context("setting up the cgroups of pods")?;
        if let Some(error) = refused {
            warn!(%error, "the limit of all pods together is not in force: they use more already");
        }
        Ok(Some(cgroups))
    }

    /// What all pods may use together: the machine less what is reserved (`enforceNodeAllocatable:
    /// [pods]`).
    fn node_cgroup(&self) -> resources::CgroupSettings {
        let config = self.config();
        if !config.enforce_node_allocatable.iter().any(|what| what == "pods") {
            return resources::CgroupSettings::default();
        }
        let amounts = |map: &std::collections::BTreeMap<String, String>| {
            map.iter()
                .filter_map(|(name, text)| Some((name.clone(), Amount::parse(text).ok()?)))
                .collect()
        };
        let memory = i64::try_from(self.machine.memory).unwrap_or(i64::MAX);
        let capacity = [
            ("cpu".to_owned(), Amount::from_units(self.machine.cores.into())),
            ("memory".to_owned(), Amount::from_units(memory)),
        ];
        let reservations = resources::Reservations {
            kube: amounts(&config.kube_reserved),
            system: amounts(&config.system_reserved),
            ..resources::Reservations::default()
        };
        let enforced = resources::allocatable::enforced(&capacity.into(), &reservations);
        resources::pod_config::node(&enforced, false)
    }

    pub(super) fn node(&self) -> node::NodeConfig {
        let (flags, config) = (&self.loaded.flags, self.config());
        node::NodeConfig {
            node_name: self.node_name.clone(),
            hostname: self.hostname.clone(),
            node_ips: self.configured_ips().unwrap_or_default(),
            register: config.register_node,
            labels: flags.node_labels.clone(),
            taints: config.register_with_taints.clone(),
            external_cloud_provider: flags.cloud_provider == "external",
            provider_id: config.provider_id.clone(),
            controller_attach_detach: config.enable_controller_attach_detach,
            max_pods: config.max_pods.into(),
            pods_per_core: config.pods_per_core.into(),
            kube_reserved: config.kube_reserved.clone(),
            system_reserved: config.system_reserved.clone(),
            eviction_hard: if flags.experimental_allocatable_ignore_eviction {
                std::collections::BTreeMap::new()
            } else {
                config.eviction_hard.clone()
            },
            local_storage: config.local_storage_capacity_isolation,
            status_update_frequency: duration(config.node_status_update_frequency),
            status_report_frequency: duration(config.node_status_report_frequency),
            lease_duration: Duration::from_secs(
                u64::try_from(config.node_lease_duration_seconds).unwrap_or(40),
            ),
            max_images: config.node_status_max_images.into(),
            port: u16::try_from(config.port).unwrap_or(10250),
            kubelet_version: KUBERNETES_VERSION.to_owned(),
            declared_features: self
                .declared_features()
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect(),
            root_dir: self.root_dir.clone(),
        }
    }

    /// When images that nobody needs go.
    pub(super) fn image_gc(&self) -> images::gc_plan::Policy {
        let config = self.config();
        let percent = |value: i32| u64::try_from(value).unwrap_or_default();
        images::gc_plan::Policy {
            high_percent: percent(config.image_gc_high_threshold_percent),
            low_percent: percent(config.image_gc_low_threshold_percent),
            min_age: duration(config.image_minimum_gc_age),
            max_age: duration(config.image_maximum_gc_age),
        }
    }

    /// When containers' logs are rotated; `None` for a negative size: never.
    pub(super) fn log_rotation(&self) -> Option<pods::logs::Policy> {
        let config = self.config();
        let size = Amount::parse(&config.container_log_max_size).ok()?.units();
        Some(pods::logs::Policy {
            max_size: u64::try_from(size).ok()?,
            max_files: usize::try_from(config.container_log_max_files).ok()?,
            workers: usize::try_from(config.container_log_max_workers).unwrap_or(1),
            every: duration(config.container_log_monitor_interval),
        })
    }

    /// What the scheduler may count on: of the features that upstream's kubelet declares, those
    /// that are carried out here. `None`: nothing is declared, and nothing is asked for.
    pub(super) fn declared_features(&self) -> Option<&'static [&'static str]> {
        const DECLARED: &[&str] = &["RestartAllContainersOnContainerExits"];
        let gates = &self.loaded.gates;
        let all = if gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS) {
            DECLARED
        } else {
            &[]
        };
        gates.enabled(Gate::NODE_DECLARED_FEATURES).then_some(all)
    }

    /// What pods may have of this machine.
    pub(super) fn allocatable(&self) -> node::resources::Resources {
        let (config, inputs) = (self.node(), node::NodeInputs::default());
        let capacity = node::resources::capacity(&config, &self.machine, &inputs);
        node::resources::allocatable(&config, &capacity, &inputs)
    }

    pub(super) fn manifests(&self) -> Option<sources::manifests::Config> {
        let path = &self.config().static_pod_path;
        (!path.is_empty()).then(|| sources::manifests::Config {
            path: PathBuf::from(path),
            check_frequency: duration(self.config().file_check_frequency),
            node_name: self.node_name.clone(),
        })
    }

    pub(super) fn http(&self) -> anyhow::Result<Option<sources::http::Config>> {
        let config = self.config();
        if config.static_pod_url.is_empty() {
            return Ok(None);
        }
        let url = config
            .static_pod_url
            .parse()
            .with_context(|| format!("staticPodURL {:?}", config.static_pod_url))?;
        let mut headers = http::HeaderMap::new();
        for (name, values) in &config.static_pod_url_header.0 {
            let name = http::HeaderName::try_from(name)
                .with_context(|| format!("staticPodURLHeader {name:?}"))?;
            for value in values {
                let value = http::HeaderValue::from_str(value).with_context(|| {
                    format!("staticPodURLHeader {name}: a value is not allowed in a header")
                })?;
                headers.append(name.clone(), value);
            }
        }
        Ok(Some(sources::http::Config {
            url,
            headers,
            check_frequency: duration(config.http_check_frequency),
            node_name: self.node_name.clone(),
        }))
    }

    /// What shapes the requests to the runtime.
    pub(super) fn spec(&self) -> request::Settings {
        let config = self.config();
        let cluster_dns = config.cluster_dns.iter().filter_map(|ip| ip.parse().ok()).collect();
        let unified = crate::config::Host::detect().cgroup_v2;
        request::Settings {
            dns: request::DnsSettings {
                cluster_dns,
                cluster_domain: config.cluster_domain.clone(),
                node_ips: self.node_ips.clone(),
                no_resolv_conf: config.resolv_conf.is_empty(),
            },
            pod_logs_dir: config.pod_logs_dir.clone(),
            seccomp_profile_root: self.root_dir.join("seccomp").to_string_lossy().into_owned(),
            seccomp_default: config.seccomp_default,
            cpu_cfs_quota: config.cpu_cfs_quota,
            cpu_cfs_quota_period: duration(config.cpu_cfs_quota_period),
            cgroup_v2: unified,
            swap_controller: super::process::has_swap_controller(unified),
            limited_swap: (config.memory_swap.swap_behavior == "LimitedSwap").then(|| {
                request::Swap {
                    memory: i64::try_from(self.machine.memory).unwrap_or(i64::MAX),
                    swap: i64::try_from(self.machine.swap).unwrap_or(i64::MAX),
                }
            }),
            single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!unified),
            huge_page_sizes: huge_page_sizes(),
            extra_masked_paths: thermal_throttle_paths(),
            selinux: super::process::has_selinux(),
            stop_signals: self.loaded.gates.enabled(Gate::CONTAINER_STOP_SIGNALS),
        }
    }

    /// The kernel's version, for safe sysctls.
    pub(super) fn kernel(&self) -> (u32, u32) {
        let release = &self.machine.kernel_version;
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    pub(super) fn authentication(&self) -> server::AuthenticationSettings {
        let authentication = &self.config().authentication;
        let webhook = &authentication.webhook;
        server::AuthenticationSettings {
            anonymous: authentication.anonymous.enabled,
            webhook: webhook.enabled.then(|| duration(webhook.cache_ttl)),
        }
    }

    pub(super) fn authorization(&self) -> server::AuthorizationMode {
        let authorization = &self.config().authorization;
        match authorization.mode.as_str() {
            "AlwaysAllow" => server::AuthorizationMode::AlwaysAllow,
            _ => server::AuthorizationMode::Webhook {
                allowed_ttl: duration(authorization.webhook.cache_authorized_ttl),
                denied_ttl: duration(authorization.webhook.cache_unauthorized_ttl),
            },
        }
    }

    /// The serving certificate: configured, or self-signed in `--cert-dir`.
    pub(super) fn tls(&self, clock: Clock) -> anyhow::Result<server::TlsSettings> {
        let config = self.config();
        let client_ca = &config.authentication.x509.client_ca_file;
        let (cert_file, key_file) =
            if config.tls_cert_file.is_empty() && config.tls_private_key_file.is_empty() {
                let directory = Path::new(&self.loaded.flags.cert_dir);
                server::self_signed(directory, &self.hostname, &self.node_ips, clock.now().wall)?
            } else {
                (PathBuf::from(&config.tls_cert_file), PathBuf::from(&config.tls_private_key_file))
            };
        Ok(server::TlsSettings {
            cert_file,
            key_file,
            client_ca_file: (!client_ca.is_empty()).then(|| PathBuf::from(client_ca)),
            only_tls13: config.tls_min_version == "VersionTLS13",
        })
    }

    pub(super) fn server_address(&self) -> anyhow::Result<SocketAddr> {
        socket("address", &self.config().address, "port", self.config().port)
    }

    pub(super) fn read_only_address(&self) -> anyhow::Result<Option<SocketAddr>> {
        let port = self.config().read_only_port;
        (port > 0)
            .then(|| socket("address", &self.config().address, "readOnlyPort", port))
            .transpose()
    }

    pub(super) fn health_address(&self) -> anyhow::Result<Option<SocketAddr>> {
        let port = self.config().healthz_port;
        let address = &self.config().healthz_bind_address;
        (port > 0).then(|| socket("healthzBindAddress", address, "healthzPort", port)).transpose()
    }
}

/// A duration of the configuration; negative ones (which validation refuses) are none.
pub(super) fn duration(duration: GoDuration) -> Duration {
    u64::try_from(duration.nanos()).map(Duration::from_nanos).unwrap_or_default()
}

fn socket(
    address_field: &str,
    address: &str,
    port_field: &str,
    port: i32,
) -> anyhow::Result<SocketAddr> {
    let ip: IpAddr = address
        .parse()
        .with_context(|| format!("{address_field}: {address:?} is not an IP address"))?;
    let port =
        u16::try_from(port).with_context(|| format!("{port_field}: {port} is not a port"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The kernel's huge page sizes as the runtime names them.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut kilobytes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    kilobytes.sort_unstable();
    let name = |size: u64| match size {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    };
    kilobytes.into_iter().map(name).collect()
}

/// Where each processor tells of throttling: masked in containers, as upstream does.
fn thermal_throttle_paths() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let paths =
        (0..cores).map(|core| format!("/sys/devices/system/cpu/cpu{core}/thermal_throttle"));
    paths.filter(|path| Path::new(path).exists()).collect()
}
