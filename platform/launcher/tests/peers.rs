//! Who may connect to the socket, how often, and what they are told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use node::Node;
use rustix::process::{Pid, Resource, Rlimit, Uid, prlimit};
use warren_launcher_api::{Event, Request, Role, VERSION};
use warren_packet::Packets;

/// Connects some times as another user, whom the kernel knows by the thread that connects.
fn connect_as(user: u32, node: &Node, times: usize) -> Vec<Packets> {
    let socket = node.path("run/launcher.sock");
    let thread = std::thread::spawn(move || {
        let uid = Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        (0..times).map(|_| Packets::connect(&socket).unwrap()).collect()
    });
    thread.join().unwrap()
}

/// Whether a connection was taken in, and gets a role.
fn welcome(packets: &Packets, role: Role) -> bool {
    // Sending may fail already.
    let _ = packets.send(&Request::Hello { role, version: VERSION }, &[]);
    matches!(packets.recv::<Event>(), Ok(Some((Event::Welcome { .. }, _))))
}

#[test]
fn nobody_takes_the_places_of_others() {
    let node = Node::new(0);
    for directory in ["", "run"] {
        fs::set_permissions(node.path(directory), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(node.path("run/launcher.sock"), fs::Permissions::from_mode(0o666)).unwrap();

    // Somebody on the machine.
    let strangers = connect_as(65_000, &node, 200);
    assert!(strangers.iter().all(|packets| !welcome(packets, Role::Platform)));
    // A resolver that was taken over holds all that it can, and says nothing.
    let held = connect_as(64_003, &node, 100);
    let resolver = connect_as(64_003, &node, 1);
    assert!(!welcome(&resolver[0], Role::Resolver), "its own places are taken");
    let impostor = held.iter().find(|packets| !welcome(packets, Role::Platform));
    assert!(impostor.is_some());
    // The others do not notice.
    let proxy = connect_as(64_002, &node, 1);
    assert!(welcome(&proxy[0], Role::Proxy));
    let mut platform = node.platform();
    assert!(platform.list().is_empty());
    // Nor is anything kept of it when it goes.
    drop((held, resolver));
    let again = (0..200).any(|_| {
        node::pause();
        welcome(&connect_as(64_003, &node, 1)[0], Role::Resolver)
    });
    assert!(again);
}

#[test]
fn a_list_is_whole_though_there_is_no_descriptor_left() {
    let node = Node::new(0);
    let mut platform = node.platform();
    let names = ["acme", "globex", "initech"];
    let awake: Vec<_> = names.iter().map(|name| platform.wake(name)).collect();
    let launcher = node.pid();
    let open: Vec<u64> = fs::read_dir(format!("/proc/{launcher}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    // The lowest that is free: whatever it opens now, it cannot.
    let none = (0..).find(|number| !open.contains(number));
    let before = prlimit(Pid::from_raw(launcher), Resource::Nofile, Rlimit { current: none, maximum: Some(20_000) });
    let listed = platform.list();
    prlimit(Pid::from_raw(launcher), Resource::Nofile, before.unwrap()).unwrap();
    let mut listed: Vec<String> = listed.iter().map(|(info, _)| info.tenant.to_string()).collect();
    listed.sort();
    assert_eq!(listed, names);
    drop(awake);
}
