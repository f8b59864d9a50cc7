//! The forms of names, in the API's words: what is wrong with a text that should be one. Pure.

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const UNDERSCORE_FORM: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const KEY_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
                        and end with an alphanumeric character";

/// What is wrong with a text; each problem is one sentence.
pub(super) type Wrong = Vec<String>;

/// A DNS label, e.g. the name of a container.
pub(super) fn label(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) {
        wrong.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            form(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
                 '-', and must start and end with an alphanumeric character",
                LABEL_FORM,
                &["my-name", "123-abc"],
            )
        });
    }
    wrong
}

/// A DNS subdomain, e.g. the name of most objects.
pub(super) fn subdomain(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if !is_subdomain(text) {
        wrong.push(subdomain_form());
    }
    wrong
}

fn subdomain_form() -> String {
    form(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
         '.', and must start and end with an alphanumeric character",
        &format!("{LABEL_FORM}(\\.{LABEL_FORM})*"),
        &["example.com"],
    )
}

/// A DNS subdomain whose labels may have underscores: a search path.
pub(super) fn search_path(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    let is_part = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        is_delimited(part, is_lower, |byte| is_lower(byte) || matches!(byte, b'-' | b'_'))
    };
    if !text.split('.').all(is_part) {
        wrong.push(form(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '_', '-' or '.', and must start and end with an alphanumeric character",
            &format!("{UNDERSCORE_FORM}(\\.{UNDERSCORE_FORM})*"),
            &["example.com"],
        ));
    }
    wrong
}

/// The key of a label: a name with or without a domain before it.
pub(super) fn qualified(text: &str) -> Wrong {
    let rule = || form(KEY_RULE, KEY_FORM, &["MyName", "my.name", "123-abc"]);
    let mut wrong = Wrong::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                // This form counts in bytes.
                if prefix.len() > 253 {
                    wrong.push("prefix part must be no more than 253 bytes".to_owned());
                }
                if !is_subdomain(prefix) {
                    wrong.push(format!("prefix part {}", subdomain_form()));
                }
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')",
                rule()
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        wrong.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_key(name) {
        wrong.push(format!("name part {}", rule()));
    }
    wrong
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.len() > 63 {
        wrong.push("must be no more than 63 bytes".to_owned());
    }
    if !text.is_empty() && !is_key(text) {
        wrong.push(form(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
             or '.', and must start and end with an alphanumeric character",
            &format!("({KEY_FORM})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// The name of a variable of the environment.
pub(super) fn variable(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.is_empty() {
        wrong.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        wrong.push(
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        );
    }
    wrong
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || !text.bytes().all(is_allowed) {
        wrong.push(form(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        text if text.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// The name of an HTTP header.
pub(super) fn header(text: &str) -> Wrong {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Wrong::new();
    }
    vec![form(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The name of a port.
pub(super) fn port(text: &str) -> Wrong {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    [
        (text.len() > 15, "must be no more than 15 characters"),
        (
            text.is_empty() || !text.bytes().all(is_allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            !text.bytes().any(|byte| byte.is_ascii_lowercase()),
            "must contain at least one letter (a-z)",
        ),
        (text.contains("--"), "must not contain consecutive hyphens"),
        (text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen"),
    ]
    .into_iter()
    .filter(|(wrong, _)| *wrong)
    .map(|(_, problem)| problem.to_owned())
    .collect()
}

/// The name of a sysctl, with dots or slashes.
pub(super) fn sysctl(text: &str) -> Wrong {
    const SEGMENT: &str = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let is_segment = |part: &str| {
        is_delimited(part, is_lower, |byte| is_lower(byte) || matches!(byte, b'-' | b'_'))
    };
    if text.len() <= 253 && text.split(['.', '/']).all(is_segment) {
        return Wrong::new();
    }
    vec![format!("must have at most 253 characters and match regex ^({SEGMENT}[\\./])*{SEGMENT}$")]
}

/// An IP address. Leading zeros in an IPv4 address are accepted, as the API does for old fields.
pub(super) fn address(text: &str) -> Wrong {
    let plain = text.split('.').map(|part| {
        let part = part.trim_start_matches('0');
        if part.is_empty() { "0" } else { part }
    });
    let plain: Vec<&str> = plain.collect();
    let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    if is_address(text) || (plain.len() == 4 && is_address(&plain.join("."))) {
        return Wrong::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

fn is_label(text: &str) -> bool {
    is_delimited(text, is_lower, |byte| is_lower(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_key(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    is_delimited(text, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// Returns true if a text is not empty, its ends are of one set and all of it is of another.
fn is_delimited(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            end(*first) && end(*last) && bytes.iter().all(|byte| inner(*byte))
        }
        _ => false,
    }
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn too_long(most: usize) -> String {
    format!("must be no more than {most} characters")
}

/// A rule with examples and the regular expression of the form.
fn form(rule: &str, expression: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|text| format!("'{text}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}
