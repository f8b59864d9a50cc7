//! Reads the API server's audit log: one JSON event per line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The length of the log now: what is written from now on begins there.
pub fn end(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |file| file.len())
}

/// The events from `offset` on whose request was accepted (2xx) and whose line contains all of
/// `words`, in the order of the log.
///
/// A request body may contain the same words, so the caller still checks the event's fields.
pub fn accepted<'a>(
    log: &Path,
    offset: u64,
    words: &'a [&'a str],
) -> Result<impl Iterator<Item = Result<Value>> + use<'a>> {
    let mut file = File::open(log).with_context(|| format!("opening {}", log.display()))?;
    file.seek(SeekFrom::Start(offset))?;

    let lines = BufReader::new(file).lines().filter_map(move |line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error.into())),
        };
        if !words.iter().all(|word| line.contains(word)) {
            return None;
        }
        // The last line may be half written.
        let event: Value = serde_json::from_str(&line).ok()?;
        let code = event["responseStatus"]["code"].as_u64()?;
        (200..300).contains(&code).then_some(Ok(event))
    });
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accepted_and_whole_events_from_the_offset_count() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        assert_eq!(end(&log), 0);

        let event = |name: &str, code: u32| {
            format!(
                "{{\"resource\":\"pods\",\"name\":\"{name}\",\"responseStatus\":{{\"code\":{code}}}}}\n"
            )
        };
        std::fs::write(&log, event("before", 200)).unwrap();
        let offset = end(&log);
        let later = [event("a", 201), event("refused", 409), event("b", 200)].concat();
        let nodes = event("n", 200).replace("pods", "nodes");
        let text = event("before", 200) + &later + &nodes + "{\"resource\":\"pods\",\"half";
        std::fs::write(&log, text).unwrap();

        let events = accepted(&log, offset, &["\"resource\":\"pods\""]).unwrap();
        let names: Vec<String> =
            events.map(|event| event.unwrap()["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
