//! `warren tlsrpt` over what a proxy left, with a name server and a submission server of our own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use base64::Engine as _;
use jiff::civil::date;
use warren_tlsrpt::folder::Sent;
use warren_tlsrpt::{Day, Failure, Finding, Folder, Policy, PolicyType, Report, ResultType, quota};

fn finding(domain: &str, failure: Option<ResultType>) -> Finding {
    Finding {
        domain: domain.into(),
        policy: Policy {
            policy_type: PolicyType::Sts,
            policy_string: vec!["version: STSv1".into()],
            policy_domain: domain.into(),
            mx_host: vec!["*.example.net".into()],
        },
        egress: "203.0.113.10".parse().unwrap(),
        mx: Some("mx.example.net".into()),
        mx_address: "198.51.100.5".parse().unwrap(),
        helo: None,
        failure: failure.map(|result| Failure { result, reason: "an \u{1b}[31malert".into() }),
    }
}

/// A configuration whose state has a day's findings about three domains, and whose name server is `dns`.
fn node(dns: SocketAddr) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let text = format!(
        "hostname = \"mail.example.net\"\npostmaster = \"ops@example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n\
         [resolver]\nnameservers = [\"{dns}\"]\n[paths]\nstate = \"{}\"\n",
        state.display()
    );
    fs::write(directory.path().join("warren.toml"), text).unwrap();
    let folder = Folder::new(state.join("sessions/tlsrpt"));
    folder.create().unwrap();
    let mut day = Day::new(date(2026, 1, 2));
    day.note(finding("asks.example", Some(ResultType::CertificateExpired)));
    day.note(finding("asks.example", None));
    day.note(finding("refused.example", None));
    day.note(finding("silent.example", None));
    folder.store(&day).unwrap();
    directory
}

/// Answers TXT questions about `_smtp._tls` for ever: `silent.example` has no record.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let name = String::from_utf8_lossy(&query[12..end]).to_ascii_lowercase();
            let known = ["asks", "refused", "victim"].into_iter().find(|known| name.contains(known));
            let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &query[12..end]].concat();
            match known {
                Some(known) => {
                    let text = format!("v=TLSRPTv1; rua=mailto:tls@{known}.example,https://x.example/");
                    answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, u8::try_from(text.len() + 1).unwrap()]);
                    answer.push(u8::try_from(text.len()).unwrap());
                    answer.extend(text.as_bytes());
                }
                None => (answer[3], answer[7]) = (0x83, 0),
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    at
}

/// Takes mail for ever, except for `refused.example`.
fn submission() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let (sender, mails) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            session(stream.unwrap(), &sender);
        }
    });
    (at, mails)
}

fn session(mut stream: TcpStream, mails: &mpsc::Sender<String>) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(b"220 here\r\n").unwrap();
    let mut line = String::new();
    while input.read_line(&mut line).unwrap_or(0) > 0 {
        let refused = line.contains("refused.example");
        let data = line.starts_with("DATA");
        let reply: &[u8] = match () {
            () if refused => b"550 5.1.1 nobody\r\n",
            () if data => b"354 go on\r\n",
            () => b"250 2.0.0 fine\r\n",
        };
        if stream.write_all(reply).is_err() {
            return;
        }
        if data {
            let mut mail = String::new();
            while !mail.ends_with("\r\n.\r\n") {
                input.read_line(&mut mail).unwrap();
            }
            mails.send(mail).unwrap();
            stream.write_all(b"250 2.0.0 queued\r\n").unwrap();
        }
        line.clear();
    }
}

