//! Quantities as upstream prints them: an amount, and whether it is shown in powers of 1024. Pure.
//!
//! Eviction's messages and annotations show amounts of the configuration, of pods' specs and of
//! readings side by side, e.g. `100Mi`, `1500k`, `123456`.

use std::fmt;

use crate::model::quantity::{Amount, QuantityError};
use crate::resources::list::binary_text;

/// How a quantity is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// In powers of 1000: counts, and amounts that were written so.
    Decimal,
    /// In powers of 1024: bytes, and amounts that were written so.
    Binary,
}

/// An amount with the form in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    amount: Amount,
    format: Format,
}

impl Quantity {
    /// Parses the API's text form; its suffix decides how the quantity is shown.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let format = if text.ends_with('i') { Format::Binary } else { Format::Decimal };
        Ok(Self { amount: Amount::parse(text)?, format })
    }

    /// Makes a quantity of bytes.
    pub fn bytes(bytes: u64) -> Self {
        let amount = Amount::from_units(i64::try_from(bytes).unwrap_or(i64::MAX));
        Self { amount, format: Format::Binary }
    }

    /// Makes a quantity of things that are counted: inodes, processes.
    pub fn count(count: i64) -> Self {
        Self { amount: Amount::from_units(count), format: Format::Decimal }
    }

    /// Makes a quantity of nothing.
    pub fn zero() -> Self {
        Self::count(0)
    }

    /// Returns `fraction` of the amount, without what is behind the point. Shown in powers of 1024
    /// whatever the amount counts, as upstream does.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "upstream multiplies in floating point and cuts off the fraction"
    )]
    #[must_use]
    pub fn part(self, fraction: f32) -> Self {
        let units = (self.amount.units() as f64 * f64::from(fraction)) as i64;
        Self { amount: Amount::from_units(units), format: Format::Binary }
    }

    /// Returns another amount in the same form.
    #[must_use]
    pub fn with_amount(self, amount: Amount) -> Self {
        Self { amount, ..self }
    }

    /// Returns the amount.
    pub fn amount(self) -> Amount {
        self.amount
    }
}

impl fmt::Display for Quantity {
    /// Writes the canonical form. Below 1024, and where there is a fraction, powers of 1024 give
    /// way to powers of 1000.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.amount.units();
        let is_whole = Amount::from_units(units) == self.amount;
        let is_small = (-1023..=1023).contains(&units);
        match self.format {
            Format::Binary if is_whole && !is_small => f.write_str(&binary_text(units)),
            Format::Binary | Format::Decimal => self.amount.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn a_quantity_is_shown_in_its_canonical_form() {
        for (text, canonical) in [
            ("100Mi", "100Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1G", "1G"),
            ("1000Mi", "1000Mi"),
            ("1500M", "1500M"),
            ("1024", "1024"),
            ("0.5Ki", "512"),
            ("0", "0"),
        ] {
            assert_eq!(Quantity::parse(text).expect("a quantity").to_string(), canonical);
        }
    }

    #[test]
    fn readings_are_shown_by_what_they_count() {
        assert_eq!(Quantity::bytes(4096).to_string(), "4Ki");
        assert_eq!(Quantity::bytes(1_234_567).to_string(), "1234567");
        assert_eq!(Quantity::bytes(1000).to_string(), "1k", "too small for powers of 1024");
        assert_eq!(Quantity::count(5000).to_string(), "5k");
        assert_eq!(Quantity::bytes(1 << 30).part(0.1).to_string(), "107374184");
        assert_eq!(Quantity::count(1 << 20).part(0.5).to_string(), "512Ki");
    }
}
