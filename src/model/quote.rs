//! Texts in quotes as Go writes them, for messages and files that users read. Pure.
//!
//! Rust's `{:?}` differs in control characters: `\u{7}` where Go writes `\a`.

/// Quotes a text as Go's `strconv.Quote` and `%q` do.
pub fn go_quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            _ if is_printable(letter) => quoted.push(letter),
            _ => {
                let code = u32::from(letter);
                let escaped = match code {
                    0..0x80 => write!(quoted, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
                escaped.expect("writing to a string cannot fail");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Letters, marks, numbers, punctuation, symbols and the plain space. The standard library knows,
/// but says so only by what it escapes; a letter before keeps it from escaping marks that would
/// join with the quote.
fn is_printable(letter: char) -> bool {
    if letter.is_ascii() {
        return (' '..='~').contains(&letter);
    }
    let text: String = ['a', letter].into_iter().collect();
    text.escape_debug().eq(text.chars())
}

#[cfg(test)]
mod tests {
    use super::go_quote;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(
            go_quote("a'ä\u{301}\u{200b}\u{a0}\u{1f600}\u{7f}\0"),
            "\"a'ä\u{301}\\u200b\\u00a0😀\\x7f\\x00\""
        );
    }

    #[test]
    fn control_characters_have_the_names_of_go() {
        assert_eq!(
            go_quote("\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1b}\u{85}\\\""),
            r#""\a\b\t\n\v\f\r\x1b\u0085\\\"""#
        );
    }
}
