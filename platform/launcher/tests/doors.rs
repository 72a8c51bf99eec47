//! Doors and their holders.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use node::{Client, Node, SOON, pause, wait_readable};
use warren_launcher_api::{CellId, Event, Limits, MAX_UNACKNOWLEDGED, Request, Role};

/// What a holder knows of a cell.
#[derive(Default)]
struct Door {
    sockets: Vec<OwnedFd>,
    generation: u32,
    tenant: Option<String>,
}

#[derive(Default)]
struct Holder {
    doors: BTreeMap<CellId, Door>,
    seq: u64,
    all_told: bool,
}

impl Holder {
    /// Takes news until there are none for a while, or `enough`.
    fn hear(&mut self, client: &Client, enough: impl Fn(&BTreeMap<CellId, Door>) -> bool) {
        while !enough(&self.doors) {
            self.hear_one(client);
        }
    }

    fn hear_one(&mut self, client: &Client) {
        let (event, descriptors) = client.receive();
        self.take(event, descriptors);
        client.packets.send(&Request::Ack { through: self.seq }, &[]).unwrap();
    }

    fn take(&mut self, event: Event, descriptors: Vec<OwnedFd>) {
        match event {
            Event::Door { seq, cell, generation, tenant } => {
                assert_eq!(seq, self.seq + 1);
                self.seq = seq;
                let door = self.doors.entry(cell).or_default();
                assert!(generation > door.generation);
                *door = Door { sockets: descriptors, generation, tenant: tenant.map(|tenant| tenant.to_string()) };
            }
            Event::AllTold { seq } => {
                assert_eq!(seq, self.seq + 1);
                self.seq = seq;
                assert!(!self.all_told, "said once");
                self.all_told = true;
            }
            Event::Bound { seq, cell, tenant } => {
                assert_eq!(seq, self.seq + 1);
                self.seq = seq;
                self.doors.get_mut(&cell).expect("a door before its tenant").tenant = Some(tenant.to_string());
            }
            Event::Gone { seq, cell } => {
                assert_eq!(seq, self.seq + 1);
                self.seq = seq;
                assert!(self.doors.remove(&cell).is_some());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_a_tenant_dials_arrives_with_its_true_destination() {
    let node = Node::new(1);
    let (proxy, resolver, mut platform) = (node.connect(Role::Proxy), node.connect(Role::Resolver), node.platform());
    let (mut exits, mut resolvers) = (Holder::default(), Holder::default());
    let mut acme = platform.wake("acme");
    // Bound was sent before the start, so it is here.
    exits.hear(&proxy, |doors| doors.get(&acme.cell).is_some_and(|door| door.tenant.as_deref() == Some("acme")));
    resolvers.hear(&resolver, |doors| doors.get(&acme.cell).is_some_and(|door| door.tenant.as_deref() == Some("acme")));
    let mut talk = acme.talk();

    let exit = TcpListener::from(exits.doors.get_mut(&acme.cell).unwrap().sockets.remove(0));
    for (dialled, seen) in [("198.51.100.7:25", "[::ffff:198.51.100.7]:25"), ("[2001:db8::7]:25", "[2001:db8::7]:25")] {
        talk.say(&format!("dial {dialled}"));
        let (mut stream, _) = exit.accept().unwrap();
        assert_eq!(stream.local_addr().unwrap().to_string(), seen);
        writeln!(stream, "220 mx.example").unwrap();
        assert_eq!(talk.line(), "220 mx.example");
    }
    assert!(talk.ask("dial 198.51.100.7:26").contains("refused"));

    let mut sockets = std::mem::take(&mut resolvers.doors.get_mut(&acme.cell).unwrap().sockets);
    assert_eq!(sockets.len(), 2);
    let (tcp, udp) = (TcpListener::from(sockets.pop().unwrap()), UdpSocket::from(sockets.pop().unwrap()));
    talk.say("ask mx?");
    let mut question = [0; 10];
    let (length, from) = udp.recv_from(&mut question).unwrap();
    assert_eq!(&question[..length], b"mx?");
    udp.send_to(b"10 mx", from).unwrap();
    assert_eq!(talk.line(), "10 mx from 127.0.0.53:53");
    talk.say("dial 127.0.0.53:53");
    writeln!(tcp.accept().unwrap().0, "by tcp").unwrap();
    assert_eq!(talk.line(), "by tcp");

    platform.stop(acme.cell, 0);
    exits.hear(&proxy, |doors| !doors.contains_key(&acme.cell));
}

/// Whose door a holder gets, and that door.
fn hold(node: &Node, role: Role, cell: CellId) -> (Client, Door) {
    let client = node.connect(role);
    let mut holder = Holder::default();
    holder.hear(&client, |doors| doors.contains_key(&cell));
    (client, holder.doors.remove(&cell).unwrap())
}

/// Greets whoever comes out of a cell with these words, for ever.
fn greet(door: Door, words: &'static str) {
    let exit = TcpListener::from(door.sockets.into_iter().next().unwrap());
    std::thread::spawn(move || {
        for stream in exit.incoming().flatten() {
            writeln!(&stream, "{words}").unwrap();
        }
    });
}

#[test]
fn who_dials_while_nobody_holds_the_door_is_taken_in_by_the_next_holder() {
    let mut node = Node::new(1);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut talk = acme.talk();
    let (proxy, first) = hold(&node, Role::Proxy, acme.cell);
    assert_eq!(first.tenant.as_deref(), Some("acme"));
    let generation = first.generation;
    // As a holder does that is told to end.
    drop((first, proxy));
    talk.say("dial 198.51.100.7:25");
    let (_proxy, next) = hold(&node, Role::Proxy, acme.cell);
    assert!(next.generation > generation);
    greet(next, "220 the next");
    assert_eq!(talk.line(), "220 the next");

    let (resolver, first) = hold(&node, Role::Resolver, acme.cell);
    drop((first, resolver));
    talk.say("ask mx?");
    let (resolver, next) = hold(&node, Role::Resolver, acme.cell);
    let udp = UdpSocket::from(next.sockets.into_iter().next().unwrap());
    let (_, from) = udp.recv_from(&mut [0; 10]).unwrap();
    udp.send_to(b"10 mx", from).unwrap();
    assert_eq!(talk.line(), "10 mx from 127.0.0.53:53");
    drop((udp, resolver));
    talk.say("dial 127.0.0.53:53");
    let (_resolver, next) = hold(&node, Role::Resolver, acme.cell);
    let tcp = TcpListener::from(next.sockets.into_iter().nth(1).unwrap());
    writeln!(tcp.accept().unwrap().0, "10 mx by tcp").unwrap();
    assert_eq!(talk.line(), "10 mx by tcp");
    node.stop();
}

#[test]
fn a_holder_that_hangs_keeps_nothing_from_its_successor() {
    let mut node = Node::new(1);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut talk = acme.talk();
    let hung = [Role::Proxy, Role::Resolver].map(|role| hold(&node, role, acme.cell));
    let (_proxy, exit) = hold(&node, Role::Proxy, acme.cell);
    greet(exit, "220 the next");
    let (_resolver, door) = hold(&node, Role::Resolver, acme.cell);
    let udp = UdpSocket::from(door.sockets.into_iter().next().unwrap());
    std::thread::spawn(move || {
        while let Ok((_, from)) = udp.recv_from(&mut [0; 10]) {
            let _ = udp.send_to(b"10 mx", from);
        }
    });
    // Were the doors two, the kernel would give each a part of these.
    for _ in 0..16 {
        assert_eq!(talk.ask("dial 198.51.100.7:25"), "220 the next");
        assert_eq!(talk.ask("ask mx?"), "10 mx from 127.0.0.53:53");
    }
    drop(hung);
    node.stop();
}

#[test]
fn a_new_launcher_makes_doors_anew_though_somebody_still_has_the_old_ones() {
    let mut node = Node::new(1);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut talk = acme.talk();
    let (_proxy, old) = hold(&node, Role::Proxy, acme.cell);
    node.kill_launcher();
    node.start();
    let (_proxy, new) = hold(&node, Role::Proxy, acme.cell);
    assert_eq!(new.tenant.as_deref(), Some("acme"));
    assert!(new.generation > old.generation);
    // These are two sockets: whoever has both closes the old one.
    drop(old);
    greet(new, "220 anew");
    assert_eq!(talk.ask("dial 198.51.100.7:25"), "220 anew");
    node.stop();
}

#[test]
fn who_waits_in_the_old_doors_waits_in_those_of_a_new_launcher_when_they_are_closed() {
    let mut node = Node::new(1);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let (mut dials, mut asks) = (acme.talk(), acme.talk());
    let (_proxy, exit) = hold(&node, Role::Proxy, acme.cell);
    let (_resolver, questions) = hold(&node, Role::Resolver, acme.cell);
    node.kill_launcher();
    // No other sockets are there yet.
    dials.say("dial 198.51.100.7:25");
    asks.say("dial 127.0.0.53:53");
    for listener in [&exit.sockets[0], &questions.sockets[1]] {
        assert!(wait_readable(listener, SOON), "somebody waits in it");
    }
    node.start();
    let (_proxy, new_exit) = hold(&node, Role::Proxy, acme.cell);
    let (_resolver, new_questions) = hold(&node, Role::Resolver, acme.cell);
    drop((exit, questions));
    greet(new_exit, "220 anew");
    assert_eq!(dials.line(), "220 anew");
    let tcp = TcpListener::from(new_questions.sockets.into_iter().nth(1).unwrap());
    writeln!(tcp.accept().unwrap().0, "10 mx by tcp").unwrap();
    assert_eq!(asks.line(), "10 mx by tcp");
    node.stop();
}

/// A program that may bind ports below 1024 in its cell, and waits for a moment in which nobody has its door.
#[test]
fn who_takes_the_address_of_its_own_door_is_ended_and_keeps_nobody_waiting() {
    let mut node = Node::new(0);
    node.make_image("thief", &["/guest", "takes"]);
    let description = r#"{"args": ["/guest", "takes"], "entrance": "own", "uid": 0, "gid": 0, "capabilities": ["CAP_NET_BIND_SERVICE"]}"#;
    fs::write(node.path("images/thief/image.json"), description).unwrap();
    let mut platform = node.platform();
    let thief = platform.try_wake("thief", "thief", Limits::default()).unwrap();
    let acme = platform.wake("acme");
    // There was no holder so far, and the door is the launcher's all the same.
    let (proxy, door) = hold(&node, Role::Proxy, thief.cell);
    drop((proxy, door));
    // Now nobody has it.
    node.kill_launcher();
    let taken = node.path("state/volumes/1/taken");
    let end = Instant::now() + SOON;
    while !taken.exists() {
        assert!(Instant::now() < end, "the thief does not come to it");
        pause();
    }
    node.start();
    let mut platform = node.platform();
    // It has the lower number: its door's turn is first.
    let (_proxy, door) = hold(&node, Role::Proxy, acme.cell);
    assert_eq!(door.tenant.as_deref(), Some("acme"));
    platform.exited(thief.cell);
    node.stop();
}

#[test]
fn a_holder_is_told_when_it_has_heard_of_all_cells_that_run() {
    let mut node = Node::new(0);
    let mut platform = node.platform();
    let awake = ["acme", "globex", "initech"].map(|tenant| platform.wake(tenant).cell);
    platform.stop(awake[1], 0);
    for _ in 0..2 {
        let proxy = node.connect(Role::Proxy);
        let mut holder = Holder::default();
        while !holder.all_told {
            holder.hear_one(&proxy);
        }
        assert_eq!(holder.doors.keys().copied().collect::<Vec<_>>(), [awake[0], awake[2]]);
        node.kill_launcher();
        node.start();
    }
    node.stop();
}

#[test]
fn a_holder_that_does_not_acknowledge_hears_no_more_but_nobody_waits_for_it() {
    let mut node = Node::new(2);
    let proxy = node.connect(Role::Proxy);
    let mut platform = node.platform();
    let mut heard = 0;
    let mut holder = Holder::default();
    // Each round is at least a door, a tenant and an end.
    for _ in 0..75 {
        let mut awake = platform.wake("acme");
        awake.talk();
        platform.stop(awake.cell, 0);
        while let Some((event, descriptors)) = proxy.receive_within(Duration::ZERO) {
            holder.take(event, descriptors);
            heard += 1;
        }
    }
    assert_eq!(heard, MAX_UNACKNOWLEDGED);
    proxy.packets.send(&Request::Ack { through: holder.seq }, &[]).unwrap();
    // The pool has grown with the wakes.
    let ready = platform.status().slots_wanted;
    platform.wait_slots(ready);
    holder.hear(&proxy, |doors| doors.len() as u64 == ready);
    node.stop();
}
