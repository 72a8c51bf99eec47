//! Reads dialogues. A file of its own, so that the mediator's tests and the proxy's play the same ones.
//!
//! ```text
//! # Name (require) (whole)     one dialogue, its TLS policy if it is not opportunistic; whole: not byte by byte
//! # Name (its TLS: expired)    what the server has to show: TLS 1.2, expired, wrong name, trusted; else a certificate that nobody vouches for
//! C text    the client sends     c text    the client gets         each with CRLF
//! S text    the server sends     s text    the server gets
//! X*N text  N times, without CRLF, with \r \n \xHH in what follows the blank; no N: once
//! !what     the driver does it, or is asked to
//! ```
//!
//! What one side sends in lines that follow each other is one segment. `!closes its direction` leaves the other one open; `!forges text` is what somebody in the
//! middle can do: the end of TLS, and this line in the clear behind it, as one segment.

/// One dialogue.
#[derive(Debug)]
pub struct Dialogue {
    pub name: &'static str,
    /// What the session does about STARTTLS: `opportunistic`, `require`, `verify`.
    pub tls: &'static str,
    /// What the server has to show in a handshake.
    pub shows: &'static str,
    /// Means the same when it comes byte by byte.
    pub divisible: bool,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    ClientSends(Vec<u8>),
    ServerSends(Vec<u8>),
    ClientGets(Vec<u8>),
    ServerGets(Vec<u8>),
    Driver(&'static str),
}

/// All dialogues with an MX.
pub fn outbound() -> Vec<Dialogue> {
    [include_str!("outbound.txt"), include_str!("tls.txt"), include_str!("leaving.txt")]
        .into_iter()
        .flat_map(|file| {
            let (_, dialogues) = file.split_once("\n# ").expect("there are dialogues");
            dialogues.split("\n# ").map(dialogue)
        })
        .collect()
}

fn dialogue(text: &'static str) -> Dialogue {
    let (name, lines) = text.split_once('\n').expect("a name and what follows");
    let tls = ["require", "verify"].into_iter().find(|tls| name.contains(&format!("({tls})")));
    let shows = name.split_once("(its TLS: ").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(shows, _)| shows);
    let mut steps = Vec::new();
    for line in lines.lines() {
        read(line, &mut steps);
    }
    Dialogue { name, tls: tls.unwrap_or("opportunistic"), shows, divisible: !name.contains("(whole)"), steps }
}

fn read(line: &'static str, steps: &mut Vec<Step>) {
    let expanded = match line {
        "!hello" => HELLO,
        "!relaying" => RELAYING,
        "!starting TLS" => STARTING_TLS,
        "!relaying under TLS" => RELAYING_UNDER_TLS,
        "!in data" => IN_DATA,
        "!quit" => QUIT,
        "" => return,
        _ => return push(line, steps),
    };
    for line in expanded.lines() {
        read(line, steps);
    }
}

fn push(line: &'static str, steps: &mut Vec<Step>) {
    if let Some(what) = line.strip_prefix('!') {
        return steps.push(Step::Driver(what));
    }
    let (who, text) = line.split_once(' ').expect("who, and what");
    let (who, bytes) = match who.split_once('*') {
        Some((who, times)) => (who, unescape(text).repeat(times.parse().unwrap_or(1))),
        None => (who, format!("{text}\r\n").into_bytes()),
    };
    match (who, steps.last_mut()) {
        ("C", Some(Step::ClientSends(before))) | ("S", Some(Step::ServerSends(before))) => before.extend(bytes),
        ("c", Some(Step::ClientGets(before))) | ("s", Some(Step::ServerGets(before))) => before.extend(bytes),
        ("C", _) => steps.push(Step::ClientSends(bytes)),
        ("S", _) => steps.push(Step::ServerSends(bytes)),
        ("c", _) => steps.push(Step::ClientGets(bytes)),
        ("s", _) => steps.push(Step::ServerGets(bytes)),
        _ => panic!("{who} is nobody: {line}"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (byte, length) = match escape.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).expect("two hexadecimal digits"), 3),
            other => panic!("no escape: {other}"),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

/// The MSA is greeted, and its EHLO went out.
const HELLO: &str = "\
!dial
S 220 mx
c 220 mx
C EHLO msa
s EHLO out.example";

/// EHLO is answered, in the clear.
const RELAYING: &str = "\
!hello
S 250-mx
S 250-PIPELINING
S 250-8BITMIME
S 250-SMTPUTF8
S 250-DSN
S 250-CHUNKING
S 250-BINARYMIME
S 250 SIZE 1000
c 250-mx
c 250-PIPELINING
c 250-8BITMIME
c 250-SMTPUTF8
c 250-DSN
c 250-CHUNKING
c 250-BINARYMIME
c 250 SIZE 1000";

/// STARTTLS got its 220.
const STARTING_TLS: &str = "\
!hello
S 250-mx
S 250-SIZE 9
S 250 STARTTLS
s STARTTLS
S 220 go";

/// EHLO is answered, behind a handshake.
const RELAYING_UNDER_TLS: &str = "\
s EHLO out.example
S 250-mx
S 250 SIZE 7
c 250-mx
c 250 SIZE 7";

/// DATA got its 354.
const IN_DATA: &str = "\
C MAIL FROM:<a@b.example>
C RCPT TO:<c@d.example>
C DATA
s MAIL FROM:<a@b.example>
s RCPT TO:<c@d.example>
s DATA
S 250 ok
S 250 ok
S 354 go
c 250 ok
c 250 ok
c 354 go";

const QUIT: &str = "\
C QUIT
s QUIT
S 221 bye
c 221 bye
!close server
!close client";
