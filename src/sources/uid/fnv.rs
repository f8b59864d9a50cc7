//! FNV-1a with 128 bits, as Go's `hash/fnv` computes it.
//!
//! Pure.

use std::fmt;

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = (1 << 88) + 0x13b;

/// A hash in the making. Text can be written to it with `write!`.
pub(super) struct Fnv128a(u128);

impl Default for Fnv128a {
    fn default() -> Self {
        Self(OFFSET)
    }
}

impl Fnv128a {
    /// Takes bytes in.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.0 =
            bytes.iter().fold(self.0, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    }

    /// The hash of all that was taken in.
    pub(super) fn hexadecimal(&self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Write for Fnv128a {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Fnv128a;

    #[test]
    fn gives_the_values_of_the_specification() {
        for (text, expected) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            let mut hash = Fnv128a::default();
            hash.write(text.as_bytes());
            assert_eq!(hash.hexadecimal(), expected, "{text}");
        }
    }
}
