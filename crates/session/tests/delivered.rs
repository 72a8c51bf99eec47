//! Mails that were delivered: one record each and few rows, and what people ask for is what it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{borrow::Cow, path::Path};

use common::{moment, start};
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use warren_session::{
    Bundle, Class, Mail, Message, Recipient, Record, SessionId, SessionStore, Verdict, recorder::database,
    sqlite::SqliteStore,
};

async fn open(dir: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database(dir)).connect().await.unwrap()
}

async fn count(dir: &Path, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(&mut open(dir).await).await.unwrap()
}

/// Mails that were delivered: as told one by one, and together.
fn delivered(id: SessionId, one_by_one: bool) -> Bundle {
    let messages: Vec<_> = (1..=3)
        .map(|n| {
            let mut message = Message::begun(n, 1, "alice@acme.example".into(), 10);
            (message.size, message.message_id) = (5_123, (n == 2).then(|| "<2@acme.\"example\u{1}>".into()));
            (message.data_us, message.sent_us, message.reply_us) = (Some(20), Some(30), Some(40));
            (message.verdict, message.code) = (Verdict::of(Class::Delivered), Some(251));
            message
        })
        .collect();
    let (enhanced, text) = (Some("2.6.0"), "2.6.0 taken\n2.6.0 \\");
    let to = [(1, "bob@b.example"), (3, "\"carol d\"@c.example"), (12, "x")];
    let mut records = vec![Record::Start(Cow::Owned(start(id, "acme")))];
    for message in &messages {
        if !one_by_one {
            records.push(Record::Mail(Mail::of(message, (251, enhanced, text), &to)));
            continue;
        }
        records.push(Record::Message(Cow::Borrowed(message)));
        records.extend(to.map(|(n, forward_path)| {
            let (message, verdict) = (message.n, Cow::Borrowed(&message.verdict));
            let (code, reply_us) = (Some(251), Some(40));
            Record::Recipient(Recipient { message, n, forward_path, verdict, code, enhanced, text, reply_us })
        }));
    }
    Bundle::of(records.into_iter().map(|record| (id, record)))
}

#[tokio::test]
async fn what_is_told_together_reads_as_what_is_told_one_by_one() {
    let id = SessionId::at(moment(0), 1);
    let mut found = Vec::new();
    for one_by_one in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::new(database(dir.path()));
        let bundle = delivered(id, one_by_one);
        store.write(&bundle).await.unwrap();
        store.write(&bundle).await.unwrap();
        let rows = "SELECT json_array(session, n, leg, reverse_path, size, message_id, mail_us, data_us, content_us, sent_us, reply_us, class, list, code, \
                    about, rule) FROM messages WHERE session = (SELECT max(session) FROM messages) \
                    UNION ALL SELECT json_array(session, message, n, forward_path, class, list, code, enhanced, text, reply_us, about, rule) \
                    FROM recipients ORDER BY 1";
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut open(dir.path()).await).await.unwrap();
        assert_eq!(rows.len(), 3 + 9);
        store.prune(moment(1)).await.unwrap();
        assert_eq!(
            count(dir.path(), "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM recipients)").await,
            0
        );
        found.push(rows);
    }
    assert_eq!(found[0], found[1]);
}
