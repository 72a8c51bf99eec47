//! The neighbour: one tenant's mail while others fork, fill, litter, eat, open, flood and send without end.
//!
//! ```text
//!   client host ── submission, TLS, password ──▶ warren up (platform, launcher, resolver, proxy, receiver) ──▶ MX of the lab
//!     letter.rs                                    │ the neighbour's MSA        hogs.rs: others' containers
//!     └────────────────── looks into the mailbox ──┴───────────────────────────────────────────────────────▶ ┘
//! ```
//!
//! A real node in the lab of the scenarios. Rounds alternate: some mails alone, the same number beside a hog from its first moment on, hog after
//! hog, all of them at last. Every p99 of alone comes with the interval in which chance leaves it (`chance.rs`). Client and MX are elsewhere in truth, so here they have real-time priority: what they need they have, with and without hogs.
//! Each mail is of another login of the neighbour's, whose password is checked in full; the sender's is remembered, as anybody's would be.

mod chance;
mod hogs;
mod letter;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use warren_lab::{Lab, LabConfig};
use warren_scenarios::images::{add, copies};
use warren_scenarios::{Node, Setup, Tenant};

use crate::interrupt::Interrupt;
use crate::proxy::sender::believing;
use crate::report::{Goal, Machine, Row, save, write_goals};
use chance::Ratio;
use hogs::{IMAGE, PROGRAMS, SENDER, Sty};
use letter::Times;

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; each measures every hog once, and as many mails without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Mails of one measurement
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    mails: u32,
    /// Which hogs, each alone: forker, filler, littler, eater, opener, flooder, sender; `all` is the first six at once, and `nobody` shows
    /// what chance does
    #[arg(long, num_args = 1.., default_values = ["forker", "filler", "littler", "eater", "opener", "flooder", "sender", "all"])]
    hogs: Vec<String>,
    /// `[submission] remember_passwords` of the node: "0s" has every mail of the sender checked in full, too
    #[arg(long, value_name = "TIME", default_value = "5m")]
    remember_passwords: String,
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The name of all programs at once.
const ALL: &str = "all";
/// The name of none: the same twice.
const NOBODY: &str = "nobody";
/// p99 beside a hog may be so many times that of alone.
const GOAL: f64 = 1.1;
/// The domain of those whose mail is measured.
const DOMAIN: &str = "acme.example";
/// Before those that count: the tenant awake, names resolved, pages in memory.
const WARM_UP: u32 = 10;
/// Behind a hog, before the next measurement.
const REST: Duration = Duration::from_millis(500);
/// Below the kernel's own threads, above everybody else.
const PRIORITY: &str = "10";

/// Delivery beside a hog, and without.
#[derive(Debug, Serialize)]
struct Beside {
    hog: String,
    n: usize,
    alone_p50_ms: f64,
    alone_p99_ms: f64,
    beside_p50_ms: f64,
    beside_p99_ms: f64,
    p50_ratio: f64,
    p99_ratio: f64,
    /// Where 95 of 100 such runs have their ratio of p99.
    p99_interval: [f64; 2],
    /// `held`, `missed`, or that it cannot be told.
    verdict: &'static str,
    /// Where the time goes.
    parts: Vec<Part>,
}

/// A part of a delivery.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    alone: Row,
    beside: Row,
    p99: Ratio,
}

/// How long it takes.
type Span = fn(&Times) -> Duration;

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: Vec<Beside>,
    goals: Vec<Goal>,
}

/// Times without and beside one kind of hog.
struct Measured {
    hog: String,
    alone: Vec<Times>,
    beside: Vec<Times>,
}

/// Measures and tells.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    for hog in &options.hogs {
        let known = PROGRAMS.iter().chain(&[SENDER, ALL, NOBODY]).any(|name| name == hog);
        ensure!(known, "there is no hog {hog}: {}, {SENDER}, {ALL}, {NOBODY}", PROGRAMS.join(", "));
    }
    let images = copies(&["msa"]);
    add(images.path(), IMAGE, "probe/hog.rs");
    let lab = Lab::start_with(&LabConfig::personas_only()).context("start a lab")?;
    let mut tenants = hogs::tenants();
    let mails = options.rounds * options.mails * 2 * u32::try_from(options.hogs.len()).context("too many hogs")?;
    let accounts = (1..=WARM_UP + mails).map(login).collect();
    tenants.push(Tenant { accounts, extra: hogs::without_limits(), ..Tenant::acme() });
    let (idle, shown) = (Duration::from_secs(600), Some(images.path().to_owned()));
    // More goes to this one MX than any operator wants from an address: what is measured is the node, not the budget that spares the MX.
    let budgets = "[egress.budgets]\nsessions = 1000\nsessions_per_minute = 100000\n";
    let extra = format!(
        "{budgets}[limits]\nconnections_per_address = 500\n[submission]\nremember_passwords = {:?}\n",
        options.remember_passwords
    );
    let node = Node::start(&lab, &Setup { tenants, images: shown, idle, slots: 4, extra, ..Setup::default() });
    let client = lab.namespace("client").context("the lab has no client")?;
    let measured = warren_scenarios::inside(&client, || measure(options, &lab, &node, images.path(), interrupt));
    node.stop();
    let rows: Vec<Beside> = measured?.iter().map(Measured::sum_up).collect();
    let report = Report { machine: Machine::this(), goals: goals(&rows), rows };
    print!("{}", report.table());
    save(&report, options.json.as_deref())
}

