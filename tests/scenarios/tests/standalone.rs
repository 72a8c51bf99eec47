//! The proxy beside an MTA that is there already, set up by the commands of `proxy/README.md`: a real Postfix sends through it and does
//! not know.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use warren_lab::signed::Signing;
use warren_lab::{Lab, LabConfig, Tls, find_program};
use warren_scenarios::beside::{Beside, listening, nft};
use warren_scenarios::corpus::note;
use warren_scenarios::signed::{NO_KEY, World, host, mail};

const LONG: Duration = Duration::from_secs(90);

/// The lab's Postfix host; it sends as well as it receives.
const HOST: &str = "postfix";

/// warren.toml of the README, with the lab's addresses and a folder of its own.
fn configure(folder: &Path) {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let state = folder.join("state");
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(id("-u")), Some(id("-g"))).unwrap();
    let text = format!(
        r#"hostname = "mx1.postfix.example"
[egress]
addresses = ["198.51.100.10"]
allow_networks = ["198.51.100.0/24"]
[listen]
submission = []
submissions = []
smtp = []
[paths]
state = "{state}"
run = "{state}"
[proxy.standalone]
listen = ["127.0.0.1:10025"]
mode = "redirect"
tenants = {{ "198.51.100.10" = "postfix" }}
"#,
        state = state.display()
    );
    std::fs::write(folder.join("warren.toml"), text).unwrap();
}

/// As in the README.
const RULES: &str = r#"table ip warren {
  chain output {
    type nat hook output priority -100;
    meta skuid != "warren-proxy" ip daddr != 127.0.0.0/8 tcp dport 25 redirect to :10025
  }
}
"#;

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, "warren-proxy"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("run deploy/prepare, which makes the users")
}

fn in_host(lab: &Lab, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", lab.namespace(HOST).unwrap().display())).args(["--", program]);
    command
}

/// The process of Postfix's master, whose root and network are the host's.
fn master(lab: &Lab) -> u32 {
    let network = std::fs::metadata(lab.namespace(HOST).unwrap()).unwrap().ino();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_master = |pid: &u32| {
        let there = std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.ino() == network);
        there && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "master")
    };
    pids.find(is_master).expect("the lab's Postfix runs")
}

/// Has the lab's Postfix send a letter.
fn send(lab: &Lab, subject: &str, to: &[&str]) {
    let letter = note("alice@postfix.example", subject);
    let pid = master(lab);
    let mut sendmail = Command::new("nsenter");
    sendmail.args(["-t", &pid.to_string(), "--net", "--mount", "--root", "--wd", "--", "/usr/sbin/sendmail"]);
    sendmail.args(["-f", "alice@postfix.example"]).args(to);
    let mut sendmail = sendmail.stdin(Stdio::piped()).spawn().unwrap();
    sendmail.stdin.take().unwrap().write_all(&letter).unwrap();
    assert!(sendmail.wait().unwrap().success());
}

