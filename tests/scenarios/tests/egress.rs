//! The egress addresses of a node whose mail meets a block list.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use warren_lab::{Lab, LabConfig};
use warren_scenarios::listing::{self, DESTINATION};
use warren_scenarios::{Node, Setup};

#[test]
fn a_listed_address_rests_while_mail_flows_and_is_used_again() {
    let lab = Lab::start_with(&LabConfig { catalogue: true, ..LabConfig::personas_only() }).unwrap();
    let node = Node::start(&lab, &Setup { extra: listing::SETTINGS.into(), ..Setup::default() });
    let story = listing::play(&lab, &node, |line| println!("{line}")).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));

    // One session of the MSA, two legs: the refusal ended at the proxy, the MSA saw the other address's answers only.
    let listed = story.listed.to_string();
    assert!(story.transcript.contains(&listed), "{}", story.transcript);
    let others = ["203.0.113.10", "203.0.113.11", "203.0.113.12"].into_iter().filter(|other| *other != listed);
    assert!(others.clone().any(|other| story.transcript.contains(other)), "{}", story.transcript);
    let refusals: Vec<&str> = story.transcript.lines().filter(|line| line.contains("554 5.7.1")).collect();
    assert!(!refusals.is_empty() && refusals.iter().all(|line| line.contains("|<")), "{}", story.transcript);
    let rest = story.resting.lines().find(|line| line.contains(&listed) && line.contains("rested")).unwrap();
    assert!(rest.contains(DESTINATION) && rest.contains("554 5.7.1"), "{}", story.resting);
    let events = node.ask(&["sessions", "events"]);
    assert!(events.lines().any(|line| line.contains(&listed) && line.contains("listing")), "{events}");

    // By hand, and over a restart.
    node.ask(&["egress", "rest", &listed, "--destination", DESTINATION]);
    let told = node.ask(&["egress", "explain", "--tenant", "acme", "--to", DESTINATION]);
    assert!(told.lines().any(|line| line.trim().starts_with("chosen") && !line.contains(&listed)), "{told}");
    node.kill("warren-proxy");
    node.wait_until("the proxy", || node.warren(&["egress"]).status.success().then_some(()));
    let table = node.ask(&["egress", "--all"]);
    assert!(table.lines().any(|line| line.contains(&listed) && line.contains("rested")), "forgotten:\n{table}");
    node.ask(&["egress", "restore", &listed, "--destination", DESTINATION]);
    let table = node.ask(&["egress", "--all"]);
    assert!(!table.contains("rested"), "{table}");
    node.stop();
}
