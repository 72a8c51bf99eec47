//! What the egress policy remembers, in SQLite beside the session records, off the mail path.
//!
//! ```text
//!   start:   egress.db ──▶ load ──▶ State ──▶ Policy::new
//!   running: Departures::state, every two seconds ──▶ Saver ──watch: the latest──▶ thread ── rows that differ ──▶ egress.db
//!   end:     the last state, once more
//! ```
//!
//! Mail never waits for any of it. A database that is missing is made, one that is damaged is put aside, one that is locked or away is tried
//! again; each is said in the log, and the policy goes on with what it has.
//!
//! `kill -9` loses what was learnt since the last save: [`SAVE_EVERY`] and the time of one save, three seconds at most while the database
//! works; what was done by hand was saved before the operator was answered ([`Flush`]). A power cut may take some seconds more, never the database.
//!
//! - `rows`: the state as rows, so that a save writes what changed.
//! - `saver`: the database.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::departures::Departures;
use crate::egress::State;

mod rows;
mod saver;

use rows::Rows;
use saver::Saver;

/// How often what was learnt is saved.
pub const SAVE_EVERY: Duration = Duration::from_secs(2);

/// The database, read.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    rows: Rows,
}

/// Has what is known saved at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Flush {
    departures: Arc<Departures>,
    // The end of the program waits for nobody who holds this.
    saver: Weak<Saver<State>>,
}

impl Flush {
    /// Returns when all that is known now is saved, or after this time: whether it is.
    pub async fn now(&self, within: Duration) -> bool {
        let Some((number, mut saved)) =
            self.saver.upgrade().map(|saver| (saver.save(self.departures.state()), saver.saved()))
        else {
            return false;
        };
        matches!(tokio::time::timeout(within, saved.wait_for(|saved| *saved >= number)).await, Ok(Ok(_)))
    }
}

/// The database, kept up to date while this is there.
#[derive(Debug)]
pub struct Keeping {
    departures: Arc<Departures>,
    saver: Arc<Saver<State>>,
    task: JoinHandle<()>,
}

impl Memory {
    /// What is remembered from before, if it can be had; says in the log if not. Returns within some seconds, whatever the database does.
    pub async fn open(path: &Path) -> (Self, Option<State>) {
        let rows = saver::load(path).await;
        let state = match rows::state(&rows) {
            _ if rows.is_empty() => None,
            Ok(state) => Some(state),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "what was known of the egress addresses is not understood, they begin anew");
                None
            }
        };
        (Self { path: path.into(), rows }, state)
    }

    /// Saves what `departures` learns, from now on. `None`, said in the log, if there can be no thread for it.
    pub fn keep(self, departures: &Arc<Departures>) -> Option<Keeping> {
        let saver = match Saver::start(self.path, &self.rows, rows::rows) {
            Ok(saver) => Arc::new(saver),
            Err(error) => {
                tracing::error!(%error, "what is learnt of the egress addresses will be forgotten at the end: no thread saves it");
                return None;
            }
        };
        let task = tokio::spawn(save_now_and_then(Arc::clone(departures), Arc::clone(&saver)));
        Some(Keeping { departures: Arc::clone(departures), saver, task })
    }
}

impl Keeping {
    /// For whoever promises that something is remembered.
    pub fn flush(&self) -> Flush {
        Flush { departures: Arc::clone(&self.departures), saver: Arc::downgrade(&self.saver) }
    }

    /// Saves the last state, for so long at most.
    pub async fn finish(self, within: Duration) {
        let Self { departures, saver, task } = self;
        task.abort();
        // Cancelled: then its saver is dropped, and ours is the last.
        let _ = task.await;
        let _ = saver.save(departures.state());
        if let Some(saver) = Arc::into_inner(saver) {
            saver.finish(within).await;
        }
    }
}

async fn save_now_and_then(departures: Arc<Departures>, saver: Arc<Saver<State>>) {
    let mut happened = departures.happened();
    while happened.changed().await.is_ok() {
        let _ = saver.save(departures.state());
        tokio::time::sleep(SAVE_EVERY).await;
    }
}
