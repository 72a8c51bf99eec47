//! Mail with names beyond ASCII (RFC 6531): it goes where they are understood, and comes back with a clear word from where they are not.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::Ipv4Addr;
use std::time::Duration;

use warren_lab::config::Persona;
use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::{Node, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
const LONG: Duration = Duration::from_secs(90);

/// Beside the personas that know SMTPUTF8 one that does not, `ascii.example`.
fn lab() -> Lab {
    let mut ascii = Persona::new("ascii", Ipv4Addr::new(198, 51, 100, 45), &["ascii.example"]);
    ascii.extensions.retain(|keyword| keyword != "SMTPUTF8");
    Lab::start_with(&LabConfig { personas: vec![ascii], ..LabConfig::personas_only() }).unwrap()
}

fn letter(from: &str, subject: &str) -> Vec<u8> {
    let header = format!("From: Alice Grün <{from}>\r\nTo: büro@elsewhere.example\r\nSubject: {subject}\r\n");
    let kind = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    format!("{header}{kind}\r\nGrüße, 世界\r\n").into_bytes()
}

/// What a persona was told by MAIL.
fn mails(lab: &Lab, persona: &str) -> String {
    let log = serde_json::to_string(&lab.persona_log(persona).unwrap()).unwrap();
    log.split('{').filter(|entry| entry.contains("MAIL FROM")).collect()
}

/// The report that came back to somebody at `plain.example` about an address.
fn report(lab: &Lab, node: &Node<'_>, to: &str, about: &str) {
    let fits = |m: &Message| {
        let text = String::from_utf8_lossy(&m.raw).into_owned();
        text.contains(about) && text.contains("Status: 5.6.7") && text.to_lowercase().contains("smtputf8")
    };
    let mailbox = lab.mailbox("plain.example", to);
    mailbox.wait_for(fits, LONG).unwrap_or_else(|e| {
        let held = mailbox.messages().unwrap_or_default();
        let held: Vec<_> = held.iter().map(|m| String::from_utf8_lossy(&m.raw).into_owned()).collect();
        panic!("{e}\n{held:#?}\n{}", node.log())
    });
}

fn goes_where_it_is_understood_and_comes_back_from_where_it_is_not(image: &str) {
    let lab = lab();
    let acme = Tenant::new("acme", "alice").forward("info", &["erin@plain.example"]);
    let mut acme = acme.forward("old", &["erin@ascii.example"]).forward("alice", &["alice@plain.example"]);
    acme.extra = format!("image = {image:?}");
    let node = Node::start(&lab, &Setup { tenants: vec![acme], ..Setup::default() });
    let got = |user: &str, subject: &str, sent: &[u8]| {
        let fits = |m: &Message| String::from_utf8_lossy(&m.raw).contains(&format!("Subject: {subject}\r\n"));
        let got =
            lab.mailbox("plain.example", user).wait_for(fits, LONG).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
        assert!(got.has_body_of(sent), "{}", String::from_utf8_lossy(&got.raw));
        got
    };

    // Submitted.
    let sent = letter(ALICE, "Grüße von 爱丽丝");
    let submitted = node.submit(ALICE, ALICE, &["büro@plain.example"], 587, &sent);
    assert!(submitted.accepted, "{}", submitted.text);
    let arrived = got("büro", "Grüße von 爱丽丝", &sent);
    assert!(String::from_utf8_lossy(&arrived.raw).contains("From: Alice Grün <alice@acme.example>\r\n"));
    assert!(mails(&lab, "plain").contains("SMTPUTF8"), "{}", mails(&lab, "plain"));
    let submitted = node.submit(ALICE, ALICE, &["büro@ascii.example"], 587, &sent);
    assert!(submitted.accepted, "{}", submitted.text);
    report(&lab, &node, "alice", "@ascii.example");

    // Forwarded.
    let sent = letter("someone@plain.example", "Здравствуйте");
    let forward = |to: &str| {
        let replies = node.talk(25, |smtp| {
            let offered = smtp.say("EHLO client.example")?;
            assert!(offered.contains("SMTPUTF8"), "{offered}");
            let mut replies = vec![smtp.say("MAIL FROM:<someone@plain.example> BODY=8BITMIME SMTPUTF8")?];
            replies.push(smtp.say(&format!("RCPT TO:<{to}>"))?);
            smtp.say("DATA")?;
            smtp.write(&sent)?;
            replies.push(smtp.say(".")?);
            Ok(replies)
        });
        let replies = replies.unwrap();
        assert!(replies.iter().all(|reply| reply.starts_with("250")), "{to}: {replies:?}");
    };
    forward("info@acme.example");
    assert!(got("erin", "Здравствуйте", &sent).ends_with(&sent), "it was changed when it was forwarded");
    forward("old@acme.example");
    report(&lab, &node, "someone", "erin@ascii.example");

    assert_eq!(mails(&lab, "ascii"), "", "it was told of what it cannot take");
    node.stop();
}

#[test]
fn international_mail_of_warrens_own_msa() {
    goes_where_it_is_understood_and_comes_back_from_where_it_is_not("msa");
}

#[test]
fn international_mail_of_postfix() {
    goes_where_it_is_understood_and_comes_back_from_where_it_is_not("postfix");
}
