//! What people see of recorded sessions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{os::unix::fs::MetadataExt, path::Path};

use common::{LONG, hasty, moment, start, tell};
use warren_session::{
    Dir, Filter, Outcome, Reader, Recorder, RecorderSettings, SessionId,
    reader::{ReadError, SummaryRow},
    recorder::database,
};

/// Records with `telling`, ends recording, and opens a reader.
async fn recorded(dir: &Path, telling: impl FnOnce(&Recorder)) -> Reader {
    // However busy the machine is: what the spool file holds is not read here.
    let (recorder, thread) = Recorder::in_directory(dir, RecorderSettings { patience: LONG, ..hasty(dir) }).unwrap();
    telling(&recorder);
    recorder.flush().await;
    thread.finish(LONG).await;
    Reader::open(&database(dir)).await.unwrap()
}

#[tokio::test]
async fn a_transcript_tells_who_said_what_which_way_and_when() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = recorded(dir.path(), |recorder| tell(recorder, SessionId::at(moment(0), 5), "acme")).await;
    let expected = "\
session 32wfvnptq0000005  tenant acme  cell 7  to mx1.postfix.example [198.51.100.10]:25
2026-11-21T22:14:54.123456Z  delivered after 1.020000 s, 5123 bytes of content

        at       took
  0.000150             ==  leg 1 from 203.0.113.11, connected after 0.000750 s, TLSv1.3 TLS13_AES_256_GCM_SHA384 not trusted
  0.002000   0.001100  <-  220 mx1.postfix.example ESMTP Postfix
  0.002400             >|  EHLO mail.acme.example
  0.002450             |>  EHLO out1.warren.example
  0.002900   0.000450  |<  250-mx1.postfix.example
                       |<  250-PIPELINING
                       |<  250 STARTTLS
  0.002950             |>  STARTTLS
  0.003300   0.000350  |<  220 2.0.0 Ready to start TLS
  0.006000             <|  250-mx1.postfix.example
                       <|  250 PIPELINING
  0.006400             ->  MAIL FROM:<alice@acme.example>
  0.006405             ->  RCPT TO:<bob@postfix.example>
  0.006410             ->  DATA
  0.007000   0.000600  <-  250 2.1.0 Ok
  0.007200   0.000200  <-  250 2.1.5 Ok
  0.007210   0.000010  <-  354 End data with <CR><LF>.<CR><LF>
  0.009000             ->  .
  1.019000   1.010000  <-  250 2.0.0 Ok: queued as 4Xq8k01xwz

message 1  from <alice@acme.example>, 5123 bytes, <1@acme.example>: delivered, 250
  to <bob@postfix.example>: delivered, 250 2.0.0 Ok: queued as 4Xq8k01xwz
";
    let shown = reader.show("32wfvnptq0000005").await.unwrap();
    assert_eq!(shown, expected, "\n{shown}");
}

#[tokio::test]
async fn nothing_that_an_mx_says_reaches_the_terminal_raw() {
    let dir = tempfile::tempdir().unwrap();
    let id = SessionId::at(moment(0), 5);
    let mut reader = recorded(dir.path(), |recorder| {
        let mut start = start(id, "acme");
        start.mx_name = Some("mx\u{1b}]0;owned\u{7}.example".into());
        let mut log = recorder.session(start);
        log.reply(1, 10, Dir::ReplyPassed, 220, "\u{1b}[2J\u{1b}[31mhello\u{202e}\r\nleft\u{9b}");
        log.command(1, 20, Dir::CommandPassed, b"AUTH PLAIN c2VjcmV0");
        log.end(30, Outcome::MxLost, 0);
    })
    .await;
    let shown = reader.show(&id.to_string()).await.unwrap();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(shown.contains(r"220-\x1b[2J\x1b[31mhello\u{202e}\r"), "{shown}");
    assert!(shown.contains(r"220 left\u{9b}"), "{shown}");
    assert!(shown.contains(r"mx\x1b]0;owned\x07.example"), "{shown}");
    assert!(shown.contains("AUTH PLAIN [redacted]") && !shown.contains("c2VjcmV0"), "{shown}");
}

#[tokio::test]
async fn sessions_are_listed_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let id = |n: u32| SessionId::at(moment(u64::from(n)), n);
    let mut reader = recorded(dir.path(), |recorder| {
        (0..10).for_each(|n| tell(recorder, id(n), if n % 2 == 0 { "acme" } else { "globex" }));
    })
    .await;
    let all = reader.list(&Filter::default()).await.unwrap();
    assert_eq!(all.len(), 10);
    assert_eq!(all[0].id, id(9).to_string(), "the newest first");
    assert_eq!((all[0].tls_version.as_deref(), all[0].egress.as_deref()), (Some("TLSv1.3"), Some("203.0.113.11")));
    let some = Filter { tenant: Some("acme".into()), since: Some(moment(3)), limit: Some(2) };
    let ids: Vec<_> = reader.list(&some).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, [id(8).to_string(), id(6).to_string()]);
    let full = id(4).to_string();
    assert_eq!(reader.find(&full.to_uppercase()).await.unwrap(), full);
    assert_eq!(reader.find(&full[8..]).await.unwrap(), full, "its end is enough");
    assert!(matches!(reader.find(&full[..3]).await, Err(ReadError::Ambiguous(_))));
    for nothing in ["", "zzzzzzzz", "%", "_", "' OR 1=1", "000000000000000000"] {
        assert!(matches!(reader.find(nothing).await, Err(ReadError::Unknown(_))), "{nothing}");
    }
    assert!(matches!(reader.show(&id(99).to_string()).await, Err(ReadError::Unknown(_))));
}

