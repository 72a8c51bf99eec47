//! The store of a single node: one SQLite file in WAL mode, written by one process, read by any.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::{
    ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    Event, Exchange, Gap, Leg, Message, Recipient, Record, SessionEnd, SessionId, SessionStart, SessionStore,
    StoreError, keeper::micros,
};

/// How long to wait for another writer, a person with a shell for example.
const BUSY: Duration = Duration::from_secs(1);
/// Longest transaction. What takes longer is given up and tried again.
const DEADLINE: Duration = Duration::from_secs(20);
/// Rows of one statement. Few sizes: a statement of a size that was seen before is prepared already. 256 rows of 16 columns are far below SQLite's limit of
/// 32,766 parameters.
const PIECES: [usize; 4] = [256, 32, 4, 1];
/// Sessions forgotten in one transaction, so that recording never waits long for it.
const PRUNE_SESSIONS: i64 = 500;

/// Session records in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    open: Option<Open>,
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
        Self { path, open: None }
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let here = identity(&self.path);
        if self.open.as_ref().is_none_or(|open| Some(open.file) != here) {
            self.open = None;
            let options = SqliteConnectOptions::new()
                .filename(&self.path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // A power cut may take the last transactions, never the database. Nobody's mail depends on them.
                .synchronous(SqliteSynchronous::Normal)
                .busy_timeout(BUSY)
                .disable_statement_logging();
            let mut connection =
                options.connect().await.map_err(|source| StoreError::Open { path: self.path.clone(), source })?;
            sqlx::migrate!()
                .run_direct(None, &mut connection, false)
                .await
                .map_err(|source| StoreError::Migrate { path: self.path.clone(), source: Box::new(source) })?;
            let file = identity(&self.path).unwrap_or_default();
            self.open = Some(Open { connection, file });
        }
        Ok(&mut self.open.as_mut().expect("opened above").connection)
    }

    /// Runs one piece of work within the deadline; after a failure the next one begins with a fresh connection.
    async fn attempt<T>(
        &mut self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let attempt = async {
            let connection = self.connection().await?;
            work(connection).await.map_err(|source| StoreError::Transaction { action, source })
        };
        let result = tokio::time::timeout(DEADLINE, attempt).await.unwrap_or(Err(StoreError::TooSlow(DEADLINE)));
        if result.is_err() {
            self.open = None;
        }
        result
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl SessionStore for SqliteStore {
    async fn write(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.attempt("write session records", async |connection| write(connection, records).await).await
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

/// The records of one batch, by table.
#[derive(Default)]
struct Sorted<'a> {
    starts: Vec<&'a SessionStart>,
    legs: Vec<&'a Leg>,
    exchanges: Vec<&'a Exchange>,
    messages: Vec<&'a Message>,
    recipients: Vec<&'a Recipient>,
    events: Vec<&'a Event>,
    ends: Vec<&'a SessionEnd>,
    gaps: Vec<&'a Gap>,
}

async fn write(connection: &mut SqliteConnection, records: &[Record]) -> Result<(), sqlx::Error> {
    let mut sorted = Sorted::default();
    let mut places = HashMap::new();
    for record in records {
        match record {
            Record::Start(start) => sorted.starts.push(start),
            Record::Leg(leg) => match places.entry((leg.id, leg.n)) {
                // A leg is told again and again in one batch, and the last time counts.
                Entry::Occupied(place) => sorted.legs[*place.get()] = &**leg,
                Entry::Vacant(place) => {
                    place.insert(sorted.legs.len());
                    sorted.legs.push(leg);
                }
            },
            Record::Exchange(exchange) => sorted.exchanges.push(exchange),
            Record::Message(message) => sorted.messages.push(message),
            Record::Recipient(recipient) => sorted.recipients.push(recipient),
            Record::Event(event) => sorted.events.push(event),
            Record::End(end) => sorted.ends.push(end),
            Record::Gap(gap) => sorted.gaps.push(gap),
        }
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    starts(&mut transaction, &sorted.starts).await?;
    legs(&mut transaction, &sorted.legs).await?;
    exchanges(&mut transaction, &sorted.exchanges).await?;
    messages(&mut transaction, &sorted.messages).await?;
    recipients(&mut transaction, &sorted.recipients).await?;
    events(&mut transaction, &sorted.events).await?;
    ends(&mut transaction, &sorted.ends).await?;
    gaps(&mut transaction, &sorted.gaps).await?;
    transaction.commit().await
}

/// Cuts `rows` into pieces of the sizes that statements have.
fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let count = PIECES.into_iter().find(|&count| count <= rows.len())?;
        let (piece, rest) = rows.split_at(count);
        rows = rest;
        Some(piece)
    })
}

