//! The real `warren-proxy`, asked over its socket: what an operator does by hand holds through reloads, `kill -9` and damaged databases.
//!
//! Needs root, who alone may ask.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use warren_control::egress::{EgressReply, EgressRequest, Explain, Explained, HealthState, MailClass, Row};
use warren_packet::Packets;

const PATIENCE: Duration = Duration::from_secs(30);
const FIRST: &str = "127.0.0.9";
const SECOND: &str = "127.0.0.10";

/// A folder for a standalone proxy.
struct Node {
    folder: tempfile::TempDir,
    port: u16,
}

/// The proxy, started; killed with its test.
struct Running {
    child: Child,
    socket: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn new(egress: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let node = Self { folder, port };
        node.configure(egress);
        node
    }

    fn configure(&self, egress: &str) {
        let (base, port) = (self.folder.path().display(), self.port);
        let text = format!(
            "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"{FIRST}\", \"{SECOND}\"]\n{egress}\n\
             [paths]\nstate = \"{base}\"\nrun = \"{base}\"\n[proxy.standalone]\nlisten = [\"127.0.0.1:{port}\"]\n\
             mode = \"redirect\"\ntenants = {{ \"127.0.0.1\" = \"acme\" }}\n"
        );
        fs::write(self.folder.path().join("warren.toml"), text).unwrap();
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("sessions/egress.db")
    }

    /// Starts the proxy and waits until it says that it serves.
    fn start(&self) -> Running {
        let notify = self.folder.path().join("notify");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_warren-proxy"))
            .arg("--config")
            .arg(self.folder.path())
            .env("NOTIFY_SOCKET", &notify)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running { child, socket: self.folder.path().join("proxy.sock") };
        let mut word = [0; 64];
        let length = ready.recv(&mut word).expect("the proxy gets ready");
        assert!(word[..length].starts_with(b"READY=1"));
        running
    }
}

impl Running {
    fn ask(&self, request: &EgressRequest) -> EgressReply {
        let packets = Packets::connect(&self.socket).unwrap();
        packets.send(request, &[]).unwrap();
        packets.recv().unwrap().expect("root is answered").0
    }

    fn picture(&self) -> Vec<Row> {
        match self.ask(&EgressRequest::Snapshot { from: 0 }) {
            EgressReply::Rows { rows, more: false } => rows,
            other => panic!("{other:?}"),
        }
    }

    /// How an address is, towards all.
    fn address(&self, wanted: &str) -> (HealthState, bool) {
        let found = self.picture().into_iter().find_map(|row| match row {
            Row::Address(row) if row.address == ip(wanted) => Some((row.health.state, row.health.by_hand)),
            _ => None,
        });
        found.expect("every address is in the picture")
    }

    /// How an address is towards a destination.
    fn destination(&self, wanted: &str, operator: &str) -> Option<(HealthState, bool)> {
        self.picture().into_iter().find_map(|row| match row {
            Row::Destination(row) if row.address == ip(wanted) && row.destination == operator => {
                Some((row.health.state, row.health.by_hand))
            }
            _ => None,
        })
    }

    fn changes(&self, request: &EgressRequest) -> Vec<String> {
        match self.ask(request) {
            EgressReply::Done { changes } => changes,
            other => panic!("{other:?}"),
        }
    }

