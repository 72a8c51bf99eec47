//! How long one verb takes at one operator, asked from one address: a robust estimate in a few bytes.

use std::time::{Duration, Instant};

use super::Thresholds;

/// How fast the usual follows what is heard.
const GAIN: f32 = 1.0 / 32.0;
/// Replies that are recent.
const RECENT: usize = 3;
/// A single reply moves the usual as if it were at most this far from it, in powers of e: outliers pull like anybody else.
const REACH: f32 = 1.5;
/// The least scatter believed in, in powers of e.
const LEAST_SCATTER: f32 = 0.3;
/// So many scatters above the usual is beyond chance.
const SCATTERS: f32 = 4.0;
/// Times below are the network's and the clock's.
const SHORTEST: Duration = Duration::from_micros(100);

/// An estimate of service times. Times are kept as logarithms: a reply is as likely to take twice as long as half as long.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Curve {
    usual: f32,
    scatter: f32,
    heard: u32,
    /// The last replies, whatever they were; the newest first.
    recent: [f32; RECENT],
    recently: usize,
    last: Option<Instant>,
    /// Since when everything has been beyond the usual.
    frozen: Option<Instant>,
}

/// What replies took lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// The fastest of the last three.
    pub least: Duration,
    /// The one in the middle.
    pub middle: Duration,
}

/// What a reply was, measured by its curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Usual, or nothing is known yet.
    Usual,
    /// Beyond the usual: not learned.
    Beyond,
}

impl Curve {
    /// Takes one reply's time; `beyond`: it was far above the usual.
    pub fn hear(&mut self, took: Duration, beyond: bool, now: Instant, thresholds: &Thresholds) -> Heard {
        let sample = ln(took);
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > thresholds.fresh) {
            self.recently = 0;
        }
        self.last = Some(now);
        self.recent.rotate_right(1);
        self.recent[0] = sample;
        self.recently = (self.recently + 1).min(RECENT);
        if beyond {
            let since = *self.frozen.get_or_insert(now);
            if now.saturating_duration_since(since) < thresholds.thaw {
                return Heard::Beyond;
            }
            // It has been like that for so long that it is how things are.
            *self = Self { usual: sample, scatter: LEAST_SCATTER, heard: 1, frozen: None, ..*self };
            return Heard::Usual;
        }
        self.frozen = None;
        self.heard = self.heard.saturating_add(1);
        if self.heard == 1 {
            (self.usual, self.scatter) = (sample, LEAST_SCATTER);
            return Heard::Usual;
        }
        // The first replies weigh as in a mean, later ones as in a memory that fades.
        #[expect(clippy::cast_precision_loss, reason = "beyond 2^24 replies the gain is the constant anyhow")]
        let gain = GAIN.max(1.0 / self.heard as f32);
        let off = (sample - self.usual).clamp(-REACH, REACH);
        self.usual += gain * off;
        self.scatter += gain * (off.abs() - self.scatter);
        Heard::Usual
    }

    /// The usual time, once enough is known.
    #[must_use]
    pub fn usual(&self, thresholds: &Thresholds) -> Option<Duration> {
        (self.heard >= thresholds.ready).then(|| exp(self.usual))
    }

    /// Up to where a time is usual, once enough is known.
    #[must_use]
    pub fn bound(&self, thresholds: &Thresholds) -> Option<Duration> {
        let beyond = (SCATTERS * self.scatter.max(LEAST_SCATTER)).max(thresholds.factor.ln());
        (self.heard >= thresholds.ready).then(|| exp(self.usual + beyond).max(thresholds.floor))
    }

    /// What it took lately: three replies, none of them old.
    #[must_use]
    pub fn recent(&self, now: Instant, thresholds: &Thresholds) -> Option<Recent> {
        let fresh = self.last.is_some_and(|last| now.saturating_duration_since(last) <= thresholds.fresh);
        let mut recent = self.recent;
        recent.sort_by(f32::total_cmp);
        (fresh && self.recently == RECENT).then(|| Recent { least: exp(recent[0]), middle: exp(recent[RECENT / 2]) })
    }
}

