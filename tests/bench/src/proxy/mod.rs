//! What the proxy costs, beside programs that do not even look at the bytes, and beside a shared relay.
//!
//! ```text
//!   sender (cell) ─▶ door ─▶ HAProxy | nginx | warren-proxy ─▶ sink (namespace of its own)
//!   sender (node) ─────────▶ nobody  | Postfix               ─▶
//! ```
//!
//! Every way is up all the time, and only one of them works at a time: each run measures all of them, one after the other, and each waits until
//! nobody works any more (this proxy writes its records behind the mail; what that costs is counted too).
//!
//! | file | holds |
//! |---|---|
//! | `net`, `paths` | the networks, the ways |
//! | [`sender`], [`sink`], `link` | the load and the MX: helpers, processes of their own |
//! | `speed` | mails a second and processor time |
//! | `quiet` | time added, memory of idle sessions, leaks |

mod link;
mod net;
mod paths;
mod quiet;
pub mod sender;
pub mod sink;
mod speed;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout};

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::interrupt::Interrupt;
use crate::place::Place;
use crate::report::{Goal, Machine, save, write_goals};
use paths::{Paths, Way, helper};
use quiet::{Added, Idle, Leak};
use speed::{Row, Shape};

/// The sink's name, for certificates.
const MX_NAME: &str = "mx.bench.example";

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One short run of everything, to see that it works
    #[arg(long)]
    quick: bool,
    /// How often each way is measured at each shape
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// For how long each time, in milliseconds
    #[arg(long, default_value_t = 1500)]
    millis: u64,
    /// Only these ways
    #[arg(long, value_enum, value_delimiter = ',')]
    ways: Vec<Way>,
    /// Only these shapes: bytes:connections:mails, or bytes:connections:mails:tls
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Mails a second, processor time a mail
    Speed,
    /// Time added to a session while nothing else goes on
    Added,
    /// Memory of idle sessions
    Idle,
    /// Memory that does not come back
    Leak,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: Vec<Row>,
    added: Vec<Added>,
    idle: Vec<Idle>,
    leak: Option<Leak>,
    goals: Vec<Goal>,
}

/// Measures and tells.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let place = Place::new(None)?;
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }).context("raise the limit of open files")?;
    let mut paths = Paths::new()?;
    let mut sink = Helper::start(paths.mx(), &["proxy-sink".to_owned()])?;
    sink.hear::<String>().context("the sink")?;
    let wanted = |way: &Way| options.ways.is_empty() || options.ways.contains(way);
    for way in [Way::Haproxy, Way::Nginx, Way::Warren, Way::Dialling, Way::Unrecorded, Way::Stalled, Way::Postfix] {
        if wanted(&way) {
            paths.start(way, &place).with_context(|| format!("start {way}"))?;
        }
    }
    let part = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut report =
        Report { machine: Machine::this(), rows: vec![], added: vec![], idle: vec![], leak: None, goals: vec![] };
    if part(Part::Idle) {
        // First: memory that load has left behind would hide what a session takes.
        report.idle = quiet::idle(&paths, wanted, if options.quick { 500 } else { 9_000 }, interrupt)?;
    }
    if part(Part::Speed) {
        let plan = speed::Plan::new(options, wanted);
        report.rows = speed::measure(&paths, &mut sink, &plan, interrupt)?;
    }
    if part(Part::Added) {
        let sessions = if options.quick { 200 } else { 2_000 };
        report.added = quiet::added(&paths, wanted, sessions, interrupt)?;
    }
    if part(Part::Leak) && wanted(&Way::Warren) {
        let (sessions, failures) = if options.quick { (2_000, 100) } else { (100_000, 1_000) };
        report.leak = Some(quiet::leak(&paths, sessions, failures)?);
    }
    report.machine = Machine::this();
    report.goals = goals(&report);
    print!("{}", table(&report));
    save(&report, options.json.as_deref())
}

/// A helper process, spoken to by lines.
struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    fn start(namespace: &net::Namespace, arguments: &[String]) -> anyhow::Result<Self> {
        let mut child = helper(namespace, arguments)?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a helper has an output")?);
        Ok(Helper { child, input, output })
    }

    fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("hear a helper")?;
        ensure!(!line.is_empty(), "it ended");
        serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))
    }

    fn ask<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.input.as_mut().context("a helper has an input")?.write_all(b"\n").context("ask a helper")?;
        self.hear()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.input.take());
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn goals(report: &Report) -> Vec<Goal> {
    let mut goals = speed::goals(&report.rows);
    goals.extend(quiet::goals(&report.added, &report.idle, report.leak.as_ref()));
    goals
}

fn table(report: &Report) -> String {
    let mut text = format!("{}\n", report.machine);
    let _ = writeln!(
        text,
        "\n{:<18} {:>4} {:>8} {:>6} {:>6} {:>9} {:>19} {:>9} {:>9} {:>9} {:>8}",
        "path", "tls", "bytes", "conns", "mails", "mails/s", "interval", "/direct", "/haproxy", "cpu us", "later us"
    );
    for row in &report.rows {
        let of = |way| speed::ratio(&report.rows, row, way).map_or(String::new(), |ratio| format!("{ratio:.3}"));
        let _ = writeln!(
            text,
            "{:<18} {:>4} {:>8} {:>6} {:>6} {:>9.0} {:>9.0}-{:<9.0} {:>9} {:>9} {:>9.1} {:>8.1}",
            row.path,
            if row.tls { "tls" } else { "" },
            row.bytes,
            row.connections,
            row.mails_per_session,
            row.mails_per_s,
            row.lowest,
            row.highest,
            of(Way::Direct),
            of(Way::Haproxy),
            row.cpu_us_per_mail,
            row.later_us_per_mail
        );
    }
    let _ = writeln!(
        text,
        "\n{:<18} {:>12} {:>12} {:>12} {:>12}",
        "one session, quiet", "p50 us", "p99 us", "added p50", "added p99"
    );
    for Added { path, p50_us, p99_us, added_p50_us, added_p99_us } in &report.added {
        let _ = writeln!(text, "{path:<18} {p50_us:>12.0} {p99_us:>12.0} {added_p50_us:>12.0} {added_p99_us:>12.0}");
    }
    let _ = writeln!(text, "\n{:<18} {:>4} {:>9} {:>9} {:>8}", "idle", "tls", "sessions", "KiB each", "threads");
    for Idle { path, tls, sessions, kib_each, threads } in &report.idle {
        let tls = if *tls { "tls" } else { "" };
        let _ = writeln!(text, "{path:<18} {tls:>4} {sessions:>9} {kib_each:>9.2} {threads:>8}");
    }
    if let Some(Leak { sessions, failures, before_kib, after_kib }) = &report.leak {
        let _ = writeln!(
            text,
            "\nafter {sessions} sessions and {failures} failed handshakes: {before_kib} KiB, then {after_kib} KiB"
        );
    }
    write_goals(&mut text, &report.goals);
    text
}
