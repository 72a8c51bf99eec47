//! How fast somebody is served who may not be trusted. What comes quicker waits in the kernel, at its sender's own cost, or is lost there: a flood costs the others no
//! more of the processor than this. Pure; time is passed in.
//!
//! ```text
//!   owed:  grows by 1 / rate with each that is taken, and melts away with time
//!     AHEAD reached  ─▶ pause until STEP of it has melted
//! ```
//! What may be taken at once is a fraction of a second's worth. A whole second's, taken as the second begins, keeps a processor busy for tens of milliseconds at a
//! stretch, and others' mail waits behind it. And a pause ends when some may be taken again, not one, so that a flood wakes its reader fifty times a second at most.

use std::time::{Duration, Instant};

/// So much of a second's worth may be taken at once: of 100 connections 20, as many as MSAs open to one destination.
const AHEAD: Duration = Duration::from_millis(200);
/// And so much of it after a pause.
const STEP: Duration = Duration::from_millis(20);

/// So many in each second, evenly.
#[derive(Debug)]
pub struct Pace {
    each: Duration,
    /// When what was taken so far is earned.
    earned: Instant,
}

impl Pace {
    /// At most so many in a second, and a fifth of that at once.
    pub fn new(most: u32, now: Instant) -> Self {
        Self { each: Duration::from_secs(1) / most.max(1), earned: now }
    }

    /// Counts one, which was just taken. When the next may be taken, if not at once.
    pub fn took(&mut self, now: Instant) -> Option<Instant> {
        self.earned = self.earned.max(now) + self.each;
        let owed = self.earned.duration_since(now);
        // The next one included.
        (owed + self.each > AHEAD.max(self.each)).then(|| now + owed - AHEAD.saturating_sub(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Takes as fast as it may from `from` on, until `until`: how many at which millisecond.
    fn flood(pace: &mut Pace, start: Instant, from: u32, until: u32) -> Vec<(u128, u32)> {
        let mut taken: Vec<(u128, u32)> = Vec::new();
        let mut now = start + MS * from;
        while now < start + MS * until {
            let ms = now.duration_since(start).as_millis();
            match taken.last_mut() {
                Some((at, count)) if *at == ms => *count += 1,
                _ => taken.push((ms, 1)),
            }
            now = pace.took(now).unwrap_or(now);
        }
        taken
    }

    #[test]
    fn a_flood_is_taken_evenly_and_never_much_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(500, start);
        let taken = flood(&mut pace, start, 0, 2_000);
        assert_eq!(taken[0], (0, 100), "a fifth of a second's worth at once");
        assert_eq!(taken[1], (20, 10));
        assert!(taken[1..].windows(2).all(|two| two[1].0 - two[0].0 == 20 && two[1].1 == 10), "{taken:?}");
        let of_a_second: u32 = taken.iter().filter(|(at, _)| (1_000..2_000).contains(at)).map(|(_, n)| n).sum();
        assert_eq!(of_a_second, 500);
    }

    #[test]
    fn who_stays_below_is_never_paused_and_who_rested_may_go_ahead_again() {
        let start = Instant::now();
        let mut pace = Pace::new(100, start);
        for n in 0..1_000 {
            assert_eq!(pace.took(start + MS * 10 * n), None);
        }
        assert_eq!(flood(&mut pace, start, 10_200, 10_201)[0].1, 20);
        assert_eq!(flood(&mut pace, start, 20_000, 20_001)[0].1, 20, "and no more, however long it rested");
    }

    #[test]
    fn a_slow_pace_takes_one_after_the_other() {
        let start = Instant::now();
        let mut pace = Pace::new(1, start);
        let taken = flood(&mut pace, start, 0, 10_000);
        assert!((9..=12).contains(&taken.len()) && taken.iter().all(|(_, count)| *count == 1), "{taken:?}");
    }
}