fn ln(took: Duration) -> f32 {
    took.max(SHORTEST).as_secs_f32().ln()
}

fn exp(ln: f32) -> Duration {
    // A day is longer than any session lives.
    Duration::from_secs_f32(ln.exp().clamp(0.0, 86_400.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(times: &[(u64, bool)], now: Instant) -> Curve {
        let mut curve = Curve::default();
        for &(ms, beyond) in times {
            curve.hear(Duration::from_millis(ms), beyond, now, &Thresholds::default());
        }
        curve
    }

    #[test]
    fn nothing_is_usual_before_enough_was_heard() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        assert_eq!(after(&[(20, false); 4], now).usual(&thresholds), None);
        let usual = after(&[(20, false); 5], now).usual(&thresholds).unwrap();
        assert!((19..=21).contains(&usual.as_millis()), "{usual:?}");
    }

    #[test]
    fn what_is_beyond_is_not_learned() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        let calm = after(&[(20, false); 50], now);
        let mut curve = calm;
        for _ in 0..1_000 {
            assert_eq!(curve.hear(Duration::from_secs(30), true, now, &thresholds), Heard::Beyond);
        }
        assert_eq!(curve.usual(&thresholds), calm.usual(&thresholds));
        assert!(curve.recent(now, &thresholds).unwrap().least > Duration::from_secs(29));
    }

    #[test]
    fn what_stays_beyond_for_a_day_becomes_usual() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        let mut curve = after(&[(20, false); 50], now);
        let slow = Duration::from_secs(30);
        curve.hear(slow, true, now, &thresholds);
        curve.hear(slow, true, now + thresholds.thaw / 2, &thresholds);
        assert!(curve.usual(&thresholds).unwrap() < Duration::from_secs(1));
        for n in 0..5 {
            curve.hear(slow, n == 0, now + thresholds.thaw, &thresholds);
        }
        assert!(curve.usual(&thresholds).unwrap() > Duration::from_secs(29));
    }

    #[test]
    fn one_normal_reply_ends_the_wait_for_the_new_usual() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        let mut curve = after(&[(20, false); 50], now);
        let slow = Duration::from_secs(30);
        curve.hear(slow, true, now, &thresholds);
        curve.hear(Duration::from_millis(20), false, now + thresholds.thaw / 2, &thresholds);
        assert_eq!(curve.hear(slow, true, now + thresholds.thaw, &thresholds), Heard::Beyond);
    }

    #[test]
    fn what_is_old_is_not_recent() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        let mut curve = after(&[(20, false); 50], now);
        let later = now + thresholds.fresh + Duration::from_secs(1);
        assert_eq!(curve.recent(later, &thresholds), None);
        curve.hear(Duration::from_secs(2), false, later, &thresholds);
        assert_eq!(curve.recent(later, &thresholds), None, "one is not enough, and the old ones do not count");
    }

    proptest! {
        /// Whatever a hostile server does in a third of its replies, the usual stays with the others.
        #[test]
        fn a_third_of_outliers_does_not_carry_the_usual_away(slow in 100_u64..60_000, usual in 5_u64..50) {
            let thresholds = Thresholds::default();
            let mut curve = Curve::default();
            let now = Instant::now();
            for n in 0..300 {
                let took = Duration::from_millis(if n % 3 == 1 { slow } else { usual });
                curve.hear(took, false, now, &thresholds);
            }
            let said = curve.usual(&thresholds).unwrap().as_secs_f32() * 1_000.0;
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let times = said / usual as f32;
            prop_assert!((0.5..4.0).contains(&times), "{said} for {usual}, {slow}");
        }

        /// No time makes it panic or leave the numbers.
        #[test]
        fn any_time_is_taken(times in proptest::collection::vec((any::<u64>(), any::<bool>()), 1..50)) {
            let (now, thresholds) = (Instant::now(), Thresholds::default());
            let mut curve = Curve::default();
            for (us, beyond) in times {
                curve.hear(Duration::from_micros(us), beyond, now, &thresholds);
            }
            prop_assert!(curve.usual.is_finite() && curve.scatter.is_finite());
            let _ = curve.bound(&thresholds);
        }
    }
}
