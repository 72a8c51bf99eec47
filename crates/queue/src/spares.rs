//! Files made ahead of need: empty, named, their names on stable storage.
//!
//! A message that is written into one needs a single sync. A spare's name is its id, and will be the message's: nothing is
//! renamed, so there is no moment at which a loss of power could take the name away.
//!
//! They are few: two, twice as many whenever there was none, eight at most. What is left when the process ends is found again by the next.

use crate::store::mail_name;
use crate::{MessageId, Queue, QueueError};
use std::collections::VecDeque;
use std::fs;
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

impl Queue {
    /// Whether [`Self::make_spares`] has something to do.
    #[must_use]
    pub fn is_short_of_spares(&self) -> bool {
        self.inner.spares.are_short()
    }

    /// Makes files ahead of need, so that messages that come need one sync and not two. To be called beside everything else, when the queue
    /// [is short of them](Self::is_short_of_spares); a second call meanwhile returns at once.
    ///
    /// # Errors
    /// When there are none, or fewer than there should be. Nothing else follows from that.
    pub fn make_spares(&self, now_ms: u64) -> Result<(), QueueError> {
        let Some(order) = self.inner.spares.order() else { return Ok(()) };
        let (mut made, mut result) = (order.found, Ok(()));
        for _ in 0..order.new {
            match self.inner.make(now_ms) {
                Ok((id, _)) => made.push(id),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let Err(error) = self.inner.sync.sync() {
            // A later success would say nothing about these names.
            made.drain(..).for_each(|id| drop(fs::remove_file(self.inner.path(&mail_name(&id)))));
            result = Err(error);
        }
        self.inner.spares.made(made);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope;
    use crate::sync::DirectorySync;
    use crate::testing::{put, read};
    use std::fs::File;
    use std::sync::Arc;

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

    #[test]
    fn spares_are_taken_and_outlive_the_process() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        assert!(queue.is_short_of_spares());
        queue.make_spares(1_000).unwrap();
        assert!(!queue.is_short_of_spares());
        let first = put(&queue, 2_000, b"one");
        assert!(first.id < MessageId::make(1_001, 0), "made before it came");
        assert!(queue.is_short_of_spares());
        drop(queue);
        let queue = Queue::open(volume.path()).unwrap();
        queue.make_spares(3_000).unwrap();
        let scan = queue.scan().unwrap();
        assert_eq!((scan.messages, scan.swept), (vec![first], 0));
        let [second, third] = [b"two", b"tri"].map(|text| put(&queue, 4_000, text));
        assert!(second.id < MessageId::make(1_001, 0) && third.id > MessageId::make(2_999, 0));
        assert_eq!((read(&queue, &second.id), read(&queue, &third.id)), (b"two".to_vec(), b"tri".to_vec()));
    }

    #[test]
    fn a_directory_that_cannot_be_synced_takes_as_many_messages_as_there_are_spares() {
        let volume = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(volume.path()).unwrap();
        queue.make_spares(1_000).unwrap();
        // What is no directory and no file cannot be synced (EINVAL).
        let never = DirectorySync::new(File::open("/dev/null").unwrap());
        Arc::get_mut(&mut queue.inner).unwrap().sync = never;
        (0..2).for_each(|_| drop(put(&queue, 2_000, b"into a spare")));
        assert!(queue.make_spares(2_000).is_err() && queue.is_short_of_spares());
        let mut incoming = queue.begin(2_000).unwrap();
        incoming.write(b"into a file of its own").unwrap();
        assert!(incoming.commit(envelope::sample(2_000)).is_err());
        drop(queue);
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((scan.messages.len(), scan.swept, fs::read_dir(volume.path()).unwrap().count()), (2, 0, 3));
    }

    #[test]
    fn a_spare_that_is_gone_is_done_without() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.make_spares(1_000).unwrap();
        for entry in fs::read_dir(volume.path()).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        put(&queue, 2_000, b"x");
        drop(queue);
        assert_eq!(Queue::open(volume.path()).unwrap().scan().unwrap().messages.len(), 1);
    }

    #[test]
    fn without_room_for_files_there_are_no_spares_and_no_harm() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(&volume.path().join("queue")).unwrap();
        fs::remove_dir_all(volume.path().join("queue")).unwrap();
        assert!(queue.make_spares(1_000).is_err());
        assert!(queue.is_short_of_spares() && queue.begin(1).is_err());
        fs::create_dir(volume.path().join("queue")).unwrap();
        queue.make_spares(1_000).unwrap();
        put(&queue, 1_000, b"x");
    }
}
