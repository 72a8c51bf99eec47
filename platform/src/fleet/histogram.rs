//! Durations, counted by size: a few hundred numbers whatever happens, precise to about 3 %.

use std::time::Duration;

use warren_control::api::{Lengths, Spread};

/// Buckets for each doubling.
const STEPS: usize = 32;
/// Doublings: up to 2³² µs, more than an hour.
const DOUBLINGS: usize = 32;

/// What is counted apart for metrics, in microseconds: from the goals of a warm slot (3 ms) and of none (25 ms) to what clients wait for (30 s).
const UP_TO_US: [u64; 15] = [
    1_000, 2_000, 3_000, 5_000, 10_000, 15_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 30_000_000,
];

/// How often which duration was seen.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    /// Of each of [`UP_TO_US`], those that are in none before it.
    lengths: [u64; UP_TO_US.len()],
    count: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        let buckets = vec![0; STEPS * DOUBLINGS].into();
        Histogram { buckets, lengths: [0; UP_TO_US.len()], count: 0, sum_us: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)] += 1;
        if let Some(place) = UP_TO_US.iter().position(|up_to| us <= *up_to) {
            self.lengths[place] += 1;
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// How many were at most how long.
    pub fn lengths(&self) -> Lengths {
        let mut so_far = 0;
        let up_to_us = UP_TO_US.into_iter().zip(self.lengths).map(|(up_to, more)| {
            so_far += more;
            (up_to, so_far)
        });
        Lengths { up_to_us: up_to_us.collect(), sum_us: self.sum_us }
    }

    /// Count, median, 99th percentile, maximum.
    pub fn spread(&self) -> Spread {
        Spread { count: self.count, p50_us: self.quantile(50), p99_us: self.quantile(99), max_us: self.max_us }
    }

    /// The smallest value that so many percent do not exceed, as its bucket's upper bound.
    fn quantile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return upper(index).min(self.max_us);
            }
        }
        self.max_us
    }
}

/// Exact below `STEPS`; above, the leading bits.
fn bucket(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let exponent = us.ilog2() as usize - STEPS.ilog2() as usize;
    let index = (exponent + 1) * STEPS + ((us >> exponent) as usize - STEPS);
    index.min(STEPS * DOUBLINGS - 1)
}

fn upper(index: usize) -> u64 {
    let (row, column) = (index / STEPS, (index % STEPS) as u64);
    match row {
        0 => column,
        row => ((STEPS as u64 + column + 1) << (row - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.spread(), Spread::default());
        for us in 1..=100 {
            histogram.add(Duration::from_micros(us * 10));
        }
        let Spread { count, p50_us, p99_us, max_us } = histogram.spread();
        assert_eq!((count, max_us), (100, 1000));
        assert!((500..=516).contains(&p50_us) && (990..=1000).contains(&p99_us), "{p50_us} {p99_us}");
        histogram.add(Duration::MAX);
        assert_eq!(histogram.spread().max_us, u64::MAX);
    }

    #[test]
    fn lengths_rise() {
        let mut histogram = Histogram::default();
        [900, 1_000, 1_001, 40_000_000].into_iter().for_each(|us| histogram.add(Duration::from_micros(us)));
        let Lengths { up_to_us, sum_us } = histogram.lengths();
        assert_eq!((&up_to_us[..3], sum_us), (&[(1_000, 2), (2_000, 3), (3_000, 3)][..], 40_002_901));
        assert_eq!(up_to_us.last(), Some(&(30_000_000, 3)), "the longest is in none");
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(us in 0u64..1 << 36) {
            let index = bucket(us);
            prop_assert!(us <= upper(index));
            prop_assert!(index == 0 || us > upper(index - 1));
            prop_assert!(upper(index) - us <= us / 32);
        }
    }
}
