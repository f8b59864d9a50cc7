//! Lines of a container's log in the CRI format, and the part of them that is asked for. Pure.
//!
//! A line is `<RFC 3339 nanos> <stdout|stderr> <tags> <content>`; the tag `P` marks a part of a
//! longer line.

use crate::dispatch::LogOptions;
use crate::model::Wall;

/// Turns raw lines into what is sent.
#[derive(Debug)]
pub(super) struct LineWriter {
    timestamps: bool,
    since: Option<Wall>,
    remaining: Option<u64>,
    /// How many lines of the file are sent at most: those that are appended after the place of the
    /// last ones was found are not.
    lines: Option<u64>,
    at_line_start: bool,
}

/// Whether more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    /// Go on.
    Wanted,
    /// The byte limit is reached.
    Enough,
}

impl LineWriter {
    /// A writer for these options.
    pub(super) fn new(options: &LogOptions) -> Self {
        Self {
            timestamps: options.timestamps,
            since: options.since,
            remaining: options.limit_bytes,
            lines: options.tail_lines.filter(|_| !options.follow),
            at_line_start: true,
        }
    }

    /// Appends what is sent for `line` (with its newline) to `out`. A line that is not in the
    /// format is left out.
    pub(super) fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> More {
        if self.lines == Some(0) {
            return More::Enough;
        }
        let Some(parsed) = parse(line) else { return More::Wanted };
        self.lines = self.lines.map(|lines| lines - 1);
        if let Some(since) = self.since {
            let time: Option<Wall> =
                std::str::from_utf8(parsed.time).ok().and_then(|time| time.parse().ok());
            if time.is_none_or(|time| time < since) {
                return More::Wanted;
            }
        }
        let start = out.len();
        if self.timestamps && self.at_line_start {
            push_time(parsed.time, out);
            out.push(b' ');
        }
        out.extend_from_slice(parsed.content);
        self.at_line_start = parsed.content.last().is_none_or(|last| *last == b'\n');
        let Some(remaining) = &mut self.remaining else { return More::Wanted };
        let written = u64::try_from(out.len() - start).unwrap_or(u64::MAX);
        if written >= *remaining {
            out.truncate(start + usize::try_from(*remaining).unwrap_or(usize::MAX));
            *remaining = 0;
            return More::Enough;
        }
        *remaining -= written;
        More::Wanted
    }
}

/// Appends a time with nine digits behind the point, so that lines stand below each other: the
/// runtime leaves zeros at the end out.
fn push_time(time: &[u8], out: &mut Vec<u8>) {
    const DIGITS: usize = 9;

    let after = |from: usize, what: fn(&u8) -> bool| {
        time[from..].iter().position(what).map_or(time.len(), |found| from + found)
    };
    let date = time.iter().position(|byte| *byte == b'T').unwrap_or_default();
    let seconds = after(date, |byte| matches!(byte, b'.' | b'Z' | b'+' | b'-'));
    let zone = after(seconds, |byte| matches!(byte, b'Z' | b'+' | b'-'));
    let fraction = time[seconds..zone].strip_prefix(b".").unwrap_or_default();
    let kept = fraction.len().min(DIGITS);
    out.extend_from_slice(&time[..seconds]);
    out.push(b'.');
    out.extend_from_slice(&fraction[..kept]);
    out.extend(std::iter::repeat_n(b'0', DIGITS - kept));
    out.extend_from_slice(match &time[zone..] {
        b"+00:00" => b"Z",
        zone => zone,
    });
}

#[derive(Debug)]
struct Line<'a> {
    time: &'a [u8],
    content: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = split_space(line)?;
    let (stream, rest) = split_space(rest)?;
    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }
    let (tags, content) = split_space(rest)?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let content = if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    Some(Line { time, content })
}

fn split_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits() {
        for (written, shown) in [
            ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00.000000000Z"),
            ("2026-11-21T09:00:00.5+02:00", "2026-11-21T09:00:00.500000000+02:00"),
            ("2026-11-21T09:00:00.123456789-07:00", "2026-11-21T09:00:00.123456789-07:00"),
            ("2026-11-21T09:00:00.1+00:00", "2026-11-21T09:00:00.100000000Z"),
        ] {
            let mut out = Vec::new();
            push_time(written.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), shown);
        }
        push_time(b"", &mut Vec::new());
        push_time(b"T.-Z", &mut Vec::new());
    }

    #[test]
    fn no_more_lines_than_asked_for_are_sent() {
        let options = LogOptions { tail_lines: Some(2), ..LogOptions::default() };
        for (follow, expected) in [(false, "a\nb\n"), (true, "a\nb\nc\n")] {
            let mut writer = LineWriter::new(&LogOptions { follow, ..options.clone() });
            let mut out = Vec::new();
            for text in ["a", "b", "c"] {
                let line = format!("2026-11-21T09:00:00Z stdout F {text}\n");
                writer.push(line.as_bytes(), &mut out);
            }
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    fn written(options: &LogOptions, lines: &[&str]) -> (String, More) {
        let mut writer = LineWriter::new(options);
        let mut out = Vec::new();
        let mut more = More::Wanted;
        for line in lines {
            more = writer.push(line.as_bytes(), &mut out);
            if more == More::Enough {
                break;
            }
        }
        (String::from_utf8(out).expect("text"), more)
    }

    #[test]
    fn partial_lines_are_joined_and_get_one_timestamp() {
        let lines = [
            "2026-11-21T09:00:00.1Z stdout P ab\n",
            "2026-11-21T09:00:00.2Z stdout F cd\n",
            "garbage\n",
        ];
        assert_eq!(written(&LogOptions::default(), &lines).0, "abcd\n");
        let stamped = LogOptions { timestamps: true, ..LogOptions::default() };
        assert_eq!(written(&stamped, &lines).0, "2026-11-21T09:00:00.100000000Z abcd\n");
    }

    #[test]
    fn since_and_limit_cut() {
        let lines =
            ["2026-11-21T09:00:00Z stdout F old\n", "2026-11-21T09:30:00Z stderr F fresh\n"];
        let since = LogOptions {
            since: Some("2026-11-21T09:10:00Z".parse().expect("a time")),
            ..LogOptions::default()
        };
        assert_eq!(written(&since, &lines).0, "fresh\n");
        let limited = LogOptions { limit_bytes: Some(6), ..LogOptions::default() };
        assert_eq!(written(&limited, &lines), ("old\nfr".to_owned(), More::Enough));
    }
}
