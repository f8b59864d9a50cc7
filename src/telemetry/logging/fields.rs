//! The fields of an event or a span, as values that both formats can write.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A number or truth value by its text, which JSON and klog write bare.
    Bare(String),
    /// A text.
    Text(String),
}

/// The name of the sentence, which is recorded first. A field of that name is not the sentence:
/// upstream's lines have such a key, too.
const SENTENCE: &str = "message";

/// Fields in the order in which they were recorded; a later value replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// The fields.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| *other == name)
    }

    /// Takes the event's sentence out.
    pub(super) fn take_message(&mut self) -> String {
        let Some(index) = self.0.iter().position(|(name, _)| *name == SENTENCE) else {
            return String::new();
        };
        match self.0.remove(index).1 {
            Value::Bare(text) | Value::Text(text) => text,
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        // Upstream's name for it.
        let name = if field.name() == "error" { "err" } else { field.name() };
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) if name != SENTENCE => *old = value,
            Some(_) | None => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let bare = value.is_finite();
        let text = value.to_string();
        self.put(field, if bare { Value::Bare(text) } else { Value::Text(text) });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        self.put(field, Value::Text(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
}
