//! Durations as Go writes and reads them: `1m30s`, `100ms`, `-1.5h`. Nanoseconds in 64 bits, so
//! about 292 years.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A signed duration in Go's text form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// The error of a text that is no duration. The texts are those of Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text has no number, or the number is out of range.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl GoDuration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// From seconds; saturates.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// From milliseconds; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// As a standard duration; a negative one becomes zero.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Parses Go's text form.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_end =
                rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_end);
            let unit_end =
                tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(invalid());
            }
            let scale = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => 1000,
                "ms" => 1_000_000,
                "s" => i128::from(NANOS_PER_SECOND),
                "m" => 60 * i128::from(NANOS_PER_SECOND),
                "h" => 3600 * i128::from(NANOS_PER_SECOND),
                _ => {
                    return Err(DurationError::UnknownUnit {
                        unit: unit.to_owned(),
                        text: text.to_owned(),
                    });
                }
            };
            total = scaled(whole, fraction, scale)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(invalid)?;
            rest = tail;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self).map_err(|_| invalid())
    }
}

/// `whole.fraction × scale`, the fraction cut off below a nanosecond.
fn scaled(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits beyond the fifteenth are below a nanosecond even in hours.
    let kept = &fraction[..fraction.len().min(15)];
    let part = if kept.is_empty() {
        0
    } else {
        kept.parse::<i128>().ok()?.checked_mul(scale)?
            / 10_i128.pow(u32::try_from(kept.len()).ok()?)
    };
    whole.checked_mul(scale)?.checked_add(part)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if nanos < 1000 {
            return write!(f, "{nanos}ns");
        }
        if nanos < 1_000_000 {
            return write!(f, "{}µs", decimal(nanos, 3));
        }
        if nanos < NANOS_PER_SECOND.unsigned_abs() {
            return write!(f, "{}ms", decimal(nanos, 6));
        }
        let minutes = nanos / (60 * NANOS_PER_SECOND.unsigned_abs());
        let seconds = nanos % (60 * NANOS_PER_SECOND.unsigned_abs());
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(seconds, 9))
    }
}

/// `value / 10^digits` without trailing zeros.
fn decimal(value: u64, digits: usize) -> String {
    let scale = 10_u64.pow(u32::try_from(digits).unwrap_or(0));
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Null is no text, as for Go.
        let text = Option::<String>::deserialize(deserializer)?;
        Self::parse(&text.unwrap_or_default()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::GoDuration;

    #[track_caller]
    fn check(text: &str, nanos: i64, canonical: &str) {
        let duration = GoDuration::parse(text).expect("a duration");
        assert_eq!((duration.nanos(), duration.to_string().as_str()), (nanos, canonical), "{text}");
    }

    #[test]
    fn reads_and_writes_as_go_does() {
        check("0", 0, "0s");
        check("0s", 0, "0s");
        check("2m", 120_000_000_000, "2m0s");
        check("4h", 14_400_000_000_000, "4h0m0s");
        check("1h0m1s", 3_601_000_000_000, "1h0m1s");
        check("100ms", 100_000_000, "100ms");
        check("1.5s", 1_500_000_000, "1.5s");
        check("-1.5h", -5_400_000_000_000, "-1h30m0s");
        check("1500us", 1_500_000, "1.5ms");
        check("7ns", 7, "7ns");
        check(".5m", 30_000_000_000, "30s");
        check("1m30s", 90_000_000_000, "1m30s");
    }

    #[test]
    fn refuses_with_the_texts_of_go() {
        for (text, problem) in [
            ("", r#"time: invalid duration """#),
            ("abc", r#"time: invalid duration "abc""#),
            ("5", r#"time: missing unit in duration "5""#),
            ("5x", r#"time: unknown unit "x" in duration "5x""#),
            ("1.2.3s", r#"time: invalid duration "1.2.3s""#),
            ("99999999999h", r#"time: invalid duration "99999999999h""#),
        ] {
            assert_eq!(GoDuration::parse(text).expect_err(text).to_string(), problem);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_survives_a_round_trip(nanos: i64, text in ".{0,20}") {
            let duration = GoDuration::from_nanos(nanos);
            if nanos != i64::MIN {
                proptest::prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
            }
            drop(GoDuration::parse(&text));
        }
    }
}
