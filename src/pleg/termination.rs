//! Reads the termination messages of containers that have ended.
//!
//! The message is the content of the file at `terminationMessagePath`, else the end of the log
//! where `terminationMessagePolicy` says so. Fed by `read`. It never follows a link and never
//! blocks on a pipe: the file may lie in a volume that the pod writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::model::observed::Exit;

/// The bytes that are read of the file, at most; upstream's limit.
const FILE_LIMIT: u64 = 4096;
/// The bytes that are taken from the log, at most; upstream's limit.
const LOG_LIMIT: usize = 2048;
/// The lines that are taken from the log, at most; upstream's limit.
const LOG_LINES: usize = 80;
/// The part of the log's end that is searched for those lines: runtimes split lines at 16 KiB.
const LOG_WINDOW: u64 = 256 << 10;

/// The files that a termination message may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// The termination file, by its path on the node.
    pub(super) file: Option<String>,
    /// The log, if the policy allows it when the file is empty.
    pub(super) log: Option<String>,
}

/// Appends the termination message to the runtime's own. It blocks on files: run it on a blocking
/// thread.
pub(super) fn complete(exit: &mut Exit, source: &Source) {
    let message = read(source);
    if message.is_empty() {
        return;
    }

    if !exit.message.is_empty() {
        exit.message.push_str(": ");
    }
    exit.message.push_str(&message);
}

/// Reads the message from the first source that has one. Failures become the text, as upstream's.
fn read(source: &Source) -> String {
    if let Some(path) = &source.file {
        match tail(Path::new(path), FILE_LIMIT) {
            Ok((data, _)) if data.is_empty() => {}
            Ok((data, _)) => return String::from_utf8_lossy(&data).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return format!("Error on reading termination log {path}: {error}"),
        }
    }

    match &source.log {
        None => String::new(),
        Some(path) => match tail(Path::new(path), LOG_WINDOW) {
            Ok((data, cut)) => log_tail(&data, cut),
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!(
                "Error on reading termination message from logs: failed to try resolving symlinks in path {path:?}: lstat \
                 {path}: no such file or directory"
            ),
            Err(error) => {
                format!(
                    "Error on reading termination message from logs: failed to open log file {path:?}: {error}"
                )
            }
        },
    }
}

/// Reads at most the last `limit` bytes of a regular file. Also returns true if there were more.
fn tail(path: &Path, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }

    let start = metadata.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;

    Ok((data, start > 0))
}

/// Joins the contents of the last lines of a CRI log. With `cut`, the first line is not whole and
/// is left out.
fn log_tail(data: &[u8], cut: bool) -> String {
    let lines: Vec<&[u8]> =
        data.split_inclusive(|byte| *byte == b'\n').skip(usize::from(cut)).collect();
    let mut kept: VecDeque<u8> = VecDeque::with_capacity(LOG_LIMIT);

    for content in
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().filter_map(|line| content(line))
    {
        kept.extend(content);
        let excess = kept.len().saturating_sub(LOG_LIMIT);
        kept.drain(..excess);
    }

    String::from_utf8_lossy(kept.make_contiguous()).into_owned()
}

/// Returns the content of a CRI log's line, `TIME STREAM TAGS CONTENT`. A partial line (tag `P`)
/// has no line feed of its own.
fn content(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let _time = fields.next()?;
    let stream = fields.next()?;
    let tags = fields.next()?;
    let content = fields.next()?;

    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }

    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use super::{LOG_LIMIT, Source, complete, log_tail};
    use crate::model::Wall;
    use crate::model::observed::Exit;

    fn message(source: &Source, said: &str) -> String {
        let mut exit = Exit {
            started_at: None,
            finished_at: Wall::UNIX_EPOCH,
            exit_code: 1,
            reason: "Error".to_owned(),
            message: said.to_owned(),
        };
        complete(&mut exit, source);
        exit.message
    }

    #[test]
    fn the_file_comes_first_and_is_limited() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("log"), "2026-01-01T00:00:00Z stderr F from the log\n")
            .expect("written");
        std::fs::write(path("file"), "a".repeat(4095) + "bcd").expect("written");
        std::fs::write(path("empty"), "").expect("written");
        let source = |file: &str, log: bool| Source {
            file: Some(path(file)),
            log: log.then(|| path("log")),
        };
        let long = message(&source("file", true), "");
        assert_eq!((long.len(), &long[4093..]), (4096, "bcd"));
        assert_eq!(message(&source("empty", true), ""), "from the log\n");
        assert_eq!(message(&source("empty", false), ""), "");
        assert_eq!(message(&source("none", true), "runtime"), "runtime: from the log\n");
        assert_eq!(message(&Source::default(), "runtime"), "runtime");
        std::os::unix::fs::symlink(path("log"), path("link")).expect("linked");
        let refused = message(&source("link", false), "");
        assert!(refused.starts_with("Error on reading termination log "), "{refused}");
    }

    #[track_caller]
    fn check(lines: &[&str], cut: bool, expected: &str) {
        assert_eq!(log_tail(lines.concat().as_bytes(), cut), expected);
    }

    #[test]
    fn the_log_is_joined_and_limited() {
        let time = "2026-01-01T00:00:00.1Z";
        check(&[&format!("{time} stdout P a\n"), &format!("{time} stdout F b\n")], false, "ab\n");
        check(&["out P a\n", &format!("{time} stderr F b c \n")], true, "b c \n");
        check(&[&format!("{time} stdout F a\n"), "broken\n"], false, "a\n");
        let many: Vec<String> = (0..100).map(|n| format!("{time} stdout F {n}\n")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(log_tail(many.concat().as_bytes(), false).starts_with("20\n21\n"));
        let long = format!("{time} stdout F {}\n", "x".repeat(5000));
        assert_eq!(log_tail(long.as_bytes(), false).len(), LOG_LIMIT);
    }
}
