//! The settings of images from the kubelet's configuration.
//!
//! Pure.

use std::path::{Path, PathBuf};

use super::{Config, Limits, NodeCredentials, Plugins, Verification, gc_plan};
use crate::config::{Gate, Loaded};

impl From<&Loaded> for Config {
    fn from(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let root_dir = PathBuf::from(&loaded.flags.root_dir);
        let parallel = match (config.serialize_image_pulls, config.max_parallel_image_pulls) {
            (true, _) => Some(1),
            (false, limit) => limit.and_then(|limit| usize::try_from(limit).ok()),
        };

        Self {
            limits: Limits {
                parallel,
                qps: config.registry_pull_qps.into(),
                burst: u32::try_from(config.registry_burst).unwrap_or(0),
            },
            node_credentials: NodeCredentials::in_usual_places(&root_dir, Some(Path::new("/root"))),
            root_dir,
            verification: verification(loaded),
            plugins: Plugins::default(),
        }
    }
}

/// Reads `imagePullCredentialsVerificationPolicy`, which has one of four values while its gate is
/// on.
fn verification(loaded: &Loaded) -> Verification {
    if !loaded.gates.enabled(Gate::KUBELET_ENSURE_SECRET_PULLED_IMAGES) {
        return Verification::Off;
    }
    let config = &loaded.config;
    match config.image_pull_credentials_verification_policy.as_str() {
        "NeverVerify" => Verification::Never,
        "AlwaysVerify" => Verification::Always,
        "NeverVerifyAllowlistedImages" => Verification::NeverForAllowlisted(
            config.preloaded_images_verification_allowlist.clone(),
        ),
        _ => Verification::NeverForPreloaded,
    }
}

impl From<&Loaded> for gc_plan::Policy {
    fn from(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let percent = |value: i32| u64::try_from(value).unwrap_or_default();
        Self {
            high_percent: percent(config.image_gc_high_threshold_percent),
            low_percent: percent(config.image_gc_low_threshold_percent),
            min_age: config.image_minimum_gc_age.to_std(),
            max_age: config.image_maximum_gc_age.to_std(),
        }
    }
}
