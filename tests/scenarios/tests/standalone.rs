//! The proxy beside an MTA that is there already, set up by the commands of `proxy/README.md`, which are read from there and run as they
//! stand: a real Postfix sends through it and does not know.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use warren_lab::config::MtaKind;
use warren_lab::signed::Signing;
use warren_lab::{Lab, LabConfig, Record, RecordData, Tls, find_program};
use warren_scenarios::beside::{Beside, Redirecting, ip, listening, nft, resolving};
use warren_scenarios::mta::Mta;
use warren_scenarios::readme;
use warren_scenarios::signed::{NO_KEY, World, host, mail};

const LONG: Duration = Duration::from_secs(90);
/// One of Exim's addresses, for this scenario. Those of the lab are for documentation, and what the README sets up dials none of these. Only the
/// lab's hosts know the way to it, and nobody there knows one to its owner.
const ABROAD: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// Where the sources lie, as far as the first command can tell.
const SOURCES: &str = "tmp/warren";
/// Builds nothing: the programs are built, or these tests would not run. It puts them where `cargo` would.
const CARGO: &str = r#"#!/bin/sh
set -e
[ "$1 $2" = "build --release" ]
shift 2
mkdir -p target/release
while [ "$1" = --bin ]; do ln -s "$PROGRAMS/$2" target/release/; shift 2; done
[ $# = 0 ]
"#;

/// Waits for Exim's dave to get it.
fn arrives(lab: &Lab, postfix: &Mta<'_>, subject: &str) {
    let dave = lab.mailbox("exim.example", "dave");
    let got = dave.wait_for(|message| message.header("Subject").as_deref() == Some(subject), LONG);
    got.unwrap_or_else(|e| panic!("{e}\n{}", postfix.log()));
}

/// A machine that has Postfix and none of ours.
fn furnish(postfix: &Mta<'_>) {
    // The user that this machine has for other tests is on that host, too, whose root lies on top of this one's.
    assert!(postfix.command("userdel").arg("warren-proxy").status().unwrap().success());
    let state = postfix.root().join("var/lib/warren");
    assert!(!state.exists(), "this machine has a node of its own, whose state the commands would come upon");
    let sources = postfix.root().join(SOURCES);
    std::fs::create_dir_all(sources.join("bin")).unwrap();
    std::fs::write(sources.join("bin/cargo"), CARGO).unwrap();
    std::fs::set_permissions(sources.join("bin/cargo"), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Has Exim at an address that the README's proxy dials.
fn abroad(lab: &Lab, postfix: &Mta<'_>) {
    ip(&lab.namespace("exim").unwrap(), &format!("addr add {ABROAD}/32 dev lo"));
    ip(&postfix.namespace(), &format!("route add {ABROAD} via {}", MtaKind::Exim.address()));
}

/// A command of the README. What it says are placeholders is filled in, nothing else.
fn command(postfix: &Mta<'_>, text: &str) -> Command {
    let own = MtaKind::Postfix.address().to_string();
    let text = text.replace("203.0.113.10", &own).replace("mail.example.net", "mx1.postfix.example");
    let programs = find_program("warren-proxy").unwrap().parent().unwrap().display().to_string();
    let path = format!("PATH=/{SOURCES}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut command = postfix.command("env");
    command.args(["-i", "-C", &format!("/{SOURCES}"), &path, &format!("PROGRAMS={programs}"), "sh", "-ec", &text]);
    command
}

/// Runs a command of the README to its end.
fn run(postfix: &Mta<'_>, text: &str) -> String {
    let Output { status, stdout, stderr } = command(postfix, text).output().unwrap();
    let said = [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(status.success(), "{text}\n{said}");
    said
}

/// A command of the README that goes on; it ends with its test.
struct Running(Child);

impl Running {
    fn start(postfix: &Mta<'_>, text: &str, log: &std::fs::File) -> Self {
        let mut command = command(postfix, text);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().unwrap());
        Running(command.spawn().unwrap())
    }

    /// Waits until it is.
    fn is_ready(&mut self, ready: impl Fn() -> bool, log: impl Fn() -> String) {
        let end = Instant::now() + LONG;
        while !ready() {
            assert!(Instant::now() < end && self.0.try_wait().unwrap().is_none(), "it is not ready:\n{}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its group, which is its own: a shell may stand between.
        let _ = kill_process_group(pid(self.0.id()), Signal::KILL);
        let _ = self.0.wait();
    }
}

fn pid(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a pid")
}

#[test]
fn postfix_sends_through_what_five_commands_set_up_and_does_not_know() {
    let mut config = LabConfig { mtas: vec![MtaKind::Postfix, MtaKind::Exim], ..LabConfig::default() };
    // Before Exim's other name.
    config.records.push(Record::new("exim.example", RecordData::Mx(5, "mx0.exim.example".into())));
    config.records.push(Record::new("mx0.exim.example", RecordData::A(ABROAD)));
    let lab = Lab::start_with(&config).unwrap();
    let postfix = Mta::find(&lab, MtaKind::Postfix);
    furnish(&postfix);
    abroad(&lab, &postfix);

    let commands = readme::commands("Five commands");
    let [build, user, configure, redirect, start] = commands[..] else { panic!("not five: {commands:#?}") };
    for command in [build, user, configure, redirect] {
        run(&postfix, command);
    }
    let written = tempfile::NamedTempFile::new().unwrap();
    let log = || std::fs::read_to_string(written.path()).unwrap();
    let mut proxy = Running::start(&postfix, start, written.as_file());
    proxy.is_ready(|| listening(&postfix.namespace()), log);

    postfix.send(&["dave@exim.example"], "beside");
    arrives(&lab, &postfix, "beside");

    // Recorded while the proxy runs and writes.
    let end = Instant::now() + LONG;
    let id = loop {
        let table = run(&postfix, readme::quoted("Now "));
        let row = table.lines().find(|line| line.contains("delivered"));
        if let Some(id) = row.and_then(|row| row.split_whitespace().find(|word| word.len() == 16)) {
            break id.to_owned();
        }
        assert!(Instant::now() < end, "no session is recorded:\n{table}\n{}", log());
        std::thread::park_timeout(Duration::from_millis(50));
    };
    let transcript = run(&postfix, &readme::quoted("what your MTA says to the world, and ").replace("ID", &id));
    for part in ["postfix", "9.9.9.9", "|>  STARTTLS", "TLSv1.3", "->  MAIL FROM:<alice@postfix.example>", "<-  250"] {
        assert!(transcript.contains(part), "no {part:?} in\n{transcript}");
    }
    // What Postfix knows of it: the address that it dialled, and no TLS.
    let heard = postfix.log();
    assert!(heard.contains("relay=mx0.exim.example[9.9.9.9]:25"), "{heard}");

    // And back.
    run(&postfix, readme::quoted("To undo it: "));
    kill_process(pid(postfix.process("warren-proxy").unwrap()), Signal::TERM).unwrap();
    assert!(proxy.0.wait().unwrap().success());
    let log = log();
    // It has no place for its own socket, and says so; an ordinary stop is quiet.
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(complaints.iter().all(|line| line.contains("proxy.sock")), "{log}");
    postfix.send(&["dave@exim.example"], "without it");
    arrives(&lab, &postfix, "without it");
}

/// Two signed domains: the TLSA record of one is its MX's key, that of the other is nobody's.
fn dane() -> World {
    let personas = [("dane.test", 40), ("wrong.test", 41)].map(|(domain, last)| host(domain, last, Tls::Untrusted));
    let config = LabConfig { personas: personas.to_vec(), ..LabConfig::default() };
    World::new(&config, |lab| {
        vec![
            mail("dane.test", 40, Signing::Right, &lab.tlsa("dane.test").unwrap()),
            mail("wrong.test", 41, Signing::Right, NO_KEY),
        ]
    })
}

#[test]
fn with_the_resolver_beside_it_postfix_is_held_to_dane() {
    let world = dane();
    let postfix = Mta::find(&world.lab, MtaKind::Postfix);
    let namespace = postfix.namespace();
    // As the README has it, but for the lab's addresses and the root that it trusts.
    let (nameserver, anchors) = (world.signed.address.ip(), world.signed.anchors.display());
    let config = Redirecting {
        hostname: "mx1.postfix.example",
        own: IpAddr::V4(MtaKind::Postfix.address()),
        egress: "",
        standalone: &format!("resolver = {{ \"127.0.0.1:53\" = \"{}\" }}", Redirecting::TENANT),
        rest: &format!("[resolver]\nnameservers = [\"{nameserver}\"]\ntrust_anchors = \"{anchors}\""),
    };
    let mut beside = Beside::start(&namespace, &[], &config.toml());
    beside.resolver(&namespace);
    nft(&namespace, readme::redirect());
    std::fs::write(postfix.root().join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();

    postfix.send(&["bob@dane.test", "bob@wrong.test"], "held to it");
    world.arrived("dane.test", "held to it");
    let transcript = beside.transcript("mx1.dane.test", "TLS for dane.test: dane, satisfied");
    assert!(transcript.contains("<-  250"), "{transcript}");
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: no certificate matches a TLSA record";
    beside.transcript("mx1.wrong.test", unmet);
    let end = Instant::now() + LONG;
    while !postfix.log().contains(unmet) {
        assert!(Instant::now() < end, "Postfix heard nothing:\n{}", postfix.log());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    world.heard_of_no_recipient("wrong.test");
    let told = beside.warren(&["metrics"]);
    for line in ["warren_up{program=\"proxy\"} 1", "warren_up{program=\"resolver\"} 1", "warren_resolver_validates 1"] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
}

/// Has the lab's addresses dialled, the lab's BIND asked and its root trusted, and says the rest of it as the README does.
fn asks_a_resolver(postfix: &Mta<'_>, world: &World) {
    let etc = postfix.root().join("etc/warren");
    std::fs::copy(&world.signed.anchors, etc.join("root.key")).unwrap();
    let text = readme::toml("## DANE").replace("192.0.2.53", &world.signed.address.ip().to_string());
    let (resolver, line) = text.split_once("[proxy.standalone]\n").expect("a line of a table that is there already");
    let file = std::fs::read_to_string(etc.join("warren.toml")).unwrap();
    let file = file.replace("[egress]\n", "[egress]\nallow_networks = [\"198.51.100.0/24\"]\n");
    let file = file.replace("[proxy.standalone]\n", &format!("[proxy.standalone]\n{line}"));
    let file = format!("{file}{resolver}trust_anchors = \"/etc/warren/root.key\"\n");
    std::fs::write(etc.join("warren.toml"), file).unwrap();
}

#[test]
fn four_commands_more_hold_postfix_to_dane() {
    let world = dane();
    let postfix = Mta::find(&world.lab, MtaKind::Postfix);
    furnish(&postfix);
    let [build, user, configure, redirect, start] = readme::commands("Five commands")[..] else { panic!("not five") };
    let [and_build, directory, resolve, ask] = readme::commands("Then four commands")[..] else { panic!("not four") };
    for command in [build, user, configure, redirect, and_build, directory] {
        run(&postfix, command);
    }
    asks_a_resolver(&postfix, &world);
    let written = tempfile::NamedTempFile::new().unwrap();
    let log = || std::fs::read_to_string(written.path()).unwrap();
    let mut proxy = Running::start(&postfix, start, written.as_file());
    proxy.is_ready(|| listening(&postfix.namespace()), log);
    let mut resolver = Running::start(&postfix, resolve, written.as_file());
    resolver.is_ready(|| resolving(&postfix.namespace()), log);
    run(&postfix, ask);

    postfix.send(&["bob@dane.test", "bob@wrong.test"], "held to it");
    world.arrived("dane.test", "held to it");
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: no certificate matches a TLSA record";
    let end = Instant::now() + LONG;
    while !postfix.log().contains(unmet) {
        assert!(Instant::now() < end, "Postfix heard nothing:\n{}\n{}", postfix.log(), log());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    world.heard_of_no_recipient("wrong.test");
}
