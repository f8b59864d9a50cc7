//! `$(VAR)` references in commands, arguments, values of variables and `subPathExpr`.
//!
//! `$$` is a literal `$`; a reference to something unknown stays as it was written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;

use super::env::EnvVar;
use super::{SpecError, validate};

/// Expands the references in `input`; `lookup` answers `None` for what is unknown.
pub(super) fn expand<'a>(input: &str, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> String {
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

/// Expands each of `words` with the container's environment.
pub(super) fn expand_all(words: Option<&Vec<String>>, env: &[EnvVar]) -> Vec<String> {
    let known: BTreeMap<&str, &str> = env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
    words.into_iter().flatten().map(|word| expand(word, |name| known.get(name).copied())).collect()
}

/// Expands a command with only those variables whose values are written in the spec: what upstream does for probes.
pub fn command_with_static_env(command: &[String], container: &api::Container) -> Vec<String> {
    let known: BTreeMap<&str, &str> = container
        .env
        .iter()
        .flatten()
        .map(|var| (var.name.as_str(), var.value.as_deref().unwrap_or_default()))
        .collect();
    command.iter().map(|word| expand(word, |name| known.get(name).copied())).collect()
}

/// The path below the volume that a mount asks for, expanded and checked; `None` for the whole volume.
pub fn sub_path(mount: &api::VolumeMount, env: &[EnvVar]) -> Result<Option<String>, SpecError> {
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    let path = if expression.is_empty() {
        mount.sub_path.clone().unwrap_or_default()
    } else {
        let mut missing = BTreeSet::new();
        // The last of two variables of one name wins, as in the container.
        let find = |name: &str| env.iter().rev().find(|var| var.name == name).map(|var| var.value.as_str());
        let path = expand(expression, |name| match find(name) {
            Some(value) if !value.is_empty() => Some(value),
            Some(_) | None => {
                missing.insert(name.to_owned());
                Some("")
            }
        });
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().collect();
            return Err(SpecError::container(format!("missing value for {}", missing.join(", "))));
        }
        path
    };
    if path.is_empty() {
        return Ok(None);
    }
    if path.starts_with('/') {
        return Err(SpecError::container(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if validate::has_backsteps(&path) {
        return Err(SpecError::container(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn mount(sub_path: Option<&str>, expression: Option<&str>) -> api::VolumeMount {
        api::VolumeMount {
            name: "v".into(),
            mount_path: "/v".into(),
            sub_path: sub_path.map(Into::into),
            sub_path_expr: expression.map(Into::into),
            ..api::VolumeMount::default()
        }
    }

    #[test]
    fn checks_sub_paths() {
        let env = [EnvVar::new("POD", "web-0"), EnvVar::new("NONE", "")];
        let path = |sub: Option<&str>, expression: Option<&str>| {
            sub_path(&mount(sub, expression), &env).map_err(|error| error.message)
        };
        assert_eq!(path(None, None), Ok(None));
        assert_eq!(path(Some("a/b"), None), Ok(Some("a/b".into())));
        assert_eq!(path(None, Some("logs/$(POD)")), Ok(Some("logs/web-0".into())));
        assert_eq!(path(None, Some("$(X)/$(NONE)")), Err("missing value for NONE, X".into()));
        assert_eq!(path(Some("/a"), None), Err("error SubPath `/a` must not be an absolute path".into()));
        assert_eq!(
            path(Some("a/../b"), None),
            Err("unable to provision SubPath `a/../b`: must not contain '..'".into())
        );
    }
}
