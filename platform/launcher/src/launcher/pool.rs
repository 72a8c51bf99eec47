//! How many slots to keep ready. Pure: time comes in as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A burst of wakes raises the pool for so long.
const WINDOW: Duration = Duration::from_secs(30);
/// The pool grows to this multiple of its usual size at most.
const GROWTH: usize = 8;
/// And by this many at most.
const GROWTH_MOST: usize = 64;

/// The demand for slots of one image.
#[derive(Debug)]
pub struct Pool {
    usual: usize,
    wakes: VecDeque<Instant>,
}

impl Pool {
    /// `usual` slots are wanted when nothing happens; 0 means never any.
    pub fn new(usual: usize) -> Pool {
        Pool { usual, wakes: VecDeque::new() }
    }

    /// A tenant was woken, from a slot or not.
    pub fn woken(&mut self, now: Instant) {
        self.wakes.push_back(now);
        if self.wakes.len() > self.most() {
            self.wakes.pop_front();
        }
    }

    /// How many slots to have ready now: as many more than usual as were taken lately.
    pub fn wanted(&mut self, now: Instant) -> usize {
        while self.wakes.front().is_some_and(|wake| now.duration_since(*wake) > WINDOW) {
            self.wakes.pop_front();
        }
        // The usual few serve the usual few.
        (self.usual + self.wakes.len().saturating_sub(self.usual)).min(self.most())
    }

    fn most(&self) -> usize {
        (self.usual * GROWTH).min(self.usual + if self.usual == 0 { 0 } else { GROWTH_MOST })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_a_burst_within_bounds_and_falls_back() {
        let start = Instant::now();
        let mut pool = Pool::new(4);
        assert_eq!(pool.wanted(start), 4);
        for n in 0..10 {
            pool.woken(start + Duration::from_millis(n));
        }
        assert_eq!(pool.wanted(start), 10);
        for n in 0..1000 {
            pool.woken(start + Duration::from_millis(n));
        }
        assert_eq!(pool.wanted(start + Duration::from_secs(1)), 32);
        assert_eq!(pool.wanted(start + Duration::from_secs(40)), 4);
    }

    #[test]
    fn none_stays_none() {
        let now = Instant::now();
        let mut pool = Pool::new(0);
        pool.woken(now);
        assert_eq!(pool.wanted(now), 0);
    }
}
