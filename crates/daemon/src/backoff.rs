//! Waiting longer after each failure, up to a bound.

use std::time::{Duration, Instant};

/// The waits between attempts: `first`, then twice as long each time, never longer than `longest`.
///
/// Pure: it tells how long to wait and leaves the waiting to its caller. For peers on the same machine (launcher,
/// platform); mail to other hosts is retried by the queue's schedule.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits that start at `first` and double up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// For a peer on this machine: 50 ms, doubling to 5 s. Short enough that a restarted peer is found before a client
    /// gives up, long enough that a peer that is down costs nothing.
    pub const fn local() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// How long to wait before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2).min(self.longest);
        wait
    }

    /// An attempt succeeded: the next failure waits `first` again.
    pub fn succeeded(&mut self) {
        self.next = self.first;
    }
}

/// How long a peer may be away before somebody hears of it. When a node stops or restarts in order, its programs
/// miss one another for a moment, and that is nothing to warn of.
const UNREMARKABLE: Duration = Duration::from_secs(3);

/// The absence of a peer on this machine, and whether it was complained about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Absence {
    since: Option<Instant>,
    complained: bool,
}

impl Absence {
    /// The peer is away. Whether to say so: once, when it has been for long enough.
    pub fn worth_a_word(&mut self) -> bool {
        self.worth_a_word_at(Instant::now())
    }

    fn worth_a_word_at(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let worth = !self.complained && now.saturating_duration_since(since) >= UNREMARKABLE;
        self.complained |= worth;
        worth
    }

    /// The peer is there.
    pub fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_told_once_and_not_at_once() {
        let (mut absence, now) = (Absence::default(), Instant::now());
        assert!(!absence.worth_a_word_at(now));
        assert!(!absence.worth_a_word_at(now + UNREMARKABLE / 2));
        assert!(absence.worth_a_word_at(now + UNREMARKABLE));
        assert!(!absence.worth_a_word_at(now + 2 * UNREMARKABLE));
        absence.over();
        assert!(!absence.worth_a_word_at(now + 3 * UNREMARKABLE));
    }

    #[test]
    fn doubles_up_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_millis(), 100);
    }
}
