//! The configuration of subsystems that also depends on the machine or has to be checked here. The
//! rest is made by the subsystems themselves, in their `config.rs`.
//!
//! Every error names the field or flag and what to do.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::plugin_folders;
use crate::admission::SysctlAllowlist;
use crate::apiserver::events::Recorder;
use crate::apiserver::{ClientConfig, Clients};
use crate::clock::Clock;
use crate::config::{Gate, KubeletConfiguration, Loaded, machine};
use crate::linux::fs::ensure_root_dir;
use crate::linux::selinux;
use crate::linux::systemd::Systemd;
use crate::model::EventType;
use crate::model::quantity::Amount;
use crate::pods::request;
use crate::{cri, images, node, resources, server, volumes};

/// The node as configured, and its machine.
#[derive(Debug)]
pub(super) struct NodeSettings {
    /// The node's name.
    pub(super) node_name: String,
    /// `--root-dir`.
    pub(super) root_dir: PathBuf,
    /// The machine.
    pub(super) machine: node::info::MachineInfo,
    /// `--node-ip`: none, one, or one per family.
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
        let (ips, others) = loaded.node_ips();
        if !others.is_empty() {
            info!(IPs = ?others, "Could not parse some node IP(s), ignoring them");
        }
        settings.node_ips = ips;
        settings.check_machine()?;
        Ok(settings)
    }

    fn config(&self) -> &KubeletConfiguration {
        &self.loaded.config
    }

    /// Refuses what the machine cannot give.
    fn check_machine(&self) -> anyhow::Result<()> {
        machine::check(self.config(), &machine::Cpus::detect()).map_err(anyhow::Error::msg)?;
        let config = self.node();
        let devices = resources::devices::Figures::new();
        let capacity = node::resources::capacity(&config, &self.machine, &devices);
        node::resources::check(&config, &capacity).map_err(anyhow::Error::msg)
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
        plugin_folders::label(&self.root_dir, selinux::is_enabled());
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

    /// The clients of the API server; `None` without `--kubeconfig`.
    pub(super) fn clients(&self, clock: Clock) -> anyhow::Result<Option<Clients>> {
        let Some(config) = ClientConfig::from_loaded(&self.loaded, &self.node_name) else {
            return Ok(None);
        };
        if !config.kubeconfig.exists() && !self.loaded.flags.bootstrap_kubeconfig.is_empty() {
            bail!(
                "{} does not exist, and requesting a client certificate with --bootstrap-kubeconfig is not supported yet: \
                 let kubeadm or upstream's kubelet write it first",
                config.kubeconfig.display()
            );
        }
        Ok(Some(Clients::new(&config, clock)?))
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

    /// The cgroups of pods; `None` with `cgroupsPerQOS: false`.
    pub(super) fn cgroups(
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
            cpu_period: u64::try_from(config.cpu_cfs_quota_period.to_std().as_micros())
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
        Ok(Some(cgroups))
    }

    /// What all pods may use together, and the reserved daemons (`enforceNodeAllocatable`).
    pub(super) fn node_limits(&self) -> resources::NodeLimits {
        let config = self.config();
        let amounts = |map: &std::collections::BTreeMap<String, String>| {
            map.iter()
                .filter_map(|(name, text)| Some((name.clone(), Amount::parse(text).ok()?)))
                .collect()
        };
        let wanted = resources::node_limits::Config {
            enforce: config.enforce_node_allocatable.clone(),
            system_reserved: amounts(&config.system_reserved),
            kube_reserved: amounts(&config.kube_reserved),
            system_cgroup: config.system_reserved_cgroup.clone(),
            kube_cgroup: config.kube_reserved_cgroup.clone(),
            cpus_are_managed: config.cpu_manager_policy == "static",
        };
        let machine = resources::node_limits::Machine {
            cores: self.machine.cores,
            cpus: crate::linux::machine::cpus(),
            memory: self.machine.memory,
            pids: crate::linux::machine::processes(),
        };
        resources::node_limits::plan(&wanted, &machine)
    }

    /// The configuration of the Node object.
    pub(super) fn node(&self) -> node::NodeConfig {
        let names = node::Names { node: self.node_name.clone(), host: self.hostname.clone() };
        let declared = self.declared_features().unwrap_or_default();
        node::NodeConfig::from_loaded(&self.loaded, names, self.node_ips.clone(), declared)
    }

    /// What the scheduler may count on: of the features that upstream's kubelet declares, those
    /// that are carried out here. `None`: nothing is declared, and nothing is asked for.
    pub(super) fn declared_features(&self) -> Option<&'static [&'static str]> {
        const INIT_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";
        const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
        let gates = &self.loaded.gates;
        let resizes_init = gates.enabled(Gate::IN_PLACE_POD_VERTICAL_SCALING_INIT_CONTAINERS);
        let restarts_all = gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS);
        let declared: &[&str] = match (resizes_init, restarts_all) {
            (true, true) => &[INIT_RESIZE, RESTART_ALL],
            (true, false) => &[INIT_RESIZE],
            (false, true) => &[RESTART_ALL],
            (false, false) => &[],
        };
        gates.enabled(Gate::NODE_DECLARED_FEATURES).then_some(declared)
    }

    /// What pods may have of this machine.
    pub(super) fn allocatable(&self) -> node::resources::Resources {
        let config = self.node();
        let devices = resources::devices::Figures::new();
        let capacity = node::resources::capacity(&config, &self.machine, &devices);
        node::resources::allocatable(&config, &capacity, &devices)
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
            seccomp_default: config.seccomp_default || self.loaded.flags.seccomp_default,
            cpu_cfs_quota: config.cpu_cfs_quota,
            cpu_cfs_quota_period: config.cpu_cfs_quota_period.to_std(),
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
            selinux: selinux::is_enabled(),
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

    /// Refuses at the start what its part would refuse, or leave out, only later.
    pub(super) fn check_parts(&self) -> anyhow::Result<()> {
        let config = self.config();
        let pair = self.serving_pair();
        let pair = pair.as_ref().filter(|_| config.enable_server);
        server::check_files(pair.map(|(file, key)| (file, key)), self.client_ca().as_ref())?;
        if config.enable_server {
            self.server_address()?;
            self.read_only_address()?;
        }
        SysctlAllowlist::new(self.kernel(), &config.allowed_unsafe_sysctls)?;
        images::allowlist::check(&config.preloaded_images_verification_allowlist)?;
        Ok(())
    }

    /// The serving certificate and its key; `None`: none is configured.
    fn serving_pair(&self) -> Option<(server::NamedFile, server::NamedFile)> {
        let config = self.config();
        let named = |field, path: &str| server::NamedFile { field, path: PathBuf::from(path) };
        (!config.tls_cert_file.is_empty() || !config.tls_private_key_file.is_empty()).then(|| {
            (
                named("tlsCertFile (--tls-cert-file)", &config.tls_cert_file),
                named("tlsPrivateKeyFile (--tls-private-key-file)", &config.tls_private_key_file),
            )
        })
    }

    /// The CA of client certificates, if one is configured.
    fn client_ca(&self) -> Option<server::NamedFile> {
        let path = &self.config().authentication.x509.client_ca_file;
        let field = "authentication.x509.clientCAFile (--client-ca-file)";
        (!path.is_empty()).then(|| server::NamedFile { field, path: PathBuf::from(path) })
    }

    /// The serving certificate: configured, or self-signed in `--cert-dir`.
    pub(super) fn tls(
        &self,
        clock: Clock,
        host_ips: &[IpAddr],
    ) -> anyhow::Result<server::TlsSettings> {
        let gates = &self.loaded.gates;
        let (cert_file, key_file) = if let Some(pair) = self.serving_pair() {
            pair
        } else {
            let directory = Path::new(&self.loaded.flags.cert_dir);
            let (certificate, key) =
                server::self_signed(directory, &self.hostname, host_ips, clock.now().wall)?;
            let named = |path| server::NamedFile { field: "--cert-dir", path };
            (named(certificate), named(key))
        };
        Ok(server::TlsSettings {
            cert_file,
            key_file,
            client_ca_file: self.client_ca(),
            only_tls13: self.config().tls_min_version == "VersionTLS13",
            reload_certificate: gates.enabled(Gate::RELOAD_KUBELET_SERVER_CERTIFICATE_FILE),
            reload_client_ca: gates.enabled(Gate::RELOAD_KUBELET_CLIENT_CA_FILE),
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

    /// Where to serve the health endpoint: an address, or a name that is looked up.
    pub(super) fn health_address(&self) -> Option<(String, u16)> {
        let port = u16::try_from(self.config().healthz_port).ok()?;
        (port > 0).then(|| (self.config().healthz_bind_address.clone(), port))
    }
}

fn socket(
    address_field: &str,
    address: &str,
    port_field: &str,
    port: i32,
) -> anyhow::Result<SocketAddr> {
    let ip: IpAddr = address.parse().with_context(|| {
        format!("{address_field} (--{address_field}) {address:?} is not an IP address")
    })?;
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
