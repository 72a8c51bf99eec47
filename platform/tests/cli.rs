//! The `warren` command as a person or a script meets it: what it prints, and its exit status.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";

fn warren(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_warren"))
        .args(arguments)
        .env_remove("WARREN_PASSWORD")
        .env_remove("WARREN_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn config(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tenants")).unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn check_counts_what_is_good() {
    let config = config(&[("warren.toml", NODE), ("tenants/acme.toml", "domains = [\"acme.example\"]\n")]);
    let output = warren(&["check", "--files-only", "--config", path(config.path())], "");
    let told = format!("{}: good: node mail.example.net, 1 tenants, 0 accounts, 0 forwards\n", config.path().display());
    let warned = "warren: warning: tenant acme: nobody reads postmaster@acme.example; give it a [forward] of postmaster, or \
                  warren.toml a postmaster\n";
    assert_eq!((out(&output), err(&output), output.status.code()), (told, warned.to_owned(), Some(0)));
}

#[test]
fn check_knows_who_is_postmaster() {
    let acme = "domains = [\"acme.example\"]\n[forward]\nops = [\"ops@elsewhere.example\"]\n";
    for (postmaster, status, told) in [
        ("ops@acme.example", Some(0), ""),
        (
            "nobody@acme.example",
            Some(1),
            "postmaster has no forward (this node keeps no mailboxes), expected an address that",
        ),
        ("ops", Some(1), "warren.toml:1:14: \"ops\" is not an address, expected one such as"),
    ] {
        let node = format!("postmaster = \"{postmaster}\"\n{NODE}");
        let config = config(&[("warren.toml", &node), ("tenants/acme.toml", acme)]);
        let output = warren(&["check", "--files-only", "--config", path(config.path())], "");
        assert_eq!(output.status.code(), status, "{}", err(&output));
        assert!(err(&output).contains(told) && (told.is_empty() == err(&output).is_empty()), "{}", err(&output));
    }
}

#[test]
fn check_knows_whose_bounces_reach_nobody() {
    let hash = out(&warren(&["passwd", "--stdin"], "correct horse\n"));
    let acme = format!(
        "domains = [\"acme.example\", \"elsewhere.example\"]\naccounts = {{ alice = \"{hash}\", bob = \"{hash}\" }}\n\
         [forward]\n\"ops@acme.example\" = [\"ops@third.example\"]\n\"bob@acme.example\" = [\"bob@third.example\"]\n",
        hash = hash.trim()
    );
    let node = format!("postmaster = \"ops@acme.example\"\n{NODE}");
    let config = config(&[("warren.toml", &node), ("tenants/acme.toml", &acme)]);
    let output = warren(&["check", "--files-only", "--config", path(config.path())], "");
    let warned = "warren: warning: tenant acme: alice@acme.example sends but is not forwarded: if the MX of its domain is this node, \
                  bounces reach nobody; give it a [forward]\n";
    assert_eq!((err(&output), output.status.code()), (warned.to_owned(), Some(0)));
}

#[test]
fn check_tells_each_problem_in_a_line_of_its_own() {
    let config = config(&[
        ("warren.toml", NODE),
        ("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\ninfo = [\"elsewhere\"]\n"),
        ("tenants/globex.toml", "domain = [\"globex.example\"]\n"),
    ]);
    let output = warren(&["check", "--config", path(config.path())], "");
    let told = err(&output).replace(&format!("{}/", config.path().display()), "");
    assert_eq!(
        told,
        "tenants/acme.toml:3:9: \"elsewhere\" is not an address, expected one such as \"someone@example.com\"\n\
         tenants/globex.toml:1:1: unknown field `domain`, expected one of `domains`, `accounts`, `senders`, `forward`, `image`, `idle`, `limits`\n"
    );
    assert_eq!((out(&output), output.status.code()), (String::new(), Some(1)));
}

