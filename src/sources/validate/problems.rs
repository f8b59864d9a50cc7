//! Collects problems under field paths, in the form of the API's errors. Pure.

use std::fmt::{Debug, Display};

use serde::Serialize;

use super::names::Wrong;

/// The problems of a pod, in the order in which they are found.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    /// A value is missing.
    pub(super) fn required(&mut self, path: impl Display) {
        self.0.push(format!("{path}: Required value"));
    }

    /// A value is missing, with the reason.
    pub(super) fn required_for(&mut self, path: impl Display, why: &str) {
        self.0.push(format!("{path}: Required value: {why}"));
    }

    /// A text, a number or a truth value is wrong.
    pub(super) fn invalid(&mut self, path: impl Display, value: impl Debug, why: impl Display) {
        self.0.push(format!("{path}: Invalid value: {value:?}: {why}"));
    }

    /// Any other value is wrong; it is shown as JSON.
    pub(super) fn invalid_json(
        &mut self,
        path: impl Display,
        value: &impl Serialize,
        why: impl Display,
    ) {
        let value = serde_json::to_string(value).unwrap_or_default();
        self.0.push(format!("{path}: Invalid value: {value}: {why}"));
    }

    /// A name has not its form.
    pub(super) fn name(&mut self, path: impl Display, text: &str, form: fn(&str) -> Wrong) {
        for why in form(text) {
            self.invalid(&path, text, why);
        }
    }

    /// Two values are the same.
    pub(super) fn duplicate(&mut self, path: impl Display, value: &str) {
        self.0.push(format!("{path}: Duplicate value: {value:?}"));
    }

    /// A field must not be set.
    pub(super) fn forbidden(&mut self, path: impl Display, why: &str) {
        self.0.push(format!("{path}: Forbidden: {why}"));
    }

    /// A name refers to nothing.
    pub(super) fn not_found(&mut self, path: impl Display, name: &str) {
        self.0.push(format!("{path}: Not found: {name:?}"));
    }

    /// A list is too long.
    pub(super) fn too_many(&mut self, path: impl Display, count: usize, most: usize) {
        self.0.push(format!("{path}: Too many: {count}: must have at most {most} items"));
    }

    /// A text is too long.
    pub(super) fn too_long(&mut self, path: impl Display, most: usize) {
        self.0.push(format!("{path}: Too long: may not be more than {most} bytes"));
    }

    /// A value is none of `supported`.
    pub(super) fn one_of(&mut self, path: impl Display, value: Option<&str>, supported: &[&str]) {
        let Some(value) = value else { return };
        if !supported.contains(&value) {
            let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
            let list = list.join(", ");
            self.0.push(format!("{path}: Unsupported value: {value:?}: supported values: {list}"));
        }
    }

    /// A number is below zero.
    pub(super) fn not_negative(&mut self, path: impl Display, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// A number is not greater than zero.
    pub(super) fn positive(&mut self, path: impl Display, value: i64) {
        if value <= 0 {
            self.invalid(path, value, "must be greater than zero");
        }
    }

    /// A user or group is none that the kernel knows.
    pub(super) fn identity(&mut self, path: impl Display, value: Option<i64>) {
        let most = i64::from(i32::MAX);
        if let Some(value) = value.filter(|value| !(0..=most).contains(value)) {
            self.invalid(path, value, format!("must be between 0 and {most}, inclusive"));
        }
    }

    /// A file mode has more than nine bits.
    pub(super) fn file_mode(&mut self, path: impl Display, mode: Option<i32>) {
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            let why = "must be a number between 0 and 0777 (octal), both inclusive";
            self.invalid(path, mode, why);
        }
    }

    /// A path goes up.
    pub(super) fn no_backsteps(&mut self, path: impl Display, text: &str) {
        if text.split('/').any(|part| part == "..") {
            self.invalid(path, text, "must not contain '..'");
        }
    }

    /// A path is not below a directory.
    pub(super) fn descending(&mut self, path: impl Display, text: &str) {
        if text.starts_with('/') {
            self.invalid(&path, text, "must be a relative path");
        }
        self.no_backsteps(path, text);
    }

    /// A path is not below a directory, or begins as the atomic writer's own names do.
    pub(super) fn not_reserved(&mut self, path: impl Display, text: &str) {
        self.descending(&path, text);
        if text.starts_with("..") && !text.starts_with("../") {
            self.invalid(path, text, "must not start with '..'");
        }
    }
}
