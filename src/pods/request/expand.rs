//! `$(VAR)` references in commands, arguments and `subPathExpr`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;

use crate::model::expansion::expand;

use super::input::EnvVar;
use super::{SpecError, validate};

/// Expands each of `words` with the container's environment.
pub(super) fn expand_all(words: Option<&Vec<String>>, env: &[EnvVar]) -> Vec<String> {
    let known: BTreeMap<&str, &str> =
        env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
    words.into_iter().flatten().map(|word| expand(word, |name| known.get(name).copied())).collect()
}

/// The path below the volume that a mount asks for, expanded and checked; `None` for the whole
/// volume.
pub fn sub_path(mount: &api::VolumeMount, env: &[EnvVar]) -> Result<Option<String>, SpecError> {
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    let path = if expression.is_empty() {
        mount.sub_path.clone().unwrap_or_default()
    } else {
        let mut missing = BTreeSet::new();
        // The last of two variables of one name wins, as in the container.
        let find = |name: &str| {
            env.iter().rev().find(|var| var.name == name).map(|var| var.value.as_str())
        };
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
        return Err(SpecError::container(format!(
            "error SubPath `{path}` must not be an absolute path"
        )));
    }
    if validate::has_backsteps(&path) {
        return Err(SpecError::container(format!(
            "unable to provision SubPath `{path}`: must not contain '..'"
        )));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            path(Some("/a"), None),
            Err("error SubPath `/a` must not be an absolute path".into())
        );
        assert_eq!(
            path(Some("a/../b"), None),
            Err("unable to provision SubPath `a/../b`: must not contain '..'".into())
        );
    }
}
