//! Rows into tables. What is there already is completed or stays as it is.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection, query_builder::Separated};

use super::rows::{Key, LegRow, MailsRow, Rows, SaidRow, SessionRow};
use crate::{Event, Gap, Message, Recipient, SessionEnd, keeper::micros, record::Dialled};

/// Rows of one statement. Few sizes: a statement of a size that was seen before is prepared already. 256 rows of 16 columns are far below SQLite's limit of
/// 32,766 parameters. Each statement is handed to the database's own thread and waited for: two changes of threads, which take longer than a row.
const PIECES: [usize; 5] = [256, 64, 16, 4, 1];
type Row<'q> = Separated<'q, Sqlite, &'static str>;

impl Rows<'_> {
    /// Writes all of them.
    pub(super) async fn insert(mut self, to: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        write(to, SESSIONS, &mut self.sessions, session).await?;
        write(to, ENDS, &mut self.ends, |row, (key, end)| ended(row, key, end)).await?;
        let (mut begun, mut known): (Vec<_>, Vec<_>) =
            self.legs.iter().map(|leg| (leg, leg.dialled)).partition(|(_, dialled)| dialled.is_some());
        write(to, LEGS, &mut begun, |row, (leg, dialled)| leg_begun(row, leg, dialled.as_ref())).await?;
        write(to, LEG_NEWS, &mut known, |row, (leg, _)| leg_news(row, leg)).await?;
        // These texts are long: they are handed on, not copied.
        write(to, SAID, &mut self.said, said).await?;
        write(to, MAILS, &mut self.mails, mails).await?;
        write(to, MESSAGES, &mut self.messages, |row, (key, record)| message(row, key, record)).await?;
        write(to, RECIPIENTS, &mut self.recipients, |row, (key, record)| recipient(row, key, record)).await?;
        write(to, EVENTS, &mut self.events, |row, (key, record)| event(row, key, record)).await?;
        write(to, GAPS, &mut self.gaps, gap).await
    }
}

/// What stands in front of the rows of a statement, and behind them.
type Statement = (&'static str, &'static str);

