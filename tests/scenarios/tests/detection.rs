//! How MX hosts misbehave, recognised from real deliveries: an event with its evidence, and what became of the mail.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::IpAddr;
use std::time::Duration;

use warren_lab::persona::catalogue::{LIST, SLOW_LIST, THROTTLE_AFTER};
use warren_lab::{Event, Lab, LabConfig, Record, RecordData, map};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup};

const LONG: Duration = Duration::from_secs(90);
const ALICE: &str = "alice@acme.example";
const CAROL: &str = "carol@globex.example";
/// As long as `slow-banner` takes to greet.
const SLOW_BANNER: f64 = 6.0;

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

/// The line of a session with this persona that has this word in it, once there is one.
fn session(node: &Node<'_>, persona: &str, word: &str) -> String {
    let name = format!("mx1.{persona}.example");
    node.wait_until(&format!("{word} at {persona}"), || {
        let table = node.ask(&["sessions", "--limit", "500"]);
        table.lines().find(|line| line.contains(&name) && line.contains(word)).map(str::to_owned)
    })
}

/// The transcript of the session that a line begins with.
fn transcript(node: &Node<'_>, line: &str) -> String {
    node.ask(&["sessions", "show", line.split_whitespace().next().unwrap()])
}

/// Connections are what is throttled here: each message has one of its own.
const DIALLED_EACH: &str = "[proxy.reuse]\nidle = \"0s\"\n";

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
    let node = Node::start(&lab, &Setup { extra: DIALLED_EACH.into(), ..Setup::default() });
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
fn a_throttle_that_gives_no_reason_is_told_by_what_came_before_it() {
    let lab = lab();
    // All from one address: what was taken and refused is counted for each.
    let one = "[egress.pools]\nquiet = [\"203.0.113.12\"]\n\
               [[egress.rules]]\ndestinations = [\"silent-throttle.example\"]\npool = \"quiet\"";
    let node = Node::start(&lab, &Setup { extra: format!("{DIALLED_EACH}{one}"), ..Setup::default() });
    for n in 0..THROTTLE_AFTER {
        send(&node, &format!("bob{n}"), "silent-throttle");
        lab.mailbox("silent-throttle.example", &format!("bob{n}")).wait_for(|_| true, LONG).unwrap();
    }
    // Nobody knows yet what is wrong. The MSA hears what was said, keeps the message, and comes back: then it is a throttle.
    send(&node, "late", "silent-throttle");
    node.wait_for_log("late@silent-throttle.example: deferred: mx1.silent-throttle.example[198.51.100.");
    let throttle = event(&node, "throttle", "silent-throttle");
    for part in [" greeting ", "203.0.113.12", "\"how\":\"after_sessions\"", "\"taken\":6", "\"refused\":2", "not now"]
    {
        assert!(throttle.contains(part), "no {part} in {throttle}");
    }
    let shown = transcript(&node, &throttle);
    assert!(shown.contains("<-  421 not now") && shown.contains("!!  throttle by silent-throttle.example"), "{shown}");
    assert!(lab.mailbox("silent-throttle.example", "late").messages().unwrap().is_empty());
    node.stop();
}

