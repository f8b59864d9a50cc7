//! Parses the query of `/containerLogs`, e.g. `?follow=true&tailLines=10`. Pure.

use crate::dispatch::LogOptions;
use crate::model::Now;

/// The error of a query that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryError {
    /// A value cannot be read (400).
    Undecodable,
    /// A value is not allowed (422).
    Invalid,
    /// A single stream was asked for, which needs an alpha gate (400).
    Stream,
}

/// Reads the query of `/containerLogs`.
pub(super) fn options(query: &[(String, String)], now: Now) -> Result<LogOptions, QueryError> {
    let mut options = LogOptions::default();
    let mut tail = None;
    let mut since_seconds = None;
    for (name, value) in query {
        match name.as_str() {
            "follow" => options.follow = boolean(value)?,
            "previous" => options.previous = boolean(value)?,
            "timestamps" => options.timestamps = boolean(value)?,
            "tailLines" => tail = tail.or(Some(integer(value)?)),
            "tail" if value == "all" || value.is_empty() => {}
            "tail" => tail = Some(integer(value)?),
            "limitBytes" => {
                let limit = u64::try_from(integer(value)?).map_err(|_| QueryError::Invalid)?;
                if limit == 0 {
                    return Err(QueryError::Invalid);
                }
                options.limit_bytes = Some(limit);
            }
            "sinceSeconds" => {
                let seconds = integer(value)?;
                if seconds < 1 {
                    return Err(QueryError::Invalid);
                }
                since_seconds = Some(seconds);
            }
            "sinceTime" => {
                options.since = Some(value.parse().map_err(|_| QueryError::Undecodable)?);
            }
            "stream" if value == "All" || value.is_empty() => {}
            "stream" => return Err(QueryError::Stream),
            _ => {}
        }
    }
    if query.iter().any(|(name, value)| name == "tail" && value == "all") {
        tail = None;
    }
    options.tail_lines =
        tail.map(|tail| u64::try_from(tail).map_err(|_| QueryError::Invalid)).transpose()?;
    if let Some(seconds) = since_seconds {
        if options.since.is_some() {
            return Err(QueryError::Invalid);
        }
        let span = jiff::SignedDuration::from_secs(seconds);
        options.since = Some(now.wall.checked_sub(span).map_err(|_| QueryError::Invalid)?);
    }
    Ok(options)
}

/// Go's `strconv.ParseBool`, as the API machinery reads booleans of a query: absent text is true.
fn boolean(value: &str) -> Result<bool, QueryError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(QueryError::Undecodable),
    }
}

fn integer(value: &str) -> Result<i64, QueryError> {
    value.parse().map_err(|_| QueryError::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mono;

    fn now() -> Now {
        Now { mono: Mono::default(), wall: "2026-11-21T10:00:00Z".parse().expect("a time") }
    }

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn queries_are_read_as_upstream_reads_them() {
        let read =
            options(&query(&[("follow", "true"), ("tail", "5"), ("sinceSeconds", "60")]), now())
                .expect("a query");
        assert!(read.follow);
        assert_eq!(read.tail_lines, Some(5));
        assert_eq!(read.since, Some("2026-11-21T09:59:00Z".parse().expect("a time")));
        let all = options(&query(&[("tailLines", "3"), ("tail", "all")]), now()).expect("a query");
        assert_eq!(all.tail_lines, None, "tail=all wins");
        for (pairs, error) in [
            (query(&[("follow", "maybe")]), QueryError::Undecodable),
            (query(&[("tailLines", "-1")]), QueryError::Invalid),
            (query(&[("limitBytes", "0")]), QueryError::Invalid),
            (
                query(&[("sinceSeconds", "5"), ("sinceTime", "2026-11-21T09:59:00Z")]),
                QueryError::Invalid,
            ),
            (query(&[("stream", "Stdout")]), QueryError::Stream),
        ] {
            assert_eq!(options(&pairs, now()), Err(error), "{pairs:?}");
        }
    }
}
