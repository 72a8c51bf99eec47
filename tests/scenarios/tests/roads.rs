//! Both roads, whole: submitted mail and forwarded mail, over real servers, with every session recorded.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::time::Duration;

use warren_lab::{Lab, Message};
use warren_scenarios::corpus::{self, note};
use warren_scenarios::{Node, Setup, Tenant};

const LONG: Duration = Duration::from_secs(90);

fn subject(text: &str) -> impl Fn(&Message) -> bool {
    move |m| m.header("Subject").as_deref() == Some(text)
}

/// Ids in the output of `warren sessions` whose line has this word.
fn sessions_with(node: &Node<'_>, word: &str) -> Vec<String> {
    let is_id = |w: &&str| w.len() >= 10 && w.chars().all(|c| c.is_ascii_alphanumeric());
    let table = node.ask(&["sessions", "--limit", "500"]);
    table
        .lines()
        .filter(|l| l.contains(word))
        .filter_map(|l| Some(l.split_whitespace().find(is_id)?.to_owned()))
        .collect()
}

#[test]
fn mail_travels_both_roads() {
    let lab = Lab::start().unwrap();
    let node = Node::start(&lab, &Setup::default());

    // Submission on 587 with STARTTLS, to Postfix.
    let sent = node.submit(
        "alice@acme.example",
        "alice@acme.example",
        &["bob@postfix.example"],
        587,
        &note("alice@acme.example", "one"),
    );
    assert!(sent.accepted, "{}", sent.text);
    let got = lab.mailbox("postfix.example", "bob").wait_for(subject("one"), LONG).unwrap();
    assert!(got.has_body_of(&note("alice@acme.example", "one")));
    assert!(got.header("Date").is_some() && got.header("Message-ID").is_some(), "RFC 6409 fix-ups are missing");
    assert_eq!(got.header("Return-Path").as_deref(), Some("<alice@acme.example>"));

    // Submission on 465, to Exim.
    let sent = node.submit(
        "carol@globex.example",
        "carol@globex.example",
        &["dave@exim.example"],
        465,
        &note("carol@globex.example", "two"),
    );
    assert!(sent.accepted, "{}", sent.text);
    lab.mailbox("exim.example", "dave").wait_for(subject("two"), LONG).unwrap();

    // Inbound mail, forwarded through a tenant to OpenSMTPD: header fields at the top, nothing else changes.
    let letter = note("someone@postfix.example", "three");
    let replies = node.inject("someone@postfix.example", &["info@acme.example"], &letter).unwrap();
    assert!(replies.iter().all(|r| r.starts_with("250")), "{replies:?}");
    let got = lab.mailbox("opensmtpd.example", "erin").wait_for(subject("three"), LONG).unwrap();
    assert!(got.ends_with(&letter), "{}", String::from_utf8_lossy(&got.raw));
    let path = got.header("Return-Path").or_else(|| got.header("X-Envelope-From")).unwrap_or_default();
    assert!(path.contains("SRS0=") && path.contains("@acme.example"), "{path}");
    // A bounce to that address finds its way back to the original sender.
    let srs = path.trim_matches(|c| c == '<' || c == '>').to_owned();
    let replies = node.inject("", &[&srs], &note("mailer-daemon@opensmtpd.example", "bounce")).unwrap();
    assert!(replies.iter().all(|r| r.starts_with("250")), "{replies:?}");
    lab.mailbox("postfix.example", "someone").wait_for(subject("bounce"), LONG).unwrap();

    // Tenant to tenant on the same node.
    let sent = node.submit(
        "alice@acme.example",
        "alice@acme.example",
        &["sales@globex.example"],
        587,
        &note("alice@acme.example", "four"),
    );
    assert!(sent.accepted, "{}", sent.text);
    lab.mailbox("postfix.example", "frank").wait_for(subject("four"), LONG).unwrap();

    // Every outbound session stands in the database, with what was said.
    // One that goes on is there as far as it has come. The first was dialled; later ones may have gone on on its connection.
    let recorded = |word: &str| {
        node.wait_until(word, || {
            let transcript = node.ask(&["sessions", "show", sessions_with(&node, word).last()?]);
            (!transcript.contains("not ended")).then_some(transcript)
        })
    };
    let transcript = recorded("postfix.example");
    for part in ["<- ", "-> ", "|> ", "|< ", "STARTTLS", "MAIL FROM:<", "TLSv1.3", "203.0.113.1"] {
        assert!(transcript.contains(part), "no {part:?} in\n{transcript}");
    }
    for word in ["exim.example", "opensmtpd.example", "mail.warren.example"] {
        let transcript = recorded(word);
        assert!(transcript.contains("DATA"), "{transcript}");
    }
    let egress: std::collections::BTreeSet<_> = node
        .ask(&["sessions", "--limit", "500"])
        .split_whitespace()
        .filter(|w| w.starts_with("203.0.113.1"))
        .map(str::to_owned)
        .collect();
    assert!(egress.len() > 1, "all sessions left from {egress:?}");
    assert!(node.ask(&["status"]).contains("P50"), "no cold start histogram");
    node.stop();
}

