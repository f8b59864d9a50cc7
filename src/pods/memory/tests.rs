//! What events leave in the memory; the scenarios and laws of `tests/it` play whole lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::{Config, Recorded};
use super::known::Preparation;
use super::outcome::{Completion, Outcome};
use super::{Event, Memory, Start};
use crate::model::{Lifecycle, Now, Pod};
use crate::pods::plan::types::Key;

fn now() -> Now {
    Now { mono: crate::model::Mono::default(), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn memory() -> Memory {
    let pod: Pod = serde_json::from_str(
        r#"{"metadata":{"uid":"u"},"spec":{"containers":[{"name":"app","image":"i"}]}}"#,
    )
    .expect("a pod");
    let start = Start {
        pod: Arc::new(pod),
        lifecycle: Lifecycle::Syncing,
        config: Config::default(),
        recorded: Recorded::default(),
        remembered: BTreeMap::new(),
        preparation: Preparation::Absent,
        kept: None,
    };
    Memory::new(start, Arc::default())
}

#[test]
fn only_ended_mutations_are_released_by_an_observation() {
    let mut memory = memory();
    memory.step(now());
    assert_eq!(memory.in_flight().keys().collect::<Vec<_>>(), [&Key::Prepare, &Key::Volumes]);
    let completion = Completion { key: Key::Volumes, outcome: Ok(Outcome::Done), mutated: true };
    memory.take(Event::Completed(completion), now());
    assert!(memory.in_flight().contains_key(&Key::Volumes), "its effect has not been read");
    memory.take(Event::Observed(Arc::default()), now());
    assert_eq!(memory.in_flight().keys().collect::<Vec<_>>(), [&Key::Prepare]);
}
