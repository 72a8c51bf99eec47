//! `warren egress` as a person meets it: tables, explanations, and what goes wrong. The proxy is played.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use warren_control::egress::{
    AddressRow, CandidateRow, DestinationRow, EgressReply, EgressRequest, EvidenceRow, Explained, HealthRow,
    HealthState, MailClass, NodeRow, PoolRow, Row, RuleRow, SenderRow, WarmingRow,
};
use warren_packet::PacketListener;

/// 2023-11-14 22:13:20Z.
const NOW: u64 = 1_700_000_000_000;

fn node() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n[paths]\nrun = \"{0}\"\nstate = \"{0}\"\n",
        directory.path().display()
    );
    fs::write(directory.path().join("warren.toml"), text).unwrap();
    directory
}

fn warren(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warren"))
        .arg("egress")
        .args(arguments)
        .arg("--config")
        .arg(directory)
        .env_remove("WARREN_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b""[..], Some(1)));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A proxy that hears one connection and answers so; gives back what it was asked.
fn proxy(directory: &Path, answers: Vec<EgressReply>) -> JoinHandle<Vec<EgressRequest>> {
    let path = directory.join("proxy.sock");
    // The one before is gone, but a program that another test is just starting may hold its socket for a moment.
    let _ = fs::remove_file(&path);
    let listener = PacketListener::listen(&path).unwrap();
    thread::spawn(move || {
        let peer = listener.accept().unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let (request, _) = peer.recv().unwrap().unwrap();
            asked.push(request);
            peer.send(&answer, &[]).unwrap();
        }
        asked
    })
}

fn well() -> HealthRow {
    HealthRow {
        state: HealthState::Healthy,
        since_unix_ms: None,
        until_unix_ms: None,
        by_hand: false,
        evidence: Vec::new(),
    }
}

fn address(address: &str, health: HealthRow) -> Row {
    Row::Address(AddressRow {
        address: address.parse().unwrap(),
        name: "mail.example.net".into(),
        pools: vec!["default".into()],
        sessions: 3,
        health,
        warming_day: None,
    })
}

fn destination(name: &str, health: HealthRow, sessions: u32, warming: Option<WarmingRow>) -> Row {
    Row::Destination(DestinationRow {
        address: "203.0.113.10".parse().unwrap(),
        destination: name.into(),
        health,
        sessions,
        sessions_limit: 20,
        begun: sessions,
        begun_limit: 600,
        waiting: 0,
        warming,
    })
}

fn rows() -> (Vec<Row>, Vec<Row>) {
    let listed = HealthRow {
        state: HealthState::Rested,
        since_unix_ms: Some(NOW - 600_000),
        until_unix_ms: Some(NOW + 300_000),
        by_hand: false,
        evidence: vec![EvidenceRow {
            at_unix_ms: NOW - 600_000,
            what: "block_listed".into(),
            list: Some("zen.spamhaus.org".into()),
            reply: format!("554 5.7.1 blocked \u{1b}[2J{}", "x".repeat(200)),
        }],
    };
    let just_now = HealthRow { state: HealthState::Rested, since_unix_ms: Some(NOW - 999), ..well() };
    let by_hand = HealthRow { state: HealthState::Rested, by_hand: true, since_unix_ms: Some(NOW - 5_000), ..well() };
    let first = vec![
        Row::Node(NodeRow { at_unix_ms: NOW, sessions: 3, waiting: 1 }),
        Row::Pool(PoolRow { name: "default".into(), addresses: vec!["203.0.113.10".parse().unwrap()] }),
        Row::Rule(RuleRow { number: 1, when: "of tenant acme".into(), pool: "default".into() }),
        address("203.0.113.10", well()),
        address("203.0.113.11", by_hand),
    ];
    let second = vec![
        destination("outlook.com", listed, 0, None),
        destination("google.com", well(), 3, Some(WarmingRow { sent: 40, limit: 70 })),
        destination("quiet.example", well(), 0, None),
        destination("yahoo.com", just_now, 0, None),
        Row::Sender(SenderRow {
            tenant: "acme".parse().unwrap(),
            account: Some("news\u{202e}@acme.example".into()),
            class: MailClass::Submitted,
            suspicion: "raised".into(),
            score: 37,
            why: "9 of 20 recipients unknown".into(),
        }),
    ];
    (first, second)
}

#[test]
fn the_picture_is_shown_whole_and_without_tricks() {
    let directory = node();
    let (first, second) = rows();
    let count = first.len() as u64;
    let pages = vec![EgressReply::Rows { rows: first, more: true }, EgressReply::Rows { rows: second, more: false }];
    let played = proxy(directory.path(), pages);
    let shown = out(&warren(directory.path(), &[]));
    let expected = [
        "3 sessions go on, 1 wait for their turn",
        "",
        "ADDRESS       NAME              POOLS    SESSIONS  STATE                   WHY",
        "203.0.113.10  mail.example.net  default  3         healthy                 -",
        "203.0.113.11  mail.example.net  default  3         rested by hand for 5 s  -",
        "",
        "RULE  MAIL            POOL",
        "1     of tenant acme  default",
        "",
        "DESTINATION  ADDRESS       SESSIONS  WAITING  A MINUTE  TODAY  STATE",
        "outlook.com  203.0.113.10  0/20      0        0/600     -      rested for 10 min, until 2023-11-14 22:18:20Z",
        "google.com   203.0.113.10  3/20      0        3/600     40/70  healthy",
        "yahoo.com    203.0.113.10  0/20      0        0/600     -      rested since just now -",
        "1 destinations where all is well and nothing goes on: --all shows them",
        "",
        "TENANT  ACCOUNT",
        "acme    news\\u{202e}@acme.example  submitted  raised (37)  9 of 20 recipients unknown",
    ];
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{shown}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(squeezed(line).starts_with(&squeezed(expected)), "{line:?} is not {expected:?} in\n{shown}");
    }
    let evidence = "2023-11-14 22:03:20Z block_listed (zen.spamhaus.org): 554 5.7.1 blocked \\u{1b}[2Jxxx";
    assert!(shown.contains(evidence) && shown.contains("xxx…") && !shown.contains('\u{1b}'), "{shown}");
    let asked = played.join().unwrap();
    assert_eq!(asked, [EgressRequest::Snapshot { from: 0 }, EgressRequest::Snapshot { from: count }]);
}

