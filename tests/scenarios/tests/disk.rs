//! Disks that are full, and disks that fail: a sender is told to come again, and what was answered `250` is delivered.
//!
//! Full disks are files on loop devices, so this needs `/dev/loop-control` and a free device; failing ones are made by `strace`.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::disk::{Failing, Size, fill_with_bytes, fill_with_files};
use warren_scenarios::leftovers::processes;
use warren_scenarios::{Node, Sent, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
/// Postfix looks at what is deferred no more often than it retries.
const LONG: Duration = Duration::from_secs(180);

fn setup(image: &str) -> Setup {
    let mut acme = Tenant::new("acme", "alice").forward("info", &["dave@plain.example"]);
    acme.extra = format!("image = {image:?}");
    Setup { tenants: vec![acme], idle: Duration::from_secs(60), retry: Duration::from_secs(2), ..Setup::default() }
}

fn submit(node: &Node<'_>, to: &str, subject: &str) -> Sent {
    node.submit(ALICE, ALICE, &[to], 587, &note(ALICE, subject))
}

/// The answer to the message itself.
fn forward(node: &Node<'_>, subject: &str) -> String {
    let from = "someone@client.example";
    node.inject(from, &["info@acme.example"], &note(from, subject)).unwrap().pop().unwrap()
}

fn arrives(lab: &Lab, node: &Node<'_>, (domain, user): (&str, &str), subject: &str) {
    let fits = |m: &Message| m.header("Subject").as_deref() == Some(subject);
    lab.mailbox(domain, user).wait_for(fits, LONG).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
}

/// That neither road takes a message, and says why: in one of these ways.
fn both_refuse(node: &Node<'_>, replies: &[&str], subject: &str) {
    let sent = submit(node, "dave@plain.example", &format!("{subject}, submitted"));
    let said = |reply: &&str| reply.split(' ').all(|part| sent.text.contains(part));
    assert!(!sent.accepted && replies.iter().any(said), "{subject}: {}", sent.text);
    let answer = forward(node, &format!("{subject}, forwarded"));
    assert!(replies.iter().any(|reply| answer.starts_with(reply)), "{subject}: {answer}");
}

/// Subjects, each once.
fn arrived(lab: &Lab) -> Vec<String> {
    let got = lab.mailbox("plain.example", "dave").messages().unwrap();
    let mut subjects: Vec<String> = got.iter().filter_map(|m| m.header("Subject")).collect();
    subjects.sort();
    subjects.dedup();
    subjects
}

/// As many files as Warren's own MSA makes ahead: so many messages need no inode, and no sync of a directory.
const SPARES: usize = 8;

/// Both roads refuse, once what was made ahead is used up; the subjects of what was accepted until then, the nth to `to(n)`.
fn both_refuse_in_the_end(node: &Node<'_>, to: impl Fn(usize) -> String, reply: &str, subject: &str) -> Vec<String> {
    let mut accepted = Vec::new();
    while accepted.len() <= SPARES {
        let n = accepted.len();
        let subject = format!("{subject} {n}");
        if !submit(node, &to(n), &subject).accepted {
            break;
        }
        accepted.push(subject);
    }
    both_refuse(node, &[reply], subject);
    accepted
}

/// Messages in the only queue: of Warren's own MSA in `queue/`, of Postfix in folders of folders.
fn messages(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |path: PathBuf| {
        let within = |name: &str| path.components().any(|part| part.as_os_str() == name);
        let written = || path.metadata().is_ok_and(|file| file.len() > 0);
        let message = path.extension().is_some_and(|kind| kind == "mail") && written()
            || ["incoming", "active", "deferred"].map(within).contains(&true);
        if path.is_dir() { messages(&path) } else { usize::from(message) }
    };
    entries.flatten().map(|entry| count(entry.path())).sum()
}

fn a_full_disk_refuses_and_recovers(image: &str) {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let disk = Some(Size { mib: 64, inodes: 256 });
    // Postfix takes nothing unless one and a half of its largest messages have room.
    let extra = "[limits]\nmessage_size = \"4M\"\n".into();
    let node = Node::start(&lab, &Setup { disk, retry: Duration::from_secs(20), extra, ..setup(image) });
    let volumes = node.state_dir().join("volumes");
    // Put off by its MX, the first is in the queue all the while; the other is gone, and makes no room while the disk is full.
    assert!(submit(&node, "gina@later.example", "before").accepted);
    assert!(submit(&node, "dave@plain.example", "a").accepted);
    node.wait_until("the second to be gone", || (arrived(&lab) == ["a"] && messages(&volumes) == 1).then_some(()));

    // No inode is left, but space.
    let filler = volumes.join("filler");
    assert!(fill_with_files(&filler) > 10);
    // What is delivered makes room for the next, so these are put off.
    let other = |n| format!("spare{n}@later.example");
    let spares = both_refuse_in_the_end(&node, other, "452 4.3.1", "no inodes");
    assert!(image == "msa" || spares.is_empty(), "{spares:?}");
    std::fs::remove_dir_all(&filler).unwrap();
    assert!(submit(&node, "dave@plain.example", "b").accepted, "it does not recover");

    // No space is left. The watcher may end the container for that, with the same words to its user; mail to forward is then put off.
    fill_with_bytes(&filler);
    both_refuse(&node, &["452 4.3.1", "451 4.3.2"], "no space");
    // The records lie elsewhere.
    assert!(node.ask(&["sessions", "--tenant", "acme"]).contains("later.example"));
    std::fs::remove_file(&filler).unwrap();
    node.wait_until("its recovery", || submit(&node, "dave@plain.example", "c").accepted.then_some(()));

    for subject in ["a", "b", "c"] {
        arrives(&lab, &node, ("plain.example", "dave"), subject);
    }
    arrives(&lab, &node, ("later.example", "gina"), "before");
    for (n, subject) in spares.iter().enumerate() {
        arrives(&lab, &node, ("later.example", &format!("spare{n}")), subject);
    }
    // Of what was refused nothing came, although what was sent after it did.
    assert_eq!(arrived(&lab), ["a", "b", "c"]);
    node.stop();
}

#[test]
fn a_full_disk_of_warrens_own_msa() {
    a_full_disk_refuses_and_recovers("msa");
}

#[test]
fn a_full_disk_of_postfix() {
    a_full_disk_refuses_and_recovers("postfix");
}

/// What of an image syncs: its MSA, or Postfix's `master` and all that it runs.
fn programs(node: &Node<'_>, image: &str) -> Vec<u32> {
    if image == "msa" {
        return node.pids("warren-msa");
    }
    let masters = node.pids("master");
    let children = processes().into_iter().filter(|(_, process)| masters.contains(&process.parent));
    masters.iter().copied().chain(children.map(|(pid, _)| pid)).collect()
}

fn a_disk_that_cannot_sync_acknowledges_nothing(image: &str, rounds: [&str; 3]) {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &setup(image));
    let mut accepted: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
    for (calls, before) in rounds.into_iter().zip(["a", "b", "c"]) {
        let deferred = format!("{before}, deferred");
        let to = format!("{before}@later.example");
        assert!(submit(&node, &to, &deferred).accepted && submit(&node, "dave@plain.example", before).accepted);
        let all = programs(&node, image);
        let failing = Failing::of(&all, calls);
        if (image, calls) == ("msa", "fsync") {
            let dave = |_| "dave@plain.example".to_owned();
            accepted.extend(both_refuse_in_the_end(&node, dave, "451 4.3.0", calls));
        }
        both_refuse(&node, &["451 4.3.0"], calls);
        both_refuse(&node, &["451 4.3.0"], calls);
        failing.end();
        assert_eq!(programs(&node, image)[0], all[0], "it did not live through it");
        arrives(&lab, &node, ("later.example", before), &deferred);
    }
    assert!(submit(&node, "dave@plain.example", "d").accepted, "it does not recover");
    accepted.iter().for_each(|subject| arrives(&lab, &node, ("plain.example", "dave"), subject));
    accepted.sort();
    assert_eq!(arrived(&lab), accepted);
    node.stop();
}

#[test]
fn warrens_own_msa_on_a_disk_that_cannot_sync() {
    // Messages are synced by the one call, directories by the other.
    a_disk_that_cannot_sync_acknowledges_nothing("msa", ["fdatasync", "fsync", "fsync,fdatasync"]);
}

#[test]
fn postfix_on_a_disk_that_cannot_sync() {
    // It has but one kind of sync, so that is tried three times.
    a_disk_that_cannot_sync_acknowledges_nothing("postfix", ["fsync,fdatasync"; 3]);
}
