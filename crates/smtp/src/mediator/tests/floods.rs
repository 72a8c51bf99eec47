//! Peers that never stop: what is held stays bounded, and the client has a reply in the end.

use std::time::Duration;

use super::{HIGH_WATER, MAX_FRUITLESS, MAX_PIPELINE, Talk, TlsPolicy};

const MINUTE: Duration = Duration::from_secs(60);

/// As much as one read brings.
const READ: usize = 32 * 1024;

#[test]
fn a_server_that_never_ends_its_reply() {
    for flood in [&b"2"[..], b"220-and on\r\n", b"220-", b"\n", b"220 \0", b"\xff"] {
        for greeting in [true, false] {
            let mut talk = if greeting { Talk::outbound(TlsPolicy::Opportunistic) } else { Talk::relaying() };
            talk.run(if greeting { "!dial" } else { "C NOOP\ns NOOP" });
            let piece = flood.repeat(READ / flood.len());
            let mut read = 0;
            // Up to a gigabyte.
            while talk.mediator.wants_server() && read < 1 << 30 {
                talk.server(&piece);
                read += piece.len();
            }
            assert!(read <= 5 * READ, "{flood:?}: {read} bytes were read");
            talk.run("c 421 4.5.0 the server broke the protocol\n!drop server\n!close client");
        }
    }
}

#[test]
fn a_server_that_says_a_byte_a_minute() {
    let mut talk = Talk::relaying();
    talk.run("C MAIL FROM:<>\ns MAIL FROM:<>");
    for byte in b"250-" {
        talk.now += MINUTE;
        talk.server(&[*byte]);
    }
    talk.silence(MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial");
    for byte in b"220-" {
        talk.now += MINUTE;
        talk.server(&[*byte]);
    }
    talk.silence(MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
}

#[test]
fn a_server_that_says_a_line_a_minute() {
    let mut talk = Talk::relaying();
    talk.run("C NOOP\ns NOOP");
    for _ in 0..4 {
        talk.now += MINUTE;
        talk.server(b"250-and on\r\n");
    }
    talk.silence(MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
}

#[test]
fn commands_without_a_message_are_counted() {
    for command in ["RSET\r\n", "NOOP\r\n", "VRFY x\r\n", "HELP\r\n", "MAIL FROM:<>\r\n", "EHLO again\r\n"] {
        let mut talk = Talk::relaying();
        let answer = || "250 ok\r\n";
        let mut given = 0;
        while talk.mediator.wants_client() && given <= 10 * MAX_FRUITLESS {
            talk.client(command.as_bytes());
            talk.server(answer().as_bytes());
            given += 1;
            if given < MAX_FRUITLESS {
                talk.told_client();
            }
        }
        assert!(given.abs_diff(MAX_FRUITLESS) <= 1, "{command:?}: {given}");
        assert!(talk.told_client().ends_with("421 4.7.0 too many commands without a message\r\n"), "{command:?}");
        assert!(talk.told("ended Violation(\"too many commands\")"));
    }
    // Neither before EHLO.
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial\nS 220 mx\nc 220 mx");
    talk.client("RSET\r\n".repeat(MAX_FRUITLESS + 1).as_bytes());
    while talk.mediator.wants_client() || !talk.mediator.to_client.is_empty() {
        let told = talk.told_client();
        talk.mediator.wrote(talk.now, &mut talk.host);
        if told.ends_with("421 4.7.0 too many commands without a message\r\n") {
            return;
        }
        assert!(!told.is_empty(), "nobody said why");
    }
    panic!("the session ended without a reply");
}

#[test]
fn a_thousand_messages_pass_in_one_session() {
    let mut talk = Talk::relaying();
    for number in 0..1_000 {
        talk.client(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
        assert_eq!(talk.told_server(), "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
        talk.server(b"250 ok\r\n250 ok\r\n354 go\r\n");
        assert_eq!(talk.told_client(), "250 ok\r\n250 ok\r\n354 go\r\n");
        talk.client(b"Subject: x\r\n\r\n.\r\nRSET\r\nNOOP\r\n");
        assert_eq!(talk.told_server(), "Subject: x\r\n\r\n.\r\nRSET\r\nNOOP\r\n");
        talk.server(format!("250 queued as {number}\r\n250 ok\r\n250 ok\r\n").as_bytes());
        assert_eq!(talk.told_client(), format!("250 queued as {number}\r\n250 ok\r\n250 ok\r\n"));
    }
    talk.run("C QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client");
}

#[test]
fn a_chunk_without_an_end_has_an_hour() {
    let mut talk = Talk::relaying();
    talk.client(format!("BDAT {}\r\n", u64::MAX).as_bytes());
    for _ in 0..60 {
        talk.client(&[b'x'; READ]);
        talk.told_server();
        talk.now += MINUTE;
    }
    talk.silence(Duration::ZERO);
    talk.run("c 421 4.4.2 timeout\n!drop server\n!close client");
}

#[test]
fn a_client_that_reads_no_replies_is_not_answered_without_bound() {
    let mut talk = Talk::relaying();
    let reply = format!("{}250 end\r\n", format!("250-{}\r\n", "x".repeat(400)).repeat(100));
    talk.client("NOOP\r\n".repeat(MAX_PIPELINE).as_bytes());
    talk.told_server();
    while talk.mediator.wants_server() {
        talk.server(reply.as_bytes());
    }
    assert!(talk.mediator.to_client.len() < HIGH_WATER + 2 * reply.len());
    assert!(!talk.mediator.wants_client());
}

#[test]
fn a_command_without_an_end_is_not_kept_and_no_sign_of_life() {
    let mut talk = Talk::relaying();
    for _ in 0..4 {
        talk.client(&[b'x'; READ]);
        assert!(talk.mediator.input.len() <= 2 * READ && talk.mediator.wants_client());
        talk.now += MINUTE;
    }
    talk.silence(MINUTE);
    assert!(talk.told_client().ends_with("421 4.4.2 timeout\r\n"));
}
