//! Decides which images may go: keeps the times at which each was first seen and last used, and
//! computes the order of removal and the amount to free. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::Mono;

/// The thresholds and ages of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `imageGCHighThresholdPercent`: space is freed from this use on.
    pub high_percent: u64,
    /// `imageGCLowThresholdPercent`: space is freed down to this use.
    pub low_percent: u64,
    /// `imageMinimumGCAge`: a younger image stays.
    pub min_age: Duration,
    /// `imageMaximumGCAge`: an image that was not used for this long goes in any case; zero: never.
    pub max_age: Duration,
}

impl Policy {
    /// Returns true if no image is ever removed.
    pub fn is_off(&self) -> bool {
        self.high_percent >= 100 && self.max_age.is_zero()
    }
}

/// An image as the runtime lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The image's id.
    pub id: String,
    /// The image's size in bytes.
    pub size: u64,
    /// True if the runtime wants to keep the image.
    pub pinned: bool,
    /// True if a container or a pod needs the image.
    pub in_use: bool,
}

/// The times that are kept of one image.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// When the image was first seen; `None`: it was there when the process began.
    first_seen: Option<Mono>,
    last_used: Option<Mono>,
}

/// The times that are kept of all images.
#[derive(Clone, Debug, Default)]
pub struct Records {
    images: BTreeMap<String, Record>,
    has_begun: bool,
}

impl Records {
    /// Takes the present list of images. Those of the first list may be of any age, and count as
    /// old enough (as upstream).
    pub fn note(&mut self, seen: &[Seen], now: Mono) {
        let first_seen = std::mem::replace(&mut self.has_begun, true).then_some(now);
        let present: BTreeSet<&str> = seen.iter().map(|image| image.id.as_str()).collect();
        self.images.retain(|id, _| present.contains(id.as_str()));

        for image in seen {
            let record = self
                .images
                .entry(image.id.clone())
                .or_insert(Record { first_seen, last_used: None });
            if image.in_use {
                record.last_used = Some(now);
            }
        }
    }

    /// Returns the images that are not needed, the longest unused first; of equal ones the one that
    /// was seen first.
    fn unused<'a>(&self, seen: &'a [Seen]) -> Vec<(Record, &'a Seen)> {
        let free = seen.iter().filter(|image| !image.in_use && !image.pinned);
        let mut unused: Vec<_> =
            free.filter_map(|image| Some((*self.images.get(&image.id)?, image))).collect();
        unused
            .sort_by_key(|(record, image)| (record.last_used, record.first_seen, image.id.clone()));
        unused
    }

    /// Returns the images that were not used for longer than the maximum age. Empty until this
    /// process has watched for that long: it does not know about earlier use.
    pub fn too_old<'a>(
        &self,
        seen: &'a [Seen],
        policy: &Policy,
        began: Mono,
        now: Mono,
    ) -> Vec<&'a Seen> {
        if policy.max_age.is_zero() || now.since(began) <= policy.max_age {
            return Vec::new();
        }

        let is_old =
            |record: &Record| record.last_used.is_none_or(|used| now.since(used) > policy.max_age);
        self.unused(seen)
            .into_iter()
            .filter(|(record, _)| is_old(record))
            .map(|(_, image)| image)
            .collect()
    }

    /// Returns the images that may go to free space, in order.
    pub fn candidates<'a>(&self, seen: &'a [Seen], policy: &Policy, now: Mono) -> Vec<&'a Seen> {
        let is_young = |record: &Record| {
            record.first_seen.is_some_and(|seen| now.since(seen) < policy.min_age)
        };
        self.unused(seen)
            .into_iter()
            .filter(|(record, _)| !is_young(record))
            .map(|(_, image)| image)
            .collect()
    }
}

/// Returns the use of the file system in per cent, rounded up as upstream does.
pub fn used_percent(capacity: u64, available: u64) -> u64 {
    if capacity == 0 {
        return 0;
    }
    100 - u64::try_from(u128::from(available.min(capacity)) * 100 / u128::from(capacity))
        .unwrap_or(100)
}

/// Returns the bytes that have to be freed; `None` below the high threshold.
pub fn to_free(policy: &Policy, capacity: u64, available: u64) -> Option<u64> {
    if used_percent(capacity, available) < policy.high_percent {
        return None;
    }
    let wanted =
        u128::from(capacity) * u128::from(100_u64.saturating_sub(policy.low_percent)) / 100;
    Some(u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(available))
}

/// Formats a size as in upstream's messages.
#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }

    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }

    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Policy, Records, Seen, size_text, to_free, used_percent};
    use crate::model::Mono;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn image(id: &str, in_use: bool) -> Seen {
        Seen { id: id.to_owned(), size: 10, pinned: id == "pause", in_use }
    }

    fn policy(max_age: u64) -> Policy {
        Policy {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: Duration::from_secs(max_age),
        }
    }

    fn ids(images: &[&Seen]) -> Vec<String> {
        images.iter().map(|image| image.id.clone()).collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_pinned_ones_never() {
        let mut records = Records::default();
        records.note(&[image("a", true), image("b", false), image("pause", false)], at(0));
        records.note(
            &[image("a", true), image("b", false), image("c", true), image("pause", false)],
            at(100),
        );
        let now = [
            image("a", false),
            image("b", false),
            image("c", false),
            image("pause", false),
            image("new", false),
        ];
        records.note(&now, at(300));
        assert_eq!(ids(&records.candidates(&now, &policy(0), at(300))), ["b", "a", "c"]);
    }

    #[test]
    fn what_is_in_use_or_new_stays() {
        let mut records = Records::default();
        let seen = [image("a", true), image("b", false)];
        records.note(&seen[..1], at(0));
        records.note(&seen, at(0));
        assert!(records.candidates(&seen, &policy(0), at(119)).is_empty());
        assert_eq!(ids(&records.candidates(&seen, &policy(0), at(120))), ["b"]);
    }

    #[test]
    fn what_was_there_at_the_beginning_is_old_enough() {
        let mut records = Records::default();
        let seen = [image("b", false)];
        records.note(&seen, at(0));
        assert_eq!(ids(&records.candidates(&seen, &policy(0), at(1))), ["b"]);
    }

    #[test]
    fn age_counts_once_this_process_has_watched_that_long() {
        let mut records = Records::default();
        let seen = [image("a", false)];
        records.note(&seen, at(0));
        assert!(records.too_old(&seen, &policy(1000), at(0), at(1000)).is_empty());
        assert_eq!(ids(&records.too_old(&seen, &policy(1000), at(0), at(1001))), ["a"]);
        records.note(&[image("a", true)], at(900));
        assert!(records.too_old(&seen, &policy(1000), at(0), at(1500)).is_empty());
        assert!(records.too_old(&seen, &policy(0), at(0), at(9999)).is_empty(), "off by default");
    }

    #[test]
    fn thresholds() {
        assert_eq!(used_percent(1000, 150), 85);
        assert_eq!(to_free(&policy(0), 1000, 160), None);
        assert_eq!(to_free(&policy(0), 1000, 150), Some(50));
        assert_eq!(to_free(&policy(0), 1000, 0), Some(200));
        assert!(Policy { high_percent: 100, ..policy(0) }.is_off());
        assert_eq!(
            (size_text(512), size_text(1536), size_text(3 << 40)),
            ("512 B".into(), "1.5 KiB".into(), "3.0 TiB".into())
        );
    }
}