    fn explain(&self, mx: &str) -> Explained {
        let asked = Explain {
            tenant: "acme".parse().unwrap(),
            account: Some("alice@acme.example".into()),
            class: MailClass::Submitted,
            mx: mx.into(),
            address: "192.0.2.25".parse().unwrap(),
        };
        match self.ask(&EgressRequest::Explain(asked)) {
            EgressReply::Explained(told) => *told,
            other => panic!("{other:?}"),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it in order; what it logged.
    fn end(mut self) -> String {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rest(address: &str, destination: Option<&str>) -> EgressRequest {
    EgressRequest::Rest { address: ip(address), destination: destination.map(str::to_owned) }
}

fn restore(address: &str, destination: Option<&str>) -> EgressRequest {
    EgressRequest::Restore { address: ip(address), destination: destination.map(str::to_owned) }
}

/// Nobody tells when it comes true, so it is looked at until it does.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether one address rests towards all in the database, and one towards a destination.
fn saved(database: &Path) -> bool {
    if !database.exists() {
        return false;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, state) = runtime.block_on(warren_proxy::egress_store::Memory::open(database));
    let state = state.map(|state| serde_json::to_value(state).unwrap());
    let one = |all: &serde_json::Value| {
        all.as_array().map(Vec::len).or(all.as_object().map(serde_json::Map::len)) == Some(1)
    };
    state.is_some_and(|state| one(&state["by_hand"]) && one(&state["marks"]))
}

#[test]
fn what_is_done_by_hand_holds_through_kill_9_and_reload() {
    let node = Node::new("");
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false));
    assert_eq!(proxy.changes(&rest(FIRST, None)), ["127.0.0.9 rests: by hand"]);
    assert_eq!(proxy.changes(&rest(FIRST, None)), [""; 0], "it rests already");
    assert_eq!(proxy.changes(&rest(SECOND, Some("Gmail.com"))), ["127.0.0.10 rests for google.com: by hand"]);
    let stranger = proxy.ask(&rest("127.0.0.77", None));
    assert!(matches!(&stranger, EgressReply::Refused { reason } if reason.contains("not in [egress] addresses")));

    assert_eq!(proxy.explain("mx.example.org").chosen, Some(ip(SECOND)));
    let told = proxy.explain("aspmx.l.google.com");
    assert_eq!((told.chosen, told.destination.as_str()), (None, "google.com"));
    assert_eq!(told.why, "every egress address rests for this destination");

    until("what was done is saved", || saved(&node.database()));
    proxy.signal(Signal::SIGKILL);
    drop(proxy);

    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true));
    assert_eq!(proxy.destination(SECOND, "google.com"), Some((HealthState::Rested, true)));
    node.configure("pools = { letters = [\"127.0.0.10\"] }\nrules = [{ pool = \"letters\", tenants = [\"acme\"] }]");
    proxy.signal(Signal::SIGHUP);
    until("the rule is in force", || proxy.picture().iter().any(|row| matches!(row, Row::Rule(_))));
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true), "a reload keeps what stays");
    let told = proxy.explain("mx.example.org");
    assert_eq!((told.rule.as_deref(), told.pool.as_deref()), (Some("rule 1"), Some("letters")));

    assert_eq!(proxy.changes(&restore(FIRST, None)), ["127.0.0.9 is used again"]);
    assert_eq!(proxy.changes(&restore(SECOND, Some("google.com"))), ["127.0.0.10 is used again for google.com"]);
    let log = proxy.end();
    assert!(log.contains("an egress address is used again") && log.contains("destination=\"google.com\""), "{log}");

    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false), "the last state is saved at the end");
    assert_eq!(proxy.destination(SECOND, "google.com"), None);
    proxy.end();
}

#[test]
fn a_broken_database_is_said_and_stops_nothing() {
    let node = Node::new("");
    fs::create_dir(node.folder.path().join("sessions")).unwrap();
    fs::write(node.database(), "this is no database ".repeat(400)).unwrap();
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false));
    proxy.changes(&rest(FIRST, None));
    let log = proxy.end();
    assert!(log.contains("is damaged") && log.contains("egress.db.damaged"), "{log}");
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true), "the new database works");
    proxy.end();
}

#[test]
fn a_configuration_that_is_broken_at_reload_changes_nothing() {
    let node = Node::new("");
    let proxy = node.start();
    node.configure("rules = [{ pool = \"nowhere\" }]");
    proxy.signal(Signal::SIGHUP);
    node.configure("names = { \"127.0.0.9\" = \"out1.example.net\" }");
    proxy.signal(Signal::SIGHUP);
    let name = || {
        proxy.picture().into_iter().find_map(|row| match row {
            Row::Address(row) if row.address == ip(FIRST) => Some(row.name),
            _ => None,
        })
    };
    until("the name is in force", || name().as_deref() == Some("out1.example.net"));
    proxy.end();
}
