//! What one account or tenant has sent in the last hour. Pure; wall-clock time is passed in, because the count outlives the process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time is counted in slots of five minutes.
const SLOT_MS: u64 = 5 * 60 * 1000;
/// The present slot, and as many before it as make a whole hour: what was sent is forgotten after 60 to 65 minutes, so in no 60 minutes
/// is more sent than the limit.
const SLOTS: usize = 13;

/// An amount of mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// Messages.
    pub messages: u32,
    /// Their recipients.
    pub recipients: u32,
}

impl Mail {
    fn plus(self, other: Mail) -> Mail {
        Mail {
            messages: self.messages.saturating_add(other.messages),
            recipients: self.recipients.saturating_add(other.recipients),
        }
    }

    fn minus(self, other: Mail) -> Mail {
        Mail {
            messages: self.messages.saturating_sub(other.messages),
            recipients: self.recipients.saturating_sub(other.recipients),
        }
    }
}

/// What of a limit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Messages.
    Messages,
    /// Recipients.
    Recipients,
}

impl Unit {
    fn of(self, mail: Mail) -> u64 {
        u64::from(match self {
            Unit::Messages => mail.messages,
            Unit::Recipients => mail.recipients,
        })
    }
}

/// The last hour, newest slot first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    newest: u64,
    slots: [Mail; SLOTS],
}

impl Window {
    pub(super) fn new(now_ms: u64) -> Window {
        Window { newest: now_ms / SLOT_MS, slots: [Mail::default(); SLOTS] }
    }

    /// Forgets what is over an hour old. A clock that was set back makes nothing newer than now: what was counted ages from here.
    pub(super) fn advance(&mut self, now_ms: u64) {
        let now = now_ms / SLOT_MS;
        let passed = usize::try_from(now.saturating_sub(self.newest)).unwrap_or(SLOTS).min(SLOTS);
        self.slots.rotate_right(passed);
        self.slots[..passed].fill(Mail::default());
        self.newest = now;
    }

    /// All of the hour.
    pub(super) fn sum(&self) -> Mail {
        self.slots.iter().fold(Mail::default(), |sum, slot| sum.plus(*slot))
    }

