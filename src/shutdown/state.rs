//! The file that tells when the last graceful shutdown began and ended:
//! `{"startTime":"2026-05-04T09:12:44.123Z","endTime":"0001-01-01T00:00:00Z"}`.
//!
//! A time that has not come is Go's zero time, as in upstream's file.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::linux::fs::{self, WriteOptions};

/// The name of the file, in the kubelet's root directory.
pub(super) const FILE: &str = "graceful_node_shutdown_state";

/// Go's zero time.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    start_time: String,
    end_time: String,
}

/// The times of the last shutdown; `None` for one that has not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
}

impl State {
    /// Reads the file. One that does not exist is empty. Blocks.
    pub(super) fn read(path: &Path) -> std::io::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        let file: File = serde_json::from_slice(&text)?;
        let parse = |text: &str| text.parse().ok().filter(|_| text != ZERO);
        Ok(Self { start: parse(&file.start_time), end: parse(&file.end_time) })
    }

    /// Replaces the file. Blocks.
    pub(super) fn write(self, path: &Path) -> std::io::Result<()> {
        let text =
            |time: Option<Timestamp>| time.map_or_else(|| ZERO.to_owned(), |it| it.to_string());
        let file = File { start_time: text(self.start), end_time: text(self.end) };
        let options = WriteOptions::mode(0o644).synced();
        fs::write_atomic_with(path, serde_json::to_vec(&file)?, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        assert_eq!(State::read(&path).expect("no file"), State::default());

        let start = Some("2026-05-04T09:12:44.123Z".parse().expect("a time"));
        let state = State { start, end: None };
        state.write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(
            text,
            r#"{"startTime":"2026-05-04T09:12:44.123Z","endTime":"0001-01-01T00:00:00Z"}"#
        );
        assert_eq!(State::read(&path).expect("read"), state);
    }
}
