//! The law of `$(VAR)`: what upstream's cursor makes of a text, ours makes of it too.

use crate::model::expansion::expand;

/// Values by the length of the name; a name whose length is a multiple of this table's is unknown.
const VALUES: [Option<&str>; 5] = [None, Some("one"), Some("$(A)"), Some("$$"), Some("")];
const LONGEST_VALUE: usize = 4;
/// The shortest reference, `$()`.
const SHORTEST_REFERENCE: usize = 3;

/// Expands a text with variables of which some are known.
pub fn check(text: &str) {
    let expanded = expand(text, lookup);
    assert_eq!(expanded, expected(text));
    assert!(expanded.len() <= text.len() + text.len() / SHORTEST_REFERENCE * LONGEST_VALUE);
    if !text.contains('$') {
        assert_eq!(expanded, text, "without references nothing changes");
    }
    assert_eq!(expand(&text.replace('$', "$$"), lookup), text, "an escaped text is read back");
    assert_eq!(expand(text, |_| Some("")), expected_with(text, &|_| Some("")));
}

fn lookup(name: &str) -> Option<&'static str> {
    VALUES[name.len() % VALUES.len()]
}

fn expected(text: &str) -> String {
    expected_with(text, &lookup)
}

/// Upstream's algorithm by its rules: at each `$` that is not the last byte, what follows decides.
fn expected_with(text: &str, lookup: &dyn Fn(&str) -> Option<&'static str>) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < characters.len() {
        let next = characters.get(at + 1);
        let closing = characters[at..]
            .iter()
            .position(|character| *character == ')')
            .map(|length| at + length);
        match (characters[at], next, closing) {
            ('$', Some('$'), _) => {
                out.push('$');
                at += 2;
            }
            ('$', Some('('), Some(closing)) => {
                let name: String = characters[at + 2..closing].iter().collect();
                match lookup(&name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(&characters[at..=closing]),
                }
                at = closing + 1;
            }
            // An operator that begins nothing takes the character after it along, even a
            // parenthesis without an end.
            ('$', Some(other), _) => {
                out.extend(['$', *other]);
                at += 2;
            }
            (character, _, _) => {
                out.push(character);
                at += 1;
            }
        }
    }
    out
}
