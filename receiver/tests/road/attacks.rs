//! Remote hosts that mean harm, in their own words.

use tokio::io::AsyncWriteExt;

use super::world::World;

#[tokio::test]
async fn no_form_of_an_address_makes_this_a_relay() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    for (number, to) in [
        "victim@elsewhere.example",
        "victim%elsewhere.example@acme.example",
        "victim%elsewhere.example",
        "elsewhere.example!victim@acme.example",
        "@acme.example:victim@elsewhere.example",
        "@acme.example,@b.example:victim@elsewhere.example",
        "\"victim@elsewhere.example\"@acme.example",
        "\"victim@elsewhere.example\"",
        "\"victim%elsewhere.example\"@acme.example",
        "victim\u{ff20}elsewhere.example@acme.example",
        "victim@elsewhere.example@acme.example",
        "victim:elsewhere.example@acme.example",
        "info@acme.example.",
        "info@acme\u{3002}example",
        "info@\u{ff41}cme.example",
        "info@acme.example\u{200b}",
        "info@[127.0.0.1]",
        "info@[IPv6:::1]",
        "info@127.0.0.1",
        "|sh@acme.example",
        "/etc/passwd@acme.example",
        "../../info@acme.example",
        "${run{x}}@acme.example",
        "SRS0=AAAAAAAA=AA=elsewhere.example=victim@acme.example",
        "SRS1=AAAAAAAA=elsewhere.example==x=victim@acme.example",
        "srs0+AAAAAAAA=AA=elsewhere.example=victim@acme.example",
        "info@acme.example> <victim@elsewhere.example",
        "info@acme.example,victim@elsewhere.example",
        "",
        "@acme.example",
        "info@",
    ]
    .into_iter()
    .enumerate()
    {
        if number % 15 == 0 {
            // A session has only so many mistakes.
            remote = world.greeted().await;
            assert_eq!(remote.say("MAIL FROM:<a@x.example> SMTPUTF8\r\n").await, "250");
        }
        let answer = remote.say(&format!("RCPT TO:<{to}>\r\n")).await;
        assert!(answer.starts_with('5'), "{to}: {answer}");
    }
    assert!(world.taken().is_empty());
}

/// Every line end that some parser might take for one, around a lone dot and a second message.
#[tokio::test]
async fn a_second_message_cannot_be_smuggled_in() {
    let world = World::new().await;
    let second = "MAIL FROM:<evil@acme.example>\r\nRCPT TO:<pair@acme.example>\r\nDATA\r\nsmuggled\r\n.\r\n";
    for (before, after, answer) in [
        ("\n", "\n", "550"),
        ("\n", "\r\n", "550"),
        ("\r\n", "\n", "550"),
        ("\r", "\r", "550"),
        ("\r\n", "\r", "550"),
        ("\r", "\r\n", "550"),
        ("\r\r\n", "\r\n", "550"),
        ("\r\n", "\r\r\n", "550"),
        ("\n\r", "\n\r", "550"),
        ("\r\n\0", "\r\n", "250"),
        ("\r\n", "\0\r\n", "250"),
        ("\u{b}", "\u{b}", "250"),
        ("\u{c}", "\u{c}", "250"),
        ("\u{85}", "\u{85}", "250"),
        ("\u{2028}", "\u{2028}", "250"),
        ("\r\n", " \r\n", "250"),
        ("\r\n ", "\r\n", "250"),
    ] {
        let had = world.taken().len();
        let mut remote = world.greeted().await;
        assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\n").await, "250");
        assert_eq!(remote.say("RCPT TO:<info@acme.example>\r\n").await, "250");
        assert_eq!(remote.say("DATA\r\n").await, "354");
        let message = format!("Subject: x\r\n\r\nfirst{before}.{after}{second}");
        assert_eq!(remote.say(&message).await, answer, "{before:?} . {after:?}");
        // One message, one answer: nothing of it ran as a command.
        assert_eq!(remote.say("NOOP\r\n").await, "250");
        let taken = world.taken().split_off(had);
        assert_eq!(taken.len(), usize::from(answer == "250"), "{before:?} . {after:?}");
        assert!(taken.iter().all(|message| message.content.contains("smuggled") && message.to.len() == 1));
    }
}

#[tokio::test]
async fn the_legal_end_may_come_in_any_pieces() {
    let world = World::new().await;
    let end = b"\r\n.\r\n";
    for at in 1..end.len() {
        let mut remote = world.greeted().await;
        assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<info@acme.example>\r\n").await, "250");
        assert_eq!(remote.hear().await, "250");
        assert_eq!(remote.say("DATA\r\n").await, "354");
        for piece in [&b"x: y\r\n\r\nz"[..], &end[..at], &end[at..]] {
            remote.stream.write_all(piece).await.unwrap();
            remote.stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(remote.hear().await, "250", "split at {at}");
    }
    assert_eq!(world.taken().len(), end.len() - 1);
}

#[tokio::test]
async fn what_looks_like_commands_in_chunks_is_content() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    let inner = "x: y\r\n\r\n.\r\nRSET\r\nMAIL FROM:<evil@x.example>\r\n";
    let wire = format!(
        "MAIL FROM:<a@x.example>\r\nRCPT TO:<info@acme.example>\r\nBDAT {}\r\n{inner}BDAT 0 LAST\r\n",
        inner.len()
    );
    assert_eq!(remote.say(&wire).await, "250");
    for _ in 0..3 {
        assert_eq!(remote.hear().await, "250");
    }
    assert!(world.taken()[0].content.ends_with(inner));
    // Without a transaction: refused, and swallowed all the same.
    assert_eq!(remote.say(&format!("BDAT {} LAST\r\n{inner}NOOP\r\n", inner.len())).await, "503");
    assert_eq!(remote.hear().await, "250");
    // A chunk that is announced and does not come leaves no message.
    assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<info@acme.example>\r\n").await, "250");
    assert_eq!(remote.hear().await, "250");
    remote.send("BDAT 1000 LAST\r\nSubject: half").await;
    remote.stream.shutdown().await.unwrap();
    assert_eq!(remote.hear().await, "");
    assert_eq!(world.taken().len(), 1);
}
