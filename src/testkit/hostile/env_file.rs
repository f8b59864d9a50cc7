//! The law of env files: ours reads what upstream's line scanner and parser read, and refuses what
//! they refuse.

use crate::pods::request::env_file::value;

/// Upstream's scanner refuses lines of this many bytes.
const TOO_LONG: usize = 64 * 1024;

/// Looks for every name that the file might set, and for one that it does not.
pub fn check(content: &str) {
    let names = content.lines().filter_map(|line| line.split('=').next()).map(str::trim);
    for key in names.take(16).chain(["", "K"]) {
        let found = value(content, key).map(Option::unwrap_or_default);
        assert_eq!(found.as_deref().ok(), expected(content, key).as_deref(), "{key:?}: {found:?}");
        if let Err(error) = found {
            assert!(!error.to_string().is_empty());
        }
    }
    let quoted = content.replace(['\'', '\r'], "");
    if quoted.lines().all(|line| line.len() < TOO_LONG / 2) {
        assert_eq!(
            value(&format!("A='1'\nK='{quoted}' # note"), "K"),
            Ok(Some(quoted)),
            "a quoted text is read back"
        );
    }
}

/// The value by upstream's rules, told as a machine over bytes; `None`: refused.
fn expected(content: &str, key: &str) -> Option<String> {
    let mut lines = scanned(content.as_bytes()).into_iter();
    loop {
        let Some(line) = lines.next() else { return Some(String::new()) };
        let line = unindented(line?);
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let (name, written) = (&line[..equals], &line[equals + 1..]);
        if name.is_empty() || name.ends_with(b" ") || name.ends_with(b"\t") {
            return None;
        }
        if matches!(written.first(), Some(b' ' | b'\t')) {
            if name == key.as_bytes() {
                return Some(String::new());
            }
            continue;
        }
        let mut rest = written.strip_prefix(b"'")?.to_vec();
        while !rest.contains(&b'\'') {
            rest.push(b'\n');
            rest.extend_from_slice(lines.next()??);
        }
        let closing = rest.iter().position(|byte| *byte == b'\'')?;
        let after = unindented(&rest[closing + 1..]);
        if !after.is_empty() && after[0] != b'#' {
            return None;
        }
        if name == key.as_bytes() {
            return String::from_utf8(rest[..closing].to_vec()).ok();
        }
    }
}

/// The lines as Go's scanner hands them out: without line feed and one carriage return; `None`: too
/// long, and the last.
fn scanned(content: &[u8]) -> Vec<Option<&[u8]>> {
    let mut lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let end = lines.iter().position(|line| line.len() >= TOO_LONG);
    let cut = |line: &'_ &'_ [u8]| -> Option<usize> {
        Some(line.len() - usize::from(line.ends_with(b"\r")))
    };
    let mut read: Vec<Option<&[u8]>> = lines[..end.unwrap_or(lines.len())]
        .iter()
        .map(|line| cut(line).map(|length| &line[..length]))
        .collect();
    if end.is_some() {
        read.push(None);
    }
    read
}

fn unindented(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    &line[start..]
}
