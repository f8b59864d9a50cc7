//! How a case says what it wants to see in an object: `path=pattern`, one string each.
//!
//! `status.podIP`, `status.containerStatuses[main].ready`,
//! `metadata.annotations[kubernetes.io/config.mirror]`: brackets take a key, an index, or the
//! element whose `name`, `type` or `ip` it is. Short forms: `phase`, `c[NAME]` (the status of that
//! container, whichever list it is in), `cond[TYPE]` (a condition's status). In a pattern `*`
//! stands for any text and `?` for any one character; an empty pattern means absent. `path>N`
//! compares numbers.

use serde_json::Value;

/// The value at `path`.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(rest) = path.strip_prefix("c[") {
        let (name, rest) = rest.split_once(']')?;
        return ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
            .iter()
            .find_map(|list| {
                let status = step(object.get("status")?.get(list)?, name)?;
                at(status, rest.trim_start_matches('.'))
            });
    }
    if let Some(rest) = path.strip_prefix("cond[") {
        let (kind, rest) = rest.split_once(']')?;
        let condition = step(object.get("status")?.get("conditions")?, kind)?;
        return at(
            condition,
            if rest.is_empty() { "status" } else { rest.trim_start_matches('.') },
        );
    }
    if path == "phase" {
        return object.get("status")?.get("phase");
    }
    let mut here = object;
    let mut rest = path;
    while !rest.is_empty() {
        let key;
        if let Some(bracket) = rest.strip_prefix('[') {
            (key, rest) = bracket.split_once(']')?;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            (key, rest) = rest.split_at(end);
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        here = step(here, key)?;
    }
    Some(here)
}

fn step<'a>(here: &'a Value, key: &str) -> Option<&'a Value> {
    match here {
        Value::Object(map) => map.get(key),
        Value::Array(list) => {
            key.parse::<usize>().ok().and_then(|index| list.get(index)).or_else(|| {
                list.iter().find(|item| {
                    ["name", "type", "ip"].iter().any(|k| item.get(k).is_some_and(|v| v == key))
                })
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The value at `path` as text: a string as it is, absent as the empty text, anything else as JSON.
pub fn text(object: &Value, path: &str) -> String {
    match at(object, path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A number at `path`; 0 when there is none.
pub fn number(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether all of `text` is what `pattern` describes.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Which of `wants` the object does not show, each with what it shows instead.
pub fn unmet(object: &Value, wants: &[&str]) -> Vec<String> {
    wants.iter().filter_map(|want| unmet_one(object, want)).collect()
}

fn unmet_one(object: &Value, want: &str) -> Option<String> {
    let Some(split) = want.find(['=', '>']) else {
        return Some(format!("\"{want}\" is neither path=pattern nor path>number"));
    };
    let (path, pattern) = (&want[..split], &want[split + 1..]);
    let seen = text(object, path);
    let met = if want.as_bytes()[split] == b'>' {
        number(object, path) > pattern.parse::<i64>().unwrap_or(i64::MAX)
    } else {
        glob(pattern, &seen)
    };
    (!met).then(|| {
        format!(
            "{path} is \"{seen}\", wanted {}\"{pattern}\"",
            if want.as_bytes()[split] == b'>' { "> " } else { "" }
        )
    })
}
