//! Whose questions have the places that all cells share. What becomes of them is decided by a pure machine.
//!
//! As long as there is a place, whoever asks has it. When there is none, the cell that has most gives up one, if it then has no fewer than the one that
//! asks: its oldest question, which a silent nameserver holds most likely, and which its asker sends again. So nothing lies idle, and of `n` cells that hold or want
//! places each can have the `n`-th part of all, at once, whatever the others took before.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use warren_launcher_api::CellId;

/// Who holds how many of a bounded number of places. `T` comes back when a place is given up.
#[derive(Debug)]
struct Shares<C, T> {
    places: usize,
    /// Of each cell that has any, the oldest first.
    held: HashMap<C, VecDeque<(u64, T)>>,
    /// The same, by how many: the last has most.
    ranks: BTreeSet<(usize, C)>,
    taken: usize,
    next: u64,
}

/// A place was found.
#[derive(Debug, PartialEq, Eq)]
struct Found<T> {
    /// Its number, never used again.
    number: u64,
    /// It was another's until now.
    instead_of: Option<T>,
}

impl<C: Copy + Ord + Hash, T> Shares<C, T> {
    fn new(places: usize) -> Self {
        Self { places, held: HashMap::new(), ranks: BTreeSet::new(), taken: 0, next: 0 }
    }

    /// A place for a question of `cell`, if it may have one now.
    fn ask(&mut self, cell: C, token: T) -> Option<Found<T>> {
        let mut instead_of = None;
        if self.taken >= self.places {
            let own = self.held.get(&cell).map_or(0, VecDeque::len);
            let (most, richest) = *self.ranks.last()?;
            if most < own + 2 {
                return None;
            }
            instead_of = self.change(richest, VecDeque::pop_front).map(|(_, token)| token);
        }
        let number = self.next;
        self.next += 1;
        self.change(cell, |held| held.push_back((number, token)));
        Some(Found { number, instead_of })
    }

    /// The question is answered. Nothing to do if its place is another's already.
    fn give_back(&mut self, cell: C, number: u64) {
        self.change(cell, |held| held.retain(|(held, _)| *held != number));
    }

    fn change<R>(&mut self, cell: C, change: impl FnOnce(&mut VecDeque<(u64, T)>) -> R) -> R {
        let held = self.held.entry(cell).or_default();
        let before = held.len();
        let result = change(held);
        let now = held.len();
        self.taken = self.taken - before + now;
        self.ranks.remove(&(before, cell));
        if now == 0 {
            self.held.remove(&cell);
        } else {
            self.ranks.insert((now, cell));
        }
        result
    }
}

/// The places for questions of all cells.
#[derive(Debug)]
pub(super) struct Questions(Mutex<Shares<CellId, oneshot::Sender<()>>>);

/// A question's place, until dropped or lost.
#[derive(Debug)]
pub(super) struct Place<'a> {
    questions: &'a Questions,
    cell: CellId,
    number: u64,
    /// Ends when the place is another's.
    mine: oneshot::Receiver<()>,
}

impl Questions {
    /// So many places.
    pub(super) fn new(places: usize) -> Self {
        Self(Mutex::new(Shares::new(places)))
    }

    /// A place for a question of `cell`, unless there is none for it.
    pub(super) fn place(&self, cell: CellId) -> Option<Place<'_>> {
        let (token, mine) = oneshot::channel();
        let found = self.shares().ask(cell, token)?;
        drop(found.instead_of);
        Some(Place { questions: self, cell, number: found.number, mine })
    }

    fn shares(&self) -> MutexGuard<'_, Shares<CellId, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Returns once another cell has it.
    pub(super) async fn lost(&mut self) {
        let _ = (&mut self.mine).await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.questions.shares().give_back(self.cell, self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a cell has.
    fn of(shares: &Shares<u8, u8>, cell: u8) -> usize {
        shares.held.get(&cell).map_or(0, VecDeque::len)
    }

    #[test]
    fn who_came_first_gives_up_what_is_more_than_its_part() {
        let mut shares = Shares::new(12);
        (0..20_u8).for_each(|_| _ = shares.ask(1, 1));
        assert_eq!(of(&shares, 1), 12);
        for n in 0..6 {
            let found = shares.ask(2, 2).unwrap();
            assert_eq!(found, Found { number: 12 + n, instead_of: Some(1) });
        }
        assert_eq!((shares.ask(2, 2), shares.ask(1, 1)), (None, None), "each has half");
        for _ in 0..4 {
            assert!(shares.ask(3, 3).is_some());
        }
        assert_eq!((shares.ask(3, 3), of(&shares, 1), of(&shares, 2), of(&shares, 3)), (None, 4, 4, 4));
        // The oldest were given up: returning them changes nothing.
        (0..8).for_each(|number| shares.give_back(1, number));
        assert_eq!(of(&shares, 1), 4);
        shares.give_back(1, 8);
        assert_eq!(shares.ask(2, 2).map(|found| found.instead_of), Some(None), "what is free is anybody's");
    }

    #[test]
    fn more_cells_than_places_have_one_each() {
        let mut shares = Shares::new(4);
        (0..8_u8).for_each(|n| _ = shares.ask(n % 2, 0));
        assert!((2..4).all(|cell| shares.ask(cell, 0).is_some()));
        assert!((4..9).all(|cell| shares.ask(cell, 0).is_none()));
        assert_eq!(shares.ranks.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [1; 4]);
    }

    proptest! {
        /// Whatever happened before: never more than there are, and who wants its part and does not have it gets it.
        #[test]
        fn nobody_keeps_another_from_its_part(
            places in 1..40_usize,
            turns in proptest::collection::vec((0..7_u8, any::<bool>(), any::<prop::sample::Index>()), 0..300),
            asks in 0..8_u8,
        ) {
            let mut shares = Shares::new(places);
            let mut open: Vec<(u8, u64)> = Vec::new();
            for (cell, wants, which) in turns {
                if wants {
                    let (own, free) = (of(&shares, cell), places - shares.taken);
                    let most = shares.ranks.last().map_or(0, |(count, _)| *count);
                    let found = shares.ask(cell, cell);
                    prop_assert_eq!(found.is_some(), free > 0 || own + 1 < most);
                    open.extend(found.map(|found| (cell, found.number)));
                } else if !open.is_empty() {
                    let (cell, number) = open.swap_remove(which.index(open.len()));
                    shares.give_back(cell, number);
                }
                let counts: usize = shares.held.values().map(VecDeque::len).sum();
                prop_assert!(counts == shares.taken && counts <= places);
                let ranks: BTreeSet<_> = shares.held.iter().map(|(cell, held)| (held.len(), *cell)).collect();
                prop_assert_eq!(&ranks, &shares.ranks);
            }
            let concerned = shares.held.len() + usize::from(of(&shares, asks) == 0);
            while of(&shares, asks) < places / concerned {
                prop_assert!(shares.ask(asks, asks).is_some());
            }
        }
    }

    #[tokio::test]
    async fn a_place_that_is_lost_is_told_so_once_it_is() {
        let questions = Questions::new(2);
        let mut first = questions.place(CellId(1)).unwrap();
        let mut second = questions.place(CellId(1)).unwrap();
        assert!(questions.place(CellId(1)).is_none());
        let _other = questions.place(CellId(2)).unwrap();
        first.lost().await;
        assert!(second.mine.try_recv() == Err(oneshot::error::TryRecvError::Empty), "it is still there");
        drop(first);
        assert!(questions.place(CellId(3)).is_none(), "that was the other's already");
        drop(second);
        assert!(questions.place(CellId(3)).is_some());
    }
}
