//! Bad input: each ends in a precise reply or a line that says what to do, and nothing else breaks.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::process::{Command, Stdio};

use warren_lab::{Lab, LabConfig, find_program};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup, Tenant};

#[test]
fn strangers_and_mistakes_get_precise_replies() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let extra = "[limits]\nmessage_size = \"64K\"\n".to_owned();
    let node = Node::start(&lab, &Setup { extra, ..Setup::default() });
    let alice = "alice@acme.example";
    let letter = note(alice, "x");
    let to = ["bob@plain.example"];

    // Who you are not: unknown tenant, unknown account and wrong password are told apart by nobody.
    let refusals = [
        node.submit_as("eve@nowhere.example", "x", "eve@nowhere.example", &to, 587, &letter),
        node.submit_as("eve@acme.example", "x", alice, &to, 587, &letter),
        node.submit_as(alice, "x", alice, &to, 465, &letter),
        node.submit_as("../acme", "x", alice, &to, 465, &letter),
    ];
    for refusal in &refusals {
        assert!(
            !refusal.accepted && refusal.text.contains("535") && refusal.text.contains("5.7.8"),
            "{}",
            refusal.text
        );
    }
    // What you may not say.
    for from in ["carol@globex.example", "bob@acme.example", "alice@acme.example.evil.example"] {
        let foreign = node.submit(alice, from, &to, 587, &letter);
        assert!(
            !foreign.accepted && foreign.text.contains("550") && foreign.text.contains("5.7.1"),
            "{from}: {}",
            foreign.text
        );
    }
    let foreign = node.submit(alice, alice, &to, 587, &note("carol@globex.example", "forged author"));
    assert!(!foreign.accepted && foreign.text.contains("5.7.1"), "{}", foreign.text);
    let large =
        node.submit(alice, alice, &to, 587, &[note(alice, "large"), vec![b'x'; 900], b"\r\n".repeat(40_000)].concat());
    assert!(!large.accepted && large.text.contains("552") && large.text.contains("5.3.4"), "{}", large.text);

    // In the clear there is no AUTH, and no mail.
    let replies = node
        .talk(587, |smtp| {
            let ehlo = smtp.say("EHLO client.example")?;
            Ok([ehlo, smtp.say("AUTH PLAIN AGFsaWNlAHg=")?, smtp.say("MAIL FROM:<alice@acme.example>")?])
        })
        .unwrap();
    assert!(replies[0].contains("STARTTLS") && !replies[0].contains("AUTH"), "{}", replies[0]);
    assert!(replies[1].starts_with('5') && replies[2].starts_with("530"), "{replies:?}");

    // Port 25 takes mail for forwards only.
    let refused = |to: &str| {
        node.talk(25, |smtp| {
            smtp.say("EHLO client.example")?;
            smtp.say("MAIL FROM:<x@elsewhere.example>")?;
            smtp.say(&format!("RCPT TO:<{to}>"))
        })
        .unwrap()
    };
    for unknown in ["nobody@acme.example", "alice@acme.example"] {
        assert!(refused(unknown).starts_with("550 5.1.1"), "{unknown}: {}", refused(unknown));
    }
    for relay in [
        "bob@postfix.example",
        "bob%postfix.example@acme.example",
        "\"bob@postfix.example\"@acme.example",
        "postfix.example!bob@acme.example",
    ] {
        assert!(refused(relay).starts_with("55"), "{relay}: {}", refused(relay));
    }
    assert!(refused("SRS0=aaaa=bb=elsewhere.example=x@acme.example").starts_with("55"), "forged SRS");
    // Recipients of two tenants come in two transactions.
    let replies = node.inject("x@elsewhere.example", &["info@acme.example", "sales@globex.example"], &letter).unwrap();
    assert!(replies[1].starts_with("250") && replies[2].starts_with("452 4.5.3"), "{replies:?}");

    // All the same, good mail passes.
    let sent = node.submit(alice, alice, &to, 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    lab.mailbox("plain.example", "bob").wait_for(|_| true, std::time::Duration::from_secs(60)).unwrap();
    node.stop();
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup::default());
    let file = node.config_dir().join("tenants/acme.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("domains =", "domain =")).unwrap();
    let check = node.warren(&["check"]);
    let said = [check.stdout, check.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(!check.status.success() && said.contains("acme.toml:1:"), "{said}");
    // A reload says so, and the node goes on as it was.
    let up = rustix::process::Pid::from_raw(node.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(up, rustix::process::Signal::HUP).unwrap();
    node.wait_for_log("acme.toml:1:");
    let sent = node.submit(
        "alice@acme.example",
        "alice@acme.example",
        &["bob@plain.example"],
        587,
        &note("alice@acme.example", "still here"),
    );
    assert!(sent.accepted, "{}", sent.text);
    // A good one is taken up: a tenant that was not there a moment ago.
    std::fs::write(&file, good).unwrap();
    let initech = Tenant::new("initech", "peter").toml(warren_scenarios::setup::password_hash());
    std::fs::write(node.config_dir().join("tenants/initech.toml"), initech).unwrap();
    rustix::process::kill_process(up, rustix::process::Signal::HUP).unwrap();
    node.wait_until("the new tenant", || {
        let peter = "peter@initech.example";
        node.submit(peter, peter, &["bob@plain.example"], 587, &note(peter, "new here")).accepted.then_some(())
    });
    node.stop();
}

#[test]
fn a_machine_that_will_not_do_is_told_in_one_line() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    // No image.
    let empty = tempfile::tempdir().unwrap();
    let mut node = Node::start_unready(&lab, &Setup { images: Some(empty.path().to_owned()), ..Setup::default() });
    assert!(!node.wait_for_end().success());
    let log = node.whole_log();
    assert!(log.contains("msa-image/build"), "{log}");
    assert_eq!(node.leftovers(), "", "one that does not come up leaves nothing");
    drop(node);

    // A port in use.
    let first = Node::start(&lab, &Setup::default());
    let mut second = Node::start_unready(&lab, &Setup::default());
    assert!(!second.wait_for_end().success());
    let log = second.whole_log();
    assert!([":587", ":25", ":465"].iter().any(|port| log.contains(port)), "{log}");
    assert!(log.contains("in use"), "{log}");

    // Not root, no cgroups.
    let warren = find_program("warren").unwrap();
    let config = second.config_dir();
    let said = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Programs may lie where only root may go: a copy does not.
    let reachable =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let copy = reachable.path().join("warren");
    std::fs::copy(&warren, &copy).unwrap();
    let mut as_nobody = Command::new("setpriv");
    as_nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .arg("up")
        .arg("--config")
        .arg(&config);
    let text = said(&mut as_nobody);
    assert!(text.contains("root"), "{text}");
    let mut without = lab.command_in_node("unshare");
    let script = "umount -R /sys/fs/cgroup && exec \"$0\" up --config \"$1\"";
    without.args(["--mount", "sh", "-c", script]).arg(&warren).arg(&config);
    let text = said(&mut without);
    assert!(text.contains("cgroup"), "{text}");
    assert_eq!(second.leftovers(), "");
    drop(second);
    first.stop();
}
