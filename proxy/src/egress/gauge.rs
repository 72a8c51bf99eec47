//! What an address does at an operator: sessions at once, and sessions begun in a minute.
//!
//! The rate is kept by the generic cell rate algorithm: one number, the time at which the budget would be unused again. A tenth of a minute's
//! sessions may begin in a burst, the rest is spread; the interval is chosen so that **no minute, wherever it begins, sees more than the budget**:
//! of n sessions that conform, first and last are at least (n − 1)·interval − tolerance apart, so fewer than minute/interval + burst fit into one.

use super::Budget;
use super::clock::{MINUTE, Tick};

/// A budget, as a gauge reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    sessions: u32,
    interval: Tick,
    tolerance: Tick,
}

/// What is used of a budget.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge {
    sessions: u32,
    unused_at: Tick,
    /// Sessions begun in the minute before this one, and in this one, which is the so-many-th.
    begun: (u32, u32),
    minute: Tick,
}

/// Whether one more session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Yes,
    /// Not before another one ends.
    Full,
    /// Not before then.
    Until(Tick),
}

impl Pace {
    /// The pace of `budget`, where the whole budget is `full`: never less strict than that.
    pub(super) fn of(budget: Budget, full: Budget) -> Self {
        let (interval, tolerance) = Self::rate(budget.sessions_per_minute);
        let (least, most) = Self::rate(full.sessions_per_minute);
        Self { sessions: budget.sessions.max(1), interval: interval.max(least), tolerance: tolerance.min(most) }
    }

    fn rate(per_minute: u32) -> (Tick, Tick) {
        let count = Tick::from(per_minute.max(1));
        let burst = (count / 10).max(1);
        let spread = count - burst + 1;
        let interval = (MINUTE + spread - 1) / spread;
        (interval, (burst - 1) * interval)
    }
}

impl Gauge {
    pub(super) fn sessions(&self) -> u32 {
        self.sessions
    }

    pub(super) fn room(&self, pace: Pace, now: Tick) -> Room {
        if self.sessions >= pace.sessions {
            return Room::Full;
        }
        let from = self.unused_at - pace.tolerance;
        if from <= now { Room::Yes } else { Room::Until(from) }
    }

    /// A session begins.
    pub(super) fn take(&mut self, pace: Pace, now: Tick) {
        self.sessions += 1;
        self.unused_at = self.unused_at.max(now) + pace.interval;
        self.begun = self.begun_at(now);
        self.begun.1 += 1;
        self.minute = now.div_euclid(MINUTE);
    }

    /// A session ends.
    pub(super) fn give(&mut self) {
        self.sessions = self.sessions.saturating_sub(1);
    }

    /// When nothing will be left to remember, if nothing else happens.
    pub(super) fn forgotten_at(&self) -> Tick {
        self.unused_at
    }

    /// Sessions begun within the last minute, as if those of the minute before had been spread evenly. For people.
    pub(super) fn begun(&self, now: Tick) -> u32 {
        let (before, this) = self.begun_at(now);
        let rest = MINUTE - now.rem_euclid(MINUTE);
        this + u32::try_from(Tick::from(before) * rest / MINUTE).unwrap_or_default()
    }

    fn begun_at(&self, now: Tick) -> (u32, u32) {
        match now.div_euclid(MINUTE) - self.minute {
            0 => self.begun,
            1 => (self.begun.1, 0),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::clock::SECOND;

    fn budget(sessions: u32, sessions_per_minute: u32) -> Budget {
        Budget { sessions, sessions_per_minute }
    }

    #[test]
    fn a_tenth_at_once_and_the_rest_spread() {
        let full = budget(1_000, 60);
        let (pace, mut gauge, mut begun) = (Pace::of(full, full), Gauge::default(), Vec::new());
        for now in (0..MINUTE).step_by(100_000) {
            while gauge.room(pace, now) == Room::Yes {
                gauge.take(pace, now);
                begun.push(now);
            }
        }
        assert_eq!(begun.iter().filter(|at| **at == 0).count(), 6);
        assert!((57..=60).contains(&begun.len()), "{}", begun.len());
        assert_eq!(gauge.begun(MINUTE - 1), u32::try_from(begun.len()).unwrap());
        assert_eq!(gauge.begun(3 * MINUTE), 0);
    }

    #[test]
    fn one_a_minute_is_one_a_minute() {
        let full = budget(9, 1);
        let (pace, mut gauge) = (Pace::of(full, full), Gauge::default());
        gauge.take(pace, 5 * SECOND);
        assert_eq!(gauge.room(pace, 6 * SECOND), Room::Until(65 * SECOND));
        assert_eq!(gauge.room(pace, 65 * SECOND), Room::Yes);
    }

    #[test]
    fn places_come_back_when_sessions_end() {
        let full = budget(1, 60_000);
        let (pace, mut gauge) = (Pace::of(full, full), Gauge::default());
        gauge.take(pace, 0);
        assert_eq!(gauge.room(pace, SECOND), Room::Full);
        gauge.give();
        assert_eq!(gauge.room(pace, SECOND), Room::Yes);
    }

    proptest::proptest! {
        #[test]
        fn no_minute_sees_more_than_the_budget(
            per_minute in 1u32..200,
            steps in proptest::collection::vec((0i64..3 * SECOND, 1u32..=100), 1..600),
        ) {
            let (full, mut gauge, mut now, mut begun) = (budget(u32::MAX, per_minute), Gauge::default(), 0, Vec::new());
            for (wait, share) in steps {
                now += wait;
                let part = budget(u32::MAX, (per_minute * share / 100).max(1));
                if gauge.room(Pace::of(part, full), now) == Room::Yes {
                    gauge.take(Pace::of(part, full), now);
                    begun.push(now);
                }
            }
            for (first, from) in begun.iter().enumerate() {
                let within = begun[first..].iter().take_while(|at| **at < from + MINUTE).count();
                proptest::prop_assert!(within <= per_minute as usize, "{within} of {per_minute} in the minute from {from}");
            }
        }
    }
}
