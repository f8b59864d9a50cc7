//! Mean use of processors between two readings. Pure.
//!
//! A first reading has no other: its window is the life of the cgroup. Later windows are at least
//! [`WINDOW`] long, so that two readers who ask in turn do not see noise.

use std::collections::BTreeMap;
use std::time::Duration;

use super::read::sample::Sample;
use crate::model::{Mono, Now};

/// The shortest window. (cAdvisor's is its housekeeping interval, 10 to 15 s.)
const WINDOW: Duration = Duration::from_secs(5);

/// The last windows, by cgroup.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(BTreeMap<String, Base>);

/// The begin of a window, and the mean of the one before.
#[derive(Clone, Copy, Debug)]
struct Base {
    at: Mono,
    core_nanos: u64,
    nano_cores: u64,
}

impl Rates {
    /// Takes in a reading of a cgroup. Returns its mean use, in billionths of a core.
    pub(super) fn add(&mut self, path: &str, sample: &Sample) -> u64 {
        let Some(cpu) = &sample.cpu else { return 0 };
        let at = sample.mono;
        let core_nanos = cpu.total;
        // A cgroup that counts from the start again is another one of the same name.
        let base = self.0.get_mut(path).filter(|base| base.core_nanos <= core_nanos);
        let Some(base) = base else {
            let now = Now { mono: at, wall: sample.at };
            let nano_cores = mean(core_nanos, now.elapsed_since(sample.created));
            self.0.insert(path.to_owned(), Base { at, core_nanos, nano_cores });
            return nano_cores;
        };

        let window = at.since(base.at);
        if window >= WINDOW {
            let nano_cores = mean(core_nanos - base.core_nanos, window);
            *base = Base { at, core_nanos, nano_cores };
        }
        base.nano_cores
    }

    /// Forgets the cgroups that are gone.
    pub(super) fn keep<T>(&mut self, present: &BTreeMap<String, T>) {
        self.0.retain(|path, _| present.contains_key(path));
    }
}

/// Billionths of a core, of nanoseconds of one core in a window.
fn mean(core_nanos: u64, window: Duration) -> u64 {
    const NANOS: u128 = 1_000_000_000;
    let window = window.as_nanos().max(1);
    u64::try_from(u128::from(core_nanos) * NANOS / window).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::Rates;
    use crate::model::{Mono, Wall};
    use crate::stats::read::sample::{CpuSample, Sample};

    const SECOND: u64 = 1_000_000_000;

    fn sample(seconds: u64, core_nanos: u64) -> Sample {
        Sample {
            at: Wall::from_second(i64::try_from(seconds).expect("small")).expect("a time"),
            mono: Mono(Duration::from_secs(seconds)),
            created: Wall::UNIX_EPOCH,
            cpu: Some(CpuSample { total: core_nanos, ..CpuSample::default() }),
            ..Sample::default()
        }
    }

    #[test]
    fn the_first_window_is_the_life_and_the_next_is_since_the_last_reading() {
        let mut rates = Rates::default();
        assert_eq!(rates.add("/a", &sample(100, 50 * SECOND)), SECOND / 2);
        assert_eq!(rates.add("/a", &sample(101, 51 * SECOND)), SECOND / 2, "too short a window");
        assert_eq!(rates.add("/a", &sample(110, 60 * SECOND)), SECOND);
        assert_eq!(rates.add("/a", &sample(210, 60 * SECOND)), 0);
    }

    #[test]
    fn a_cgroup_that_was_made_anew_begins_again() {
        let mut rates = Rates::default();
        rates.add("/a", &sample(100, 50 * SECOND));
        assert_eq!(rates.add("/a", &sample(200, 20 * SECOND)), SECOND / 10);
        rates.keep(&BTreeMap::<String, Sample>::new());
        assert!(rates.0.is_empty());
        assert_eq!(rates.add("/b", &Sample::default()), 0, "no processors, no use");
    }
}
