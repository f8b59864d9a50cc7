//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): parsed exactly, and rounded up when read, as
//! upstream's `Value` and `MilliValue` do.

use std::fmt;

/// An exact amount, in units of 10⁻⁹.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount {
    nano: i128,
}

/// A text that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: {problem}")]
pub struct QuantityError {
    /// The text.
    pub text: String,
    /// The fault in the text.
    pub problem: &'static str,
}

const NANO: i128 = 1_000_000_000;

impl Amount {
    /// The amount zero.
    pub const ZERO: Self = Self { nano: 0 };

    /// Parses the API's text form.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let fail = |problem| QuantityError { text: text.to_owned(), problem };
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(fail("it has no digits"));
        }
        if fraction.contains('.') {
            return Err(fail("it has two decimal points"));
        }

        let (twos, tens) = scale(suffix).ok_or_else(|| fail("its suffix is unknown"))?;
        let digits = Decimal::new(whole, fraction, tens).ok_or_else(|| fail("it is too large"))?;
        let nano = digits.nano(twos).ok_or_else(|| fail("it is too large"))?;

        Ok(Self { nano: if negative { -nano } else { nano } })
    }

    /// Makes an amount of whole units.
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO }
    }

    /// Makes an amount of thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000) }
    }

    /// Returns whole units, rounded up (away from zero for positive values), saturating.
    pub fn units(self) -> i64 {
        clamp(ceil_div(self.nano, NANO))
    }

    /// Returns thousandths, rounded up, saturating.
    pub fn milli(self) -> i64 {
        clamp(ceil_div(self.nano, NANO / 1000))
    }

    /// Returns units of 10⁻⁹.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// Returns true for zero.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano) }
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano) }
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, |sum, amount| sum + amount)
    }
}

impl fmt::Display for Amount {
    /// Writes the canonical decimal form, with the largest SI suffix that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(i128, &str); 9] = [
            (1_000_000_000_000_000_000 * NANO, "E"),
            (1_000_000_000_000_000 * NANO, "P"),
            (1_000_000_000_000 * NANO, "T"),
            (NANO * NANO, "G"),
            (1_000_000 * NANO, "M"),
            (1000 * NANO, "k"),
            (NANO, ""),
            (NANO / 1000, "m"),
            (NANO / 1_000_000, "u"),
        ];
        if self.nano == 0 {
            return f.write_str("0");
        }

        match STEPS.iter().find(|(step, _)| self.nano % step == 0) {
            Some((step, suffix)) => write!(f, "{}{suffix}", self.nano / step),
            None => write!(f, "{}n", self.nano),
        }
    }
}

/// The digits behind the point that count each, as many as can be multiplied by ten. Of the digits
/// beyond only counts whether one is not zero.
const FRACTION: i64 = 37;
const FRACTION_UNIT: i128 = 10_i128.pow(37);

/// A decimal number.
struct Decimal {
    whole: i128,
    /// The fraction, in units of 10⁻³⁷.
    fraction: i128,
    /// True if a further digit behind the point is not zero.
    rest: bool,
}

impl Decimal {
    /// Reads the digits before and behind the point, and then moves the point right by `tens`.
    fn new(whole: &str, fraction: &str, tens: i64) -> Option<Self> {
        let point = i64::try_from(whole.len()).ok()?.checked_add(tens)?;
        let mut number = Self { whole: 0, fraction: 0, rest: false };

        let mut place = point;
        for digit in whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0')) {
            // The digit has the weight 10^place.
            place -= 1;
            if digit == 0 {
                continue;
            }

            if place < -FRACTION {
                number.rest = true;
            } else if place < 0 {
                number.fraction += digit * 10_i128.pow(u32::try_from(FRACTION + place).ok()?);
            } else {
                let power = 10_i128.checked_pow(u32::try_from(place).ok()?)?;
                number.whole = number.whole.checked_add(digit.checked_mul(power)?)?;
            }
        }

        Some(number)
    }

    /// Returns the number times 2^twos (60 at most) in units of 10⁻⁹, rounded up.
    fn nano(&self, twos: u32) -> Option<i128> {
        let whole = self.whole.checked_mul(1_i128 << twos)?.checked_mul(NANO)?;
        // Multiplied step by step with the overflow kept apart: the whole product has too many
        // digits.
        let mut nano = 0;
        let mut left = self.fraction;
        for factor in std::iter::repeat_n(2, twos as usize).chain(std::iter::repeat_n(10, 9)) {
            nano = nano * factor + left * factor / FRACTION_UNIT;
            left = left * factor % FRACTION_UNIT;
        }
        whole.checked_add(nano)?.checked_add(i128::from(left > 0 || self.rest))
    }
}

/// Returns the powers of two and of ten that a suffix stands for.
fn scale(suffix: &str) -> Option<(u32, i64)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, i64::from(suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?)),
    })
}

fn ceil_div(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor > 0 { quotient + 1 } else { quotient }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[track_caller]
    fn check(text: &str, units: i64, milli: i64) {
        let amount = Amount::parse(text).expect("a quantity");
        assert_eq!((amount.units(), amount.milli()), (units, milli), "{text}");
    }

    #[test]
    fn reads_every_suffix() {
        check("0", 0, 0);
        check("1", 1, 1000);
        check("100m", 1, 100);
        check("1500m", 2, 1500);
        check("1.5Gi", 1_610_612_736, 1_610_612_736_000);
        check("2e3", 2000, 2_000_000);
        check("1E", 1_000_000_000_000_000_000, i64::MAX);
        check("12e-3", 1, 12);
        check("-2k", -2000, -2_000_000);
        check(".5", 1, 500);
        check("1n", 1, 1);
    }

    #[test]
    fn reads_as_many_digits_as_there_are() {
        let nano = |text: &str| Amount::parse(text).map(Amount::nano);
        assert_eq!(nano("1.0000000000000000000000000000000000000000000"), Ok(1_000_000_000));
        assert_eq!(nano("0.333333333333333333333333333333"), Ok(333_333_334));
        assert_eq!(nano("0.333333333333333333333333333333Gi"), Ok(357_913_941_333_333_334));
        assert_eq!(nano("-0.00000000000000000000000000000000000001"), Ok(-1));
        assert_eq!(nano("1e-99"), Ok(1));
        assert_eq!(nano("0e99"), Ok(0));
        assert_eq!(
            nano("1000000000000000000000000000000000000000e-30"),
            Ok(1_000_000_000_000_000_000)
        );
        assert_eq!(nano("170141183460469231731687303715884105727n"), Ok(i128::MAX));
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in [
            "",
            "x",
            "1.2.3",
            "1 Gi",
            "1gi",
            "--1",
            "1e",
            "9999999999999999999999999999999999999999",
        ] {
            assert!(Amount::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_the_canonical_form() {
        for (text, canonical) in [
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("2000", "2k"),
            ("1Gi", "1073741824"),
            ("1n", "1n"),
        ] {
            assert_eq!(Amount::parse(text).expect("a quantity").to_string(), canonical);
        }
    }
}
