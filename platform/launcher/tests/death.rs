//! kill -9 of the launcher and of its maker.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;
use std::time::{Duration, Instant};

use node::{Node, SOON, Talk, pause};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use warren_launcher_api::{ExitStatus, Request};

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        pause();
    }
}

fn kill(pid: i32) {
    // It may just have gone: its predecessor's death takes it along if it was about to start.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

/// Processes that wait in a slot of this node.
fn waiting_inits(node: &Node) -> usize {
    let names = node.groups().into_iter().flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
    let pids: std::collections::BTreeSet<i32> = names
        .flat_map(|entry| {
            fs::read_to_string(entry.path().join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| line.parse().ok())
        .collect();
    let waiting =
        |pid: &&i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("youki"));
    pids.iter().filter(waiting).count()
}

#[test]
fn a_new_launcher_adopts_what_runs_and_ends_the_slots() {
    let mut node = Node::new(2);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut talk = acme.talk();
    let globex = platform.wake("globex");
    let gone = platform.wake("gone");
    platform.wait_slots(2);
    let maker = node.maker().unwrap();
    node.kill_launcher();
    // The maker goes with its launcher; containers do not, and the conversation goes on.
    soon("the maker ends", || fs::metadata(format!("/proc/{maker}")).is_err());
    assert_eq!(talk.ask("write /var/spool/warren/during gap"), "written");
    pidfd_send_signal(&gone.pidfd, Signal::KILL).unwrap();
    assert!(gone.has_ended(SOON));
    drop(platform);

    node.start();
    let mut platform = node.platform();
    let mut cells: Vec<_> =
        platform.list().into_iter().map(|(info, pidfd)| (info.tenant.to_string(), info.cell, pidfd)).collect();
    cells.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        cells.iter().map(|(tenant, cell, _)| (tenant.as_str(), *cell)).collect::<Vec<_>>(),
        [("acme", acme.cell), ("globex", globex.cell)]
    );
    // Sockets of adopted cells.
    let wanted = platform.ask(|tag| Request::Sockets { tag, cell: globex.cell, tcp: 1, control: 0 });
    let mut sockets = platform.wait_for(|event, descriptors| {
        matches!(event, warren_launcher_api::Event::Sockets { tag } if *tag == wanted)
            .then(|| std::mem::take(descriptors))
    });
    assert_eq!(Talk::tcp(sockets.remove(0), 587).line(), "220 submission");
    // New slots, new cells; the ones of before are gone.
    platform.wait_slots(2);
    soon("old slots end", || waiting_inits(&node) == 2);
    let new = platform.wake("gone");
    assert!(new.cell > globex.cell.max(gone.cell));
    assert_eq!(talk.ask("read /var/spool/warren/during"), "gap|");
    // The end of an adopted container is noticed.
    talk.say("exit 7");
    platform.exited(acme.cell);
    platform.stop(globex.cell, 2000);
    assert_eq!(platform.list().len(), 1);
    node.stop();
}

#[test]
fn a_launcher_killed_at_any_moment_leaves_what_the_next_one_clears() {
    let mut node = Node::new(4);
    for round in 0..8 {
        let mut platform = node.platform();
        for tenant in ["one", "two", "three"] {
            let tenant = tenant.parse().unwrap();
            let image = "msa".parse().unwrap();
            let limits = warren_launcher_api::Limits::default();
            platform.ask(|tag| Request::Wake { tag, tenant, image, limits });
        }
        // A different moment each time: while slots are made, while tenants are bound.
        let _ = platform.receive_within(Duration::from_millis(round * 7));
        node.kill_launcher();
        node.start();
    }
    let mut platform = node.platform();
    // Whoever still runs is adopted, the others can be woken: never twice, never lost.
    let running: Vec<String> = platform.list().iter().map(|(info, _)| info.tenant.to_string()).collect();
    for tenant in ["one", "two", "three"] {
        let woken = platform.try_wake(tenant, "msa", warren_launcher_api::Limits::default());
        assert_eq!(woken.is_err(), running.iter().any(|name| name == tenant), "{tenant}: {:?}", woken.err());
    }
    assert_eq!(platform.list().len(), 3);
    platform.wait_slots(4);
    soon("leftovers are cleared", || waiting_inits(&node) == 4);
    node.stop();
}

#[test]
fn a_new_maker_takes_over_and_bound_containers_live_on() {
    let mut node = Node::new(2);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut talk = acme.talk();
    platform.wait_slots(2);
    let maker = node.maker().unwrap();
    kill(maker);
    soon("another maker", || node.maker().is_some_and(|new| new != maker));
    assert_eq!(talk.ask("write /var/spool/warren/a b"), "written");
    let mut globex = platform.wake("globex");
    globex.talk();
    platform.wait_slots(2);
    assert_eq!(platform.status().maker_restarts, 1);
    soon("the dead maker's slots end", || waiting_inits(&node) == 2);
    // The launcher reaps what the dead maker cannot.
    talk.say("exit 9");
    assert_eq!(platform.exited(acme.cell), ExitStatus::Code(9));
    platform.stop(globex.cell, 2000);
    node.stop();
}

#[test]
fn a_maker_killed_while_it_works_fails_nobody() {
    let mut node = Node::new(0);
    let mut platform = node.platform();
    for round in 0..6_u64 {
        let tenant = format!("tenant-{round}").parse().unwrap();
        let image = "msa".parse().unwrap();
        let limits = warren_launcher_api::Limits::default();
        // Looked at once: the one before may just be going.
        let mut maker = None;
        soon("a maker", || {
            maker = node.maker();
            maker.is_some()
        });
        let maker = maker.unwrap();
        platform.ask(|tag| Request::Wake { tag, tenant, image, limits });
        assert!(platform.receive_within(Duration::from_millis(round * 2)).is_none() || round > 0);
        kill(maker);
    }
    soon("all run", || platform.list().len() == 6);
    node.stop();
}
