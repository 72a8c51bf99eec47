//! Recorded sessions, read by people's tools: the list, one transcript, the summary; what was noticed; old replies under new rules.
//!
//! Never writes. While the proxy runs, the database's WAL files exist and are used as they are; when nobody has it open it
//! is read as an immutable file, so that a reader run by root makes no files that the proxy could not open later.

mod noticed;
mod replay;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::{ConnectOptions, FromRow, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{SessionId, id, keeper::micros, transcript};

pub use noticed::{EventCount, EventRow};
pub use replay::{Reclassified, Replay};

/// Most sessions of one list.
pub const LIST_MAX: u32 = 100_000;
/// Most exchanges, messages or recipients shown of one session.
const SHOW_MAX: i64 = 20_000;
const BUSY: Duration = Duration::from_secs(5);

/// Which sessions.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only those that began at this time or later.
    pub since: Option<SystemTime>,
    /// At most so many, the newest; none is 50.
    pub limit: Option<u32>,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No database, so no session was recorded yet.
    #[error("there is no session database {0}: no session was recorded yet, or the proxy keeps it elsewhere")]
    Missing(PathBuf),
    /// The database refuses.
    #[error("cannot read {path}: {source}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// What the database says.
        source: sqlx::Error,
    },
    /// No session of this id.
    #[error("no session {0}")]
    Unknown(String),
    /// The text fits more than one session.
    #[error("{0} fits more than one session: type more of it")]
    Ambiguous(String),
}

/// A session in the list.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// Whose it was.
    pub tenant: String,
    /// The cell it came from.
    pub cell: Option<i64>,
    /// Where it came in.
    pub door: String,
    /// The address that the MSA dialled.
    pub mx_address: String,
    /// The port.
    pub mx_port: i64,
    /// The MX's name, where known.
    pub mx_name: Option<String>,
    /// When it began, in microseconds of Unix time.
    pub started_us: i64,
    /// When it ended; none while it is open, or if the proxy died.
    pub ended_us: Option<i64>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Bytes of content passed.
    pub bytes: Option<i64>,
    /// TLS of its last dial.
    pub tls_version: Option<String>,
    /// The egress address of its last dial.
    pub egress: Option<String>,
}

/// A dial, as read back.
#[derive(Debug, Clone, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table, described in its schema")]
pub struct LegRow {
    pub n: i64,
    pub egress: String,
    pub started_us: i64,
    pub connected_us: Option<i64>,
    pub tls_version: Option<String>,
    pub tls_cipher: Option<String>,
    pub tls_trusted: Option<bool>,
    pub tls: Option<String>,
    pub error: Option<String>,
    pub ehlo_name: Option<String>,
    pub extensions: String,
    pub decision: String,
    pub taken_from: Option<String>,
}

/// A command or reply, as read back.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table, described in its schema")]
pub struct ExchangeRow {
    pub seq: i64,
    pub leg: i64,
    pub at_us: i64,
    pub dir: String,
    pub verb: String,
    pub code: Option<i64>,
    pub enhanced: Option<String>,
    pub text: String,
    pub took_us: Option<i64>,
}

/// A message, as read back.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table, described in its schema")]
pub struct MessageRow {
    pub n: i64,
    pub reverse_path: String,
    pub size: i64,
    pub message_id: Option<String>,
    pub class: String,
    pub list: Option<String>,
    pub code: Option<i64>,
}

/// A recipient, as read back.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table, described in its schema")]
pub struct RecipientRow {
    pub message: i64,
    pub forward_path: String,
    pub class: String,
    pub list: Option<String>,
    pub code: Option<i64>,
    pub text: String,
}

/// Everything recorded of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The session.
    pub session: SessionRow,
    /// Its dials.
    pub legs: Vec<LegRow>,
    /// Its commands and replies, in order.
    pub exchanges: Vec<ExchangeRow>,
    /// Its messages.
    pub messages: Vec<MessageRow>,
    /// Their recipients.
    pub recipients: Vec<RecipientRow>,
    /// What was noticed about the MX.
    pub events: Vec<EventRow>,
}

/// One line of the summary.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SummaryRow {
    /// Whose sessions.
    pub tenant: String,
    /// The MX's name, or its address where the name is unknown.
    pub destination: String,
    /// The TLS version of the last dial; none in the clear.
    pub tls_version: Option<String>,
    /// How they ended; none for those still open.
    pub outcome: Option<String>,
    /// How many.
    pub sessions: i64,
    /// Replies of the MX in them.
    pub replies: i64,
    /// Median of the times those replies took, in microseconds.
    pub p50_us: Option<i64>,
    /// Their 99th percentile.
    pub p99_us: Option<i64>,
}

