//! Events in the database, databases of before, and old replies under today's rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{borrow::Cow, net::IpAddr, path::Path, time::SystemTime};

use common::{LONG, dial, dialled, hasty, moment, start, tell};
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use warren_session::{
    Dir, Filter, Outcome, Reader, Recorder, RecorderSettings, SessionId, SessionStore,
    detect::{EventKind, Finding},
    recorder::database,
    sqlite::SqliteStore,
};

const SLOW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 11));

async fn record(dir: &Path, telling: impl FnOnce(&Recorder)) {
    let settings = RecorderSettings { patience: LONG, ..hasty(dir) };
    let (recorder, thread) = Recorder::in_directory(dir, settings).unwrap();
    telling(&recorder);
    recorder.flush().await;
    thread.finish(LONG).await;
}

fn tarpit(recorder: &Recorder, id: SessionId) {
    let mut log = recorder.session(start(id, "acme"));
    dial(&mut log);
    log.reply(1, 9_000_000, Dir::ReplyPassed, 220, "tarpit");
    let evidence = serde_json::json!({ "how": "drip", "pieces": 27 });
    let verb = String::new();
    let finding = Finding { kind: EventKind::Tarpit, egress: SLOW, verb, code: Some(220), list: None, evidence };
    log.event(1, 9_000_000, "tarpit\u{1b}[2J.example", &finding);
    log.command(1, 9_100_000, Dir::CommandPassed, b"QUIT");
    log.end(9_200_000, Outcome::Unused, 0);
}

#[tokio::test]
async fn events_are_listed_counted_and_shown_in_the_transcript() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (SessionId::at(moment(0), 1), SessionId::at(moment(1), 2));
    record(dir.path(), |recorder| {
        [first, second].into_iter().for_each(|id| tarpit(recorder, id));
        tell(recorder, SessionId::at(moment(2), 3), "globex");
    })
    .await;
    let mut reader = Reader::open(&database(dir.path())).await.unwrap();
    let events = reader.events(&Filter::default(), None).await.unwrap();
    assert_eq!(
        events.iter().map(|event| event.session.clone()).collect::<Vec<_>>(),
        [second.to_string(), first.to_string()]
    );
    assert_eq!((events[0].kind.as_str(), events[0].egress.as_str()), ("tarpit", "203.0.113.11"));
    assert!(reader.events(&Filter::default(), Some(EventKind::Listing)).await.unwrap().is_empty());
    let of_globex = Filter { tenant: Some("globex".into()), ..Filter::default() };
    assert!(reader.events(&of_globex, None).await.unwrap().is_empty());
    let counts = reader.event_counts(&Filter::default()).await.unwrap();
    assert_eq!((counts.len(), counts[0].events), (1, 2));
    let shown = reader.show(&first.to_string()).await.unwrap();
    let place = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text} in\n{shown}"));
    assert!(place("220 tarpit") < place("!!  tarpit by tarpit\\x1b[2J.example of 203.0.113.11: {\"how\":\"drip\""));
    assert!(place("!!  tarpit") < place("QUIT"), "{shown}");
}

#[tokio::test]
async fn events_are_forgotten_with_their_session() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), |recorder| tarpit(recorder, SessionId::at(moment(0), 1))).await;
    let mut store = SqliteStore::new(database(dir.path()));
    store.prune(SystemTime::now() + LONG).await.unwrap();
    store.close().await;
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut open(dir.path()).await).await.unwrap();
    assert_eq!(left, 0);
}

async fn open(dir: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database(dir)).create_if_missing(true).connect().await.unwrap()
}

