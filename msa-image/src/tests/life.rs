//! Sleeping, waking, draining, dying.

use super::harness::{LIMIT, Mx, Node, World, make_due};
use crate::clock::now_ms;
use crate::delivery::route::LookupError;
use crate::testing::settings;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use warren_control::{FromMsa, ToMsa};

const CONTENT: &[u8] = b"From: alice@acme.example\r\n\r\nBody.\r\n";

fn next_due(volume: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(volume.join(warren_queue::NEXT_DUE_FILE)).ok()?;
    Some(text.strip_suffix('\n').unwrap().parse().unwrap())
}

#[tokio::test]
async fn with_nothing_to_do_it_sleeps() {
    let volume = tempfile::tempdir().unwrap();
    let node = Node::start(volume.path(), &Arc::default(), settings()).await;
    let last = node.wait_for(|message| matches!(message, FromMsa::Sleeping { .. })).await;
    assert_eq!(last, FromMsa::Sleeping { next_due_unix_ms: None });
    timeout(LIMIT, node.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(node.submission).await.is_err());
    assert_eq!(next_due(volume.path()), None);
}

#[tokio::test]
async fn it_sleeps_over_deferred_mail_and_delivers_when_woken() {
    let volume = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.mx("x.example", Err(LookupError::Temporary("SERVFAIL".into())));
    let mut short = settings();
    short.idle_ms = 100;
    let node = Node::start(volume.path(), &world, short.clone()).await;
    let mut client = node.alice().await;
    assert!(client.send("<alice@acme.example>", &["<bob@x.example>"], CONTENT).await.starts_with("250 "));
    drop(client);
    let FromMsa::Sleeping { next_due_unix_ms: Some(due) } =
        node.wait_for(|message| matches!(message, FromMsa::Sleeping { .. })).await
    else {
        panic!("something is due")
    };
    timeout(LIMIT, node.task).await.unwrap().unwrap();
    assert_eq!(next_due(volume.path()), Some(due));
    let mx = Mx::willing().await;
    world.domain("x.example", &mx);
    make_due(volume.path());
    let node = Node::start(volume.path(), &world, short).await;
    assert!(mx.wait_for(1).await[0].content.ends_with(CONTENT));
    node.wait_for(|message| matches!(message, FromMsa::Sleeping { next_due_unix_ms: None })).await;
}

#[tokio::test]
async fn whoever_is_connected_keeps_it_awake() {
    let volume = tempfile::tempdir().unwrap();
    let mut short = settings();
    short.idle_ms = 20;
    let mut node = Node::start(volume.path(), &Arc::default(), short).await;
    let mut client = node.alice().await;
    let ten_idle_times = std::time::Duration::from_millis(200);
    assert!(timeout(ten_idle_times, &mut node.task).await.is_err(), "still awake");
    assert!(client.ask("NOOP").await.starts_with("250 "));
    drop(client);
    timeout(LIMIT, node.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn killed_after_the_acknowledgement_nothing_is_lost() {
    let volume = tempfile::tempdir().unwrap();
    let (world, slow, fast) =
        (Arc::new(World::default()), Mx::start(|_| Some("HANG".into())).await, Mx::willing().await);
    world.domain("x.example", &slow);
    let node = Node::start(volume.path(), &world, settings()).await;
    let before = now_ms();
    let mut client = node.alice().await;
    for _ in 0..5 {
        assert!(client.send("<alice@acme.example>", &["<bob@x.example>"], CONTENT).await.starts_with("250 "));
        let due = next_due(volume.path()).expect("written before the acknowledgement");
        assert!(due <= now_ms() && due >= before);
    }
    node.kill().await;
    world.domain("x.example", &fast);
    let _node = Node::start(volume.path(), &world, settings()).await;
    assert_eq!(fast.wait_for(5).await.len(), 5);
}

#[tokio::test]
async fn drained_it_finishes_what_it_began() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = (Arc::new(World::default()), Mx::start(|_| Some("HANG".into())).await);
    world.domain("x.example", &mx);
    let node = Node::start(volume.path(), &world, settings()).await;
    let (mut idle, mut busy) = (node.alice().await, node.alice().await);
    busy.ask("MAIL FROM:<alice@acme.example>").await;
    busy.ask("RCPT TO:<bob@x.example>").await;
    busy.ask("DATA").await;
    busy.write(&CONTENT[..10]).await;
    let mut platform = UnixStream::connect(&node.control.0).await.unwrap();
    warren_control::send(&mut platform, &ToMsa::Drain).await.unwrap();
    assert!(idle.reply().await.starts_with("421 4.3.2 "));
    busy.write(&CONTENT[10..]).await;
    busy.write(b".\r\n").await;
    assert!(busy.reply().await.starts_with("250 2.0.0 queued as "));
    assert!(busy.reply().await.starts_with("421 4.3.2 "));
    platform.flush().await.unwrap();
    timeout(LIMIT, node.task).await.unwrap().unwrap();
    assert!(next_due(volume.path()).is_some_and(|due| due <= now_ms()), "what was accepted is due at once");
}

#[tokio::test]
async fn what_ends_after_the_drain_is_not_accepted() {
    let volume = tempfile::tempdir().unwrap();
    let node = Node::start_patient(volume.path(), &Arc::default(), std::time::Duration::ZERO).await;
    node.connect(settings()).await;
    let mut late = node.alice().await;
    late.ask("MAIL FROM:<alice@acme.example>").await;
    late.ask("RCPT TO:<bob@x.example>").await;
    late.ask("DATA").await;
    let mut platform = UnixStream::connect(&node.control.0).await.unwrap();
    warren_control::send(&mut platform, &ToMsa::Drain).await.unwrap();
    late.try_write(&[CONTENT, b".\r\n"].concat()).await;
    let mut heard = warren_control::LineReader::new(platform);
    let mut last = None;
    while let Ok(Some(message)) = timeout(LIMIT, heard.recv::<FromMsa>()).await.unwrap() {
        last = Some(message);
    }
    timeout(LIMIT, node.task).await.unwrap().unwrap();
    let accepted = late.rest().await.contains("250 2.0.0 queued as ");
    let Some(FromMsa::Sleeping { next_due_unix_ms }) = last else { panic!("no last word: {last:?}") };
    // Whoever was told 250 is known to the last word and to the file.
    assert!(!accepted || next_due_unix_ms.is_some() && next_due(volume.path()).is_some());
    let queued = warren_queue::Queue::open(&volume.path().join("queue")).unwrap().scan().unwrap().messages;
    assert_eq!(queued.len(), usize::from(next_due_unix_ms.is_some()));
}

#[tokio::test]
async fn a_start_is_quick() {
    // Generous bounds, for loaded machines; the figure itself is in the log line.
    let volume = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let node = Node::start(volume.path(), &Arc::default(), settings()).await;
    drop(node.alice().await);
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
    node.wait_for_log("first banner").await;
}
