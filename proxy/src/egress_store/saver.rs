//! The database: rows in, rows out, by a thread that nobody waits for.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Row, Sqlite, SqliteConnection};
use tokio::sync::{oneshot, watch};

use super::rows::Rows;

/// How long the start waits for a database that somebody else holds. Mail waits with it, so not long.
const LOAD_WITHIN: Duration = Duration::from_secs(3);
/// How long to wait for another writer, a person with a shell for example.
const BUSY: Duration = Duration::from_secs(1);
/// Longest save. What takes longer is given up and tried again.
const DEADLINE: Duration = Duration::from_secs(20);
/// Pause after a failed save, doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Rows of one INSERT: SQLite takes 32,766 values in one.
const ROWS: usize = 1_000;

/// Why the database is of no use now.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It is no database, or a broken one: waiting does not mend it.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is locked, full, closed to us, away: later it may work.
    #[error("{}: {source}", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("{} has not answered within {} s", path.display(), within.as_secs())]
    Slow {
        /// The file.
        path: PathBuf,
        /// How long it had.
        within: Duration,
    },
}

/// What is remembered from before, if it can be had; says in the log if not. Returns soon, whatever the database does.
pub(super) async fn load(path: &Path) -> Rows {
    let began = Instant::now();
    loop {
        let left = LOAD_WITHIN.saturating_sub(began.elapsed());
        let slow = || StoreError::Slow { path: path.into(), within: LOAD_WITHIN };
        let error = match tokio::time::timeout(left, read(path)).await.unwrap_or_else(|_| Err(slow())) {
            Ok(rows) => return rows,
            Err(error) => error,
        };
        match error {
            StoreError::Damaged { .. } => {
                let aside = put_aside(path);
                tracing::error!(%error, "what was known of the egress addresses is lost, they begin anew{aside}");
                return Rows::new();
            }
            StoreError::Later { .. } if began.elapsed() + Duration::from_millis(200) < LOAD_WITHIN => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            error => {
                tracing::error!(%error, "what was known of the egress addresses cannot be read, they begin anew; it stays in the database until newer news replaces it");
                return Rows::new();
            }
        }
    }
}

/// Moves a damaged database out of the way, and says where to.
fn put_aside(path: &Path) -> String {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    for log in ["-wal", "-shm"] {
        // Parts of a damaged database; a new one must not take them for its own.
        let _ = std::fs::remove_file(with(log));
    }
    let aside = with(".damaged");
    match std::fs::rename(path, &aside) {
        Ok(()) => format!("; the file is kept as {}", aside.display()),
        Err(error) => format!("; the file cannot be put aside: {error}"),
    }
}

async fn read(path: &Path) -> Result<Rows, StoreError> {
    let mut connection = open(path).await?;
    let rows = sqlx::query("SELECT kind, name, value FROM egress").fetch_all(&mut connection).await;
    let rows = rows.map_err(|source| classed(path, source))?;
    let row =
        |row: &sqlx::sqlite::SqliteRow| Some(((row.try_get(0).ok()?, row.try_get(1).ok()?), row.try_get(2).ok()?));
    let found = rows.iter().filter_map(row).collect();
    // It is opened again by the thread that writes.
    let _ = connection.close().await;
    Ok(found)
}

async fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(|source| classed(path, source))?;
    let migrated = sqlx::migrate!().run_direct(None, &mut connection, false).await;
    migrated.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(source) => classed(path, source),
        other => StoreError::Later { path: path.into(), source: Box::new(other) },
    })?;
    Ok(connection)
}

/// SQLite's codes for a file that is not, or no more, a database.
fn classed(path: &Path, source: sqlx::Error) -> StoreError {
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    let path = path.into();
    match code.map(|code| code & 0xff) {
        Some(CORRUPT | NOT_A_DATABASE) => StoreError::Damaged { path, source: Box::new(source) },
        _ => StoreError::Later { path, source: Box::new(source) },
    }
}

/// The file, and what we know to stand in it.
struct Store {
    path: PathBuf,
    open: Option<SqliteConnection>,
    known: HashMap<(String, String), u64>,
}

impl Store {
    /// Writes what differs from what was written before, in one transaction.
    async fn save(&mut self, rows: &Rows) -> Result<(), StoreError> {
        // Deleted or replaced under us: everything is written again, not into nowhere.
        if self.open.is_some() && !self.path.exists() {
            (self.open, self.known) = (None, HashMap::new());
        }
        let slow = || StoreError::Slow { path: self.path.clone(), within: DEADLINE };
        let slow = slow();
        let saved = tokio::time::timeout(DEADLINE, self.try_save(rows)).await.unwrap_or(Err(slow));
        if let Err(error) = &saved {
            self.open = None;
            if let StoreError::Damaged { .. } = error {
                self.known = HashMap::new();
                let aside = put_aside(&self.path);
                tracing::error!(%error, "the egress database is made anew{aside}");
            }
        }
        saved
    }

