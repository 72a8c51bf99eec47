//! Dialogues at the front door, word by word.

use base64::{Engine, engine::general_purpose::STANDARD};
use warren_control::CellId;
use warren_metrics::Page;

use super::rig::{Deed, Rig, plain};

const MESSAGE: &str = "Subject: x\r\n\r\n..dot\r\nend\r\n.\r\n";

#[tokio::test]
async fn before_tls_there_is_no_auth_and_no_mail() {
    let rig = Rig::new("").await;
    let mut client = rig.plain().await;
    assert_eq!(client.say("EHLO me.example\r\n").await, "250");
    assert_eq!(
        client.lines(),
        [
            "mail.example.net",
            "PIPELINING",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "STARTTLS",
            "SIZE 52428800"
        ]
    );
    assert_eq!(client.say(&plain("alice@acme.example", "secret")).await, "504 5.5.4");
    assert_eq!(client.say("MAIL FROM:<alice@acme.example>\r\n").await, "530 5.7.0");
    assert_eq!(client.say("XCLIENT LOGIN=alice@acme.example\r\n").await, "500 5.5.1");
    assert_eq!(client.say("QUIT\r\n").await, "221 2.0.0");
    assert!(rig.fleet.seen.lock().unwrap().asked.is_empty(), "nobody was woken");
}

#[tokio::test]
async fn a_message_through_starttls() {
    let rig = Rig::new("").await;
    let mut client = rig.secured().await;
    assert!(client.lines().contains(&"AUTH PLAIN LOGIN".to_owned()));
    assert!(!client.lines().contains(&"STARTTLS".to_owned()));
    assert_eq!(client.say(&plain("alice@acme.example", "secret")).await, "235 2.7.0");
    let pipelined = "MAIL FROM:<alice@acme.example>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<nobody@b.example>\r\nDATA\r\n";
    assert_eq!(client.say(pipelined).await, "250 2.1.0 | 250 2.1.5 | 550 5.1.1 | 354");
    client.send(MESSAGE.as_bytes()).await;
    assert_eq!(client.hear(1).await, "250 2.0.0");
    assert_eq!(client.say("QUIT\r\n").await, "221 2.0.0");
    assert_eq!(client.hear(1).await, "closed");
    assert_eq!(rig.messages(), [b"Subject: x\r\n\r\n.dot\r\nend\r\n"]);
    let commands = rig.commands();
    assert!(commands[0].starts_with("XCLIENT NAME=[UNAVAILABLE] ADDR=127.0.0.1 PORT="), "{commands:?}");
    assert!(commands[0].ends_with(" PROTO=ESMTP HELO=me.example LOGIN=alice@acme.example"), "{commands:?}");
    assert_eq!(commands[1..], ["MAIL alice@acme.example", "RCPT a@b.example"]);
}

#[tokio::test]
async fn commands_right_behind_auth_reach_the_msa() {
    let rig = Rig::new("").await;
    let mut client = rig.secured().await;
    let at_once = format!(
        "{}MAIL FROM:<sales@acme.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 4 LAST\r\nHi\r\n",
        plain("ALICE@acme.example", "secret")
    );
    client.send(at_once.as_bytes()).await;
    assert_eq!(client.hear(4).await, "235 2.7.0 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0");
    assert_eq!(rig.messages(), [b"Hi\r\n"]);
}

