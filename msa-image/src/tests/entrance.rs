//! What the entrances take and refuse.

use super::harness::{Client, Mx, Node, World};
use crate::testing::settings;
use std::path::Path;
use std::sync::Arc;

const HELLO: &[u8] = b"From: alice@acme.example\r\nTo: bob@x.example\r\nSubject: hello\r\n\r\nBody.\r\n..two dots\r\n";

async fn world() -> (Arc<World>, Mx) {
    let (world, mx) = (Arc::new(World::default()), Mx::willing().await);
    world.domain("x.example", &mx);
    (world, mx)
}

#[tokio::test]
async fn a_submission_from_banner_to_queue() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = world().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = Client::connect(node.submission).await;
    let offer = client.ask("EHLO front").await;
    for keyword in [
        "PIPELINING",
        "SIZE 1048576",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "XCLIENT NAME ADDR",
    ] {
        assert!(offer.contains(keyword), "{keyword} in {offer}");
    }
    assert!(client.ask("MAIL FROM:<alice@acme.example>").await.starts_with("530 5.7.0 "));
    drop(client);
    let mut client = node.alice().await;
    let reply = client.send("<alice@acme.example>", &["<bob@x.example>"], HELLO).await;
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let taken = mx.wait_for(1).await.remove(0);
    let text = taken.text();
    assert!(
        text.starts_with("Received: from laptop ([192.0.2.7])\r\n\tby mail.warren.example with ESMTPSA id "),
        "{text}"
    );
    assert!(
        text.contains("\r\n\tfor <bob@x.example>;\r\n")
            && text.contains("\r\nDate: ")
            && text.contains("\r\nMessage-ID: <"),
        "{text}"
    );
    assert!(taken.content.ends_with(HELLO), "{text}");
    assert!(client.ask("QUIT").await.starts_with("221 "));
}

#[tokio::test]
async fn only_as_oneself() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = world().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.alice().await;
    for path in ["<bob@acme.example>", "<alice@other.example>", "<alice%acme.example@evil.example>"] {
        assert!(client.ask(&format!("MAIL FROM:{path}")).await.starts_with("550 5.7.1 "), "{path}");
    }
    for header in [
        "From: ceo@bank.example",
        "From: alice@acme.example\r\nSender: ceo@bank.example",
        "From: alice@acme.example, x",
        "From: x:;",
    ] {
        let content = format!("{header}\r\n\r\nbody\r\n");
        let reply = client.send("<sales@acme.example>", &["<bob@x.example>"], content.as_bytes()).await;
        assert!(reply.starts_with("550 5.7.1 "), "{header}: {reply}");
    }
    let reply =
        client.send("<Sales@acme.example>", &["<bob@x.example>"], b"From: \"x\" <Alice@ACME.example>\r\n\r\n").await;
    assert!(reply.starts_with("250 "), "{reply}");
    assert_eq!(mx.wait_for(1).await.len(), 1);
    let mut stranger = Client::connect(node.submission).await;
    stranger.ask("EHLO x").await;
    stranger.ask("XCLIENT LOGIN=nobody@acme.example").await;
    stranger.ask("EHLO x").await;
    assert!(stranger.ask("MAIL FROM:<alice@acme.example>").await.starts_with("550 5.7.1 "));
}

#[tokio::test]
async fn limits() {
    let volume = tempfile::tempdir().unwrap();
    let (world, _mx) = world().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.receiver().await;
    assert!(client.ask("MAIL FROM:<a@y.example> SIZE=1048577").await.starts_with("552 5.3.4 "));
    client.ask("MAIL FROM:<a@y.example>").await;
    for name in ["a", "b", "c"] {
        assert!(client.ask(&format!("RCPT TO:<{name}@x.example>")).await.starts_with("250 "));
    }
    assert!(client.ask("RCPT TO:<d@x.example>").await.starts_with("452 4.5.3 "));
    client.ask("RSET").await;
    let large = format!("A: b\r\n\r\n{}", "0123456789abcdef0123456789abcde\r\n".repeat(40_000));
    assert!(client.send("<a@y.example>", &["<b@x.example>"], large.as_bytes()).await.starts_with("552 5.3.4 "));
    let looping = format!("{}\r\nbody\r\n", "Received: from x by y; z\r\n".repeat(5));
    assert!(client.send("<a@y.example>", &["<b@x.example>"], looping.as_bytes()).await.starts_with("554 5.4.6 "));
    let endless = format!("{}\r\nbody\r\n", format!("X: {}\r\n", "x".repeat(900)).repeat(300));
    assert!(client.send("<a@y.example>", &["<b@x.example>"], endless.as_bytes()).await.starts_with("552 5.3.4 "));
    assert!(client.send("<a@y.example>", &["<b@x.example>"], b"A: b\r\n\r\nfine\r\n").await.starts_with("250 "));
}

