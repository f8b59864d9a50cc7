//! Decides when a certificate is replaced, and when a failed request is made again. Pure.

use std::time::Duration;

use jiff::SignedDuration;

use super::pair::Leaf;
use super::template::Template;
use crate::model::Wall;

/// The share of the lifetime after which a certificate may be replaced; upstream's 70 %.
const EARLIEST: f64 = 0.7;
/// The share by which the moment varies from node to node; upstream's 20 %.
const SPREAD: f64 = 0.2;
/// The first pause after a failure; doubled by each of the next ones.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Attempts with a growing pause; upstream's back-off has five steps.
const GROWING: u32 = 5;
/// The share by which a growing pause varies.
const PAUSE_SPREAD: f64 = 0.1;
/// The pause between all later attempts.
const LAST_PAUSE: Duration = Duration::from_secs(32);

/// When the next certificate is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due<'a> {
    /// At once, for these names.
    Now(&'a Template),
    /// When the clock shows this time.
    At(Wall),
    /// Never while the node has no address that a certificate could be for.
    NotYet,
}

/// Says when the next certificate is due. `jitter` is 0 to 1, drawn once for each certificate;
/// `is_forced` demands a new certificate whatever the present one says.
pub(super) fn due<'a>(
    current: Option<&Leaf>,
    template: Option<&'a Template>,
    is_forced: bool,
    jitter: f64,
    now: Wall,
) -> Due<'a> {
    let Some(template) = template else { return Due::NotYet };
    let fitting = current.filter(|leaf| !is_forced && template.is_satisfied_by(leaf));
    let Some(leaf) = fitting else { return Due::Now(template) };

    let deadline = deadline(leaf, jitter);
    if deadline <= now { Due::Now(template) } else { Due::At(deadline) }
}

/// Returns the moment at which a certificate is replaced: after 70 to 90 % of its lifetime, so that
/// nodes that joined together do not rotate together.
pub(super) fn deadline(leaf: &Leaf, jitter: f64) -> Wall {
    let lifetime = leaf.not_after.duration_since(leaf.not_before);
    let share = EARLIEST + SPREAD * jitter.clamp(0.0, 1.0);
    let wait = SignedDuration::try_from_secs_f64(lifetime.as_secs_f64() * share);
    leaf.not_before.checked_add(wait.unwrap_or(lifetime)).unwrap_or(leaf.not_after)
}

/// Returns the pause after so many failures in a row. `jitter` is 0 to 1.
pub(super) fn pause(failures: u32, jitter: f64) -> Duration {
    if failures == 0 || failures >= GROWING {
        return LAST_PAUSE;
    }
    let pause = FIRST_PAUSE * (1 << (failures - 1));
    pause + pause.mul_f64(PAUSE_SPREAD * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wall(second: i64) -> Wall {
        Wall::from_second(second).expect("a time")
    }

    fn leaf(not_before: i64, not_after: i64) -> Leaf {
        Leaf {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            dns_names: Vec::new(),
            ips: Vec::new(),
            not_before: wall(not_before),
            not_after: wall(not_after),
        }
    }

    proptest! {
        #[test]
        fn the_deadline_is_between_70_and_90_percent(
            start in 0_i64..4_000_000_000,
            life in 60_i64..400_000_000,
            jitter in 0.0_f64..1.0,
        ) {
            let leaf = leaf(start, start + life);
            let at = deadline(&leaf, jitter).duration_since(leaf.not_before).as_secs_f64();
            let life = leaf.not_after.duration_since(leaf.not_before).as_secs_f64();
            prop_assert!(at >= life * 0.7 - 1.0 && at <= life * 0.9 + 1.0, "{at} of {life}");
        }

        #[test]
        fn a_fitting_certificate_is_due_at_its_deadline_and_not_before(
            life in 60_i64..400_000_000,
            jitter in 0.0_f64..1.0,
            now in 0_i64..500_000_000,
        ) {
            let leaf = leaf(0, life);
            let template = Template::client("n1");
            let at = deadline(&leaf, jitter);
            let expected = if wall(now) < at { Due::At(at) } else { Due::Now(&template) };
            prop_assert_eq!(due(Some(&leaf), Some(&template), false, jitter, wall(now)), expected);
        }
    }

    #[test]
    fn it_is_due_at_once_without_a_fitting_certificate() {
        let leaf = leaf(0, 1000);
        let (one, other) = (Template::client("n1"), Template::client("n2"));
        let at = |leaf, template, forced| due(leaf, template, forced, 0.5, wall(10));
        assert_eq!(at(None, Some(&one), false), Due::Now(&one));
        assert_eq!(at(Some(&leaf), Some(&other), false), Due::Now(&other));
        assert_eq!(at(Some(&leaf), Some(&one), true), Due::Now(&one));
        assert_eq!(at(Some(&leaf), Some(&one), false), Due::At(wall(800)));
        assert_eq!(at(None, None, true), Due::NotYet);
    }

    #[test]
    fn pauses_grow_to_upstreams_last_one() {
        let pauses: Vec<_> = (1..8).map(|failures| pause(failures, 0.0).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(pause(1, 1.0), Duration::from_millis(2200));
    }
}
