//! What `deploy/quickstart --once` shows, with the programs that were built for the tests.

use std::process::{Command, Stdio};

#[test]
fn quickstart_ends_well_and_shows_what_it_promises() {
    let shown = Command::new(env!("CARGO_BIN_EXE_warren-quickstart"))
        .args(["--once", "--tenants", "20"])
        .stdin(Stdio::null())
        .output()
        .expect("the quickstart runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    let problem = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{}\n{text}\n{problem}", shown.status);
    assert!(!text.contains("NO:") && !text.contains("NOT SERVED"), "{text}");
    for promised in [
        "587",
        "465",
        "a tenant with deferred mail slept and was woken to deliver it",
        "Postfix was spoken to over TLS 1.3",
        "TLSv1.3",
        "20 of 20 served",
        "P50",
    ] {
        assert!(text.contains(promised), "no {promised:?} in\n{text}\n{problem}");
    }
}
