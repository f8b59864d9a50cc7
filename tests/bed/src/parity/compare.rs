//! How a recording of ours is held against upstream's, and which differences are wanted.
//!
//! A leaf is equal, or it is a difference. Only the course of a status field (below `status`: its
//! values in the order in which they were written, joined by [`THEN`]) is looser, since both write
//! a status when there is time to: ours may leave out what upstream showed on the way, and may show
//! what upstream left out this time, if upstream shows that at this place in some other case. Both
//! end with the same value, and what both show has the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::recording::{Golden, Place, Recording};
use crate::look::glob;

/// Between two values of a course.
pub const THEN: &str = " → ";

/// One place at which the two do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The place, its parts joined by full stops.
    pub place: String,
    /// All that upstream was seen to do there.
    pub upstream: String,
    /// What ours did.
    pub ours: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {:?} vs {:?}", self.place, self.upstream, self.ours)
    }
}

/// What stands where nothing is.
const ABSENT: &str = "(absent)";

/// What upstream shows of each field of a status, in any case.
#[derive(Debug, Default)]
pub struct Vocabulary(BTreeMap<Place, BTreeSet<String>>);

impl Vocabulary {
    /// Adds the values of a golden's statuses.
    pub fn add(&mut self, golden: &Golden) {
        for (place, known) in &golden.leaves {
            if let Some(field) = field_of_status(place) {
                let values =
                    known.iter().flatten().flat_map(|course| course.split(THEN).map(str::to_owned));
                self.0.entry(field).or_default().extend(values);
            }
        }
    }
}

/// The field, whichever pod and container it is of.
fn field_of_status(place: &Place) -> Option<Place> {
    if place.get(1).is_none_or(|part| part != "status") {
        return None;
    }
    let container = |part: &String| part.starts_with('[') && place[2].ends_with("Statuses");
    Some(
        place[2..]
            .iter()
            .map(|part| if container(part) { "[*]".to_owned() } else { part.clone() })
            .collect(),
    )
}

/// All places at which ours is not what upstream may be.
pub fn differences(golden: &Golden, ours: &Recording, words: &Vocabulary) -> Vec<Difference> {
    let mut found = Vec::new();
    let gone = directories_gone(golden, ours);
    for (place, known) in &golden.leaves {
        if is_below(place, &gone) {
            continue;
        }
        let seen = ours.leaves.get(place);
        if !known.iter().any(|one| agree(place, one.as_deref(), seen.map(String::as_str), words)) {
            let known: Vec<&str> =
                known.iter().map(|one| one.as_deref().unwrap_or(ABSENT)).collect();
            let ours = seen.map_or(ABSENT, String::as_str).to_owned();
            found.push(Difference { place: place.join("."), upstream: known.join(" | "), ours });
        }
    }
    for (place, seen) in &ours.leaves {
        if !golden.leaves.contains_key(place) && !agree(place, Some("-"), Some(seen), words) {
            found.push(Difference {
                place: place.join("."),
                upstream: ABSENT.to_owned(),
                ours: seen.clone(),
            });
        }
    }
    found.sort_by(|a, b| a.place.cmp(&b.place));
    found
}

/// The pods that have no directory, though upstream's have: one difference says so instead of one
/// for each file.
fn directories_gone(golden: &Golden, ours: &Recording) -> BTreeSet<String> {
    let is_directory = |place: &&Place| place.len() == 3 && place[1] == "files" && place[2] == ".";
    let missing =
        golden.leaves.keys().filter(is_directory).filter(|place| !ours.leaves.contains_key(*place));
    missing.map(|place| place[0].clone()).collect()
}

/// Whether a place is in the directory of one of those pods, and not the directory itself or the
/// pod's logs.
fn is_below(place: &Place, gone: &BTreeSet<String>) -> bool {
    place.len() > 2
        && gone.contains(&place[0])
        && match place[1].as_str() {
            "files" => place[2] != "." && !place[2].starts_with("log"),
            "mounts" => true,
            _ => false,
        }
}

fn agree(place: &Place, upstream: Option<&str>, ours: Option<&str>, words: &Vocabulary) -> bool {
    let Some(field) = field_of_status(place) else { return upstream == ours };
    let known = words.0.get(&field);
    follows(upstream.unwrap_or("-"), ours.unwrap_or("-"), &|value| {
        known.is_some_and(|known| known.contains(value))
    })
}

