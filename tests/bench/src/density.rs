//! Density: how much memory a tenant takes that is awake, and whether thousands of them slow the next one down.
//!
//! ```text
//! warren-bench (as platform: pidfd, control channel) ─▶ warren-launcher ─▶ containers, each with its cell
//!                          warren-proxy, warren-resolver: the doors ◀┘
//! ```
//!
//! Memory is what the machine has less than before (`MemAvailable`), so that page tables, network namespaces, control groups, sockets and
//! the daemons' own growth are all in it; other programs' own memory is followed and taken out.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use warren_launcher_api::Role;

use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::launcher::Launcher;
use crate::memory;
use crate::msa;
use crate::place::Place;
use crate::report::{Goal, Machine, Row, save, write_goals};

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// At how many tenants awake to measure, ascending
    #[arg(long, num_args = 1.., default_values_t = [100, 1000, 2500, 5000], value_parser = clap::value_parser!(u32).range(1..=60_000))]
    tenants: Vec<u32>,
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of images, with `msa` in it [default: `images` beside this program]
    #[arg(long, value_name = "DIR", env = "WARREN_IMAGES")]
    images: Option<PathBuf>,
}

/// Starts that are timed before each count is measured: the last so many, from a full pool.
const TIMED: u32 = 100;
/// The kernel gives some memory back a moment after it was freed.
const REST: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Count {
    tenants: u32,
    mib_each: f64,
    start_median_ms: f64,
    start_p99_ms: f64,
}

/// A process that holds something for every tenant.
#[derive(Debug, Serialize)]
struct Holder {
    name: String,
    mib: f64,
    descriptors: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: Vec<Count>,
    holders: Vec<Holder>,
    goals: Vec<Goal>,
}

/// Measures and tells.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    ensure!(options.tenants.is_sorted(), "--tenants must ascend");
    let place = Place::new(options.images.as_ref())?.with_image()?;
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }).context("raise the limit of open files")?;
    let mut node = Node::start(&place)?;
    let before = node.taken()?;
    let mut rows = Vec::new();
    let mut awake = 0;
    for count in &options.tenants {
        let row = node.fill(awake, *count, before, interrupt)?;
        eprintln!("{:>6} tenants: {:.3} MiB each, start {:.3} ms", row.tenants, row.mib_each, row.start_median_ms);
        rows.push(row);
        awake = *count;
    }
    let report = Report { machine: Machine::this(), goals: goals(&rows), holders: node.holders(), rows };
    print!("{}", report.table());
    save(&report, options.json.as_deref())?;
    eprintln!("ending {awake} containers");
    Ok(())
}

fn goals(rows: &[Count]) -> Vec<Goal> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Vec::new() };
    vec![
        Goal::at_most(&format!("MiB each at {}", last.tenants), last.mib_each, 1.5),
        Goal::at_most("start, against the first", last.start_median_ms / first.start_median_ms, 2.0),
    ]
}

/// Everything that runs. The launcher goes first: it ends the containers.
struct Node {
    launcher: Launcher,
    holders: Vec<(&'static str, Daemon)>,
}

impl Node {
    fn start(place: &Place) -> anyhow::Result<Self> {
        let config = place.state().join("etc");
        std::fs::create_dir_all(&config).context("make the configuration")?;
        let path = |path: &std::path::Path| path.display().to_string();
        let text = format!(
            "hostname = \"mail.bench.example\"\n[egress]\naddresses = [\"203.0.113.10\"]\n[resolver]\nnameservers = [\"127.0.0.1\"]\n\
             [paths]\nstate = {:?}\nrun = {:?}\nimages = {:?}\n",
            path(&place.state().join("dense")),
            path(&place.run().join("dense")),
            path(place.images()),
        );
        std::fs::write(config.join("warren.toml"), text).context("write the configuration")?;
        let mut launcher = Launcher::start(place, "dense", 4)?;
        let mut holders = Vec::new();
        for name in ["warren-proxy", "warren-resolver"] {
            let mut command = Command::new(place.program(name)?);
            let log = place.state().join(format!("{name}.log"));
            holders.push((name, Daemon::start(command.arg("--config").arg(&config), &log)?));
        }
        let both = [Role::Proxy, Role::Resolver];
        if let Err(error) =
            launcher.wait("door holders", |status| both.iter().all(|role| status.holders.contains(role)))
        {
            for (name, holder) in &mut holders {
                holder.check().with_context(|| (*name).to_owned())?;
            }
            return Err(error);
        }
        launcher.settle()?;
        Ok(Node { launcher, holders })
    }

