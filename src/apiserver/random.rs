//! A little randomness for jitter and object names. Not for secrets.
//!
//! It draws on the standard library's randomly keyed hasher, so that no generator is kept and no
//! crate is needed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A number in `0.0..1.0`.
pub fn unit() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// 32 random bits, for names.
pub fn bits32() -> u32 {
    u32::try_from(RandomState::new().hash_one(1_u8) >> 32).unwrap_or(u32::MAX)
}

/// `wait` plus up to `share` of it, so that many nodes do not act in step.
pub fn jitter(wait: Duration, share: f64) -> Duration {
    wait.saturating_add(wait.mul_f64(share.max(0.0) * unit()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn stays_in_its_range() {
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&super::unit()));
            let wait = super::jitter(Duration::from_secs(10), 0.5);
            assert!((Duration::from_secs(10)..Duration::from_secs(15)).contains(&wait), "{wait:?}");
        }
    }
}
