//! An unmodified Postfix from Debian as a tenant's MSA: the same life as any other, with the queue and the schedule of its own.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::images::built;
use warren_scenarios::{Node, Setup, Tenant};

const LONG: Duration = Duration::from_secs(90);
const ALICE: &str = "alice@acme.example";

/// `acme` has Postfix, its neighbour `globex` Warren's own MSA.
fn setup() -> Setup {
    let image = built().join("postfix/image.json");
    assert!(image.is_file(), "{} is missing: run msa-image/postfix/build", image.display());
    let mut acme = Tenant::new("acme", "alice").forward("info", &["erin@plain.example"]);
    acme.extra = "image = \"postfix\"".into();
    Setup { tenants: vec![acme, Tenant::globex()], ..Setup::default() }
}

fn subject(text: &str) -> impl Fn(&Message) -> bool {
    move |m| m.header("Subject").as_deref() == Some(text)
}

fn asleep(node: &Node<'_>) {
    node.wait_until("sleep", || (node.state_of("acme").as_deref() == Some("asleep")).then_some(()));
    assert_eq!(node.pids("warren-init").len(), 0, "a process is left");
}

#[test]
fn postfix_serves_both_roads_and_sleeps() {
    let lab = Lab::start().unwrap();
    let node = Node::start(&lab, &setup());

    // Submission, with the fix-ups of RFC 6409, to a real MX.
    let letter = note(ALICE, "one");
    let sent = node.submit(ALICE, ALICE, &["bob@postfix.example"], 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    let got = lab.mailbox("postfix.example", "bob").wait_for(subject("one"), LONG).unwrap();
    assert!(got.has_body_of(&letter));
    assert!(got.header("Date").is_some() && got.header("Message-ID").is_some(), "RFC 6409 fix-ups are missing");
    assert_eq!(got.header("Return-Path").as_deref(), Some("<alice@acme.example>"));

    // Forwarded mail: fields at the top, nothing else changes.
    let letter = note("someone@postfix.example", "two");
    let replies = node.inject("someone@postfix.example", &["info@acme.example"], &letter).unwrap();
    assert!(replies.iter().all(|r| r.starts_with("250")), "{replies:?}");
    let got = lab.mailbox("plain.example", "erin").wait_for(subject("two"), LONG).unwrap();
    assert!(got.ends_with(&letter), "{}", String::from_utf8_lossy(&got.raw));

    // An operator looks around in it, with the container's own programs; what is printed cannot draw on a terminal.
    assert!(node.ask(&["tenant", "exec", "acme", "postconf", "-h", "mail_name"]).contains("Postfix"));
    let failing =
        node.warren(&["tenant", "exec", "acme", "sh", "-c", "printf 'a\\033[2Jb\\n'; cat /proc/self/uid_map; exit 7"]);
    let printed = String::from_utf8(failing.stdout).unwrap();
    assert_eq!(failing.status.code(), Some(7), "{printed}");
    assert!(printed.starts_with("a\\u{1b}[2Jb") && printed.contains(" 1024"), "{printed}");
    let none = node.warren(&["tenant", "exec", "globex", "sh"]);
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("runs no programs"));

    // To the neighbour on the same node, whose receiver greets with the very name that this tenant greets with.
    let sent = node.submit(ALICE, ALICE, &["sales@globex.example"], 587, &note(ALICE, "three"));
    assert!(sent.accepted, "{}", sent.text);
    lab.mailbox("postfix.example", "frank").wait_for(subject("three"), LONG).unwrap();

    let refused = node.submit(ALICE, "carol@globex.example", &["bob@postfix.example"], 587, &note(ALICE, "four"));
    assert!(!refused.accepted && refused.text.contains("5.7.1"), "{}", refused.text);

    // Recorded like any other's.
    node.wait_until("the recorded session", || {
        let table = node.ask(&["sessions", "--limit", "500"]);
        table.lines().any(|l| l.contains("acme") && l.contains("postfix.example")).then_some(())
    });
    asleep(&node);
    node.stop();
}