    /// Nothing in it, or nothing that still counts.
    pub(super) fn is_empty_at(&self, now_ms: u64) -> bool {
        self.sum() == Mail::default() || (now_ms / SLOT_MS).saturating_sub(self.newest) >= SLOTS as u64
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether `more` fits; otherwise what it is too much of, and how long it would have to wait. What alone is more than the limit fits
    /// into an empty hour, or it would never go.
    pub(super) fn room(&self, more: Mail, limit: Mail, now_ms: u64) -> Result<(), (Unit, Duration)> {
        for unit in [Unit::Messages, Unit::Recipients] {
            let (used, more, limit) = (unit.of(self.sum()), unit.of(more), unit.of(limit));
            if more > 0 && used > 0 && used + more > limit {
                return Err((unit, self.wait(unit, (used + more - limit).min(used), now_ms)));
            }
        }
        Ok(())
    }

    /// How long until so much of it is forgotten.
    fn wait(&self, unit: Unit, excess: u64, now_ms: u64) -> Duration {
        let mut freed = 0;
        for (age, slot) in self.slots.iter().enumerate().rev() {
            freed += unit.of(*slot);
            if freed >= excess {
                let gone_at = (self.newest + (SLOTS - age) as u64) * SLOT_MS;
                return Duration::from_millis(gone_at.saturating_sub(now_ms));
            }
        }
        Duration::from_millis(SLOTS as u64 * SLOT_MS)
    }

    pub(super) fn add(&mut self, more: Mail) {
        self.slots[0] = self.slots[0].plus(more);
    }

    /// Takes back what was counted lately and came to nothing.
    pub(super) fn take_back(&mut self, mut mail: Mail) {
        for slot in &mut self.slots {
            let before = *slot;
            *slot = slot.minus(mail);
            mail = mail.minus(before.minus(*slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: u64 = 60 * 60 * 1000;

    fn mail(messages: u32, recipients: u32) -> Mail {
        Mail { messages, recipients }
    }

    #[test]
    fn an_hour_and_not_more() {
        let start = 1_000 * SLOT_MS;
        let mut window = Window::new(start);
        window.add(mail(10, 20));
        assert_eq!(
            window.room(mail(1, 0), mail(10, 100), start),
            Err((Unit::Messages, Duration::from_millis(HOUR_MS + SLOT_MS)))
        );
        assert_eq!(window.room(mail(0, 1), mail(10, 20), start).unwrap_err().0, Unit::Recipients);
        assert_eq!(window.room(mail(0, 80), mail(10, 100), start), Ok(()));
        window.advance(start + HOUR_MS);
        assert!(window.room(mail(1, 0), mail(10, 100), start + HOUR_MS).is_err());
        window.advance(start + HOUR_MS + SLOT_MS);
        assert_eq!(window.room(mail(1, 0), mail(10, 100), start + HOUR_MS + SLOT_MS), Ok(()));
    }

    #[test]
    fn what_alone_is_too_much_goes_into_an_empty_hour() {
        let mut window = Window::new(0);
        assert_eq!(window.room(mail(1, 30), mail(10, 20), 0), Ok(()));
        window.add(mail(1, 30));
        assert!(window.room(mail(1, 1), mail(10, 20), 0).is_err());
    }

    #[test]
    fn a_clock_set_back_blocks_nobody_for_longer_than_the_hour() {
        let start = 1_000_000 * SLOT_MS;
        let mut window = Window::new(start);
        window.add(mail(5, 5));
        window.advance(7 * SLOT_MS);
        assert_eq!(window.sum(), mail(5, 5));
        window.advance(7 * SLOT_MS + HOUR_MS + SLOT_MS);
        assert_eq!(window.sum(), mail(0, 0));
    }

    proptest! {
        /// Whatever is asked for when: no 60 minutes hold more than the limit, and who is told to wait gets through after that time.
        #[test]
        fn never_more_than_the_limit_in_any_hour(
            limit in 1_u32..20,
            asked in proptest::collection::vec((0_u64..40 * 60_000, 1_u32..5), 1..200),
        ) {
            let mut now = 77 * SLOT_MS;
            let mut window = Window::new(now);
            let mut granted: Vec<(u64, u32)> = Vec::new();
            for (pause, count) in asked {
                now += pause;
                window.advance(now);
                let count = count.min(limit);
                match window.room(mail(count, 0), mail(limit, 0), now) {
                    Ok(()) => {
                        window.add(mail(count, 0));
                        granted.push((now, count));
                        let hour: u32 = granted.iter().filter(|(at, _)| now - at < HOUR_MS).map(|(_, n)| n).sum();
                        prop_assert!(hour <= limit, "{hour} in an hour, limit {limit}");
                    }
                    Err((unit, wait)) => {
                        prop_assert_eq!(unit, Unit::Messages);
                        let later = now + wait.as_millis() as u64;
                        prop_assert!(wait <= Duration::from_millis(HOUR_MS + SLOT_MS));
                        let mut then = window.clone();
                        then.advance(later);
                        prop_assert_eq!(then.room(mail(count, 0), mail(limit, 0), later), Ok(()));
                    }
                }
            }
        }

        /// Taking back never makes more room than there was.
        #[test]
        fn taking_back_is_never_more_than_was_taken(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..10, 0_u64..3), 0..60),
        ) {
            let mut now = 0;
            let mut window = Window::new(now);
            for (back, count, slots) in steps {
                now += slots * SLOT_MS;
                window.advance(now);
                let before = window.sum();
                if back {
                    window.take_back(mail(count, count));
                    prop_assert_eq!(window.sum().messages, before.messages.saturating_sub(count));
                } else {
                    window.add(mail(count, count));
                }
            }
        }
    }
}
