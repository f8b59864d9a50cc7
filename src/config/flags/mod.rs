//! The command line: one table says which flags there are, where each puts its value, what it means
//! and whether it is deprecated; parsing, `--help` and the documentation follow from it.
//!
//! Parsing is our own because the contract is pflag's, not a common one: `_` is `-`, `-v4`,
//! repeated maps add up, the command line is read twice (once to find the file, once over it), and
//! the texts of errors are read by tools. Fed by `load` with argv; it reads nothing itself.

mod fields;
mod help;
mod parse;
mod table;
mod values;

use std::collections::{BTreeMap, BTreeSet};

pub use help::help;
pub use parse::FlagError;
pub(super) use parse::{Parsed, deprecated, parse};
pub(super) use table::described;
pub use table::names;
#[cfg(test)]
pub(super) use table::own_flags;

use super::types::{GoDuration, KubeletConfiguration};

/// The flags that are no fields of the file: what differs between the nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the file; empty means flags and defaults only.
    pub config: String,
    /// `--config-dir`: directory of drop-in files.
    pub config_dir: String,
    /// `--kubeconfig`: how to reach the API server; empty means standalone.
    pub kubeconfig: String,
    /// `--bootstrap-kubeconfig`: how to reach the API server for the first client certificate.
    pub bootstrap_kubeconfig: String,
    /// `--cert-dir`: where certificates and keys of the kubelet are.
    pub cert_dir: String,
    /// `--root-dir`: the kubelet's state.
    pub root_dir: String,
    /// `--hostname-override`: name of the node; empty means the host's name.
    pub hostname_override: String,
    /// `--node-ip`: address of the node, or two of different families with a comma between.
    pub node_ip: String,
    /// `--node-labels`: labels of a Node that is registered.
    pub node_labels: BTreeMap<String, String>,
    /// `--cloud-provider`: empty or `external`.
    pub cloud_provider: String,
    /// `--runtime-cgroups`: cgroup of the container runtime.
    pub runtime_cgroups: String,
    /// `--image-credential-provider-config`: which credential plug-ins to run.
    pub image_credential_provider_config: String,
    /// `--image-credential-provider-bin-dir`: where they are.
    pub image_credential_provider_bin_dir: String,
    /// `--lock-file`: a file to hold a lock on.
    pub lock_file: String,
    /// `--exit-on-lock-contention`: end when another process opens it.
    pub exit_on_lock_contention: bool,
    /// `--seccomp-default`; already or-ed into the configuration's field.
    pub seccomp_default: bool,
    /// `--housekeeping-interval`: how often container statistics are taken.
    pub housekeeping_interval: GoDuration,
    /// `--minimum-container-ttl-duration`: age of a dead container before it may be removed.
    pub minimum_container_ttl_duration: GoDuration,
    /// `--maximum-dead-containers-per-container`: dead instances kept per container.
    pub maximum_dead_containers_per_container: i32,
    /// `--maximum-dead-containers`: dead instances kept on the node; negative means no limit.
    pub maximum_dead_containers: i32,
    /// `--experimental-mounter-path`.
    pub experimental_mounter_path: String,
    /// `--experimental-allocatable-ignore-eviction`: do not subtract hard thresholds from
    /// allocatable.
    pub experimental_allocatable_ignore_eviction: bool,
    /// The value of `--version`.
    pub version: Version,
    /// True if `--help` was given.
    pub help: bool,
    given: BTreeSet<&'static str>,
}

/// The forms of `--version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Nothing: run.
    #[default]
    No,
    /// The line that kubeadm reads.
    Plain,
    /// Every detail.
    Raw,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            config: String::new(),
            config_dir: String::new(),
            kubeconfig: String::new(),
            bootstrap_kubeconfig: String::new(),
            cert_dir: "/var/lib/kubelet/pki".to_owned(),
            root_dir: "/var/lib/kubelet".to_owned(),
            hostname_override: String::new(),
            node_ip: String::new(),
            node_labels: BTreeMap::new(),
            cloud_provider: String::new(),
            runtime_cgroups: String::new(),
            image_credential_provider_config: String::new(),
            image_credential_provider_bin_dir: String::new(),
            lock_file: String::new(),
            exit_on_lock_contention: false,
            seccomp_default: false,
            housekeeping_interval: GoDuration::from_secs(10),
            minimum_container_ttl_duration: GoDuration::ZERO,
            maximum_dead_containers_per_container: 1,
            maximum_dead_containers: -1,
            experimental_mounter_path: String::new(),
            experimental_allocatable_ignore_eviction: false,
            version: Version::No,
            help: false,
            given: BTreeSet::new(),
        }
    }
}

impl Flags {
    /// Returns true if the flag of this name was on the command line.
    pub fn was_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }
}

/// Returns each flag with its value, as the command line and the defaults without a file have it.
/// What may be a secret is `CLASSIFIED`.
pub(super) fn values(flags: &Flags, config: &KubeletConfiguration) -> BTreeMap<String, String> {
    let mut target = Target { flags: flags.clone(), config: config.clone() };
    let value = |spec: &FlagSpec| (spec.name.to_owned(), spec.bind.value(&mut target));
    table::all_flags().map(value).collect()
}

/// The values that flags write to.
#[derive(Clone, Debug)]
struct Target {
    flags: Flags,
    config: KubeletConfiguration,
}

/// A row of the table.
struct FlagSpec {
    name: &'static str,
    short: Option<char>,
    bind: Bind,
    /// The notice printed when a deprecated flag is given.
    deprecated: Option<&'static str>,
    help: &'static str,
}

/// The place in a [`Target`] that a flag writes.
type Place<T> = fn(&mut Target) -> &mut T;

/// The type of a flag: how its text is read, and the place of its value.
enum Bind {
    Bool(Place<bool>),
    Int32(Place<i32>),
    Int64(Place<i64>),
    Level(Place<u32>),
    Text(Place<String>),
    Ip(Place<String>),
    Duration(Place<GoDuration>),
    Quantity(Place<super::types::QuantityText>),
    List(Place<Vec<String>>),
    /// `k=v,k2=v2`.
    Map(Place<BTreeMap<String, String>>),
    /// `k=v`, once per flag.
    Pair(Place<BTreeMap<String, String>>),
    /// `k<v,k2<v2`.
    LessMap(Place<BTreeMap<String, String>>),
    /// `k=v,k2`: a missing value is empty.
    Labels(Place<BTreeMap<String, String>>),
    /// `k=true,k2=false`.
    BoolMap(Place<BTreeMap<String, bool>>),
    /// `k:v,k:v2`.
    MultiMap(Place<super::types::Headers>),
    Taints(Place<Vec<k8s_openapi::api::core::v1::Taint>>),
    ReservedMemory(Place<Vec<super::types::MemoryReservation>>),
    VModule(Place<Vec<super::types::VModule>>),
    Version(Place<Version>),
    /// Read and forgotten.
    Ignored(Ignored, &'static str),
}

/// The type of a flag that is read and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ignored {
    Bool,
    Int,
    Text,
    Duration,
}
