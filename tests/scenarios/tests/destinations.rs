//! Every kind of destination that DNS can name: several MXs, none, a null MX, a failing zone, and addresses that nobody may dial.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
const LONG: Duration = Duration::from_secs(60);

fn subject(text: &str) -> impl Fn(&Message) -> bool {
    move |m| m.header("Subject").as_deref() == Some(text)
}

#[test]
fn mail_finds_its_way_or_comes_back() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let acme = Tenant::new("acme", "alice").forward("alice", &["alice@plain.example"]);
    let node = Node::start(&lab, &Setup { tenants: vec![acme], ..Setup::default() });
    let send = |to: &str| {
        let sent = node.submit(ALICE, ALICE, &[to], 587, &note(ALICE, to));
        assert!(sent.accepted, "{to}: {}", sent.text);
    };

    // The MX that is preferred refuses the connection, the next one takes it; without an MX the address record stands for one.
    for domain in ["multi.example", "implicit.example"] {
        let to = format!("bob@{domain}");
        send(&to);
        lab.mailbox(domain, "bob").wait_for(subject(&to), LONG).unwrap();
    }
    let table = node.wait_until("both sessions", || {
        let table = node.ask(&["sessions", "--limit", "50"]);
        ["mx1.multi.example", "mx2.multi.example"].iter().all(|name| table.contains(name)).then_some(table)
    });
    assert!(table.contains("unreachable"), "the MX that is closed was tried first:\n{table}");

    // A domain that says it takes no mail (RFC 7505), and one that there is not: the report travels back through the node's own
    // receiver to whoever reads the sender's mail.
    for (to, status) in [("bob@nullmx.example", "5.1.10"), ("bob@no-such-domain.example", "5.1.2")] {
        send(to);
        let about = |m: &Message| {
            let text = String::from_utf8_lossy(&m.raw).into_owned();
            m.header("Content-Type").is_some_and(|kind| kind.contains("delivery-status")) && text.contains(to)
        };
        let report = lab.mailbox("plain.example", "alice").wait_for(about, LONG).unwrap();
        let text = String::from_utf8_lossy(&report.raw).into_owned();
        assert!(text.contains("Action: failed") && text.contains(&format!("Status: {status}")), "{text}");
        assert!(text.contains(&format!("Final-Recipient: rfc822; {to}")), "{text}");
    }
    let heard = serde_json::to_string(&lab.persona_log("plain").unwrap()).unwrap();
    assert!(heard.contains("MAIL FROM:<>"), "reports have no reverse-path, so that they are never reported: {heard}");

    // What nobody may dial is not dialled, and a zone that fails proves nothing: the mail waits.
    for domain in ["loopback.example", "private.example", "mapped.example", "servfail.example"] {
        send(&format!("bob@{domain}"));
    }
    let queued = |domain: &str| {
        let log = node.ask(&["tenant", "logs", "acme"]);
        log.lines().any(|line| line.contains(&format!("bob@{domain}: deferred:"))).then_some(())
    };
    for domain in ["loopback.example", "private.example", "mapped.example", "servfail.example"] {
        node.wait_until(&format!("the delay of mail to {domain}"), || queued(domain));
    }
    node.wait_until("what the proxy did not dial", || {
        let forbidden = node.ask(&["sessions", "--limit", "50"]).matches("forbidden").count();
        (forbidden >= 3).then_some(())
    });
    node.stop();
}
