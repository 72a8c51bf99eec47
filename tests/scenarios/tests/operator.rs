//! What operators do to a node: stop it, start it twice, reload it a hundred times, break its files.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use warren_lab::{Lab, LabConfig};
use warren_scenarios::{Node, Setup};

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn an_ordinary_life_of_a_node_raises_no_alarm() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut node = Node::start(&lab, &Setup::default());
    node.ask(&["tenant", "wake", "acme"]);

    let again = node.warren(&["up"]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && told.contains("this node is up already"), "{told}");

    // A storm of reloads ends in a node that reloads.
    for _ in 0..100 {
        signal(node.pid(), rustix::process::Signal::HUP);
    }
    let broken = node.config_dir().join("tenants/half.toml");
    std::fs::write(&broken, "domains = [").unwrap();
    signal(node.pid(), rustix::process::Signal::HUP);
    node.wait_for_log("the old one stays in force");
    let problem = node.wait_for_log("half.toml:1:");
    assert!(!problem.contains("WARN"), "{problem}");
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(node.pids("warren-platform").len(), 1);

    let log = node.log();
    signal(node.pid(), rustix::process::Signal::TERM);
    assert!(node.wait_for_end().success());
    let whole = node.whole_log();
    let alarms: Vec<&str> = whole
        .lines()
        .skip(log.lines().count())
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
        .collect();
    assert!(alarms.is_empty(), "an ordinary stop is quiet:\n{}", alarms.join("\n"));
    assert_eq!(node.leftovers(), "");
}
