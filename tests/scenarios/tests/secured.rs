//! TLS that the recipient's domain asks for, through the whole node: signed zones from BIND, policies from an HTTPS host.
//!
//! ```text
//!   MSA in its cell ─▶ resolver ─▶ BIND: test. and below are signed, example. is the lab's own and is not
//!        │                 └─▶ https://mta-sts.DOMAIN
//!        └─▶ proxy ─▶ persona: takes everything, so what does not arrive was kept back
//! ```
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::time::Duration;

use warren_lab::signed::{Signing, Zone};
use warren_lab::{LabConfig, StsPolicy, Tls};
use warren_scenarios::corpus::note;
use warren_scenarios::signed::{NO_KEY, World, host, mail};
use warren_scenarios::{Node, Setup};

const ALICE: &str = "alice@acme.example";

/// A node that asks BIND, and trusts the lab's authority.
fn start(world: &World) -> Node<'_> {
    let ca = world.authority();
    let (ca, address, anchors) = (ca.display(), world.signed.address.ip(), world.signed.anchors.display());
    let setup = Setup {
        // Two attempts at each message are enough, and nobody sleeps meanwhile.
        retry: Duration::from_secs(2),
        resolver: format!("nameservers = [\"{address}\"]\ndnssec = \"require\"\ntrust_anchors = \"{anchors}\""),
        extra: format!("[proxy]\nca_file = \"{ca}\""),
        ..Setup::default()
    };
    Node::start(&world.lab, &setup)
}

fn send(node: &Node<'_>, domains: &[&str], subject: &str) {
    let to: Vec<String> = domains.iter().map(|domain| format!("bob@{domain}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let sent = node.submit(ALICE, ALICE, &to, 587, &note(ALICE, subject));
    assert!(sent.accepted, "{domains:?}: {}", sent.text);
}

/// Waits for a session with this MX whose transcript has all of these words in it.
fn recorded(node: &Node<'_>, domain: &str, words: &[&str]) {
    node.wait_until(&format!("a session for {domain} with {words:?}"), || {
        let table = node.ask(&["sessions", "--limit", "500"]);
        let rows = table.lines().filter(|line| line.contains(&format!("mx1.{domain}")));
        let mut shown = rows
            .filter_map(|row| row.split_whitespace().find(|word| word.len() == 16))
            .map(|id| node.ask(&["sessions", "show", id]));
        shown.find(|shown| words.iter().all(|word| shown.contains(word)))
    });
}

/// Waits for a domain's line of the day's TLS reports that has all of these words in it.
fn reported(node: &Node<'_>, domain: &str, words: &[&str]) {
    node.wait_until(&format!("a report about {domain} with {words:?}"), || {
        let days = node.ask(&["tlsrpt"]);
        // Midnight may pass between two sessions.
        let days = days.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("20")));
        let tables: Vec<String> = days.map(|day| node.ask(&["tlsrpt", "show", day])).collect();
        let mut lines = tables.iter().flat_map(|table| table.lines());
        lines.find(|line| line.contains(domain) && words.iter().all(|word| line.contains(word))).map(drop)
    });
}