/// A database as the first version left it: one recipient whose refusal no rule knew, and one whose class is as it would be today.
async fn database_of_before(dir: &Path) -> SessionId {
    let id = SessionId::at(moment(0), 1);
    let mut connection = open(dir).await;
    let mut migrator = sqlx::migrate!();
    migrator.migrations = Cow::Owned(vec![migrator.migrations[0].clone()]);
    migrator.run_direct(None, &mut connection, false).await.unwrap();
    for statement in [
        "INSERT INTO sessions VALUES (?1, 'acme', 7, 'cell', '198.51.100.10', 25, NULL, NULL, 1, 2, 'refused', 0)",
        "INSERT INTO exchanges VALUES (?1, 1, 1, 50, '<-', 'RCPT', 452, '4.2.2', '4.2.2 Mailbox full', 10)",
        "INSERT INTO exchanges VALUES (?1, 2, 1, 60, '<-', 'RCPT', 550, '5.1.1', '5.1.1 User unknown', 10)",
        "INSERT INTO messages VALUES (?1, 1, 1, 'a@b.example', 9, NULL, 1, 2, 3, 4, 5, 'other', NULL, 250)",
        "INSERT INTO recipients VALUES (?1, 1, 1, 'x@b.example', 'other', NULL, 452, '4.2.2', '4.2.2 Mailbox full', 50)",
        "INSERT INTO recipients VALUES (?1, 1, 2, 'y@b.example', 'unknown_user', NULL, 550, '5.1.1', '5.1.1 User unknown', 60)",
    ] {
        sqlx::query(statement).bind(id.to_string()).execute(&mut connection).await.unwrap();
    }
    id
}

#[tokio::test]
async fn a_database_of_before_is_read_and_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let old = database_of_before(dir.path()).await;
    let mut reader = Reader::open(&database(dir.path())).await.unwrap();
    assert!(reader.events(&Filter::default(), None).await.unwrap().is_empty());
    assert!(reader.event_counts(&Filter::default()).await.unwrap().is_empty());
    let before = reader.load(&old.to_string()).await.unwrap();
    assert_eq!((before.messages.len(), before.recipients.len(), before.exchanges.len()), (1, 2, 2));
    drop(reader);

    let new = SessionId::at(moment(9), 2);
    record(dir.path(), |recorder| {
        tarpit(recorder, new);
        tell(recorder, SessionId::at(moment(10), 3), "acme");
    })
    .await;
    let mut reader = Reader::open(&database(dir.path())).await.unwrap();
    assert_eq!(reader.load(&old.to_string()).await.unwrap(), before);
    assert_eq!(reader.events(&Filter::default(), None).await.unwrap()[0].session, new.to_string());
    let abouts: Vec<Option<String>> = sqlx::query_scalar("SELECT about FROM recipients ORDER BY session, n")
        .fetch_all(&mut open(dir.path()).await)
        .await
        .unwrap();
    assert_eq!(abouts, [None, None, Some("unclear".into())]);
    let replay = reader.reclassify(&Filter::default()).await.unwrap();
    assert_eq!((replay.recipients, replay.changes.len()), (2, 1), "as it was");
}

#[tokio::test]
async fn old_replies_under_todays_rules() {
    let dir = tempfile::tempdir().unwrap();
    let old = database_of_before(dir.path()).await;
    let mut reader = Reader::open(&database(dir.path())).await.unwrap();
    let replay = reader.reclassify(&Filter::default()).await.unwrap();
    assert_eq!((replay.recipients, replay.changes.len()), (2, 1));
    let change = &replay.changes[0];
    assert_eq!((change.was.as_str(), change.class.as_str()), ("other", "mailbox_full"));
    assert_eq!((change.recipients, change.session.as_str()), (1, old.to_string().as_str()));
    assert_eq!((change.rule.as_str(), change.reply.as_str()), ("full", "452 4.2.2 Mailbox full"));
    let of_globex = Filter { tenant: Some("globex".into()), ..Filter::default() };
    assert_eq!(reader.reclassify(&of_globex).await.unwrap().recipients, 0);
}

#[tokio::test]
async fn a_farewell_on_the_leg_that_was_left_is_not_taken_for_what_the_next_reply_answers() {
    let dir = tempfile::tempdir().unwrap();
    let id = SessionId::at(moment(0), 1);
    record(dir.path(), |recorder| {
        let mut log = recorder.session(start(id, "acme"));
        dial(&mut log);
        log.command(1, 2_000, Dir::CommandPassed, b"MAIL FROM:<alice@acme.example>");
        log.reply(1, 3_000, Dir::ReplyEnded, 554, "5.7.1 blocked");
        log.dialled(2, dialled(4_000));
        log.connected(2, 5_000);
        log.command(1, 6_000, Dir::SentByProxy, b"QUIT");
        log.command(2, 7_000, Dir::SentByProxy, b"MAIL FROM:<alice@acme.example>");
        let timed = log.reply(2, 9_000, Dir::ReplyPassed, 250, "2.1.0 Ok").unwrap();
        assert_eq!((&*timed.verb, timed.took_us), ("MAIL", 2_000));
        log.end(10_000, Outcome::Delivered, 0);
    })
    .await;
}
