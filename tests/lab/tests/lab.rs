//! The lab itself, from outside. Needs root, and `tests/lab/packages` run once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lettre::address::Envelope;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, SmtpTransport, Transport};
use warren_lab::{Act, Event, Lab, LabConfig, Persona, Step, When, map};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `work` on a host's network, in a thread of its own.
fn on<T: Send>(lab: &Lab, host: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(lab.namespace(host).unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// 5 MB with everything that a transport could spoil: 8-bit, dots, long and blank-ended lines.
fn large(to: &str) -> Vec<u8> {
    let mut raw = format!(
        "From: <someone@client.lab.example>\r\nTo: <{to}>\r\nSubject: large\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <large@client.lab.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    raw.extend_from_slice("bl\u{e5}b\u{e6}r \u{2028} \u{85}\r\n.\r\n..\r\n.dot\r\nspace \t\r\n\r\n".as_bytes());
    raw.extend(std::iter::repeat_n(b'y', 998));
    raw.extend_from_slice(b"\r\n");
    let mut n = 0;
    while raw.len() < 5_000_000 {
        raw.extend_from_slice(format!("{n:07} {}\r\n", "x".repeat(n % 80)).as_bytes());
        n += 1;
    }
    raw
}

/// Sends one message, over TLS with the certificate verified unless told otherwise.
fn send(lab: &Lab, server: &str, tls: bool, to: &str, raw: &[u8]) {
    let (user, domain) = to.split_once('@').unwrap();
    let authority = Certificate::from_pem(lab.authority_pem().as_bytes()).unwrap();
    let parameters =
        TlsParameters::builder(map::mx_name(domain)).add_root_certificate(authority).build_rustls().unwrap();
    let transport = SmtpTransport::builder_dangerous(server)
        .tls(if tls { Tls::Required(parameters) } else { Tls::None })
        .timeout(Some(PATIENCE))
        .build();
    let sender = "someone@client.lab.example".parse().unwrap();
    let envelope = Envelope::new(Some(sender), vec![Address::new(user, domain).unwrap()]).unwrap();
    // lettre puts CRLF before the final dot, whatever the content ends with.
    let content = raw.strip_suffix(b"\r\n").unwrap();
    on(lab, "client", || transport.send_raw(&envelope, content)).unwrap();
}

fn alive(pid: u32) -> bool {
    std::fs::exists(format!("/proc/{pid}")).unwrap()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Every process in the lab's pid namespace.
fn inhabitants(lab_pid: u32) -> Vec<u32> {
    let namespace = std::fs::read_link(format!("/proc/{lab_pid}/ns/pid")).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace)).collect()
}

#[test]
fn every_host_takes_a_large_mail_and_keeps_every_byte() {
    let lab = Lab::start().unwrap();
    let hosts = [
        ("198.51.100.10", "postfix.example", true),
        ("198.51.100.11", "exim.example", true),
        ("198.51.100.12", "opensmtpd.example", false),
        ("198.51.100.31", "plain.example", true),
    ];
    for (server, domain, tls) in hosts {
        let to = format!("bob@{domain}");
        let raw = large(&to);
        send(&lab, server, tls, &to, &raw);
        let stored = lab.mailbox(domain, "bob").wait_for(|m| m.header("Subject").as_deref() == Some("large"), PATIENCE);
        let stored =
            stored.unwrap_or_else(|e| panic!("{e}\n{}", lab.host_log(domain.split('.').next().unwrap()).unwrap()));
        assert!(stored.has_body_of(&raw), "{domain} changed the body");
        assert!(stored.ends_with(&raw), "{domain} changed the header");
    }
}

#[test]
fn names_resolve_over_udp_and_tcp() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    // acme.example MX, EDNS absent.
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04acme\x07example\x00\x00\x0f\x00\x01";
    let expected = |answer: &[u8]| {
        assert_eq!(&answer[..2], b"\x12\x34");
        assert_eq!(answer[3] & 0x0f, 0, "NOERROR");
        assert_eq!(answer[7], 1, "one answer");
        assert!(answer.windows(12).any(|w| w == b"\x04mail\x06warren"), "names the node");
    };
    on(&lab, "node", || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(question, (map::DNS, 53)).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        expected(&answer[..length]);

        let mut stream = TcpStream::connect((map::DNS, 53)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        expected(&answer);
    });
}

#[test]
fn personas_follow_their_script_and_log_every_command() {
    let mut config = LabConfig::personas_only();
    config.personas.push(
        Persona::new("listing", [198, 51, 100, 40].into(), &["listing.example"])
            .rule(
                Step::Greeting,
                When::Peer(vec![map::NODE[1].into()]),
                Act::ReplyAndClose(vec!["554 5.7.1 listed".into()]),
            )
            .rule(Step::Mail, When::After(1), Act::ReplyAndClose(vec!["421 4.7.0 too many".into()])),
    );
    let lab = Lab::start_with(&config).unwrap();
    let talk = |from: IpAddr, lines: &str| {
        on(&lab, "node", || {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            );
            let socket = socket.unwrap();
            rustix::net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
            rustix::net::connect(&socket, &SocketAddr::from(([198, 51, 100, 40], 25))).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            heard.lines().map(|line| line[..3].to_owned()).collect::<Vec<_>>()
        })
    };
    assert_eq!(talk(map::NODE[1].into(), ""), ["554"]);
    let mail = "HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@listing.example>\r\nRCPT TO:<unknown@listing.example>\r\nDATA\r\n.\r\nQUIT\r\n";
    assert_eq!(talk(map::NODE[0].into(), mail), ["220", "250", "250", "250", "550", "354", "250", "221"]);
    assert_eq!(talk(map::NODE[0].into(), mail), ["220", "250", "421"]);
    let log = lab.persona_log("listing").unwrap();
    let commands = log.iter().filter(|e| matches!(e.event, Event::Command(_))).count();
    assert_eq!(commands, 6 + 2);
    assert!(log.iter().any(|e| e.event == Event::Content(0) && e.peer.ip() == IpAddr::from(map::NODE[0])));
    assert!(log.is_sorted_by_key(|e| e.at_us));
}