    /// Memory that is taken, and containers that take it, in KiB.
    fn taken(&mut self) -> anyhow::Result<(i64, i64)> {
        std::thread::park_timeout(REST);
        let slots = self.launcher.status()?.slots_ready;
        let foreign = memory::foreign_kib(&self.processes());
        let taken = memory::total_kib() as i64 - memory::available_kib() as i64 - foreign as i64;
        Ok((taken, slots as i64))
    }

    fn fill(&mut self, awake: u32, count: u32, before: (i64, i64), interrupt: &Interrupt) -> anyhow::Result<Count> {
        let mut times = Vec::new();
        for number in awake..count {
            interrupt.check()?;
            let timed = count - number <= TIMED;
            if timed {
                self.launcher.settle()?;
            } else {
                self.launcher.wait("slot", |status| status.slots_ready > 0)?;
            }
            let tenant = msa::tenant(&format!("t{number}"))?;
            let first = self.launcher.wake(&tenant)?;
            if timed {
                // The first wake of its life also makes the volume. What is timed is that of a tenant that slept.
                self.launcher.stop(first.cell)?;
                self.launcher.settle()?;
                times.push(self.launcher.wake(&tenant)?.total);
            }
        }
        self.launcher.settle()?;
        let (taken, slots) = self.taken()?;
        // A slot more than before is a container like the others.
        let containers = i64::from(count) + slots - before.1;
        let start = Row::new("start", times);
        Ok(Count {
            tenants: count,
            mib_each: ((taken - before.0) as f64 / 1024.0 / containers as f64 * 1e3).round() / 1e3,
            start_median_ms: start.median_ms,
            start_p99_ms: start.p99_ms,
        })
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![std::process::id(), self.launcher.pid()];
        all.extend(memory::children(self.launcher.pid()));
        all.extend(self.holders.iter().map(|(_, daemon)| daemon.pid()));
        all
    }

    fn holders(&self) -> Vec<Holder> {
        let holder = |name: &str, pid| Holder {
            name: name.to_owned(),
            mib: (memory::proportional_kib(pid) as f64 / 1.024).round() / 1e3,
            descriptors: memory::descriptors(pid),
        };
        let mut all = vec![holder("this program, as platform", std::process::id())];
        all.push(holder("warren-launcher", self.launcher.pid()));
        all.extend(memory::children(self.launcher.pid()).into_iter().map(|pid| holder("its helper", pid)));
        all.extend(self.holders.iter().map(|(name, daemon)| holder(name, daemon.pid())));
        all
    }
}

impl Report {
    fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{}\n\n", self.machine);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:>8} {:>10} {:>16} {:>14}", "tenants", "MiB each", "start median ms", "start p99 ms");
        for Count { tenants, mib_each, start_median_ms, start_p99_ms } in &self.rows {
            let _ = writeln!(text, "{tenants:>8} {mib_each:>10.3} {start_median_ms:>16.3} {start_p99_ms:>14.3}");
        }
        let _ = writeln!(text, "\n{:<34} {:>10} {:>12}", "at the last count", "MiB", "descriptors");
        for Holder { name, mib, descriptors } in &self.holders {
            let _ = writeln!(text, "  {name:<32} {mib:>10.1} {descriptors:>12}");
        }
        write_goals(&mut text, &self.goals);
        text
    }
}
