//! Mails a second, and what each costs the path.

use std::fs::File;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::{FcntlArg, fcntl};
use serde::Serialize;

use super::net::MX;
use super::paths::{Paths, Way};
use super::sender::Counted;
use super::sink::TLS_MX;
use super::{Helper, Options};
use crate::interrupt::Interrupt;
use crate::report::Goal;

/// Nobody works any more when so little was used for so long.
const REST: Duration = Duration::from_millis(150);
const REST_CPU: Duration = Duration::from_millis(10);
/// Behind a run: records are written. More is told as missing.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    bytes: usize,
    connections: usize,
    mails: u32,
    tls: bool,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no shape, expected bytes:connections:mails such as 10240:100:1, or that with :tls");
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong);
        let (bytes, connections, mails) = (number()?, number()?, number()?);
        let tls = match parts.next() {
            None => false,
            Some("tls") => true,
            Some(_) => return Err(wrong()),
        };
        Ok(Shape { bytes, connections, mails: u32::try_from(mails).map_err(|_| wrong())?, tls })
    }
}

/// What is measured, and how.
pub struct Plan {
    shapes: Vec<Shape>,
    ways: Vec<Way>,
    /// They were asked for by name.
    named: bool,
    runs: usize,
    warm_up: u64,
    millis: u64,
}

const KIB: usize = 1024;
/// Comparisons with other programs, with recording off, with a stalled database and with a relay are made at these.
const RECORDED: [(usize, u32); 2] = [(100, 1), (100, 50)];

impl Plan {
    pub(super) fn new(options: &Options, wanted: impl Fn(&Way) -> bool) -> Self {
        let shape = |bytes, connections, mails, tls| Shape { bytes, connections, mails, tls };
        let mut shapes = options.shapes.clone();
        if shapes.is_empty() && options.quick {
            shapes =
                vec![shape(10 * KIB, 100, 1, false), shape(10 * KIB, 100, 50, false), shape(10 * KIB, 100, 1, true)];
        }
        if shapes.is_empty() {
            for connections in [10, 100, 1_000] {
                shapes.extend([1, 50].map(|mails| shape(10 * KIB, connections, mails, false)));
            }
            shapes.extend([100 * KIB, 1024 * KIB].map(|bytes| shape(bytes, 100, 1, false)));
            shapes.extend([1, 50].map(|mails| shape(10 * KIB, 100, mails, true)));
            shapes.push(shape(1024 * KIB, 100, 1, true));
        }
        use Way::{Dialling, Direct, Haproxy, Nginx, Postfix, Stalled, Unrecorded, Warren};
        let ways = [Direct, Haproxy, Nginx, Warren, Dialling, Unrecorded, Stalled, Postfix];
        let ways = ways.into_iter().filter(wanted).collect();
        let (runs, warm_up, millis) = if options.quick { (1, 100, 300) } else { (options.runs, 300, options.millis) };
        Plan { shapes, ways, named: !options.ways.is_empty(), runs, warm_up, millis }
    }

    fn has(&self, way: Way, shape: &Shape) -> bool {
        let compared = shape.bytes == 10 * KIB && !shape.tls && RECORDED.contains(&(shape.connections, shape.mails));
        match way {
            Way::Unrecorded | Way::Stalled | Way::Postfix => compared || self.named,
            // Where there are more mails it makes no difference.
            Way::Dialling => shape.mails == 1 && shape.bytes == 10 * KIB,
            _ => true,
        }
    }
}

/// One way at one shape: medians of all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub(super) path: &'static str,
    pub(super) tls: bool,
    pub(super) bytes: usize,
    pub(super) connections: usize,
    pub(super) mails_per_session: u32,
    pub(super) mails_per_s: f64,
    /// The slowest and the fastest run.
    pub(super) lowest: f64,
    pub(super) highest: f64,
    /// Of the path's processes, while mails pass.
    pub(super) cpu_us_per_mail: f64,
    /// Of the path's processes, afterwards: records on their way into the database.
    pub(super) later_us_per_mail: f64,
    /// Every run, in order: run N of one way was beside run N of the others.
    pub(super) runs: Vec<f64>,
    /// Sessions that broke off, of all runs.
    pub(super) errors: u64,
    #[serde(skip)]
    way: Way,
    #[serde(skip)]
    shape: Shape,
}

