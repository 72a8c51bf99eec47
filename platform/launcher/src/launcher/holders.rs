//! News of doors for one holder: in order, numbered, a bounded number of them unacknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use warren_launcher_api::{CellId, MAX_UNACKNOWLEDGED};

/// Something a holder must hear. The door itself is made only when it is said, so none waits in the launcher's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Here is the cell's door.
    Door(CellId),
    /// All doors that there were when the holder came were told of.
    AllTold,
    /// The cell has a tenant now.
    Bound(CellId),
    /// The cell is gone.
    Gone(CellId),
}

/// What a holder has heard and is to hear.
#[derive(Debug, Default)]
pub struct Holder {
    sent: u64,
    acknowledged: u64,
    waiting: VecDeque<News>,
    has: BTreeSet<CellId>,
    /// Not before then: there was no descriptor for the last one.
    pub pause: Option<Instant>,
}

impl Holder {
    /// A new holder, who is to hear of these cells' doors, and that they are all.
    pub fn new(cells: impl Iterator<Item = CellId>) -> Holder {
        Holder { waiting: cells.map(News::Door).chain([News::AllTold]).collect(), ..Holder::default() }
    }

    /// Adds news. What concerns a door that was never handed over is not worth telling.
    pub fn tell(&mut self, news: News) {
        match news {
            News::Gone(cell) => {
                self.waiting.retain(|waiting| !matches!(waiting, News::Door(id) | News::Bound(id) if *id == cell));
                if self.has.contains(&cell) {
                    self.waiting.push_back(news);
                }
            }
            news => self.waiting.push_back(news),
        }
    }

    /// The next news and its number, if one may be said now. Taking it means saying it.
    pub fn next(&mut self) -> Option<(u64, News)> {
        if self.sent - self.acknowledged >= MAX_UNACKNOWLEDGED {
            return None;
        }
        let news = self.waiting.pop_front()?;
        self.sent += 1;
        match news {
            News::Door(cell) => drop(self.has.insert(cell)),
            News::Gone(cell) => drop(self.has.remove(&cell)),
            News::Bound(_) | News::AllTold => {}
        }
        Some((self.sent, news))
    }

    /// The same, unless it is to be left alone for now.
    pub fn next_unless_paused(&mut self) -> Option<(u64, News)> {
        if self.pause.is_some() { None } else { self.next() }
    }

    /// What was taken last could not be said: its number is free again.
    pub fn unsaid(&mut self, news: News) {
        self.sent -= 1;
        if let News::Door(cell) = news {
            self.has.remove(&cell);
        }
    }

    /// What was taken last could not be said now; it is the next again, after `until`.
    pub fn later(&mut self, news: News, until: Instant) {
        self.unsaid(news);
        self.waiting.push_front(news);
        self.pause = Some(until);
    }

    /// Everything up to this number was dealt with. Answers false if no such number was said.
    pub fn acknowledge(&mut self, through: u64) -> bool {
        self.acknowledged = self.acknowledged.max(through.min(self.sent));
        through <= self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_two_hundred_are_in_flight() {
        let mut holder = Holder::new((1..=250).map(CellId));
        assert_eq!(std::iter::from_fn(|| holder.next()).count(), 200);
        assert!(holder.acknowledge(30));
        assert_eq!(std::iter::from_fn(|| holder.next()).count(), 30);
        assert!(!holder.acknowledge(1000), "a number that was never said");
        assert_eq!(holder.next(), Some((231, News::Door(CellId(231)))));
    }

    #[test]
    fn a_cell_that_goes_before_its_door_was_told_is_not_mentioned() {
        let mut holder = Holder::new([CellId(1), CellId(2)].into_iter());
        assert_eq!(holder.next(), Some((1, News::Door(CellId(1)))));
        holder.tell(News::Bound(CellId(2)));
        holder.tell(News::Gone(CellId(2)));
        holder.tell(News::Gone(CellId(1)));
        assert_eq!(holder.next(), Some((2, News::AllTold)));
        assert_eq!(holder.next(), Some((3, News::Gone(CellId(1)))));
        assert_eq!(holder.next(), None);
    }

    #[test]
    fn what_could_not_be_said_is_said_later_and_in_order() {
        let mut holder = Holder::new([CellId(1), CellId(2)].into_iter());
        let (_, news) = holder.next().unwrap();
        let until = Instant::now();
        holder.later(news, until);
        assert_eq!(holder.pause, Some(until));
        holder.tell(News::Bound(CellId(1)));
        let told: Vec<_> = std::iter::from_fn(|| holder.next()).collect();
        assert_eq!(
            told,
            [(1, News::Door(CellId(1))), (2, News::Door(CellId(2))), (3, News::AllTold), (4, News::Bound(CellId(1)))],
            "the number that was free again is used again, and all are told of when the one that had to wait is"
        );
        let mut holder = Holder::new([CellId(1)].into_iter());
        let (_, news) = holder.next().unwrap();
        holder.later(news, until);
        holder.tell(News::Gone(CellId(1)));
        assert_eq!(holder.next(), Some((1, News::AllTold)), "it ended meanwhile");
    }
}
