//! Commands and replies in their order.

use super::{MAX_ERRORS, MAX_PIPELINE, Talk};

#[test]
fn our_replies_come_in_their_turn() {
    let mut talk = Talk::relaying();
    talk.client(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\nRCPT TO:<c@d.example>\r\nFROB\r\nRCPT TO:<e@f.example>\r\n");
    talk.run(
        "s MAIL FROM:<a@b.example>
        s RCPT TO:<c@d.example>
        s RCPT TO:<e@f.example>
        S 250 2.1.0 sender
        c 250 2.1.0 sender
        c 502 5.5.1 STARTTLS is not offered here
        S 550 5.1.1 nobody
        c 550 5.1.1 nobody
        c 500 5.5.2 command not recognized
        S 250 2.1.5 recipient
        c 250 2.1.5 recipient",
    );
    assert!(talk.told("rcpt <e@f.example>"));
}

#[test]
fn a_second_ehlo_is_answered_from_memory_and_resets() {
    let mut talk = Talk::relaying();
    talk.client(b"MAIL FROM:<a@b.example>\r\nEHLO again\r\nMAIL FROM:<c@d.example>\r\n");
    talk.run(
        "s MAIL FROM:<a@b.example>
        s RSET
        s MAIL FROM:<c@d.example>
        S 250 one
        c 250 one
        c 250-mx
        c 250-PIPELINING
        c 250 CHUNKING
        S 250 reset
        S 250 two
        c 250 two
        C HELO old
        c 250 mx
        s RSET
        S 250 ok",
    );
    assert!(talk.told("|< 250 reset"));
}

#[test]
fn a_reply_of_many_lines_is_passed_at_once() {
    let mut talk = Talk::relaying();
    talk.run("C NOOP\ns NOOP");
    talk.server(b"250-2.0.0 one\r\n250-2.0.0 t");
    assert_eq!(talk.told_client(), "");
    talk.server(b"wo\r\n250 2.0.0 three\r\n");
    talk.run("c 250-2.0.0 one\nc 250-2.0.0 two\nc 250 2.0.0 three");
}

#[test]
fn a_421_that_nobody_asked_for_is_passed() {
    let mut talk = Talk::relaying();
    talk.run("S 421 4.4.2 idle\nc 421 4.4.2 idle\n!drop server\n!close client");
    let mut talk = Talk::relaying();
    talk.client(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n");
    talk.run(
        "s MAIL FROM:<a@b.example>
        s RCPT TO:<c@d.example>
        S 421 4.3.2 shutting down
        c 421 4.3.2 shutting down
        !drop server
        !close client",
    );
}

#[test]
fn a_server_that_talks_too_much_or_nonsense_is_dropped() {
    for nonsense in [&b"250 ok\r\n"[..], b"250-a\r\n550 b\r\n", b"nonsense\r\n", b"250"] {
        let mut talk = Talk::relaying();
        talk.server(nonsense);
        if nonsense == b"250" {
            talk.run("!server closes\nc 421 4.4.2 lost the connection to the server\n!drop server\n!close client");
        } else {
            talk.run("c 421 4.5.0 the server broke the protocol\n!drop server\n!close client");
        }
    }
    for (command, reply) in [("MAIL FROM:<>", "354 go"), ("DATA", "250 ok"), ("DATA", "300 more")] {
        let mut talk = Talk::relaying();
        talk.run(&format!("C {command}\ns {command}\nS {reply}\nc 421 4.5.0 the server broke the protocol\n!drop server\n!close client"));
    }
}

#[test]
fn a_server_that_leaves_costs_the_session_but_never_a_false_reply() {
    let mut talk = Talk::relaying();
    talk.client(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
    talk.run(
        "s MAIL FROM:<a@b.example>
        s RCPT TO:<c@d.example>
        s DATA
        S 250 ok
        c 250 ok
        !server closes
        c 421 4.4.2 lost the connection to the server
        !drop server
        !close client",
    );
    assert!(talk.told("ended ServerLost"));
    let mut talk = Talk::relaying();
    talk.run("C QUIT\ns QUIT\n!server closes\nc 221 2.0.0 bye\n!drop server\n!close client");
    assert!(talk.told("ended Quit"));
}

#[test]
fn a_client_that_leaves_gets_its_server_a_quit() {
    let mut talk = Talk::relaying();
    talk.run("!client closes\ns QUIT\n!close server\n!close client");
    assert!(talk.told("ended ClientLost"));
    let mut talk = Talk::relaying();
    talk.run("C NOOP\ns NOOP\n!client closes\n!nothing\nS 250 ok\nc 250 ok\ns QUIT\n!close server\n!close client");
}

#[test]
fn lines_that_are_none_are_refused() {
    let mut talk = Talk::relaying();
    for (line, reply) in [
        (&b"MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\r\n"[..], "500 5.5.2 bare CR, LF or NUL in a command"),
        (b"NOOP\0\r\n", "500 5.5.2 bare CR, LF or NUL in a command"),
        (b"NOOP\rQUIT\r\n", "500 5.5.2 bare CR, LF or NUL in a command"),
        (b"MAIL TO:<a@b.example>\r\n", "501 5.5.4 syntax error, expected MAIL FROM:<address>"),
        (b"AUTH PLAIN AGEAYg==\r\n", "503 5.5.1 AUTH is not possible now"),
        (b"XCLIENT ADDR=192.0.2.1\r\n", "550 5.7.0 not authorized"),
    ] {
        talk.client(line);
        talk.run(&format!("c {reply}"));
    }
    talk.client(&[b'x'; 60_000]);
    talk.client(b" QUIT\r\n");
    talk.run("c 500 5.5.6 line too long\nC NOOP\ns NOOP\nS 250 ok\nc 250 ok");
    assert!(!talk.host.events.iter().any(|event| event.contains("AGEAYg")));
}

#[test]
fn refusals_are_counted() {
    let mut talk = Talk::relaying();
    for _ in 0..=MAX_ERRORS {
        talk.client(b"FROB\r\n");
    }
    assert!(talk.told_client().ends_with("421 4.7.0 too many errors\r\n"));
    assert_eq!(talk.told_server(), "QUIT\r\n");
}

#[test]
fn a_long_pipeline_waits_instead_of_growing() {
    let mut talk = Talk::relaying();
    talk.client("NOOP\r\n".repeat(MAX_PIPELINE + 10).as_bytes());
    assert!(!talk.mediator.wants_client());
    assert_eq!(talk.told_server().len(), MAX_PIPELINE * 6);
    talk.server("250 ok\r\n".repeat(MAX_PIPELINE).as_bytes());
    assert_eq!(talk.told_server().len(), 10 * 6);
    assert!(talk.mediator.wants_client());
}

#[test]
fn draining_waits_for_the_message() {
    let mut talk = Talk::relaying();
    talk.run("C MAIL FROM:<>\ns MAIL FROM:<>\n!drain\nS 250 ok\nc 250 ok\n!nothing");
    talk.run(
        "C RSET
        s RSET
        S 250 ok
        c 250 ok
        c 421 4.3.2 going down; try again
        s QUIT
        !close server
        !close client",
    );
}
