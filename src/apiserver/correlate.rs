//! Decides what is written for a recorded event: a new object, another count on a known one, one of
//! many similar ones, or nothing.
//!
//! Pure. The rules are upstream's:
//! - Equal events are counted on one object.
//! - More than ten similar events within ten minutes become one "(combined from similar events)".
//! - Of one object and type at most 25 are written at once, and then one in five minutes.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::events::{Event, InvolvedObject};
use crate::model::{EventType, Mono, Now, Wall};

/// The number of different messages of one kind that are written one by one.
const MAX_SIMILAR: usize = 10;
/// After how long without a similar event counting begins anew.
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// How many events of one type and object may come at once.
const SPAM_BURST: f64 = 25.0;
/// Thereafter one in this time.
const SPAM_PERIOD: Duration = Duration::from_secs(300);
/// How long a written event is remembered; the API server forgets it after an hour.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How much is remembered at most, as upstream.
const MAX_ENTRIES: usize = 4096;

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new object.
    Create(Observation),
    /// Count, last time and message of an object that exists.
    Update(Observation),
    /// Nothing: the object has too many events.
    Drop,
}

/// An event as it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What happened; the message may stand for several.
    pub event: Event,
    /// The name of the object.
    pub name: String,
    /// How often.
    pub count: i32,
    /// The first time.
    pub first: Wall,
    /// The last time.
    pub last: Wall,
    key: Key,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    object: InvolvedObject,
    event_type: EventType,
    reason: String,
    message: Option<String>,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<String>,
    last: Mono,
}

#[derive(Debug)]
struct Written {
    name: String,
    count: i32,
    first: Wall,
    used: Mono,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    updated: Mono,
}

/// Remembers which events have been written.
#[derive(Debug, Default)]
pub struct Correlator {
    similar: HashMap<Key, Similar>,
    written: HashMap<Key, Written>,
    /// By object and type, as upstream's spam filter: Normal events do not use up what Warnings
    /// need.
    buckets: HashMap<(InvolvedObject, EventType), Bucket>,
}

impl Correlator {
    /// Says what becomes of an event recorded at `now`.
    pub fn observe(&mut self, event: Event, now: Now) -> Verdict {
        let (event, key) = self.aggregate(event, now.mono);
        let fresh_name = format!("{}.{:x}", event.object.name, now.wall.as_nanosecond());
        let known = self.written.get_mut(&key);
        let (name, count, first, is_new) = match known {
            Some(known) => {
                known.used = now.mono;
                (known.name.clone(), known.count.saturating_add(1), known.first, false)
            }
            None => (fresh_name, 1, now.wall, true),
        };
        if !self.allowed(&event, now.mono) {
            return Verdict::Drop;
        }
        let observation = Observation { event, name, count, first, last: now.wall, key };
        if is_new { Verdict::Create(observation) } else { Verdict::Update(observation) }
    }

    /// Remembers that an observation has been written.
    pub fn written(&mut self, observation: &Observation, now: Mono) {
        let written = Written {
            name: observation.name.clone(),
            count: observation.count,
            first: observation.first,
            used: now,
        };
        self.written.insert(observation.key.clone(), written);
        bound(&mut self.written, now, REMEMBERED, |written| written.used);
    }

    /// The name for an object that has to be made anew because the API server has forgotten it.
    pub fn renamed(observation: &Observation, now: Now) -> Observation {
        let name = format!("{}.{:x}", observation.event.object.name, now.wall.as_nanosecond());
        Observation { name, ..observation.clone() }
    }

    /// Counts similar events; beyond ten the event stands for all of them.
    fn aggregate(&mut self, mut event: Event, now: Mono) -> (Event, Key) {
        let own = Key {
            object: spam_object(&event.object, true),
            event_type: event.event_type,
            reason: event.reason.clone(),
            message: Some(event.message.clone()),
        };
        let group = Key { object: spam_object(&event.object, false), message: None, ..own.clone() };

        bound(&mut self.similar, now, SIMILAR_WINDOW, |similar| similar.last);
        let similar = self
            .similar
            .entry(group.clone())
            .or_insert_with(|| Similar { messages: BTreeSet::new(), last: now });

        if now.since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }

        similar.last = now;
        similar.messages.insert(event.message.clone());
        if similar.messages.len() < MAX_SIMILAR {
            return (event, own);
        }

