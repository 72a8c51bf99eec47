//! New settings that could not be put into force yet. Pure; time is passed in.
//!
//! A container that is at its limit of processes cannot run the hooks, and that passes. So the program goes on with what it had, and the
//! hooks are tried again, at growing intervals, until they succeed or the container sleeps: the next start begins with them.

use std::time::Duration;

use tokio::time::Instant;

/// Before the second try; it doubles from there.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// When to try next.
#[derive(Debug, Default)]
pub struct Overdue {
    /// When, and how long was waited for that.
    next: Option<(Instant, Duration)>,
}

impl Overdue {
    /// There are settings to be put into force: at once, however often older ones failed.
    pub fn changed(&mut self, now: Instant) {
        self.next = Some((now, Duration::ZERO));
    }

    /// Whether to try now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|(at, _)| at <= now)
    }

    /// They are in force. Whether they had failed before.
    pub fn succeeded(&mut self) -> bool {
        self.next.take().is_some_and(|(_, waited)| !waited.is_zero())
    }

    /// They are not. Whether that is news: once for all tries.
    pub fn failed(&mut self, now: Instant) -> bool {
        let waited = self.next.map_or(Duration::ZERO, |(_, waited)| waited);
        let wait = (waited * 2).clamp(FIRST, LONGEST);
        self.next = Some((now + wait, wait));
        waited.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tried_again_at_growing_intervals_and_told_once() {
        let (mut overdue, start) = (Overdue::default(), Instant::now());
        assert!(!overdue.is_due(start));
        overdue.changed(start);
        let (mut now, mut waits, mut news) = (start, Vec::new(), 0);
        for _ in 0..8 {
            assert!(overdue.is_due(now));
            news += u32::from(overdue.failed(now));
            let wait = (1..=60).find(|s| overdue.is_due(now + Duration::from_secs(*s))).unwrap();
            waits.push(wait);
            now += Duration::from_secs(wait);
        }
        assert_eq!((waits, news), (vec![1, 2, 4, 8, 16, 30, 30, 30], 1));
        assert!(overdue.succeeded(), "after failures");
        assert!(!overdue.is_due(now + LONGEST));
    }

    #[test]
    fn newer_settings_do_not_wait_for_what_older_ones_did() {
        let (mut overdue, now) = (Overdue::default(), Instant::now());
        overdue.changed(now);
        assert!(!overdue.succeeded(), "at the first try");
        overdue.changed(now);
        overdue.failed(now);
        assert!(!overdue.is_due(now));
        overdue.changed(now);
        assert!(overdue.is_due(now));
        assert!(overdue.failed(now), "news again");
    }
}
