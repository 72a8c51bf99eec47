//! The fleet asleep: the platform's memory with very many tenants provisioned, and how long a reload takes that touches one of them.
//!
//! A tenant is one file with a domain, an account and a forward, as `warren tenant add` writes it. Nothing else runs: no launcher, no
//! client.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::net::sockopt;
use rustix::process::Signal;
use serde::Serialize;
use warren_control::api::Status;
use warren_control::{ApiReply, ApiRequest};
use warren_packet::Packets;

use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::memory;
use crate::place::Place;
use crate::report::{Goal, Machine, Row, save, write_goals};

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Tenants that are provisioned
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tenants: u32,
    /// Reloads, each after a change to another tenant
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    n: u32,
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// For everything that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at whether a reload is done: it bounds the error of its time.
const LOOK: Duration = Duration::from_micros(500);

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    tenants: u32,
    start_ms: f64,
    mib: f64,
    rows: Vec<Row>,
    goals: Vec<Goal>,
}

/// Measures and tells.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let place = Place::new(None)?;
    let config = place.state().join("etc");
    provision(&place, &config, options.tenants, interrupt)?;
    let began = Instant::now();
    let mut platform = Platform::start(&place, &config)?;
    let start = began.elapsed();
    let mut times = Vec::new();
    for number in 0..options.n {
        interrupt.check()?;
        let tenant = number * (options.tenants / options.n).max(1) % options.tenants;
        write_tenant(&config.join("tenants"), tenant, 1 + number / options.tenants)?;
        times.push(platform.reload()?);
    }
    let mib = memory::of_process(platform.daemon.pid(), "VmRSS:") as f64 / 1024.0;
    let reload = Row::new("reload", times);
    let goals = vec![
        Goal::at_most("memory, MiB", mib, 200.0),
        Goal::at_most("reload: median, ms", reload.median_ms, 100.0),
        Goal::at_most("reload: p99, ms", reload.p99_ms, 100.0),
    ];
    let start_ms = (start.as_secs_f64() * 1e6).round() / 1e3;
    let report =
        Report { machine: Machine::this(), tenants: options.tenants, start_ms, mib, rows: vec![reload], goals };
    print!("{}", report.table());
    save(&report, options.json.as_deref())
}

fn provision(place: &Place, config: &Path, tenants: u32, interrupt: &Interrupt) -> anyhow::Result<()> {
    let folder = config.join("tenants");
    std::fs::create_dir_all(&folder).context("make the configuration")?;
    for directory in ["state", "run"] {
        std::fs::create_dir_all(place.run().join(directory)).context("make a directory")?;
    }
    // Two ports that were free a moment ago: nobody connects to them.
    let ports = [TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0")];
    let [one, other] = ports.map(|port| port.and_then(|port| port.local_addr()));
    let (one, other) = (one.context("find a port")?, other.context("find a port")?);
    let text = format!(
        "hostname = \"mail.bench.example\"\n[egress]\naddresses = [\"203.0.113.10\"]\n\
         [listen]\nsubmission = [\"{one}\"]\nsubmissions = [\"{other}\"]\n\
         [paths]\nstate = {:?}\nrun = {:?}\nimages = {:?}\n",
        place.run().join("state").display().to_string(),
        place.run().join("run").display().to_string(),
        place.images().display().to_string(),
    );
    std::fs::write(config.join("warren.toml"), text).context("write the configuration")?;
    for number in 0..tenants {
        if number % 1000 == 0 {
            interrupt.check()?;
        }
        write_tenant(&folder, number, 0)?;
    }
    Ok(())
}

/// Written beside and renamed, as careful editors do. `change` makes it differ from what it was.
fn write_tenant(folder: &Path, number: u32, change: u32) -> anyhow::Result<()> {
    // The hash of nobody's password: its form is what is read.
    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b7dWRWJTmaaJObGGcZVd7vVHlA";
    let text = format!(
        "domains = [\"t{number}.example\"]\naccounts = {{ alice = \"{HASH}\" }}\n[forward]\n\"info\" = [\"someone{change}@elsewhere.example\"]\n"
    );
    let (file, new) = (folder.join(format!("t{number}.toml")), folder.join(format!(".t{number}.new")));
    std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, &file).with_context(|| format!("write {}", file.display()))
}

/// A platform with our configuration.
struct Platform {
    daemon: Daemon,
    packets: Packets,
    tag: u64,
}

impl Platform {
    fn start(place: &Place, config: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(place.program("warren-platform")?);
        let log = place.state().join("warren-platform.log");
        let mut daemon = Daemon::start(command.arg("--config").arg(config), &log)?;
        let socket = place.run().join("run/platform.sock");
        let end = Instant::now() + PATIENCE;
        let packets = loop {
            match Packets::connect(&socket) {
                Ok(packets) => break packets,
                Err(e) if Instant::now() > end => return Err(e).context("connect to the platform"),
                Err(_) => daemon.check().context("the platform")?,
            }
            std::thread::park_timeout(Duration::from_millis(1));
        };
        sockopt::set_socket_timeout(&packets, sockopt::Timeout::Recv, Some(PATIENCE)).context("set a timeout")?;
        let mut platform = Platform { daemon, packets, tag: 0 };
        platform.status()?;
        Ok(platform)
    }

    fn status(&mut self) -> anyhow::Result<Status> {
        self.tag += 1;
        self.packets.send(&ApiRequest::Status { tag: self.tag }, &[]).context("ask the platform")?;
        let heard = self.packets.recv::<ApiReply>().context("hear the platform")?;
        match heard.with_context(|| format!("the platform hung up; {}", self.daemon.last_words()))?.0 {
            ApiReply::Status { status, .. } => Ok(*status),
            other => bail!("not its status but {other:?}"),
        }
    }

    /// From SIGHUP until the new configuration is in force.
    fn reload(&mut self) -> anyhow::Result<Duration> {
        let before = self.status()?.readings;
        let began = Instant::now();
        self.daemon.signal(Signal::HUP);
        loop {
            let readings = self.status()?.readings;
            if readings.done > before.done {
                ensure!(readings.problems.is_none(), "the configuration was refused: {:?}", readings.problems);
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "no reload after {PATIENCE:?}; {}", self.daemon.last_words());
            std::thread::park_timeout(LOOK);
        }
    }
}

impl Report {
    fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{}\n\n", self.machine);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} tenants asleep: {:.1} MiB; read in {:.0} ms", self.tenants, self.mib, self.start_ms);
        for Row { name, n, median_ms, p99_ms } in &self.rows {
            let _ = writeln!(text, "{name}: median {median_ms:.3} ms, p99 {p99_ms:.3} ms of {n}");
        }
        write_goals(&mut text, &self.goals);
        text
    }
}
