//! Limits: whoever reaches one is told so in words that say what to do, and nothing is lost that was accepted before.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::visits::enter;
use warren_scenarios::{Node, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
const LONG: Duration = Duration::from_secs(90);

#[test]
fn limits_of_warrens_own_msa() {
    whoever_reaches_a_limit_is_told_so("msa", "32M", 36 << 20);
}

#[test]
fn limits_of_postfix() {
    whoever_reaches_a_limit_is_told_so("postfix", "40M", 46 << 20);
}

/// `memory` of a container through which a message of this many bytes passes.
fn whoever_reaches_a_limit_is_told_so(image: &str, memory: &str, large: usize) {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let limited = |name: &str, limits: &str| {
        let mut tenant = Tenant::new(name, "mia");
        tenant.extra = format!("image = {image:?}\n[limits]\n{limits}\n");
        tenant.forward("info", &["erin@plain.example"])
    };
    let tenants = vec![
        limited("talker", "account_messages_per_hour = 2\nmessages_per_hour = 1"),
        limited("spreader", "account_recipients_per_hour = 3"),
        limited("hoarder", "volume_size = \"1M\"\nmessage_size = \"900K\""),
        limited("narrow", &format!("memory = {memory:?}")),
        Tenant::acme(),
    ];
    let node = Node::start(&lab, &Setup { tenants, idle: Duration::from_secs(30), ..Setup::default() });
    let mia = |tenant: &str| format!("mia@{tenant}.example");
    let send = |tenant: &str, to: &[&str], filler: usize| {
        let from = mia(tenant);
        let letter = [note(&from, "limits"), b"0123456789abcdef 0123456789abcdef\r\n".repeat(filler / 35)].concat();
        node.submit(&from, &from, to, 587, &letter)
    };
    let refused = |tenant: &str, to: &[&str], filler: usize, reply: &str| {
        let sent = send(tenant, to, filler);
        let said: Vec<&str> = reply.split(' ').collect();
        assert!(!sent.accepted && said.iter().all(|part| sent.text.contains(part)), "{reply}: {}", sent.text);
        sent.text
    };
    let accepted = |tenant: &str, to: &[&str], filler: usize| {
        let sent = send(tenant, to, filler);
        assert!(sent.accepted, "{}", sent.text);
    };

    accepted("talker", &["dave@plain.example"], 0);
    let text = refused("talker", &["dave@plain.example"], 0, "450 4.7.1");
    assert!(text.contains("limit of 1 messages an hour"), "{text}");
    refused("spreader", &["a@plain.example", "b@plain.example", "c@plain.example", "d@plain.example"], 0, "450 4.7.1");

    // The tarpit keeps the queue full.
    let stuck = ["tom@tarpit.example"];
    refused("hoarder", &stuck, 1_000_000, "552 5.3.4");
    accepted("hoarder", &stuck, 600_000);
    refused("hoarder", &stuck, 600_000, "452 4.3.1");
    accepted("hoarder", &stuck, 100_000);

    // Messages stream, in and out: one larger than all memory of its container passes.
    accepted("narrow", &["large@plain.example"], large);
    lab.mailbox("plain.example", "large").wait_for(|_| true, Duration::from_secs(180)).unwrap();

    // Forwarded mail has a count of its own, and the remote host brings it again.
    let inject = |to: &str| node.inject("x@elsewhere.example", &[to], &note("x@elsewhere.example", "in")).unwrap();
    let replies = inject("info@talker.example");
    assert!(replies[2].starts_with("250"), "{replies:?}");
    let replies = inject("info@talker.example");
    assert!(replies[1].starts_with("450 4.7.1 the recipient's limit of 1 messages an hour"), "{replies:?}");

    // A restart of the platform gives nobody a new hour.
    node.wait_until("the counts on disk", || {
        let counts = std::fs::read_to_string(node.state_dir().join("platform/rates.jsonl")).ok()?;
        (counts.contains("talker") && counts.contains("forwarded")).then_some(())
    });
    node.kill("warren-platform");
    node.wait_until("the platform again", || {
        let text = send("talker", &["dave@plain.example"], 0).text;
        assert!(!text.contains("250 2.0.0"), "{text}");
        text.contains("4.7.1").then_some(())
    });

    // The others notice nothing.
    let sent = node.submit(ALICE, ALICE, &["bob@plain.example"], 587, &note(ALICE, "fine"));
    assert!(sent.accepted, "{}", sent.text);
    node.stop();
}

/// acme, with limits of its own, and its MSA awake for as long as a scenario takes.
fn limited(limits: &str) -> Setup {
    let mut acme = Tenant::new("acme", "alice").forward("info", &["erin@plain.example"]);
    acme.extra = format!("[limits]\n{limits}\n");
    Setup { tenants: vec![acme], idle: Duration::from_secs(60), retry: Duration::from_secs(8), ..Setup::default() }
}

fn submit(node: &Node<'_>, to: &str, letter: &[u8]) -> warren_scenarios::Sent {
    node.submit(ALICE, ALICE, &[to], 587, letter)
}

fn arrives(lab: &Lab, node: &Node<'_>, (domain, user): (&str, &str), subject: &str) {
    let fits = |m: &Message| m.header("Subject").as_deref() == Some(subject);
    lab.mailbox(domain, user).wait_for(fits, LONG).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
}

/// A session at the relay entrance.
struct Session(BufReader<TcpStream>);

impl Session {
    /// A reply, all its lines; empty at the end.
    fn reply(&mut self) -> String {
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            // A reset is an end as well.
            if !self.0.read_line(&mut line).is_ok_and(|length| length > 0) {
                return whole;
            }
            whole.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return whole;
            }
        }
    }

    fn say(&mut self, command: &str) -> String {
        let _ = self.0.get_mut().write_all(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// From EHLO to the reply to DATA.
    fn up_to_data(&mut self, to: &str) -> String {
        self.say("EHLO receiver");
        self.say("MAIL FROM:<someone@client.example>");
        self.say(&format!("RCPT TO:<{to}>"));
        self.say("DATA")
    }
}

#[test]
fn an_msa_with_few_descriptors_turns_away_who_comes_beyond_them() {
    const COME: usize = 60;
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &limited("open_files = 64"));
    let mut sessions: Vec<Session> =
        enter(&node, "acme", COME).into_iter().map(|stream| Session(BufReader::new(stream))).collect();
    let greeting = |session: &mut Session| {
        let greeting = session.reply();
        assert!(!greeting.is_empty(), "a session hears nothing");
        greeting
    };
    let greetings: Vec<String> = sessions.iter_mut().map(greeting).collect();
    let served = greetings.iter().filter(|greeting| greeting.starts_with("220 ")).count();
    let turned_away = greetings.iter().filter(|greeting| greeting.starts_with("421 4.3.2 ")).count();
    println!("of {COME} sessions {served} are served with 64 descriptors, {turned_away} are told to come again");
    assert!((5..=9).contains(&served) && turned_away >= 8 && served + turned_away == COME, "{greetings:?}");
    // All who are inside can deliver at the same time.
    let mut inside: Vec<Session> = (sessions.into_iter().zip(&greetings))
        .filter_map(|(session, greeting)| greeting.starts_with("220 ").then_some(session))
        .collect();
    for session in &mut inside {
        let reply = session.up_to_data("dave@plain.example");
        assert!(reply.starts_with("354"), "{reply}");
    }
    for (n, session) in inside.iter_mut().enumerate() {
        let reply = session.say(&format!("Subject: inside {n}\r\n\r\nbody\r\n."));
        assert!(reply.starts_with("250 "), "{reply}");
    }
    drop(inside);
    (0..served).for_each(|n| arrives(&lab, &node, ("plain.example", "dave"), &format!("inside {n}")));
    // Whoever was turned away comes again.
    node.wait_until("room", || submit(&node, "dave@plain.example", &note(ALICE, "again")).accepted.then_some(()));
    arrives(&lab, &node, ("plain.example", "dave"), "again");
    node.stop();
}