#[test]
fn json_has_a_line_for_each_row_with_all_that_is_known() {
    let directory = node();
    let (first, _) = rows();
    let played = proxy(directory.path(), vec![EgressReply::Rows { rows: first.clone(), more: false }]);
    let shown = out(&warren(directory.path(), &["--json"]));
    let read: Vec<Row> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, first);
    assert!(shown.starts_with(r#"{"row":"node","at_unix_ms":1700000000000,"#), "{shown}");
    played.join().unwrap();
}

#[test]
fn resting_and_restoring_say_what_changed() {
    let directory = node();
    let changes = vec!["203.0.113.10 rests for google.com: by hand".to_owned()];
    let played = proxy(directory.path(), vec![EgressReply::Done { changes: changes.clone() }]);
    let shown = out(&warren(directory.path(), &["rest", "203.0.113.10", "--destination", "Google.com."]));
    assert_eq!(shown, format!("{}\n", changes[0]));
    let destination = Some("google.com".to_owned());
    let asked = EgressRequest::Rest { address: "203.0.113.10".parse().unwrap(), destination };
    assert_eq!(played.join().unwrap(), [asked]);

    let played = proxy(directory.path(), vec![EgressReply::Done { changes: Vec::new() }]);
    let shown = out(&warren(directory.path(), &["restore", "203.0.113.10"]));
    assert_eq!(shown, "nothing changed: it is in use already\n");
    played.join().unwrap();

    let reason = "203.0.113.99 is not in [egress] addresses of the running proxy".to_owned();
    let played = proxy(directory.path(), vec![EgressReply::Refused { reason: reason.clone() }]);
    assert_eq!(err(&warren(directory.path(), &["rest", "203.0.113.99"])), format!("warren: {reason}\n"));
    played.join().unwrap();
}

#[test]
fn an_explanation_has_candidates_and_reasons() {
    let directory = node();
    let told = Explained {
        destination: "example.org".into(),
        suspicion: "low".into(),
        rule: Some("rule 1".into()),
        pool: Some("letters".into()),
        chosen: Some("203.0.113.10".parse().unwrap()),
        why: "the best score".into(),
        candidates: vec![
            CandidateRow { address: "203.0.113.10".parse().unwrap(), score: Some(100), why: "2 of 20 sessions".into() },
            CandidateRow { address: "203.0.113.11".parse().unwrap(), score: None, why: "rests".into() },
        ],
    };
    let played = proxy(directory.path(), vec![EgressReply::Explained(Box::new(told))]);
    let arguments = [
        "explain",
        "--tenant",
        "acme",
        "--account",
        "News@acme.example",
        "--class",
        "forwarded",
        "--to",
        "mx.example.org=192.0.2.25",
    ];
    let shown = out(&warren(directory.path(), &arguments));
    let expected = "mx.example.org [192.0.2.25], destination example.org\n  \
                    pool       letters, by rule 1\n  suspicion  low\n  chosen     203.0.113.10: the best score\n  \
                    CANDIDATE     SCORE  WHY\n  203.0.113.10  100    2 of 20 sessions\n  203.0.113.11  -      rests\n";
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&shown), squeezed(expected), "{shown}");
    let asked = played.join().unwrap();
    let [EgressRequest::Explain(asked)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((asked.account.as_deref(), asked.class), (Some("news@acme.example"), MailClass::Forwarded));
    assert_eq!((asked.mx.as_str(), asked.address.to_string().as_str()), ("mx.example.org", "192.0.2.25"));
}

#[test]
fn a_proxy_that_is_away_and_names_that_are_none_are_told() {
    let directory = node();
    let told = err(&warren(directory.path(), &[]));
    assert!(told.starts_with("warren: cannot reach the proxy at ") && told.lines().count() == 1, "{told}");
    assert!(told.contains("does it run (`warren up`), and are you root?"), "{told}");
    let played = proxy(directory.path(), Vec::new());
    let told = err(&warren(directory.path(), &["explain", "--tenant", "acme", "--to", "mx.example.org=here"]));
    assert_eq!(told, "warren: --to \"mx.example.org=here\": \"here\" is not an IP address\n");
    played.join().unwrap();
    let played = proxy(directory.path(), Vec::new());
    let told = err(&warren(directory.path(), &["explain", "--tenant", "acme", "--to", "not a name"]));
    assert!(told.starts_with("warren: --to \"not a name\" is not a domain: "), "{told}");
    played.join().unwrap();
}
