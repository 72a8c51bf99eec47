//! When to try again, and when to give up. Pure: time comes in, a decision goes out.
//!
//! ```text
//!   attempt   1      2          3                    4 …          expiry
//!             │first │ first·f  │      first·f²      │ ≤ max      │ last try, then failed
//! ```
//!
//! Each wait is spread by ± 1/8 with the message's own number, so that messages deferred together do not come back together.
//! Clocks jump; what is promised then: a message never fails for its age before it has had half of the attempts that its
//! lifetime allows, and no due time lies further ahead than one longest wait.

use serde::{Deserialize, Serialize};

/// The retry settings: exponential backoff, a longest wait, a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The wait after the first failed attempt.
    pub first_ms: u64,
    /// Each wait is this many hundredths of the one before; below 100 counts as 100.
    pub factor_percent: u32,
    /// The longest wait.
    pub max_ms: u64,
    /// How long after arrival a message may wait for its destination.
    pub expire_ms: u64,
}

impl Default for Retry {
    /// Five minutes, doubling up to four hours, for five days (RFC 5321 §4.5.4.1 asks for at least four to five).
    fn default() -> Self {
        Self { first_ms: 5 * 60_000, factor_percent: 200, max_ms: 4 * 3_600_000, expire_ms: 5 * 86_400_000 }
    }
}

/// What follows a temporary failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time (unix milliseconds).
    At(u64),
    /// Its time is over: the temporary failure becomes a permanent one.
    Expired,
}

impl Retry {
    /// Decides after the `attempts`-th failed attempt of a recipient, counted from 1.
    #[must_use]
    pub fn next(&self, arrived_ms: u64, attempts: u32, now_ms: u64, seed: u64) -> Next {
        let expires = arrived_ms.saturating_add(self.expire_ms);
        let wait = self.wait(attempts, seed);
        if now_ms < expires {
            // The last attempt happens at the expiry itself, not up to a longest wait before it.
            return Next::At(now_ms.saturating_add(wait).min(expires.max(now_ms.saturating_add(1))));
        }
        if attempts < self.fair_attempts() { Next::At(now_ms.saturating_add(wait)) } else { Next::Expired }
    }

    /// A stored due time as it should be read now. No wait is so long that it could lie behind [`Self::latest`]: then it was another clock, which has been
    /// set back since, and the time is now. Put off by one more wait it would be put off for ever, as each reading begins anew.
    #[must_use]
    pub fn clamp(&self, due_ms: u64, now_ms: u64) -> u64 {
        if due_ms > self.latest(now_ms) { now_ms } else { due_ms }
    }

    /// The end of the longest wait that could begin now.
    #[must_use]
    pub fn latest(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(spread(self.longest(), 255))
    }

    /// The wait after the `attempts`-th failure, spread by `seed`.
    fn wait(&self, attempts: u32, seed: u64) -> u64 {
        let mixed = seed.wrapping_add(u64::from(attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        spread(self.base(attempts), (mixed >> 56) as u8).max(1)
    }

    fn base(&self, attempts: u32) -> u64 {
        let factor = u64::from(self.factor_percent.max(100));
        let mut wait = self.first_ms.max(1);
        for _ in 1..attempts {
            if wait >= self.longest() || factor == 100 {
                break;
            }
            // Rounded up, so that a factor over 1 always grows.
            wait = wait.saturating_mul(factor).div_ceil(100);
        }
        wait.min(self.longest())
    }

    fn longest(&self) -> u64 {
        self.max_ms.max(1)
    }

    /// Half of the attempts that fit into a lifetime, at most 64: what a message gets even if the clock says that it is too old.
    fn fair_attempts(&self) -> u32 {
        let (mut elapsed, mut attempts) = (0u64, 1u32);
        while attempts < 128 {
            elapsed = elapsed.saturating_add(self.base(attempts));
            if elapsed >= self.expire_ms {
                break;
            }
            attempts += 1;
        }
        attempts.div_ceil(2)
    }
}

/// `wait` moved by `noise`/256 of a quarter: from 7/8 to 9/8.
fn spread(wait: u64, noise: u8) -> u64 {
    let (quarter, eighth) = (wait / 4, wait / 8);
    let part = u64::try_from(u128::from(quarter) * u128::from(noise) / 255).expect("a part of a u64");
    (wait - eighth).saturating_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn grows_then_stays() {
        let retry = Retry { first_ms: 1_000, factor_percent: 200, max_ms: 5_000, expire_ms: HOUR };
        let waits: Vec<u64> = (1..=5).map(|attempt| retry.base(attempt)).collect();
        assert_eq!(waits, [1_000, 2_000, 4_000, 5_000, 5_000]);
    }

    #[test]
    fn last_try_is_at_expiry() {
        let retry = Retry::default();
        let arrived = 1_790_000_000_000;
        let expires = arrived + retry.expire_ms;
        assert_eq!(retry.next(arrived, 30, expires - 60_000, 7), Next::At(expires));
        assert_eq!(retry.next(arrived, 31, expires, 7), Next::Expired);
    }

    #[test]
    fn a_clock_set_forward_fails_nothing_at_once() {
        let retry = Retry::default();
        assert!(matches!(retry.next(1_000, 1, 40 * 365 * 86_400_000, 7), Next::At(_)));
    }

    #[test]
    fn a_clock_set_back_strands_nothing() {
        let retry = Retry::default();
        let due = retry.clamp(u64::MAX - 1, 1_000);
        assert!(due <= 1_000 + 5 * HOUR);
        // Read again at that time, by who was woken for it: it must be due then.
        assert!(retry.clamp(u64::MAX - 1, due) <= due);
        assert_eq!(retry.clamp(500, 1_000), 500);
    }

    #[test]
    fn half_a_second_of_life_is_one_attempt() {
        let retry = Retry { first_ms: 1_000, factor_percent: 200, max_ms: 5_000, expire_ms: 500 };
        assert_eq!(retry.next(0, 1, 600, 1), Next::Expired);
    }

    fn any_retry() -> impl Strategy<Value = Retry> {
        (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |(first_ms, factor_percent, max_ms, expire_ms)| Retry { first_ms, factor_percent, max_ms, expire_ms },
        )
    }

    proptest! {
        #[test]
        fn always_ahead_and_never_too_far(retry in any_retry(), arrived: u64, attempts in 1u32..10_000, now in 0..u64::MAX / 2, seed: u64) {
            if let Next::At(due) = retry.next(arrived, attempts, now, seed) {
                prop_assert!(due > now);
                prop_assert_eq!(retry.clamp(due, now), due);
            }
        }

        #[test]
        fn every_message_comes_to_an_end(
            first_ms in 1u64..HOUR, factor_percent in 100u32..400, max_ms in 1_000u64..(4 * HOUR), expire_ms in 1u64..(200 * HOUR), seed: u64,
        ) {
            let retry = Retry { first_ms, factor_percent, max_ms, expire_ms };
            let (mut now, mut attempts) = (0, 1);
            while let Next::At(due) = retry.next(0, attempts, now, seed) {
                prop_assert!(now < expire_ms || attempts < 64);
                (now, attempts) = (due, attempts + 1);
                if attempts > 100_000 { break; } // an hour's life at millisecond waits: long, but by choice
            }
        }

        #[test]
        fn spread_stays_within_an_eighth(wait in any::<u64>(), noise: u8) {
            let out = spread(wait, noise);
            prop_assert!(out >= wait - wait / 8 && out <= wait.saturating_add(wait / 8 + 1));
        }
    }
}
