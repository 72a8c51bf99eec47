//! Nobody's backlog delays anybody else.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::time::{Duration, Instant};

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup};

const BACKLOG: usize = 80;
const SAMPLES: usize = 12;
/// Less than a mail takes through the tarpit, which is tens of seconds.
const BEHIND_ONE: Duration = Duration::from_secs(15);

/// Times from the submission's 250 to the mailbox, in order.
fn delivery_times(lab: &Lab, node: &Node<'_>, round: &str) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|n| {
            let subject = format!("{round} {n}");
            let sent = node.submit(
                "carol@globex.example",
                "carol@globex.example",
                &["dave@plain.example"],
                587,
                &note("carol@globex.example", &subject),
            );
            assert!(sent.accepted, "{}", sent.text);
            let from = Instant::now();
            let fits = |m: &Message| m.header("Subject").as_deref() == Some(&subject);
            lab.mailbox("plain.example", "dave").wait_for(fits, Duration::from_secs(60)).unwrap();
            from.elapsed()
        })
        .collect();
    times.sort();
    times
}

#[test]
fn a_tarpit_of_one_tenant_does_not_delay_another() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup { idle: Duration::from_secs(30), ..Setup::default() });
    let quiet = delivery_times(&lab, &node, "quiet");
    for n in 0..BACKLOG {
        let letter = note("alice@acme.example", &format!("stuck {n}"));
        let sent = node.submit("alice@acme.example", "alice@acme.example", &["tom@tarpit.example"], 587, &letter);
        assert!(sent.accepted, "{}", sent.text);
    }
    let beside = delivery_times(&lab, &node, "beside");
    // The proof that the backlog stood all the while.
    let through = lab.mailbox("tarpit.example", "tom").messages().unwrap().len();
    assert!(through < BACKLOG / 2, "{through} of {BACKLOG} went through: this tarpit holds nobody");
    println!(
        "quiet {:?} … {:?}, beside a backlog {:?} … {:?}",
        quiet[SAMPLES / 2],
        quiet[SAMPLES - 1],
        beside[SAMPLES / 2],
        beside[SAMPLES - 1]
    );
    let (median, alone) = (beside[SAMPLES / 2], quiet[SAMPLES / 2]);
    assert!(median < alone * 5 + Duration::from_secs(2), "median {median:?} beside a backlog, {alone:?} without");
    // A single mail that waits behind one in the tarpit would show; that a busy machine stalls once does not.
    let slowest = beside[SAMPLES - 1];
    assert!(slowest < BEHIND_ONE, "{slowest:?} beside a backlog: it waited behind a mail in the tarpit");
    node.stop();
}
