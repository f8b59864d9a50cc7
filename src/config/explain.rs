//! What one field of the file is: for `rkubelet config`. Pure.
//!
//! Fed by the table of effects and the table of flags.

use super::effects::{self, Effect};
use super::file;
use super::flags;
use super::types::KubeletConfiguration;

/// What is known of one field of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The path of the field, e.g. `authentication.webhook.cacheTTL`.
    pub field: &'static str,
    /// Whether the field has its effect in this version.
    pub effect: Effect,
    /// The deprecated flag of the same name and its sentence of `--help`.
    pub flag: Option<(&'static str, &'static str)>,
}

/// Returns what is known of a field; `None` for a name that is no field.
pub fn explain(field: &str) -> Option<Explanation> {
    let (field, _, effect) = effects::FIELDS.iter().find(|(name, _, _)| *name == field)?;
    let flag = flags::described(&kebab(field));
    Some(Explanation { field, effect: *effect, flag })
}

/// Returns the paths of all fields, in the order of the API.
pub fn field_names() -> impl Iterator<Item = &'static str> {
    effects::FIELDS.iter().map(|(name, _, _)| *name)
}

/// Returns the configuration of a file that sets nothing.
pub fn file_defaults() -> KubeletConfiguration {
    file::empty()
}

/// Returns the fields whose names are close to `field`: those that contain it, whatever the case.
pub fn similar(field: &str) -> Vec<&'static str> {
    let wanted = field.to_ascii_lowercase();
    field_names().filter(|name| name.to_ascii_lowercase().contains(&wanted)).collect()
}

/// Writes the last part of a field's path as a flag is written: `staticPodURL` is `static-pod-url`.
fn kebab(field: &str) -> String {
    let name = field.rsplit('.').next().unwrap_or(field);
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let after_small = index > 0 && letters[index - 1].is_ascii_lowercase();
        let before_small = letters.get(index + 1).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && index > 0 && (after_small || before_small) {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{explain, kebab, similar};

    #[test]
    fn names_become_flags() {
        assert_eq!(kebab("staticPodURL"), "static-pod-url");
        assert_eq!(kebab("maxPods"), "max-pods");
        assert_eq!(kebab("eventRecordQPS"), "event-record-qps");
        assert_eq!(kebab("tlsCertFile"), "tls-cert-file");
    }

    #[test]
    fn a_field_is_explained_with_its_flag() {
        let found = explain("maxPods").expect("a field");
        assert_eq!(found.flag.expect("a flag").0, "max-pods");
        assert_eq!(explain("maxPod"), None);
        assert_eq!(similar("maxpods"), ["maxPods"]);
    }
}
