//! The store of a single node: one SQLite file in WAL mode, written by one process, read by any.

mod insert;
mod json;
mod rows;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{Bundle, SessionId, SessionStore, StoreError};
use rows::Rows;

/// The schema, and all that led to it.
static SCHEMA: Migrator = sqlx::migrate!();
/// The last version of it that writes tables anew. What came later is done in a moment.
const LAST_REWRITE: i64 = 3;
/// How long to wait for another writer, a person with a shell for example.
const BUSY: Duration = Duration::from_secs(1);
/// Longest transaction. What takes longer is given up and tried again.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of a page in a database that is made now. Half as many pages are half as many calls; a transaction of little, which writes the ends of all
/// tables again, is twice as much.
const PAGE: u32 = 8_192;
/// Pages of the write-ahead log before it is taken over into the database, 32 MiB: a page that is written again and again, the end of a table
/// say, is taken over once.
const CHECKPOINT_PAGES: &str = "4000";
/// Memory for pages, in KiB, taken once and kept. A transaction changes two or three MiB; those that do not fit would be written twice.
const CACHE_KIB: &str = "-4000";
/// Sessions forgotten in one transaction, so that recording never waits long for it.
const PRUNE_SESSIONS: i64 = 500;

/// Session records in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    open: Option<Open>,
    /// Bytes that a folder's disk has room for.
    free: fn(&Path) -> Option<u64>,
}

#[derive(Debug)]
struct Open {
    connection: SqliteConnection,
    /// Device and inode: a database that was deleted or replaced under us is opened anew, not written into nowhere.
    file: (u64, u64),
}

impl SqliteStore {
    /// A store in the file `path`, which is opened, and made where missing, with the first write.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None, free }
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let here = identity(&self.path);
        if self.open.as_ref().is_none_or(|open| Some(open.file) != here) {
            self.open = None;
            let options = SqliteConnectOptions::new()
                .filename(&self.path)
                .create_if_missing(true)
                .page_size(PAGE)
                .journal_mode(SqliteJournalMode::Wal)
                // A power cut may take the last transactions, never the database. Nobody's mail depends on them.
                .synchronous(SqliteSynchronous::Normal)
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
                .pragma("cache_size", CACHE_KIB)
                .busy_timeout(BUSY)
                .disable_statement_logging();
            let mut connection =
                options.connect().await.map_err(|source| StoreError::Open { path: self.path.clone(), source })?;
            self.look_for_room(&mut connection).await?;
            SCHEMA
                .run_direct(None, &mut connection, false)
                .await
                .map_err(|source| StoreError::Migrate { path: self.path.clone(), source: Box::new(source) })?;
            let file = identity(&self.path).unwrap_or_default();
            self.open = Some(Open { connection, file });
        }
        Ok(&mut self.open.as_mut().expect("opened above").connection)
    }

    /// An older schema's tables are written anew, into the log and from there into the file, before what they took is free.
    async fn look_for_room(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let applied = sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM _sqlx_migrations WHERE success");
        // An error: there is no schema yet, or what comes next has the same.
        let Ok(Some(applied)) = applied.fetch_one(connection).await else { return Ok(()) };
        if applied >= LAST_REWRITE {
            return Ok(());
        }
        let needed = size(&self.path).saturating_mul(2);
        match self.path.parent().and_then(self.free) {
            Some(free) if free < needed => Err(StoreError::NoRoom { path: self.path.clone(), needed, free }),
            _ => Ok(()),
        }
    }

    /// Runs one piece of work within the deadline; after a failure the next one begins with a fresh connection.
    async fn attempt<T>(
        &mut self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        // Bringing the schema up to date may take as long as it wants: given up, it would begin anew.
        let connection = self.connection().await?;
        let work = tokio::time::timeout(DEADLINE, work(connection)).await;
        let result = match work {
            Ok(result) => result.map_err(|source| StoreError::Transaction { action, source }),
            Err(_) => Err(StoreError::TooSlow(DEADLINE)),
        };
        if result.is_err() {
            self.open = None;
        }
        result
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The size of a database, with what still is in its log.
fn size(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path, Path::new(&log)].iter().filter_map(|file| std::fs::metadata(file).ok()).map(|meta| meta.len()).sum()
}

