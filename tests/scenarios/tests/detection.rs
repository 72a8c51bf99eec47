//! How MX hosts misbehave, recognised from real deliveries: an event with its evidence, and what became of the mail.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::IpAddr;
use std::time::Duration;

use warren_lab::persona::catalogue::{LIST, SLOW_LIST, THROTTLE_AFTER};
use warren_lab::{Lab, LabConfig, map};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup};

const LONG: Duration = Duration::from_secs(90);
const ALICE: &str = "alice@acme.example";

fn lab() -> Lab {
    Lab::start_with(&LabConfig { catalogue: true, ..LabConfig::personas_only() }).unwrap()
}

/// Submits one message to somebody at this persona.
fn send(node: &Node<'_>, user: &str, persona: &str) {
    let to = format!("{user}@{persona}.example");
    let sent = node.submit(ALICE, ALICE, &[&to], 587, &note(ALICE, persona));
    assert!(sent.accepted, "{persona}: {}", sent.text);
}

/// The line of the first event of this kind by this persona's operator, once it is in the database.
fn event(node: &Node<'_>, kind: &str, persona: &str) -> String {
    let operator = format!(" {persona}.example ");
    node.wait_until(&format!("{kind} by {persona}"), || {
        let table = node.ask(&["sessions", "events", "--kind", kind, "--limit", "1000"]);
        table.lines().find(|line| line.contains(&operator)).map(str::to_owned)
    })
}

/// The transcript of the session that a line begins with.
fn transcript(node: &Node<'_>, line: &str) -> String {
    node.ask(&["sessions", "show", line.split_whitespace().next().unwrap()])
}

#[test]
fn tarpits_and_greylisting_are_recognised() {
    let lab = lab();
    let node = Node::start(&lab, &Setup::default());
    send(&node, "bob", "drip");
    send(&node, "bob", "greylist");

    let greylisting = event(&node, "greylisting", "greylist");
    assert!(greylisting.contains(" RCPT ") && greylisting.contains("Greylisted, please come back"), "{greylisting}");
    let shown = transcript(&node, &greylisting);
    assert!(shown.contains("!!  greylisting by greylist.example") && shown.contains(": greylisted, 450"), "{shown}");

    let tarpit = event(&node, "tarpit", "drip");
    assert!(tarpit.contains(" greeting ") && tarpit.contains("\"how\":\"drip\""), "{tarpit}");
    // It took its time, and took the mail.
    lab.mailbox("drip.example", "bob").wait_for(|_| true, LONG).unwrap();
    lab.mailbox("greylist.example", "bob").wait_for(|_| true, LONG).unwrap();
    node.stop();
}

#[test]
fn listings_are_recognised_wherever_they_are_told() {
    let lab = lab();
    let all: Vec<IpAddr> = map::NODE.map(IpAddr::from).to_vec();
    lab.set_list(LIST, &all).unwrap();
    let node = Node::start(&lab, &Setup::default());
    for (persona, at) in [("listed-greeting", " greeting "), ("listed-mail", " MAIL "), ("listed-rcpt", " RCPT ")] {
        send(&node, "bob", persona);
        let listing = event(&node, "listing", persona);
        for part in [at, LIST, "\"about\":\"egress\"", "203.0.113.1"] {
            assert!(listing.contains(part), "no {part} in {listing}");
        }
        assert!(transcript(&node, &listing).contains("!!  listing by"), "{listing}");
    }
    let counted = node.ask(&["sessions", "events", "--count"]);
    assert!(counted.contains("listed-rcpt.example"), "{counted}");
    // Off the list, and used again, the same addresses deliver: nothing was started anew.
    lab.set_list(LIST, &[]).unwrap();
    for address in map::NODE {
        node.ask(&["egress", "restore", &address.to_string(), "--destination", "listed-rcpt.example"]);
    }
    send(&node, "carol", "listed-rcpt");
    lab.mailbox("listed-rcpt.example", "carol").wait_for(|_| true, LONG).unwrap();
    node.stop();
}

#[test]
fn a_throttle_is_recognised_with_what_came_before_it() {
    let lab = lab();
    let node = Node::start(&lab, &Setup::default());
    for n in 0..=THROTTLE_AFTER {
        send(&node, &format!("bob{n}"), "throttle");
    }
    let throttle = event(&node, "throttle", "throttle");
    for part in [" greeting ", "\"how\":\"said_so\"", "\"pace\":{", "Too many connections"] {
        assert!(throttle.contains(part), "no {part} in {throttle}");
    }
    node.stop();
}

#[test]
fn the_one_address_that_is_served_late_is_named() {
    let lab = lab();
    let slow = IpAddr::from(map::NODE[1]);
    lab.set_list(SLOW_LIST, &[slow]).unwrap();
    let node = Node::start(&lab, &Setup::default());
    let sessions = || node.ask(&["sessions", "--limit", "500"]).matches("mx1.slow-one.example").count();
    // Three sessions from each of the three addresses would do, were they dealt out in turn.
    for n in 0..40 {
        send(&node, &format!("bob{n}"), "slow-one");
        node.wait_until("its session", || (sessions() > n).then_some(()));
        if node.ask(&["sessions", "events"]).contains("slow_address") {
            break;
        }
    }
    let found = event(&node, "slow_address", "slow-one");
    for part in [slow.to_string().as_str(), " RCPT ", "\"here_us\":", "\"elsewhere_us\":"] {
        assert!(found.contains(part), "no {part} in {found}");
    }
    let table = node.ask(&["sessions", "events", "--kind", "slow_address"]);
    for innocent in [map::NODE[0], map::NODE[2]] {
        assert!(!table.contains(&format!(" {innocent} ")), "{table}");
    }
    node.stop();
}

#[test]
fn broken_tls_and_broken_sessions_leave_their_trace() {
    let lab = lab();
    let node = Node::start(&lab, &Setup::default());
    let taken = ["tls-only", "tls-refused", "tls-garbage", "tls-alert", "drop-quit"];
    let lost = ["drop-greeting", "drop-ehlo", "drop-mail", "drop-rcpt", "drop-data", "drop-content"];
    for persona in taken.iter().chain(&lost) {
        send(&node, "bob", persona);
    }
    let session = |persona: &str, word: &str| {
        let name = format!("mx1.{persona}.example");
        node.wait_until(&format!("{word} at {persona}"), || {
            let table = node.ask(&["sessions", "--limit", "500"]);
            table.lines().find(|line| line.contains(&name) && line.contains(word)).map(str::to_owned)
        })
    };
    for persona in taken {
        lab.mailbox(&format!("{persona}.example"), "bob").wait_for(|_| true, LONG).unwrap();
        let shown = transcript(&node, &session(persona, "delivered"));
        let secure = matches!(persona, "tls-only" | "drop-quit");
        assert_eq!(shown.contains("TLSv1."), secure, "{shown}");
        assert!(secure || shown.contains("in the clear"), "{shown}");
    }
    for persona in lost {
        session(persona, "mx_lost");
    }
    // What was never acknowledged was not delivered, as far as anybody can know.
    let shown = transcript(&node, &session("drop-content", "mx_lost"));
    assert!(shown.contains(": network"), "{shown}");
    // None of this is anybody's fault that an event would name.
    assert!(!node.ask(&["sessions", "events"]).contains("drop-"), "{}", node.ask(&["sessions", "events"]));
    node.stop();
}
