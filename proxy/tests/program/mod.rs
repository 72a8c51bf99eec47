#![allow(dead_code, reason = "each test program uses a part")]
//! The real `warren-proxy` as a program of its own, standalone, in a folder of its own.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use warren_control::egress::{EgressReply, EgressRequest, Explain, Explained, HealthState, MailClass, Row};
use warren_packet::Packets;

pub const PATIENCE: Duration = Duration::from_secs(30);
pub const FIRST: &str = "127.0.0.9";
pub const SECOND: &str = "127.0.0.10";

/// A folder for a standalone proxy.
pub struct Node {
    pub folder: tempfile::TempDir,
    port: u16,
}

/// The proxy, started; killed with its test.
pub struct Running {
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
    pub fn new(egress: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let node = Self { folder, port };
        node.configure(egress);
        node
    }

    pub fn configure(&self, egress: &str) {
        let (base, port) = (self.folder.path().display(), self.port);
        let text = format!(
            "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"{FIRST}\", \"{SECOND}\"]\n{egress}\n\
             [paths]\nstate = \"{base}\"\nrun = \"{base}\"\n[proxy.standalone]\nlisten = [\"127.0.0.1:{port}\"]\n\
             mode = \"redirect\"\ntenants = {{ \"127.0.0.1\" = \"acme\" }}\n"
        );
        fs::write(self.folder.path().join("warren.toml"), text).unwrap();
    }

    /// Whether this stands in the database.
    pub fn remembers(&self, text: &str) -> bool {
        self.state().is_some_and(|state| state.to_string().contains(text))
    }

    /// What is in the database.
    pub fn state(&self) -> Option<serde_json::Value> {
        if !self.database().exists() {
            return None;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_, remembered) = runtime.block_on(warren_proxy::egress_store::Memory::open(&self.database()));
        remembered.state.map(|state| serde_json::to_value(state).unwrap())
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("sessions/egress.db")
    }

    /// Starts the proxy and waits until it says that it serves.
    pub fn start(&self) -> Running {
        self.start_with(None)
    }

    /// The same, with a listener for sessions, made in a network namespace where every address is local.
    pub fn start_with(&self, exit: Option<&TcpListener>) -> Running {
        let notify = self.folder.path().join("notify");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren-proxy"));
        command.arg("--config").arg(self.folder.path()).env("NOTIFY_SOCKET", &notify).stderr(Stdio::piped());
        if let Some(exit) = exit {
            let parent_fd = exit.try_clone().unwrap().into();
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "exit");
            command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        }
        let child = command.spawn().unwrap();
        let running = Running { child, socket: self.folder.path().join("proxy.sock") };
        let mut word = [0; 64];
        let length = ready.recv(&mut word).expect("the proxy gets ready");
        assert!(word[..length].starts_with(b"READY=1"));
        running
    }
}

impl Running {
    pub fn ask(&self, request: &EgressRequest) -> EgressReply {
        let packets = Packets::connect(&self.socket).unwrap();
        packets.send(request, &[]).unwrap();
        packets.recv().unwrap().expect("root is answered").0
    }

    pub fn picture(&self) -> Vec<Row> {
        match self.ask(&EgressRequest::Snapshot { from: 0 }) {
            EgressReply::Rows { rows, more: false } => rows,
            other => panic!("{other:?}"),
        }
    }

    /// How an address is, towards all.
    pub fn address(&self, wanted: &str) -> (HealthState, bool) {
        let found = self.picture().into_iter().find_map(|row| match row {
            Row::Address(row) if row.address == ip(wanted) => Some((row.health.state, row.health.by_hand)),
            _ => None,
        });
        found.expect("every address is in the picture")
    }

    /// How an address is towards a destination.
    pub fn destination(&self, wanted: &str, operator: &str) -> Option<(HealthState, bool)> {
        self.picture().into_iter().find_map(|row| match row {
            Row::Destination(row) if row.address == ip(wanted) && row.destination == operator => {
                Some((row.health.state, row.health.by_hand))
            }
            _ => None,
        })
    }

    pub fn changes(&self, request: &EgressRequest) -> Vec<String> {
        match self.ask(request) {
            EgressReply::Done { changes } => changes,
            other => panic!("{other:?}"),
        }
    }

    pub fn explain(&self, mx: &str) -> Explained {
        self.explain_at(mx, "192.0.2.25".parse().unwrap())
    }

    /// About an MX without a name.
    pub fn explain_to(&self, mx: SocketAddr) -> Explained {
        self.explain_at("", mx.ip())
    }

    fn explain_at(&self, mx: &str, address: IpAddr) -> Explained {
        let asked = Explain {
            tenant: "acme".parse().unwrap(),
            account: Some("alice@acme.example".into()),
            class: MailClass::Submitted,
            mx: mx.into(),
            address,
        };
        match self.ask(&EgressRequest::Explain(asked)) {
            EgressReply::Explained(told) => *told,
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it in order; what it logged.
    pub fn end(mut self) -> String {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Nobody tells when it comes true, so it is looked at until it does.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