#[test]
fn deferred_mail_wakes_its_tenant() {
    let lab = Lab::start_with(&warren_lab::LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup::default());
    let letter = note("alice@acme.example", "later");
    let sent = node.submit("alice@acme.example", "alice@acme.example", &["gina@later.example"], 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    // Refused at first, the tenant sleeps: no process, although its queue holds mail.
    node.wait_until("the refusal", || {
        let log = lab.persona_log("later").ok()?;
        serde_json::to_string(&log).unwrap().contains("451").then_some(())
    });
    node.wait_until("sleep with mail in the queue", || {
        let asleep = node.state_of("acme").as_deref() == Some("asleep") && node.pids("warren-msa").len() <= 2;
        (asleep && lab.mailbox("later.example", "gina").messages().unwrap().is_empty()).then_some(())
    });
    // Nobody comes by; it wakes by itself.
    let got = lab.mailbox("later.example", "gina").wait_for(subject("later"), LONG).unwrap();
    assert!(got.has_body_of(&letter));
    node.wait_until("sleep again", || (node.state_of("acme").as_deref() == Some("asleep")).then_some(()));
    node.stop();
}

#[test]
fn real_mail_arrives_byte_for_byte() {
    real_mail_through("msa");
}

#[test]
fn real_mail_arrives_byte_for_byte_through_postfix_as_well() {
    real_mail_through("postfix");
}

fn real_mail_through(image: &str) {
    let lab = Lab::start().unwrap();
    let acme = Tenant { extra: format!("image = {image:?}"), ..Tenant::acme() };
    let node = Node::start(&lab, &Setup { tenants: vec![acme], ..Setup::default() });
    let author = "alice@acme.example";
    let mut letters = corpus::kinds(author);
    letters.extend(corpus::cpython(author));
    for letter in &letters {
        let sent = node.submit(author, author, &["bob@postfix.example"], 587, &letter.raw);
        assert!(sent.accepted, "{}: {}", letter.name, sent.text);
        let replies = node.inject("someone@postfix.example", &["archive@acme.example"], &letter.raw).unwrap();
        assert!(replies.iter().all(|r| r.starts_with("250")), "{}: {replies:?}", letter.name);
    }
    let submitted = lab.mailbox("postfix.example", "bob").wait_for_count(letters.len(), |_| true, LONG).unwrap();
    let forwarded = lab.mailbox("plain.example", "archive").wait_for_count(letters.len(), |_| true, LONG).unwrap();
    for letter in &letters {
        assert!(submitted.iter().any(|m| m.has_body_of(&letter.raw)), "{}: changed on the way to Postfix", letter.name);
        assert!(forwarded.iter().any(|m| m.ends_with(&letter.raw)), "{}: changed when forwarded", letter.name);
    }
    node.stop();
}
