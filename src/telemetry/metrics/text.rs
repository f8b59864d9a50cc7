//! Text format 0.0.4: families with HELP and TYPE, sorted by name, numbers as Go writes them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts per bound.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What one scrape has gathered.
#[derive(Debug, Default)]
pub struct Collected {
    families: BTreeMap<String, String>,
}

impl Collected {
    /// Writes a whole family of counters or gauges: values by labels.
    pub fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: Kind,
        labels: &[&str],
        samples: &[(&[&str], f64)],
    ) {
        let mut family = self.begin(name, help, kind);
        for (values, value) in samples {
            family.sample("", labels, values, None, *value);
        }
    }

    /// Begins a family, whose samples are added one by one.
    pub fn begin<'a>(&'a mut self, name: &'a str, help: &'a str, kind: Kind) -> FamilyWriter<'a> {
        FamilyWriter { collected: self, name, help, kind, text: String::new() }
    }

    /// Everything, sorted by name.
    pub fn into_text(self) -> String {
        let mut text = String::with_capacity(self.families.values().map(String::len).sum());
        self.families.values().for_each(|family| text.push_str(family));
        text
    }
}

/// Writes one family; it is added when this is dropped, unless it has no samples.
#[derive(Debug)]
pub struct FamilyWriter<'a> {
    collected: &'a mut Collected,
    name: &'a str,
    help: &'a str,
    kind: Kind,
    text: String,
}

impl FamilyWriter<'_> {
    /// Adds a sample that was read at a time of its own, in milliseconds since the epoch.
    pub fn read_at(&mut self, labels: &[&str], values: &[&str], value: f64, at: Option<i64>) {
        self.sample("", labels, values, None, value);
        if let Some(at) = at {
            self.text.pop();
            let _ = writeln!(self.text, " {at}");
        }
    }

    /// Adds `name+suffix{labels,le="bound"} value`.
    pub(super) fn sample(
        &mut self,
        suffix: &str,
        labels: &[&str],
        values: &[&str],
        bound: Option<f64>,
        value: f64,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (label, value) in labels.iter().zip(values) {
            let _ = write!(self.text, "{separator}{label}=\"");
            escape(&mut self.text, value, true);
            self.text.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(self.text, "{separator}le=\"");
            number(&mut self.text, bound);
            self.text.push('"');
            separator = ',';
        }
        self.text.push_str(if separator == '{' { " " } else { "} " });
        number(&mut self.text, value);
        self.text.push('\n');
    }
}

impl Drop for FamilyWriter<'_> {
    fn drop(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let samples = std::mem::take(&mut self.text);
        // A second family of the same name adds its samples to the first.
        let family = self.collected.families.entry(self.name.to_owned()).or_insert_with(|| {
            let mut head = format!("# HELP {} ", self.name);
            escape(&mut head, self.help, false);
            let _ = write!(head, "\n# TYPE {} {}\n", self.name, self.kind.as_str());
            head
        });
        family.push_str(&samples);
    }
}

fn escape(text: &mut String, value: &str, quotes: bool) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

/// A number as Go's `%g`: the shortest that reads back the same, with an exponent below 1e-4 and
/// from 1e+06 on.
fn number(text: &mut String, value: f64) {
    /// Exponents from this one on are written as such.
    const LARGEST_PLAIN: i32 = 6;
    const SMALLEST_PLAIN: i32 = -4;
    if value.is_nan() {
        return text.push_str("NaN");
    }
    if value.is_infinite() {
        return text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    // Go writes negative zero as such too, but nobody means it.
    if value == 0.0 {
        return text.push('0');
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let _ = if (SMALLEST_PLAIN..LARGEST_PLAIN).contains(&exponent) {
        write!(text, "{value}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(text, "{mantissa}e{sign}{:02}", exponent.unsigned_abs())
    };
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_gos() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (123_456.0, "123456"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1.7e9, "1.7e+09"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            let mut text = String::new();
            number(&mut text, value);
            assert_eq!(text, expected);
        }
    }
}
