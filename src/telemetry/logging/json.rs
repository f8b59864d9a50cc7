//! Upstream's JSON format:
//! `{"ts":…,"caller":"pods/worker.rs:12","msg":"Sentence","v":0,"key":"value"}`.

use serde_json::{Map, Number};
use tracing::Level;

use super::Line;
use super::fields::Value;

/// The line, with its end. `ts` is in milliseconds since 1970; errors have no `v`.
pub(super) fn line(line: &Line<'_>) -> String {
    let mut object = Map::new();
    let micros = line.now.as_microsecond();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of this century are exact")]
    let millis = micros as f64 / 1000.0;
    object
        .insert("ts".into(), Number::from_f64(millis).map_or(0.into(), serde_json::Value::Number));
    object.insert("caller".into(), format!("{}:{}", two_parts(line.file), line.line).into());
    object.insert("msg".into(), line.message.into());
    let verbosity = match line.level {
        Level::ERROR => None,
        Level::DEBUG => Some(4),
        Level::TRACE => Some(6),
        _ => Some(0),
    };
    if let Some(verbosity) = verbosity {
        object.insert("v".into(), verbosity.into());
    }
    for (name, value) in line.fields.iter().flat_map(|fields| fields.iter()) {
        object.insert(name.into(), json(value));
    }
    format!("{}\n", serde_json::Value::Object(object))
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bare(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
        Value::Text(text) => text.as_str().into(),
    }
}

/// The file and the folder it is in.
fn two_parts(path: &str) -> &str {
    let mut slashes = path.rmatch_indices('/');
    slashes.nth(1).map_or(path, |(index, _)| &path[index + 1..])
}