async fn write<T>(
    to: &mut SqliteConnection,
    (before, behind): Statement,
    mut rows: &mut [T],
    bind: impl Fn(&mut Row<'_>, &mut T),
) -> Result<(), sqlx::Error> {
    while let Some(count) = PIECES.into_iter().find(|count| *count <= rows.len()) {
        let (piece, rest) = rows.split_at_mut(count);
        let mut statement = QueryBuilder::<Sqlite>::new(before);
        statement.push_values(piece, |mut row, record| bind(&mut row, record));
        statement.push(behind);
        statement.build().execute(&mut *to).await?;
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

/// Sessions that began in an earlier batch.
const ENDS: Statement = (
    "UPDATE sessions SET ended_us = started_us + news.column2, outcome = news.column3, bytes = news.column4 FROM (",
    ") AS news WHERE id = news.column1",
);

fn ended(row: &mut Row<'_>, key: &Key, end: &SessionEnd) {
    row.push_bind(Key::clone(key))
        .push_bind(signed(end.at_us))
        .push_bind(end.outcome.name())
        .push_bind(signed(end.bytes));
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

/// More of dials that began in an earlier batch. In the clear there is nothing to add policies to.
const LEG_NEWS: Statement = (
    "UPDATE legs SET connected_us = coalesce(news.column3, connected_us), tls_version = coalesce(news.column4, tls_version), \
     tls_cipher = coalesce(news.column5, tls_cipher), tls_trusted = coalesce(news.column6, tls_trusted), \
     tls = iif(news.column8 IS NULL, coalesce(news.column7, tls), json_set(coalesce(news.column7, tls), '$.policies', json(news.column8))), \
     error = coalesce(news.column9, error), extensions = coalesce(news.column10, extensions), \
     taken_from = coalesce(news.column11, taken_from) FROM (",
    ") AS news WHERE session = news.column1 AND n = news.column2",
);

fn leg_news(row: &mut Row<'_>, leg: &LegRow<'_>) {
    let tls = leg.tls.as_ref();
    row.push_bind(Key::clone(&leg.key))
        .push_bind(i64::from(leg.n))
        .push_bind(leg.connected_us.map(signed))
        .push_bind(tls.map(|tls| tls.version.as_str()))
        .push_bind(tls.map(|tls| tls.cipher.as_str()))
        .push_bind(tls.map(|tls| tls.trusted))
        .push_bind(tls.map(json))
        .push_bind(leg.policies.as_ref().map(json))
        .push_bind(leg.error)
        .push_bind(leg.extensions.as_ref().map(json))
        .push_bind(leg.taken_from.map(|before| before.to_string()));
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

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, net::IpAddr, time::SystemTime};

    use sqlx::Row as _;
    use warren_launcher_api::TenantName;

    use super::*;
    use crate::{
        Bundle, Door, LegNews, Outcome, PolicyFacts, Record, SessionId, SessionStart, SessionStore, sqlite::SqliteStore,
    };

    async fn store(directory: &tempfile::TempDir) -> SqliteStore {
        let mut store = SqliteStore::new(directory.path().join("sessions.db"));
        store.write(&Bundle::default()).await.unwrap();
        store
    }

    fn begun(id: SessionId) -> [(SessionId, Record<'static>); 2] {
        let start = SessionStart {
            id,
            tenant: TenantName::new("acme").unwrap(),
            cell: None,
            door: Door::Cell,
            mx: ([198, 51, 100, 10], 25).into(),
            mx_name: None,
            mx_operator: None,
            at: SystemTime::UNIX_EPOCH,
        };
        let egress = IpAddr::from([203, 0, 113, 11]);
        let dialled = Dialled { at_us: 1, egress, ehlo_name: "out.example", decision: "{}" };
        [(id, Record::Start(Cow::Owned(start))), (id, Record::Leg(1, LegNews::Dialled(dialled)))]
    }

    fn news(id: SessionId, n: u64) -> Vec<(SessionId, Record<'static>)> {
        let mut news = vec![Record::Leg(1, LegNews::Connected(n))];
        if n.is_multiple_of(2) {
            news.push(Record::Leg(1, LegNews::Failed("even")));
        }
        if n.is_multiple_of(3) {
            let policy = |_| PolicyFacts { domain: format!("{n}"), policy: "x".into(), satisfied: true, reason: None };
            news.push(Record::Leg(1, LegNews::Judged((0..2).map(policy).collect())));
        }
        news.push(Record::End(SessionEnd { at_us: n, outcome: Outcome::Unused, bytes: 100 + n }));
        news.into_iter().map(|record| (id, record)).collect()
    }

    #[tokio::test]
    async fn each_of_many_sessions_gets_its_own_news() {
        const SESSIONS: u64 = 23;
        let directory = tempfile::tempdir().unwrap();
        let mut store = store(&directory).await;
        let ids: Vec<_> = (0..SESSIONS).map(|_| SessionId::new()).collect();
        store.write(&Bundle::of(ids.iter().flat_map(|id| begun(*id)))).await.unwrap();
        let connection = store.connection().await.unwrap();
        sqlx::query("UPDATE legs SET tls = '{\"version\":\"x\"}' WHERE session <> (SELECT min(session) FROM legs)")
            .execute(connection)
            .await
            .unwrap();
        let told = Bundle::of((0..).zip(&ids).flat_map(|(n, id)| news(*id, n)));
        // It comes again: nobody knew whether it had been written.
        for _ in 0..2 {
            store.write(&told).await.unwrap();
        }
        let find = "SELECT ended_us, bytes, connected_us, error, tls ->> '$.policies[1].domain' \
                    FROM sessions JOIN legs ON session = id WHERE id = ?";
        for (n, id) in (0..).zip(&ids) {
            let connection = store.connection().await.unwrap();
            let row = sqlx::query(find).bind(id.to_string()).fetch_one(connection).await.unwrap();
            let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(found, (signed(n), signed(100 + n), signed(n)));
            assert_eq!(row.get::<Option<&str>, _>(3), n.is_multiple_of(2).then_some("even"));
            // The first is in the clear.
            let policy = (n.is_multiple_of(3) && *id != *ids.iter().min().unwrap()).then(|| n.to_string());
            assert_eq!(row.get::<Option<String>, _>(4), policy);
        }
    }

    #[tokio::test]
    async fn news_are_brought_to_their_rows_and_no_table_is_read_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = store(&directory).await;
        for ((before, behind), columns) in [(ENDS, 4), (LEG_NEWS, 11)] {
            for rows in PIECES {
                let mut statement = QueryBuilder::<Sqlite>::new(format!("EXPLAIN QUERY PLAN {before}"));
                statement.push_values(0..rows, |mut row, _| (0..columns).for_each(|_| _ = row.push_bind(None::<i64>)));
                statement.push(behind);
                let connection = store.connection().await.unwrap();
                let steps = statement.build().fetch_all(connection).await.unwrap();
                let plan: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
                assert!(plan.iter().any(|step| step.contains("USING PRIMARY KEY")), "{plan:?}");
                let reads_all = |step: &String| step.contains("SCAN sessions") || step.contains("SCAN legs");
                assert!(!plan.iter().any(reads_all), "{plan:?}");
            }
        }
    }
}
