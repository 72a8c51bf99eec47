use super::*;
use proptest::prelude::*;

fn config() -> ServerConfig {
    let extensions = Extensions {
        pipelining: true,
        size: Some(1_000),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        enhanced_status_codes: true,
        chunking: true,
        starttls: true,
        auth: vec!["PLAIN".into()],
        xclient: vec!["ADDR".into(), "LOGIN".into()],
        ..Extensions::default()
    };
    ServerConfig { max_recipients: 2, ..ServerConfig::new("mx.example", extensions) }
}

/// A program that accepts everything but recipients named `no…`, and keeps what it got.
struct Program {
    server: Server,
    output: String,
    messages: Vec<Vec<u8>>,
    open: Vec<u8>,
    events: Vec<Event>,
}

impl Program {
    fn new(config: ServerConfig) -> Self {
        let mut program =
            Self { server: Server::new(config), output: String::new(), messages: vec![], open: vec![], events: vec![] };
        program.run();
        program.output.clear();
        program
    }

    fn run(&mut self) {
        while let Some(event) = self.server.next_event() {
            match &event {
                Event::Rcpt { to, .. } if to.to_string().starts_with("no") => {
                    self.server.reply(Reply::new(550, (5, 1, 1), "no such user"))
                }
                Event::Auth { initial: None, .. } => self.server.challenge(""),
                Event::Content(bytes) => self.open.extend_from_slice(bytes),
                Event::ContentEnd => {
                    self.messages.push(std::mem::take(&mut self.open));
                    self.server.accept();
                }
                Event::ContentAborted(_) => self.open.clear(),
                Event::StartTls { .. } => {
                    self.output.push_str(std::str::from_utf8(&self.server.take_output()).unwrap());
                    self.server.tls_started();
                }
                event if event.wants_answer() => self.server.accept(),
                _ => {}
            }
            self.events.push(event);
        }
        self.output.push_str(std::str::from_utf8(&self.server.take_output()).unwrap());
    }

    /// Says something; returns the codes of what was answered.
    fn say(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.server.receive(bytes.as_ref());
        self.run();
        let output = std::mem::take(&mut self.output);
        output.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
    }
}

fn greeted() -> Program {
    let mut program = Program::new(config());
    assert_eq!(program.say("EHLO c.example\r\n"), "250");
    program
}

const TWO_MESSAGES: &[u8] =
    b"EHLO c.example\r\nMAIL FROM:<a@x.example> SIZE=9\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<no@y.example>\r\nDATA\r\n";

#[test]
fn a_dialogue() {
    let mut program = greeted();
    assert_eq!(
        program.say(
            "MAIL FROM:<a@x.example> BODY=8BITMIME\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<no@y.example>\r\nDATA\r\n"
        ),
        "250 250 550 354"
    );
    assert_eq!(program.say("Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n"), "250 250 221");
    assert_eq!(program.messages, [b"Subject: x\r\n\r\n.dot\r\n"]);
    assert_eq!(program.events.last(), Some(&Event::Closed(Close::Quit)));
    assert_eq!(program.say("NOOP\r\n"), "");
}

#[test]
fn split_at_every_byte_nothing_changes() {
    let content =
        b"a\r\n..\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nBDAT 4\r\nQUITBDAT 2 LAST\r\n\r\nNOOP\r\nQUIT\r\n";
    for at in 0..content.len() {
        let mut program = Program::new(config());
        assert_eq!(program.say(TWO_MESSAGES), "250 250 250 550 354");
        let answers = [program.say(&content[..at]), program.say(&content[at..])].join(" ");
        assert_eq!(answers.trim(), "250 250 250 250 250 250 221", "split at {at}");
        assert_eq!(program.messages, [&b"a\r\n.\r\n"[..], b"QUIT\r\n"]);
    }
}

