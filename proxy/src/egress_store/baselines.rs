//! What is usual at operators as rows, and back: one for each of our addresses at each operator.
//!
//! The kind of the rows carries their version, so that a proxy of another one passes them over. What is not understood is counted, left out, and
//! gone with the next save: it is learned anew.

use warren_session::detect::{Baseline, MOST_BASELINES};

use super::rows::Rows;

/// The kind of rows of this version.
pub const KIND: &str = "baselines.1";
/// The kind of rows of any version.
const ANY: &str = "baselines.";

/// Whether a row is one of these, of whatever version.
pub fn is_row(key: &(String, String)) -> bool {
    key.0.starts_with(ANY)
}

/// The rows of what is usual.
pub fn rows(baselines: &[Baseline]) -> Rows {
    let row = |baseline: &Baseline| {
        let name = format!("{} {}", baseline.operator, baseline.egress);
        // It is a struct of plain values.
        Some(((KIND.to_owned(), name), serde_json::to_string(baseline).ok()?))
    };
    baselines.iter().filter_map(row).collect()
}

/// What these rows say, and how many of them are not understood.
pub fn read(rows: &Rows) -> (Vec<Baseline>, usize) {
    let read = |((kind, _), json): (&(String, String), &String)| {
        if kind == KIND { serde_json::from_str(json).ok() } else { None }
    };
    let mut baselines: Vec<Baseline> = rows.iter().filter_map(read).collect();
    let senseless = rows.len() - baselines.len();
    // Nobody but us writes there, and yet a file is a file.
    baselines.truncate(MOST_BASELINES);
    (baselines, senseless)
}
