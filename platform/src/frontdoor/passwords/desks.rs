//! The threads that check passwords, and what they compute in.
//!
//! ```text
//!   check ──▶ the first free desk ──▶ computed in its memory ──▶ the desk is free
//!                                          └─ nobody for KEPT ──▶ the system's
//! ```
//! The first half of them goes before all else that the node does (`crate::nice`), so a check that is alone does. Not all: whoever guesses
//! passwords from everywhere at once keeps every desk busy, and half of the processors are then left to mail.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::memory::Memory;
use crate::nice;

/// So long without a check, and a desk's memory goes back to the system. A node on which somebody logs in every minute keeps it; one at rest does not.
const KEPT: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// Those at which nobody is.
pub struct Desks(Mutex<Vec<Desk>>);

struct Desk {
    rank: usize,
    jobs: Sender<Job>,
}

impl Desks {
    /// Starts so many threads, with the nice value of the calling one; the second half steps back.
    pub fn start(count: usize) -> io::Result<Desks> {
        let desks = (0..count).map(|rank| {
            let (jobs, come) = channel();
            let work = move || {
                if !goes_first(rank, count)
                    && let Err(errno) = nice::step_back()
                {
                    tracing::warn!("a thread that checks passwords keeps its priority: {errno}");
                }
                serve(&come, KEPT);
            };
            thread::Builder::new().name(format!("password-{rank}")).spawn(work)?;
            Ok(Desk { rank, jobs })
        });
        Ok(Desks(Mutex::new(desks.collect::<io::Result<_>>()?)))
    }

    /// Does some work at the first desk that is free, and then gives up `place`: who gets that finds a desk. `None` without a free desk. The
    /// work is done even if nobody waits for it any more.
    pub async fn work<P, T>(
        self: &Arc<Self>,
        place: P,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Option<T>
    where
        P: Send + 'static,
        T: Send + 'static,
    {
        let desk = self.take()?;
        let (desks, jobs) = (Arc::clone(self), desk.jobs.clone());
        let (tell, told) = oneshot::channel();
        let job = move |memory: &mut Memory| {
            let done = work(memory);
            desks.free().push(desk);
            drop(place);
            // The client may have gone meanwhile.
            let _ = tell.send(done);
        };
        jobs.send(Box::new(job)).ok()?;
        told.await.ok()
    }

    fn take(&self) -> Option<Desk> {
        let mut free = self.free();
        let (at, _) = free.iter().enumerate().min_by_key(|(_, desk)| desk.rank)?;
        Some(free.swap_remove(at))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn goes_first(rank: usize, count: usize) -> bool {
    rank < count / 2
}

/// One thread, until its desk is gone.
fn serve(jobs: &Receiver<Job>, kept: Duration) {
    let mut memory = Memory::default();
    loop {
        let job = match memory.is_empty() {
            true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(kept),
        };
        match job {
            Ok(job) => job(&mut memory),
            Err(RecvTimeoutError::Timeout) => memory = Memory::default(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if !memory.is_usual() {
            memory = Memory::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn half_of_the_desks_go_first() {
        let first = |count| (0..count).filter(|rank| goes_first(*rank, count)).count();
        assert_eq!([1, 2, 3, 4, 64].map(first), [0, 1, 1, 2, 32]);
    }

    fn rank() -> usize {
        let name = thread::current().name().unwrap().to_owned();
        name.strip_prefix("password-").unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn a_check_alone_has_the_first_desk_and_its_memory() {
        let desks = Arc::new(Desks::start(2).unwrap());
        assert_eq!(desks.work((), |memory| (rank(), memory.use_blocks(7))).await, Some((0, 0)));
        assert_eq!(desks.work((), |memory| (rank(), memory.use_blocks(7))).await, Some((0, 7)));
    }

    #[tokio::test]
    async fn desks_are_free_before_the_place_is() {
        let desks = Arc::new(Desks::start(2).unwrap());
        let (go, wait) = channel::<()>();
        let (left, gone) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let desks = Arc::clone(&desks);
            async move { desks.work(left, move |_| (rank(), wait.recv().is_ok())).await }
        });
        while desks.free().len() == 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(desks.work((), |_| rank()).await, Some(1), "the second, as the first is taken");
        let other = desks.take();
        assert_eq!(desks.work((), |_| rank()).await, None);
        go.send(()).unwrap();
        // What the place was is dropped: from then on there is a desk.
        assert!(gone.await.is_err());
        assert_eq!(desks.work((), |_| rank()).await, Some(0));
        assert_eq!(first.await.unwrap(), Some((0, true)));
        drop(other);
    }

    /// Asks a thread that keeps its memory for so long how much it has, again and again, until that is so.
    fn asked_until(kept: Duration, blocks: usize, wanted: usize) {
        let (jobs, come) = channel::<Job>();
        let thread = thread::spawn(move || serve(&come, kept));
        let (tell, told) = channel();
        let ask = |use_blocks: Option<usize>| {
            let tell = tell.clone();
            let job = move |memory: &mut Memory| {
                let before = memory.len();
                use_blocks.map(|count| memory.use_blocks(count));
                tell.send(before).unwrap();
            };
            jobs.send(Box::new(job)).unwrap();
            told.recv().unwrap()
        };
        assert_eq!(ask(Some(blocks)), 0);
        let began = Instant::now();
        while ask(None) != wanted {
            assert!(began.elapsed() < Duration::from_secs(10), "it never is");
            thread::yield_now();
        }
        drop(jobs);
        thread.join().unwrap();
    }

    #[test]
    fn memory_that_nobody_wants_goes_back() {
        asked_until(Duration::from_secs(3_600), 7, 7);
        asked_until(Duration::ZERO, 7, 0);
    }

    #[test]
    fn memory_of_an_unusual_size_is_not_kept() {
        asked_until(Duration::from_secs(3_600), Memory::UNUSUAL, 0);
    }
}