/// Whether `ours` is the course `upstream`, but for what one of them left out. `known` tells what
/// upstream shows elsewhere.
fn follows(upstream: &str, ours: &str, known: &dyn Fn(&str) -> bool) -> bool {
    let (upstream, ours): (Vec<&str>, Vec<&str>) =
        (upstream.split(THEN).collect(), ours.split(THEN).collect());
    // What upstream left out at its beginning, then what both show, in the same order.
    let in_order = |ours: &[&str]| {
        let mut rest = upstream.iter();
        let mut shared = ours.iter().filter(|value| upstream.contains(value) || !known(value));
        shared.all(|value| rest.any(|other| other == value))
    };
    let begins = |start: usize| start == 0 || ours.get(start) == upstream.first();
    let left_out = |start: usize| ours[..start].iter().all(|value| known(value));
    upstream.last() == ours.last()
        && (0..ours.len()).any(|start| begins(start) && left_out(start) && in_order(&ours[start..]))
}

/// The known differences: a line `PATTERN  # reason` each, the pattern against `case: difference`
/// as it is printed. One that does not occur fails the run, unless it begins with `? `: it then
/// depends on how fast the machine is. One that begins with `! ` is not wanted, only not mended
/// yet.
#[derive(Debug)]
pub struct Explained {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    pattern: String,
    sometimes: bool,
    unwanted: bool,
    used: usize,
}

impl Explained {
    /// Reads the file of known differences.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (pattern, reason) =
                line.split_once("  # ").with_context(|| format!("no reason: {line}"))?;
            anyhow::ensure!(!reason.trim().is_empty(), "no reason: {line}");
            let sometimes = pattern.starts_with("? ");
            let unwanted = pattern.starts_with("! ");
            let pattern =
                pattern.trim_start_matches("? ").trim_start_matches("! ").trim().to_owned();
            lines.push(Line { pattern, sometimes, unwanted, used: 0 });
        }
        Ok(Self { lines })
    }

    /// True if a line covers the difference, which is then used.
    pub fn covers(&mut self, case: &str, difference: &Difference) -> bool {
        let text = format!("{case}: {difference}");
        let line = self.lines.iter_mut().find(|line| glob(&line.pattern, &text));
        line.map(|line| line.used += 1).is_some()
    }

    /// The lines that had to occur and did not.
    pub fn unused(&self) -> Vec<&str> {
        self.lines
            .iter()
            .filter(|line| line.used == 0 && !line.sometimes)
            .map(|line| line.pattern.as_str())
            .collect()
    }

    /// How many differences are known and not wanted.
    pub fn unwanted(&self) -> usize {
        self.lines.iter().filter(|line| line.unwanted).map(|line| line.used).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_seen_and_courses_may_be_shorter() {
        let of = |leaves: &[(&str, &str)]| {
            let mut recording = Recording::default();
            for (place, text) in leaves {
                recording.put(&place.split('/').collect::<Vec<_>>(), *text);
            }
            recording
        };
        let upstream = of(&[
            ("p/cri/calls", "A → B"),
            ("p/status/phase", "Pending → Running → Failed"),
            ("p/files/x", "1"),
        ]);
        let mut golden = Golden::of(upstream.clone());
        golden.add(&of(&[
            ("p/cri/calls", "A → C"),
            ("p/status/phase", "Pending → Running → Failed"),
        ]));
        let mut words = Vocabulary::default();
        words.add(&golden);
        words.add(&Golden::of(of(&[("q/status/phase", "Pending → Late → Running")])));
        let seen = |leaves: &[(&str, &str)]| {
            let mut places: Vec<String> = differences(&golden, &of(leaves), &words)
                .into_iter()
                .map(|one| one.place)
                .collect();
            places.sort();
            places.join(" ")
        };
        let phase = |course| ("p/status/phase", course);
        for (leaves, wanted) in [
            (
                vec![
                    ("p/cri/calls", "A → B"),
                    phase("Pending → Running → Failed"),
                    ("p/files/x", "1"),
                ],
                "",
            ),
            // Upstream itself did both; on the way to its end a status may be left out.
            (vec![("p/cri/calls", "A → C"), phase("Pending → Failed")], ""),
            (vec![("p/cri/calls", "A"), phase("Failed")], "p.cri.calls"),
            (
                vec![("p/cri/calls", "A → B"), phase("Pending → Running"), ("p/files/x", "2")],
                "p.files.x p.status.phase",
            ),
            // Another case of upstream's shows it on the way.
            (vec![("p/cri/calls", "A → B"), phase("Pending → Late → Running → Failed")], ""),
            (vec![("p/cri/calls", "A → B"), phase("Pending → Failed → Running")], "p.status.phase"),
            (
                vec![("p/cri/calls", "A → B"), phase("Pending → Unknown → Failed"), ("p/y", "")],
                "p.status.phase p.y",
            ),
            (vec![], "p.cri.calls p.status.phase"),
        ] {
            let found = seen(&leaves);
            assert_eq!(found, wanted, "of {leaves:?}");
        }
    }
}
