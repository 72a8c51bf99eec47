//! Where mail goes, and what comes back.

use super::harness::{Mx, Node, Taken, World, make_due};
use crate::delivery::route::LookupError;
use crate::testing::settings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use warren_control::{FromMsa, Stats};

const CONTENT: &[u8] = b"From: alice@acme.example\r\nSubject: x\r\n\r\nBody.\r\n";

/// A world in which reports reach alice.
async fn world() -> (Arc<World>, Mx) {
    let (world, home) = (Arc::new(World::default()), Mx::willing().await);
    world.domain("acme.example", &home);
    (world, home)
}

async fn start(world: &Arc<World>) -> (tempfile::TempDir, Node) {
    let volume = tempfile::tempdir().unwrap();
    let node = Node::start(volume.path(), world, settings()).await;
    (volume, node)
}

async fn send(node: &Node, to: &[&str]) {
    let reply = node.alice().await.send("<alice@acme.example>", to, CONTENT).await;
    assert!(reply.starts_with("250 "), "{reply}");
}

fn status(report: &Taken, line: &str) {
    let text = report.text();
    assert_eq!(report.mail.split(' ').nth(1), Some("FROM:<>"), "{}", report.mail);
    assert!(text.split("\r\n").any(|found| found == line), "{line} in {text}");
}

#[tokio::test]
async fn the_next_exchange_is_tried() {
    let (world, _home) = world().await;
    let refusing = Mx::start(|command| (command == "CONNECT").then(|| "554 5.7.1 not you".into())).await;
    let busy = Mx::start(|command| (command == "CONNECT").then(|| "421 4.3.2 busy".into())).await;
    let breaking = Mx::start(|command| command.starts_with("EHLO").then(|| "DROP".into())).await;
    let leaving = Mx::start(|command| command.starts_with("RCPT").then(|| "421 4.3.2 going".into())).await;
    let good = Mx::willing().await;
    world.mx(
        "x.example",
        Ok(vec![
            (60, "good"),
            (10, "closed"),
            (20, "refusing"),
            (30, "busy"),
            (40, "breaking"),
            (50, "leaving"),
            (5, "missing"),
        ]),
    );
    world.host("closed", None);
    for (name, mx) in
        [("refusing", &refusing), ("busy", &busy), ("breaking", &breaking), ("leaving", &leaving), ("good", &good)]
    {
        world.host(name, Some(mx.address));
    }
    let (_volume, node) = start(&world).await;
    send(&node, &["<bob@x.example>"]).await;
    assert!(good.wait_for(1).await[0].content.ends_with(CONTENT));
    assert_eq!([refusing.sessions(), busy.sessions(), breaking.sessions(), leaving.sessions()], [1; 4]);
}

#[tokio::test]
async fn every_recipient_gets_its_own_fate() {
    let (world, home) = world().await;
    let mx = Mx::start(|command| match command {
        _ if command.starts_with("RCPT TO:<never@") => Some("550 5.1.1 no such user".into()),
        _ if command.starts_with("RCPT TO:<later@") => Some("451 4.7.1 greylisted".into()),
        _ => None,
    })
    .await;
    world.domain("x.example", &mx);
    let (volume, node) = start(&world).await;
    send(&node, &["<now@x.example>", "<never@x.example>", "<later@x.example>"]).await;
    let report = home.wait_for(1).await.remove(0);
    status(&report, "Final-Recipient: rfc822; never@x.example");
    status(&report, "Status: 5.1.1");
    status(&report, "Action: failed");
    assert!(!report.text().contains("later@x.example") && report.text().contains("\r\nBody.\r\n"));
    assert!(mx.taken()[0].rcpts.iter().all(|to| to.starts_with("RCPT TO:<now@")));
    node.wait_for(|message| matches!(message, FromMsa::Due { next_due_unix_ms: Some(due) } if *due > crate::clock::now_ms() + 30_000)).await;
    // Another life: only the pending one is tried, when its time has come.
    node.drain().await;
    let willing = Mx::willing().await;
    world.domain("x.example", &willing);
    make_due(volume.path());
    let _node = Node::start(volume.path(), &world, settings()).await;
    assert_eq!(willing.wait_for(1).await[0].rcpts, ["RCPT TO:<later@x.example>"]);
    assert_eq!((home.taken().len(), mx.taken().len()), (1, 1));
}

