//! `kill -9` of any program in the middle of traffic: whatever was acknowledged is delivered, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use warren_lab::{Lab, LabConfig};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup, Tenant};

/// Acknowledged messages between one kill and the next.
const BETWEEN: usize = 3;

/// Every program is killed so often: each time at another moment of what it does.
const ROUNDS: usize = 3;

fn setup() -> Setup {
    let acme = Tenant::new("acme", "alice").forward("info", &["erin@plain.example"]);
    Setup { tenants: vec![acme, Tenant::globex()], retry: Duration::from_secs(2), ..Setup::default() }
}

/// Subjects of the messages that have arrived, at both ends of the traffic.
fn arrived(lab: &Lab) -> BTreeSet<String> {
    let boxes = ["bob", "erin"].map(|user| lab.mailbox("plain.example", user).messages().unwrap());
    boxes.iter().flatten().filter_map(|m| m.header("Subject")).collect()
}

#[test]
fn every_acknowledged_message_survives_every_kill() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &setup());
    let acknowledged = Mutex::new(BTreeSet::new());
    let submitted = AtomicUsize::new(0);
    let forwarded = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let subject = format!("submitted {n}");
                if node
                    .submit(
                        "alice@acme.example",
                        "alice@acme.example",
                        &["bob@plain.example"],
                        587,
                        &note("alice@acme.example", &subject),
                    )
                    .accepted
                {
                    acknowledged.lock().unwrap().insert(subject);
                    submitted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let subject = format!("forwarded {n}");
                let replies =
                    node.inject("x@elsewhere.example", &["info@acme.example"], &note("x@elsewhere.example", &subject));
                if replies.is_ok_and(|r| r.len() == 3 && r.iter().all(|r| r.starts_with("250"))) {
                    acknowledged.lock().unwrap().insert(subject);
                    forwarded.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let guard = Stop(&over);
        let flows = |what: &str| {
            let (s, f) = (submitted.load(Ordering::Relaxed), forwarded.load(Ordering::Relaxed));
            node.wait_until(&format!("traffic {what}"), || {
                (submitted.load(Ordering::Relaxed) >= s + BETWEEN && forwarded.load(Ordering::Relaxed) >= f + BETWEEN)
                    .then_some(())
            });
        };
        let programs = [
            "warren-msa",
            "warren-proxy",
            "warren-resolver",
            "warren-receiver",
            "warren-platform",
            "maker",
            "warren-launcher",
        ];
        for program in programs.iter().cycle().take(ROUNDS * programs.len()) {
            flows(&format!("before kill -9 of {program}"));
            node.kill(program);
            flows(&format!("after kill -9 of {program}"));
            node.wait_until(&format!("{program} again"), || (!node.pids(program).is_empty()).then_some(()));
        }
        drop(guard);
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        let missing: Vec<_> = acknowledged.difference(&arrived(&lab)).cloned().collect();
        if missing.is_empty() {
            break;
        }
        assert!(
            std::time::Instant::now() < end,
            "{} of {} acknowledged messages are missing: {missing:?}",
            missing.len(),
            acknowledged.len()
        );
        std::thread::park_timeout(Duration::from_millis(100));
    }
    println!("{} messages acknowledged and delivered", acknowledged.len());
    node.stop();
}

/// Ends the traffic also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_node_killed_whole_comes_back_with_its_queues() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    for containers in [true, false] {
        let mut node = Node::start(&lab, &setup());
        let subjects: Vec<String> = (0..5).map(|n| format!("kept {n}, containers too: {containers}")).collect();
        for subject in &subjects {
            let letter = note("alice@acme.example", subject);
            // Refused at first, so that it is in the queue when everything dies.
            let sent = node.submit(
                "alice@acme.example",
                "alice@acme.example",
                &[&format!("{}@later.example", subject.len())],
                587,
                &letter,
            );
            assert!(sent.accepted, "{}", sent.text);
        }
        node.crash(containers);
        node.restart();
        for subject in &subjects {
            let fits = |m: &warren_lab::Message| m.header("Subject").as_deref() == Some(subject);
            let mailbox = lab.mailbox("later.example", &subject.len().to_string());
            mailbox.wait_for(fits, Duration::from_secs(90)).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
        }
        node.stop();
    }
}

#[test]
fn down_cleans_up_after_a_killed_node() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut node = Node::start(&lab, &setup());
    node.ask(&["tenant", "wake", "acme"]);
    node.crash(false);
    assert!(node.leftovers().contains("cgroup"), "the crash left nothing to clean");
    node.ask(&["down"]);
    assert_eq!(node.leftovers(), "");
}
