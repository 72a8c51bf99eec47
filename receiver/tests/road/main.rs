//! The receiver's whole road with literal dialogues.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use warren_receiver::session::Patience;
use warren_receiver::settings::Settings;
use world::{Remote, World, files_below};

#[tokio::test]
async fn a_message_is_forwarded_whole_under_a_rewritten_sender() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "Subject: x\r\n\r\n..dot \u{e4}").await, "250");
    let taken = world.taken();
    assert_eq!(taken.len(), 1);
    assert!(
        taken[0].from.starts_with("SRS0=") && taken[0].from.ends_with("=x.example=a@acme.example"),
        "{}",
        taken[0].from
    );
    assert_eq!(taken[0].to, ["someone@elsewhere.example"]);
    let (trace, rest) = taken[0].content.split_at(taken[0].content.find("Subject").unwrap());
    assert_eq!(rest, "Subject: x\r\n\r\n.dot \u{e4}\r\n");
    assert!(
        trace.starts_with("Received: from mx.remote.example ([127.0.0.1])\r\n\tby mail.warren.example with ESMTP id "),
        "{trace}"
    );
    assert!(trace.contains("\r\n\tfor <info@acme.example>;\r\n\t") && trace.ends_with(" +0000\r\n"), "{trace}");
    assert_eq!(taken[0].xclient.addr, Some([127, 0, 0, 1].into()));
    assert_eq!(taken[0].xclient.helo.as_deref(), Some("mx.remote.example"));
    assert_eq!(files_below(&world.directory.path().join("state/receiver")), 1, "the key only");

    // Its bounce comes back to the rewritten sender and goes on to the original one, under the null path.
    let srs = taken[0].from.clone();
    assert_eq!(remote.transfer("", &srs, "Subject: bounce").await, "250");
    let bounce = world.taken().pop().unwrap();
    assert_eq!((bounce.from.as_str(), bounce.to.as_slice()), ("", &["a@x.example".to_owned()][..]));
    assert_eq!(remote.say("MAIL FROM:<>\r\n").await, "250");
    assert_eq!(remote.say(&format!("RCPT TO:<{}>\r\n", srs.replace("=x.", "=y."))).await, "550");
    assert_eq!(remote.say("QUIT\r\n").await, "221");
}

#[tokio::test]
async fn recipients_get_the_answers_they_deserve() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\n").await, "250");
    for (to, line) in [
        ("nobody@acme.example", "550 5.1.1 "),
        ("a@elsewhere.example", "550 5.7.1 "),
        ("slow@acme.example", "451 4.3.0 "),
        ("a%b.example@acme.example", "550 5.7.1 "),
        ("\"a@b.example\"@acme.example", "550 5.7.1 "),
        ("@r.example:info@acme.example", "553 5.1.3 "),
        ("info@[127.0.0.1]", "550 5.7.1 "),
        ("info@acme.example.", "501 5.1.3 "),
        ("postmaster", "550 5.1.1 "),
        ("info@acme.example", "250 2.1.5 "),
        ("info@globex.example", "452 4.5.3 "),
        ("pair@acme.example", "250 2.1.5 "),
    ] {
        remote.send(&format!("RCPT TO:<{to}>\r\n")).await;
        let answer = remote.line().await;
        assert!(answer.starts_with(line), "{to}: {answer}");
    }
    assert_eq!(remote.say("DATA\r\n").await, "354");
    assert_eq!(remote.say("x: y\r\n.\r\n").await, "250");
    assert_eq!(world.taken()[0].to, ["someone@elsewhere.example", "one@elsewhere.example", "two@elsewhere.example"]);
}

#[tokio::test]
async fn the_answer_is_the_msas() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "reject me").await, "554");
    assert_eq!(
        remote.transfer("a@x.example", "both@acme.example", "x: y").await,
        "451",
        "one of two targets is put off"
    );
    assert!(world.taken().is_empty(), "and the other does not get it twice");
    world.stage.lost_after_dot.store(1, Ordering::SeqCst);
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "451");
}

#[tokio::test]
async fn a_tenant_falling_asleep_is_woken_once_more() {
    let world = World::new().await;
    world.stage.sleepy.store(1, Ordering::SeqCst);
    let mut remote = world.greeted().await;
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "250");
    world.stage.sleepy.store(2, Ordering::SeqCst);
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "451");
    assert_eq!(world.stage.connects.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_msa_that_does_not_greet_puts_mail_off() {
    let world = World::with(Patience { msa: Duration::from_millis(100), ..Patience::default() }, |_| ()).await;
    world.stage.silent.store(true, Ordering::SeqCst);
    let mut remote = world.greeted().await;
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "451");
    world.stage.silent.store(false, Ordering::SeqCst);
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "250");
}