#[tokio::test]
async fn what_dns_says() {
    let (world, home) = world().await;
    world.mx("null.example", Ok(vec![(0, "")]));
    world.mx("later.example", Err(LookupError::Temporary("SERVFAIL".into())));
    world.mx("nohost.example", Ok(vec![(0, "missing")]));
    let (_volume, node) = start(&world).await;
    send(&node, &["<a@null.example>"]).await;
    status(&home.wait_for(1).await[0], "Status: 5.1.10");
    send(&node, &["<a@nxdomain.example>"]).await;
    status(&home.wait_for(2).await[1], "Status: 5.1.2");
    send(&node, &["<a@nohost.example>"]).await;
    status(&home.wait_for(3).await[2], "Status: 5.4.4");
    send(&node, &["<a@later.example>"]).await;
    node.wait_for_log("a@later.example: deferred").await;
}

#[tokio::test]
async fn an_address_literal_needs_no_dns() {
    let (world, _home) = world().await;
    let mx = Mx::willing().await;
    world.host("x", Some(mx.address));
    let (_volume, node) = start(&world).await;
    send(&node, &["<bob@[192.0.2.2]>"]).await;
    mx.wait_for(1).await;
}

#[tokio::test]
async fn a_report_is_never_reported() {
    let world = Arc::new(World::default());
    world.mx("acme.example", Ok(vec![(0, "")]));
    let (volume, node) = start(&world).await;
    send(&node, &["<a@nxdomain.example>"]).await;
    node.wait_for_log("nobody to tell").await;
    node.wait_for(|message| matches!(message, FromMsa::Stats(Stats { queued: 0, bounced: 2, .. }))).await;
    node.kill().await;
    assert!(warren_queue::Queue::open(&volume.path().join("queue")).unwrap().scan().unwrap().messages.is_empty());
}

#[tokio::test]
async fn time_runs_out() {
    let (world, home) = world().await;
    let mx = Mx::start(|command| command.starts_with("MAIL").then(|| "451 4.3.0 never in the mood".into())).await;
    world.domain("x.example", &mx);
    let volume = tempfile::tempdir().unwrap();
    let mut settings = settings();
    (settings.retry.first_ms, settings.retry.max_ms, settings.retry.expire_ms) = (20, 40, 200);
    let node = Node::start(volume.path(), &world, settings).await;
    send(&node, &["<bob@x.example>"]).await;
    let report = home.wait_for(1).await.remove(0);
    status(&report, "Status: 5.3.0");
    status(&report, "Diagnostic-Code: smtp; 451 4.3.0 never in the mood");
    assert!(mx.sessions() >= 3, "{} attempts", mx.sessions());
}

#[tokio::test]
async fn a_tarpit_delays_nobody_else() {
    let (world, _home) = world().await;
    let (tarpit, fast) = (Mx::start(|_| Some("HANG".into())).await, Mx::willing().await);
    world.domain("tarpit.example", &tarpit);
    world.domain("fast.example", &fast);
    let (_volume, node) = start(&world).await;
    for _ in 0..12 {
        send(&node, &["<x@tarpit.example>"]).await;
    }
    let started = Instant::now();
    send(&node, &["<x@fast.example>"]).await;
    fast.wait_for(1).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(tarpit.sessions() <= crate::delivery::board::PER_DESTINATION);
}

#[tokio::test]
async fn one_session_takes_several_messages() {
    let (world, _home) = world().await;
    let volume = tempfile::tempdir().unwrap();
    world.mx("x.example", Err(LookupError::Temporary("SERVFAIL".into())));
    let node = Node::start(volume.path(), &world, settings()).await;
    for _ in 0..20 {
        send(&node, &["<bob@x.example>"]).await;
    }
    node.wait_for(|message| matches!(message, FromMsa::Stats(Stats { deferred: 20, .. }))).await;
    node.drain().await;
    make_due(volume.path());
    let mx = Mx::willing().await;
    world.domain("x.example", &mx);
    let _node = Node::start(volume.path(), &world, settings()).await;
    mx.wait_for(20).await;
    assert!(mx.sessions() <= 5, "{} sessions", mx.sessions());
}

