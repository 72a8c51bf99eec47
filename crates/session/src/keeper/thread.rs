//! The thread that has the store: it and its children, which inherit its priority, are the only ones that touch the database.
//!
//! It is there while there is work, and a moment longer. What it leaves behind in memory goes with it: the parameters of a thousand rows are freed by the
//! database's own thread, and an allocator with a heap for each thread finds them again only when this one asks for more, which after a burst it does not.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{Bundle, SessionStore, StoreError};

/// How long it waits for more work.
const IDLE: Duration = Duration::from_secs(1);

/// Work for the store.
pub(super) enum Job {
    Write(Arc<Bundle>),
    Prune(SystemTime),
    Close,
}

/// What came of it: of forgotten sessions, how many.
pub(super) type Answer = Result<u64, StoreError>;

/// Threads that have the store, one after the other.
pub(super) struct Thread {
    start: Box<dyn Fn() -> io::Result<Hands> + Send>,
    hands: Option<Hands>,
}

/// What leads to the one that is there.
struct Hands {
    jobs: mpsc::Sender<Job>,
    answers: mpsc::Receiver<Answer>,
}

impl Thread {
    pub(super) fn new<S: SessionStore>(store: S, nice: i32) -> Self {
        let store = Arc::new(Mutex::new(store));
        let start = move || {
            let (jobs, todo) = mpsc::channel(1);
            let (answer, answers) = mpsc::channel(1);
            let store = Arc::clone(&store);
            let thread = std::thread::Builder::new().name("session store".into());
            thread.spawn(move || serve(&store, nice, todo, answer))?;
            Ok(Hands { jobs, answers })
        };
        Self { start: Box::new(start), hands: None }
    }

    /// Gives it something to do; the next is for when it has answered. `Err`: there is nobody to do it.
    pub(super) fn begin(&mut self, job: Job) -> Result<(), Job> {
        let job = match &self.hands {
            None => job,
            Some(hands) => match hands.jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(job)) => return Err(job),
                // It has ended.
                Err(TrySendError::Closed(job)) => job,
            },
        };
        match (self.start)() {
            Ok(hands) => self.hands.insert(hands).jobs.try_send(job).map_err(TrySendError::into_inner),
            Err(error) => {
                tracing::error!(%error, "no thread for the session database");
                Err(job)
            }
        }
    }

    /// What came of that. `None`: it ended without an answer.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.hands.as_mut()?.answers.recv().await
    }
}

/// Does what comes. It yields to everybody: under load mail comes first, and records wait in the spool file.
fn serve<S: SessionStore>(store: &Mutex<S>, nice: i32, mut jobs: mpsc::Receiver<Job>, answers: mpsc::Sender<Answer>) {
    // The thread before has left it, unless it died of a panic in the middle of something.
    let Ok(mut store) = store.lock() else { return };
    let store = &mut *store;
    if let Err(error) = rustix::process::nice(nice) {
        tracing::debug!(%error, "the session database's thread keeps its priority");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for the session database"),
    };
    runtime.block_on(async {
        loop {
            let job = match tokio::time::timeout(IDLE, jobs.recv()).await {
                Ok(job) => job,
                Err(_) => {
                    // No more is taken from here on. What was taken is done.
                    jobs.close();
                    jobs.recv().await
                }
            };
            let result = match job {
                Some(Job::Write(batch)) => store.write(&batch).await.map(|()| 0),
                Some(Job::Prune(before)) => store.prune(before).await,
                Some(Job::Close) => {
                    store.close().await;
                    Ok(0)
                }
                None => break,
            };
            if answers.send(result).await.is_err() {
                break;
            }
        }
    });
    // A store that hangs in a system call is left behind, not waited for.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells which thread it is asked in.
    struct Store(std::sync::mpsc::Sender<std::thread::ThreadId>);

    impl SessionStore for Store {
        async fn write(&mut self, _: &Bundle) -> Result<(), StoreError> {
            let _ = self.0.send(std::thread::current().id());
            Ok(())
        }

        async fn prune(&mut self, _: SystemTime) -> Result<u64, StoreError> {
            Ok(7)
        }
    }

    #[tokio::test]
    async fn a_thread_that_has_no_work_ends_and_the_next_one_has_the_store() {
        let (tell, told) = std::sync::mpsc::channel();
        let mut thread = Thread::new(Store(tell), 0);
        let mut threads = Vec::new();
        for again in [true, false] {
            for _ in 0..2 {
                assert!(thread.begin(Job::Write(Arc::default())).is_ok());
                assert!(matches!(thread.answer().await, Some(Ok(0))));
                threads.push(told.recv().unwrap());
            }
            if again {
                assert!(thread.answer().await.is_none(), "it ends");
            }
        }
        assert_eq!((threads[0], threads[2]), (threads[1], threads[3]), "one for what comes at once");
        assert_ne!(threads[0], threads[2]);
        assert!(thread.begin(Job::Prune(SystemTime::UNIX_EPOCH)).is_ok());
        assert!(matches!(thread.answer().await, Some(Ok(7))));
    }
}
