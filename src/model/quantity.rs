//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): parsed exactly, read rounded up as upstream's `Value` and
//! `MilliValue` do.

use std::fmt;

/// An exact amount, in units of 10⁻⁹.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount {
    nano: i128,
}

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: {problem}")]
pub struct QuantityError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

const NANO: i128 = 1_000_000_000;

impl Amount {
    /// Nothing.
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
        let (multiplier, divisor) = scale(suffix).ok_or_else(|| fail("its suffix is unknown"))?;
        let mantissa = parse_digits(whole, fraction).ok_or_else(|| fail("it is too large"))?;
        let scaled = mantissa
            .digits
            .checked_mul(NANO)
            .and_then(|value| value.checked_mul(multiplier))
            .ok_or_else(|| fail("it is too large"))?;
        let divisor = mantissa.scale.checked_mul(divisor).ok_or_else(|| fail("it is too precise"))?;
        let nano = ceil_div(scaled, divisor);
        Ok(Self { nano: if negative { -nano } else { nano } })
    }

    /// From whole units.
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO }
    }

    /// From thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000) }
    }

    /// Whole units, rounded up (away from zero for positive values), saturating.
    pub fn units(self) -> i64 {
        clamp(ceil_div(self.nano, NANO))
    }

    /// Thousandths, rounded up, saturating.
    pub fn milli(self) -> i64 {
        clamp(ceil_div(self.nano, NANO / 1000))
    }

    /// In units of 10⁻⁹.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// Whether it is zero.
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
    /// The canonical decimal form: the largest SI suffix that keeps it whole.
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

struct Mantissa {
    digits: i128,
    scale: i128,
}

fn parse_digits(whole: &str, fraction: &str) -> Option<Mantissa> {
    let mut digits: i128 = 0;
    let mut scale: i128 = 1;
    for byte in whole.bytes() {
        digits = digits.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
    }
    for byte in fraction.bytes() {
        digits = digits.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
        scale = scale.checked_mul(10)?;
    }
    Some(Mantissa { digits, scale })
}

/// Multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    match suffix {
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => Some((1, 1)),
        "k" => Some((1000, 1)),
        "M" => Some((1_000_000, 1)),
        "G" => Some((NANO, 1)),
        "T" => Some((1_000_000_000_000, 1)),
        "P" => Some((1_000_000_000_000_000, 1)),
        "E" => Some((1_000_000_000_000_000_000, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
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
    fn refuses_what_is_no_quantity() {
        for text in ["", "x", "1.2.3", "1 Gi", "1gi", "--1", "1e", "9999999999999999999999999999999999999999"] {
            assert!(Amount::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_the_canonical_form() {
        for (text, canonical) in
            [("1000m", "1"), ("1500m", "1500m"), ("2000", "2k"), ("1Gi", "1073741824"), ("1n", "1n")]
        {
            assert_eq!(Amount::parse(text).expect("a quantity").to_string(), canonical);
        }
    }
}