#[test]
fn dane_is_kept_to_and_what_does_not_validate_waits() {
    let config = LabConfig {
        personas: [("dane.test", 40), ("wrong.test", 41), ("forged.test", 42), ("dark.test", 43)]
            .map(|(domain, last)| host(domain, last, Tls::Untrusted))
            .to_vec(),
        ..LabConfig::personas_only()
    };
    let world = World::new(&config, |lab| {
        vec![
            mail("dane.test", 40, Signing::Right, &lab.tlsa("dane.test").unwrap()),
            mail("wrong.test", 41, Signing::Right, NO_KEY),
            mail("forged.test", 42, Signing::Forged, &lab.tlsa("forged.test").unwrap()),
            Zone::new("dark.test", Signing::Right, "@ MX 10 mx1.dark.test.\nmx1 A 198.51.100.43\n"),
            Zone::new("_tcp.mx1.dark.test", Signing::Stripped, &format!("_25 TLSA {NO_KEY}\n")),
        ]
    });
    let node = start(&world);
    send(&node, &["dane.test", "wrong.test", "forged.test", "dark.test", "plain.example"], "one for all");

    world.arrived("dane.test", "one for all");
    recorded(&node, "dane.test", &["TLS for dane.test: dane, satisfied", "delivered, 250 2.6.0"]);
    // A domain that asks for nothing gets what there is.
    world.arrived("plain.example", "one for all");
    recorded(&node, "plain.example", &["TLS for plain.example: opportunistic, satisfied", "delivered, 250 2.6.0"]);
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: no certificate matches a TLSA record";
    recorded(&node, "wrong.test", &["TLS for wrong.test: dane, not satisfied", unmet]);
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: its TLSA records cannot be looked up";
    recorded(&node, "dark.test", &["TLS for dark.test: dane, not satisfied", unmet]);
    for (domain, why) in [
        ("wrong.test", "451 4.7.5 "),
        ("dark.test", "451 4.7.5 "),
        ("forged.test", "the MX of forged.test cannot be looked up"),
    ] {
        node.wait_for_log(&format!("bob@{domain}: deferred: {why}"));
    }
    reported(&node, "dane.test", &["dane"]);
    reported(&node, "wrong.test", &["dane", "certificate-not-trusted"]);
    reported(&node, "dark.test", &["dane", "dnssec-invalid"]);

    // However often it is tried.
    for persona in ["wrong.test", "dark.test"] {
        node.wait_until("another attempt", || (world.sessions(persona) > 1).then_some(()));
        world.heard_of_no_recipient(persona);
    }
    assert_eq!(world.sessions("forged.test"), 0, "nobody knows where it is");
    node.stop();
}

/// A policy of this domain, which names this MX.
fn policy(domain: &str, mode: &str, mx: &str) -> StsPolicy {
    let text = format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n");
    StsPolicy { domain: domain.into(), text }
}

#[test]
fn mta_sts_is_enforced_tested_and_reported() {
    let config = LabConfig {
        personas: vec![
            host("kept.example", 44, Tls::Good),
            host("other.example", 45, Tls::Good),
            host("stranger.example", 46, Tls::Untrusted),
            host("clear.example", 47, Tls::Off),
            host("trial.example", 48, Tls::Untrusted),
        ],
        policies: vec![
            policy("kept.example", "enforce", "mx1.kept.example"),
            policy("other.example", "enforce", "mx2.other.example"),
            policy("stranger.example", "enforce", "*.stranger.example"),
            policy("clear.example", "enforce", "mx1.clear.example"),
            policy("trial.example", "testing", "mx1.trial.example"),
        ],
        ..LabConfig::personas_only()
    };
    let world = World::new(&config, |_| Vec::new());
    let node = start(&world);
    send(
        &node,
        &["kept.example", "other.example", "stranger.example", "clear.example", "trial.example", "plain.example"],
        "one for all",
    );
    for domain in ["kept.example", "trial.example", "plain.example"] {
        world.arrived(domain, "one for all");
    }
    recorded(&node, "kept.example", &["TLS for kept.example: mta-sts enforce, satisfied", "delivered, 250 2.6.0"]);
    recorded(&node, "trial.example", &["TLS for trial.example: mta-sts testing, ", "delivered, 250 2.6.0"]);
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: its MTA-STS policy does not name mx1.other.example";
    recorded(&node, "other.example", &["TLS for other.example: mta-sts enforce, not satisfied", unmet]);
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: invalid peer certificate: UnknownIssuer";
    recorded(&node, "stranger.example", &["TLS for stranger.example: mta-sts enforce, not satisfied", unmet]);
    recorded(&node, "clear.example", &["421 4.7.4 TLS is required and the server does not offer it"]);
    for (domain, why) in [
        ("other.example", "451 4.7.5 "),
        ("stranger.example", "451 4.7.5 "),
        ("clear.example", "mx1.clear.example[198.51.100.47]: 421 4.7.4 "),
    ] {
        node.wait_for_log(&format!("bob@{domain}: deferred: {why}"));
    }
    reported(&node, "kept.example", &["mta-sts"]);
    reported(&node, "trial.example", &["mta-sts", "certificate-not-trusted"]);
    reported(&node, "stranger.example", &["mta-sts", "certificate-not-trusted"]);
    reported(&node, "other.example", &["mta-sts", "validation-failure"]);
    reported(&node, "clear.example", &["mta-sts", "starttls-not-supported"]);

    for persona in ["other.example", "stranger.example", "clear.example"] {
        node.wait_until("another attempt", || (world.sessions(persona) > 1).then_some(()));
        world.heard_of_no_recipient(persona);
    }
    node.stop();
}