#[test]
fn the_order_of_commands_is_kept() {
    let mut program = Program::new(config());
    assert_eq!(program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"), "503 503 503");
    assert_eq!(program.say("HELO c\r\nAUTH PLAIN AAAA\r\n"), "250 503");
    assert_eq!(
        program.say("EHLO c\r\nRCPT TO:<b@x.example>\r\nDATA\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nDATA\r\n"),
        "250 503 503 250 503 503"
    );
    assert_eq!(
        program.say("RCPT TO:<no@x.example>\r\nDATA\r\nSTARTTLS\r\nRSET\r\nRCPT TO:<b@x.example>\r\n"),
        "550 554 503 250 503"
    );
    assert!(program.events.contains(&Event::Reset));
}

#[test]
fn parameters_must_be_offered() {
    let mut program = greeted();
    for (line, expected) in [
        ("MAIL FROM:<a@x.example> BY=12;R", "555"),
        ("MAIL FROM:<a@x.example> REQUIRETLS", "555"),
        ("MAIL FROM:<a@x.example> BODY=BINARYMIME", "555"),
        ("MAIL FROM:<a@x.example> SIZE=1001", "552"),
        ("MAIL FROM:<ä@x.example>", "550"),
        ("MAIL FROM:<ä@x.example> SMTPUTF8 AUTH=<>", "250"),
        ("RCPT TO:<ö@x.example> NOTIFY=NEVER ORCPT=rfc822;a", "250"),
        ("RCPT TO:<b@x.example> FOO", "555"),
    ] {
        assert_eq!(program.say(format!("{line}\r\n")), expected, "{line}");
    }
    assert_eq!(program.say("RSET\r\nMAIL FROM:<>\r\nRCPT TO:<ö@x.example>\r\n"), "250 250 553");
}

#[test]
fn too_many_recipients_are_put_off() {
    let mut program = greeted();
    assert_eq!(
        program.say("MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@x.example>\r\n"),
        "250 250 250 452"
    );
}

#[test]
fn bare_line_ends_refuse_the_message_and_nothing_is_smuggled() {
    for smuggled in [
        "a\n.\nMAIL FROM:<e@x>\r\n",
        "a\r\n.\nMAIL FROM:<e@x>\r\n",
        "a\r.\rNOOP\r\n",
        "a\r\n.\rNOOP\r\n",
        "a\n.\r\nNOOP\r\n",
    ] {
        let mut program = greeted();
        program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
        assert_eq!(program.say(format!("{smuggled}\r\n.\r\nNOOP\r\n")), "550 250", "{smuggled:?}");
        assert!(program.messages.is_empty());
        assert!(matches!(program.events[program.events.len() - 1], Event::ContentAborted(Abort::LineEnd(_))));
    }
    let mut program = greeted();
    program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n");
    assert_eq!(program.say("BDAT 3\r\na\nbBDAT 2 LAST\r\n\r\nNOOP\r\n"), "550 503 250");
}

#[test]
fn commands_with_bare_line_ends_are_refused() {
    let mut program = greeted();
    assert_eq!(program.say("NOOP\nMAIL FROM:<>\r\nNOOP\rRSET\r\nNO\0OP\r\nNOOP\r\n"), "500 500 500 250");
}

#[test]
fn large_messages_are_swallowed_then_cut() {
    let mut program = greeted();
    program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
    assert_eq!(program.say("x".repeat(2_000)), "");
    assert_eq!(program.say("\r\n.\r\nNOOP\r\n"), "552 250");
    assert_eq!(program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 99999999999\r\n"), "250 250");
    let block = vec![b'x'; 1 << 20];
    let answers: String = (0..70).map(|_| program.say(&block)).collect();
    assert_eq!((answers.as_str(), program.events.last()), ("552", Some(&Event::Closed(Close::Flood))));
}

#[test]
fn size_is_what_the_content_has_not_what_it_takes_to_send_it() {
    let mut program = greeted();
    // 1,000 bytes of content in 1,200 on the wire, and the end.
    let (wire, content) = ("..xx\r\n".repeat(200), ".xx\r\n".repeat(200));
    let message = format!("{wire}.\r\n");
    program.say("MAIL FROM:<a@x.example> SIZE=1000\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
    assert_eq!(program.say(&message), "250");
    assert_eq!(program.messages, [content.as_bytes()]);
    program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
    assert_eq!(program.say(format!("x{message}")), "552");
}

#[test]
fn a_message_in_many_chunks_is_no_idle_talk() {
    let mut program = Program::new(ServerConfig { max_idle_commands: 10, ..config() });
    program.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n");
    let answers = program.say("BDAT 1\r\nx".repeat(900));
    assert_eq!(answers, ["250"; 900].join(" "));
    assert_eq!(program.say("BDAT 0 LAST\r\n"), "250");
    assert_eq!(program.messages, [vec![b'x'; 900]]);
    program.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n");
    assert!(program.say("BDAT 0\r\n".repeat(20)).ends_with("250 421"), "chunks of nothing are");
}

#[test]
fn refused_chunks_are_content_and_never_commands() {
    let mut program = greeted();
    assert_eq!(program.say("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"), "503 250");
    assert_eq!(program.say("MAIL FROM:<>\r\nRCPT TO:<no@x.example>\r\nBDAT 6\r\nQU"), "250 550");
    assert_eq!(program.say("IT\r\nNOOP\r\n"), "554 250");
    assert_eq!(
        program.say("RSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@x.example>\r\nBDAT 2\r\nhiRSET\r\nNOOP\r\n"),
        "250 250 250 250 250 250"
    );
    assert!(program.events.contains(&Event::ContentAborted(Abort::Reset)));
}

#[test]
fn talk_before_the_greeting_is_refused() {
    let mut server = Server::new(config());
    server.receive(b"EHLO spammer\r\n");
    assert_eq!(server.next_event(), Some(Event::Connected));
    server.accept();
    assert_eq!(server.next_event(), Some(Event::Closed(Close::EarlyTalk)));
    assert!(server.take_output().starts_with(b"554 "));
}

#[test]
fn content_before_354_ends_the_session() {
    let mut program = greeted();
    assert_eq!(program.say("MAIL FROM:<>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nMAIL FROM:<e@x>\r\n"), "250 250 503");
    assert_eq!(program.events.last(), Some(&Event::Closed(Close::EarlyTalk)));
}

#[test]
fn other_protocols_end_at_once() {
    for line in ["POST / HTTP/1.1", "Host: mx.example", "GET / HTTP/1.0"] {
        let mut program = Program::new(config());
        assert_eq!(program.say(format!("{line}\r\nEHLO a\r\nMAIL FROM:<>\r\n")), "421", "{line}");
    }
}

#[test]
fn commands_behind_starttls_are_thrown_away() {
    let mut program = greeted();
    assert_eq!(program.say("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<e@x>\r\n"), "220");
    assert!(program.events.contains(&Event::StartTls { discarded: 28 }));
    assert_eq!(program.say("MAIL FROM:<a@x.example>\r\n"), "503");
    program.server.receive(b"EHLO c\r\n");
    program.run();
    assert!(!program.output.contains("STARTTLS"));
    program.output.clear();
    assert_eq!(program.say("STARTTLS\r\nMAIL FROM:<>\r\n"), "503 250");
}

#[test]
fn auth_exchanges() {
    let mut program = greeted();
    assert_eq!(program.say("AUTH GSSAPI\r\nAUTH PLAIN\r\n"), "504 334");
    assert_eq!(program.say("*\r\nAUTH PLAIN\r\n"), "501 334");
    assert_eq!(program.say("AGEAYg==\r\nAUTH PLAIN AAAA\r\n"), "235 503");
    assert!(program.events.contains(&Event::AuthResponse("AGEAYg==".into())));
    let mut program = greeted();
    program.say("AUTH PLAIN\r\n");
    assert_eq!(program.say(format!("{}\r\nNOOP\r\n", "A".repeat(13_000))), "501 250");
}

#[test]
fn xclient_only_if_offered() {
    let mut program = greeted();
    assert_eq!(program.say("XCLIENT ADDR=192.0.2.1 LOGIN=a@x.example\r\nMAIL FROM:<>\r\nEHLO c\r\n"), "220 503 250");
    let mut config = config();
    config.extensions.xclient.clear();
    let mut program = Program::new(config);
    assert_eq!(program.say("EHLO c\r\nXCLIENT ADDR=192.0.2.1\r\n"), "250 500");
    assert!(!program.events.iter().any(|event| matches!(event, Event::Xclient(_))));
}

#[test]
fn junk_is_bounded() {
    let mut program = greeted();
    let answers = program.say("FOO\r\n".repeat(30));
    assert_eq!(answers, format!("{}421", "500 ".repeat(21)));
    let all = ServerConfig { max_recipients: 5_000, ..config() };
    let mut program = Program::new(all);
    program.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n");
    assert_eq!(program.say("RCPT TO:<b@x.example>\r\n".repeat(3_000)), "250 ".repeat(3_000).trim_end());
    let mut program = greeted();
    let answers = program.say("NOOP\r\n".repeat(2_000));
    assert!(answers.ends_with("250 421"));
    assert_eq!(answers.len(), 4 * 1_000 - 1);
}

proptest! {
    #[test]
    fn chunking_never_matters_and_answers_are_bounded(lines in proptest::collection::vec(prop_oneof![
        Just("EHLO c\r\n"), Just("MAIL FROM:<a@x.example>\r\n"), Just("RCPT TO:<b@x.example>\r\n"), Just("DATA\r\n"), Just("hello\r\n.\r\n"),
        Just("BDAT 3\r\nabc"), Just("BDAT 2 LAST\r\n\r\n"), Just("RSET\r\n"), Just("\n.\n"), Just("..\r\n"), Just("\r"), Just("XCLIENT ADDR=::1\r\n"),
    ], 0..25), cut in 1usize..30) {
        let wire = lines.concat();
        let run = |cut: usize| {
            let mut program = Program::new(config());
            let answers: Vec<String> = wire.as_bytes().chunks(cut).map(|chunk| program.say(chunk)).filter(|codes| !codes.is_empty()).collect();
            (answers.join(" "), program.messages)
        };
        // Whether content came before its 354 depends on timing, rightly; everything else must not.
        let (whole, parts) = (run(100_000), run(cut));
        if !wire.contains("DATA") {
            prop_assert_eq!(whole, parts);
        }
    }
}

proptest! {
    /// Whatever a client sends: nothing panics, every answer is well-formed, and a message is complete only behind a 354 or a BDAT.
    #[test]
    fn arbitrary_bytes_get_well_formed_answers(wire in proptest::collection::vec(prop_oneof![
        3 => any::<u8>().prop_map(|byte| vec![byte]),
        2 => Just(b"EHLO c\r\n".to_vec()), 2 => Just(b"MAIL FROM:<>\r\n".to_vec()), 2 => Just(b"RCPT TO:<b@x.example>\r\n".to_vec()),
        1 => Just(b"DATA\r\n".to_vec()), 2 => Just(b"\r\n.\r\n".to_vec()), 1 => Just(b"BDAT 9 LAST\r\n".to_vec()), 1 => Just(b"AUTH PLAIN\r\n".to_vec()),
        1 => Just(b"STARTTLS\r\n".to_vec()), 1 => Just(b"XCLIENT LOGIN=a\r\n".to_vec()),
    ], 0..60), cut in 1usize..50) {
        let mut program = Program::new(config());
        let wire = wire.concat();
        for chunk in wire.chunks(cut) {
            program.server.receive(chunk);
            program.run();
        }
        let mut parser = crate::reply::ReplyParser::new();
        parser.push(program.output.as_bytes());
        while parser.next_reply().unwrap().is_some() {}
        prop_assert!(parser.is_empty());
        let starts = program.events.iter().filter(|event| matches!(event, Event::ContentStart(_))).count();
        prop_assert!(program.messages.len() <= starts);
    }
}
