//! How long one verb takes at one operator, asked from one address: a robust estimate in a few bytes.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

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
/// In seconds: a day is longer than any session lives.
const LONGEST: f32 = 86_400.0;

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

/// Both clocks at one moment: what is kept outlives the monotonic one.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The monotonic clock.
    pub now: Instant,
    /// The calendar.
    pub wall: SystemTime,
}

impl Clock {
    /// This moment.
    #[must_use]
    pub fn current() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    /// Seconds of Unix time, in steps: what has not changed shall not look different each time that it is kept.
    fn unix_s(self, at: Instant, step: u64) -> u64 {
        let at = self.wall.checked_sub(self.now.saturating_duration_since(at));
        let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        since.as_secs() / step * step
    }

    /// How long ago that was; what is to come is now.
    pub(super) fn ago(self, unix_s: u64) -> Duration {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_s));
        at.and_then(|at| self.wall.duration_since(at).ok()).unwrap_or_default()
    }
}

/// A curve as it is kept over restarts, without what was recent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// What it usually takes.
    pub usual_us: u64,
    /// How far from that is usual, in powers of e.
    pub scatter: f32,
    /// Replies that were learned from.
    pub heard: u32,
    /// In which hour the last one was, in seconds of Unix time.
    pub heard_unix_s: u64,
    /// Since when everything has been beyond the usual, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond_unix_s: Option<u64>,
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

    /// What to keep of it; none if there is nothing.
    #[must_use]
    pub fn kept(&self, clock: Clock) -> Option<Usual> {
        Some(Usual {
            usual_us: u64::try_from(exp(self.usual).as_micros()).unwrap_or(u64::MAX),
            scatter: self.scatter,
            heard: self.heard,
            heard_unix_s: clock.unix_s(self.last.filter(|_| self.heard > 0)?, 3_600),
            beyond_unix_s: self.frozen.map(|since| clock.unix_s(since, 60)),
        })
    }

    /// What was kept; none if that can be no curve.
    #[must_use]
    pub fn from_kept(kept: &Usual, clock: Clock) -> Option<Self> {
        let at = |unix_s| clock.now.checked_sub(clock.ago(unix_s));
        if kept.heard == 0 || !(LEAST_SCATTER * 0.01..=REACH).contains(&kept.scatter) {
            return None;
        }
        Some(Self {
            usual: ln(Duration::from_micros(kept.usual_us)).min(LONGEST.ln()),
            scatter: kept.scatter,
            heard: kept.heard,
            last: Some(at(kept.heard_unix_s)?),
            frozen: kept.beyond_unix_s.and_then(at),
            ..Self::default()
        })
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
    Duration::from_secs_f32(ln.exp().clamp(0.0, LONGEST))
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

    /// 2027 at this moment.
    fn clock(now: Instant) -> Clock {
        Clock { now, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
    }

    #[test]
    fn what_is_kept_comes_back_without_what_was_recent() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        assert_eq!(Curve::default().kept(clock(now)), None, "nothing was heard");
        let mut curve = after(&[(20, false); 50], now);
        let slow = Duration::from_secs(30);
        curve.hear(slow, true, now, &thresholds);
        let kept = curve.kept(clock(now)).unwrap();
        let told = (kept.heard, kept.heard_unix_s, kept.beyond_unix_s);
        assert_eq!(told, (50, 1_800_000_000, Some(1_800_000_000)));
        let later = Duration::from_secs(601);
        let moved = Clock { now: now + later, wall: clock(now).wall + later };
        assert_eq!(curve.kept(moved), Some(kept), "what has not changed looks the same");
        let mut back = Curve::from_kept(&kept, moved).unwrap();
        assert_eq!(back.usual(&thresholds).map(|usual| usual.as_millis()), Some(20));
        assert_eq!(back.bound(&thresholds), curve.bound(&thresholds));
        assert_eq!(back.recent(now + later, &thresholds), None);
        // The day after which slow is usual does not begin anew.
        assert_eq!(back.hear(slow, true, now + thresholds.thaw, &thresholds), Heard::Usual);
        for scatter in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
            assert_eq!(Curve::from_kept(&Usual { scatter, ..kept }, moved), None, "{scatter}");
        }
        assert_eq!(Curve::from_kept(&Usual { heard: 0, ..kept }, moved), None);
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
            // And all of it can be kept.
            let kept = curve.kept(clock(now));
            prop_assert_eq!(kept.and_then(|kept| Curve::from_kept(&kept, clock(now))).is_some(), kept.is_some());
        }

        /// Whatever stands in a file.
        #[test]
        fn any_kept_curve_is_taken_or_refused(usual_us: u64, scatter: f32, heard: u32, heard_unix_s: u64, beyond_unix_s: Option<u64>) {
            let (now, thresholds) = (Instant::now(), Thresholds::default());
            let kept = Usual { usual_us, scatter, heard, heard_unix_s, beyond_unix_s };
            if let Some(mut curve) = Curve::from_kept(&kept, clock(now)) {
                curve.hear(Duration::from_secs(1), false, now, &thresholds);
                prop_assert!(curve.usual.is_finite() && curve.scatter.is_finite());
                let _ = (curve.bound(&thresholds), curve.usual(&thresholds));
            }
        }
    }
}