    async fn try_save(&mut self, rows: &Rows) -> Result<(), StoreError> {
        let changed: Vec<_> = rows.iter().filter(|(key, value)| self.known.get(*key) != Some(&hash(value))).collect();
        let gone: Vec<_> = self.known.keys().filter(|key| !rows.contains_key(*key)).cloned().collect();
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        if self.open.is_none() {
            self.open = Some(open(&self.path).await?);
        }
        let connection = self.open.as_mut().expect("opened above");
        write(connection, &changed, &gone).await.map_err(|source| classed(&self.path, source))?;
        self.known.extend(changed.into_iter().map(|(key, value)| (key.clone(), hash(value))));
        self.known.retain(|key, _| rows.contains_key(key));
        Ok(())
    }
}

fn hash(value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

type Entry<'a> = (&'a (String, String), &'a String);

async fn write(to: &mut SqliteConnection, changed: &[Entry<'_>], gone: &[(String, String)]) -> Result<(), sqlx::Error> {
    let mut transaction = to.begin_with("BEGIN IMMEDIATE").await?;
    for rows in changed.chunks(ROWS) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO egress (kind, name, value) ");
        insert.push_values(rows, |mut row, ((kind, name), value)| {
            row.push_bind(kind.clone()).push_bind(name.clone()).push_bind((*value).clone());
        });
        insert.build().execute(&mut *transaction).await?;
    }
    for (kind, name) in gone {
        sqlx::query("DELETE FROM egress WHERE kind = ? AND name = ?")
            .bind(kind)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// Saves what it is given last, on a thread of its own. Giving never waits.
#[derive(Debug)]
pub(super) struct Saver<T> {
    /// The latest state, and how many there were.
    latest: watch::Sender<(u64, Option<T>)>,
    /// Up to which of them all is saved.
    saved: watch::Receiver<u64>,
    ended: oneshot::Receiver<()>,
}

impl<T: Send + Sync + 'static> Saver<T> {
    /// Starts the thread; `rows` tells what of a state is to be written. `loaded` is what stands in the database already.
    pub fn start(path: PathBuf, loaded: &Rows, rows: impl Fn(&T) -> Rows + Send + 'static) -> io::Result<Self> {
        let (latest, news) = watch::channel((0, None));
        let (done, saved) = watch::channel(0);
        let (ending, ended) = oneshot::channel();
        let known = loaded.iter().map(|(key, value)| (key.clone(), hash(value))).collect();
        let store = Store { path, open: None, known };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("egress-store".into()).spawn(move || {
            runtime.block_on(keep(store, news, &done, rows));
            // A database that hangs in a system call is left behind, not waited for.
            runtime.shutdown_background();
            let _ = ending.send(());
        })?;
        Ok(Self { latest, saved, ended })
    }

    /// Has a state saved soon; one that was given before and is not yet saved is not saved any more.
    /// Its number is returned.
    pub fn save(&self, state: T) -> u64 {
        self.latest.send_modify(|latest| *latest = (latest.0 + 1, Some(state)));
        self.latest.borrow().0
    }

    /// The number of the last state that was saved, as it grows.
    pub fn saved(&self) -> watch::Receiver<u64> {
        self.saved.clone()
    }

    /// Saves the last state, for so long at most.
    pub async fn finish(self, within: Duration) {
        let Self { latest, ended, .. } = self;
        drop(latest);
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("the egress database did not take the last news of the addresses in time");
        }
    }
}

async fn keep<T>(
    mut store: Store,
    mut news: watch::Receiver<(u64, Option<T>)>,
    saved: &watch::Sender<u64>,
    rows: impl Fn(&T) -> Rows,
) {
    let mut pause = None;
    loop {
        let open = match pause {
            // What failed is tried again, with whatever is the latest then.
            Some(pause) => tokio::time::timeout(pause, ended(&mut news)).await.is_err(),
            None => news.changed().await.is_ok(),
        };
        let (number, current) = {
            let latest = news.borrow_and_update();
            (latest.0, latest.1.as_ref().map(&rows))
        };
        if let Some(current) = current {
            match store.save(&current).await {
                Ok(()) => {
                    saved.send_replace(number);
                    if pause.take().is_some() {
                        tracing::info!("the egress database takes the news of the addresses again");
                    }
                }
                Err(error) => {
                    if pause.is_none() {
                        tracing::warn!(%error, "what is learnt of the egress addresses cannot be saved now; mail goes on, and it is tried again");
                    }
                    pause = Some(pause.map_or(RETRY_FIRST, |pause: Duration| (pause * 2).min(RETRY_MAX)));
                }
            }
        }
        if !open {
            if let Some(connection) = store.open.take()
                && let Err(error) = connection.close().await
            {
                tracing::warn!(%error, "the egress database was not closed in order");
            }
            return;
        }
    }
}

/// Resolves when nobody gives any more.
async fn ended<T>(news: &mut watch::Receiver<(u64, Option<T>)>) {
    while news.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(entries: &[(&str, &str)]) -> Rows {
        entries.iter().map(|(name, value)| (("health".to_owned(), (*name).to_owned()), (*value).to_owned())).collect()
    }

    fn saver(path: &Path, loaded: &Rows) -> Saver<Rows> {
        Saver::start(path.into(), loaded, Rows::clone).unwrap()
    }

    const SOON: Duration = Duration::from_secs(10);

    /// Saves, and waits until it is done.
    async fn saved(path: &Path, loaded: &Rows, state: &Rows) {
        let saver = saver(path, loaded);
        saver.save(state.clone());
        saver.finish(SOON).await;
    }

    #[tokio::test]
    async fn what_was_saved_is_loaded_and_what_is_gone_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        assert_eq!(load(&path).await, Rows::new(), "a missing database is an empty one");
        let first = rows(&[("a", "1"), ("b", "2")]);
        saved(&path, &Rows::new(), &first).await;
        let loaded = load(&path).await;
        assert_eq!(loaded, first);
        let second = rows(&[("b", "3"), ("c", "4")]);
        saved(&path, &loaded, &second).await;
        assert_eq!(load(&path).await, second);
    }

    #[tokio::test]
    async fn only_what_changed_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        let mut store = Store { path: path.clone(), open: None, known: HashMap::new() };
        store.save(&rows(&[("a", "1"), ("b", "2")])).await.unwrap();
        let connection = store.open.as_mut().unwrap();
        sqlx::query("UPDATE egress SET value = '7' WHERE name = 'a'").execute(connection).await.unwrap();
        store.save(&rows(&[("a", "1"), ("b", "3")])).await.unwrap();
        assert_eq!(load(&path).await, rows(&[("a", "7"), ("b", "3")]));
    }

    #[tokio::test]
    async fn a_damaged_database_is_put_aside_and_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        std::fs::write(&path, "no database at all ".repeat(500)).unwrap();
        assert_eq!(load(&path).await, Rows::new());
        assert!(directory.path().join("egress.db.damaged").exists() && !path.exists());
        saved(&path, &Rows::new(), &rows(&[("a", "1")])).await;
        assert_eq!(load(&path).await, rows(&[("a", "1")]));
        // Damaged while it is in use.
        let mut store = Store { path: path.clone(), open: None, known: HashMap::new() };
        std::fs::write(&path, "no database at all ".repeat(500)).unwrap();
        assert!(matches!(store.save(&rows(&[("a", "2")])).await, Err(StoreError::Damaged { .. })));
        store.save(&rows(&[("a", "2")])).await.unwrap();
        assert_eq!(load(&path).await, rows(&[("a", "2")]));
    }

    #[tokio::test]
    async fn a_database_that_is_held_by_another_is_written_when_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        saved(&path, &Rows::new(), &rows(&[("a", "1")])).await;
        let mut holder = open(&path).await.unwrap();
        let held = holder.begin_with("BEGIN EXCLUSIVE").await.unwrap();
        let mut store = Store { path: path.clone(), open: None, known: HashMap::new() };
        assert!(matches!(store.save(&rows(&[("a", "2")])).await, Err(StoreError::Later { .. })));
        held.rollback().await.unwrap();
        store.save(&rows(&[("a", "2")])).await.unwrap();
        assert_eq!(load(&path).await, rows(&[("a", "2")]));
    }

    #[tokio::test]
    async fn a_database_that_was_deleted_is_written_again_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        let mut store = Store { path: path.clone(), open: None, known: HashMap::new() };
        let state = rows(&[("a", "1"), ("b", "2")]);
        store.save(&state).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        store.save(&state).await.unwrap();
        assert_eq!(load(&path).await, state);
    }

    #[tokio::test]
    async fn a_folder_that_is_closed_to_us_is_no_reason_not_to_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("egress.db");
        let began = Instant::now();
        assert_eq!(load(&path).await, Rows::new());
        assert!(began.elapsed() < LOAD_WITHIN + BUSY);
        saver(&path, &Rows::new()).finish(SOON).await;
    }
}