        // Bounded: which message is forgotten does not matter.
        similar.messages.pop_first();
        event.message = format!("(combined from similar events): {}", event.message);
        (event, group)
    }

    fn allowed(&mut self, event: &Event, now: Mono) -> bool {
        // An idle bucket is full after 25 periods, which is as good as none.
        bound(&mut self.buckets, now, SPAM_PERIOD.saturating_mul(25), |bucket| bucket.updated);
        let bucket = self
            .buckets
            .entry((spam_object(&event.object, false), event.event_type))
            .or_insert_with(|| Bucket { tokens: SPAM_BURST, updated: now });
        let refill = now.since(bucket.updated).as_secs_f64() / SPAM_PERIOD.as_secs_f64();
        bucket.tokens = SPAM_BURST.min(bucket.tokens + refill);
        bucket.updated = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// The object without what changes while it stays the same.
fn spam_object(object: &InvolvedObject, with_field: bool) -> InvolvedObject {
    let field_path = if with_field { object.field_path.clone() } else { String::new() };
    InvolvedObject { resource_version: String::new(), field_path, ..object.clone() }
}

/// Forgets what is older than `age`, and the older half when there is still too much.
fn bound<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    now: Mono,
    age: Duration,
    used: impl Fn(&V) -> Mono,
) {
    // Looking at everything is worth it only now and then.
    if map.len() < 64 || !map.len().is_power_of_two() {
        return;
    }
    map.retain(|_, value| now.since(used(value)) < age);
    if map.len() >= MAX_ENTRIES {
        let mut times: Vec<Mono> = map.values().map(&used).collect();
        times.sort_unstable();
        let middle = times[times.len() / 2];
        map.retain(|_, value| used(value) > middle);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Correlator, Verdict};
    use crate::apiserver::events::{Event, InvolvedObject};
    use crate::model::{EventType, Mono, Now};

    fn event(name: &str, message: &str) -> Event {
        Event {
            object: InvolvedObject {
                api_version: "v1".into(),
                kind: "Pod".into(),
                namespace: "d".into(),
                name: name.into(),
                uid: name.into(),
                resource_version: String::new(),
                field_path: String::new(),
            },
            event_type: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            annotations: [].into(),
        }
    }

    fn at(seconds: u64) -> Now {
        let wall = jiff::Timestamp::from_second(1000 + i64::try_from(seconds).expect("small"))
            .expect("in range");
        Now { mono: Mono(Duration::from_secs(seconds)), wall }
    }

    fn write(correlator: &mut Correlator, event: Event, seconds: u64) -> String {
        match correlator.observe(event, at(seconds)) {
            Verdict::Create(seen) => {
                correlator.written(&seen, at(seconds).mono);
                format!("create {} ×{}: {}", seen.name, seen.count, seen.event.message)
            }
            Verdict::Update(seen) => {
                correlator.written(&seen, at(seconds).mono);
                format!("update {} ×{}: {}", seen.name, seen.count, seen.event.message)
            }
            Verdict::Drop => "drop".to_owned(),
        }
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::default();
        assert_eq!(write(&mut correlator, event("p", "m"), 0), "create p.e8d4a51000 ×1: m");
        assert_eq!(write(&mut correlator, event("p", "m"), 5), "update p.e8d4a51000 ×2: m");
        assert_eq!(write(&mut correlator, event("q", "m"), 0), "create q.e8d4a51000 ×1: m");
    }

    #[test]
    fn what_was_not_written_is_not_counted() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.observe(event("p", "m"), at(0)), Verdict::Create(_)));
        assert!(matches!(correlator.observe(event("p", "m"), at(1)), Verdict::Create(_)));
    }

    #[test]
    fn similar_events_are_combined_and_then_counted() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            assert!(
                write(&mut correlator, event("p", &format!("m{number}")), number)
                    .starts_with("create")
            );
        }
        let combined = write(&mut correlator, event("p", "m9"), 9);
        assert!(combined.ends_with("×1: (combined from similar events): m9"), "{combined}");
        let combined = write(&mut correlator, event("p", "m10"), 10);
        assert!(
            combined.starts_with("update")
                && combined.ends_with("×2: (combined from similar events): m10")
        );
        assert!(
            write(&mut correlator, event("p", "m11"), 1000).ends_with("×1: m11"),
            "the window has passed"
        );
    }

    #[test]
    fn one_object_cannot_flood() {
        let mut correlator = Correlator::default();
        let told = (0..40).filter(|_| write(&mut correlator, event("p", "m"), 0) != "drop").count();
        assert_eq!(told, 25);
        assert_ne!(write(&mut correlator, event("other", "m"), 0), "drop");
        assert_ne!(write(&mut correlator, event("p", "m"), 300), "drop");
        assert_eq!(write(&mut correlator, event("p", "m"), 301), "drop");
    }

    #[test]
    fn normal_events_do_not_use_up_what_warnings_need() {
        let mut correlator = Correlator::default();
        let normal = || Event { event_type: EventType::Normal, ..event("p", "m") };
        while write(&mut correlator, normal(), 0) != "drop" {}
        assert_ne!(write(&mut correlator, event("p", "m"), 0), "drop");
        assert_eq!(write(&mut correlator, normal(), 0), "drop");
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for number in 0..20_000 {
            write(&mut correlator, event(&format!("p{number}"), "m"), number / 100);
        }
        assert!(correlator.written.len() <= 4096 && correlator.buckets.len() <= 4096);
    }
}
