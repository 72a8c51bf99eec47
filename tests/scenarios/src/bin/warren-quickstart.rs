//! What `deploy/quickstart` shows once everything is built: a lab, a node in it, mail on both roads, and what was recorded.
//!
//! With `--once` it ends by itself, with exit status 0 only if every message was seen in its mailbox; otherwise it keeps the
//! node running until Ctrl-C.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use warren_lab::{Lab, Message};
use warren_scenarios::corpus::{kinds, note};
use warren_scenarios::{Node, Setup};

const ALICE: &str = "alice@acme.example";
const CAROL: &str = "carol@globex.example";
const ARRIVES_WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A message that must arrive, and where it stands.
struct Letter {
    road: &'static str,
    subject: String,
    to: (&'static str, &'static str),
    accepted: bool,
    arrived: Option<Duration>,
    sent_at: Instant,
}

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [once] if once == "--once" => true,
        other => {
            eprintln!("warren-quickstart: unknown arguments {other:?}, expected --once or nothing");
            return ExitCode::from(2);
        }
    };
    heading("An internet in a box");
    let started = Instant::now();
    let lab = match Lab::start() {
        Ok(lab) => lab,
        Err(e) => {
            eprintln!("warren-quickstart: the lab does not start: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "  postfix.example, exim.example, opensmtpd.example answer on port 25, later.example refuses at first ({:.1?})",
        started.elapsed()
    );

    heading("A node with two tenants");
    let started = Instant::now();
    let node = Node::start(&lab, &Setup::default());
    println!("  warren is up ({:.1?}), configuration in {}", started.elapsed(), node.config_dir().display());
    print!("{}", indent(&node.ask(&["tenants"])));

    heading("Mail on both roads");
    let over = AtomicBool::new(false);
    let changes = Mutex::new(Vec::new());
    let mut letters = std::thread::scope(|scope| {
        scope.spawn(|| watch(&node, &over, &changes));
        let mut letters = send(&node);
        await_all(&lab, &mut letters);
        settle(&node);
        over.store(true, Ordering::Relaxed);
        letters
    });

    heading("Outbound sessions as they were recorded");
    for id in session_ids(&node) {
        println!("{}", indent(&shortened(&node.ask(&["sessions", "show", &id]))));
    }
    heading("Summary");
    print!("{}", indent(&node.ask(&["sessions", "summary"])));
    print!("{}", indent(&node.ask(&["status"])));
    print!("{}", indent(&report(&letters)));
    let changes = changes.into_inner().unwrap();
    let woken_alone = changes.iter().filter(|(tenant, state)| tenant == "acme" && state == "awake").count() > 1;
    let tls13 =
        node.ask(&["sessions", "--limit", "500"]).lines().any(|l| l.contains("postfix.example") && l.contains("1.3"));
    for (held, claim) in [
        (woken_alone, "a tenant with deferred mail slept and was woken to deliver it"),
        (tls13, "Postfix was spoken to over TLS 1.3"),
    ] {
        println!("  {} {claim}", if held { "yes:" } else { "NO: " });
    }
    letters.retain(|l| l.arrived.is_none());
    let good = letters.is_empty() && woken_alone && tls13;

    if !once {
        linger(&lab, &node);
    }
    node.stop();
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sends everything; says what each server answered.
fn send(node: &Node<'_>) -> Vec<Letter> {
    let mut letters = Vec::new();
    let mut sent = |road, subject: String, to, accepted: bool, answer: &str| {
        println!(
            "  {road}: {subject:?} to {}@{}: {}",
            to_user(to),
            to_domain(to),
            answer.lines().last().unwrap_or_default().trim()
        );
        letters.push(Letter { road, subject, to, accepted, arrived: None, sent_at: Instant::now() });
    };
    for letter in kinds(ALICE) {
        let answer = node.submit(ALICE, ALICE, &["bob@postfix.example"], 587, &letter.raw);
        sent(
            "587 to Postfix",
            format!("kind {}", letter.name),
            ("bob", "postfix.example"),
            answer.accepted,
            &answer.text,
        );
    }
    let answer = node.submit(CAROL, CAROL, &["dave@exim.example"], 465, &note(CAROL, "by implicit TLS"));
    sent("465 to Exim", "by implicit TLS".into(), ("dave", "exim.example"), answer.accepted, &answer.text);
    let replies = node.inject(
        "someone@postfix.example",
        &["info@acme.example"],
        &note("someone@postfix.example", "please forward"),
    );
    let replies = replies.unwrap_or_default();
    let accepted = replies.len() == 3 && replies.iter().all(|r| r.starts_with("250"));
    let last = replies.last().map_or("no reply", String::as_str);
    sent("25 forwarded to OpenSMTPD", "please forward".into(), ("erin", "opensmtpd.example"), accepted, last);
    let answer = node.submit(ALICE, ALICE, &["sales@globex.example"], 587, &note(ALICE, "to a neighbour"));
    sent(
        "tenant to tenant, forwarded to Postfix",
        "to a neighbour".into(),
        ("frank", "postfix.example"),
        answer.accepted,
        &answer.text,
    );
    let answer = node.submit(ALICE, ALICE, &["gina@later.example"], 587, &note(ALICE, "refused at first"));
    sent(
        "587, refused with 451 at first",
        "refused at first".into(),
        ("gina", "later.example"),
        answer.accepted,
        &answer.text,
    );
    letters
}

fn to_user(to: (&'static str, &'static str)) -> &'static str {
    to.0
}

fn to_domain(to: (&'static str, &'static str)) -> &'static str {
    to.1
}

