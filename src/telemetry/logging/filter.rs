//! Which events are written: by level, by source file, and less of libraries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};

/// From this `-v` on decisions are shown.
const DECISIONS: u32 = 4;
/// From this `-v` on everything is shown.
const EVERYTHING: u32 = 6;
/// From this `-v` on libraries are shown as our own code is.
const LIBRARIES: u32 = 8;
/// Our own crate.
const OWN: &str = "rkubelet";

/// Changes the level while the kubelet runs (`/debug/flags/v`).
#[derive(Clone, Debug)]
pub struct LogHandle(Arc<AtomicU32>);

impl LogHandle {
    /// Returns the handle of this process's log; `None` before it is set up.
    pub fn current() -> Option<Self> {
        tracing::dispatcher::get_default(|log| {
            log.downcast_ref::<super::LogLayer>().map(|layer| layer.filter.handle())
        })
    }

    /// The present `-v`.
    pub fn verbosity(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets `-v`. Takes effect at once, everywhere.
    pub fn set_verbosity(&self, verbosity: u32) {
        self.0.store(verbosity, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }
}

#[derive(Debug)]
pub(super) struct Filter {
    verbosity: Arc<AtomicU32>,
    vmodule: Vec<(String, u32)>,
}

impl Filter {
    pub(super) fn new(verbosity: u32, vmodule: Vec<(String, u32)>) -> (Self, LogHandle) {
        let verbosity = Arc::new(AtomicU32::new(verbosity));
        (Self { verbosity: Arc::clone(&verbosity), vmodule }, LogHandle(verbosity))
    }

    /// Returns a handle that changes the level.
    fn handle(&self) -> LogHandle {
        LogHandle(Arc::clone(&self.verbosity))
    }

    /// The most that any source file may say.
    pub(super) fn most(&self) -> LevelFilter {
        let of_files = self.vmodule.iter().map(|(_, level)| *level).max().unwrap_or(0);
        own_level(self.verbosity.load(Ordering::Relaxed).max(of_files))
    }

    pub(super) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let verbosity = self.verbosity.load(Ordering::Relaxed);
        let target = metadata.target();
        let level = *metadata.level();
        if is_within(target, OWN) {
            return level
                <= own_level(verbosity.max(self.of_file(metadata.file().unwrap_or_default())));
        }
        // kube reports every failed connection as an error, although we retry and say so ourselves.
        if is_within(target, "kube_client") && verbosity < DECISIONS {
            return false;
        }
        level <= library_level(verbosity)
    }

    fn of_file(&self, file: &str) -> u32 {
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let name = stem.rsplit('/').next().unwrap_or(stem);
        let matching = self.vmodule.iter().find(|(pattern, _)| {
            let subject = if pattern.contains('/') { stem } else { name };
            matches(pattern.as_bytes(), subject.as_bytes())
        });
        matching.map_or(0, |(_, level)| *level)
    }
}

fn is_within(target: &str, krate: &str) -> bool {
    target.strip_prefix(krate).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn own_level(verbosity: u32) -> LevelFilter {
    LevelFilter::from_level(match verbosity {
        0..DECISIONS => Level::INFO,
        DECISIONS..EVERYTHING => Level::DEBUG,
        EVERYTHING.. => Level::TRACE,
    })
}

fn library_level(verbosity: u32) -> LevelFilter {
    LevelFilter::from_level(match verbosity {
        0..DECISIONS => Level::WARN,
        DECISIONS..LIBRARIES => Level::INFO,
        LIBRARIES.. => Level::DEBUG,
    })
}

/// Whether `pattern` (`*` any text, `?` any byte) matches all of `text`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[position] => {
                at += 1;
                position += 1;
            }
            Some(_) | None => match star {
                // The last star takes one more byte, and the rest is tried again.
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    position = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("plan", "plan", true),
            ("plan", "planner", false),
            ("plan*", "planner", true),
            ("*er", "planner", true),
            ("p?an", "plan", true),
            ("*a*n*", "planner", true),
            ("*", "", true),
            ("src/pods/*", "src/pods/plan/mod", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn files_can_be_louder() {
        let (filter, _) = Filter::new(0, vec![("worker".into(), 6), ("src/pods/*".into(), 4)]);
        assert_eq!(filter.of_file("src/images/worker.rs"), 6);
        assert_eq!(filter.of_file("src/pods/mod.rs"), 4);
        assert_eq!(filter.of_file("src/main.rs"), 0);
        assert_eq!(filter.most(), LevelFilter::TRACE);
    }

    #[test]
    fn levels() {
        assert_eq!(
            (own_level(2), own_level(4), own_level(9)),
            (LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE)
        );
        assert_eq!(library_level(2), LevelFilter::WARN);
        assert!(is_within("rkubelet::pods", OWN) && !is_within("rkubeletx", OWN));
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_with_stars_around_finds_its_text(before in "[a-z]{0,5}", text in "[a-z]{1,5}", after in "[a-z]{0,5}") {
            let pattern = format!("*{text}*");
            let whole = [before, text, after].concat();
            proptest::prop_assert!(matches(pattern.as_bytes(), whole.as_bytes()));
        }
    }
}