#[tokio::test]
async fn the_summary_counts_and_measures() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = recorded(dir.path(), |recorder| {
        (0..3).for_each(|n| tell(recorder, SessionId::at(moment(n), 1), "acme"));
        let id = SessionId::at(moment(4), 1);
        let mut log = recorder.session(start(id, "acme"));
        (1..=100).for_each(|n| {
            log.command(1, n * 10_000, Dir::CommandPassed, b"NOOP");
            log.reply(1, n * 10_000 + n, Dir::ReplyPassed, 250, "Ok");
        });
        log.end(9_000_000, Outcome::Unused, 0);
    })
    .await;
    let row = |tls: Option<&str>, outcome: &str, sessions, replies, p50, p99| SummaryRow {
        tenant: "acme".into(),
        destination: "mx1.postfix.example".into(),
        tls_version: tls.map(Into::into),
        outcome: Some(outcome.into()),
        sessions,
        replies,
        p50_us: Some(p50),
        p99_us: Some(p99),
    };
    let summary = reader.summary(&Filter::default()).await.unwrap();
    assert_eq!(
        summary,
        [row(Some("TLSv1.3"), "delivered", 3, 21, 450, 1_010_000), row(None, "unused", 1, 100, 50, 99)]
    );
    let none = Filter { tenant: Some("globex".into()), ..Filter::default() };
    assert_eq!(reader.summary(&none).await.unwrap(), []);
}

fn files(dir: &Path) -> Vec<(String, u32)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().uid())).collect();
    files.sort();
    files
}

#[tokio::test]
async fn reading_leaves_no_files_behind() {
    let dir = tempfile::tempdir().unwrap();
    let id = SessionId::at(moment(0), 5);
    let mut reader = recorded(dir.path(), |recorder| tell(recorder, id, "acme")).await;
    let before = files(dir.path());
    assert!(!before.iter().any(|(name, _)| name.ends_with("-wal")), "the recorder has closed it: {before:?}");
    reader.show(&id.to_string()).await.unwrap();
    drop(reader);
    assert_eq!(files(dir.path()), before);
}

#[tokio::test]
async fn reading_as_root_leaves_no_files_of_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let patient = RecorderSettings { patience: LONG, ..hasty(dir.path()) };
    let (recorder, _thread) = Recorder::in_directory(dir.path(), patient).unwrap();
    let id = SessionId::at(moment(0), 5);
    tell(&recorder, id, "acme");
    recorder.flush().await;
    // As after a kill: a copy with its write-ahead log, without the index of it.
    let killed = tempfile::tempdir().unwrap();
    let owner =
        if std::fs::metadata(&path).unwrap().uid() == 0 { 65_534 } else { std::fs::metadata(&path).unwrap().uid() };
    for name in ["sessions.db", "sessions.db-wal"] {
        let copy = killed.path().join(name);
        std::fs::copy(dir.path().join(name), &copy).unwrap();
        std::os::unix::fs::chown(&copy, Some(owner), None).unwrap();
    }
    let mut reader = Reader::open(&database(killed.path())).await.unwrap();
    assert_eq!(reader.list(&Filter::default()).await.unwrap().len(), 1);
    drop(reader);
    assert!(files(killed.path()).iter().all(|(_, uid)| *uid == owner), "{:?}", files(killed.path()));
    // And while the recorder has it open.
    let mut reader = Reader::open(&path).await.unwrap();
    assert_eq!(reader.list(&Filter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn no_database_is_said_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(&database(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("no session was recorded yet"), "{error}");
    std::fs::write(database(dir.path()), "not a database, by far not a database, not at all").unwrap();
    let mut reader = Reader::open(&database(dir.path())).await;
    let failed = match &mut reader {
        Ok(reader) => reader.list(&Filter::default()).await.is_err(),
        Err(_) => true,
    };
    assert!(failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_goes_on_while_proxies_come_write_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let (written, mut seen) = tokio::sync::watch::channel(0);
    let telling = dir.path().to_owned();
    let writing = tokio::spawn(async move {
        for round in 0..20 {
            // Everything into the database, however slow: nothing is to wait in the spool file.
            let patient = RecorderSettings { patience: LONG, ..hasty(&telling) };
            let (recorder, thread) = Recorder::in_directory(&telling, patient).unwrap();
            for n in 0..10 {
                tell(&recorder, SessionId::at(moment(round * 10 + n), 5), "acme");
                recorder.flush().await;
            }
            // The write-ahead log goes with the last one who has it open.
            thread.finish(LONG).await;
            written.send_replace(usize::try_from(round + 1).unwrap() * 10);
        }
    });
    let mut most = 0;
    loop {
        let (ended, at_least) = (writing.is_finished(), *seen.borrow_and_update());
        let listed = async {
            let mut reader = Reader::open(&path).await?;
            let listed = reader.list(&Filter { limit: Some(1_000), ..Filter::default() }).await?;
            if let Some(newest) = listed.first() {
                reader.show(&newest.id).await?;
            }
            Ok::<_, ReadError>(listed.len())
        };
        match listed.await {
            Ok(count) => {
                assert!(count >= at_least && count >= most, "{count} after {most}, of {at_least} or more");
                most = count;
            }
            Err(ReadError::Missing(_)) if most == 0 => {}
            Err(error) => panic!("{error}"),
        }
        if ended {
            break;
        }
    }
    writing.await.unwrap();
    assert_eq!(most, 200);
}
