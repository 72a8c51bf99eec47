//! What day it is, for whoever forgets by it: records that were forgotten because a clock was wrong for a moment do not come back.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A clock that is set forward by no more is believed.
const STEP: Duration = Duration::from_secs(3_600);
/// One that was set forward by more is believed when it has stood there for so long.
const DOUBT: Duration = Duration::from_secs(24 * 3_600);

/// The calendar, as far as it is believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calendar {
    wall: SystemTime,
    at: Instant,
    /// The clock is ahead of what it was by more than went by, since then.
    ahead: Option<Instant>,
}

impl Calendar {
    pub(super) fn new(wall: SystemTime, at: Instant) -> Self {
        Self { wall, at, ahead: None }
    }

    /// The time to go by when the clock says `wall`. Never later than that.
    pub(super) fn look(&mut self, wall: SystemTime, now: Instant) -> SystemTime {
        let went_by = now.saturating_duration_since(self.at);
        let expected = self.wall.checked_add(went_by).unwrap_or(wall);
        if wall.duration_since(expected).is_ok_and(|ahead| ahead > STEP) {
            let since = *self.ahead.get_or_insert(now);
            if now.saturating_duration_since(since) < DOUBT {
                return expected;
            }
        }
        *self = Self::new(wall, now);
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn begin() -> (SystemTime, Instant, Calendar) {
        let (wall, now) = (SystemTime::UNIX_EPOCH + 20_000 * DAY, Instant::now());
        (wall, now, Calendar::new(wall, now))
    }

    #[tokio::test]
    async fn a_clock_that_goes_is_believed() {
        let (wall, now, mut calendar) = begin();
        for day in 0..100 {
            let drift = Duration::from_secs(60) * day;
            assert_eq!(calendar.look(wall + DAY * day + drift, now + DAY * day), wall + DAY * day + drift);
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_for_hours_lets_no_year_pass() {
        let (wall, now, mut calendar) = begin();
        for hour in 1..24 {
            assert_eq!(calendar.look(wall + 400 * DAY + HOUR * hour, now + HOUR * hour), wall + HOUR * hour);
        }
        assert_eq!(calendar.look(wall + DAY, now + DAY), wall + DAY, "it was set right");
        assert_eq!(calendar.look(wall + 500 * DAY, now + 2 * DAY), wall + 2 * DAY, "and is doubted anew");
    }

    #[tokio::test]
    async fn a_clock_that_was_behind_is_believed_after_a_day() {
        let (wall, now, mut calendar) = begin();
        assert_eq!(calendar.look(wall + 400 * DAY, now), wall);
        assert_eq!(calendar.look(wall + 401 * DAY, now + DAY), wall + 401 * DAY);
        assert_eq!(calendar.look(wall + 402 * DAY, now + 2 * DAY), wall + 402 * DAY);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_is_followed() {
        let (wall, now, mut calendar) = begin();
        assert_eq!(calendar.look(wall - 10 * DAY, now + HOUR), wall - 10 * DAY);
        assert_eq!(calendar.look(wall - 10 * DAY + HOUR, now + 2 * HOUR), wall - 10 * DAY + HOUR);
    }
}
