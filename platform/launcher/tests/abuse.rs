//! A platform that was taken over, and tenants that take what they can: the launcher keeps both to what is theirs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use node::{Awake, Node, SOON, pause};
use warren_launcher_api::Limits;

/// The groups that a container's init is in, by what the kernel says of it: hierarchy's controllers and path.
fn groups_of(node: &Node, awake: &Awake) -> (i32, Vec<(String, String)>) {
    let file = file_of(node, awake, "cgroup.procs").unwrap();
    let deadline = Instant::now() + SOON;
    let pid: i32 = loop {
        // Whoever made the container leaves its groups by ending, which may take a moment.
        let procs = fs::read_to_string(&file).unwrap();
        match procs.lines().collect::<Vec<_>>()[..] {
            [pid] => break pid.parse().unwrap(),
            _ => assert!(Instant::now() < deadline, "{procs}"),
        }
        pause();
    };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let lines = text.lines().map(|line| {
        let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    });
    (pid, lines.collect())
}

/// A file of the container's group in whichever hierarchy has it.
fn file_of(node: &Node, awake: &Awake, name: &str) -> Option<PathBuf> {
    let files = node.groups().into_iter().map(|group| group.join(format!("c{}", awake.cell)).join(name));
    files.into_iter().find(|file| file.exists())
}

#[test]
fn every_container_is_in_groups_of_its_own_with_its_tenants_limits() {
    // From a slot and without one: both are born in their groups.
    for slots in [0, 1] {
        let node = Node::new(slots);
        let mut platform = node.platform();
        platform.wait_slots(slots as u64);
        let limits = Limits { memory_bytes: 40 << 20, pids: 17, cpu_weight: 50, ..Limits::default() };
        let one = platform.try_wake("one", "msa", limits).unwrap();
        let other = platform.wake("other");
        let (pid, groups) = groups_of(&node, &one);
        let own = format!("/{}/c{}", node.cgroup, one.cell);
        for controller in ["memory", "pids", "cpu"] {
            let unified = groups.len() == 1;
            let group = groups.iter().find(|(names, _)| unified || names.split(',').any(|name| name == controller));
            assert!(group.unwrap().1.ends_with(&own), "{controller}: {groups:?}");
        }
        assert_ne!(pid, groups_of(&node, &other).0);
        let expected = [
            (["memory.limit_in_bytes", "memory.max"], ["41943040", "41943040"]),
            (["pids.max", "pids.max"], ["17", "17"]),
            (["cpu.shares", "cpu.weight"], ["512", "50"]),
        ];
        for (names, values) in expected {
            let file = names.iter().find_map(|name| file_of(&node, &one, name)).unwrap();
            let value = fs::read_to_string(&file).unwrap();
            assert!(values.contains(&value.trim()), "{}: {value}", file.display());
        }
    }
}

#[test]
fn whoever_burns_the_processor_stands_back_until_it_rests() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let limits = Limits { cpu_weight: 50, ..Limits::default() };
    let mut hog = platform.try_wake("hog", "msa", limits).unwrap();
    let neighbour = platform.wake("neighbour");
    let Some(idle) = file_of(&node, &hog, "cpu.idle") else {
        return println!("this kernel has no cpu.idle: weights alone");
    };
    let wait = |wanted: &str, within: u32| {
        let end = Instant::now() + SOON * within;
        while fs::read_to_string(&idle).unwrap().trim() != wanted {
            assert!(Instant::now() < end, "cpu.idle never becomes {wanted}");
            pause();
        }
    };
    let mut talk = hog.talk();
    assert_eq!(talk.ask("burn 2"), "burning");
    wait("1", 3);
    let others = fs::read_to_string(file_of(&node, &neighbour, "cpu.idle").unwrap()).unwrap();
    assert_eq!(others.trim(), "0");
    assert_eq!(talk.ask("rest"), "resting");
    wait("0", 3);
    // With the weight that it had.
    let shares = ["cpu.shares", "cpu.weight"].iter().find_map(|name| file_of(&node, &hog, name)).unwrap();
    let end = Instant::now() + SOON;
    while !["512", "50"].contains(&fs::read_to_string(&shares).unwrap().trim()) {
        assert!(Instant::now() < end);
        pause();
    }
}

#[test]
fn no_request_reaches_a_path_or_a_process_of_others() {
    let node = Node::new(1);
    let mut victim = node.platform();
    let mut awake = victim.wake("victim");
    awake.talk().ask("write /var/spool/warren/secret of-victim");
    let before = tree(&node);
    let limits = serde_json::to_string(&Limits::default()).unwrap();
    let wake = |tenant: &str, image: &str| {
        format!(r#"{{"wake":{{"tag":1,"tenant":"{tenant}","image":"{image}","limits":{limits}}}}}"#)
    };
    let mut abuses: Vec<String> =
        ["..", "../victim", "/etc", "a/../b", "a\\u0000b", "", ".", "victim/", "VICTIM", "a%2fb"]
            .iter()
            .flat_map(|name| [wake(name, "msa"), wake("mallory", name)])
            .collect();
    abuses.extend(
        [
            r#"{"stop":{"tag":1,"cell":-1,"grace_ms":0}}"#,
            r#"{"stop":{"tag":1,"cell":"1","grace_ms":0}}"#,
            r#"{"stop":{"tag":1,"cell":1,"grace_ms":0,"pid":1}}"#,
            r#"{"due":{"tag":1,"tenants":["../../etc/shadow"]}}"#,
            r#"{"exec":{"path":"/bin/sh"}}"#,
            r#"{"make":{"cell":1,"base":0,"image":{}}}"#,
            "[]",
            "\u{fffd}",
        ]
        .map(str::to_owned),
    );
    for abuse in abuses {
        let platform = node.platform();
        // It may have hung up while we wrote.
        let _ = platform.packets.send_encoded(abuse.as_bytes(), &[]);
        assert!(!matches!(platform.packets.recv::<serde_json::Value>(), Ok(Some(_))), "{abuse} is answered");
    }
    // Well-formed, about what is not there: refused, or nothing to be done.
    let mut platform = node.platform();
    for cell in [0, awake.cell.0 + 1_000, u64::MAX >> 8, u64::MAX] {
        platform.ask(|tag| warren_launcher_api::Request::Stop {
            tag,
            cell: warren_launcher_api::CellId(cell),
            grace_ms: 0,
        });
    }
    assert!(platform.try_wake("mallory", "no-such-image", Limits::default()).is_err());
    // Nothing has changed, and the victim lives.
    assert_eq!(awake.talk().ask("read /var/spool/warren/secret"), "of-victim|");
    assert_eq!(tree(&node), before);
}

/// What the platform could have changed.
fn tree(node: &Node) -> Vec<String> {
    let list = |name: &str| {
        let mut found: Vec<String> = fs::read_dir(node.path(name))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| format!("{name}/{}", entry.file_name().display()))
            .collect();
        found.sort();
        found
    };
    ["", "state", "state/tenants", "state/volumes", "images", "run/cells"].into_iter().flat_map(list).collect()
}

#[test]
fn the_launcher_and_its_children_are_confined() {
    let mut node = Node::new(1);
    // One is there: so is its maker.
    node.platform().wait_slots(1);
    let maker = node.maker().unwrap();
    for pid in [node.pid(), maker] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapInh:\t0000000000000000"] {
            assert!(status.contains(line), "{line} is not in {status}");
        }
    }
    node.stop();
    node.start();
}
