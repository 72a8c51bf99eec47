//! Questions that failed lately, and are not asked again for a moment (RFC 9520). Pure: time comes in.
//!
//! ```text
//!   failed ── rests 1 s ── failed again ── 2 s ── 4 s … 1 min       answered: forgotten
//! ```
//!
//! A domain whose nameservers are silent, or broken, or lie, costs eight seconds and dozens of questions each time that somebody asks for it. RFC 9520 §3.2 has
//! such a failure kept for a second at least, longer each time, and five minutes at most; here it is one, because mail waits for it, and all tenants share what
//! one of them ran into. Only what was asked to the end counts: a question that its asker gave up has not failed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hickory_proto::rr::{Name, RecordType};

/// How long a question rests that failed for the first time (RFC 9520 §3.2: at least so long).
const SHORTEST: Duration = Duration::from_secs(1);
/// How long at most, however often it failed (RFC 9520 §3.2: five minutes at most).
const LONGEST: Duration = Duration::from_secs(60);
/// How long after its rest a question is held to fail still, if it fails again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Most questions of one generation.
const MAX_QUESTIONS: usize = 4_096;

/// What is asked for.
type Key = (Name, RecordType);

/// The questions that failed. Two generations: when the young one is full it becomes the old one, and what did not fail again meanwhile goes.
#[derive(Debug, Default)]
pub struct Failures {
    young: HashMap<Key, Failed>,
    old: HashMap<Key, Failed>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    at: Instant,
    rest: Duration,
}

impl Failures {
    /// Whether the question is to be left alone: it fails.
    #[must_use]
    pub fn rests(&self, key: &Key, now: Instant) -> bool {
        self.get(key).is_some_and(|failed| now.saturating_duration_since(failed.at) < failed.rest)
    }

    /// The question, asked at `began`, failed now. Several that were asked at once failed once.
    pub fn failed(&mut self, key: Key, began: Instant, now: Instant) {
        let rest = match self.get(&key) {
            Some(known) if known.at > began => return,
            Some(known) if now.saturating_duration_since(known.at) < known.rest + REMEMBERED => {
                (known.rest * 2).min(LONGEST)
            }
            _ => SHORTEST,
        };
        self.old.remove(&key);
        if self.young.len() >= MAX_QUESTIONS && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Failed { at: now, rest });
    }

    /// It has an answer.
    pub fn answered(&mut self, key: &Key) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn get(&self, key: &Key) -> Option<Failed> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> Key {
        (Name::from_ascii(format!("n{n}.example.")).unwrap(), RecordType::MX)
    }

    /// How long the question rests from `now` on.
    fn rest(failures: &Failures, key: &Key, now: Instant) -> Duration {
        let rests = |ms: &u64| failures.rests(key, now + Duration::from_millis(*ms));
        Duration::from_millis((0..400_000).step_by(100).take_while(rests).count() as u64 * 100)
    }

    #[test]
    fn each_failure_doubles_the_rest_up_to_a_minute() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        let mut rests = Vec::new();
        for _ in 0..9 {
            failures.failed(key(1), now, now);
            let rest = rest(&failures, &key(1), now);
            rests.push(rest.as_secs());
            now += rest + Duration::from_secs(30);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(!failures.rests(&key(2), now) && !failures.rests(&(key(1).0, RecordType::A), now), "others are others");
        let long_after = now + LONGEST + REMEMBERED;
        failures.failed(key(1), long_after, long_after);
        assert_eq!(rest(&failures, &key(1), long_after), SHORTEST, "that is another trouble");
    }

    #[test]
    fn what_has_an_answer_begins_anew_and_what_is_asked_at_once_fails_once() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..64 {
            failures.failed(key(1), start, at(8));
        }
        // Asked before the first of them failed, too.
        failures.failed(key(1), at(7), at(15));
        assert_eq!(rest(&failures, &key(1), at(8)), SHORTEST);
        failures.failed(key(1), at(9), at(17));
        assert_eq!(rest(&failures, &key(1), at(17)), 2 * SHORTEST);
        failures.answered(&key(1));
        assert!(!failures.rests(&key(1), at(17)));
        failures.failed(key(1), at(18), at(18));
        assert_eq!(rest(&failures, &key(1), at(18)), SHORTEST);
        failures.clear();
        assert!(!failures.rests(&key(1), at(18)));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_failed_last() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..5 * MAX_QUESTIONS {
            failures.failed(key(n), now, now);
            assert!(failures.young.len() <= MAX_QUESTIONS && failures.old.len() <= MAX_QUESTIONS);
            assert!(failures.rests(&key(n), now));
        }
        assert!(failures.rests(&key(4 * MAX_QUESTIONS), now) && !failures.rests(&key(0), now));
    }

    proptest! {
        /// RFC 9520 §3.2: a second at least, five minutes at most, whatever happens; and not longer than a minute after the last failure.
        #[test]
        fn a_failure_rests_for_a_second_at_least_and_a_minute_at_most(
            turns in proptest::collection::vec((0..2_usize, 0..400_000_u64, 0..8_000_u64, any::<bool>()), 1..40),
        ) {
            let (mut failures, mut now) = (Failures::default(), Instant::now());
            for (n, pause, took, fails) in turns {
                let began = now + Duration::from_millis(pause);
                now = began + Duration::from_millis(took);
                if fails {
                    failures.failed(key(n), began, now);
                    prop_assert!(failures.rests(&key(n), now + SHORTEST - Duration::from_millis(1)));
                    prop_assert!(!failures.rests(&key(n), now + LONGEST));
                } else {
                    failures.answered(&key(n));
                    prop_assert!(!failures.rests(&key(n), now));
                }
            }
        }
    }
}