#[test]
fn labs_do_not_meet() {
    let labs = [(); 2].map(|()| Lab::start_with(&LabConfig::personas_only()).unwrap());
    let raw = b"Subject: only here\r\n\r\nx\r\n";
    send(&labs[0], "198.51.100.31", true, "bob@plain.example", raw);
    labs[0].mailbox("plain.example", "bob").wait_for(|_| true, PATIENCE).unwrap();
    assert!(labs[1].mailbox("plain.example", "bob").messages().unwrap().is_empty());
    assert!(labs[1].persona_log("plain").unwrap().is_empty());
}

#[test]
fn nothing_is_left_after_drop() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lab = Lab::start().unwrap();
    let (outer, inside) = (lab.outer_pid(), inhabitants(lab.pid()));
    assert!(inside.len() > 5, "pid 1 and three MX programs: {inside:?}");
    drop(lab);
    assert!(!alive(outer));
    assert!(!inside.iter().any(|pid| alive(*pid)));
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    let program = env!("CARGO_BIN_EXE_warren-lab");
    let mut owner = Command::new(program).arg("up").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = String::new();
    let mut stdout = std::io::BufReader::new(owner.stdout.take().unwrap());
    while !printed.contains("Ctrl-C") {
        assert!(
            std::io::BufRead::read_line(&mut stdout, &mut printed).unwrap() > 0,
            "the lab did not start: {printed}"
        );
    }
    let pid = printed.split("--net=/proc/").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let inside = inhabitants(pid);
    assert!(inside.len() > 5, "pid 1 and three MX programs: {inside:?}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the lab's processes end", || !inside.iter().any(|pid| alive(*pid)));
}

#[test]
fn nothing_is_left_when_its_outer_process_is_killed() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let inside = inhabitants(lab.pid());
    let outer = i32::try_from(lab.outer_pid()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(outer).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    wait_until("the lab's processes end", || !inside.iter().any(|pid| alive(*pid)));
}

#[test]
fn a_failure_says_what_to_do() {
    let program = env!("CARGO_BIN_EXE_warren-lab");
    let up = Command::new(program).arg("up").env("WARREN_LAB_CACHE", "/nonexistent").output().unwrap();
    assert!(!up.status.success());
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(said.contains("run tests/lab/packages"), "{said}");
}