/// Waits for each message in its mailbox.
fn await_all(lab: &Lab, letters: &mut [Letter]) {
    for letter in letters.iter_mut().filter(|l| l.accepted) {
        let fits = |m: &Message| m.header("Subject").as_deref() == Some(&letter.subject);
        match lab.mailbox(letter.to.1, letter.to.0).wait_for(fits, ARRIVES_WITHIN) {
            Ok(_) => {
                letter.arrived = Some(letter.sent_at.elapsed());
                println!("  arrived: {:?} for {}@{}", letter.subject, letter.to.0, letter.to.1);
            }
            Err(e) => println!("  MISSING: {e}"),
        }
    }
}

/// Prints every change of a tenant's state, as it happens.
fn watch(node: &Node<'_>, over: &AtomicBool, changes: &Mutex<Vec<(String, String)>>) {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        for tenant in ["acme", "globex"] {
            let Some(state) = node.state_of(tenant) else { continue };
            if known.get(tenant) != Some(&state) {
                println!("  · tenant {tenant} is {state}");
                changes.lock().unwrap().push((tenant.to_owned(), state.clone()));
                known.insert(tenant, state);
            }
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Waits until both tenants sleep.
fn settle(node: &Node<'_>) {
    let end = Instant::now() + Duration::from_secs(30);
    let asleep = |tenant| node.state_of(tenant).as_deref() == Some("asleep");
    while Instant::now() < end && !(asleep("acme") && asleep("globex")) {
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn session_ids(node: &Node<'_>) -> Vec<String> {
    let is_id = |w: &&str| w.len() >= 10 && w.chars().all(|c| c.is_ascii_alphanumeric());
    let table = node.ask(&["sessions", "--limit", "500"]);
    table.lines().filter_map(|l| Some(l.split_whitespace().find(is_id)?.to_owned())).collect()
}

/// A transcript of many messages is shown by its beginning and end.
fn shortened(transcript: &str) -> String {
    const SHOWN: usize = 44;
    let lines: Vec<&str> = transcript.lines().collect();
    if lines.len() <= SHOWN {
        return transcript.to_owned();
    }
    let left_out = lines.len() - SHOWN;
    [&lines[..SHOWN - 6], &[format!("… {left_out} lines more …").as_str()], &lines[lines.len() - 6..]]
        .concat()
        .join("\n")
}

fn report(letters: &[Letter]) -> String {
    let mut text = String::from("\nmessages\n");
    for letter in letters {
        let end = match (letter.accepted, letter.arrived) {
            (_, Some(time)) => format!("arrived, seen {time:.1?} after its submission"),
            (true, None) => "ACCEPTED, BUT NEVER ARRIVED".into(),
            (false, None) => "REFUSED".into(),
        };
        text.push_str(&format!("  {:<42} {:<24} {end}\n", letter.road, letter.subject));
    }
    text
}

/// Keeps the node running until Ctrl-C or SIGTERM.
fn linger(lab: &Lab, node: &Node<'_>) {
    heading("The node keeps running; Ctrl-C ends it");
    let warren = warren_lab::find_program("warren").unwrap();
    println!(
        "  try: nsenter --net={} {} status --config {}",
        lab.node_ns().display(),
        warren.display(),
        node.config_dir().display()
    );
    println!("       … tenants, sessions, sessions show ID, sessions summary in the place of status");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    });
    println!("\n  stopping");
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn indent(text: &str) -> String {
    text.lines().map(|l| format!("  {l}\n")).collect()
}
