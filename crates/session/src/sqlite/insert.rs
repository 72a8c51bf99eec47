//! Rows into tables. What is there already is completed or stays as it is.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection, query_builder::Separated};

use super::rows::{Key, LegRow, MailsRow, Rows, SaidRow, SessionRow};
use crate::{Event, Gap, Message, Recipient, SessionEnd, keeper::micros, record::Dialled};

/// Rows of one statement. Few sizes: a statement of a size that was seen before is prepared already. 256 rows of 16 columns are far below SQLite's limit of
/// 32,766 parameters.
const PIECES: [usize; 4] = [256, 32, 4, 1];

type Insert = QueryBuilder<Sqlite>;
type Row<'q> = Separated<'q, Sqlite, &'static str>;

impl Rows<'_> {
    /// Writes all of them.
    pub(super) async fn insert(mut self, to: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        insert(to, SESSIONS, &mut self.sessions, session).await?;
        for (key, end) in &self.ends {
            ended(to, key, end).await?;
        }
        let (mut begun, known): (Vec<_>, Vec<_>) =
            self.legs.iter().map(|leg| (leg, leg.dialled)).partition(|(_, dialled)| dialled.is_some());
        insert(to, LEGS, &mut begun, |row, (leg, dialled)| leg_begun(row, leg, dialled.as_ref())).await?;
        for (leg, _) in known {
            leg_news(to, leg).await?;
        }
        // These texts are long: they are handed on, not copied.
        insert(to, SAID, &mut self.said, said).await?;
        insert(to, MAILS, &mut self.mails, mails).await?;
        insert(to, MESSAGES, &mut self.messages, |row, (key, record)| message(row, key, record)).await?;
        insert(to, RECIPIENTS, &mut self.recipients, |row, (key, record)| recipient(row, key, record)).await?;
        insert(to, EVENTS, &mut self.events, |row, (key, record)| event(row, key, record)).await?;
        insert(to, GAPS, &mut self.gaps, gap).await
    }
}

/// What stands in front of the rows of a statement, and behind them.
type Statement = (&'static str, &'static str);

async fn insert<T>(
    to: &mut SqliteConnection,
    (before, behind): Statement,
    mut rows: &mut [T],
    bind: impl Fn(&mut Row<'_>, &mut T),
) -> Result<(), sqlx::Error> {
    while let Some(count) = PIECES.into_iter().find(|count| *count <= rows.len()) {
        let (piece, rest) = rows.split_at_mut(count);
        let mut insert = Insert::new(before);
        insert.push_values(piece, |mut row, record| bind(&mut row, record));
        insert.push(behind);
        insert.build().execute(&mut *to).await?;
        rows = rest;
    }
    Ok(())
}

/// A session that was there already may have ended now.
const SESSIONS: Statement = (
    "INSERT INTO sessions (id, tenant, cell, door, mx_address, mx_port, mx_name, mx_operator, started_us, ended_us, outcome, bytes) ",
    " ON CONFLICT (id) DO UPDATE SET ended_us = coalesce(excluded.ended_us, ended_us), outcome = coalesce(excluded.outcome, outcome), \
     bytes = coalesce(excluded.bytes, bytes)",
);

fn session(row: &mut Row<'_>, SessionRow { key, start, end }: &mut SessionRow<'_>) {
    let started_us = micros(start.at);
    row.push_bind(Key::clone(key))
        .push_bind(start.tenant.as_str())
        .push_bind(start.cell.map(|cell| signed(cell.0)))
        .push_bind(start.door.name())
        .push_bind(start.mx.ip().to_canonical().to_string())
        .push_bind(i64::from(start.mx.port()))
        .push_bind(start.mx_name.as_deref())
        .push_bind(start.mx_operator.as_deref())
        .push_bind(started_us)
        .push_bind(end.map(|end| started_us.saturating_add(signed(end.at_us))))
        .push_bind(end.map(|end| end.outcome.name()))
        .push_bind(end.map(|end| signed(end.bytes)));
}

async fn ended(to: &mut SqliteConnection, key: &Key, end: &SessionEnd) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE sessions SET ended_us = started_us + ?, outcome = ?, bytes = ? WHERE id = ?")
        .bind(signed(end.at_us))
        .bind(end.outcome.name())
        .bind(signed(end.bytes))
        .bind(Key::clone(key))
        .execute(to)
        .await?;
    Ok(())
}

