//! The query of `/logs/` (NodeLogQuery): what it asks for, what is wrong with it, and the arguments
//! of journalctl for it. Pure. The texts are upstream's.
//!
//! The pattern is not checked here: journalctl refuses one that is none.

use jiff::Timestamp;

/// The longest name of a service.
const LONGEST_SERVICE: usize = 256;
/// The most services of one query.
const MOST_SERVICES: usize = 4;
/// The most lines that can be asked for.
const MOST_LINES: i64 = 100_000;

/// What a query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeLogQuery {
    /// Names of services, e.g. `kubelet`.
    pub(super) services: Vec<String>,
    /// Paths below the log directory.
    pub(super) files: Vec<String>,
    /// Which lines are wanted.
    pub(super) options: Options,
}

/// Which lines of the services' logs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail_lines: Option<i64>,
    boot: Option<i64>,
    pattern: String,
}

impl Options {
    /// Returns true if all lines are wanted.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wrong with a query.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", aggregate(.0))]
pub(super) struct QueryError(Vec<String>);

/// Reads a query; `None` if it asks for nothing, and then the path counts.
pub(super) fn parse(query: &[(String, String)]) -> Result<Option<NodeLogQuery>, QueryError> {
    let mut problems = Vec::new();
    let mut read = NodeLogQuery::default();
    let asked: Vec<&str> = all(query, "query").collect();
    for text in &asked {
        if text.contains(['/', '\\']) {
            read.files.push((*text).to_owned());
        } else if !text.trim().is_empty() {
            read.services.push((*text).to_owned());
        }
    }
    if !asked.is_empty() && read.files.is_empty() && read.services.is_empty() {
        problems.push(invalid("query", json(&asked), "may not be empty"));
    }

    let time = |name, problems: &mut Vec<String>| {
        let text = first(query, name)?;
        let time = text.parse().ok();
        if time.is_none() {
            problems.push(invalid(name, quoted(text), "invalid time format"));
        }
        time
    };
    read.options.since = time("sinceTime", &mut problems);
    read.options.until = time("untilTime", &mut problems);
    let number = |name, problems: &mut Vec<String>| {
        let text = first(query, name)?;
        let number = text.parse().ok();
        if number.is_none() {
            let why = format!("strconv.Atoi: parsing {}: invalid syntax", quoted(text));
            problems.push(invalid(name, quoted(text), &why));
        }
        number
    };
    read.options.boot = number("boot", &mut problems);
    read.options.tail_lines = number("tailLines", &mut problems);
    first(query, "pattern").unwrap_or_default().clone_into(&mut read.options.pattern);

    if !problems.is_empty() {
        return Err(QueryError(problems));
    }
    Ok((read != NodeLogQuery::default()).then_some(read))
}

/// Checks what [`parse`] has read, but for whether a file is there.
pub(super) fn check(query: &NodeLogQuery) -> Result<(), QueryError> {
    let mut problems: Vec<String> =
        query.services.iter().filter_map(|service| service_problem(service)).collect();
    let (files, services) = (&query.files, &query.services);
    if services.len() > MOST_SERVICES {
        problems.push(format!(
            "query: Too many: {}: must have at most {MOST_SERVICES} items",
            services.len()
        ));
    }
    match (files.len(), services.len()) {
        (0, 0) => {
            problems.push("query: Required value: cannot be empty with options".to_owned());
        }
        (1.., 1..) => {
            let both = quoted(&format!("[{}], [{}]", files.join(" "), services.join(" ")));
            problems.push(invalid("query", both, "cannot specify a file and service"));
        }
        (2.., 0) => {
            problems.push(invalid("query", json(files), "cannot specify more than one file"));
        }
        (1, 0) if !query.options.is_empty() => {
            problems.push(invalid("query", json(files), "cannot specify file with options"));
        }
        (0 | 1, _) => {}
    }

    let Options { since, until, tail_lines, boot, .. } = &query.options;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        problems.push(invalid("untilTime", json(until), "must be after `sinceTime`"));
    }
    if let Some(boot) = boot.filter(|boot| *boot > 0) {
        problems.push(invalid("boot", boot.to_string(), "must be less than 1"));
    }
    if let Some(lines) = tail_lines.filter(|lines| !(0..=MOST_LINES).contains(lines)) {
        let why = format!("must be between 0 and {MOST_LINES}, inclusive");
        problems.push(invalid("tailLines", lines.to_string(), &why));
    }
    if problems.is_empty() { Ok(()) } else { Err(QueryError(problems)) }
}

