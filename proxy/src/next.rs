//! What a task works with is replaced while it works: somebody gives it the next one, and it takes that when it looks.
//!
//! ```text
//!   Giver ── give(next) ──▶ one place, the newest counts ──▶ Taker::take ── in the task, beside what it waits for otherwise
//!         ◀── when it was taken, or never will be ──
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The end that gives.
#[derive(Debug)]
pub(crate) struct Giver<T>(Arc<Place<T>>);

/// The task's end.
#[derive(Debug)]
pub(crate) struct Taker<T>(Arc<Place<T>>);

#[derive(Debug)]
struct Place<T> {
    held: Mutex<Held<T>>,
    came: Notify,
    went: Notify,
}

#[derive(Debug)]
struct Held<T> {
    next: Option<T>,
    /// Nobody takes any more.
    over: bool,
}

/// Both ends, and nothing between them yet.
pub(crate) fn pair<T>() -> (Giver<T>, Taker<T>) {
    let held = Mutex::new(Held { next: None, over: false });
    let place = Arc::new(Place { held, came: Notify::new(), went: Notify::new() });
    (Giver(Arc::clone(&place)), Taker(place))
}

impl<T> Place<T> {
    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Giver<T> {
    /// Gives the task this, in place of what it was given and did not take yet. Ends when it was taken, or dropped because the task is over.
    pub(crate) async fn give(&self, next: T) {
        {
            let mut held = self.0.held();
            held.next = (!held.over).then_some(next);
        }
        self.0.came.notify_one();
        while self.0.held().next.is_some() {
            self.0.went.notified().await;
        }
    }
}

impl<T> Taker<T> {
    /// Waits for what is given; for ever if nobody gives. Dropped early, nothing was taken.
    pub(crate) async fn take(&mut self) -> T {
        loop {
            if let Some(next) = self.0.held().next.take() {
                self.0.went.notify_one();
                return next;
            }
            self.0.came.notified().await;
        }
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        let mut held = self.0.held();
        (held.next, held.over) = (None, true);
        drop(held);
        self.0.went.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_newest_is_taken_and_whoever_gave_it_learns_that() {
        let (giver, mut taker) = pair();
        {
            // Given up before it was taken.
            assert!(poll(pin!(giver.give(1))).is_pending());
        }
        let mut giving = pin!(giver.give(2));
        assert!(poll(giving.as_mut()).is_pending());
        assert_eq!(poll(pin!(taker.take())), Poll::Ready(2));
        assert!(poll(giving.as_mut()).is_ready());
        assert!(poll(pin!(taker.take())).is_pending(), "once");
        let mut giving = pin!(giver.give(3));
        assert!(poll(giving.as_mut()).is_pending());
        assert_eq!(poll(pin!(taker.take())), Poll::Ready(3), "who had waited before lost nothing");
        assert!(poll(giving.as_mut()).is_ready());
    }

    #[test]
    fn nobody_waits_for_a_task_that_is_over() {
        let (giver, taker) = pair();
        let (waiting, given) = (Arc::new(()), Arc::new(()));
        let mut giving = pin!(giver.give(Arc::clone(&waiting)));
        assert!(poll(giving.as_mut()).is_pending());
        drop(taker);
        assert!(poll(giving.as_mut()).is_ready());
        assert!(poll(pin!(giver.give(Arc::clone(&given)))).is_ready());
        assert_eq!((Arc::strong_count(&waiting), Arc::strong_count(&given)), (1, 1), "dropped");
    }
}
