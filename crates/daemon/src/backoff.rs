//! Waiting longer after each failure, up to a bound.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_millis(), 100);
    }
}
