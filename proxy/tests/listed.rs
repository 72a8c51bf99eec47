//! An egress address is listed: mail flows on from another one in the same session, the address rests, survives `kill -9` resting, is probed and
//! used again. With the real `warren-proxy`, a door made in a network namespace of its own, and an MX that turns one address away.
//!
//! Needs root.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod program;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use program::{FIRST, Node, PATIENCE, Running, SECOND, ip, until};
use warren_control::egress::{DestinationRow, HealthState, Row};

const LISTED: &str = "554 5.7.1 Service unavailable; Client host [127.0.0.9] blocked using zen.spamhaus.org";
/// An MX without a name is its network.
const OPERATOR: &str = "127.0.0.0/24";

/// A namespace with loopback only, in which an MSA dials whatever it likes and meets the proxy's listener: a cell.
struct Cell {
    dials: mpsc::Sender<(SocketAddr, mpsc::Sender<TcpStream>)>,
    exit: TcpListener,
}

impl Cell {
    fn new(port: u16) -> Self {
        let (dials, wanted) = mpsc::channel::<(SocketAddr, mpsc::Sender<TcpStream>)>();
        let (made, exit) = mpsc::channel();
        // Sockets belong to the namespace of the thread that makes them.
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            made.send(TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap();
            for (to, dialled) in wanted {
                dialled.send(TcpStream::connect(to).unwrap()).unwrap();
            }
        });
        Self { dials, exit: exit.recv().unwrap() }
    }

    fn dial(&self, to: SocketAddr) -> TcpStream {
        let (dialled, stream) = mpsc::channel();
        self.dials.send((to, dialled)).unwrap();
        stream.recv().unwrap()
    }
}

/// An MX that takes everything, but from [`FIRST`] nothing while that is listed.
fn mx(listed: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, listed) = (stream.unwrap(), Arc::clone(&listed));
            thread::spawn(move || served(&stream, listed.load(Ordering::SeqCst)));
        }
    });
    address
}

fn served(stream: &TcpStream, listed: bool) {
    let turned_away = listed && stream.peer_addr().unwrap().ip() == ip(FIRST);
    let mut output = stream;
    let mut say = |line: &str| output.write_all(format!("{line}\r\n").as_bytes()).is_ok();
    let mut content = false;
    say("220 mx.example ESMTP");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        let reply = match verb {
            "." => Some("250 2.0.0 queued"),
            _ if content => None,
            "EHLO" => Some("250 mx.example"),
            "MAIL" if turned_away => Some(LISTED),
            "DATA" => Some("354 go on"),
            "QUIT" => Some("221 2.0.0 bye"),
            _ => Some("250 2.0.0 fine"),
        };
        content = verb == "DATA" || (content && verb != ".");
        if !reply.is_none_or(&mut say) {
            return;
        }
    }
}

/// Sends a message as an MSA does; the replies, by their codes.
fn send(cell: &Cell, mx: SocketAddr) -> Vec<String> {
    let stream = cell.dial(mx);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut input, mut output) = (BufReader::new(&stream), &stream);
    let mut replies = Vec::new();
    let mut heard = || loop {
        let mut line = String::new();
        assert!(input.read_line(&mut line).unwrap() > 0, "the proxy hung up");
        if line.as_bytes()[3] != b'-' {
            return line[..3].to_owned();
        }
    };
    replies.push(heard());
    for command in [
        "EHLO msa",
        "MAIL FROM:<alice@acme.example>",
        "RCPT TO:<bob@mx.example>",
        "DATA",
        "A: b\r\n\r\nhello\r\n.",
        "QUIT",
    ] {
        output.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        replies.push(heard());
    }
    replies
}

const DELIVERED: [&str; 7] = ["220", "250", "250", "250", "354", "250", "221"];

fn first_there(proxy: &Running) -> Option<DestinationRow> {
    proxy.picture().into_iter().find_map(|row| match row {
        Row::Destination(row) if row.address == ip(FIRST) && row.destination == OPERATOR => Some(row),
        _ => None,
    })
}

#[test]
fn mail_flows_on_and_the_address_rests_until_it_is_well() {
    let listed = Arc::new(AtomicBool::new(true));
    let mx = mx(Arc::clone(&listed));
    let cell = Cell::new(mx.port());
    let node = Node::new("allow_networks = [\"127.0.0.0/8\"]\nrest = { first = \"2s\", longest = \"4s\" }");
    let text = std::fs::read_to_string(node.folder.path().join("warren.toml")).unwrap();
    let tproxy = text.replace("mode = \"redirect\"", "mode = \"tproxy\"");
    std::fs::write(node.folder.path().join("warren.toml"), tproxy).unwrap();
    let proxy = node.start_with(Some(&cell.exit));

    // Addresses take turns: by the second message the listed one had its turn, and the MSA has not noticed.
    assert_eq!(send(&cell, mx), DELIVERED);
    assert_eq!(send(&cell, mx), DELIVERED);
    let row = first_there(&proxy).expect("the refusal is remembered");
    assert_eq!((row.health.state, row.health.by_hand), (HealthState::Rested, false), "{row:?}");
    let evidence = &row.health.evidence[0];
    assert_eq!(evidence.what, "block_listed");
    assert!(evidence.list.as_deref().is_some_and(|list| list.contains("spamhaus")), "{evidence:?}");
    assert!(evidence.reply.contains("blocked using zen.spamhaus.org"), "{evidence:?}");
    assert_eq!(proxy.explain_to(mx).chosen, Some(ip(SECOND)));

    until("what was learnt is saved", || node.remembers("zen.spamhaus.org"));
    proxy.signal(Signal::SIGKILL);
    drop(proxy);
    let proxy = node.start_with(Some(&cell.exit));
    let row = first_there(&proxy).expect("it is remembered over kill -9");
    assert!(row.health.evidence[0].reply.contains("zen.spamhaus.org"), "{row:?}");

    // Off the list: the next probe is well, and the address is used again, gently.
    listed.store(false, Ordering::SeqCst);
    until("the address is used again", || {
        assert_eq!(send(&cell, mx), DELIVERED);
        first_there(&proxy).is_some_and(|row| row.health.state == HealthState::Throttled)
    });
    let log = proxy.end();
    assert!(log.contains("an egress address is used again"), "{log}");
}