#[test]
fn a_banner_that_is_late_on_purpose_is_waited_for_and_is_no_tarpit() {
    let lab = lab();
    let node = Node::start(&lab, &Setup::default());
    send(&node, "bob", "slow-banner");
    lab.mailbox("slow-banner.example", "bob").wait_for(|_| true, LONG).unwrap();
    // The time it took is on record, and it was one session: nobody gave up.
    let row = session(&node, "slow-banner", "delivered");
    let shown = transcript(&node, &row);
    let greeting =
        shown.lines().find(|line| line.contains("<-  220 ")).unwrap_or_else(|| panic!("no greeting in {shown}"));
    let took: f64 = greeting.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((SLOW_BANNER..SLOW_BANNER + 4.0).contains(&took), "{took} s: {shown}");
    let log = lab.persona_log("slow-banner").unwrap();
    assert_eq!(log.iter().filter(|entry| entry.event == Event::Connected).count(), 1, "{log:?}");
    // As long as Postfix's postscreen takes: from a stranger no reason to think ill of it.
    assert!(!node.ask(&["sessions", "events"]).contains("slow-banner"));
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
    // The slowest first: it takes all the time that a handshake has.
    let taken = ["tls-stall", "tls-only", "tls-refused", "tls-garbage", "tls-alert", "drop-starttls", "drop-quit"];
    let lost = ["drop-greeting", "drop-ehlo", "drop-mail", "drop-rcpt", "drop-data", "drop-content"];
    for persona in taken.iter().chain(&lost) {
        send(&node, "bob", persona);
    }
    for persona in taken {
        lab.mailbox(&format!("{persona}.example"), "bob").wait_for(|_| true, LONG).unwrap();
        let shown = transcript(&node, &session(&node, persona, "delivered"));
        let secure = matches!(persona, "tls-only" | "drop-quit");
        assert_eq!(shown.contains("TLSv1."), secure, "{shown}");
        assert!(secure || shown.contains("in the clear"), "{shown}");
        let why = match persona {
            "tls-stall" => "no TLS handshake within 30 s",
            "tls-garbage" | "tls-alert" => "TLS handshake: ",
            "tls-refused" => "|<  454 4.7.0 TLS not available",
            "drop-starttls" => "|>  STARTTLS",
            _ => "",
        };
        assert!(shown.contains(why), "no {why:?} in {shown}");
        // A handshake that came to nothing is followed by another connection, which the MSA knows nothing of.
        let again = matches!(persona, "tls-stall" | "tls-garbage" | "tls-alert" | "drop-starttls");
        assert_eq!(shown.contains("==  leg 2 from"), again, "{shown}");
    }
    for persona in lost {
        session(&node, persona, "mx_lost");
    }
    // What was never acknowledged was not delivered, as far as anybody can know.
    let shown = transcript(&node, &session(&node, "drop-content", "mx_lost"));
    assert!(shown.contains(": network"), "{shown}");
    // None of this is anybody's fault that an event would name.
    assert!(!node.ask(&["sessions", "events"]).contains("drop-"), "{}", node.ask(&["sessions", "events"]));
    node.stop();
}

/// Whoever asks for TLS is not served by the same hosts in the clear.
#[test]
fn broken_tls_that_is_required_delays_mail_and_says_why() {
    const BROKEN: [&str; 5] = ["tls-stall", "tls-refused", "tls-garbage", "tls-alert", "drop-starttls"];
    let strict = |persona: &str| format!("strict.{persona}.example");
    let mut config = LabConfig { catalogue: true, ..LabConfig::personas_only() };
    for persona in BROKEN {
        // The same host, by a domain that asks for more.
        let mx = format!("mx1.{persona}.example");
        config.records.push(Record::new(strict(persona), RecordData::Mx(10, mx)));
    }
    let lab = Lab::start_with(&config).unwrap();
    let domains: Vec<String> = BROKEN.iter().map(|persona| format!("{:?}", strict(persona))).collect();
    let rule = format!("[[proxy.tls_rules]]\ndomains = [{}]\npolicy = \"require\"", domains.join(", "));
    let node = Node::start(&lab, &Setup { extra: rule, ..Setup::default() });
    for persona in BROKEN {
        let to = format!("bob@{}", strict(persona));
        let sent = node.submit(CAROL, CAROL, &[&to], 587, &note(CAROL, persona));
        assert!(sent.accepted, "{persona}: {}", sent.text);
    }
    for persona in BROKEN {
        let host = format!("mx1.{persona}.example");
        let told = node.wait_for_log(&format!("bob@{}: deferred: {host}[", strict(persona)));
        assert!(told.contains("]: 421 4.7.5 TLS is required and could not be established"), "{told}");
        let shown = transcript(&node, &session(&node, persona, "tls_failed"));
        assert!(shown.contains("<|  421 4.7.5 TLS is required"), "{shown}");
        // Not a word of the message was said in the clear.
        let log = lab.persona_log(persona).unwrap();
        let said =
            |entry: &warren_lab::LogEntry| matches!(&entry.event, Event::Command(line) if line.starts_with("MAIL"));
        assert!(!log.iter().any(said), "{persona}: {log:?}");
    }
    node.stop();
}
