//! Times as the policy keeps them: microseconds of the monotonic clock since the policy was made. They may lie before it, because what was stored is
//! older. The calendar is looked at only where something is stored, restored or shown, so that a clock that is set starts no storm and ends no rest.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Moment;

/// A time in microseconds.
pub(super) type Tick = i64;

/// A second in [`Tick`]s.
pub(super) const SECOND: Tick = 1_000_000;
/// A minute.
pub(super) const MINUTE: Tick = 60 * SECOND;
/// An hour.
pub(super) const HOUR: Tick = 60 * MINUTE;
/// A day.
pub(super) const DAY: Tick = 24 * HOUR;

/// A moment, both ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// By the policy's clock.
    pub tick: Tick,
    /// By the calendar.
    pub wall: SystemTime,
}

/// Where the policy's time begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new(epoch: Instant) -> Self {
        Self(epoch)
    }

    pub(super) fn now(self, moment: Moment) -> Now {
        Now { tick: ticks(moment.now.saturating_duration_since(self.0)), wall: moment.wall }
    }

    pub(super) fn instant(self, tick: Tick) -> Instant {
        self.0 + Duration::from_micros(u64::try_from(tick).unwrap_or_default())
    }
}

impl Now {
    /// The calendar time of `at`.
    pub(super) fn calendar(self, at: Tick) -> SystemTime {
        let distance = Duration::from_micros((at - self.tick).unsigned_abs());
        let found = if at >= self.tick { self.wall.checked_add(distance) } else { self.wall.checked_sub(distance) };
        found.unwrap_or(UNIX_EPOCH)
    }

    /// The calendar time of `at`, in seconds since 1970, to the nearest: so that what did not change is stored as it was, though the two clocks are
    /// read a moment apart.
    pub(super) fn stamp(self, at: Tick) -> i64 {
        (self.unix_micros().saturating_add(at - self.tick) + SECOND / 2).div_euclid(SECOND)
    }

    /// The time that a stamp means.
    pub(super) fn restored(self, stamp: i64) -> Tick {
        stamp.saturating_mul(SECOND).saturating_sub(self.unix_micros()).saturating_add(self.tick)
    }

    /// The time of a calendar time.
    pub(super) fn of(self, at: SystemTime) -> Tick {
        match at.duration_since(self.wall) {
            Ok(ahead) => self.tick.saturating_add(ticks(ahead)),
            Err(behind) => self.tick.saturating_sub(ticks(behind.duration())),
        }
    }

    fn unix_micros(self) -> i64 {
        ticks(self.wall.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// A duration in [`Tick`]s.
pub(super) fn ticks(duration: Duration) -> Tick {
    // 146,000 years: half of what there is, so that sums stay within it.
    Tick::try_from(duration.as_micros()).unwrap_or(Tick::MAX).min(Tick::MAX / 2)
}