/// A dial that was there already may be known better now; never worse.
const LEGS: Statement = (
    "INSERT INTO legs (session, n, egress, started_us, connected_us, tls_version, tls_cipher, tls_trusted, tls, error, ehlo_name, extensions, \
     decision, taken_from) ",
    " ON CONFLICT (session, n) DO UPDATE SET connected_us = coalesce(excluded.connected_us, connected_us), \
     tls_version = coalesce(excluded.tls_version, tls_version), tls_cipher = coalesce(excluded.tls_cipher, tls_cipher), \
     tls_trusted = coalesce(excluded.tls_trusted, tls_trusted), tls = coalesce(excluded.tls, tls), error = coalesce(excluded.error, error), \
     extensions = iif(excluded.extensions = '[]', extensions, excluded.extensions), taken_from = coalesce(excluded.taken_from, taken_from)",
);

fn leg_begun(row: &mut Row<'_>, leg: &LegRow<'_>, dialled: Option<&Dialled<'_>>) {
    let tls = leg.tls.as_ref();
    row.push_bind(Key::clone(&leg.key))
        .push_bind(i64::from(leg.n))
        .push_bind(dialled.map(|dialled| dialled.egress.to_string()))
        .push_bind(dialled.map(|dialled| signed(dialled.at_us)))
        .push_bind(leg.connected_us.map(signed))
        .push_bind(tls.map(|tls| tls.version.as_str()))
        .push_bind(tls.map(|tls| tls.cipher.as_str()))
        .push_bind(tls.map(|tls| tls.trusted))
        .push_bind(tls.map(json))
        .push_bind(leg.error)
        .push_bind(dialled.map(|dialled| dialled.ehlo_name))
        .push_bind(leg.extensions.as_ref().map_or_else(|| "[]".to_owned(), json))
        .push_bind(dialled.map(|dialled| dialled.decision))
        .push_bind(leg.taken_from.map(|before| before.to_string()));
}

/// More of a dial that began in an earlier batch.
async fn leg_news(to: &mut SqliteConnection, leg: &LegRow<'_>) -> Result<(), sqlx::Error> {
    let tls = leg.tls.as_ref();
    sqlx::query(
        "UPDATE legs SET connected_us = coalesce(?, connected_us), tls_version = coalesce(?, tls_version), \
         tls_cipher = coalesce(?, tls_cipher), tls_trusted = coalesce(?, tls_trusted), tls = coalesce(?, tls), error = coalesce(?, error), \
         extensions = coalesce(?, extensions), taken_from = coalesce(?, taken_from) WHERE session = ? AND n = ?",
    )
    .bind(leg.connected_us.map(signed))
    .bind(tls.map(|tls| tls.version.as_str()))
    .bind(tls.map(|tls| tls.cipher.as_str()))
    .bind(tls.map(|tls| tls.trusted))
    .bind(tls.map(json))
    .bind(leg.error)
    .bind(leg.extensions.as_ref().map(json))
    .bind(leg.taken_from.map(|before| before.to_string()))
    .bind(Key::clone(&leg.key))
    .bind(i64::from(leg.n))
    .execute(&mut *to)
    .await?;
    if let Some(policies) = &leg.policies {
        // In the clear there is nothing to add them to.
        sqlx::query("UPDATE legs SET tls = json_set(tls, '$.policies', json(?)) WHERE session = ? AND n = ?")
            .bind(json(policies))
            .bind(Key::clone(&leg.key))
            .bind(i64::from(leg.n))
            .execute(to)
            .await?;
    }
    Ok(())
}