#[tokio::test]
async fn success_is_reported_when_the_next_hop_will_not() {
    let (world, home) = world().await;
    let plain = Mx::start(|command| command.starts_with("EHLO").then(|| "250 mx".into())).await;
    let willing = Mx::willing().await;
    world.domain("plain.example", &plain);
    world.domain("dsn.example", &willing);
    let (_volume, node) = start(&world).await;
    send(&node, &["<bob@plain.example> NOTIFY=SUCCESS", "<bob@dsn.example> NOTIFY=SUCCESS"]).await;
    let report = home.wait_for(1).await.remove(0);
    status(&report, "Action: relayed");
    status(&report, "Content-Type: text/rfc822-headers");
    assert!(!report.text().contains("dsn.example") && !report.text().contains("\r\nBody.\r\n"));
    assert!(
        !plain.wait_for(1).await[0].rcpts[0].contains("NOTIFY")
            && willing.wait_for(1).await[0].rcpts[0].contains("NOTIFY=SUCCESS")
    );
}

#[tokio::test]
async fn asked_for_silence() {
    let (world, home) = world().await;
    let (_volume, node) = start(&world).await;
    send(&node, &["<a@nxdomain.example> NOTIFY=NEVER"]).await;
    node.wait_for(|message| matches!(message, FromMsa::Stats(Stats { queued: 0, bounced: 1, .. }))).await;
    assert!(home.taken().is_empty());
}

#[tokio::test]
async fn a_lost_last_answer_makes_no_second_copy_at_once() {
    let (world, _home) = world().await;
    let (silent, other) = (Mx::start(|command| (command == ".").then(|| "DROP".into())).await, Mx::willing().await);
    world.mx("x.example", Ok(vec![(10, "silent"), (20, "other")]));
    world.host("silent", Some(silent.address));
    world.host("other", Some(other.address));
    let (_volume, node) = start(&world).await;
    send(&node, &["<bob@x.example>"]).await;
    node.wait_for_log("bob@x.example: deferred").await;
    assert!(other.taken().is_empty());
}

#[tokio::test]
async fn utf8_names_need_a_host_that_knows_them() {
    let (world, home) = world().await;
    let plain = Mx::start(|command| command.starts_with("EHLO").then(|| "250 mx".into())).await;
    let willing = Mx::willing().await;
    world.domain("plain.example", &plain);
    world.domain("utf8.example", &willing);
    let (_volume, node) = start(&world).await;
    let mut client = node.alice().await;
    let content = "From: alice@acme.example\r\nSubject: grün\r\n\r\nx\r\n".as_bytes();
    assert!(
        client
            .send("<alice@acme.example> SMTPUTF8", &["<büro@utf8.example>", "<bob@plain.example>"], content)
            .await
            .starts_with("250 ")
    );
    assert!(willing.wait_for(1).await[0].mail.contains("SMTPUTF8"));
    status(&home.wait_for(1).await[0], "Status: 5.6.7");
    assert!(client.send("<alice@acme.example> SMTPUTF8", &["<bob@plain.example>"], CONTENT).await.starts_with("250 "));
    assert!(!plain.wait_for(1).await[0].mail.contains("SMTPUTF8"), "asked for, but not needed");
}

#[tokio::test]
async fn a_platform_that_goes_away_stops_no_mail() {
    let (world, _home) = world().await;
    let mx = Mx::willing().await;
    world.domain("x.example", &mx);
    let volume = tempfile::tempdir().unwrap();
    let node = Node::start_mute(volume.path(), &world).await;
    let mut platform = tokio::net::UnixStream::connect(&node.control.0).await.unwrap();
    warren_control::send(&mut platform, &warren_control::ToMsa::Settings(settings())).await.unwrap();
    let mut client = node.alice().await;
    drop(platform);
    assert!(client.send("<alice@acme.example>", &["<bob@x.example>"], CONTENT).await.starts_with("250 "));
    mx.wait_for(1).await;
}