#[test]
fn nobody_writes_as_somebody_else() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &setup());
    let send = |header: &str, subject: &str| {
        let letter = format!("{header}\r\nTo: <dave@plain.example>\r\nSubject: {subject}\r\n\r\nbody\r\n");
        node.submit(ALICE, ALICE, &["dave@plain.example"], 587, letter.as_bytes())
    };
    for header in [
        "From: carol@globex.example",
        "from : Carol <carol@globex.example>",
        "From: Alice <alice@acme.example>,\r\n\tceo@bank.example",
        "From: alice@acme.example <ceo@bank.example>",
        "From: alice@acme.example\r\nSender: ceo@bank.example",
        "From: alice@acme.example\r\nFrom: ceo@bank.example",
        "Resent-From: ceo@bank.example\r\nFrom: alice@acme.example",
        "From: friends: ceo@bank.example;",
        "From: undisclosed:;",
        "From: alice",
    ] {
        let sent = send(header, "forged");
        assert!(!sent.accepted && sent.text.contains("550") && sent.text.contains("5.7.1"), "{header}: {}", sent.text);
    }
    for (header, subject) in
        [("From: \"Al (x)\" <Alice@ACME.example>\r\nSender:\r\n alice@acme.example", "own"), ("X-None: x", "none")]
    {
        let sent = send(header, subject);
        assert!(sent.accepted, "{header}: {}", sent.text);
        let got = lab.mailbox("plain.example", "dave").wait_for(self::subject(subject), LONG).unwrap();
        assert!(got.header("From").unwrap().to_lowercase().contains(ALICE), "{subject}");
    }
    // Whatever follows a NUL, nobody sees it.
    if send("From: alice@acme.example\0, ceo@bank.example", "nul").accepted {
        let got = lab.mailbox("plain.example", "dave").wait_for(subject("nul"), LONG).unwrap();
        assert!(!String::from_utf8_lossy(&got.raw).contains("ceo@"), "{}", String::from_utf8_lossy(&got.raw));
    }
    assert!(lab.mailbox("plain.example", "dave").messages().unwrap().iter().all(|m| !subject("forged")(m)));
    node.stop();
}

#[test]
fn deferred_mail_wakes_postfix() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    // Long enough to fall asleep meanwhile on a busy machine, too.
    let node = Node::start(&lab, &Setup { retry: Duration::from_secs(12), ..setup() });
    let letter = note(ALICE, "later");
    let sent = node.submit(ALICE, ALICE, &["gina@later.example"], 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    node.wait_until("sleep with mail in the queue", || {
        let refused = serde_json::to_string(&lab.persona_log("later").ok()?).unwrap().contains("451");
        let asleep = refused && node.state_of("acme").as_deref() == Some("asleep");
        (asleep && node.pids("warren-init").is_empty()).then_some(())
    });
    assert!(lab.mailbox("later.example", "gina").messages().unwrap().is_empty(), "it slept only after the delivery");
    // Nobody comes by; it is woken for its mail.
    let got = lab.mailbox("later.example", "gina").wait_for(subject("later"), LONG).unwrap();
    assert!(got.has_body_of(&letter));
    asleep(&node);
    node.stop();
}

#[test]
fn a_killed_postfix_loses_nothing() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &setup());
    let subjects: Vec<String> = (0..4).map(|n| format!("kept {n}")).collect();
    for subject in &subjects {
        // Refused at first, so that it is in the queue at the kill; a recipient each, as the refusal is by recipient.
        let to = format!("{}@later.example", subject.replace(' ', "-"));
        let sent = node.submit(ALICE, ALICE, &[&to], 587, &note(ALICE, subject));
        assert!(sent.accepted, "{}", sent.text);
        if let Some(pid) = node.pids("warren-init").first() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            // It may have gone to sleep just now.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for text in &subjects {
        let mailbox = lab.mailbox("later.example", &text.replace(' ', "-"));
        mailbox.wait_for(subject(text), LONG).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
    }
    node.stop();
}

/// Where the kernel counts the processes of this one's container.
fn process_limit(pid: u32) -> PathBuf {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |line: &str| {
        let (hierarchy, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        let mount = match hierarchy {
            "pids" => "/sys/fs/cgroup/pids",
            "" => "/sys/fs/cgroup",
            _ => return None,
        };
        Some(Path::new(mount).join(path.trim_start_matches('/')).join("pids.max")).filter(|file| file.exists())
    };
    groups.lines().find_map(of).expect("a limit of processes")
}

#[test]
fn settings_that_change_while_nothing_can_be_started_are_put_into_force_later() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup { idle: LONG, ..setup() });
    assert!(node.submit(ALICE, ALICE, &["erin@plain.example"], 587, &note(ALICE, "before")).accepted);
    let init = node.pids("warren-init");
    let limit = process_limit(init[0]);
    let usual = std::fs::read_to_string(&limit).unwrap();
    // Postfix's master and more run already: there is no room for a hook.
    std::fs::write(&limit, "1").unwrap();

    let acme = node.config_dir().join("tenants/acme.toml");
    let text = std::fs::read_to_string(&acme).unwrap();
    std::fs::write(&acme, text.replace("\"acme.example\"", "\"acme.example\", \"acme.test\"")).unwrap();
    node.ask(&["apply"]);
    node.wait_for_log("the new settings are not in force");
    std::fs::write(&limit, usual).unwrap();
    node.wait_for_log("the new settings are in force");
    assert_eq!(node.pids("warren-init"), init, "its container was ended for it");

    assert!(node.submit(ALICE, ALICE, &["erin@plain.example"], 587, &note(ALICE, "after")).accepted);
    for text in ["before", "after"] {
        lab.mailbox("plain.example", "erin").wait_for(subject(text), LONG).unwrap();
    }
    node.stop();
}
