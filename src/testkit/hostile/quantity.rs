//! The laws of quantities: read exactly as digits on paper, written so that they are read back, and
//! never out of range.

use crate::model::quantity::Amount;

/// So many digits of 10⁻⁹ fit into the amount for certain.
const DIGITS: usize = 37;
/// Exponents beyond this are not held against the digits on paper: the paper would be long.
const LARGEST_EXPONENT: i64 = 400;

/// Parses a quantity and, if it is one, calculates with it.
pub fn check(text: &str) {
    let parsed = Amount::parse(text);
    match on_paper(text) {
        Some((negative, digits)) if digits.len() <= DIGITS => {
            let nano = digits.iter().fold(0_i128, |number, digit| number * 10 + i128::from(*digit));
            let expected = if negative { -nano } else { nano };
            assert_eq!(parsed.as_ref().map(|amount| amount.nano()), Ok(expected), "{text:?}");
        }
        Some(_) => {}
        None => assert!(parsed.is_err(), "{text:?} is no quantity, but was read as {parsed:?}"),
    }
    let Ok(amount) = parsed else {
        let error = parsed.expect_err("it is none");
        return assert!(
            error.to_string().contains(&format!("{text:?}")),
            "the error names the text: {error}"
        );
    };
    let written = amount.to_string();
    assert_eq!(Amount::parse(&written), Ok(amount), "{written:?}");
    assert_eq!(
        Amount::parse(&written).map(|amount| amount.to_string()),
        Ok(written),
        "the canonical form is its own"
    );
    assert_eq!(amount.is_zero(), amount == Amount::ZERO);
    assert!(
        amount.is_zero() || amount.units() != 0 || amount.nano() < 0,
        "what is something is not read as nothing"
    );
    let (units, milli) = (i128::from(amount.units()), i128::from(amount.milli()));
    let within = |value: i128| i128::from(i64::MIN) < value && value < i128::from(i64::MAX);
    if within(units) && within(milli) {
        assert!(
            milli <= units * 1000 && units * 1000 < milli + 1000,
            "{units} units are {milli} thousandths"
        );
        assert!(amount.nano() <= milli * 1_000_000, "rounded up");
    }
    for other in [amount, Amount::ZERO, Amount::from_units(i64::MIN), Amount::from_milli(i64::MAX)]
    {
        let (sum, difference) = (amount + other, amount - other);
        assert_eq!(sum, other + amount);
        assert_eq!([amount, other].into_iter().sum::<Amount>(), sum);
        for result in [sum, difference] {
            let _in_range: (i64, i64, String) =
                (result.units(), result.milli(), result.to_string());
        }
    }
}

/// The sign and the digits of the value in 10⁻⁹, rounded away from zero; `None`: no quantity, or
/// one that is not held against ours.
fn on_paper(text: &str) -> Option<(bool, Vec<u8>)> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let mut parts = number.split('.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    if parts.next().is_some() || whole.len() + fraction.len() == 0 {
        return None;
    }
    let (twos, tens) = scale(suffix)?;
    let mut digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
    for _ in 0..twos {
        double(&mut digits);
    }
    let shift = tens + 9 - i64::try_from(fraction.len()).ok()?;
    if shift > LARGEST_EXPONENT && digits.iter().any(|digit| *digit != 0) {
        // Far too large, in any case.
        digits.resize(DIGITS + 1, 9);
        return Some((text.starts_with('-'), vec![9; DIGITS + 1]));
    }
    let rest = digits.len().saturating_sub(usize::try_from(-shift).unwrap_or(0));
    let cut_off = digits.split_off(rest);
    if cut_off.iter().any(|digit| *digit != 0) {
        add_one(&mut digits);
    }
    digits
        .extend(std::iter::repeat_n(0, usize::try_from(shift.min(LARGEST_EXPONENT)).unwrap_or(0)));
    let significant = digits.iter().position(|digit| *digit != 0).unwrap_or(digits.len());
    Some((text.starts_with('-'), digits.split_off(significant)))
}

/// A suffix as a power of two and a power of ten.
fn scale(suffix: &str) -> Option<(u32, i64)> {
    const DECIMAL: [(&str, i64); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [(&str, u32); 6] =
        [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    let decimal = DECIMAL.iter().find(|(name, _)| *name == suffix).map(|(_, tens)| (0, *tens));
    let binary = || BINARY.iter().find(|(name, _)| *name == suffix).map(|(_, twos)| (*twos, 0));
    let exponent = || Some((0, i64::from(suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?)));
    decimal.or_else(binary).or_else(exponent)
}

fn double(digits: &mut Vec<u8>) {
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let doubled = *digit * 2 + carry;
        (*digit, carry) = (doubled % 10, doubled / 10);
    }
    if carry > 0 {
        digits.insert(0, carry);
    }
}

fn add_one(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < 9 {
            *digit += 1;
            return;
        }
        *digit = 0;
    }
    digits.insert(0, 1);
}