/// Lost records.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table, described in its schema")]
pub struct GapRow {
    pub from_us: i64,
    pub until_us: i64,
    pub records: i64,
    pub reason: String,
}

/// The session database, open for reading.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: SqliteConnection,
}

impl Reader {
    /// Opens the database file.
    pub async fn open(path: &Path) -> Result<Self, ReadError> {
        let size = |path: &Path| std::fs::metadata(path).map(|meta| meta.len()).ok();
        if size(path).is_none() {
            return Err(ReadError::Missing(path.to_owned()));
        }
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .immutable(size(Path::new(&wal)).is_none())
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let failed = |source| ReadError::Database { path: path.to_owned(), source };
        let mut connection = options.connect().await.map_err(failed)?;
        // The proxy that makes it is not done yet.
        let tables =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'sessions'");
        let tables: i64 = tables.fetch_one(&mut connection).await.map_err(failed)?;
        if tables == 0 {
            return Err(ReadError::Missing(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Sessions, the newest first.
    pub async fn list(&mut self, filter: &Filter) -> Result<Vec<SessionRow>, ReadError> {
        let rows = sqlx::query_as(
            "SELECT s.id, s.tenant, s.cell, s.door, s.mx_address, s.mx_port, s.mx_name, s.started_us, s.ended_us, s.outcome, s.bytes, \
                    l.tls_version, l.egress \
             FROM sessions s LEFT JOIN legs l ON l.session = s.id AND l.n = (SELECT max(n) FROM legs WHERE session = s.id) \
             WHERE (?1 IS NULL OR s.tenant = ?1) AND s.id >= ?2 ORDER BY s.id DESC LIMIT ?3",
        )
        .bind(filter.tenant.clone())
        .bind(first_id(filter))
        .bind(i64::from(filter.limit.unwrap_or(50).min(LIST_MAX)))
        .fetch_all(&mut self.connection)
        .await;
        self.told(rows)
    }

    /// The session whose id is, begins or ends with `text`. The end is the part that differs.
    pub async fn find(&mut self, text: &str) -> Result<String, ReadError> {
        if let Ok(id) = text.parse::<SessionId>() {
            return Ok(id.to_string());
        }
        // Only what an id may contain gets into a pattern.
        let Some(text) = id::canonical(text).filter(|text| (1..id::LENGTH).contains(&text.len())) else {
            return Err(ReadError::Unknown(text.to_owned()));
        };
        let found = sqlx::query_scalar("SELECT id FROM sessions WHERE id LIKE ?1 || '%' OR id LIKE '%' || ?1 LIMIT 2")
            .bind(&text)
            .fetch_all(&mut self.connection)
            .await;
        let mut found: Vec<String> = self.told(found)?;
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(ReadError::Unknown(text)),
            (Some(id), true) => Ok(id),
            (Some(_), false) => Err(ReadError::Ambiguous(text)),
        }
    }

    /// Everything recorded of the session with this id.
    pub async fn load(&mut self, id: &str) -> Result<Recorded, ReadError> {
        let session = sqlx::query_as(
            "SELECT s.id, s.tenant, s.cell, s.door, s.mx_address, s.mx_port, s.mx_name, s.started_us, s.ended_us, s.outcome, s.bytes, \
                    NULL AS tls_version, NULL AS egress FROM sessions s WHERE id = ?",
        )
        .bind(id)
        .fetch_optional(&mut self.connection)
        .await;
        let session = self.told(session)?.ok_or_else(|| ReadError::Unknown(id.to_owned()))?;
        let legs = sqlx::query_as("SELECT * FROM legs WHERE session = ? ORDER BY n LIMIT ?");
        let legs = legs.bind(id).bind(SHOW_MAX).fetch_all(&mut self.connection).await;
        let legs = self.told(legs)?;
        let exchanges = sqlx::query_as("SELECT * FROM exchanges WHERE session = ? ORDER BY seq LIMIT ?");
        let exchanges = exchanges.bind(id).bind(SHOW_MAX).fetch_all(&mut self.connection).await;
        let exchanges = self.told(exchanges)?;
        let messages = sqlx::query_as("SELECT * FROM messages WHERE session = ? ORDER BY n LIMIT ?");
        let messages = messages.bind(id).bind(SHOW_MAX).fetch_all(&mut self.connection).await;
        let messages = self.told(messages)?;
        let recipients = sqlx::query_as("SELECT * FROM recipients WHERE session = ? ORDER BY message, n LIMIT ?");
        let recipients = recipients.bind(id).bind(SHOW_MAX).fetch_all(&mut self.connection).await;
        let recipients = self.told(recipients)?;
        let events = self.events_of(id).await?;
        Ok(Recorded { session, legs, exchanges, messages, recipients, events })
    }

    /// The transcript of the session that `text` names, as in [`Reader::find`]; safe to print.
    pub async fn show(&mut self, text: &str) -> Result<String, ReadError> {
        let id = self.find(text).await?;
        Ok(transcript::render(&self.load(&id).await?))
    }

    /// Counts and reply times by tenant, destination, TLS version and outcome.
    pub async fn summary(&mut self, filter: &Filter) -> Result<Vec<SummaryRow>, ReadError> {
        let rows = sqlx::query_as(SUMMARY)
            .bind(filter.tenant.clone())
            .bind(first_id(filter))
            .fetch_all(&mut self.connection)
            .await;
        self.told(rows)
    }

    /// Where records are missing, the newest first.
    pub async fn gaps(&mut self, since: Option<SystemTime>) -> Result<Vec<GapRow>, ReadError> {
        let rows = sqlx::query_as("SELECT * FROM gaps WHERE until_us >= ? ORDER BY from_us DESC LIMIT ?")
            .bind(since.map_or(0, micros))
            .bind(i64::from(LIST_MAX))
            .fetch_all(&mut self.connection)
            .await;
        self.told(rows)
    }

    /// Whether there is such a table: an older proxy's database lacks some.
    async fn has(&mut self, table: &str) -> Result<bool, ReadError> {
        let found = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?");
        let found: Result<i64, _> = found.bind(table.to_owned()).fetch_one(&mut self.connection).await;
        Ok(self.told(found)? > 0)
    }

    fn told<T>(&self, result: Result<T, sqlx::Error>) -> Result<T, ReadError> {
        result.map_err(|source| ReadError::Database { path: self.path.clone(), source })
    }
}

/// Percentiles by nearest rank: the smallest time that at least so many percent of the replies did not exceed.
const SUMMARY: &str = "
    WITH s AS (
        SELECT s.id, s.tenant, coalesce(s.mx_name, s.mx_address) AS destination, s.outcome,
               (SELECT l.tls_version FROM legs l WHERE l.session = s.id ORDER BY l.n DESC LIMIT 1) AS tls_version
        FROM sessions s WHERE (?1 IS NULL OR s.tenant = ?1) AND s.id >= ?2
    ), t AS (
        SELECT s.tenant, s.destination, s.tls_version, s.outcome, e.took_us,
               row_number() OVER (PARTITION BY s.tenant, s.destination, s.tls_version, s.outcome ORDER BY e.took_us) AS rank,
               count(*) OVER (PARTITION BY s.tenant, s.destination, s.tls_version, s.outcome) AS replies
        FROM s JOIN exchanges e ON e.session = s.id WHERE e.took_us IS NOT NULL
    ), p AS (
        SELECT tenant, destination, tls_version, outcome, max(replies) AS replies,
               min(CASE WHEN rank >= (replies * 50 + 99) / 100 THEN took_us END) AS p50_us,
               min(CASE WHEN rank >= (replies * 99 + 99) / 100 THEN took_us END) AS p99_us
        FROM t GROUP BY tenant, destination, tls_version, outcome
    ), c AS (
        SELECT tenant, destination, tls_version, outcome, count(*) AS sessions
        FROM s GROUP BY tenant, destination, tls_version, outcome
    )
    SELECT c.tenant, c.destination, c.tls_version, c.outcome, c.sessions, coalesce(p.replies, 0) AS replies, p.p50_us, p.p99_us
    FROM c LEFT JOIN p ON p.tenant = c.tenant AND p.destination = c.destination
                      AND p.tls_version IS c.tls_version AND p.outcome IS c.outcome
    ORDER BY c.tenant, c.destination, c.sessions DESC, c.tls_version, c.outcome";

fn first_id(filter: &Filter) -> String {
    SessionId::floor(filter.since.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}