fn goals(rows: &[Beside]) -> Vec<Goal> {
    let hogs = rows.iter().filter(|row| row.hog != NOBODY);
    hogs.map(|row| Goal::at_most(&format!("p99 beside {}, of alone", row.hog), row.p99_ratio, GOAL)).collect()
}

fn measure(
    options: &Options,
    lab: &Lab,
    node: &Node<'_>,
    images: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Measured>> {
    // Of the MX all threads, also those to come; of us this one alone.
    real_time(&["-a"], lab.pid().cast_signed())?;
    real_time(&["-R"], rustix::thread::gettid().as_raw_nonzero().get())?;
    // What else we do, the flood's clients above all, comes after everybody: the node is in a group of its own by now.
    std::fs::write("/proc/self/autogroup", "19").context("stand back")?;
    let tls = Arc::new(believing()?);
    let sty = Sty { lab, node, tls: &tls, images };
    let mut count = 0;
    let mut deliver = |mails: u32| -> anyhow::Result<Vec<Times>> {
        let one = |_| {
            count += 1;
            interrupt.check()?;
            let login = login(count);
            letter::deliver(lab, &tls, &format!("{login}@{DOMAIN}"), &login)
        };
        (0..mails).map(one).collect()
    };
    deliver(WARM_UP)?;
    let mut all: Vec<Measured> =
        options.hogs.iter().map(|hog| Measured { hog: hog.clone(), alone: Vec::new(), beside: Vec::new() }).collect();
    for _ in 0..options.rounds {
        for Measured { hog, alone, beside } in &mut all {
            std::thread::sleep(REST);
            alone.extend(deliver(options.mails)?);
            let names = match hog.as_str() {
                ALL => PROGRAMS.to_vec(),
                NOBODY => Vec::new(),
                hog => vec![hog],
            };
            beside.extend(sty.beside(&names, || deliver(options.mails))?);
        }
    }
    Ok(all)
}

/// The local part of the login, and of the mailbox, of the nth mail.
fn login(n: u32) -> String {
    format!("u{n}")
}

fn real_time(options: &[&str], pid: i32) -> anyhow::Result<()> {
    let done = Command::new("chrt").args(options).args(["-r", "-p", PRIORITY, &pid.to_string()]).status();
    ensure!(done.context("run chrt (Debian: util-linux)")?.success(), "no real-time priority for process {pid}");
    Ok(())
}

impl Measured {
    fn sum_up(&self) -> Beside {
        let times = |times: &[Times], of: Span| times.iter().map(of).collect::<Vec<Duration>>();
        let part = |name, of: Span| {
            let (alone, beside) = (times(&self.alone, of), times(&self.beside, of));
            let p99 = Ratio::of(&alone, &beside, 99);
            Part { name, alone: Row::new(&self.hog, alone), beside: Row::new(&self.hog, beside), p99 }
        };
        let parts: [(&'static str, Span); 4] = [
            ("connect, TLS, password", |times| times.known),
            ("message to the queue's disk", |times| times.accepted - times.known),
            ("queue to mailbox", |times| times.delivered.saturating_sub(times.accepted)),
            ("both, without the password", |times| times.delivered.saturating_sub(times.known)),
        ];
        let Part { alone, beside, p99, .. } = part("all", |times| times.delivered);
        Beside {
            hog: self.hog.clone(),
            n: self.beside.len(),
            alone_p50_ms: alone.median_ms,
            alone_p99_ms: alone.p99_ms,
            beside_p50_ms: beside.median_ms,
            beside_p99_ms: beside.p99_ms,
            p50_ratio: beside.median_ms / alone.median_ms,
            p99_ratio: p99.ratio,
            p99_interval: [p99.low, p99.high],
            verdict: p99.against(GOAL),
            parts: parts.into_iter().map(|(name, of)| part(name, of)).collect(),
        }
    }
}

impl Report {
    fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{}\n\n", self.machine);
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:<32} {:>5} {:>16} {:>16} {:>8} {:>18}",
            "submission to mailbox, ms", "n", "alone p50 / p99", "beside p50 / p99", "p50 ×", "p99 × (95 of 100)"
        );
        for row in &self.rows {
            let pair = |p50: f64, p99: f64| format!("{p50:.1} / {p99:.1}");
            let _ = writeln!(
                text,
                "{:<32} {:>5} {:>16} {:>16} {:>8.2} {:>18}  {}",
                row.hog,
                row.n,
                pair(row.alone_p50_ms, row.alone_p99_ms),
                pair(row.beside_p50_ms, row.beside_p99_ms),
                row.p50_ratio,
                Ratio { ratio: row.p99_ratio, low: row.p99_interval[0], high: row.p99_interval[1] }.to_string(),
                row.verdict,
            );
            for Part { name, alone, beside, p99 } in &row.parts {
                let _ = writeln!(
                    text,
                    "  {:<36} {:>16} {:>16} {:>8.2} {:>18}",
                    name,
                    pair(alone.median_ms, alone.p99_ms),
                    pair(beside.median_ms, beside.p99_ms),
                    beside.median_ms / alone.median_ms,
                    p99.to_string(),
                );
            }
        }
        write_goals(&mut text, &self.goals);
        text
    }
}
