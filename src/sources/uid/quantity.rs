//! Prints quantities, whose parts in Go depend on how they were written.
//!
//! Pure. `1.5Gi` and `1536Mi` are the same amount, but another printout.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Unprintable;

const DECIMAL_EXPONENT: &str = "DecimalExponent";
const BINARY_SI: &str = "BinarySI";
const DECIMAL_SI: &str = "DecimalSI";

/// The smallest power of ten that a quantity holds.
const NANO: i32 = -9;
/// The smallest power of ten that a list of resources holds.
const MILLI: i32 = -3;
/// How many digits Go takes for a small number.
const SMALL_DIGITS: i32 = 18;

/// A quantity as Go holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quantity {
    number: Number,
    /// The text that it was read from, if that is its canonical form.
    text: String,
    format: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// `value` · 10^`scale`.
    Small { value: i64, scale: i32 },
    /// `unscaled` · 10^-`scale`: what is no small number.
    Large { unscaled: i128, scale: i32 },
}

/// Prints the quantity of a document, rounded up to thousandths if it stands in a list of
/// resources.
pub(super) fn print(
    value: Option<&Value>,
    rounds: bool,
    out: &mut impl Write,
) -> Result<(), Unprintable> {
    let mut quantity = match value {
        None => Quantity::default(),
        Some(value) => Quantity::of(value)?,
    };
    if rounds {
        quantity.round_up(MILLI);
    }
    // Neither a hash nor a text refuses to be written to.
    let _ = out.write_str(&quantity.printout());
    Ok(())
}

impl Default for Quantity {
    fn default() -> Self {
        Self {
            number: Number::Small { value: 0, scale: 0 },
            text: String::new(),
            format: String::new(),
        }
    }
}

impl Quantity {
    /// Reads the quantity of a document: a text, or what [`Self::document`] has made.
    pub(super) fn of(value: &Value) -> Result<Self, Unprintable> {
        if let Some(text) = value.as_str() {
            return Self::parse(text.trim());
        }
        let parts = value.as_array().map_or(&[][..], Vec::as_slice);
        let [Value::Number(value), Value::Number(scale), Value::String(format)] = parts else {
            return Err(Unprintable::Type("resource.Quantity".to_owned()));
        };
        let small = value.as_i64().zip(scale.as_i64().and_then(|scale| i32::try_from(scale).ok()));
        let (value, scale) = small.ok_or_else(|| Unprintable::Quantity(String::new()))?;
        let number = Number::Small { value, scale };
        Ok(Self { number, text: String::new(), format: format.clone() })
    }

    /// The quantity as a value of a document. A sum has no text, and no text gives its parts.
    pub(super) fn document(&self) -> Result<Value, Unprintable> {
        match self.number {
            Number::Small { value, scale } if self.text.is_empty() => {
                Ok(json!([value, scale, self.format]))
            }
            Number::Small { .. } => Ok(json!(self.text)),
            Number::Large { .. } => Err(Unprintable::Quantity("a sum".to_owned())),
        }
    }

    fn parse(text: &str) -> Result<Self, Unprintable> {
        if text == "0" {
            return Ok(Self {
                text: text.to_owned(),
                format: DECIMAL_SI.to_owned(),
                ..Self::default()
            });
        }
        let parts = Parts::of(text).ok_or_else(|| Unprintable::Quantity(text.to_owned()))?;
        let number = parts.small().or_else(|| parts.large());
        let number = number.ok_or_else(|| Unprintable::Quantity(text.to_owned()))?;
        let is_canonical = matches!(number, Number::Small { .. }) && parts.is_canonical();
        let format = match number {
            // Less than one is no number of two's powers.
            Number::Large { unscaled, scale } if is_less_than_one(unscaled, scale) => {
                if parts.format == BINARY_SI { DECIMAL_SI } else { parts.format }
            }
            Number::Small { .. } | Number::Large { .. } => parts.format,
        };
        Ok(Self {
            number,
            text: if is_canonical { text.to_owned() } else { String::new() },
            format: format.to_owned(),
        })
    }

    fn round_up(&mut self, to: i32) {
        match &mut self.number {
            Number::Small { scale, .. } if *scale >= to => {}
            Number::Small { value, scale } => {
                let rounded = divide_up(i128::from(*value), ten_to(to - *scale));
                *value = i64::try_from(rounded).unwrap_or(i64::MAX);
                *scale = to;
                self.text.clear();
            }
            Number::Large { unscaled, scale } => {
                // A large number has nine digits behind the point.
                *unscaled = divide_up(*unscaled, ten_to(to + *scale));
                *scale = -to;
                self.text.clear();
            }
        }
    }

    /// Adds another one as Go does: what is added to nothing lends its format.
    pub(super) fn add(&mut self, other: &Self) -> Result<(), Unprintable> {
        let out_of_range = || Unprintable::Quantity("a sum".to_owned());
        let (Number::Small { value, scale }, Number::Small { value: more, scale: more_scale }) =
            (self.number, other.number)
        else {
            return Err(out_of_range());
        };
        self.text.clear();
        if value == 0 {
            self.format.clone_from(&other.format);
        }

        let sum = if more == 0 {
            Some((value, scale))
        } else if value == 0 {
            Some((more, more_scale))
        } else {
            let smaller = scale.min(more_scale);
            let scaled = |value: i64, scale: i32| {
                10_i64.checked_pow(scale.abs_diff(smaller)).and_then(|ten| value.checked_mul(ten))
            };
            scaled(value, scale)
                .zip(scaled(more, more_scale))
                .and_then(|(a, b)| a.checked_add(b))
                .map(|sum| (sum, smaller))
        };
        let (value, scale) = sum.ok_or_else(out_of_range)?;
        self.number = Number::Small { value, scale };
        Ok(())
    }

