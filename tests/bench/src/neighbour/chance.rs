//! What is a fact, and what is chance. Pure: times come in, a ratio and how far it can be believed come out.
//!
//! A p99 is decided by the slowest hundredth, so that of some hundred mails it is decided by a handful, and swings. How far is told by
//! drawing as many mails as were measured from those that were, many times over (a bootstrap), and looking where most ratios lie. Mails are drawn in
//! pieces of neighbours, as a slow moment of the machine meets several in a row.

use std::time::Duration;

use serde::Serialize;

/// So many mails in a row are drawn together.
const PIECE: usize = 10;
/// So many times.
const DRAWS: usize = 2_000;
/// Of the drawn ratios, in per mille, so many lie below the interval, and as many above.
const OUTSIDE: usize = 25;

/// A ratio of two percentiles, and where it lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// Of the same percentile of both.
    pub fn of(alone: &[Duration], beside: &[Duration], percent: usize) -> Ratio {
        let (mut alone, mut beside) = (Sample::new(alone), Sample::new(beside));
        // Always the same draws: who reads the JSON finds the same interval.
        let mut dice = Dice(1);
        let mut drawn: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let beside = beside.draw(&mut dice, percent);
                beside / alone.draw(&mut dice, percent)
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        let at = |rank: usize| drawn.get(rank.min(DRAWS - 1)).copied().unwrap_or_default();
        let ratio =
            Sample::percentile(&mut beside.all.clone(), percent) / Sample::percentile(&mut alone.all.clone(), percent);
        Ratio { ratio, low: at(DRAWS * OUTSIDE / 1_000), high: at(DRAWS - 1 - DRAWS * OUTSIDE / 1_000) }
    }

    /// What it says about a bound.
    pub fn against(&self, bound: f64) -> &'static str {
        match (self.high <= bound, self.low > bound) {
            (true, _) => "held",
            (_, true) => "missed",
            _ => "cannot be told from chance",
        }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.ratio, self.low, self.high)
    }
}

/// Times in the order in which they were measured, in seconds.
struct Sample {
    all: Vec<f64>,
    drawn: Vec<f64>,
}

impl Sample {
    fn new(times: &[Duration]) -> Self {
        Sample { all: times.iter().map(Duration::as_secs_f64).collect(), drawn: Vec::new() }
    }

    /// The percentile of as many times as there are, drawn in pieces, some twice and some not at all.
    fn draw(&mut self, dice: &mut Dice, percent: usize) -> f64 {
        let pieces = self.all.len().div_ceil(PIECE);
        self.drawn.clear();
        for _ in 0..pieces {
            let from = dice.below(pieces) * PIECE;
            self.drawn.extend_from_slice(&self.all[from..(from + PIECE).min(self.all.len())]);
        }
        Self::percentile(&mut self.drawn, percent)
    }

    /// By nearest rank, as everywhere.
    fn percentile(times: &mut [f64], percent: usize) -> f64 {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        if times.len() < rank {
            return f64::NAN;
        }
        *times.select_nth_unstable_by(rank - 1, f64::total_cmp).1
    }
}

/// Numbers that look like chance (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % bound.max(1) as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` times between 20 and 30 ms, and of every hundred one that takes `slow`.
    fn times(n: u64, slow: u64, dice: &mut Dice) -> Vec<Duration> {
        (0..n)
            .map(|at| match at % 100 {
                99 => Duration::from_millis(slow),
                _ => Duration::from_micros(20_000 + dice.below(10_000) as u64),
            })
            .collect()
    }

    #[test]
    fn the_same_is_told_as_the_same() {
        let mut dice = Dice(7);
        let (one, other) = (times(400, 30, &mut dice), times(400, 30, &mut dice));
        let ratio = Ratio::of(&one, &other, 99);
        assert!(ratio.low <= 1.0 && ratio.high >= 1.0 && ratio.high < 1.1, "{ratio}");
        assert_eq!(ratio.against(1.1), "held");
        assert_eq!(ratio, Ratio::of(&one, &other, 99), "the same draws each time");
    }

    #[test]
    fn twice_as_slow_is_a_fact_and_few_slow_ones_may_be_chance() {
        let mut dice = Dice(7);
        let alone = times(400, 30, &mut dice);
        let all_slow: Vec<Duration> = alone.iter().map(|time| *time * 2).collect();
        let ratio = Ratio::of(&alone, &all_slow, 99);
        assert!((ratio.ratio - 2.0).abs() < 1e-9 && ratio.low > 1.8, "{ratio}");
        assert_eq!(ratio.against(1.1), "missed");
        // Five of 400: whether there are four or six is chance, and it decides.
        let mut some_slow = times(400, 60, &mut dice);
        some_slow[50] = Duration::from_millis(60);
        let ratio = Ratio::of(&alone, &some_slow, 99);
        assert!(ratio.ratio > 1.9 && ratio.low < 1.1, "{ratio}");
        assert_eq!(ratio.against(1.1), "cannot be told from chance");
    }

    #[test]
    fn what_comes_in_a_row_is_no_proof() {
        let mut dice = Dice(3);
        let alone = times(400, 30, &mut dice);
        let mut one_bad_moment = times(400, 30, &mut dice);
        one_bad_moment[200..210].fill(Duration::from_millis(90));
        let ratio = Ratio::of(&alone, &one_bad_moment, 99);
        assert!(ratio.ratio > 2.5, "{ratio}");
        assert_eq!(ratio.against(1.1), "cannot be told from chance");
    }

    #[test]
    fn few_are_enough_to_run() {
        let one = [Duration::from_millis(10)];
        assert_eq!(Ratio::of(&one, &one, 99), Ratio { ratio: 1.0, low: 1.0, high: 1.0 });
    }
}
