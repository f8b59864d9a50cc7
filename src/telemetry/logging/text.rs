//! klog's text format: `I1121 05:43:00.000000   12345 file.rs:12] "Sentence" key="value" count=3`.

use std::fmt::Write;

use tracing::Level;

use super::Line;
use super::fields::Value;

/// The line, with its end.
pub(super) fn line(line: &Line<'_>, pid: u32) -> String {
    let letter = match line.level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let file = line.file.rsplit('/').next().unwrap_or(line.file);
    let time = line.now.to_zoned(jiff::tz::TimeZone::UTC);
    let mut text = String::with_capacity(192);
    let _ = write!(
        text,
        "{letter}{:02}{:02} {:02}:{:02}:{:02}.{:06} {pid:>7} {file}:{}] {}",
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.subsec_nanosecond() / 1000,
        line.line,
        quoted(line.message)
    );
    for (index, fields) in line.fields.iter().enumerate() {
        let inner = &line.fields[index + 1..];
        for (name, value) in
            fields.iter().filter(|(name, _)| !inner.iter().any(|fields| fields.has(name)))
        {
            field(&mut text, name, value);
        }
    }
    text.push('\n');
    text
}

fn field(text: &mut String, name: &str, value: &Value) {
    let _ = match value {
        Value::Bare(value) => write!(text, " {name}={value}"),
        Value::Text(value) if value.contains('\n') => {
            write!(text, " {name}=<\n\t{}\n >", value.trim_end_matches('\n').replace('\n', "\n\t"))
        }
        Value::Text(value) => write!(text, " {name}={}", quoted(value)),
    };
}

/// Quoted with JSON's escapes, which are Go's for all but exotic characters.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}
