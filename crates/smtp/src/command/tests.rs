use super::*;
use proptest::prelude::*;

fn parse(line: &str) -> Result<Command, CommandError> {
    Command::parse(line.as_bytes())
}

fn code(line: &[u8]) -> u16 {
    Command::parse(line).unwrap_err().reply().code
}

#[test]
fn what_is_parsed_is_written_again() {
    for line in [
        "EHLO mx.example",
        "MAIL FROM:<>",
        "MAIL FROM:<a@x.example> SIZE=12 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=a+2Bb AUTH=<> BY=120;R",
        "RCPT TO:<postmaster>",
        "RCPT TO:<\"a>b\"@x.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x.example",
        "RCPT TO:<a@[192.0.2.1]> NOTIFY=NEVER",
        "BDAT 12 LAST",
        "BDAT 0",
        "AUTH PLAIN AGEAYg==",
        "AUTH LOGIN",
        "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=7 PROTO=ESMTP HELO=h LOGIN=a@x.example",
        "DATA",
        "STARTTLS",
    ] {
        let command = parse(line).unwrap();
        assert_eq!(parse(&command.to_string()), Ok(command.clone()), "{line}");
        if !line.contains("NAME=") {
            assert_eq!(command.to_string(), line);
        }
    }
}

#[test]
fn lax_spelling_of_clients_is_understood() {
    assert_eq!(parse("mail from: <A@x.example>  size=3 ").unwrap().to_string(), "MAIL FROM:<A@x.example> SIZE=3");
    assert_eq!(parse("quit  "), Ok(Command::Quit));
    assert_eq!(parse("NOOP whatever"), Ok(Command::Noop));
    assert_eq!(parse("get / HTTP/1.1"), Ok(Command::Unknown("GET".into())));
    assert_eq!(parse(""), Ok(Command::Unknown(String::new())));
}

#[test]
fn refusals_carry_the_right_reply() {
    for (line, expected) in [
        (&b"EHLO"[..], 501),
        (b"EHLO a b", 501),
        (b"MAIL", 501),
        (b"MAIL FROM:a@x.example", 501),
        (b"MAIL FROM:<a@x.example>SIZE=1", 501),
        (b"MAIL FROM:<a@x.example> SIZE=x", 501),
        (b"MAIL FROM:<a@x.example> SIZE=1 SIZE=2", 501),
        (b"MAIL FROM:<a@x.example> SIZE=", 501),
        (b"MAIL FROM:<a@x.example> X=1\t SIZE=1", 501),
        (b"MAIL FROM:<a@x.example> ENVID=a+0D+0AX:", 501),
        (b"MAIL FROM:<a@x.example> AUTH=a+0Ab", 501),
        (b"MAIL FROM:<@r.example:a@x.example>", 553),
        (b"RCPT TO:<>", 501),
        (b"RCPT TO:<a>", 501),
        (b"RCPT TO:<@r.example:a@x.example>", 553),
        (b"RCPT TO:<a@x.example> ORCPT=rfc822;a+0Ab", 501),
        (b"RCPT TO:<a@x.example> NOTIFY=NEVER,DELAY", 501),
        (b"DATA now", 501),
        (b"BDAT", 501),
        (b"BDAT -1", 501),
        (b"BDAT 99999999999999999999", 501),
        (b"BDAT 1 FIRST", 501),
        (b"QUIT now", 501),
        (b"AUTH", 501),
        (b"XCLIENT ADDR=x", 501),
        (b"XCLIENT HELO=a+0Db", 501),
        (b"NOOP \x1b[2J", 500),
        (b"BDAT\t1", 500),
        (b"NOOP \xff", 500),
    ] {
        assert_eq!(code(line), expected, "{}", String::from_utf8_lossy(line));
    }
    let huge = parse("MAIL FROM:<> SIZE=99999999999999999999").unwrap();
    assert!(matches!(huge, Command::Mail { params: MailParams { size: Some(u64::MAX), .. }, .. }));
}

#[test]
fn xclient_announces_only_what_the_server_knows() {
    let Ok(Command::Xclient(all)) = parse("XCLIENT NAME=c.example ADDR=192.0.2.1 LOGIN=a+40b DESTPORT=25") else {
        panic!("not XCLIENT")
    };
    assert_eq!(all.login.as_deref(), Some("a@b"));
    assert_eq!(all.limited_to(&["ADDR".into()]).to_string(), " NAME=[UNAVAILABLE] ADDR=192.0.2.1");
}

#[test]
fn an_unknown_verb_is_written_as_no_known_one() {
    for line in ["\u{17f}tarttls", "\u{fb06}arttls", "ma\u{131}l from:<>", &"x".repeat(999)] {
        let command = parse(line).unwrap();
        assert!(matches!(command, Command::Unknown(_)), "{command:?}");
        assert_eq!(parse(&command.to_string()), Ok(command));
    }
}

#[test]
fn verbs_are_found_in_broken_lines() {
    assert_eq!(Verb::of(b"rcpt to:"), Verb::Rcpt);
    assert_eq!(Verb::of(b"RCPTX"), Verb::Unknown);
}

proptest! {
    #[test]
    fn arbitrary_lines_never_panic_and_never_grow_lines(line in "(MAIL FROM:<|RCPT TO:<|XCLIENT |AUTH |)[ -~äö\\x00-\\x1f]{0,60}(>[ A-Z=+0-9]{0,30})?") {
        if let Ok(command) = parse(&line) {
            let shown = command.to_string();
            prop_assert!(!shown.contains(['\r', '\n', '\0']));
        }
    }
}
