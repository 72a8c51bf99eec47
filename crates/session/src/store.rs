//! What a store of session records promises.

use std::{future::Future, path::PathBuf, time::SystemTime};

use crate::Bundle;

/// Keeps records. One writer uses it, one call at a time.
pub trait SessionStore: Send + 'static {
    /// Writes all records of `bundle`, in order, or none. What was written before is written again without harm.
    fn write(&mut self, bundle: &Bundle) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets sessions that began before `time`, at most a few hundred in one call; says how many.
    fn prune(&mut self, time: SystemTime) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Leaves everything tidy: nothing more will be written.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Why a store did not do it. All of these may pass: the records are kept and tried again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is not to be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Its file.
        path: PathBuf,
        /// What the database says.
        source: sqlx::Error,
    },
    /// The schema is not to be brought up to date.
    #[error("cannot bring the schema of {path} up to date: {source}")]
    Migrate {
        /// Its file.
        path: PathBuf,
        /// What the database says.
        source: Box<sqlx::migrate::MigrateError>,
    },
    /// Bringing the schema up to date would fill the disk, and come to nothing.
    #[error(
        "the schema of {path} is to be brought up to date, which takes {needed} bytes of free disk space, and there are {free}: make room, or move the file away"
    )]
    NoRoom {
        /// Its file.
        path: PathBuf,
        /// Bytes that have to be free.
        needed: u64,
        /// Bytes that are.
        free: u64,
    },
    /// A transaction failed.
    #[error("cannot {action}: {source}")]
    Transaction {
        /// What was being tried.
        action: &'static str,
        /// What the database says.
        source: sqlx::Error,
    },
    /// A transaction did not end in time.
    #[error("the database did not answer within {0:?}")]
    TooSlow(std::time::Duration),
}

impl StoreError {
    /// Whether the next attempt does all that this one did, and that is much: it should come much later.
    pub(crate) fn was_much_work(&self) -> bool {
        matches!(self, Self::Migrate { source, .. } if !is_busy(source))
    }
}

/// Whether somebody else writes to the database at the moment.
fn is_busy(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    let (Execute(error) | ExecuteMigration(error, _)) = error else { return false };
    // SQLITE_BUSY, whatever it says beyond.
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}
