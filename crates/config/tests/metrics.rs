//! `[metrics]`: off by default, and never to be reached from elsewhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use warren_config::{Node, Problems};

const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";

fn load(lines: &str) -> Result<Node, Problems> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("warren.toml"), format!("{NODE}{lines}")).unwrap();
    Node::load(directory.path())
}

#[test]
fn scrapers_are_answered_on_loopback_only() {
    let silent = load("").unwrap();
    assert_eq!(silent.metrics.listen, None);
    for address in ["127.0.0.1:9587", "[::1]:9587", "127.8.9.10:80", "[::ffff:127.0.0.1]:9587"] {
        let node = load(&format!("[metrics]\nlisten = \"{address}\"\n")).unwrap();
        assert_eq!(node.metrics.listen, Some(address.parse().unwrap()));
        assert_eq!(silent.needs_restart(&node), ["[metrics]"]);
    }
    for address in ["0.0.0.0:9587", "[::]:9587", "203.0.113.10:9587"] {
        let problems = load(&format!("[metrics]\nlisten = \"{address}\"\n")).unwrap_err().to_string();
        let told = format!("warren.toml:5:10: \"{address}\" can be reached from elsewhere");
        assert!(problems.contains(&told), "{problems}");
    }
}
