//! What `deploy/quickstart` shows once everything is built: a lab, a node in it, mail on both roads, and what was recorded.
//!
//! With `--once` it ends by itself, with exit status 0 only if every message was seen in its mailbox; otherwise it keeps the
//! node running until Ctrl-C. With `--tenants N` it provisions so many more and wants all of them awake in the same moment.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::{kinds, note};
use warren_scenarios::visits::{Visit, counter, status, visit_all};
use warren_scenarios::{Node, Setup, Tenant, listing};

const ALICE: &str = "alice@acme.example";
const CAROL: &str = "carol@globex.example";
const ARRIVES_WITHIN: Duration = Duration::from_secs(90);
/// Of the tenants that `--tenants` provisions.
const CROWD_IDLE: Duration = Duration::from_secs(15);
/// So many of them are woken one after another.
const ONE_BY_ONE: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A message that must arrive, and where it stands.
struct Letter {
    road: &'static str,
    subject: String,
    to: (&'static str, &'static str),
    accepted: bool,
    arrived: Option<Duration>,
    /// When its submission began.
    sent_at: SystemTime,
}

fn main() -> ExitCode {
    let (once, crowd) = match arguments(std::env::args().skip(1)) {
        Ok(given) => given,
        Err(problem) => {
            eprintln!("warren-quickstart: {problem}; expected any of --once, --tenants N");
            return ExitCode::from(2);
        }
    };
    heading("An internet in a box");
    let started = Instant::now();
    let lab = match Lab::start_with(&LabConfig { catalogue: true, ..LabConfig::default() }) {
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
    let mut setup = Setup { extra: listing::SETTINGS.into(), ..Setup::default() };
    let crowd: Vec<String> = (1..=crowd).map(|n| format!("tenant{n}")).collect();
    setup.tenants.extend(crowd.iter().map(|name| {
        // Long enough to see all of them awake.
        Tenant { extra: format!("idle = \"{}s\"", CROWD_IDLE.as_secs()), ..Tenant::new(name, "user") }
    }));
    let node = Node::start(&lab, &setup);
    println!("  warren is up ({:.1?}), configuration in {}", started.elapsed(), node.config_dir().display());
    if crowd.is_empty() {
        print!("{}", indent(&node.ask(&["tenants"])));
    } else {
        println!("  and {} more, asleep: see below", crowd.len());
    }

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
    heading("An egress address on a block list");
    let listed = listing::play(&lab, &node, |line| println!("  {line}"));
    if let Err(problem) = &listed {
        println!("  NO:  {problem}");
    }
    let good =
        letters.is_empty() && woken_alone && tls13 && listed.is_ok() && (crowd.is_empty() || storm(&node, &crowd));

    if !once {
        linger(&lab, &node);
    }
    node.stop();
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<(bool, usize), String> {
    let (mut once, mut tenants) = (false, 0);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--once" => once = true,
            "--tenants" => {
                let number = given.next().unwrap_or_default();
                tenants = number.parse().map_err(|_| format!("--tenants {number:?} is not a number"))?;
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok((once, tenants))
}

/// Everybody is wanted at once, sleeps again, and some are wanted one after another. Whether all were served.
fn storm(node: &Node<'_>, crowd: &[String]) -> bool {
    heading(&format!("{} sleeping tenants wanted in the same moment", crowd.len()));
    let before = status(node);
    let visits = visit_all(node, crowd);
    let after = status(node);
    let starts = |name| counter(&after, name) - counter(&before, name);
    println!("  awake: {} of {}", after.awake, after.provisioned);
    println!("  starts: {} from a warm slot, {} without", starts("starts_warm"), starts("starts_cold"));
    let served = told("from the storm to the banner, waiting in line included", &visits, crowd.len());
    let end = Instant::now() + CROWD_IDLE * 3 + Duration::from_secs(crowd.len() as u64 / 10);
    let mut last = 0;
    while Instant::now() < end {
        let fleet = status(node);
        let up = fleet.awake + fleet.starting + fleet.draining;
        if up != last {
            println!("  · {up} awake, {} asleep", fleet.provisioned - up);
            last = up;
        }
        if up == 0 {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(500));
    }
    let some = &crowd[..crowd.len().min(ONE_BY_ONE)];
    let visits: Vec<Visit> = some.iter().flat_map(|tenant| visit_all(node, std::slice::from_ref(tenant))).collect();
    let alone = told("one after another, from asleep to the banner", &visits, some.len());
    served && alone && last == 0
}

/// Says how long visitors waited for their banner; whether all got one.
fn told(what: &str, visits: &[Visit], wanted: usize) -> bool {
    let mut times: Vec<Duration> = visits.iter().filter_map(|visit| visit.banner.as_ref().ok().copied()).collect();
    times.sort();
    println!("  {what}: {} of {wanted} served", times.len());
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        let percentile = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        let (p50, p99) = (percentile(50), percentile(99));
        println!("    first {first:.1?}, median {p50:.1?}, 99th percentile {p99:.1?}, last {last:.1?}");
    }
    for visit in visits.iter().filter(|visit| visit.banner.is_err()).take(5) {
        println!("    NOT SERVED: {visit:?}");
    }
    times.len() == wanted
}

/// Sends everything; says what each server answered.
fn send(node: &Node<'_>) -> Vec<Letter> {
    let mut letters = Vec::new();
    // Each submission begins when the one before was answered.
    let mut began = SystemTime::now();
    let mut sent = |road, subject: String, to, accepted: bool, answer: &str| {
        println!(
            "  {road}: {subject:?} to {}@{}: {}",
            to_user(to),
            to_domain(to),
            answer.lines().last().unwrap_or_default().trim()
        );
        letters.push(Letter { road, subject, to, accepted, arrived: None, sent_at: began });
        began = SystemTime::now();
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
            Ok(message) => {
                // When its file was written, not when we looked.
                let written = message.path.metadata().and_then(|about| about.modified()).unwrap();
                letter.arrived = Some(written.duration_since(letter.sent_at).unwrap_or_default());
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
    const SHOWN: usize = 60;
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
            (_, Some(time)) => format!("arrived {time:.1?} after its submission began"),
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