#[test]
fn passwd_hashes_the_first_line() {
    let output = warren(&["passwd", "--stdin"], "correct horse\n");
    let told = out(&output);
    assert!(told.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && told.lines().count() == 1, "{told}");
    let file = format!("domains = [\"acme.example\"]\n[accounts]\nalice = \"{}\"\n", told.trim());
    let config = config(&[("warren.toml", NODE), ("tenants/acme.toml", &file)]);
    let output = warren(&["check", "--files-only", "--config", path(config.path())], "");
    assert!(out(&output).contains("1 accounts"), "{}", err(&output));

    let output = warren(&["passwd", "--stdin"], "");
    assert_eq!((err(&output).as_str(), output.status.code()), ("warren: no password on standard input\n", Some(1)));
}

#[test]
fn a_tenant_is_added_changed_and_removed_in_files() {
    let node = format!("{NODE}[users]\nplatform = \"root\"\n");
    let run = tempfile::tempdir().unwrap();
    let node = format!("{node}[paths]\nrun = {0:?}\nstate = {0:?}\n", path(run.path()));
    let config = config(&[("warren.toml", &node), ("tenants/acme.toml", "# first\ndomains = [\"acme.example\"]\n")]);
    let edit = |arguments: &[&str], input: &str| {
        warren(&[&["tenant"], arguments, &["--config", path(config.path())]].concat(), input)
    };
    let read = |name: &str| fs::read_to_string(config.path().join("tenants").join(name)).unwrap();

    let output =
        edit(&["add", "globex", "--domain", "globex.example", "--account", "bob", "--account", "eve"], "one\ntwo\n");
    assert!(out(&output).ends_with("the node is not up: it takes effect when it starts\n"), "{}", err(&output));
    let text = read("globex.toml");
    assert!(text.starts_with("domains = [\"globex.example\"]\n\n[accounts]\nbob = \"$argon2id$"), "{text}");
    let mode = fs::metadata(config.path().join("tenants/globex.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    let output = edit(&["add", "globex", "--domain", "other.example"], "");
    assert!(err(&output).ends_with("globex.toml is there already\n"), "{}", err(&output));
    let output = edit(&["add", "thief", "--domain", "acme.example", "--no-reload"], "");
    assert!(err(&output).contains("acme.example is a domain of tenant acme already"), "{}", err(&output));
    let output = edit(&["passwd", "acme", "Alice", "--no-reload"], "secret\n");
    assert!(err(&output).contains("\"Alice\" has capitals"), "{}", err(&output));
    assert_eq!(read("acme.toml"), "# first\ndomains = [\"acme.example\"]\n");
    let output = edit(&["passwd", "acme", "alice", "--no-reload"], "secret\n");
    assert_eq!(out(&output), "acme: account alice has its password\n");
    assert!(read("acme.toml").starts_with("# first\ndomains = [\"acme.example\"]\n\n[accounts]\nalice = \"$argon2id$"));

    let output = edit(&["remove", "acme"], "");
    assert!(err(&output).contains("add --yes") && output.status.code() == Some(1), "{}", err(&output));
    let output = edit(&["remove", "acme", "--yes", "--no-reload"], "");
    assert!(out(&output).contains("its volume stays"), "{}", err(&output));
    assert!(read("removed/acme.toml").starts_with("# first"));
    let mut left: Vec<_> =
        fs::read_dir(config.path().join("tenants")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["globex.toml", "removed"]);
    let output = warren(&["check", "--files-only", "--config", path(config.path())], "");
    assert!(out(&output).contains("1 tenants, 2 accounts"), "{}", err(&output));
}

#[test]
fn asking_a_node_that_is_down_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    fs::write(
        directory.path().join("warren.toml"),
        format!("{NODE}[paths]\nrun = \"{0}\"\nstate = \"{0}\"\n", run.display()),
    )
    .unwrap();
    let output = warren(&["status", "--config", path(directory.path())], "");
    let told = err(&output);
    assert!(told.starts_with("warren: cannot reach the platform at ") && told.lines().count() == 1, "{told}");
    assert!(told.contains("is the node up (`warren up`), and are you root?"), "{told}");
    assert_eq!(output.status.code(), Some(1));
    let output = warren(&["sessions", "summary", "--config", path(directory.path())], "");
    let told = format!("warren: there is no session database {}/sessions/sessions.db: ", run.display());
    assert!(err(&output).starts_with(&told), "{}", err(&output));
    let output = warren(&["tenant", "wake", "No Such", "--config", path(directory.path())], "");
    assert!(err(&output).contains("\"No Such\" is not a name"), "{}", err(&output));
}

/// An SMTP server for one session: answers each command by its verb, and gives back what it was sent after DATA.
fn server(
    greeting: &'static str,
    replies: &'static [(&'static str, &'static str)],
) -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, data) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        if let Some(bytes) = session(stream, greeting, replies) {
            sender.send(bytes).unwrap();
        }
    });
    (address, data)
}

