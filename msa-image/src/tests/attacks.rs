//! Clients and MXs that mean harm, in their own words.

use super::harness::{Mx, Node, World};
use crate::testing::settings;
use std::sync::Arc;
use warren_control::{FromMsa, Stats};

const CONTENT: &[u8] = b"From: alice@acme.example\r\nSubject: x\r\n\r\nBody.\r\n";

async fn willing() -> (tempfile::TempDir, Arc<World>, Mx) {
    let (world, mx) = (Arc::new(World::default()), Mx::willing().await);
    world.domain("x.example", &mx);
    (tempfile::tempdir().unwrap(), world, mx)
}

#[tokio::test]
async fn nobody_writes_as_another_in_any_spelling() {
    let (volume, world, mx) = willing().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    for header in [
        "From: alice@acme.example\r\nfRoM: ceo@bank.example",
        "From: alice@acme.example\r\nFrom : ceo@bank.example",
        "From: alice@acme.example\r\nFrom\t:ceo@bank.example",
        "From:\r\n ceo@bank.example",
        "From:\r\n\t\r\n ceo@bank.example",
        "From: alice@acme.example\r\n\t, ceo@bank.example",
        "From: alice@acme.example (alice\r\n ), ceo@bank.example",
        "From: \"alice@acme.example\" <ceo@bank.example>",
        "From: =?utf-8?q?alice=40acme=2Eexample?= <ceo@bank.example>",
        "From: =?utf-8?q?ceo=40bank=2Eexample?=",
        "From: <@acme.example:ceo@bank.example>",
        "From: friends: alice@acme.example, ceo@bank.example;",
        "From: alice@acme.example\r\nSender: ceo@bank.example",
        "From: alice@acme.example\r\nSender:",
        "From: alice@acme.example\r\nResent-From: ceo@bank.example",
        "From: alice@acme.example\r\nResent-Sender: ceo@bank.example",
        "From: alice@acme.example\0, ceo@bank.example",
        "From: alice@acme.example\u{2028}ceo@bank.example",
        "From: alice\u{ff20}acme.example",
        "From: \u{430}lice@acme.example",
        "From: alice@acme.example.",
        "From: \"alice@acme.example\"@bank.example",
        "From: alice%acme.example@bank.example",
        "From: alice@[192.0.2.1]",
    ] {
        let content = format!("{header}\r\nSubject: money\r\n\r\nPay.\r\n");
        let mut client = node.alice().await;
        let reply = client.send("<alice@acme.example> SMTPUTF8", &["<bob@x.example>"], content.as_bytes()).await;
        assert!(reply.starts_with("550 5.7.1 "), "{header}: {reply}");
    }
    // What only some programs would take for a header is body everywhere, behind a From of her own.
    for header in [
        "\u{feff}From: ceo@bank.example",
        " From: ceo@bank.example",
        "From ceo@bank.example",
        "Fr\u{f6}m: ceo@bank.example",
    ] {
        let content = format!("{header}\r\nFrom: ceo@bank.example\r\n\r\nPay.\r\n");
        let reply = node.alice().await.send("<alice@acme.example>", &["<bob@x.example>"], content.as_bytes()).await;
        assert!(reply.starts_with("250 "), "{header}: {reply}");
    }
    for taken in mx.wait_for(4).await {
        let text = taken.text();
        let (header, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(header.contains("\r\nFrom: alice@acme.example") && !header.contains("bank"), "{text}");
        assert!(body.contains("From: ceo@bank.example\r\n\r\nPay."), "{text}");
    }
}

#[tokio::test]
async fn parameters_smuggle_nothing() {
    let (volume, world, mx) = willing().await;
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.alice().await;
    for command in [
        "MAIL FROM:<alice@acme.example> ENVID=Q+0D+0ARSET",
        "MAIL FROM:<alice@acme.example> ENVID=Q+C2+85X",
        "MAIL FROM:<alice@acme.example> AUTH=a+0D+0A@x.example",
        "MAIL FROM:<alice@acme.example> SIZE=1 SIZE=2",
        "MAIL FROM:<alice@acme.example> SIZE=-1",
        "MAIL FROM:<alice@acme.example> SIZE=184467440737095516160",
        "MAIL FROM:<alice@acme.example>SIZE=1",
        "MAIL FROM:<alice@acme.example> X\u{1}=1",
        "MAIL FROM:<alice@acme.example",
        "MAIL FROM:<\"alice\r@acme.example>",
    ] {
        let reply = client.ask(command).await;
        assert!(reply.starts_with("50"), "{command:?}: {reply}");
    }
    assert!(client.ask("MAIL FROM:<alice@acme.example> SIZE=18446744073709551615").await.starts_with("552 5.3.4 "));
    assert!(client.ask("MAIL FROM:<alice@acme.example>").await.starts_with("250 "));
    for command in [
        "RCPT TO:<bob@x.example> ORCPT=rfc822;a+0D+0AX-Evil:+20yes",
        "RCPT TO:<bob@x.example> NOTIFY=NEVER,SUCCESS",
        "RCPT TO:<bob@x.example> NOTIFY=SUCCESS,SUCCESS",
        "RCPT TO:<bob@x.example\u{202e}>",
        "RCPT TO:<bob@x.example>\nRCPT TO:<evil@x.example>",
    ] {
        let reply = client.ask(command).await;
        assert!(reply.starts_with("50"), "{command:?}: {reply}");
    }
    assert!(client.ask("RSET").await.starts_with("250 "));
    assert!(client.send("<alice@acme.example>", &["<bob@x.example>"], CONTENT).await.starts_with("250 "));
    assert_eq!(mx.wait_for(1).await[0].rcpts, ["RCPT TO:<bob@x.example>"]);
}

/// Whatever an MX does: what it did not clearly take is still to be delivered, and what it did not clearly refuse is not returned.
#[tokio::test]
async fn no_word_of_an_mx_is_taken_for_more_than_it_says() {
    let endless = format!("{}250 x", "250-x\r\n".repeat(300));
    let replies: &[(&str, &str)] = &[
        ("CONNECT", "DROP"),
        ("CONNECT", "421 4.3.2 later"),
        ("CONNECT", "554 5.7.1 listed"),
        ("CONNECT", "HTTP/1.1 200 OK"),
        ("CONNECT", "250 2.0.0 queued"),
        ("EHLO", "DROP"),
        ("EHLO", "421 4.3.2 later"),
        ("EHLO", &endless),
        ("MAIL", "DROP"),
        ("MAIL", "421 4.3.2 later"),
        ("MAIL", "354 go on"),
        ("MAIL", "250-ok\r\n550 no"),
        ("RCPT", "DROP"),
        ("RCPT", "421 4.3.2 later"),
        ("RCPT", "354 go on"),
        ("RCPT", "250 ok\r\n250 ok\r\n250 ok\r\n250 ok"),
        ("DATA", "DROP"),
        ("DATA", "250 2.0.0 queued"),
        ("DATA", "421 4.3.2 later"),
        ("DATA", "354 go on\r\n250 2.0.0 queued"),
        (".", "DROP"),
        (".", "421 4.3.2 later"),
        (".", "354 go on"),
        (".", "\0\u{ff}"),
        (".", "250-2.0.0 queued\r\n451 not"),
    ];
    let volume = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    let home = Mx::willing().await;
    world.domain("acme.example", &home);
    let mut mxs = Vec::new();
    for (number, (at, reply)) in replies.iter().enumerate() {
        let (at, reply) = ((*at).to_owned(), (*reply).to_owned());
        let mx = Mx::start(move |command| command.starts_with(&at).then(|| reply.clone())).await;
        world.domain(&format!("d{number}.example"), &mx);
        mxs.push(mx);
    }
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.alice().await;
    for number in 0..replies.len() {
        let to = format!("<bob@d{number}.example>");
        assert!(client.send("<alice@acme.example>", &[&to], CONTENT).await.starts_with("250 "));
    }
    let all = replies.len() as u64;
    let over = |stats: &Stats| stats.deferred + stats.delivered + stats.bounced == all;
    let last = node.wait_for(|message| matches!(message, FromMsa::Stats(stats) if over(stats))).await;
    let FromMsa::Stats(stats) = last else { unreachable!("waited for") };
    assert_eq!((stats.deferred, stats.queued), (all, all), "{:#?}", node.heard());
    assert!(home.taken().is_empty(), "nothing was returned");
}
