//! Counts under labels that are known beforehand.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often each of a few things happened since the start. Counting takes no lock.
#[derive(Debug)]
pub struct Tally<T: 'static> {
    of: &'static [T],
    counts: Box<[AtomicU64]>,
}

impl<T: Copy + PartialEq> Tally<T> {
    /// Of these things, none of which happened yet.
    #[must_use]
    pub fn new(of: &'static [T]) -> Self {
        Self { of, counts: of.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// It happened once more. What is none of the things is not counted.
    pub fn count(&self, what: T) {
        if let Some(place) = self.of.iter().position(|known| *known == what) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each thing and how often it happened, in the order that was given.
    pub fn iter(&self) -> impl Iterator<Item = (T, u64)> {
        self.of.iter().zip(&self.counts).map(|(what, count)| (*what, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_and_nothing_else() {
        let tally = Tally::new(&["a", "b"]);
        ["b", "b", "c"].into_iter().for_each(|what| tally.count(what));
        assert_eq!(tally.iter().collect::<Vec<_>>(), [("a", 0), ("b", 2)]);
    }
}
