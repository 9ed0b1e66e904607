//! How often which latency occurred, in little memory and without a lock.
//!
//! Buckets are a microsecond wide up to 256 us and below one per cent of their value from there on,
//! as those of `HdrHistogram`; every latency up to 71 minutes has one. Clients of all threads add to
//! the same buckets, so that thousands of clients need no more memory than one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets for each doubling. More makes percentiles finer and the histogram larger.
const PER_DOUBLING: usize = 128;
/// Doublings above the first buckets, up to 2^32 us.
const DOUBLINGS: usize = 25;
const BUCKETS: usize = (DOUBLINGS + 1) * PER_DOUBLING;
const VALUE_MAX_US: u64 = u32::MAX as u64;

pub(super) struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect();
        Self { buckets, sum_us: AtomicU64::default(), max_us: AtomicU64::default() }
    }
}

fn bucket(value_us: u64) -> usize {
    let shift = (value_us / PER_DOUBLING as u64).checked_ilog2().unwrap_or(0);
    let within = usize::try_from(value_us >> shift).unwrap_or(usize::MAX);
    (shift as usize * PER_DOUBLING).saturating_add(within).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_us(bucket: usize) -> u64 {
    let shift = (bucket / PER_DOUBLING).saturating_sub(1);
    (((bucket - shift * PER_DOUBLING + 1) as u64) << shift) - 1
}

impl Histogram {
    pub(super) fn add(&self, value_us: u64) {
        let value_us = value_us.min(VALUE_MAX_US);
        self.buckets[bucket(value_us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(value_us, Relaxed);
        self.max_us.fetch_max(value_us, Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|count| count.load(Relaxed)).sum()
    }

    pub(super) fn max_us(&self) -> u64 {
        self.max_us.load(Relaxed)
    }

    pub(super) fn mean_us(&self) -> u64 {
        self.sum_us.load(Relaxed).checked_div(self.count()).unwrap_or(0)
    }

    /// The values below which so many of a million lie, at most one per cent too high; the
    /// fractions ascend.
    pub(super) fn percentiles_us<const N: usize>(&self, per_million: [u64; N]) -> [u64; N] {
        let (count, max_us) = (self.count(), self.max_us());
        let mut filled = self.buckets.iter().map(|count| count.load(Relaxed)).enumerate();
        let (mut seen, mut value_us) = (0, 0);
        per_million.map(|fraction| {
            let wide = u128::from(count) * u128::from(fraction);
            let rank = u64::try_from(wide.div_ceil(1_000_000)).unwrap_or(count).min(count);
            while seen < rank.max(1) {
                let Some((bucket, more)) = filled.next() else { break };
                seen += more;
                value_us = upper_us(bucket).min(max_us);
            }
            if count == 0 { 0 } else { value_us }
        })
    }

    /// The curve of the distribution: for each bucket in use the share of the values that lie
    /// above it, from below one down to zero, and its latency.
    pub(super) fn curve(&self) -> Vec<CurvePoint> {
        let (count, max_us) = (self.count(), self.max_us());
        let mut left = count;
        let mut points = Vec::new();
        for (bucket, more) in self.buckets.iter().map(|count| count.load(Relaxed)).enumerate() {
            if more > 0 {
                left = left.saturating_sub(more);
                points.push(CurvePoint {
                    above: left,
                    of: count,
                    us: upper_us(bucket).min(max_us),
                });
            }
        }
        points
    }
}

/// So many of so many values are larger than this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CurvePoint {
    pub(super) above: u64,
    pub(super) of: u64,
    pub(super) us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_is_at_most_one_per_cent_wide() {
        let steps = (0..5_000).chain((13..32).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 77]));
        let mut last = 0;
        for value in steps.chain([VALUE_MAX_US]) {
            let found = bucket(value);
            assert!(found >= last, "buckets ascend at {value}");
            last = found;
            let upper = upper_us(found);
            assert!(upper >= value && upper - value <= value / 100, "{value} is told as {upper}");
            assert!(found == 0 || upper_us(found - 1) < value, "{value} is in the first that fits");
        }
        assert_eq!(bucket(VALUE_MAX_US), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let histogram = Histogram::default();
        for value in 1..=1_000 {
            histogram.add(value * 10);
        }
        let [p50, p99, p999, all] =
            histogram.percentiles_us([500_000, 990_000, 999_000, 1_000_000]);
        for (found, exact) in [(p50, 5_000), (p99, 9_900), (p999, 9_990), (all, 10_000)] {
            assert!(found >= exact && found <= exact + exact / 100, "{found} for {exact}");
        }
        assert_eq!((histogram.count(), histogram.max_us()), (1_000, 10_000));
        assert_eq!(histogram.mean_us(), 5_005);
    }

    #[test]
    fn nothing_and_too_much_have_percentiles_too() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentiles_us([500_000, 999_999]), [0, 0]);
        assert!(histogram.curve().is_empty());
        histogram.add(u64::MAX);
        assert_eq!(histogram.percentiles_us([1, 1_000_000]), [VALUE_MAX_US; 2]);
    }

    #[test]
    fn the_curve_falls_from_all_to_none() {
        let histogram = Histogram::default();
        for value in [5, 5, 5, 90] {
            histogram.add(value);
        }
        let point = |above, us| CurvePoint { above, of: 4, us };
        assert_eq!(histogram.curve(), [point(1, 5), point(0, 90)]);
    }
}
