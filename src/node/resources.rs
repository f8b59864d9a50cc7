//! Computes capacity (the machine's resources) and allocatable (the part for pods). Pure.
//!
//! Allocatable is capacity less kubeReserved, systemReserved and the hard eviction thresholds of
//! memory and disk. Memory is also less the memory of huge pages.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::NodeConfig;
use super::info::MachineInfo;
use crate::model::quantity::Amount;
use crate::resources::devices::Figures;

/// Resource quantities by name.
pub type Resources = BTreeMap<String, Quantity>;

/// Returns the node's capacity. Storage that cannot be read is left out, which makes the node not
/// ready.
pub fn capacity(config: &NodeConfig, info: &MachineInfo, devices: &Figures) -> Resources {
    let cores = i64::from(info.cores);
    let pods = if config.pods_per_core > 0 {
        config.max_pods.min(cores.saturating_mul(config.pods_per_core))
    } else {
        config.max_pods
    };

    let mut capacity = Resources::new();
    let mut set =
        |name: &str, quantity: String| capacity.insert(name.to_owned(), Quantity(quantity));
    set("cpu", Amount::from_units(cores).to_string());
    set("memory", binary(to_i64(info.memory)));
    set("pods", Amount::from_units(pods).to_string());

    for (size, count) in &info.huge_pages {
        let name = format!("hugepages-{}", binary(to_i64(*size)));
        set(&name, binary(to_i64(size.saturating_mul(*count))));
    }

    if let Some(bytes) = info.storage.filter(|_| config.local_storage) {
        set("ephemeral-storage", binary(to_i64(bytes)));
    }

    for (name, (capacity, _)) in devices {
        set(name, Amount::from_units(*capacity).to_string());
    }

    capacity
}

/// Returns the part of `capacity` that pods may use.
pub fn allocatable(config: &NodeConfig, capacity: &Resources, devices: &Figures) -> Resources {
    let mut allocatable: BTreeMap<&str, Amount> = capacity
        .iter()
        .map(|(name, quantity)| {
            let whole = parse(&quantity.0);
            let reserved = reserved(config, name, whole);
            (name.as_str(), positive(whole - reserved))
        })
        .collect();
    for (name, (_, left)) in devices {
        allocatable.insert(name, Amount::from_units(*left));
    }

    let huge: Amount = capacity
        .iter()
        .filter(|(name, _)| name.starts_with("hugepages-"))
        .map(|(_, size)| parse(&size.0))
        .sum();
    if let Some(memory) = allocatable.get_mut("memory") {
        *memory = positive(*memory - huge);
    }

    allocatable
        .into_iter()
        .map(|(name, amount)| {
            let bytes =
                matches!(name, "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            let text = if bytes { binary(amount.units()) } else { amount.to_string() };
            (name.to_owned(), Quantity(text))
        })
        .collect()
}

/// Reservations that exceed the capacity; upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid Node Allocatable configuration. {}", .0.join(" "))]
pub struct ReservationError(Vec<String>);

/// Refuses reservations that exceed the capacity, as upstream does at its start.
pub fn check(config: &NodeConfig, capacity: &Resources) -> Result<(), ReservationError> {
    let problems: Vec<String> = capacity
        .iter()
        .filter_map(|(name, quantity)| {
            let whole = parse(&quantity.0);
            let reserved = reserved(config, name, whole);
            (reserved > whole).then(|| {
                format!(
                    "Resource {name:?} has a reservation of {reserved} but capacity of {}. \
                     Expected capacity >= reservation.",
                    quantity.0
                )
            })
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }

    Err(ReservationError(problems))
}

/// Returns the amount of one resource that is kept from pods.
pub fn reserved(config: &NodeConfig, name: &str, capacity: Amount) -> Amount {
    let from = |reservations: &BTreeMap<String, String>| {
        reservations.get(name).map_or(Amount::ZERO, |text| parse(text))
    };
    let signal = match name {
        "memory" => Some("memory.available"),
        "ephemeral-storage" => Some("nodefs.available"),
        _ => None,
    };
    let eviction = signal
        .and_then(|signal| config.eviction_hard.get(signal))
        .map_or(Amount::ZERO, |text| threshold(text, capacity));

    from(&config.kube_reserved) + from(&config.system_reserved) + eviction
}

/// Returns an eviction threshold as an amount: a quantity, or a percentage of the capacity.
fn threshold(text: &str, capacity: Amount) -> Amount {
    let Some(percent) = text.strip_suffix('%') else { return parse(text) };
    // Upstream keeps the percentage as a 32-bit float; users see the effect in allocatable storage.
    let Ok(percent) = percent.trim().parse::<f32>() else { return Amount::ZERO };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "as upstream calculates"
    )]
    let bytes = (capacity.units() as f64 * f64::from(percent / 100.0)) as i64;

    Amount::from_units(bytes)
}