#[tokio::test]
async fn implicit_tls_auth_login_and_a_big_message() {
    let rig = Rig::new("").await;
    let mut client = rig.implicit().await;
    assert_eq!(client.say("EHLO me.example\r\n").await, "250");
    assert_eq!(client.say("AUTH LOGIN\r\n").await, "334");
    assert_eq!(client.lines(), ["VXNlcm5hbWU6"]);
    assert_eq!(client.say("*\r\n").await, "501 5.7.0");
    assert_eq!(client.say("AUTH LOGIN\r\n").await, "334");
    assert_eq!(client.say(&format!("{}\r\n", STANDARD.encode("bob@acme.example"))).await, "334");
    assert_eq!(client.lines(), ["UGFzc3dvcmQ6"]);
    assert_eq!(client.say(&format!("{}\r\n", STANDARD.encode("secret"))).await, "235 2.7.0");
    assert_eq!(
        client.say("MAIL FROM:<bob@acme.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n").await,
        "250 2.1.0 | 250 2.1.5 | 354"
    );
    let line = [[b'x'; 998].as_slice(), b"\r\n"].concat();
    let message = line.repeat(5000);
    client.send(&message).await;
    client.send(b".\r\n").await;
    assert_eq!(client.hear(1).await, "250 2.0.0");
    assert!(rig.messages() == [message]);
}

#[tokio::test]
async fn an_account_sends_as_itself() {
    let rig = Rig::new("").await;
    let mut client = rig.alice().await;
    for foreign in ["bob@acme.example", "alice@globex.example", "", "alice%x@acme.example"] {
        assert_eq!(client.say(&format!("MAIL FROM:<{foreign}>\r\n")).await, "550 5.7.1", "{foreign}");
    }
    assert_eq!(client.say("MAIL FROM:<Sales@ACME.example>\r\nRSET\r\n").await, "250 2.1.0 | 250 2.0.0");
    assert_eq!(rig.commands()[1..], ["MAIL Sales@ACME.example"]);
}