#[tokio::test]
async fn without_the_platform_mail_is_put_off() {
    let mut world = World::new().await;
    let mut remote = world.greeted().await;
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "250");
    assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\n").await, "250");
    assert_eq!(remote.say("RCPT TO:<info@acme.example>\r\n").await, "250");
    world.end_platform().await;
    assert_eq!(remote.say("RCPT TO:<pair@acme.example>\r\n").await, "451");
    assert_eq!(remote.say("DATA\r\n").await, "354");
    assert_eq!(remote.say("x: y\r\n.\r\n").await, "451");
}

#[tokio::test]
async fn loops_smuggling_and_size_are_refused() {
    let world = World::new().await;
    let mut remote = world.greeted().await;
    let hops =
        |count| format!("{}Subject: x\r\n", "Received: from a by b; Sat, 21 Nov 2026 22:00:00 +0000\r\n".repeat(count));
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", &hops(101)).await, "554");
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", &hops(100)).await, "250");
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "a\n.\r\nMAIL FROM:<e@x.example>").await, "550");
    assert_eq!(remote.say("MAIL FROM:<a@x.example> SIZE=1048576\r\n").await, "552");
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", &"x\r\n".repeat(400_000)).await, "552");
    assert_eq!(remote.say("XCLIENT ADDR=192.0.2.1\r\n").await, "500");
    assert_eq!(world.taken().len(), 1);
}

#[tokio::test]
async fn tls_on_the_way_in() {
    let world = World::new().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&world.certificate()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut plain = world.greeted().await;
    // What is pipelined behind STARTTLS must never run: its MAIL would make the one below a 503.
    assert_eq!(plain.say("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<e@x.example>\r\n").await, "220");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("mail.warren.example".try_into().unwrap(), plain.stream).await.unwrap();
    let mut remote = Remote { stream };
    assert_eq!(remote.say("MAIL FROM:<a@x.example>\r\n").await, "503");
    assert_eq!(remote.say("EHLO mx.remote.example\r\n").await, "250");
    assert_eq!(remote.transfer("a@x.example", "info@acme.example", "x: y").await, "250");
    let content = world.taken()[0].content.clone();
    assert!(content.contains("(using TLSv1.3 with TLS13_") && content.contains(" with ESMTPS id "), "{content}");
}

#[tokio::test]
async fn talk_before_the_greeting_is_refused() {
    let world = World::with(Patience { greeting: Duration::from_secs(5), ..Patience::default() }, |_| ()).await;
    let mut early = Remote { stream: tokio::net::TcpStream::connect(world.address).await.unwrap() };
    assert_eq!(early.say("EHLO spam.example\r\nMAIL FROM:<e@x.example>\r\n").await, "554");
    assert_eq!(early.hear().await, "");
}

#[tokio::test]
async fn tenants_of_this_node_share_no_limit_of_an_address() {
    let world = World::with(Patience::default(), |settings| settings.connections_per_address = 1).await;
    let first = world.greeted().await;
    let second = world.greeted().await;
    drop((first, second));
}

#[tokio::test]
async fn limits_of_connections_and_time() {
    let short = Duration::from_millis(300);
    let patience =
        Patience { greeting: short, command: short, content: short, transfer: short, handshake: short, msa: short };
    let limited = |settings: &mut Settings| {
        settings.connections_per_address = 2;
        settings.own_addresses.clear();
    };
    let world = World::with(patience, limited).await;
    let mut slow = world.greeted().await;
    let mut second = world.greeted().await;
    let mut third = Remote { stream: tokio::net::TcpStream::connect(world.address).await.unwrap() };
    assert_eq!(third.hear().await, "421");
    // Bytes that complete no command do not buy time.
    slow.send("NO").await;
    assert_eq!(slow.hear().await, "421");
    assert_eq!(slow.hear().await, "");
    assert_eq!(second.hear().await, "421");
    drop((slow, second, third));
    let mut fourth = world.greeted().await;
    assert_eq!(fourth.say("POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<e@x.example>\r\n").await, "421");
}
