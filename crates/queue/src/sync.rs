//! One fsync of the directory for all who wait for one.
//!
//! A name is durable once an fsync of the directory that *began* after it was made has ended. Under load many messages commit
//! at once; the first of them syncs, those who come meanwhile share the next one. Whoever made a name keeps a [`Ticket`], and needs no
//! sync if somebody else's came in between.

use crate::QueueError;
use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct DirectorySync {
    directory: File,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// How many fsyncs have ended.
    ended: u64,
    /// The last of them that failed, and how.
    failed: Option<(u64, i32)>,
}

/// Which fsync is the first that covers a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

const EIO: i32 = 5;

impl DirectorySync {
    pub(crate) fn new(directory: File) -> Self {
        Self { directory, state: Mutex::default(), ended: Condvar::new() }
    }

    /// For the names made before the call.
    pub(crate) fn ticket(&self) -> Ticket {
        let state = self.lock();
        // One that runs already may have begun before, so it does not count.
        Ticket(state.ended + 1 + u64::from(state.running))
    }

    /// Returns `Ok` when every name made or changed before the call is on stable storage.
    pub(crate) fn sync(&self) -> Result<(), QueueError> {
        self.sync_since(self.ticket())
    }

    /// Returns `Ok` when every name made before the ticket was drawn is on stable storage.
    pub(crate) fn sync_since(&self, ticket: Ticket) -> Result<(), QueueError> {
        self.sync_by(ticket, || self.directory.sync_all())
    }

    fn sync_by(&self, Ticket(wanted): Ticket, fsync: impl Fn() -> io::Result<()>) -> Result<(), QueueError> {
        let mut state = self.lock();
        loop {
            if state.ended >= wanted {
                return match state.failed {
                    // A later success says nothing about what an earlier failure lost.
                    Some((failed, errno)) if failed >= wanted => Err(failure(errno)),
                    _ => Ok(()),
                };
            }
            if state.running {
                state = self.ended.wait(state).expect("no holder of this lock panics");
                continue;
            }
            state.running = true;
            drop(state);
            let result = fsync();
            state = self.lock();
            state.running = false;
            state.ended += 1;
            if let Err(error) = result {
                state.failed = Some((state.ended, error.raw_os_error().unwrap_or(EIO)));
            }
            self.ended.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn failure(errno: i32) -> QueueError {
    QueueError::of("syncing the queue directory", io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::{Arc, Barrier};

    fn subject() -> (tempfile::TempDir, Arc<DirectorySync>) {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        (directory, Arc::new(DirectorySync::new(file)))
    }

    #[test]
    fn waiters_share_and_none_rides_on_an_earlier_one() {
        let (_directory, subject) = subject();
        let (count, start) = (Arc::new(AtomicU64::new(0)), Arc::new(Barrier::new(32)));
        let threads: Vec<_> = (0..32)
            .map(|_| {
                let (subject, count, start) = (subject.clone(), count.clone(), start.clone());
                std::thread::spawn(move || {
                    start.wait();
                    let begun = count.load(SeqCst);
                    subject
                        .sync_by(subject.ticket(), || {
                            count.fetch_add(1, SeqCst);
                            Ok(())
                        })
                        .unwrap();
                    assert!(count.load(SeqCst) > begun, "an fsync began after the call");
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(count.load(SeqCst) <= 32);
    }

    #[test]
    fn a_sync_that_began_after_the_name_was_made_is_enough() {
        let (_directory, subject) = subject();
        let ticket = subject.ticket();
        assert!(subject.sync().is_ok());
        subject.sync_by(ticket, || panic!("it is on stable storage")).unwrap();
        let (early, late) = (subject.ticket(), subject.ticket());
        assert!(subject.sync_by(early, || Err(io::Error::from_raw_os_error(EIO))).is_err());
        assert!(subject.sync_by(late, || Ok(())).is_err(), "what that lost no later one brings back");
    }

    #[test]
    fn a_failure_is_told_and_the_next_may_succeed() {
        let (_directory, subject) = subject();
        assert!(subject.sync_by(subject.ticket(), || Err(io::Error::from_raw_os_error(EIO))).is_err());
        assert!(
            subject
                .sync_by(subject.ticket(), || Err(io::Error::from_raw_os_error(28)))
                .is_err_and(|error| matches!(error, QueueError::Full { .. }))
        );
        assert!(subject.sync().is_ok());
    }
}