type Insert = QueryBuilder<Sqlite>;

async fn starts(to: &mut SqliteConnection, rows: &[&SessionStart]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR IGNORE INTO sessions (id, tenant, cell, door, mx_address, mx_port, mx_name, mx_operator, started_us) ",
        );
        insert.push_values(rows, |mut row, start| {
            row.push_bind(start.id.to_string())
                .push_bind(start.tenant.to_string())
                .push_bind(start.cell.map(|cell| signed(cell.0)))
                .push_bind(start.door.name())
                .push_bind(start.mx.ip().to_canonical().to_string())
                .push_bind(i64::from(start.mx.port()))
                .push_bind(start.mx_name.clone())
                .push_bind(start.mx_operator.clone())
                .push_bind(micros(start.at));
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn legs(to: &mut SqliteConnection, rows: &[&Leg]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR REPLACE INTO legs (session, n, egress, started_us, connected_us, tls_version, tls_cipher, tls_trusted, tls, error, \
             ehlo_name, extensions, decision) ",
        );
        insert.push_values(rows, |mut row, leg| {
            row.push_bind(leg.id.to_string())
                .push_bind(i64::from(leg.n))
                .push_bind(leg.egress.to_string())
                .push_bind(signed(leg.started_us))
                .push_bind(leg.connected_us.map(signed))
                .push_bind(leg.tls.as_ref().map(|tls| tls.version.clone()))
                .push_bind(leg.tls.as_ref().map(|tls| tls.cipher.clone()))
                .push_bind(leg.tls.as_ref().map(|tls| tls.trusted))
                .push_bind(leg.tls.as_ref().map(|tls| serde_json::json!(tls).to_string()))
                .push_bind(leg.error.clone())
                .push_bind(leg.ehlo_name.clone())
                .push_bind(serde_json::json!(leg.extensions).to_string())
                .push_bind(&*leg.decision);
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn exchanges(to: &mut SqliteConnection, rows: &[&Exchange]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR IGNORE INTO exchanges (session, seq, leg, at_us, dir, verb, code, enhanced, text, took_us) ",
        );
        insert.push_values(rows, |mut row, exchange| {
            row.push_bind(exchange.id.to_string())
                .push_bind(i64::from(exchange.seq))
                .push_bind(i64::from(exchange.leg))
                .push_bind(signed(exchange.at_us))
                .push_bind(exchange.dir.notation())
                .push_bind(exchange.verb.clone())
                .push_bind(exchange.code.map(i64::from))
                .push_bind(exchange.enhanced.clone())
                .push_bind(exchange.text.as_str().to_owned())
                .push_bind(exchange.took_us.map(signed));
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn messages(to: &mut SqliteConnection, rows: &[&Message]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR REPLACE INTO messages (session, n, leg, reverse_path, size, message_id, mail_us, data_us, content_us, sent_us, \
             reply_us, class, list, code, about, rule) ",
        );
        insert.push_values(rows, |mut row, message| {
            row.push_bind(message.id.to_string())
                .push_bind(i64::from(message.n))
                .push_bind(i64::from(message.leg))
                .push_bind(message.reverse_path.clone())
                .push_bind(signed(message.size))
                .push_bind(message.message_id.clone())
                .push_bind(message.mail_us.map(signed))
                .push_bind(message.data_us.map(signed))
                .push_bind(message.content_us.map(signed))
                .push_bind(message.sent_us.map(signed))
                .push_bind(message.reply_us.map(signed))
                .push_bind(message.verdict.class.name())
                .push_bind(message.verdict.list.clone())
                .push_bind(message.code.map(i64::from))
                .push_bind(message.verdict.about.name())
                .push_bind(message.verdict.rule.to_string());
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn recipients(to: &mut SqliteConnection, rows: &[&Recipient]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR REPLACE INTO recipients (session, message, n, forward_path, class, list, code, enhanced, text, reply_us, about, \
             rule) ",
        );
        insert.push_values(rows, |mut row, recipient| {
            row.push_bind(recipient.id.to_string())
                .push_bind(i64::from(recipient.message))
                .push_bind(i64::from(recipient.n))
                .push_bind(recipient.forward_path.clone())
                .push_bind(recipient.verdict.class.name())
                .push_bind(recipient.verdict.list.clone())
                .push_bind(recipient.code.map(i64::from))
                .push_bind(recipient.enhanced.clone())
                .push_bind(recipient.text.as_str().to_owned())
                .push_bind(recipient.reply_us.map(signed))
                .push_bind(recipient.verdict.about.name())
                .push_bind(recipient.verdict.rule.to_string());
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn events(to: &mut SqliteConnection, rows: &[&Event]) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let mut insert = Insert::new(
            "INSERT OR IGNORE INTO events (session, n, leg, at_us, kind, operator, egress, verb, code, list, evidence) ",
        );
        insert.push_values(rows, |mut row, event| {
            row.push_bind(event.id.to_string())
                .push_bind(i64::from(event.n))
                .push_bind(i64::from(event.leg))
                .push_bind(signed(event.at_us))
                .push_bind(event.kind.name())
                .push_bind(event.operator.clone())
                .push_bind(event.egress.to_string())
                .push_bind(event.verb.clone())
                .push_bind(event.code.map(i64::from))
                .push_bind(event.list.clone())
                .push_bind(event.evidence.to_string());
        });
        insert.build().execute(&mut *to).await?;
    }
    Ok(())
}

async fn ends(to: &mut SqliteConnection, rows: &[&SessionEnd]) -> Result<(), sqlx::Error> {
    for end in rows {
        sqlx::query("UPDATE sessions SET ended_us = started_us + ?, outcome = ?, bytes = ? WHERE id = ?")
            .bind(signed(end.at_us))
            .bind(end.outcome.name())
            .bind(signed(end.bytes))
            .bind(end.id.to_string())
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

async fn gaps(to: &mut SqliteConnection, rows: &[&Gap]) -> Result<(), sqlx::Error> {
    for gap in rows {
        sqlx::query("INSERT OR IGNORE INTO gaps (from_us, until_us, records, reason) VALUES (?, ?, ?, ?)")
            .bind(gap.from_us)
            .bind(gap.until_us)
            .bind(signed(gap.records))
            .bind(gap.reason.clone())
            .execute(&mut *to)
            .await?;
    }
    Ok(())
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
        "DELETE FROM exchanges WHERE session <= ?",
        "DELETE FROM recipients WHERE session <= ?",
        "DELETE FROM messages WHERE session <= ?",
        "DELETE FROM legs WHERE session <= ?",
        "DELETE FROM events WHERE session <= ?",
    ] {
        sqlx::query(statement).bind(&last).execute(&mut *transaction).await?;
    }
    let forgotten = sqlx::query("DELETE FROM sessions WHERE id <= ?").bind(&last).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(forgotten.rows_affected())
}

/// SQLite's integers are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_the_rows_in_order_and_of_few_sizes() {
        for count in [0, 1, 3, 4, 31, 255, 256, 257, 2_000] {
            let rows: Vec<usize> = (0..count).collect();
            assert_eq!(pieces(&rows).collect::<Vec<_>>().concat(), rows);
            assert!(pieces(&rows).all(|piece| PIECES.contains(&piece.len())));
        }
    }
}