fn session(stream: TcpStream, greeting: &str, replies: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut output = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    output.write_all(greeting.as_bytes()).unwrap();
    let mut data = None;
    let mut line = String::new();
    while input.read_line(&mut line).unwrap_or(0) > 0 {
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let reply = replies.iter().find(|(known, _)| *known == verb).map_or("250 2.0.0 fine\r\n", |(_, reply)| reply);
        output.write_all(reply.as_bytes()).unwrap();
        if verb == "DATA" && reply.starts_with("354") {
            data = Some(received(&mut input));
            let done = replies
                .iter()
                .find(|(known, _)| *known == ".")
                .map_or("250 2.0.0 queued as X1\r\n", |(_, reply)| reply);
            output.write_all(done.as_bytes()).unwrap();
        }
        line.clear();
    }
    data
}

/// The content up to its terminator, with dots as they were.
fn received(input: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n.\r\n") && bytes != b".\r\n" {
        input.read_exact(&mut one).unwrap();
        bytes.push(one[0]);
    }
    bytes.truncate(bytes.len() - 3);
    let stuffed = bytes.split_inclusive(|byte| *byte == b'\n');
    stuffed.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

const ACCEPTS: &[(&str, &str)] =
    &[("EHLO", "250-here\r\n250 8BITMIME\r\n"), ("DATA", "354 go on\r\n"), ("QUIT", "221 bye\r\n")];

fn send(server: &str, file: &Path, more: &[&str]) -> Output {
    let base = ["send", "--server", server, "--from", "a@acme.example", "--to", "b@elsewhere.example"];
    let arguments: Vec<&str> = base.iter().chain(more).copied().chain([path(file)]).collect();
    warren(&arguments, "")
}