/// `None`: nobody knows, and it is tried.
fn free(folder: &Path) -> Option<u64> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl SessionStore for SqliteStore {
    async fn write(&mut self, bundle: &Bundle) -> Result<(), StoreError> {
        self.attempt("write session records", async |connection| write(connection, bundle).await).await
    }

    async fn prune(&mut self, time: SystemTime) -> Result<u64, StoreError> {
        self.attempt("forget old sessions", async |connection| prune(connection, SessionId::floor(time)).await).await
    }

    /// Takes the write-ahead log into the database and removes it.
    async fn close(&mut self) {
        if let Some(Open { connection, .. }) = self.open.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(path = %self.path.display(), %error, "the session database was not closed in order");
        }
    }
}

async fn write(connection: &mut SqliteConnection, bundle: &Bundle) -> Result<(), sqlx::Error> {
    let rows = Rows::of(bundle);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    rows.insert(&mut transaction).await?;
    transaction.commit().await
}

async fn prune(connection: &mut SqliteConnection, before: SessionId) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let last: Option<String> =
        sqlx::query_scalar("SELECT max(id) FROM (SELECT id FROM sessions WHERE id < ? ORDER BY id LIMIT ?)")
            .bind(before.to_string())
            .bind(PRUNE_SESSIONS)
            .fetch_one(&mut *transaction)
            .await?;
    let Some(last) = last else { return Ok(0) };
    // Ids sort by time, so everything up to the last one goes, orphans included.
    for statement in [
        "DELETE FROM said WHERE session <= ?",
        "DELETE FROM mails WHERE session <= ?",
        "DELETE FROM each_recipient WHERE session <= ?",
        "DELETE FROM each_message WHERE session <= ?",
        "DELETE FROM legs WHERE session <= ?",
        "DELETE FROM events WHERE session <= ?",
    ] {
        sqlx::query(statement).bind(&last).execute(&mut *transaction).await?;
    }
    let forgotten = sqlx::query("DELETE FROM sessions WHERE id <= ?").bind(&last).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(forgotten.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_older_schema_waits_for_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.db");
        let mut store = SqliteStore::new(path.clone());
        store.write(&Bundle::default()).await.unwrap();
        let connection = store.connection().await.unwrap();
        sqlx::query("DELETE FROM _sqlx_migrations WHERE version >= 3").execute(connection).await.unwrap();
        store.close().await;
        let needed = 2 * std::fs::metadata(&path).unwrap().len();

        let mut store = SqliteStore { free: |_| Some(10), ..SqliteStore::new(path.clone()) };
        let error = store.write(&Bundle::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::NoRoom { free: 10, .. }) && !error.was_much_work(), "{error}");
        assert!(error.to_string().contains(&format!("takes {needed} bytes of free disk space")), "{error}");

        // It is tried where there is room. Here the tables are there already.
        let mut store = SqliteStore::new(path.clone());
        let error = store.write(&Bundle::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Migrate { .. }) && error.was_much_work(), "{error}");
        let mut shell = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        for statement in ["DROP VIEW exchanges", "DROP TABLE said"] {
            sqlx::query(statement).execute(&mut shell).await.unwrap();
        }
        let _writes = shell.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let error = store.write(&Bundle::default()).await.unwrap_err();
        assert!(!error.was_much_work(), "who waits for another writer did nothing yet: {error}");
    }

    #[tokio::test]
    async fn a_schema_that_is_up_to_date_needs_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.db");
        for _ in 0..2 {
            let mut store = SqliteStore { free: |_| Some(0), ..SqliteStore::new(path.clone()) };
            store.write(&Bundle::default()).await.unwrap();
            store.close().await;
        }
    }
}
