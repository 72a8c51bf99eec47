//! Hourly limits at the front door: what a sender is told at each, and what counts.

use super::rig::{Client, Rig, plain};

async fn send(client: &mut Client, from: &str, to: &[&str]) -> String {
    let mut text = format!("MAIL FROM:<{from}>\r\n");
    to.iter().for_each(|to| text.push_str(&format!("RCPT TO:<{to}>\r\n")));
    let mut heard = client.say(&text).await;
    if heard.contains("250 2.1.5") {
        client.send(b"BDAT 4 LAST\r\nHi\r\n").await;
        heard = format!("{heard} | {}", client.hear(1).await);
    }
    heard
}

#[tokio::test]
async fn an_account_at_its_messages() {
    let rig = Rig::new("account_messages_per_hour = 2").await;
    let mut client = rig.alice().await;
    let ok = "250 2.1.0 | 250 2.1.5 | 250 2.0.0";
    assert_eq!(send(&mut client, "alice@acme.example", &["a@b.example"]).await, ok);
    // Another address of the same account, and another session: the same count.
    assert_eq!(send(&mut client, "sales@acme.example", &["a@b.example"]).await, ok);
    let mut again = rig.alice().await;
    assert_eq!(again.say("MAIL FROM:<alice@acme.example>\r\n").await, "450 4.7.1");
    let text = again.lines().concat();
    assert!(text.starts_with("this account's limit of 2 messages an hour is reached, try again in 6"), "{text}");
    // Nothing behind a refused MAIL counts or reaches the MSA.
    assert_eq!(again.say("RCPT TO:<a@b.example>\r\nBDAT 0 LAST\r\n").await, "503 5.5.1 | 503 5.5.1");
    assert_eq!(again.say("MAIL FROM:<alice@acme.example>\r\n").await, "450 4.7.1");
    // Others send.
    let mut bob = rig.secured().await;
    assert_eq!(bob.say(&plain("bob@acme.example", "secret")).await, "235 2.7.0");
    assert_eq!(send(&mut bob, "bob@acme.example", &["a@b.example"]).await, ok);
    assert_eq!(rig.messages().len(), 3);
}

#[tokio::test]
async fn an_account_at_its_recipients_and_a_tenant_at_its_messages() {
    let rig = Rig::new("account_recipients_per_hour = 2\nmessages_per_hour = 2").await;
    let mut client = rig.alice().await;
    let heard = send(&mut client, "alice@acme.example", &["a@b.example", "c@b.example", "d@b.example"]).await;
    assert_eq!(heard, "250 2.1.0 | 250 2.1.5 | 250 2.1.5 | 450 4.7.1 | 250 2.0.0");
    let mut bob = rig.secured().await;
    assert_eq!(bob.say(&plain("bob@acme.example", "secret")).await, "235 2.7.0");
    assert_eq!(send(&mut bob, "bob@acme.example", &["a@b.example"]).await, "250 2.1.0 | 250 2.1.5 | 250 2.0.0");
    assert_eq!(bob.say("MAIL FROM:<bob@acme.example>\r\n").await, "450 4.7.1");
    assert!(bob.lines().concat().starts_with("your organisation's limit of 2 messages an hour"), "{:?}", bob.lines());
}

#[tokio::test]
async fn what_the_msa_refuses_is_given_back_once() {
    let rig = Rig::new("account_recipients_per_hour = 2\naccount_messages_per_hour = 2").await;
    let mut client = rig.alice().await;
    // Begun and given up: that counts.
    assert_eq!(client.say("MAIL FROM:<alice@acme.example>\r\nRSET\r\n").await, "250 2.1.0 | 250 2.0.0");
    assert_eq!(
        client
            .say("MAIL FROM:<alice@acme.example>\r\nRCPT TO:<nobody@b.example>\r\nRCPT TO:<nobody@b.example>\r\n")
            .await,
        "250 2.1.0 | 550 5.1.1 | 550 5.1.1"
    );
    assert_eq!(client.say("RCPT TO:<a@b.example>\r\nRCPT TO:<c@b.example>\r\n").await, "250 2.1.5 | 250 2.1.5");
    client.send(b"BDAT 4 LAST\r\nHi\r\n").await;
    assert_eq!(client.hear(1).await, "250 2.0.0");
    // A BDAT without a transaction is refused as well, and gives nothing of the message before it back.
    assert_eq!(client.say("BDAT 0 LAST\r\n").await, "503 5.5.1");
    assert_eq!(client.say("MAIL FROM:<alice@acme.example>\r\n").await, "450 4.7.1");
}
