//! The neighbour: one tenant's mail while others fork, fill, litter, eat, open, flood and send without end.
//!
//! ```text
//!   client host ── submission, TLS, password ──▶ warren up (platform, launcher, resolver, proxy, receiver) ──▶ MX of the lab
//!     letter.rs                                    │ the neighbour's MSA        hogs.rs: others' containers
//!     └────────────────── looks into the mailbox ──┴───────────────────────────────────────────────────────▶ ┘
//! ```
//!
//! A real node in the lab of the scenarios. Rounds alternate: some mails alone, the same number beside a hog, hog after hog, all of them at
//! last. Client and MX are elsewhere in truth, so here they have real-time priority: what they need they have, with and without hogs.
//! Each mail is of another login of the neighbour's, whose password is checked in full; the sender's is remembered, as anybody's would be.

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
use hogs::{IMAGE, PROGRAMS, SENDER, Sty};
use letter::Times;

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; each measures every hog once, and as many mails without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Mails of one measurement
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    mails: u32,
    /// Which hogs, each alone: forker, filler, littler, eater, opener, flooder, sender; `all` is the first six at once
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
    /// Where the time goes.
    parts: Vec<Part>,
}

/// A part of a delivery.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    alone: Row,
    beside: Row,
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
        let known = PROGRAMS.iter().chain(&[SENDER, ALL]).any(|name| name == hog);
        ensure!(known, "there is no hog {hog}: {}, {SENDER}, {ALL}", PROGRAMS.join(", "));
    }
    let images = copies(&["msa"]);
    add(images.path(), IMAGE, "probe/hog.rs");
    let lab = Lab::start_with(&LabConfig::personas_only()).context("start a lab")?;
    let mut tenants = hogs::tenants();
    let mails = options.rounds * options.mails * 2 * u32::try_from(options.hogs.len()).context("too many hogs")?;
    let accounts = (1..=WARM_UP + mails).map(login).collect();
    tenants.push(Tenant { accounts, extra: hogs::without_limits(), ..Tenant::acme() });
    let (idle, shown) = (Duration::from_secs(600), Some(images.path().to_owned()));
    let extra = format!(
        "[limits]\nconnections_per_address = 500\n[submission]\nremember_passwords = {:?}\n",
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
    rows.iter().map(|row| Goal::at_most(&format!("p99 beside {}, of alone", row.hog), row.p99_ratio, 1.1)).collect()
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
            let names = if hog == ALL { PROGRAMS.to_vec() } else { vec![hog.as_str()] };
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
        let row = |times: &[Times], of: Span| Row::new(&self.hog, times.iter().map(of).collect());
        let (alone, beside) = (row(&self.alone, |t| t.delivered), row(&self.beside, |t| t.delivered));
        let parts: [(&'static str, Span); 4] = [
            ("connect, TLS, password", |times| times.known),
            ("message to the queue's disk", |times| times.accepted - times.known),
            ("queue to mailbox", |times| times.delivered.saturating_sub(times.accepted)),
            ("both, without the password", |times| times.delivered.saturating_sub(times.known)),
        ];
        let parts = parts
            .into_iter()
            .map(|(name, of)| Part { name, alone: row(&self.alone, of), beside: row(&self.beside, of) })
            .collect();
        Beside {
            hog: self.hog.clone(),
            n: self.beside.len(),
            alone_p50_ms: alone.median_ms,
            alone_p99_ms: alone.p99_ms,
            beside_p50_ms: beside.median_ms,
            beside_p99_ms: beside.p99_ms,
            p50_ratio: beside.median_ms / alone.median_ms,
            p99_ratio: beside.p99_ms / alone.p99_ms,
            parts,
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
            "{:<32} {:>5} {:>18} {:>18} {:>14}",
            "submission to mailbox, ms", "n", "alone p50 / p99", "beside p50 / p99", "p50 / p99"
        );
        for row in &self.rows {
            let pair = |p50: f64, p99: f64| format!("{p50:.1} / {p99:.1}");
            let _ = writeln!(
                text,
                "{:<32} {:>5} {:>18} {:>18} {:>14}",
                row.hog,
                row.n,
                pair(row.alone_p50_ms, row.alone_p99_ms),
                pair(row.beside_p50_ms, row.beside_p99_ms),
                format!("× {:.2} / {:.2}", row.p50_ratio, row.p99_ratio),
            );
            for Part { name, alone, beside } in &row.parts {
                let _ = writeln!(
                    text,
                    "  {:<36} {:>18} {:>18}",
                    name,
                    pair(alone.median_ms, alone.p99_ms),
                    pair(beside.median_ms, beside.p99_ms)
                );
            }
        }
        write_goals(&mut text, &self.goals);
        text
    }
}
