//! The node's names and addresses, and the machine that it runs on. Read once, at the start.
//!
//! Made from the configuration and the machine; read by the composition. It never asks the network.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use tracing::info;

use crate::config::{Loaded, machine};
use crate::node::{self, NodeConfig};
use crate::resources::devices::Figures;

/// The node that this process is the agent of.
#[derive(Debug)]
pub(super) struct Identity {
    /// The node's name in the API.
    pub(super) name: String,
    /// The host's name, or the name that overrides it.
    pub(super) host: String,
    /// `--node-ip`: none, one, or one per family.
    pub(super) ips: Vec<IpAddr>,
    /// The machine.
    pub(super) machine: node::info::MachineInfo,
}

impl Identity {
    /// Reads the machine, and refuses a configuration that asks for more than it has.
    pub(super) fn read(loaded: &Loaded) -> anyhow::Result<Self> {
        let hostname = nix::unistd::gethostname().context("the machine has no host name")?;
        let hostname = hostname.to_string_lossy().trim().to_lowercase();
        let name = match loaded.flags.hostname_override.trim() {
            "" => hostname.clone(),
            name => name.to_lowercase(),
        };
        let (ips, others) = loaded.node_ips();
        if !others.is_empty() {
            info!(IPs = ?others, "Could not parse some node IP(s), ignoring them");
        }

        let identity = Self {
            host: if loaded.flags.hostname_override.is_empty() { hostname } else { name.clone() },
            name,
            ips,
            machine: node::info::read(Path::new(&loaded.flags.root_dir)),
        };
        identity.check_machine(loaded)?;
        Ok(identity)
    }

    fn check_machine(&self, loaded: &Loaded) -> anyhow::Result<()> {
        machine::check(&loaded.config, &machine::Cpus::detect()).map_err(anyhow::Error::msg)?;
        let config = self.node_config(loaded);
        let capacity = node::resources::capacity(&config, &self.machine, &Figures::new());
        Ok(node::resources::check(&config, &capacity)?)
    }

    /// The configuration of the Node object.
    pub(super) fn node_config(&self, loaded: &Loaded) -> NodeConfig {
        let names = node::Names { node: self.name.clone(), host: self.host.clone() };
        NodeConfig::from_loaded(loaded, names, self.ips.clone())
    }

    /// The resources of this machine that pods may have, without devices.
    pub(super) fn allocatable(&self, loaded: &Loaded) -> node::resources::Resources {
        let config = self.node_config(loaded);
        let devices = Figures::new();
        let capacity = node::resources::capacity(&config, &self.machine, &devices);
        node::resources::allocatable(&config, &capacity, &devices)
    }
}
