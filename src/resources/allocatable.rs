//! What of a node is left for pods: capacity less what is reserved for daemons and kept back for
//! eviction. Pure.

use super::list::{Amounts, EPHEMERAL_STORAGE, HUGE_PAGES_PREFIX, MEMORY};
use crate::model::quantity::Amount;

/// What is kept from pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reservations {
    /// `systemReserved`
    pub system: Amounts,
    /// `kubeReserved`
    pub kube: Amounts,
    /// The hard eviction thresholds on memory and node file system that say "less than".
    pub eviction_hard: Vec<HardThreshold>,
}

/// A hard eviction threshold that keeps something from pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardThreshold {
    /// What it is about.
    pub signal: ReservingSignal,
    /// How much.
    pub value: ThresholdValue,
}

/// The signals whose thresholds are kept from pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservingSignal {
    /// `memory.available`
    MemoryAvailable,
    /// `nodefs.available`
    NodeFsAvailable,
}

/// How a threshold is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ThresholdValue {
    /// An amount.
    Amount(Amount),
    /// A part of the capacity: `0.1` for `10%`. Single precision, as upstream computes.
    Fraction(f32),
}

/// All that is kept from pods, for each resource of the capacity of which something is.
pub fn reserved(capacity: &Amounts, reservations: &Reservations) -> Amounts {
    let mut kept = Amounts::new();
    for name in capacity.keys() {
        let daemons = daemons(name, reservations);
        let evicting = reservations
            .eviction_hard
            .iter()
            .rev()
            .find(|threshold| resource(threshold.signal) == name);
        let total = daemons
            + evicting
                .map_or(Amount::ZERO, |threshold| amount(threshold.value, capacity.get(name)));
        if !total.is_zero() {
            kept.insert(name.clone(), total);
        }
    }
    kept
}

/// What the scheduler may give away: `status.allocatable`. Memory that is set aside as huge pages
/// is no memory any more.
pub fn allocatable(capacity: &Amounts, reservations: &Reservations) -> Amounts {
    let kept = reserved(capacity, reservations);
    let mut left = less(capacity, |name| kept.get(name).copied().unwrap_or_default());
    let huge: Amount = left
        .iter()
        .filter(|(name, _)| name.starts_with(HUGE_PAGES_PREFIX))
        .map(|(_, amount)| *amount)
        .sum();
    if let Some(memory) = left.get_mut(MEMORY) {
        *memory = at_least_nothing(*memory - huge);
    }
    left
}

/// What the cgroup of all pods is limited to: eviction must be able to see use above its threshold,
/// so that is not taken off here.
pub fn enforced(capacity: &Amounts, reservations: &Reservations) -> Amounts {
    less(capacity, |name| daemons(name, reservations))
}

/// The resources of which more is reserved than there is, each with upstream's words.
pub fn overcommitted(capacity: &Amounts, reservations: &Reservations) -> Vec<String> {
    reserved(capacity, reservations)
        .iter()
        .filter_map(|(name, kept)| {
            let has = capacity.get(name).copied().unwrap_or_default();
            (*kept > has).then(|| {
                format!("Resource {name:?} has a reservation of {kept} but capacity of {has}. Expected capacity >= reservation.")
            })
        })
        .collect()
}

fn daemons(name: &str, reservations: &Reservations) -> Amount {
    let of = |list: &Amounts| list.get(name).copied().unwrap_or_default();
    of(&reservations.system) + of(&reservations.kube)
}

fn resource(signal: ReservingSignal) -> &'static str {
    match signal {
        ReservingSignal::MemoryAvailable => MEMORY,
        ReservingSignal::NodeFsAvailable => EPHEMERAL_STORAGE,
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "upstream multiplies in floating point and cuts off the fraction"
)]
fn amount(value: ThresholdValue, capacity: Option<&Amount>) -> Amount {
    match value {
        ThresholdValue::Amount(amount) => amount,
        ThresholdValue::Fraction(part) => {
            let capacity = capacity.copied().unwrap_or_default().units() as f64;
            Amount::from_units((capacity * f64::from(part)) as i64)
        }
    }
}

fn less(capacity: &Amounts, kept: impl Fn(&str) -> Amount) -> Amounts {
    capacity.iter().map(|(name, has)| (name.clone(), at_least_nothing(*has - kept(name)))).collect()
}

fn at_least_nothing(amount: Amount) -> Amount {
    amount.max(Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use super::{
        Amount, Amounts, HardThreshold, Reservations, ReservingSignal, ThresholdValue, allocatable,
        enforced, overcommitted,
    };

    fn list(items: &[(&str, &str)]) -> Amounts {
        items
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Amount::parse(text).expect("a quantity")))
            .collect()
    }

    fn reservations(fraction: f32) -> Reservations {
        Reservations {
            system: list(&[("cpu", "100m"), ("memory", "1Gi")]),
            kube: list(&[("cpu", "200m"), ("ephemeral-storage", "1Gi")]),
            eviction_hard: vec![
                HardThreshold {
                    signal: ReservingSignal::MemoryAvailable,
                    value: ThresholdValue::Amount(Amount::parse("100Mi").expect("a quantity")),
                },
                HardThreshold {
                    signal: ReservingSignal::NodeFsAvailable,
                    value: ThresholdValue::Fraction(fraction),
                },
            ],
        }
    }

    #[test]
    fn takes_off_what_is_reserved() {
        let capacity = list(&[
            ("cpu", "2"),
            ("memory", "4Gi"),
            ("ephemeral-storage", "10Gi"),
            ("pods", "110"),
        ]);
        let left = allocatable(&capacity, &reservations(0.5));
        assert_eq!(left["cpu"].milli(), 1700);
        assert_eq!(left["memory"].units(), (3 << 30) - (100 << 20));
        assert_eq!(left["ephemeral-storage"].units(), 4 << 30);
        assert_eq!(left["pods"].units(), 110);
        assert_eq!(enforced(&capacity, &reservations(0.5))["memory"].units(), 3 << 30);
    }

    #[test]
    fn huge_pages_are_no_memory() {
        let capacity =
            list(&[("memory", "4Gi"), ("hugepages-2Mi", "1Gi"), ("hugepages-1Gi", "1Gi")]);
        assert_eq!(allocatable(&capacity, &Reservations::default())["memory"].units(), 2 << 30);
    }

    #[test]
    fn never_less_than_nothing_and_it_is_told() {
        let capacity = list(&[("cpu", "200m"), ("memory", "8Gi")]);
        assert_eq!(allocatable(&capacity, &reservations(0.1))["cpu"].milli(), 0);
        assert_eq!(
            overcommitted(&capacity, &reservations(0.1)),
            [
                "Resource \"cpu\" has a reservation of 300m but capacity of 200m. Expected capacity >= reservation."
            ]
        );
    }

    #[test]
    fn a_fraction_is_of_single_precision() {
        let capacity = list(&[("ephemeral-storage", "1000000007")]);
        let only_eviction =
            Reservations { system: Amounts::new(), kube: Amounts::new(), ..reservations(0.1) };
        assert_eq!(
            allocatable(&capacity, &only_eviction)["ephemeral-storage"].units(),
            1_000_000_007 - 100_000_002
        );
    }
}
