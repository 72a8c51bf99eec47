//! Nothing is lost while the database is slow, locked, gone or broken, and what is lost is known.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    future::pending,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime},
};

use common::{LONG, dialled, end, exchange, hasty, moment, start, tell, tls, until};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::borrow::Cow;

use warren_session::{
    Bundle, Dir, Filter, LegNews, Outcome, PolicyFacts, Reader, Record, Recorder, RecorderSettings, SessionId,
    SessionStore, StoreError, recorder::database, sqlite::SqliteStore,
};

async fn open(dir: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database(dir)).connect().await.unwrap()
}

async fn count(dir: &Path, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(&mut open(dir).await).await.unwrap()
}

const EXCHANGES: &str = "SELECT count(*) FROM exchanges";

/// Records a session of `exchanges` noops; says how many records that makes.
fn noops(recorder: &Recorder, id: SessionId, exchanges: u32) -> u64 {
    let mut log = recorder.session(start(id, "acme"));
    (1..=u64::from(exchanges)).for_each(|n| {
        log.reply(1, n, Dir::ReplyPassed, 250, "2.0.0 Ok");
    });
    log.end(9, Outcome::Unused, 0);
    u64::from(exchanges) + 2
}

#[tokio::test]
async fn what_is_recorded_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    // However busy the disk is: what takes long would be in the spool file, where nobody reads it back.
    let settings = RecorderSettings { patience: LONG, ..RecorderSettings::new(dir.path()) };
    let (recorder, thread) = Recorder::in_directory(dir.path(), settings).unwrap();
    let id = SessionId::at(moment(0), 5);
    tell(&recorder, id, "acme");
    recorder.flush().await;
    let recorded = Reader::open(&database(dir.path())).await.unwrap().load(&id.to_string()).await.unwrap();
    assert_eq!(recorded.session.tenant, "acme");
    assert_eq!(recorded.session.mx_address, "198.51.100.10");
    assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"));
    assert_eq!(recorded.session.ended_us.unwrap() - recorded.session.started_us, 1_020_000);
    assert_eq!(recorded.legs[0].tls_version.as_deref(), Some("TLSv1.3"));
    assert_eq!(recorded.exchanges.len(), 15);
    let last = recorded.exchanges.last().unwrap();
    assert_eq!(
        (last.verb.as_str(), last.code, last.enhanced.as_deref(), last.took_us),
        (".", Some(250), Some("2.0.0"), Some(1_010_000))
    );
    assert_eq!(
        (recorded.messages[0].size, recorded.recipients[0].forward_path.as_str()),
        (5_123, "bob@postfix.example")
    );
    thread.finish(LONG).await;
}

#[tokio::test]
async fn written_twice_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::new(database(dir.path()));
    let id = SessionId::at(moment(0), 1);
    let start = Record::Start(Cow::Owned(start(id, "acme")));
    let begun = Record::Leg(1, LegNews::Dialled(dialled(5)));
    let batch = [start, begun, exchange(1), exchange(2), end()].map(|record| (id, record));
    let bundle = Bundle::of(batch);
    store.write(&bundle).await.unwrap();
    store.write(&bundle).await.unwrap();
    assert_eq!(count(dir.path(), EXCHANGES).await, 2);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM legs").await, 1);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM sessions WHERE outcome = 'unused'").await, 1);
}