fn tlsrpt(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warren"))
        .arg("tlsrpt")
        .args(arguments)
        .args(["--config", config.to_str().unwrap()])
        .env_remove("WARREN_PASSWORD")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Words of a table's line.
fn words(table: &str, line: usize) -> Vec<&str> {
    table.lines().nth(line).unwrap().split_whitespace().collect()
}

#[test]
fn days_domains_and_reports_are_shown() {
    let node = node(name_server());
    assert_eq!(words(&out(&tlsrpt(node.path(), &[])), 1), ["2026-01-02", "3", "3", "1", "0", "0"]);
    let day = out(&tlsrpt(node.path(), &["show", "2026-01-02"]));
    assert_eq!(words(&day, 1), ["asks.example", "mta-sts", "1", "1", "certificate-expired", "-"]);
    let report = out(&tlsrpt(node.path(), &["show", "2026-01-02", "Asks.example"]));
    assert!(!report.contains('\u{1b}'));
    let report: Report = serde_json::from_str(&report).unwrap();
    assert_eq!((report.contact_info.as_str(), report.policies.len()), ("ops@example.net", 1));
    let missing = tlsrpt(node.path(), &["show", "2026-01-03"]);
    assert!(err(&missing).contains("nothing was found on 2026-01-03") && missing.status.code() == Some(1));
}

#[test]
fn reports_go_once_to_whoever_asks() {
    let node = node(name_server());
    let (server, mails) = submission();
    let send = |more: &[&str]| {
        let base = ["send", "2026-01-02", "--server", &server, "--tls", "none", "--from", "tlsrpt@acme.example"];
        tlsrpt(node.path(), &[&base, more].concat())
    };
    let planned = out(&tlsrpt(node.path(), &["send", "2026-01-02", "--dry-run"]));
    assert_eq!(planned, "asks.example\ttls@asks.example\nrefused.example\ttls@refused.example\n");
    let sent = send(&[]);
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "asks.example\ttls@asks.example\n");
    assert!(err(&sent).contains("refused.example: refused: 550"), "{}", err(&sent));
    assert_eq!(sent.status.code(), Some(1));
    let mail = mails.recv().unwrap();
    assert!(mail.contains("\r\nTLS-Report-Domain: asks.example\r\nTLS-Report-Submitter: mail.example.net\r\n"));
    let encoded = mail.split("json.gz\"\r\n\r\n").nth(1).unwrap().split("\r\n\r\n").next().unwrap().replace("\r\n", "");
    let gzipped = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let mut json = String::new();
    flate2::read::GzDecoder::new(&gzipped[..]).read_to_string(&mut json).unwrap();
    let shown = out(&tlsrpt(node.path(), &["show", "2026-01-02", "asks.example"]));
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(report.report_id, "2026-01-02.asks.example@mail.example.net");
    assert!(shown.contains(&report.report_id));
    // What was sent is not sent again; what was refused is tried again.
    assert_eq!(String::from_utf8_lossy(&send(&[]).stdout), "");
    assert!(mails.try_recv().is_err());
    assert_eq!(out(&send(&["--again", "--only", "asks.example"])), "asks.example\ttls@asks.example\n");
    mails.recv().unwrap();
    let day = out(&tlsrpt(node.path(), &["show", "2026-01-02"]));
    assert_eq!(words(&day, 1).last(), Some(&"tls@asks.example"));
}

#[test]
fn who_never_asked_is_not_flooded() {
    let node = node(name_server());
    let folder = Folder::new(node.path().join("state/sessions/tlsrpt"));
    let mut day = Day::new(date(2026, 1, 3));
    for n in 0..quota::MAX_TO_ADDRESS + 5 {
        day.note(finding(&format!("d{n}.victim.test"), None));
    }
    folder.store(&day).unwrap();
    // Of another day's reports, and yet today.
    let sent = Sent { to: vec!["tls@victim.example".into()], at: jiff::Timestamp::now() };
    folder.note_sent(date(2026, 1, 2), "asks.example", sent).unwrap();
    let planned = tlsrpt(node.path(), &["send", "2026-01-03", "--dry-run"]);
    assert_eq!(out(&planned).lines().count(), quota::MAX_TO_ADDRESS as usize - 1);
    let left_out = "tls@victim.example has had its reports of today: 6 more that name it are not sent there";
    assert!(err(&planned).contains(left_out), "{}", err(&planned));
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    let node = node(name_server());
    let today = Day::of(jiff::Timestamp::now()).to_string();
    for (arguments, told) in [
        (&["send", "2026-01-02"][..], "who sends the reports? give --user LOGIN, or --from ADDRESS"),
        (&["send", &today, "--from", "a@acme.example"], "is not over yet (UTC)"),
        (&["send", "2026-01-03", "--from", "a@acme.example"], "nothing was found on 2026-01-03"),
        (
            &["send", "2026-01-02", "--from", "a@acme.example", "--only", "x.example"],
            "nothing was found about x.example",
        ),
        (&["send", "2026-01-02", "--from", "no address", "--tls", "none"], "--from \"no address\" is not an address"),
    ] {
        let output = tlsrpt(node.path(), arguments);
        assert!(err(&output).contains(told) && output.status.code() == Some(1), "{}", err(&output));
    }
}
