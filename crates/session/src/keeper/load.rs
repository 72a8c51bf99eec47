//! Whether mail needs the processors now. `nice` alone does not make room for it: control groups and session groups share processors first, and within
//! the proxy's share the store's thread runs whenever no session does.

use std::time::Duration;

use tokio::time::Instant;

/// For so long it is looked before anything is said. A batch of records takes about as long.
const WINDOW: Duration = Duration::from_millis(50);
/// Busy is who uses more than so many hundredths of all processors.
const BUSY: u32 = 40;

/// What the process uses of the processors while the store rests.
#[derive(Debug)]
pub(super) struct Load {
    processors: u32,
    /// When was looked last, and what had been used by then.
    last: (Instant, Duration),
    busy: bool,
}

impl Load {
    /// Of a process that has `used` so much by now.
    pub(super) fn new(processors: u32, used: Duration, now: Instant) -> Self {
        Self { processors: processors.max(1), last: (now, used), busy: false }
    }

    /// Whether the process is busy, as far as is known.
    pub(super) fn is_busy(&mut self, used: Duration, now: Instant) -> bool {
        let over = now.saturating_duration_since(self.last.0);
        if over >= WINDOW {
            self.busy = used.saturating_sub(self.last.1) * 100 > over * self.processors * BUSY;
            self.last = (now, used);
        }
        self.busy
    }

    /// When there will be more to say.
    pub(super) fn next_look(&self) -> Instant {
        self.last.0 + WINDOW
    }

    /// The store has worked: what was used meanwhile says nothing.
    pub(super) fn begin_anew(&mut self, used: Duration, now: Instant) {
        self.last = (now, used);
    }
}

/// What this process has used of the processors.
pub(crate) fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_window_decides_until_the_next() {
        let start = Instant::now();
        let mut load = Load::new(2, MS(1_000), start);
        assert!(!load.is_busy(MS(1_049), start + MS(49)), "too short to say");
        assert!(load.is_busy(MS(1_041), start + MS(50)), "41 of 100");
        assert!(load.is_busy(MS(1_041), start + MS(99)), "still");
        assert!(!load.is_busy(MS(1_081), start + MS(100)), "40 of 100");
    }

    #[test]
    fn what_the_store_used_does_not_count() {
        let start = Instant::now();
        let mut load = Load::new(1, MS(0), start);
        load.begin_anew(MS(500), start + MS(500));
        assert!(!load.is_busy(MS(510), start + MS(560)));
        assert_eq!(load.next_look(), start + MS(610));
    }

    #[test]
    fn the_process_has_used_something() {
        let before = used();
        let mut sum = 0_u64;
        while used() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(used() > before);
    }
}
