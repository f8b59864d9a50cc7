//! The volumes' configuration from the kubelet's. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Allocatable, Config, Paths};
use crate::config::Loaded;
use crate::model::quantity::Amount;

impl Config {
    /// `allocatable`: the resources that the node can give to pods.
    pub fn from_loaded(loaded: &Loaded, allocatable: &BTreeMap<String, Quantity>) -> Self {
        let amount =
            |name: &str| allocatable.get(name).and_then(|quantity| Amount::parse(&quantity.0).ok());
        Self {
            paths: Paths::from(loaded),
            allocatable: Allocatable {
                cpu: amount("cpu"),
                memory: amount("memory"),
                ephemeral_storage: amount("ephemeral-storage"),
            },
        }
    }
}

impl From<&Loaded> for Paths {
    fn from(loaded: &Loaded) -> Self {
        Self::new(&loaded.flags.root_dir, &loaded.config.pod_logs_dir)
    }
}
