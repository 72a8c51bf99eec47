//! Files made ahead of need: empty, named, their names on stable storage.
//!
//! A message that is written into one needs a single sync. A spare's name is its id, and will be the message's: nothing is
//! renamed, so there is no moment at which a loss of power could take the name away.
//!
//! They are few: two, twice as many whenever there was none, eight at most. What is left when the process ends is found again by the next.

use crate::MessageId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// How many to begin with.
const LEAST: usize = 2;
/// How many at most: an inode each, of every tenant that ever sent.
pub(crate) const MOST: usize = 8;

#[derive(Debug)]
pub(crate) struct Spares {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<MessageId>,
    /// Left by an earlier process, which may have died before it synced their names.
    found: Vec<MessageId>,
    wanted: usize,
    /// Somebody makes some.
    making: bool,
    /// Somebody did: from then on, that there is none says that there should be more.
    made: bool,
}

/// What a maker has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// These are there.
    pub(crate) found: Vec<MessageId>,
    /// So many are to be made.
    pub(crate) new: usize,
}

impl Spares {
    pub(crate) fn new(found: Vec<MessageId>) -> Self {
        let state = State { ready: VecDeque::new(), found, wanted: LEAST, making: false, made: false };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn take(&self) -> Option<MessageId> {
        let mut state = self.lock();
        let taken = state.ready.pop_front();
        if taken.is_none() && state.made {
            state.wanted = (2 * state.wanted).min(MOST);
        }
        taken
    }

    /// It could not be opened at present.
    pub(crate) fn put_back(&self, id: MessageId) {
        self.lock().ready.push_front(id);
    }

    /// Half of them are gone, and nobody makes others.
    pub(crate) fn are_short(&self) -> bool {
        let state = self.lock();
        !state.making && 2 * state.ready.len() <= state.wanted
    }

    /// Whoever gets an order says [`Self::made`] afterwards.
    pub(crate) fn order(&self) -> Option<Order> {
        let mut state = self.lock();
        if state.making {
            return None;
        }
        let found = std::mem::take(&mut state.found);
        let new = state.wanted.saturating_sub(state.ready.len() + found.len());
        state.making = new > 0 || !found.is_empty();
        state.making.then_some(Order { found, new })
    }

    /// These are ready now.
    pub(crate) fn made(&self, ready: Vec<MessageId>) {
        let mut state = self.lock();
        state.ready.extend(ready);
        (state.making, state.made) = (false, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> MessageId {
        MessageId::make(1, number)
    }

    #[test]
    fn they_follow_demand_up_to_a_bound() {
        let spares = Spares::new(vec![]);
        assert!(spares.are_short() && spares.take().is_none());
        for wanted in [2, 4, 8, 8, 8] {
            let order = spares.order().unwrap();
            assert_eq!(order, Order { found: vec![], new: wanted });
            assert!(!spares.are_short() && spares.order().is_none(), "one at a time");
            spares.made((0..wanted as u64).map(id).collect());
            assert!(!spares.are_short() && spares.order().is_none());
            assert_eq!(std::iter::from_fn(|| spares.take()).count(), wanted);
        }
    }

    #[test]
    fn half_of_them_gone_is_short() {
        let spares = Spares::new(vec![]);
        assert!(spares.order().is_some());
        spares.made(vec![id(1), id(2)]);
        assert_eq!(spares.take(), Some(id(1)));
        assert!(spares.are_short());
        spares.put_back(id(1));
        assert!(!spares.are_short());
    }

    #[test]
    fn those_of_an_earlier_life_are_not_used_before_they_are_synced() {
        let spares = Spares::new(vec![id(1), id(2), id(3)]);
        assert!(spares.take().is_none());
        assert_eq!(spares.order(), Some(Order { found: vec![id(1), id(2), id(3)], new: 0 }));
        assert!(spares.take().is_none());
        spares.made(vec![id(1), id(2), id(3)]);
        assert_eq!(spares.take(), Some(id(1)));
    }
}
