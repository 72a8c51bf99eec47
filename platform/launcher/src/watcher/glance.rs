//! When to look at the volumes. Pure: what the file system has left comes in, and how long the last look took.
//!
//! ```text
//!   glance, 20 a second: one system call ─▶ much less than at the last look? ─▶ look closely, now
//!                                        └▶ nothing special ───────────────▶ look in turns, every half second
//! ```
//! What a hostile program writes until it is found is what its neighbours' syncs wait for, so it is to be found soon. Looking closely costs
//! time in proportion to what there is to look at; a tenth of it at most is spent on that, whoever writes how much.

use std::time::Duration;

/// So much less free space is a reason to look closely.
const ALARMING_BYTES: u64 = 4 << 20;
/// And so many files more: empty ones take no space.
const ALARMING_FILES: u64 = 1_000;
/// Between two looks in turns.
const USUAL: Duration = Duration::from_millis(500);
/// So many times as long as a look took, the next one waits.
const REST: u32 = 9;
/// Free space that is kept for the others: a twentieth of the file system, at most this.
const RESERVE: u64 = 1 << 30;

/// What a file system has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Bytes that are free.
    pub bytes: u64,
    /// Its size.
    pub size: u64,
    /// Files that can be made. Some file systems have no such number, and always say the same.
    pub files: u64,
}

impl Left {
    /// Whether the reserve is touched.
    pub fn is_short(&self) -> bool {
        self.bytes < (self.size / 20).min(RESERVE)
    }
}

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Some volumes, then others.
    InTurns,
    /// All of them, and what is deleted and still open.
    Closely,
}

/// The last look.
#[derive(Debug, Default)]
pub struct Glances {
    last: Option<(Left, Duration)>,
    /// Not again before this.
    rest: Duration,
}

impl Glances {
    /// Takes a glance, at a time since any fixed moment, and says whether to look now.
    pub fn glance(&mut self, left: Left, now: Duration) -> Option<Look> {
        let Some((before, at)) = self.last else {
            self.last = Some((left, now));
            return Some(Look::InTurns);
        };
        let alarm = before.bytes.saturating_sub(left.bytes) > ALARMING_BYTES
            || before.files.saturating_sub(left.files) > ALARMING_FILES
            || left.is_short();
        let due = now.saturating_sub(at) >= USUAL;
        // A full disk stays full: it is looked at closely, and not all the time.
        let wanted = if left.is_short() { due } else { alarm || due };
        if !wanted || now < self.rest {
            return None;
        }
        self.last = Some((left, now));
        Some(if alarm { Look::Closely } else { Look::InTurns })
    }

    /// The look that was wanted is done, and took this long.
    pub fn looked(&mut self, took: Duration, now: Duration) {
        self.rest = now + took * REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn left(bytes: u64, files: u64) -> Left {
        Left { bytes, size: 100 * GIB, files }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn whoever_takes_much_is_looked_for_at_once() {
        let mut glances = Glances::default();
        assert_eq!(glances.glance(left(50 * GIB, 9_000), ms(0)), Some(Look::InTurns));
        assert_eq!(glances.glance(left(50 * GIB - ALARMING_BYTES, 8_000), ms(50)), None);
        // Since the look, not since the glance.
        assert_eq!(glances.glance(left(50 * GIB - ALARMING_BYTES - 1, 8_000), ms(100)), Some(Look::Closely));
        assert_eq!(glances.glance(left(50 * GIB - ALARMING_BYTES - 1, 6_999), ms(150)), Some(Look::Closely));
        assert_eq!(glances.glance(left(60 * GIB, 9_000), ms(200)), None, "who clears up alarms nobody");
        assert_eq!(glances.glance(left(60 * GIB, 9_000), ms(650)), Some(Look::InTurns));
    }

    #[test]
    fn a_tenth_of_the_time_at_most_is_spent_looking() {
        const TOOK: Duration = Duration::from_millis(200);
        let (mut glances, mut now, mut looks) = (Glances::default(), ms(0), 0);
        for n in 0..1_000 {
            now += ms(50);
            if glances.glance(left(90 * GIB - n * (ALARMING_BYTES + 1), 0), now).is_some() {
                now += TOOK;
                looks += 1;
                glances.looked(TOOK, now);
            }
        }
        // The last one has its rest before it yet.
        assert!(looks > 20 && TOOK * 10 * (looks - 1) <= now, "{looks} looks in {now:?}");
    }

    #[test]
    fn a_full_disk_is_looked_at_closely_and_not_all_the_time() {
        let mut glances = Glances::default();
        let full = Left { bytes: GIB - 1, ..left(0, 0) };
        assert!(full.is_short() && !Left { bytes: GIB, ..full }.is_short());
        assert!(
            Left { bytes: 4, size: 100, files: 0 }.is_short() && !Left { bytes: 5, size: 100, files: 0 }.is_short()
        );
        glances.glance(full, ms(0));
        let looks: Vec<_> = (1..=20).filter_map(|n| glances.glance(full, ms(50 * n))).collect();
        assert_eq!(looks, [Look::Closely, Look::Closely]);
    }
}
