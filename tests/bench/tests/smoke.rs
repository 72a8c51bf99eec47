//! Every benchmark runs to its end, writes the rows that its documentation names, and leaves nothing behind. What it measures here means nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a benchmark and gives what it wrote.
fn bench(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren-bench"));
    let done = command.args(arguments).arg("--json").arg(&json).stdin(Stdio::null()).output().expect("it runs");
    let told = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(done.status.success(), "{arguments:?}: {}\n{told}", done.status);
    serde_json::from_slice(&std::fs::read(json).expect("the result is written")).expect("the result is JSON")
}

fn rows<'a>(result: &'a Value, list: &str) -> &'a [Value] {
    let rows = result[list].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!rows.is_empty(), "no {list} in {result}");
    rows
}

fn has(row: &Value, numbers: &[&str]) {
    for name in numbers {
        assert!(row[name].is_number(), "no {name} in {row}");
    }
}

/// Network namespaces that benchmarks name, and their folders.
fn remains() -> Vec<String> {
    let names = |folder: &str, prefix: &str| -> Vec<String> {
        let entries = std::fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with(prefix)).collect()
    };
    [names("/run", "wb"), names("/run/netns", "wb"), names("/tmp", "wb")].concat()
}

/// One after another: they would measure each other.
#[test]
fn every_benchmark_runs_to_its_end() {
    let before = remains();

    let result = bench(&["cold-start", "--n", "2"]);
    let names: Vec<&str> = rows(&result, "rows").iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["slot", "no-slot", "crun", "runc"]);
    rows(&result, "rows").iter().for_each(|row| has(row, &["n", "median_ms", "p99_ms"]));

    let result = bench(&["density", "--tenants", "5"]);
    rows(&result, "rows").iter().for_each(|row| has(row, &["tenants", "mib_each", "start_median_ms"]));

    let result = bench(&["proxy", "--quick"]);
    for row in rows(&result, "rows") {
        has(row, &["bytes", "connections", "mails_per_session", "mails_per_s", "cpu_us_per_mail"]);
        assert!(row["mails_per_s"].as_f64() > Some(0.0), "no mail passed: {row}");
    }
    rows(&result, "idle").iter().for_each(|row| has(row, &["kib_each"]));

    assert_eq!(remains(), before, "left behind");
}