#[test]
fn an_msa_that_has_no_memory_left_is_ended_and_comes_back_with_its_queue() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &limited("memory = \"16M\""));
    // Put off by its MX, it is in the queue when that happens.
    assert!(submit(&node, "gina@later.example", &note(ALICE, "before")).accepted);
    let msa = node.pids("warren-msa");
    // Each makes the MSA hold a header that does not end.
    let mut sessions: Vec<Session> =
        enter(&node, "acme", 120).into_iter().map(|stream| Session(BufReader::new(stream))).collect();
    let line = format!("X-Filler: {}\r\n", "x".repeat(900));
    for session in &mut sessions {
        session.reply();
        if session.up_to_data("dave@plain.example").starts_with("354") {
            // It may be dead by now.
            let _ = session.0.get_mut().write_all(line.repeat(270).as_bytes());
        }
    }
    node.wait_until("its end", || {
        node.log().lines().any(|l| l.contains("acme") && l.contains("Signal(9)")).then_some(())
    });
    // Nobody was told that a message was taken.
    assert!(sessions.iter_mut().all(|session| session.reply().is_empty()));
    node.wait_until("the next one", || {
        submit(&node, "dave@plain.example", &note(ALICE, "after")).accepted.then_some(())
    });
    assert!(node.pids("warren-msa").iter().all(|pid| !msa.contains(pid)));
    arrives(&lab, &node, ("later.example", "gina"), "before");
    arrives(&lab, &node, ("plain.example", "dave"), "after");
    node.stop();
}

/// Whatever is larger than a file may be is refused for good, and the next message is taken by the same process.
fn larger_than_a_file_may_be(image: &str, noted_within: bool) {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut setup = limited("file_size = \"1M\"");
    setup.tenants[0].extra.insert_str(0, &format!("image = {image:?}\n"));
    let node = Node::start(&lab, &setup);
    let letter = |subject: &str, lines: usize| {
        [note(ALICE, subject), b"0123456789abcdef 0123456789abcdef\r\n".repeat(lines)].concat()
    };
    let refused = |to: &[&str], lines: usize, reply: [&str; 2]| {
        let sent = node.submit(ALICE, ALICE, to, 587, &letter("large", lines));
        assert!(!sent.accepted && reply.iter().all(|part| sent.text.contains(part)), "{}", sent.text);
    };
    refused(&["dave@plain.example"], 60_000, ["552", "5.3.4"]);
    // It would fit, but not with what is noted about its recipients.
    refused(&["dave@plain.example"], 20_000, ["552", "5.3.4"]);
    let programs = || [node.pids("warren-msa"), node.pids("warren-init")].concat();
    let before = programs();
    if noted_within {
        let many: Vec<String> = (0..500).map(|n| format!("dave{n}@plain.example")).collect();
        refused(&many.iter().map(String::as_str).collect::<Vec<_>>(), 10_000, ["452", "4.5.3"]);
    }
    assert!(before.len() == 1 && submit(&node, "dave@plain.example", &letter("small", 10_000)).accepted);
    assert_eq!(programs(), before);
    arrives(&lab, &node, ("plain.example", "dave"), "small");
    node.stop();
}

#[test]
fn a_message_larger_than_a_file_may_be() {
    larger_than_a_file_may_be("msa", true);
}

#[test]
fn a_message_larger_than_a_file_of_postfix_may_be() {
    larger_than_a_file_may_be("postfix", false);
}
