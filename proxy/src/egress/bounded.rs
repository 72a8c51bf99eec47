//! A map that holds so many entries and no more: what was not touched for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Entries by key, in the order in which they were last touched. Every operation takes time that does not grow with their number, or with its logarithm.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    next: u64,
    bound: usize,
    spared: fn(&V) -> bool,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    pub(super) fn new(bound: usize) -> Self {
        Self::sparing(bound, |_| false)
    }

    /// A map in which some entries stay, as long as there are others. There must be few of them.
    pub(super) fn sparing(bound: usize, spared: fn(&V) -> bool) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), next: 0, bound: bound.max(1), spared }
    }

    /// Looks without touching.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Touches what is there.
    pub(super) fn touch(&mut self, key: &K) -> Option<&mut V> {
        let (stamp, value) = self.entries.get_mut(key)?;
        // As it is while one has much to say.
        if *stamp + 1 == self.next {
            return Some(value);
        }
        let key = self.order.remove(stamp)?;
        *stamp = self.next;
        self.order.insert(self.next, key);
        self.next += 1;
        Some(value)
    }

    /// Touches what is there, or makes it, in place of the oldest entry if it has to be.
    pub(super) fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(key) {
            self.make_room();
            self.entries.insert(key.clone(), (self.next, make()));
            self.order.insert(self.next, key.clone());
            self.next += 1;
        }
        self.touch(key).expect("it is there now")
    }

    fn make_room(&mut self) {
        let mut tries = self.order.len();
        while self.entries.len() >= self.bound
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = oldest.clone();
            if tries > 0 && self.get(&oldest).is_some_and(self.spared) {
                self.touch(&oldest);
            } else {
                self.remove(&oldest);
            }
            tries = tries.saturating_sub(1);
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((stamp, _)) = self.entries.remove(key) {
            self.order.remove(&stamp);
        }
    }

    /// All entries, the one that was not touched for longest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().filter_map(|key| self.entries.get(key).map(|(_, value)| (key, value)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_touched_for_longest_goes_first() {
        let mut map = Bounded::new(2);
        *map.entry(&"a", || 1) += 10;
        map.entry(&"b", || 2);
        map.touch(&"a");
        map.entry(&"c", || 3);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&"a", &11), (&"c", &3)]);
        assert_eq!((map.get(&"b"), map.len()), (None, 2));
        map.remove(&"a");
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn what_is_spared_stays_while_there_are_others() {
        let mut map = Bounded::sparing(2, |value| *value > 0);
        for (key, value) in [("a", 1), ("b", 0), ("c", 0), ("d", 2)] {
            map.entry(&key, || value);
        }
        assert_eq!(map.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["a", "d"]);
        map.entry(&"e", || 0);
        assert_eq!(map.len(), 2, "nothing else was left");
    }
}