const SAID: Statement = ("INSERT OR IGNORE INTO said (session, seq, lines) ", "");

fn said(row: &mut Row<'_>, SaidRow { key, seq, lines }: &mut SaidRow) {
    row.push_bind(Key::clone(key)).push_bind(i64::from(*seq)).push_bind(std::mem::take(lines));
}

const MAILS: Statement = ("INSERT OR IGNORE INTO mails (session, n, facts) ", "");

fn mails(row: &mut Row<'_>, MailsRow { key, n, facts }: &mut MailsRow) {
    row.push_bind(Key::clone(key)).push_bind(i64::from(*n)).push_bind(std::mem::take(facts));
}

const MESSAGES: Statement = (
    "INSERT OR REPLACE INTO each_message (session, n, leg, reverse_path, size, message_id, mail_us, data_us, content_us, sent_us, \
     reply_us, class, list, code, about, rule) ",
    "",
);

fn message(row: &mut Row<'_>, key: &Key, message: &Message) {
    row.push_bind(Key::clone(key))
        .push_bind(i64::from(message.n))
        .push_bind(i64::from(message.leg))
        .push_bind(message.reverse_path.as_str())
        .push_bind(signed(message.size))
        .push_bind(message.message_id.as_deref())
        .push_bind(message.mail_us.map(signed))
        .push_bind(message.data_us.map(signed))
        .push_bind(message.content_us.map(signed))
        .push_bind(message.sent_us.map(signed))
        .push_bind(message.reply_us.map(signed))
        .push_bind(message.verdict.class.name())
        .push_bind(message.verdict.list.as_deref())
        .push_bind(message.code.map(i64::from))
        .push_bind(message.verdict.about.name())
        .push_bind(&*message.verdict.rule);
}

const RECIPIENTS: Statement = (
    "INSERT OR REPLACE INTO each_recipient (session, message, n, forward_path, class, list, code, enhanced, text, reply_us, about, rule) ",
    "",
);

fn recipient(row: &mut Row<'_>, key: &Key, recipient: &Recipient<'_>) {
    row.push_bind(Key::clone(key))
        .push_bind(i64::from(recipient.message))
        .push_bind(i64::from(recipient.n))
        .push_bind(recipient.forward_path)
        .push_bind(recipient.verdict.class.name())
        .push_bind(recipient.verdict.list.as_deref())
        .push_bind(recipient.code.map(i64::from))
        .push_bind(recipient.enhanced)
        .push_bind(recipient.text)
        .push_bind(recipient.reply_us.map(signed))
        .push_bind(recipient.verdict.about.name())
        .push_bind(&*recipient.verdict.rule);
}

const EVENTS: Statement =
    ("INSERT OR IGNORE INTO events (session, n, leg, at_us, kind, operator, egress, verb, code, list, evidence) ", "");

fn event(row: &mut Row<'_>, key: &Key, event: &Event<'_>) {
    row.push_bind(Key::clone(key))
        .push_bind(i64::from(event.n))
        .push_bind(i64::from(event.leg))
        .push_bind(signed(event.at_us))
        .push_bind(event.kind.name())
        .push_bind(event.operator)
        .push_bind(event.egress.to_string())
        .push_bind(event.verb)
        .push_bind(event.code.map(i64::from))
        .push_bind(event.list)
        .push_bind(event.evidence);
}

const GAPS: Statement = ("INSERT OR IGNORE INTO gaps (from_us, until_us, records, reason) ", "");

fn gap(row: &mut Row<'_>, gap: &mut Gap) {
    row.push_bind(gap.from_us).push_bind(gap.until_us).push_bind(signed(gap.records)).push_bind(gap.reason.as_str());
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers are JSON")
}

/// SQLite's integers are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