/// What became known of a session piece by piece, in whichever batches it comes, and again after a restart.
#[tokio::test]
async fn batches_cut_anywhere_say_the_same() {
    let id = SessionId::at(moment(0), 1);
    let policies =
        vec![PolicyFacts { domain: "b.example".into(), policy: "dane".into(), satisfied: true, reason: None }];
    let story = [
        Record::Start(Cow::Owned(start(id, "acme"))),
        Record::Leg(1, LegNews::Dialled(dialled(5))),
        Record::Leg(1, LegNews::Connected(9)),
        exchange(1),
        Record::Leg(1, LegNews::Secured(Cow::Owned(tls()))),
        Record::Leg(1, LegNews::Offered(Cow::Owned(vec!["SIZE".into()]))),
        exchange(2),
        Record::Leg(1, LegNews::Failed("something dropped")),
        Record::Leg(1, LegNews::Judged(Cow::Owned(policies))),
        end(),
    ];
    let mut expected = None;
    for at in 0..story.len() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::new(database(dir.path()));
        let of = |records: &[Record<'static>]| Bundle::of(records.iter().cloned().map(|record| (id, record)));
        let (first, second) = story.split_at(at);
        // The first comes again: nobody knew whether it had been written.
        for bundle in [of(first), of(first), of(second)] {
            store.write(&bundle).await.unwrap();
        }
        store.close().await;
        let recorded = Reader::open(&database(dir.path())).await.unwrap().load(&id.to_string()).await.unwrap();
        assert_eq!(recorded.exchanges.len(), 2);
        assert_eq!(recorded.session.outcome.as_deref(), Some("unused"));
        let leg = &recorded.legs[0];
        assert_eq!((leg.connected_us, leg.error.as_deref()), (Some(9), Some("something dropped")));
        assert_eq!((leg.tls_version.as_deref(), leg.extensions.as_str()), (Some("TLSv1.3"), r#"["SIZE"]"#));
        assert!(leg.tls.as_deref().unwrap().contains(r#""domain":"b.example""#), "{leg:?}");
        assert_eq!(*expected.get_or_insert_with(|| recorded.clone()), recorded, "cut at {at}");
    }
}

#[tokio::test]
async fn a_locked_database_sends_records_to_the_spool_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    let mut sent = noops(&recorder, SessionId::at(moment(0), 1), 10);
    recorder.flush().await;
    let mut other = open(dir.path()).await;
    let lock = other.begin_with("BEGIN EXCLUSIVE").await.unwrap();
    for n in 2..5 {
        sent += noops(&recorder, SessionId::at(moment(n), 1), 10);
        recorder.flush().await;
    }
    let stats = until(&recorder, |stats| stats.spooled >= 36).await;
    assert_eq!((stats.loaded, stats.dropped), (0, 0));
    lock.rollback().await.unwrap();
    until(&recorder, |stats| stats.loaded >= 36 && stats.stored >= sent).await;
    assert_eq!(count(dir.path(), EXCHANGES).await, 40);
    assert_eq!(std::fs::metadata(dir.path().join("spool")).unwrap().len(), 0, "emptied");
    noops(&recorder, SessionId::at(moment(9), 1), 10);
    recorder.flush().await;
    assert_eq!(count(dir.path(), EXCHANGES).await, 50, "directly again");
}

#[tokio::test]
async fn a_missing_directory_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let (recorder, _thread) = Recorder::in_directory(&absent, hasty(dir.path())).unwrap();
    let sent = noops(&recorder, SessionId::at(moment(0), 1), 100);
    until(&recorder, |stats| stats.spooled == sent).await;
    std::fs::create_dir(&absent).unwrap();
    until(&recorder, |stats| stats.loaded == sent).await;
    assert_eq!(count(&absent, EXCHANGES).await, 100);
}

#[tokio::test]
async fn a_database_that_was_deleted_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    noops(&recorder, SessionId::at(moment(0), 1), 3);
    recorder.flush().await;
    for name in ["sessions.db", "sessions.db-wal", "sessions.db-shm"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    noops(&recorder, SessionId::at(moment(1), 1), 4);
    until(&recorder, |stats| stats.stored >= 11).await;
    assert_eq!(count(dir.path(), EXCHANGES).await, 4);
}

/// Fails, hangs or works, as told.
struct Moody {
    store: SqliteStore,
    mood: Arc<AtomicBool>,
    hang: bool,
}

impl SessionStore for Moody {
    async fn write(&mut self, records: &Bundle) -> Result<(), StoreError> {
        if !self.mood.load(Ordering::SeqCst) {
            if self.hang {
                // As SQLite on a file server that went away; then given up.
                let _ = tokio::time::timeout(Duration::from_millis(500), pending::<()>()).await;
            }
            let source = sqlx::Error::Protocol("attempt to write a readonly database".into());
            return Err(StoreError::Transaction { action: "write session records", source });
        }
        self.store.write(records).await
    }

    async fn prune(&mut self, _time: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_read_only_or_hanging_store_loses_nothing() {
    for hang in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mood = Arc::new(AtomicBool::new(false));
        let store = Moody { store: SqliteStore::new(database(dir.path())), mood: Arc::clone(&mood), hang };
        let (recorder, _thread) =
            Recorder::start(store, RecorderSettings { batch: 4_000, ..hasty(dir.path()) }).unwrap();
        let mut sent = 0;
        for n in 0..20 {
            let began = Instant::now();
            sent += noops(&recorder, SessionId::at(moment(n), 1), 100);
            assert!(began.elapsed() < Duration::from_millis(300), "the mail path does not wait");
            recorder.flush().await;
        }
        assert!(until(&recorder, |stats| stats.spooled >= sent).await.failures < 2_000);
        mood.store(true, Ordering::SeqCst);
        until(&recorder, |stats| stats.loaded >= sent).await;
        assert_eq!(count(dir.path(), EXCHANGES).await, 2_000);
        assert_eq!(count(dir.path(), "SELECT count(*) FROM sessions WHERE outcome IS NOT NULL").await, 20);
        assert_eq!(count(dir.path(), "SELECT count(*) FROM gaps").await, 0);
    }
}

/// Its schema is not to be brought up to date, each time after much work.
struct Outdated;

impl SessionStore for Outdated {
    async fn write(&mut self, _: &Bundle) -> Result<(), StoreError> {
        let full = sqlx::Error::Protocol("database or disk is full".into());
        let source = Box::new(sqlx::migrate::MigrateError::ExecuteMigration(full, 3));
        Err(StoreError::Migrate { path: "sessions.db".into(), source })
    }

    async fn prune(&mut self, _: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_schema_that_cannot_be_brought_up_to_date_is_left_alone_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _thread) = Recorder::start(Outdated, hasty(dir.path())).unwrap();
    let sent = noops(&recorder, SessionId::at(moment(0), 1), 10);
    until(&recorder, |stats| stats.spooled >= sent).await;
    // Meanwhile one that fails for another reason is tried again and again.
    let store = Moody { store: SqliteStore::new(database(dir.path())), mood: Arc::default(), hang: false };
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _other) = Recorder::start(store, hasty(elsewhere.path())).unwrap();
    noops(&other, SessionId::at(moment(0), 1), 10);
    until(&other, |stats| stats.failures >= 10).await;
    recorder.flush().await;
    let stats = until(&recorder, |_| true).await;
    assert_eq!((stats.failures, stats.dropped), (1, 0), "others were tried ten times");
}

#[tokio::test]
async fn the_next_process_loads_what_the_last_one_spooled() {
    let dir = tempfile::tempdir().unwrap();
    let store = Moody { store: SqliteStore::new(database(dir.path())), mood: Arc::default(), hang: false };
    let (recorder, thread) = Recorder::start(store, hasty(dir.path())).unwrap();
    let sent = noops(&recorder, SessionId::at(moment(0), 1), 50);
    thread.finish(LONG).await;
    // What a kill in the middle of a write leaves: the beginning of a frame.
    let spool = dir.path().join("spool");
    let mut frames = std::fs::read(&spool).unwrap();
    frames.extend_from_within(..100);
    std::fs::write(&spool, frames).unwrap();
    let (recorder, _thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    noops(&recorder, SessionId::at(moment(1), 1), 50);
    let stats = until(&recorder, |stats| stats.stored > 2 * sent).await;
    assert_eq!(stats.dropped, 1, "the torn frame");
    assert_eq!(count(dir.path(), EXCHANGES).await, 100);
    assert_eq!(count(dir.path(), "SELECT records FROM gaps").await, 1);
}

#[tokio::test]
async fn a_full_disk_loses_records_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("spool");
    symlink("/dev/full", &full).unwrap();
    let mood = Arc::new(AtomicBool::new(false));
    let store = Moody { store: SqliteStore::new(database(dir.path())), mood: Arc::clone(&mood), hang: false };
    let (recorder, _thread) = Recorder::start(store, RecorderSettings { memory: 10_000, ..hasty(dir.path()) }).unwrap();
    let sent = noops(&recorder, SessionId::at(moment(0), 1), 1_000);
    let lost = until(&recorder, |stats| stats.dropped >= sent / 2).await.dropped;
    std::fs::remove_file(&full).unwrap();
    mood.store(true, Ordering::SeqCst);
    until(&recorder, |stats| stats.stored > sent - lost).await;
    let kept = u64::try_from(count(dir.path(), EXCHANGES).await).unwrap();
    assert_eq!(kept, sent - lost - 1, "what fitted in memory, without the start");
    assert!(kept > 100, "{kept}");
    assert_eq!(u64::try_from(count(dir.path(), "SELECT records FROM gaps").await).unwrap(), lost);
}

#[tokio::test]
async fn a_spool_file_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = Moody { store: SqliteStore::new(database(dir.path())), mood: Arc::default(), hang: false };
    let settings = RecorderSettings { memory: 10, batch: 100_000, spool_bytes: 1_000_000, ..hasty(dir.path()) };
    let (recorder, _thread) = Recorder::start(store, settings).unwrap();
    for n in 0..600 {
        noops(&recorder, SessionId::at(moment(n), 1), 100);
    }
    until(&recorder, |stats| stats.dropped > 1_000).await;
    let size = std::fs::metadata(dir.path().join("spool")).unwrap().len();
    assert!((700_000..=1_000_000).contains(&size), "{size}");
}

/// Blocks the recording thread itself.
struct Blocked(mpsc::Receiver<()>, SqliteStore);

impl SessionStore for Blocked {
    async fn write(&mut self, records: &Bundle) -> Result<(), StoreError> {
        let _ = self.0.recv();
        self.1.write(records).await
    }

    async fn prune(&mut self, _time: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// Takes its thread with it.
struct Mortal;

impl SessionStore for Mortal {
    async fn write(&mut self, _: &Bundle) -> Result<(), StoreError> {
        panic!("the store is out of order")
    }

    async fn prune(&mut self, _time: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_thread_that_ends_without_an_answer_is_followed_by_another_and_costs_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, thread) = Recorder::start(Mortal, hasty(dir.path())).unwrap();
    let sent = noops(&recorder, SessionId::at(moment(0), 1), 10);
    until(&recorder, |stats| stats.failures > 2).await;
    drop(recorder);
    thread.finish(LONG).await;
    let (recorder, _thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    until(&recorder, |stats| stats.loaded == sent).await;
}

#[tokio::test]
async fn a_store_that_stands_still_holds_up_no_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (release, blocked) = mpsc::channel();
    let store = Blocked(blocked, SqliteStore::new(database(dir.path())));
    // No full sheet has room there, however fast the recorder is.
    let (recorder, _thread) = Recorder::start(store, RecorderSettings { desk: 3_000, ..hasty(dir.path()) }).unwrap();
    // The store moves when it is released, and not before: whoever waited for it here would wait for ever.
    let sent = (0..50).map(|n| noops(&recorder, SessionId::at(moment(n), 1), 1_000)).sum::<u64>();
    drop(release);
    // What was being written when the store stood still is written twice, and is there once.
    until(&recorder, |stats| stats.dropped > 0 && stats.stored > sent - stats.dropped).await;
    // Safe is also what stands in the spool file; it has to be loaded to be counted.
    recorder.flush().await;
    let stats = until(&recorder, |stats| stats.loaded == stats.spooled).await;
    let all = "SELECT (SELECT count(*) FROM exchanges) + (SELECT count(*) FROM sessions) + (SELECT count(ended_us) FROM sessions)";
    let gaps = "SELECT sum(records) FROM gaps";
    let (there, missing) = (count(dir.path(), all).await, count(dir.path(), gaps).await);
    assert_eq!(u64::try_from(missing).unwrap(), stats.dropped);
    assert!(
        u64::try_from(there + missing).unwrap() >= sent - 50,
        "everything, or a gap for it, but for ends without a beginning"
    );
}

#[tokio::test]
async fn a_hundred_thousand_exchanges_are_a_matter_of_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, thread) =
        Recorder::in_directory(dir.path(), RecorderSettings { memory: 16 << 20, ..RecorderSettings::new(dir.path()) })
            .unwrap();
    let began = Instant::now();
    for n in 0..1_000 {
        noops(&recorder, SessionId::at(moment(n), 1), 100);
    }
    let told = began.elapsed();
    thread.finish(LONG).await;
    let (written, stats) = (began.elapsed(), *recorder.stats().borrow());
    println!("102,000 records: told in {told:?}, written in {written:?}, {stats:?}");
    assert_eq!(stats.dropped, 0);
    assert!(written < LONG);
    if stats.spooled == 0 {
        assert_eq!(count(dir.path(), EXCHANGES).await, 100_000);
    }
}

#[tokio::test]
async fn old_sessions_are_forgotten_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    for n in 0..1_200 {
        noops(&recorder, SessionId::at(moment(n), 1), 2);
    }
    until(&recorder, |stats| stats.stored >= 4 * 1_200).await;
    thread.finish(LONG).await;
    let mut store = SqliteStore::new(database(dir.path()));
    let limit = moment(1_000);
    let mut forgotten = 0;
    loop {
        match store.prune(limit).await.unwrap() {
            0 => break,
            some => forgotten += some,
        }
    }
    assert_eq!(forgotten, 1_000);
    assert_eq!(count(dir.path(), EXCHANGES).await, 2 * 200);
}