/// Returns the error of a query whose file cannot be read.
pub(super) fn no_file(file: &str, why: &str) -> String {
    invalid("query", json([file]), why)
}

/// Returns the arguments of journalctl for the logs of `services`.
pub(super) fn journalctl(options: &Options, services: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--utc", "--no-pager", "--output=short-precise"].map(ToOwned::to_owned).into();
    let date = |time: &Timestamp| time.strftime("%Y-%-m-%-d %-H:%-M:%-S").to_string();
    let Options { since, until, tail_lines, boot, pattern } = options;
    arguments.extend(since.as_ref().map(|time| format!("--since={}", date(time))));
    arguments.extend(until.as_ref().map(|time| format!("--until={}", date(time))));
    if let Some(lines) = tail_lines {
        arguments.extend(["--pager-end".to_owned(), format!("--lines={lines}")]);
    }
    arguments.extend(services.iter().map(|service| format!("--unit={service}")));
    if !pattern.is_empty() {
        arguments.push(format!("--grep={pattern}"));
    }
    if let Some(boot) = boot {
        arguments.extend(["--boot".to_owned(), boot.to_string()]);
    }
    arguments
}

/// Refuses what could be more than the name of a service to journalctl.
fn service_problem(service: &str) -> Option<String> {
    let is_safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'@');
    let why = if service.len() > LONGEST_SERVICE {
        format!("length must be less than {LONGEST_SERVICE}")
    } else if !service.bytes().all(is_safe) {
        "input contains unsupported characters".to_owned()
    } else {
        return None;
    };
    Some(invalid("query", quoted(service), &why))
}

fn all<'a>(query: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The first value of a name, unless it is empty.
fn first<'a>(query: &'a [(String, String)], name: &'a str) -> Option<&'a str> {
    all(query, name).next().filter(|value| !value.is_empty())
}

fn invalid(field: &str, value: impl std::fmt::Display, why: &str) -> String {
    format!("{field}: Invalid value: {value}: {why}")
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn json(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

/// Several problems as one text, as Go's aggregate writes them.
fn aggregate(problems: &[String]) -> String {
    match problems {
        [problem] => problem.clone(),
        problems => format!("[{}]", problems.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn refused(pairs: &[(&str, &str)], expected: &str) {
        let problem = match parse(&query(pairs)) {
            Err(problem) => problem,
            Ok(read) => check(&read.expect("it asks for something")).expect_err("refused"),
        };
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    fn what_is_wrong_is_said_as_upstream_says_it() {
        assert_eq!(parse(&query(&[("x", "y")])), Ok(None));
        refused(&[("query", " ")], "query: Invalid value: [\" \"]: may not be empty");
        refused(
            &[("query", "a"), ("sinceTime", "x"), ("boot", "y")],
            "[sinceTime: Invalid value: \"x\": invalid time format, boot: Invalid value: \"y\": \
             strconv.Atoi: parsing \"y\": invalid syntax]",
        );
        refused(&[("boot", "-1")], "query: Required value: cannot be empty with options");
        refused(&[("query", "a"), ("boot", "1")], "boot: Invalid value: 1: must be less than 1");
        refused(
            &[("query", "a b")],
            "query: Invalid value: \"a b\": input contains unsupported characters",
        );
        refused(
            &[("query", "a"), ("query", "/b")],
            "query: Invalid value: \"[/b], [a]\": cannot specify a file and service",
        );
        refused(
            &[("query", "/b"), ("tailLines", "3")],
            "query: Invalid value: [\"/b\"]: cannot specify file with options",
        );
        refused(
            &[("query", "a"), ("tailLines", "100001")],
            "tailLines: Invalid value: 100001: must be between 0 and 100000, inclusive",
        );
        let services = ["a", "b", "c", "d", "e"].map(|service| ("query", service));
        refused(&services, "query: Too many: 5: must have at most 4 items");
    }

    #[test]
    fn journalctl_is_asked_as_upstream_asks() {
        let pairs = [
            ("query", "kubelet"),
            ("sinceTime", "2026-11-03T04:05:06+01:00"),
            ("tailLines", "5"),
            ("pattern", "a.*b"),
            ("boot", "-1"),
        ];
        let read = parse(&query(&pairs)).expect("read").expect("asked");
        check(&read).expect("right");
        assert_eq!(
            journalctl(&read.options, &["kubelet"]),
            [
                "--utc",
                "--no-pager",
                "--output=short-precise",
                "--since=2026-11-3 3:5:6",
                "--pager-end",
                "--lines=5",
                "--unit=kubelet",
                "--grep=a.*b",
                "--boot",
                "-1",
            ]
        );
    }
}
