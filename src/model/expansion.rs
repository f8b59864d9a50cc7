//! Expands `$(VAR)` references in commands, arguments and values of variables.
//!
//! `$$` is a literal `$`. A reference to an unknown variable stays as it was written.

/// Expands the references in `input`; `lookup` returns `None` for an unknown variable.
pub fn expand<'a>(input: &str, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];

        let mut chars = after.chars();
        match chars.next() {
            None => {
                out.push('$');
                rest = "";
            }
            Some('$') => {
                out.push('$');
                rest = chars.as_str();
            }
            Some('(') => {
                if let Some(close) = after.find(')') {
                    match lookup(&after[1..close]) {
                        Some(value) => out.push_str(value),
                        None => out.push_str(&rest[dollar..=dollar + 1 + close]),
                    }
                    rest = &after[close + 1..];
                } else {
                    out.push_str("$(");
                    rest = &after[1..];
                }
            }
            Some(other) => {
                out.push('$');
                out.push(other);
                rest = chars.as_str();
            }
        }
    }

    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[track_caller]
    fn check(input: &str, expected: &str) {
        let known = |name: &str| match name {
            "A" => Some("one"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        assert_eq!(expand(input, known), expected, "{input}");
    }

    #[test]
    fn follows_the_reference_grammar() {
        check("plain", "plain");
        check("$(A)", "one");
        check("x$(A)y$(A)", "xoneyone");
        check("$(B)", "$(A)");
        check("$(MISSING)", "$(MISSING)");
        check("$(EMPTY)!", "!");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$one");
        check("$A", "$A");
        check("cost: 5$", "cost: 5$");
        check("$(A", "$(A");
        check("$(", "$(");
        check("$()", "$()");
        check("$é$(A)", "$éone");
        check("$($(A)", "$($(A)");
    }
}