/// Not a test: what `a_killed_process_leaves_a_sound_database` kills.
#[tokio::test]
async fn child_that_records() {
    let Ok(dir) = std::env::var("WARREN_SESSION_TEST_DIRECTORY") else { return };
    let dir = Path::new(&dir);
    let (recorder, _thread) = Recorder::in_directory(dir, RecorderSettings { batch: 2_000, ..hasty(dir) }).unwrap();
    for n in 0.. {
        noops(&recorder, SessionId::at(moment(n), 1), 20);
        recorder.flush().await;
    }
}

#[tokio::test]
async fn a_killed_process_leaves_a_sound_database() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_records"])
            .env("WARREN_SESSION_TEST_DIRECTORY", dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let grown = async {
            let mut wanted = 0;
            loop {
                tokio::task::yield_now().await;
                let Ok(mut reader) = Reader::open(&database(dir.path())).await else { continue };
                let Ok(sessions) = reader.list(&Filter { limit: Some(100_000), ..Filter::default() }).await else {
                    continue;
                };
                wanted = if wanted == 0 { sessions.len() + 20 * round } else { wanted };
                if sessions.len() >= wanted || sessions.len() > 5_000 {
                    break;
                }
            }
        };
        // The first round's records come again in the later ones: they change nothing.
        let _ = tokio::time::timeout(Duration::from_secs(2), grown).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (recorder, thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    noops(&recorder, SessionId::new(), 20);
    until(&recorder, |stats| stats.stored >= 22).await;
    thread.finish(LONG).await;
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut open(dir.path()).await).await.unwrap();
    assert_eq!(check, "ok");
    let torn = "SELECT count(*) FROM sessions s WHERE outcome IS NOT NULL AND (SELECT count(*) FROM exchanges WHERE session = s.id) <> 20";
    assert_eq!(count(dir.path(), torn).await, 0, "a session that ended is whole");
    assert!(count(dir.path(), "SELECT count(*) FROM sessions WHERE outcome IS NOT NULL").await > 20);
}