/// Ends with its test.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn postfix_sends_through_the_proxy_and_does_not_know() {
    let lab = Lab::start().unwrap();
    let folder = tempfile::Builder::new().prefix("warren-standalone-").tempdir().unwrap();
    configure(folder.path());

    // The proxy, as its user. `setpriv` becomes it, so the pid is the proxy's.
    let mut start = in_host(&lab, "setpriv");
    start.args(["--reuid", "warren-proxy", "--regid", "warren-proxy", "--init-groups"]);
    start.arg(find_program("warren-proxy").unwrap()).arg("--config").arg(folder.path());
    let mut proxy = Proxy(start.stderr(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(proxy.0.stderr.take().unwrap());
    let log = std::thread::spawn(move || log.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));

    let end = Instant::now() + LONG;
    while !listening(&lab.namespace(HOST).unwrap()) {
        assert!(Instant::now() < end && proxy.0.try_wait().unwrap().is_none(), "it does not listen");
        std::thread::park_timeout(Duration::from_millis(20));
    }

    let mut nft = in_host(&lab, "nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(RULES.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft takes the rule of the README");

    send(&lab, "beside", &["dave@exim.example"]);

    let got = lab.mailbox("exim.example", "dave").wait_for(|m| m.header("Subject").as_deref() == Some("beside"), LONG);
    got.unwrap_or_else(|e| panic!("{e}\n{}", lab.host_log(HOST).unwrap()));

    // Recorded while the proxy runs and writes.
    let warren = |arguments: &[&str]| {
        let mut command = Command::new(find_program("warren").unwrap());
        let output = command.args(arguments).arg("--config").arg(folder.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let end = Instant::now() + LONG;
    let id = loop {
        let (_, table) = warren(&["sessions"]);
        let row = table.lines().find(|line| line.contains("delivered"));
        if let Some(id) = row.and_then(|row| row.split_whitespace().find(|word| word.len() == 16)) {
            break id.to_owned();
        }
        assert!(Instant::now() < end, "no session is recorded:\n{table}");
        std::thread::park_timeout(Duration::from_millis(50));
    };
    let (known, transcript) = warren(&["sessions", "show", &id]);
    assert!(known, "{transcript}");
    for part in
        ["postfix", "198.51.100.11", "|>  STARTTLS", "TLSv1.3", "->  MAIL FROM:<alice@postfix.example>", "<-  250"]
    {
        assert!(transcript.contains(part), "no {part:?} in\n{transcript}");
    }
    // What Postfix knows of it: the address that it dialled, and no TLS.
    let postfix = lab.host_log(HOST).unwrap();
    assert!(postfix.contains("relay=mx1.exim.example[198.51.100.11]:25"), "{postfix}");

    let pid = i32::try_from(proxy.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(proxy.0.wait().unwrap().success());
    let log = log.join().unwrap();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "an ordinary stop is quiet:\n{log}");
}

#[test]
fn with_the_resolver_beside_it_postfix_is_held_to_dane() {
    let personas = [("dane.test", 40), ("wrong.test", 41)].map(|(domain, last)| host(domain, last, Tls::Untrusted));
    let config = LabConfig { personas: personas.to_vec(), ..LabConfig::default() };
    let world = World::new(&config, |lab| {
        vec![
            mail("dane.test", 40, Signing::Right, &lab.tlsa("dane.test").unwrap()),
            mail("wrong.test", 41, Signing::Right, NO_KEY),
        ]
    });
    let namespace = world.lab.namespace(HOST).unwrap();
    // As the README has it, but for the lab's addresses and the root that it trusts.
    let mut beside = Beside::start(
        &namespace,
        &[],
        &format!(
            r#"hostname = "mx1.postfix.example"
[egress]
addresses = ["198.51.100.10"]
allow_networks = ["198.51.100.0/24"]
[resolver]
nameservers = ["{nameserver}"]
trust_anchors = "{anchors}"
[proxy.standalone]
listen = ["127.0.0.1:10025"]
mode = "redirect"
tenants = {{ "198.51.100.10" = "postfix" }}
resolver = {{ "127.0.0.1:53" = "postfix" }}
"#,
            nameserver = world.signed.address.ip(),
            anchors = world.signed.anchors.display(),
        ),
    );
    beside.resolver(&namespace);
    nft(&namespace, RULES);
    let resolv_conf = format!("/proc/{}/root/etc/resolv.conf", master(&world.lab));
    std::fs::write(resolv_conf, "nameserver 127.0.0.1\n").unwrap();

    send(&world.lab, "held to it", &["bob@dane.test", "bob@wrong.test"]);
    world.arrived("dane.test", "held to it");
    let transcript = beside.transcript("mx1.dane.test", "TLS for dane.test: dane, satisfied");
    assert!(transcript.contains("<-  250"), "{transcript}");
    let unmet = "451 4.7.5 TLS policy of the recipient's domain: no certificate matches a TLSA record";
    beside.transcript("mx1.wrong.test", unmet);
    let end = Instant::now() + LONG;
    while !world.lab.host_log(HOST).unwrap().contains(unmet) {
        assert!(Instant::now() < end, "Postfix heard nothing:\n{}", world.lab.host_log(HOST).unwrap());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    world.heard_of_no_recipient("wrong.test");
}
