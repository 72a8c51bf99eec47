//! The ways from a sender to the sink that are compared, each with a door of its own in a cell of its own.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use command_fds::{CommandFdExt, FdMapping};

use super::net::{MX, NODE, Namespace, cell, door, node_and_mx};
use super::sink::{BROKEN_MX, TLS_MX};
use crate::daemon::Daemon;
use crate::memory;
use crate::place::Place;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Way {
    /// The sender dials the sink.
    Direct,
    /// HAProxy, `mode tcp`.
    Haproxy,
    /// nginx, `stream`.
    Nginx,
    /// This proxy, recording.
    Warren,
    /// This proxy with `[proxy] record = false`.
    Unrecorded,
    /// This proxy, recording, with `[proxy.reuse] idle = "0s"`: each session has a connection of its own.
    Dialling,
    /// This proxy, its database locked by somebody else.
    Stalled,
    /// A Postfix that everybody shares: it queues, and relays.
    Postfix,
}

impl Way {
    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "haproxy",
            Way::Nginx => "nginx",
            Way::Warren => "warren",
            Way::Unrecorded => "warren-unrecorded",
            Way::Dialling => "warren-dialling",
            Way::Stalled => "warren-stalled",
            Way::Postfix => "postfix",
        }
    }

    /// Whether the way itself does TLS with the MX, so that the sender need not.
    pub fn secures(self) -> bool {
        matches!(self, Way::Warren | Way::Unrecorded | Way::Dialling | Way::Stalled)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The ways that run, and the networks they run in.
pub struct Paths {
    node: Namespace,
    mx: Namespace,
    running: Vec<Running>,
}

struct Running {
    way: Way,
    daemon: Daemon,
    /// Where senders are; none: on the node.
    cell: Option<Namespace>,
    /// Where its database is.
    database: Option<PathBuf>,
}

/// The doors' descriptors begin here.
const FIRST: i32 = 3;

impl Paths {
    /// Makes the networks.
    pub fn new() -> anyhow::Result<Self> {
        let (node, mx) = node_and_mx()?;
        Ok(Paths { node, mx, running: Vec::new() })
    }

    /// Where the sink is.
    pub fn mx(&self) -> &Namespace {
        &self.mx
    }

    /// Starts a way. Stalled is another name of the recording one.
    pub fn start(&mut self, way: Way, place: &Place) -> anyhow::Result<()> {
        let home = place.state().join(way.name());
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let running = match way {
            Way::Direct => return Ok(()),
            Way::Haproxy => self.haproxy(&home)?,
            Way::Nginx => self.nginx(&home)?,
            Way::Warren | Way::Unrecorded | Way::Dialling | Way::Stalled => self.warren(way, &home, place)?,
            Way::Postfix => self.postfix(&home)?,
        };
        self.running.push(Running { way, ..running });
        let end = Instant::now() + Duration::from_secs(30);
        while !self.greets(way)? {
            let daemon = &mut self.running.last_mut().context("it was started")?.daemon;
            daemon.check().with_context(|| way.name())?;
            ensure!(Instant::now() < end, "{way} does not greet; {}", daemon.last_words());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    fn of(&self, way: Way) -> Option<&Running> {
        self.running.iter().find(|running| running.way == way)
    }

    /// Where this way's senders are.
    pub fn senders(&self, way: Way) -> &Namespace {
        self.of(way).and_then(|running| running.cell.as_ref()).unwrap_or(&self.node)
    }

    /// What this way's senders dial.
    pub fn destination(way: Way, mx: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((if way == Way::Postfix { NODE } else { mx }, 25))
    }

    /// Its database file.
    pub fn database(&self, way: Way) -> Option<&Path> {
        self.of(way)?.database.as_deref()
    }

    /// What it has used of the processors so far.
    pub fn cpu(&self, way: Way) -> Duration {
        self.of(way).map_or(Duration::ZERO, |running| memory::cpu_of_tree(running.daemon.pid()))
    }

    /// User memory of its own, in KiB.
    pub fn private_kib(&self, way: Way) -> u64 {
        self.of(way).map_or(0, |running| memory::of_tree(running.daemon.pid(), "RssAnon:"))
    }

    /// Its threads.
    pub fn threads(&self, way: Way) -> u64 {
        self.of(way).map_or(0, |running| memory::of_tree(running.daemon.pid(), "Threads:"))
    }

    fn greets(&self, way: Way) -> anyhow::Result<bool> {
        use std::io::Read;
        let to = Self::destination(way, MX);
        self.senders(way).within(|| {
            let Ok(mut stream) = std::net::TcpStream::connect(to) else { return Ok(false) };
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut greeting = [0; 4];
            Ok(stream.read_exact(&mut greeting).is_ok() && &greeting == b"220 ")
        })?
    }

    /// Runs a program on the node with these listeners as its descriptors from 3 on.
    fn run(&self, command: &mut Command, doors: Vec<TcpListener>, log: &Path) -> anyhow::Result<Daemon> {
        let mappings = (FIRST..).zip(doors);
        let mappings = mappings.map(|(child_fd, door)| FdMapping { parent_fd: OwnedFd::from(door), child_fd });
        command.fd_mappings(mappings.collect()).context("pass the doors")?;
        self.node.within(|| Daemon::start(command, log))?
    }

    fn haproxy(&self, home: &Path) -> anyhow::Result<Running> {
        let cell = cell()?;
        let mut config = "global\n  maxconn 9500\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n".to_owned();
        let mut doors = Vec::new();
        for (fd, mx) in (FIRST..).zip([MX, TLS_MX]) {
            doors.push(door(&cell, SocketAddr::from((mx, 25)))?);
            config += &format!("listen to-{mx}\n  bind fd@{fd}\n  server mx {mx}:25\n");
        }
        let file = home.join("haproxy.cfg");
        std::fs::write(&file, config).context("write HAProxy's configuration")?;
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-q", "-f"]).arg(&file);
        let daemon = self.run(&mut command, doors, &home.join("log"))?;
        Ok(Running { way: Way::Haproxy, daemon, cell: Some(cell), database: None })
    }

    fn nginx(&self, home: &Path) -> anyhow::Result<Running> {
        let cell = cell()?;
        let mut doors = Vec::new();
        let mut servers = String::new();
        for mx in [MX, TLS_MX] {
            doors.push(door(&cell, SocketAddr::from((mx, 25)))?);
            servers += &format!("  server {{ listen {mx}:25; proxy_pass {mx}:25; proxy_timeout 1h; }}\n");
        }
        let home_text = home.display();
        let config = format!(
            "daemon off;\nuser www-data;\nworker_processes auto;\nworker_rlimit_nofile 20000;\npid {home_text}/pid;\nerror_log stderr;\n\
             load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             events {{ worker_connections 19000; }}\nstream {{\n{servers}}}\n"
        );
        let file = home.join("nginx.conf");
        std::fs::write(&file, config).context("write nginx's configuration")?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(home).arg("-c").arg(&file).env("NGINX", "3;4;");
        let daemon = self.run(&mut command, doors, &home.join("log"))?;
        Ok(Running { way: Way::Nginx, daemon, cell: Some(cell), database: None })
    }

    /// In a cell, a connection has its destination as its source address too: by it the standalone proxy tells tenants apart.
    fn warren(&self, way: Way, home: &Path, place: &Place) -> anyhow::Result<Running> {
        let cell = cell()?;
        let path = |name: &str| home.join(name).display().to_string();
        let tenants = [MX, TLS_MX, BROKEN_MX].map(|mx| format!("\"{mx}\" = \"bench\""));
        let record = way != Way::Unrecorded;
        let idle = if way == Way::Dialling { "0s" } else { "2s" };
        let config = format!(
            "hostname = \"out.bench.example\"\n\
             [egress]\naddresses = [\"{NODE}\"]\nallow_networks = [\"198.51.100.0/24\"]\nmax_sessions = 9900\nmax_sessions_per_tenant = 9900\n\
             [egress.budgets]\nsessions = 9900\nsessions_per_minute = 1000000\n\
             [paths]\nstate = {:?}\nrun = {:?}\nimages = {:?}\n\
             [proxy]\nrecord = {record}\n\
             [proxy.reuse]\nidle = \"{idle}\"\n\
             [proxy.standalone]\nlisten = [\"0.0.0.0:25\"]\nmode = \"tproxy\"\ntenants = {{ {} }}\n",
            path("state"),
            path("run"),
            path("images"),
            tenants.join(", "),
        );
        for directory in ["etc", "run"] {
            std::fs::create_dir_all(home.join(directory)).context("make the proxy's directories")?;
        }
        std::fs::write(home.join("etc/warren.toml"), config).context("write the configuration")?;
        let door = door(&cell, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25)))?;
        let mut command = Command::new(place.program("warren-proxy")?);
        command.arg("--config").arg(home.join("etc"));
        command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "exit"), ("RUST_LOG", "warn")]);
        let daemon = self.run(&mut command, vec![door], &home.join("log"))?;
        let database = home.join("state/sessions/sessions.db");
        Ok(Running { way, daemon, cell: Some(cell), database: Some(database) })
    }

    /// Debian's, as `tests/lab/packages` unpacked it: installed, it would conflict with other mail servers.
    fn postfix(&self, home: &Path) -> anyhow::Result<Running> {
        const START: &str = include_str!("postfix.sh");
        let cache = std::env::var_os("WARREN_LAB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/warren/lab")));
        let package = cache.context("neither WARREN_LAB_CACHE nor HOME is set")?.join("postfix/root");
        ensure!(package.is_dir(), "there is no Postfix in {}: run tests/lab/packages", package.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", START, "postfix"]).arg(&package).arg(home);
        command.args([NODE.to_string(), MX.to_string()]);
        let daemon = self.run(&mut command, Vec::new(), &home.join("log"))?;
        Ok(Running { way: Way::Postfix, daemon, cell: None, database: None })
    }
}

/// A helper of the benchmark itself, in a namespace: its standard input and output are ours.
pub fn helper(namespace: &Namespace, arguments: &[String]) -> anyhow::Result<std::process::Child> {
    let own = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(own);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    namespace.within(|| command.spawn())?.context("run a helper")
}