fn message(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_message_goes_out_byte_for_byte() {
    let long = "x".repeat(70_000);
    let text = format!("Subject: dots\r\n\r\n.\r\n..\r\n.x\r\nGr\u{fc}\u{df}e \u{2028}\u{85}\0\r\n{long}\r\n\r\n\r\n");
    for bytes in [text.as_bytes(), b"Subject: none\r\n\r\n", b"Subject: end\r\n\r\n.\r\n"] {
        let (address, data) = server("220 here\r\n", ACCEPTS);
        let output = send(&address, message(bytes).path(), &["--tls", "none"]);
        assert_eq!((out(&output).as_str(), err(&output)), ("250 2.0.0 queued as X1\n", String::new()));
        assert!(data.recv().unwrap() == bytes, "{:?}", String::from_utf8_lossy(&bytes[..40.min(bytes.len())]));
    }
}

#[test]
fn unix_lines_become_those_of_smtp() {
    let (address, data) = server("220 here\r\n", ACCEPTS);
    let output = send(&address, message(b"Subject: s\n\nhello\n.\nbye").path(), &["--tls", "none"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(data.recv().unwrap(), b"Subject: s\r\n\r\nhello\r\n.\r\nbye\r\n");
}

#[test]
fn a_refusal_is_shown_without_its_tricks() {
    let replies = &[("EHLO", "250 here\r\n"), ("RCPT", "550 5.1.1 no such user \x1b[2J\r\n")];
    let (address, _data) = server("220 here\r\n", replies);
    let output = send(&address, message(b"A: b\r\n\r\n").path(), &["--tls", "none"]);
    assert_eq!(
        (err(&output).as_str(), output.status.code()),
        ("warren: refused: 550 5.1.1 no such user \\u{1b}[2J\n", Some(1))
    );
}

#[test]
fn what_may_work_later_has_a_status_of_its_own() {
    let (address, _data) = server("220 here\r\n", &[("EHLO", "250 here\r\n"), ("MAIL", "451 4.3.2 later\r\n")]);
    let output = send(&address, message(b"A: b\r\n\r\n").path(), &["--tls", "none"]);
    assert_eq!(
        (err(&output).as_str(), output.status.code()),
        ("warren: not accepted now: 451 4.3.2 later\n", Some(75))
    );

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = send(&closed, message(b"A: b\r\n\r\n").path(), &[]);
    assert_eq!(
        (err(&output), output.status.code()),
        (format!("warren: {closed}: Connection refused (os error 111)\n"), Some(75))
    );
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    let good = message(b"A: b\r\n\r\n");
    let told = |server: &str, file: &Path, more: &[&str]| {
        let output = send(server, file, more);
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        err(&output)
    };
    assert_eq!(
        told("nowhere", good.path(), &[]),
        "warren: --server \"nowhere\": expected HOST:PORT, such as mail.example.net:587\n"
    );
    assert_eq!(
        told("127.0.0.1:587", good.path(), &["--user", "a@acme.example"]),
        "warren: --user needs a password: give --password-file FILE, or set WARREN_PASSWORD\n"
    );
    assert_eq!(
        told("127.0.0.1:587", good.path(), &["--user", "a@acme.example", "--tls", "none"]),
        "warren: a password does not travel in the clear: use --tls starttls or --tls implicit\n"
    );
    assert!(told("127.0.0.1:587", good.path(), &["--to", "b"]).starts_with("warren: --to \"b\" is not an address: "));
    assert_eq!(
        told("127.0.0.1:587", Path::new("/nonexistent"), &[]),
        "warren: /nonexistent: No such file or directory (os error 2)\n"
    );
    let bad = message(b"A: b\n\nx\ry\n");
    assert_eq!(
        told("127.0.0.1:587", bad.path(), &[]),
        format!("warren: {}:3: a CR without LF, which SMTP cannot carry\n", bad.path().display())
    );
}

#[test]
fn without_starttls_nothing_is_sent() {
    let (address, data) = server("220 here\r\n", ACCEPTS);
    let output = send(&address, message(b"A: b\r\n\r\n").path(), &["--tls", "starttls"]);
    assert!(err(&output).contains("STARTTLS"), "{}", err(&output));
    assert_eq!(output.status.code(), Some(1));
    assert!(data.recv().is_err());
}

#[test]
fn certificates_are_verified_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let config = warren_wire::server::self_signed(directory.path(), "mail.example.net", None).unwrap();
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap().to_string()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stream = warren_wire::MaybeTls::Plain(stream);
                if let Ok(mut stream) = stream.accept_tls(&config, Duration::from_secs(10)).await {
                    // Refuses whoever trusts it, which is enough to see that it was trusted.
                    stream.write_all(b"554 5.3.2 not today\r\n").await.unwrap();
                    stream.flush().await.unwrap();
                    let _ = stream.read(&mut [0; 64]).await;
                }
            }
        });
    });
    let address = address.recv().unwrap();
    let file = message(b"A: b\r\n\r\n");
    let output = send(&address, file.path(), &["--tls", "implicit"]);
    let told = err(&output);
    assert!(told.starts_with(&format!("warren: TLS with {address}: ")), "{told}");
    assert!(told.ends_with("trust its certificate by --ca FILE, or take any by --insecure\n"), "{told}");
    assert_eq!(output.status.code(), Some(1));

    let refused = "warren: refused: 554 5.3.2 not today\n";
    assert_eq!(err(&send(&address, file.path(), &["--tls", "implicit", "--insecure"])), refused);
    let ca = directory.path().join("certificate.pem");
    let trusting = ["--tls", "implicit", "--ca", path(&ca), "--tls-name", "mail.example.net"];
    assert_eq!(err(&send(&address, file.path(), &trusting)), refused);
    let misnamed = ["--tls", "implicit", "--ca", path(&ca), "--tls-name", "other.example.net"];
    assert!(err(&send(&address, file.path(), &misnamed)).starts_with(&format!("warren: TLS with {address}: ")));
}