struct Sample {
    mails_per_s: f64,
    cpu_us: f64,
    later_us: f64,
    errors: u64,
}

/// Measures all of it.
pub(super) fn measure(
    paths: &Paths,
    sink: &mut Helper,
    plan: &Plan,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for shape in &plan.shapes {
        let ways: Vec<Way> = plan.ways.iter().copied().filter(|way| plan.has(*way, shape)).collect();
        let mut samples: Vec<Vec<Sample>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..plan.runs {
            for (way, samples) in ways.iter().zip(&mut samples) {
                interrupt.check()?;
                samples.push(one(paths, sink, plan, *way, shape).with_context(|| format!("{way}, {shape:?}"))?);
            }
        }
        for (way, samples) in ways.iter().zip(&samples) {
            let row = row(*way, *shape, samples);
            eprintln!(
                "{:<18} {:>4} {:>8} {:>5} {:>3} {:>9.0} mails/s {:>7.1} us, later {:.1}",
                row.path,
                if row.tls { "tls" } else { "" },
                row.bytes,
                row.connections,
                row.mails_per_session,
                row.mails_per_s,
                row.cpu_us_per_mail,
                row.later_us_per_mail
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn one(paths: &Paths, sink: &mut Helper, plan: &Plan, way: Way, shape: &Shape) -> anyhow::Result<Sample> {
    let mx = if shape.tls { TLS_MX } else { MX };
    let mut arguments = vec!["proxy-sender".to_owned()];
    for (name, value) in [
        ("to", Paths::destination(way, mx).to_string()),
        ("connections", shape.connections.to_string()),
        ("mails", shape.mails.to_string()),
        ("bytes", shape.bytes.to_string()),
        ("warm-up", plan.warm_up.to_string()),
        ("measure", plan.millis.to_string()),
    ] {
        arguments.extend([format!("--{name}"), value]);
    }
    if shape.tls && !way.secures() {
        arguments.push("--tls".to_owned());
    }
    let _lock = if way == Way::Stalled { paths.database(way).map(lock_out).transpose()? } else { None };
    let mut sender = Helper::start(paths.senders(way), &arguments)?;
    sender.hear::<String>().context("the sender")?;
    let (cpu, taken, began) = (paths.cpu(way), sink.ask::<u64>()?, Instant::now());
    let counted: Counted = sender.hear().context("the sender")?;
    let (worked, taken, took) = (paths.cpu(way) - cpu, sink.ask::<u64>()? - taken, began.elapsed());
    // A relay's answer is no delivery: what counts there is what came out.
    let (mails, seconds) =
        if way == Way::Postfix { (taken, took.as_secs_f64()) } else { (counted.mails, counted.seconds) };
    let during = paths.cpu(way);
    rest(paths, way);
    let later = paths.cpu(way).saturating_sub(during);
    // Processor time is counted until the last session ended, so are its mails.
    let per_mail = |time: Duration, mails: u64| time.as_secs_f64() * 1e6 / (mails.max(1) as f64);
    Ok(Sample {
        mails_per_s: mails as f64 / seconds,
        cpu_us: per_mail(worked, taken),
        later_us: per_mail(later, taken),
        errors: counted.errors,
    })
}

/// Waits until the way does nothing any more.
fn rest(paths: &Paths, way: Way) {
    let end = Instant::now() + LONGEST_REST;
    loop {
        let before = paths.cpu(way);
        std::thread::sleep(REST);
        if paths.cpu(way).saturating_sub(before) <= REST_CPU || Instant::now() > end {
            return;
        }
    }
}

/// Takes SQLite's write lock, as a process that hangs in a transaction has it; until dropped.
fn lock_out(database: &std::path::Path) -> anyhow::Result<File> {
    /// WAL_WRITE_LOCK in the shared-memory file (<https://sqlite.org/walformat.html>, 2.3.1).
    const WRITE_LOCK: i64 = 120;
    let mut name = database.as_os_str().to_owned();
    name.push("-shm");
    let file = File::options().read(true).write(true).open(&name).context("open the database's locks")?;
    let lock = libc_lock(WRITE_LOCK);
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = fcntl(&file, FcntlArg::F_SETLK(&lock)) {
        anyhow::ensure!(Instant::now() < end, "lock the database: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(file)
}

fn libc_lock(at: i64) -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

fn row(way: Way, shape: Shape, samples: &[Sample]) -> Row {
    let all = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let runs = all(|sample| sample.mails_per_s);
    Row {
        path: way.name(),
        tls: shape.tls,
        bytes: shape.bytes,
        connections: shape.connections,
        mails_per_session: shape.mails,
        mails_per_s: median(&runs),
        lowest: runs.iter().copied().fold(f64::INFINITY, f64::min),
        highest: runs.iter().copied().fold(0.0, f64::max),
        cpu_us_per_mail: median(&all(|sample| sample.cpu_us)),
        later_us_per_mail: median(&all(|sample| sample.later_us)),
        runs,
        errors: samples.iter().map(|sample| sample.errors).sum(),
        way,
        shape,
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn find(rows: &[Row], shape: Shape, way: Way) -> Option<&Row> {
    rows.iter().find(|row| row.shape == shape && row.way == way)
}

/// The median of this row's runs, each against the run of `way` beside it.
pub(super) fn ratio(rows: &[Row], row: &Row, way: Way) -> Option<f64> {
    let other = find(rows, row.shape, way)?;
    let ratios: Vec<f64> = row.runs.iter().zip(&other.runs).map(|(own, other)| own / other).collect();
    Some(median(&ratios))
}

pub(super) fn goals(rows: &[Row]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for row in rows.iter().filter(|row| row.way == Way::Warren) {
        let Shape { bytes, connections, mails, tls } = row.shape;
        let name = format!("{} KiB, {connections} x {mails}{}", bytes / KIB, if tls { ", TLS" } else { "" });
        let of = |way| ratio(rows, row, way);
        let mut at_least = |what: &str, measured: Option<f64>, bound| {
            goals.extend(measured.map(|measured| Goal::at_least(&format!("{name}: {what}"), measured, bound)));
        };
        match (tls, bytes / KIB, mails) {
            (false, 10, _) => {
                at_least("mails/s of HAProxy's", of(Way::Haproxy), 0.95);
                let cpu = find(rows, row.shape, Way::Haproxy).map(|other| other.cpu_us_per_mail / row.cpu_us_per_mail);
                at_least("mails per CPU second of HAProxy's", cpu, 0.95);
                at_least("of unrecorded", of(Way::Unrecorded), 0.95);
                let stalled = find(rows, row.shape, Way::Stalled).and_then(|stalled| ratio(rows, stalled, Way::Warren));
                at_least("database stalled", stalled, 0.95);
            }
            (false, 100, _) => at_least("of direct", of(Way::Direct), 0.55),
            (false, ..) => at_least("of direct", of(Way::Direct), 0.60),
            (true, 10, 1) => at_least("of direct", of(Way::Direct), 0.75),
            (true, 10, _) => at_least("of direct", of(Way::Direct), 0.45),
            (true, ..) => at_least("of direct", of(Way::Direct), 0.70),
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        let shape = Shape { bytes: 10_240, connections: 100, mails: 50, tls: true };
        assert_eq!("10240:100:50:tls".parse(), Ok(shape));
        assert!("10240:100".parse::<Shape>().is_err() && "10240:100:1:ssl".parse::<Shape>().is_err());
    }

    #[test]
    fn runs_are_compared_with_their_neighbours() {
        let shape = Shape { bytes: 10_240, connections: 100, mails: 1, tls: false };
        let sample = |mails_per_s| Sample { mails_per_s, cpu_us: 1.0, later_us: 0.0, errors: 0 };
        // The machine was slow in the second run: for both.
        let rows = [
            row(Way::Direct, shape, &[sample(100.0), sample(10.0), sample(120.0)]),
            row(Way::Warren, shape, &[sample(50.0), sample(5.0), sample(60.0)]),
        ];
        assert_eq!(ratio(&rows, &rows[1], Way::Direct), Some(0.5));
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), 2.5);
    }
}
