//! Files of variables (`fileKeyRef`): lines `NAME='value'`, comments, values over several lines.
//!
//! Stricter than a shell on purpose: what is not written exactly so is an error and never guessed.

/// Why a file is not one of variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid environment variable format at line {line}: {problem}")]
pub(crate) struct EnvFileError {
    line: usize,
    problem: &'static str,
}

/// A line of this many bytes is too long, as upstream has it.
const LONGEST_LINE: usize = 64 * 1024;

/// The value of `key`; the first one wins and what follows it is not looked at.
pub(crate) fn value(content: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut lines = Lines { rest: content, number: 0 };
    while let Some(line) = lines.next().transpose()? {
        let number = lines.number;
        let fail = |problem| EnvFileError { line: number, problem };
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, written) = line.split_once('=').ok_or_else(|| fail("missing '='"))?;
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return Err(fail("empty variable name"));
        }
        if name.ends_with([' ', '\t']) {
            return Err(fail("whitespace before '=' is not allowed"));
        }
        if written.starts_with([' ', '\t']) {
            // As in a shell: `KEY= 'value'` sets KEY to nothing.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let opened = written
            .strip_prefix('\'')
            .ok_or_else(|| fail("value must be enclosed in single quotes"))?;
        let mut text = String::new();
        let mut rest = opened;
        let after = loop {
            if let Some((inside, after)) = rest.split_once('\'') {
                text.push_str(inside);
                break after;
            }
            text.push_str(rest);
            text.push('\n');
            rest = lines.next().ok_or_else(|| fail("unclosed single quote"))??;
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return Err(fail("unexpected content after closing quote"));
        }
        if name == key {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// The lines as upstream's scanner hands them out: without the line feed and one carriage return
/// before it, at the end of the file, too.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a str, EnvFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.number += 1;
        if line.len() >= LONGEST_LINE {
            return Some(Err(EnvFileError { line: self.number, problem: "line is too long" }));
        }
        Some(Ok(line.strip_suffix('\r').unwrap_or(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &str, expected: Result<Option<&str>, &str>) {
        let found = value(content, "K").map_err(|error| error.problem);
        assert_eq!(
            found.as_ref().map(Option::as_deref).map_err(|problem| *problem),
            expected,
            "{content}"
        );
    }

    #[test]
    fn reads_the_grammar() {
        check("K='v'", Ok(Some("v")));
        check("# note\n\n  K='v' # why\n", Ok(Some("v")));
        check("A='1'\nK='two\nlines'\n", Ok(Some("two\nlines")));
        check("K='a\"b $x'", Ok(Some("a\"b $x")));
        check("K= 'v'", Ok(Some("")));
        check("A= x\nK='v'", Ok(Some("v")));
        check("A='1'", Ok(None));
        check("K='1'\nbroken", Ok(Some("1")));
        check("A='1'\r\nK='two\r\nlines'\r\n", Ok(Some("two\nlines")));
        check("K='v'\r", Ok(Some("v")));
    }

    #[test]
    fn refuses_everything_else() {
        check("K", Err("missing '='"));
        check("='x'", Err("empty variable name"));
        check("K ='x'", Err("whitespace before '=' is not allowed"));
        check("K=x", Err("value must be enclosed in single quotes"));
        check("K='x", Err("unclosed single quote"));
        check("K='x'y", Err("unexpected content after closing quote"));
        check(&format!("K='{}'", "x".repeat(LONGEST_LINE)), Err("line is too long"));
        check(&format!("K='\n{}\n'", "x".repeat(LONGEST_LINE)), Err("line is too long"));
    }
}