/// Parses a quantity. The configuration has been validated: a malformed one reserves nothing.
fn parse(text: &str) -> Amount {
    Amount::parse(text).unwrap_or_default()
}

fn positive(amount: Amount) -> Amount {
    amount.max(Amount::ZERO)
}

fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Formats bytes in the canonical binary form, with the largest suffix that keeps the number whole,
/// e.g. `512Mi`.
pub fn binary(bytes: i64) -> String {
    const SUFFIXES: [(i64, &str); 6] = [
        (1 << 60, "Ei"),
        (1 << 50, "Pi"),
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ];
    if bytes == 0 {
        return "0".to_owned();
    }

    match SUFFIXES.iter().find(|(unit, _)| bytes % unit == 0) {
        Some((unit, suffix)) => format!("{}{suffix}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Resources, allocatable, binary, capacity};
    use crate::node::NodeConfig;
    use crate::node::info::MachineInfo;
    use crate::node::status::tests::config;
    use crate::resources::devices::Figures;

    fn info() -> MachineInfo {
        MachineInfo {
            cores: 4,
            memory: 16_393_244 * 1024,
            storage: Some(52_660_822_016),
            huge_pages: vec![(2 << 20, 512), (1 << 30, 0)],
            ..MachineInfo::default()
        }
    }

    #[track_caller]
    fn check(resources: &Resources, expected: &[(&str, &str)]) {
        let texts: Vec<_> =
            resources.iter().map(|(name, quantity)| (name.as_str(), quantity.0.as_str())).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn as_upstream_reports_them() {
        let config = NodeConfig {
            kube_reserved: [
                ("cpu".to_owned(), "100m".to_owned()),
                ("memory".to_owned(), "1Gi".to_owned()),
            ]
            .into(),
            system_reserved: [("cpu".to_owned(), "1".to_owned())].into(),
            eviction_hard: [
                ("memory.available".to_owned(), "100Mi".to_owned()),
                ("nodefs.available".to_owned(), "10%".to_owned()),
            ]
            .into(),
            ..config()
        };
        let devices = Figures::from([("example.com/gpu".to_owned(), (2, 1))]);
        let capacity = capacity(&config, &info(), &devices);
        check(
            &capacity,
            &[
                ("cpu", "4"),
                ("ephemeral-storage", "51426584Ki"),
                ("example.com/gpu", "2"),
                ("hugepages-1Gi", "0"),
                ("hugepages-2Mi", "1Gi"),
                ("memory", "16393244Ki"),
                ("pods", "110"),
            ],
        );
        check(
            &allocatable(&config, &capacity, &devices),
            &[
                ("cpu", "2900m"),
                ("ephemeral-storage", "47394739736"),
                ("example.com/gpu", "1"),
                ("hugepages-1Gi", "0"),
                ("hugepages-2Mi", "1Gi"),
                ("memory", "14193692Ki"),
                ("pods", "110"),
            ],
        );
    }

    #[test]
    fn reservations_above_the_capacity_are_refused() {
        let config = NodeConfig {
            system_reserved: [("memory".to_owned(), "1Ti".to_owned())].into(),
            eviction_hard: [("nodefs.available".to_owned(), "100%".to_owned())].into(),
            ..config()
        };
        let capacity = capacity(&config, &info(), &Figures::new());
        let problem = super::check(&config, &capacity).expect_err("more than there is").to_string();
        assert!(
            problem.starts_with("invalid Node Allocatable configuration. Resource \"memory\" has")
                && !problem.contains("storage"),
            "{problem}"
        );
    }

    #[test]
    fn reservations_never_go_below_zero() {
        let config =
            NodeConfig { system_reserved: [("cpu".to_owned(), "9".to_owned())].into(), ..config() };
        let capacity = capacity(&config, &info(), &Figures::new());
        assert_eq!(allocatable(&config, &capacity, &Figures::new())["cpu"].0, "0");
    }

    #[test]
    fn pods_per_core_limits() {
        let config = NodeConfig { pods_per_core: 10, ..config() };
        assert_eq!(capacity(&config, &info(), &Figures::new())["pods"].0, "40");
    }

    #[test]
    fn binary_form() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1024, "1Ki"), (1536, "1536"), (3 << 30, "3Gi")] {
            assert_eq!(binary(bytes), text);
        }
    }
}
