//! What is told at the end.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

/// One measured way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// How often.
    pub n: usize,
    /// Half of all took no longer.
    pub median_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

/// Where something was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// `release` or `debug`: how the benchmark itself, and so most likely its neighbours, were built.
    pub profile: &'static str,
    /// Kernel.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// Memory.
    pub memory_mib: u64,
    /// Load average of the minute before the end: ours, and whatever else ran.
    pub load: f64,
}

impl Machine {
    /// This one, now.
    pub fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Machine {
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: crate::memory::total_kib() >> 10,
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { profile, kernel, cpus, memory_mib, load } = self;
        write!(f, "Linux {kernel}, {cpus} processors, {memory_mib} MiB, {profile} build, load {load}")
    }
}

/// Something promised, and what was measured.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// What.
    pub name: String,
    /// The bound, with its direction.
    pub bound: String,
    /// What was measured.
    pub measured: f64,
    /// Whether it holds.
    pub holds: bool,
}

impl Goal {
    /// No more than `bound`.
    pub fn at_most(name: &str, measured: f64, bound: f64) -> Self {
        Goal { name: name.to_owned(), bound: format!("<= {bound}"), measured, holds: measured <= bound }
    }

    /// No less than `bound`.
    pub fn at_least(name: &str, measured: f64, bound: f64) -> Self {
        Goal { name: name.to_owned(), bound: format!(">= {bound}"), measured, holds: measured >= bound }
    }
}

/// Goals for people.
pub fn write_goals(text: &mut String, goals: &[Goal]) {
    let _ = writeln!(text, "\n{:<36} {:>12} {:>12}", "goal", "bound", "measured");
    for Goal { name, bound, measured, holds } in goals {
        let _ = writeln!(text, "  {name:<34} {bound:>12} {measured:>12.3}{}", if *holds { "" } else { "  MISSED" });
    }
}

/// Says one JSON value on standard output, as helpers do.
pub fn line(value: &impl Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut text = serde_json::to_string(value).context("write a result")?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("say a result")
}

/// Writes results to a file, if one was named.
pub fn save(results: &impl Serialize, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(results).context("write the results")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// The ways.
    pub rows: Vec<Row>,
    /// What is promised.
    pub goals: Vec<Goal>,
    /// What a wake consists of.
    pub stages: Vec<Stages>,
}

/// The parts of one way.
#[derive(Debug, Serialize)]
pub struct Stages {
    /// Which way.
    pub of: String,
    /// Its parts, in order.
    pub rows: Vec<Row>,
}

impl Row {
    /// Sums up; the times need no order.
    pub fn new(name: &str, mut times: Vec<Duration>) -> Self {
        times.sort();
        Row {
            name: name.to_owned(),
            n: times.len(),
            median_ms: milliseconds(nearest_rank(&times, 50)),
            p99_ms: milliseconds(nearest_rank(&times, 99)),
        }
    }
}

/// The nearest-rank percentile of sorted values: always one that was measured.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        write_rows(&mut text, "request to banner", &self.rows);
        for stages in &self.stages {
            text.push('\n');
            write_rows(&mut text, &format!("stages: {}", stages.of), &stages.rows);
        }
        write_goals(&mut text, &self.goals);
        text
    }

    /// Writes it to a file, if one was named.
    pub fn save(&self, path: Option<&Path>) -> anyhow::Result<()> {
        save(self, path)
    }
}

fn write_rows(text: &mut String, title: &str, rows: &[Row]) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{title:<34} {:>6} {:>12} {:>12}", "n", "median ms", "p99 ms");
    for row in rows {
        let _ = writeln!(text, "  {:<32} {:>6} {:>12.3} {:>12.3}", row.name, row.n, row.median_ms, row.p99_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let row = Row::new("x", (1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((row.n, row.median_ms, row.p99_ms), (200, 100.0, 198.0));
        let one = Row::new("x", vec![Duration::from_micros(1234)]);
        assert_eq!((one.median_ms, one.p99_ms), (1.234, 1.234));
        assert_eq!(Row::new("x", vec![]).n, 0);
    }
}
