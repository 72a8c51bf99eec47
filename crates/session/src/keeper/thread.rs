//! The thread that has the store: it and its children, which inherit its priority, are the only ones that touch the database.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::mpsc;

use crate::{Bundle, SessionStore, StoreError};

/// Work for the store.
pub(super) enum Job {
    Write(Arc<Bundle>),
    Prune(SystemTime),
}

/// Does what comes. It yields to everybody: under load mail comes first, and records wait in the spool file.
pub(super) fn serve<S: SessionStore>(
    mut store: S,
    nice: i32,
    mut jobs: mpsc::Receiver<Job>,
    answers: mpsc::Sender<Result<u64, StoreError>>,
) {
    if let Err(error) = rustix::process::nice(nice) {
        tracing::debug!(%error, "the session database's thread keeps its priority");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for the session database"),
    };
    runtime.block_on(async {
        while let Some(job) = jobs.recv().await {
            let result = match job {
                Job::Write(batch) => store.write(&batch).await.map(|()| 0),
                Job::Prune(before) => store.prune(before).await,
            };
            if answers.send(result).await.is_err() {
                break;
            }
        }
        store.close().await;
    });
    // A store that hangs in a system call is left behind, not waited for.
    runtime.shutdown_background();
}