#[tokio::test]
async fn once_is_enough() {
    let rig = Rig::new("").await;
    let mut client = rig.secured().await;
    assert_eq!(client.say("STARTTLS\r\n").await, "503 5.5.1");
    assert_eq!(client.say(&plain("alice@acme.example", "secret")).await, "235 2.7.0");
    assert_eq!(client.say("STARTTLS\r\n").await, "502 5.5.1");
    assert_eq!(client.say(&plain("bob@acme.example", "secret")).await, "503 5.5.1");
    assert_eq!(client.say("XCLIENT LOGIN=bob@acme.example\r\n").await, "550 5.7.0");
    assert_eq!(client.say("EHLO me.example\r\n").await, "250");
    assert!(!client.lines().iter().any(|line| line.starts_with("XCLIENT") || line.starts_with("AUTH")));
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_read_the_same() {
    let rig = Rig::new("").await;
    let mut texts = Vec::new();
    for (login, password) in
        [("alice@acme.example", "wrong"), ("nobody@acme.example", "secret"), ("alice@elsewhere.example", "secret")]
    {
        let mut client = rig.secured().await;
        assert_eq!(client.say(&plain(login, password)).await, "535 5.7.8");
        texts.push(client.lines());
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert!(rig.fleet.seen.lock().unwrap().asked.is_empty(), "nobody was woken");
}

#[tokio::test]
async fn a_right_password_is_remembered_and_a_wrong_one_is_as_wrong_as_before() {
    let rig = Rig::new("").await;
    rig.alice().await;
    let mut client = rig.secured().await;
    assert_eq!(client.say(&plain("alice@acme.example", "wrong")).await, "535 5.7.8");
    // Logins read the same in any letters.
    assert_eq!(client.say(&plain("Alice@ACME.example", "secret")).await, "235 2.7.0");
    let mut page = Page::default();
    rig.door.counts.tell(&mut page);
    for (result, count) in [("right", 1.0), ("remembered", 1.0), ("wrong", 1.0)] {
        let name = "warren_frontdoor_authentications_total";
        assert_eq!(page.value(name, &[("result", result)]), Some(count), "{result}");
    }
}

#[tokio::test]
async fn guessing_ends_the_session() {
    let rig = Rig::new("").await;
    let mut client = rig.secured().await;
    let mut answers = Vec::new();
    for guess in ["a", "b", "c"] {
        answers.push(client.say(&plain("alice@acme.example", guess)).await);
    }
    assert_eq!(answers, ["535 5.7.8", "535 5.7.8", "421 4.7.0"]);
    assert_eq!(client.hear(1).await, "closed");
}

#[tokio::test]
async fn impersonation_by_authzid_is_a_wrong_password() {
    let rig = Rig::new("").await;
    let mut client = rig.secured().await;
    let message = STANDARD.encode("bob@acme.example\0alice@acme.example\0secret");
    assert_eq!(client.say(&format!("AUTH PLAIN {message}\r\n")).await, "535 5.7.8");
    assert_eq!(client.say("AUTH PLAIN !!!\r\n").await, "501 5.5.2");
    assert_eq!(client.say("AUTH CRAM-MD5\r\n").await, "504 5.5.4");
}

/// CVE-2011-0411.
#[tokio::test]
async fn commands_behind_starttls_are_never_answered() {
    let rig = Rig::new("").await;
    let mut client = rig.plain().await;
    assert_eq!(client.say("EHLO me.example\r\n").await, "250");
    client.send(b"STARTTLS\r\nEHLO evil.example\r\nRSET\r\n").await;
    assert_eq!(client.hear(1).await, "220 2.0.0");
    let mut client = rig.start_tls(client).await;
    // The first reply inside TLS is to the first command inside TLS, and EHLO is due again.
    assert_eq!(client.say("MAIL FROM:<alice@acme.example>\r\n").await, "503 5.5.1");
    assert_eq!(client.say("NOOP\r\n").await, "250 2.0.0");
}

#[tokio::test]
async fn the_tail_of_a_long_line_is_no_command() {
    let rig = Rig::new("").await;
    let mut client = rig.plain().await;
    let line = format!("NOOP {}\rQUIT\nQUIT {}\r\nNOOP\r\n", "x".repeat(5000), "y".repeat(200_000));
    client.send(line.as_bytes()).await;
    let answers = client.hear(2).await;
    assert!(answers.starts_with("500 ") && answers.ends_with("250 2.0.0"), "{answers}");
}

#[tokio::test]
async fn other_protocols_and_early_talk_are_cut() {
    let rig = Rig::new("").await;
    let mut client = rig.plain().await;
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b>\r\n").await;
    assert_eq!(client.hear(2).await, "421 4.7.0 | closed");
    let mut client = rig.plain().await;
    client.send("JUNK\r\n".repeat(50).as_bytes()).await;
    let answers = client.hear(50).await;
    assert!(answers.ends_with("421 4.7.0 | closed"), "{answers}");
}

#[tokio::test]
async fn an_msa_that_was_falling_asleep_is_dialled_again() {
    let rig = Rig::new("").await;
    rig.fleet.deeds.lock().unwrap().push_back(Deed::HangUp);
    let mut client = rig.alice().await;
    assert_eq!(client.say("MAIL FROM:<alice@acme.example>\r\n").await, "250 2.1.0");
    let asked = rig.fleet.seen.lock().unwrap().asked.clone();
    assert_eq!(asked, [("acme".to_owned(), None), ("acme".to_owned(), Some(CellId(1)))]);
}

#[tokio::test]
async fn without_an_msa_mail_is_put_off() {
    let rig = Rig::new("").await;
    rig.fleet.deeds.lock().unwrap().push_back(Deed::Refuse);
    let mut client = rig.alice().await;
    let pipelined = "MAIL FROM:<alice@acme.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n";
    assert_eq!(client.say(pipelined).await, "451 4.3.2 | 503 5.5.1 | 503 5.5.1");
    assert_eq!(client.say("QUIT\r\n").await, "221 2.0.0");
    assert!(rig.commands().is_empty());
}

#[tokio::test]
async fn one_address_has_only_so_many_sessions() {
    let rig = Rig::new("connections_per_address = 2").await;
    let first = rig.plain().await;
    let _second = rig.plain().await;
    let mut third = rig.silent().await;
    assert_eq!(third.hear(2).await, "421 4.7.0 | closed");
    drop(first);
    while rig.door.sessions() > 1 {
        tokio::task::yield_now().await;
    }
    rig.plain().await;
}
