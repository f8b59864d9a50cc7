//! CPU: from thousandths of a core to the kernel's shares, weights and quotas, and back. Pure.

pub use crate::linux::cgroup::{cpu_weight as weight, shares_of_weight};

/// The fewest shares that the kernel takes.
pub const MIN_SHARES: u64 = 2;
/// The most shares that the kernel takes.
pub const MAX_SHARES: u64 = 262_144;
/// The shares of one core.
const SHARES_PER_CPU: i64 = 1024;
/// The default CFS period, in microseconds (100 ms).
pub const QUOTA_PERIOD: u64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds (1 ms).
const MIN_QUOTA: i64 = 1000;
/// The smallest limit that makes a difference: below it the quota is the smallest.
pub const MIN_LIMIT_MILLI: i64 = 10;

/// Shares for a request; the fewest for none.
pub fn shares(milli: i64) -> u64 {
    let shares = milli.saturating_mul(SHARES_PER_CPU) / 1000;
    u64::try_from(shares).unwrap_or(MIN_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

/// The quota per period, in microseconds, for a limit; zero for none.
pub fn quota(milli: i64, period: u64) -> i64 {
    if milli == 0 {
        return 0;
    }
    let period = i64::try_from(period).unwrap_or(i64::MAX);
    (milli.saturating_mul(period) / 1000).max(MIN_QUOTA)
}

/// The request that shares stand for, rounded up; zero for fewer than the fewest.
pub fn milli_of_shares(shares: i64) -> i64 {
    if shares < 2 {
        return 0;
    }
    let thousandths = shares.saturating_mul(1000);
    thousandths / SHARES_PER_CPU + i64::from(thousandths % SHARES_PER_CPU > 0)
}

/// The limit that a quota stands for; zero for none.
pub fn milli_of_quota(quota: i64, period: i64) -> i64 {
    if quota == -1 || period <= 0 {
        return 0;
    }
    quota.saturating_mul(1000) / period
}

#[cfg(test)]
mod tests {
    use super::{
        QUOTA_PERIOD, milli_of_quota, milli_of_shares, quota, shares, shares_of_weight, weight,
    };

    #[test]
    fn shares_of_requests() {
        for (milli, expected) in
            [(0, 2), (1, 2), (2, 2), (100, 102), (1000, 1024), (2500, 2560), (400_000, 262_144)]
        {
            assert_eq!(shares(milli), expected, "{milli}");
        }
    }

    #[test]
    fn quotas_of_limits() {
        for (milli, period, expected) in [
            (0, QUOTA_PERIOD, 0),
            (5, QUOTA_PERIOD, 1000),
            (9, QUOTA_PERIOD, 1000),
            (10, QUOTA_PERIOD, 1000),
            (200, QUOTA_PERIOD, 20_000),
            (1500, QUOTA_PERIOD, 150_000),
            (200, 5000, 1000),
        ] {
            assert_eq!(quota(milli, period), expected, "{milli}");
        }
    }

    #[test]
    fn weights_of_shares() {
        for (shares, expected) in
            [(2, 1), (102, 4), (1024, 39), (10_240, 391), (262_144, 10_000), (300_000, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert_eq!((shares_of_weight(1), shares_of_weight(10_000)), (2, 262_144));
    }

    #[test]
    fn and_back() {
        assert_eq!(
            (milli_of_shares(102), milli_of_shares(1024), milli_of_shares(2), milli_of_shares(1)),
            (100, 1000, 2, 0)
        );
        assert_eq!(
            (milli_of_quota(20_000, 100_000), milli_of_quota(-1, 100_000), milli_of_quota(5, 0)),
            (200, 0, 0)
        );
    }
}