#[tokio::test]
async fn the_relay_entrance_adds_trace_only() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = world().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.receiver().await;
    let content = b"DKIM-Signature: v=1\r\nFrom: ceo@bank.example\r\nBcc: someone\r\n\r\nsigned body\r\n";
    assert!(client.send("<SRS0=x@acme.example>", &["<bob@x.example>"], content).await.starts_with("250 "));
    let taken = mx.wait_for(1).await.remove(0);
    assert!(
        taken.text().starts_with("Received: from receiver\r\n\tby mail.warren.example with ESMTP id "),
        "{}",
        taken.text()
    );
    let received_end = taken.content.windows(4).position(|bytes| bytes == b"DKIM").unwrap();
    assert_eq!(&taken.content[received_end..], content);
}

#[tokio::test]
async fn chunks_parameters_and_postmaster() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = world().await;
    world.domain("acme.example", &mx);
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.alice().await;
    client.ask("MAIL FROM:<alice@acme.example> BODY=8BITMIME RET=HDRS ENVID=QQ+2B1").await;
    client.ask("RCPT TO:<bob@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@x.example").await;
    client.write(b"BDAT 26\r\nFrom: alice@acme.example\r\n").await;
    assert!(client.reply().await.starts_with("250 "));
    client.write("BDAT 12 LAST\r\n\r\ngr\u{fc}n\r\n.\r\n".as_bytes()).await;
    assert!(client.reply().await.starts_with("250 2.0.0 queued as "));
    let taken = mx.wait_for(1).await.remove(0);
    for part in ["BODY=8BITMIME", "RET=HDRS", "ENVID=QQ+2B1", "SIZE="] {
        assert!(taken.mail.contains(part), "{part} in {}", taken.mail);
    }
    assert!(
        taken.rcpts[0].contains("NOTIFY=SUCCESS,FAILURE") && taken.rcpts[0].contains("ORCPT=rfc822;Bob@x.example"),
        "{:?}",
        taken.rcpts
    );
    assert!(taken.content.ends_with("\r\n\r\ngr\u{fc}n\r\n.\r\n".as_bytes()));
    assert!(client.send("<alice@acme.example>", &["<Postmaster>"], b"A: b\r\n\r\n").await.starts_with("250 "));
    assert_eq!(mx.wait_for(2).await[1].rcpts, ["RCPT TO:<postmaster@acme.example>"]);
}

#[tokio::test]
async fn no_banner_before_settings() {
    let volume = tempfile::tempdir().unwrap();
    let (world, _mx) = world().await;
    let node = Node::start_mute(volume.path(), &world).await;
    let connecting = tokio::spawn(Client::connect(node.submission));
    tokio::task::yield_now().await;
    assert!(!connecting.is_finished());
    node.connect(settings()).await;
    connecting.await.unwrap();
}

#[tokio::test]
async fn a_volume_that_cannot_be_written_is_a_temporary_failure() {
    let (world, _mx) = world().await;
    let node = Node::start(Path::new("/proc/self/nowhere"), &world, settings()).await;
    let mut client = node.alice().await;
    assert!(client.ask("MAIL FROM:<alice@acme.example>").await.starts_with("451 4.3.0 "));
    node.wait_for_log("queue directory").await;
}

#[tokio::test]
async fn smuggled_line_ends_are_refused() {
    let volume = tempfile::tempdir().unwrap();
    let (world, mx) = world().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.receiver().await;
    client.ask("MAIL FROM:<a@y.example>").await;
    client.ask("RCPT TO:<b@x.example>").await;
    client.ask("DATA").await;
    client.write(b"A: b\r\n\r\nx\n.\nMAIL FROM:<evil@y.example>\r\n.\r\n").await;
    assert!(client.reply().await.starts_with("550 5.6.11 "));
    assert!(client.send("<a@y.example>", &["<b@x.example>"], b"A: b\r\n\r\n").await.starts_with("250 "));
    assert_eq!(mx.wait_for(1).await.len(), 1);
}
