//! The tenant's volume: its queue and its next-due file, opened when first needed.
//!
//! The banner does not wait for the disk. MAIL does: a sender is told `4xx` while the volume cannot be written, and the next
//! MAIL tries again.
//!
//! A message waits for the disk once, when it is whole. What else has to be on stable storage by then is made beside it: a file with a name
//! when there are few, and a next-due file that says a time before the message's.
//!
//! What is accepted must be known to whoever says when the tenant is due next. So a message is accepted under a [`Permit`], and
//! before the last word is said the store is closed: no permit is out then, and none is given any more.

use crate::clock::now_ms;
use rustix::process::{Resource, getrlimit};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};
use tokio::task::spawn_blocking;
use warren_queue::{Envelope, Incoming, NextDue, Queue, QueueError, Scan};

/// Where the platform mounts the volume.
pub const VOLUME: &str = "/var/spool/warren";

/// The volume.
#[derive(Debug)]
pub struct Store {
    volume: PathBuf,
    /// What one file may have.
    file_limit: u64,
    queue: OnceCell<Queue>,
    due: Arc<NextDue>,
    closed: Arc<AtomicBool>,
    permits: RwLock<()>,
}

/// Held from before a message is made durable until the board knows it.
#[derive(Debug)]
pub struct Permit<'a>(#[allow(dead_code, reason = "released when dropped")] RwLockReadGuard<'a, ()>);

impl Store {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(volume: PathBuf) -> Self {
        let due = Arc::new(NextDue::new(&volume));
        let file_limit = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        Self { volume, file_limit, queue: OnceCell::new(), due, closed: Arc::default(), permits: RwLock::new(()) }
    }

    /// The queue, opened if it is not yet.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub async fn queue(&self) -> Result<&Queue, QueueError> {
        let (directory, file_limit) = (self.volume.join("queue"), self.file_limit);
        let open = move || Queue::open(&directory).inspect(|queue| queue.allow_file(file_limit));
        self.queue.get_or_try_init(|| blocking(open)).await
    }

    /// A message may come (again): makes what it will need, beside everything else. Nobody waits for it, and nobody relies on it.
    pub fn prepare(&self) {
        if let Some(work) = self.preparation() {
            drop(spawn_blocking(work));
        }
    }

    /// What there is to make, if anything.
    fn preparation(&self) -> Option<impl FnOnce() + Send + 'static> {
        let queue = self.queue.get()?;
        let now_ms = now_ms();
        if !queue.is_short_of_spares() && self.due.is_no_later_than(now_ms) {
            return None;
        }
        let (queue, due, closed) = (queue.clone(), Arc::clone(&self.due), Arc::clone(&self.closed));
        Some(move || {
            // At the end the next-due file says something else, and nobody comes any more.
            if !closed.load(Ordering::SeqCst) {
                // If either fails, the message tries for itself, and its sender is told.
                let _ = due.no_later_than(now_ms);
                let _ = queue.make_spares(now_ms);
            }
        })
    }

    /// Begins a message from outside, for a queue of at most `limit` bytes.
    ///
    /// # Errors
    /// When there is no room, or the volume cannot be written.
    pub async fn begin(&self, limit: u64) -> Result<Incoming, QueueError> {
        let queue = self.queue().await?.clone();
        queue.allow(limit);
        blocking(move || queue.begin(now_ms())).await
    }

    /// Begins a report, which comes in the place of what it reports on.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub async fn begin_report(&self) -> Result<Incoming, QueueError> {
        let queue = self.queue().await?.clone();
        let mut incoming = blocking(move || queue.begin(now_ms())).await?;
        incoming.come_in_anyway();
        Ok(incoming)
    }

    /// May a message be accepted? `None`: the process is about to end, and nobody would know of it.
    pub async fn permit(&self) -> Option<Permit<'_>> {
        let permit = Permit(self.permits.read().await);
        (!self.closed.load(Ordering::SeqCst)).then_some(permit)
    }

    /// Accepts nothing from now on. Returns when everything that was accepted before is known.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.permits.write().await);
    }

    /// Makes a message durable, and makes sure that the tenant is woken for it whatever happens to this process.
    ///
    /// # Errors
    /// Nothing was accepted.
    pub async fn commit(&self, incoming: Incoming, envelope: Envelope) -> Result<Envelope, QueueError> {
        let due = Arc::clone(&self.due);
        let committed = blocking(move || {
            due.no_later_than(envelope.due_ms().unwrap_or_else(now_ms))?;
            incoming.commit(envelope)
        })
        .await;
        self.prepare();
        committed
    }

    /// What the queue held at the start.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub async fn scan(&self) -> Result<Scan, QueueError> {
        let queue = self.queue().await?.clone();
        blocking(move || queue.scan()).await
    }

    /// Writes the next-due file, for the time after this process.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub async fn next_due(&self, due_ms: Option<u64>) -> Result<(), QueueError> {
        let due = Arc::clone(&self.due);
        blocking(move || due.exactly(due_ms)).await
    }
}

/// Runs disk work beside the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the program ends: either way nothing was accepted.
        Err(error) => Err(QueueError::Io { doing: "working on the queue", source: std::io::Error::other(error) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};
    use warren_queue::NEXT_DUE_FILE;

    #[tokio::test]
    async fn closing_waits_for_what_is_being_accepted_and_lets_nothing_follow() {
        let store = Store::new(PathBuf::new());
        let permit = store.permit().await.unwrap();
        let mut closing = Box::pin(store.close());
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(permit);
        assert_eq!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
        assert!(store.permit().await.is_none());
    }

    #[tokio::test]
    async fn what_a_message_needs_is_made_once_and_not_at_the_end() {
        let volume = tempfile::tempdir().unwrap();
        let store = Store::new(volume.path().to_owned());
        let due = volume.path().join(NEXT_DUE_FILE);
        assert!(store.preparation().is_none(), "the volume is left alone before it is needed");
        let queue = store.queue().await.unwrap();
        let late = store.preparation().unwrap();
        store.preparation().unwrap()();
        assert!(due.exists() && !queue.is_short_of_spares() && store.preparation().is_none());
        std::fs::remove_file(&due).unwrap();
        let _taken = store.begin(u64::MAX).await.unwrap();
        store.close().await;
        late();
        assert!(!due.exists() && queue.is_short_of_spares());
    }

    #[tokio::test]
    async fn a_volume_that_cannot_be_written_is_no_ones_fault() {
        let volume = tempfile::tempdir().unwrap();
        let store = Store::new(volume.path().to_owned());
        store.queue().await.unwrap();
        std::fs::remove_dir_all(volume.path()).unwrap();
        store.preparation().unwrap()();
        assert!(store.preparation().is_some());
    }
}
