//! Who may connect to the socket, and how often.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use node::Node;
use rustix::process::Uid;
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
