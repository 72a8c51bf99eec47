//! `cold-start`, `density` and `proxy` run to their end, write the rows that their documentation names, and leave nothing in their temporary folder.
//! What they measure here means nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a benchmark with a temporary folder of its own, and gives what it wrote.
fn bench(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    let temporary = tempfile::tempdir().expect("a folder");
    // Containers' users, nobodies to the machine, pass through it.
    std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o711)).expect("it is opened");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren-bench"));
    command.env("TMPDIR", temporary.path());
    let done = command.args(arguments).arg("--json").arg(&json).stdin(Stdio::null()).output().expect("it runs");
    let told = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(done.status.success(), "{arguments:?}: {}\n{told}", done.status);
    let left: Vec<_> = std::fs::read_dir(&temporary).expect("it is there").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{arguments:?} left behind {left:?}");
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

/// One after another: they would measure each other.
#[test]
fn cold_start_density_and_proxy_run_to_their_end() {
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
}
