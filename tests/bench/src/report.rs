//! What is told at the end.

use std::fmt::Write;
use std::time::Duration;

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

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `release` or `debug`: how the benchmark itself, and so most likely its neighbours, were built.
    pub profile: &'static str,
    /// Kernel.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// The ways.
    pub rows: Vec<Row>,
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
        let mut text = format!("Linux {}, {} processors, {} build\n\n", self.kernel, self.cpus, self.profile);
        write_rows(&mut text, "request to banner", &self.rows);
        for stages in &self.stages {
            text.push('\n');
            write_rows(&mut text, &format!("stages: {}", stages.of), &stages.rows);
        }
        text
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
