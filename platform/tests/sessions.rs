//! `warren sessions` over a database that a proxy left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// The session that the crate's own tests record.
#[path = "../../crates/session/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{LONG, hasty, moment, tell};
use warren_session::{Recorder, SessionId};

/// A configuration whose state directory holds these tenants' sessions.
async fn node(tenants: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let sessions = state.join("sessions");
    fs::create_dir_all(&sessions).unwrap();
    let text = format!(
        "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n[paths]\nstate = \"{}\"\n",
        state.display()
    );
    fs::write(directory.path().join("warren.toml"), text).unwrap();
    let (recorder, thread) = Recorder::in_directory(&sessions, hasty(&sessions)).unwrap();
    for (n, tenant) in (0..).zip(tenants) {
        tell(&recorder, SessionId::at(moment(n), 1), tenant);
    }
    recorder.flush().await;
    thread.finish(LONG).await;
    directory
}

fn warren(config: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    let output = command.arg("sessions").args(arguments).arg("--config").arg(config).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Columns are separated by two spaces or more.
fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn lists_shows_and_sums_up() {
    let node = node(&["acme", "acme", "globex"]).await;
    let (listed, told) = warren(node.path(), &[]);
    let lines: Vec<Vec<&str>> = listed.lines().map(columns).collect();
    assert_eq!((lines.len(), told.as_str()), (4, ""), "{listed}");
    assert_eq!(lines[0], ["SESSION", "BEGAN", "TENANT", "TO", "FROM", "TLS", "OUTCOME", "BYTES", "TOOK"]);
    let newest = &lines[1];
    assert_eq!(
        newest[1..],
        [
            "2026-11-21 22:14:56Z",
            "globex",
            "mx1.postfix.example [198.51.100.10]",
            "203.0.113.11",
            "TLSv1.3",
            "delivered",
            "5123",
            "1.0 s"
        ],
        "{listed}"
    );

    let (shown, _) = warren(node.path(), &["show", newest[0]]);
    assert!(shown.contains("250 2.1.5 Ok") && shown.contains("->") && shown.contains("|>"), "{shown}");

    let (of_acme, _) = warren(node.path(), &["--tenant", "acme", "--limit", "1"]);
    assert_eq!(of_acme.lines().map(columns).nth(1).unwrap()[2], "acme");
    assert_eq!(of_acme.lines().count(), 2);

    let (summary, _) = warren(node.path(), &["summary"]);
    let acme: Vec<&str> = columns(summary.lines().nth(1).unwrap());
    assert_eq!(acme[..5], ["acme", "mx1.postfix.example", "TLSv1.3", "delivered", "2"], "{summary}");
}

#[tokio::test]
async fn an_unknown_session_is_told_in_a_line() {
    let node = node(&["acme"]).await;
    assert_eq!(warren(node.path(), &["show", "zzzz"]), (String::new(), "warren: no session zzzz\n".into()));
}
