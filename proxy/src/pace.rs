//! How fast one cell is served. What comes quicker waits in the kernel, at the cell's own cost, or is lost there: a flood costs the others
//! no more of the processor than this. Pure; time is passed in.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// So many in each second.
#[derive(Debug)]
pub(crate) struct Pace {
    most: u32,
    taken: u32,
    since: Instant,
}

impl Pace {
    pub(crate) fn new(most: u32, now: Instant) -> Self {
        Self { most, taken: 0, since: now }
    }

    /// Counts one, which was just taken. When the next may be taken, if not at once.
    pub(crate) fn took(&mut self, now: Instant) -> Option<Instant> {
        if now.saturating_duration_since(self.since) >= SECOND {
            (self.since, self.taken) = (now, 0);
        }
        self.taken += 1;
        (self.taken >= self.most).then_some(self.since + SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(3, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((pace.took(at(0)), pace.took(at(10))), (None, None));
        assert_eq!(pace.took(at(20)), Some(at(1_000)));
        assert_eq!((pace.took(at(1_000)), pace.took(at(2_500)), pace.took(at(2_600))), (None, None, None));
        assert_eq!(pace.took(at(2_700)), Some(at(3_500)));
    }
}