    /// Whether it is more than another one.
    pub(super) fn is_more_than(&self, other: &Self) -> bool {
        let exact = |number: Number| match number {
            Number::Small { value, scale } => {
                i128::from(value).checked_mul(ten_to(scale - NANO)).unwrap_or(i128::MAX)
            }
            Number::Large { unscaled, .. } => unscaled,
        };
        exact(self.number) > exact(other.number)
    }

    fn printout(&self) -> String {
        let (value, scale, large) = match self.number {
            Number::Small { value, scale } => (value, scale, "<nil>".to_owned()),
            Number::Large { unscaled, scale } => {
                let magnitude = unscaled.unsigned_abs();
                let (low, high) = (magnitude & u128::from(u64::MAX), magnitude >> 64);
                let words = if high == 0 { low.to_string() } else { format!("{low} {high}") };
                let large = format!(
                    "{{unscaled:(big.Int){{neg:(bool){} abs:(big.nat)[{words}]}} \
                     scale:(inf.Scale){scale}}}",
                    unscaled < 0
                );
                (0, 0, large)
            }
        };
        format!(
            "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} \
             d:(resource.infDecAmount){{Dec:(*inf.Dec){large}}} s:(string){} \
             Format:(resource.Format){}}}",
            self.text, self.format
        )
    }
}

/// The parts of a quantity's text.
struct Parts<'a> {
    is_negative: bool,
    /// The digits before the point, without leading zeros.
    whole: &'a str,
    /// The digits behind the point.
    fraction: &'a str,
    /// The power of two, or of ten, that the suffix stands for.
    exponent: i32,
    format: &'static str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let is_negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let end = unsigned
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let (exponent, format) = interpret(suffix)?;
        (!number.is_empty() && !fraction.contains('.')).then_some(Self {
            is_negative,
            whole,
            fraction,
            exponent,
            format,
        })
    }

    /// The text of its digits, without the point.
    fn digits(&self) -> String {
        format!("{}{}", self.whole, self.fraction)
    }

    /// As a small number, if Go takes it for one.
    fn small(&self) -> Option<Number> {
        let places = i32::try_from(self.fraction.len()).ok()?;
        let digits = i32::try_from(self.whole.len()).ok()?.checked_add(places)?;
        let is_binary = self.format == BINARY_SI;
        let (precision, scale, factor) = if !is_binary {
            (SMALL_DIGITS.checked_sub(digits)?, self.exponent.checked_sub(places)?, 1)
        } else if places == 0 {
            // 2^10 has about three digits.
            (
                15 - digits - self.exponent * 3 / 10 - 1,
                0,
                1_i64.checked_shl(self.exponent.unsigned_abs())?,
            )
        } else {
            return None;
        };
        if precision < 0 || scale < NANO {
            return None;
        }
        let value = self.digits().parse::<i64>().ok()?.checked_mul(factor)?;
        let value = if self.is_negative { -value } else { value };
        Some(Number::Small { value, scale })
    }

    /// Whether Go keeps the text of it, as a small number.
    fn is_canonical(&self) -> bool {
        let digits = self.digits();
        if self.format == BINARY_SI {
            return digits.parse::<i64>().is_ok_and(|value| value & 7 != 0);
        }
        let places = i32::try_from(self.fraction.len()).unwrap_or_default();
        (self.exponent - places) % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
    }

    /// As a number with nine digits behind the point, rounded up. Nothing is no such number.
    fn large(&self) -> Option<Number> {
        let places = i32::try_from(self.fraction.len()).ok()?;
        let digits = self.digits().parse::<i128>().ok().filter(|digits| *digits != 0)?;
        let is_binary = self.format == BINARY_SI;
        let (digits, shift) = if is_binary {
            let factor = 1_i128.checked_shl(self.exponent.unsigned_abs())?;
            (digits.checked_mul(factor)?, -NANO - places)
        } else {
            (digits, self.exponent - places - NANO)
        };
        let power = 10_i128.checked_pow(shift.unsigned_abs())?;
        let unscaled =
            if shift >= 0 { digits.checked_mul(power)? } else { divide_up(digits, power) };
        // More than that is not kept of a number of two's powers.
        let most = i128::from(i64::MAX) * 10_i128.pow(NANO.unsigned_abs());
        if is_binary && unscaled > most {
            return None;
        }
        let unscaled = if self.is_negative { -unscaled } else { unscaled };
        Some(Number::Large { unscaled, scale: -NANO })
    }
}

/// What a suffix stands for.
fn interpret(suffix: &str) -> Option<(i32, &'static str)> {
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    if let Some(index) = decimal.iter().position(|known| *known == suffix) {
        return Some((i32::try_from(index).ok()? * 3 - 9, DECIMAL_SI));
    }
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(index) = binary.iter().position(|known| *known == suffix) {
        return Some((i32::try_from(index).ok()? * 10 + 10, BINARY_SI));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    Some((exponent, DECIMAL_EXPONENT))
}

fn is_less_than_one(unscaled: i128, scale: i32) -> bool {
    unscaled.unsigned_abs() < 10_u128.checked_pow(scale.unsigned_abs()).unwrap_or(u128::MAX)
}

/// Ten to a power; what is beyond counts as the largest number.
fn ten_to(power: i32) -> i128 {
    u32::try_from(power).ok().and_then(|power| 10_i128.checked_pow(power)).unwrap_or(i128::MAX)
}

/// Divides and rounds away from zero.
fn divide_up(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}
