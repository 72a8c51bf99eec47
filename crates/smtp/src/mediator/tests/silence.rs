//! Deadlines: who was silent, and what comes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Deadlines, Mediator, Outbound, Talk, TlsPolicy, leg};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_silent_server() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial");
    talk.silence(5 * MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
    assert!(talk.told("ended TimedOut"));

    let mut talk = Talk::relaying();
    talk.run("C MAIL FROM:<>\ns MAIL FROM:<>");
    talk.silence(5 * MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
}

#[test]
fn a_server_that_stalls_in_starttls_is_dialled_in_the_clear() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example\nS 250-mx\nS 250 STARTTLS\ns STARTTLS");
    talk.silence(MINUTE);
    talk.run("!drop server\n!dial\nS 220 mx\ns EHLO out.example\nS 250 mx\nc 250 mx");
}

#[test]
fn the_reply_to_data_and_to_its_end() {
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA");
    talk.silence(2 * MINUTE);
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA\nS 354 go\nc 354 go\nC x\ns x\nC .\ns .");
    talk.silence(10 * MINUTE);
}

#[test]
fn a_silent_client() {
    let mut talk = Talk::relaying();
    talk.silence(5 * MINUTE);
    talk.run("c 421 4.4.2 timeout\ns QUIT\n!close server\n!close client");
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA\nS 354 go\nc 354 go\nC x\ns x");
    talk.silence(3 * MINUTE);
    talk.run("c 421 4.4.2 timeout\n!drop server\n!close client");
}

#[test]
fn a_server_that_takes_no_content() {
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA\nS 354 go\nc 354 go");
    while talk.mediator.wants_client() {
        talk.client(&b"0123456789abcde\r\n".repeat(500));
    }
    assert!(talk.mediator.to_server().len() < 2 * super::HIGH_WATER);
    talk.silence(3 * MINUTE);
    talk.run("!drop server\nC x\nC .\nc 421 4.4.2 the server does not answer\n!close client");
}

#[test]
fn half_a_command_is_no_sign_of_life() {
    let mut talk = Talk::relaying();
    for _ in 0..4 {
        talk.now += MINUTE;
        talk.client(b"N");
    }
    talk.silence(MINUTE);
    talk.run("c 421 4.4.2 timeout\ns QUIT\n!close server\n!close client");
}

#[test]
fn a_byte_a_minute_does_not_hold_a_session_for_ever() {
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA\nS 354 go\nc 354 go");
    for _ in 0..59 {
        talk.now += MINUTE;
        talk.client(b"x");
        assert_eq!(talk.told_server(), "x");
    }
    talk.silence(MINUTE);
    talk.run("c 421 4.4.2 timeout\n!drop server\n!close client");

    let mut talk = Talk::relaying();
    for minutes in 0..60 {
        talk.client(b"BDAT 1\r\nx");
        talk.server(b"250 ok\r\n");
        assert_eq!(
            (talk.told_client().as_str(), talk.told_server().as_str()),
            ("250 ok\r\n", "BDAT 1\r\nx"),
            "{minutes}"
        );
        talk.now += MINUTE;
    }
    talk.silence(Duration::ZERO);
    talk.run("c 421 4.4.2 timeout\ns QUIT\n!close server\n!close client");
}

#[test]
fn the_next_message_has_its_own_time() {
    let mut talk = Talk::relaying();
    for last in ["RSET\r\n", "EHLO again\r\n", "BDAT 0 LAST\r\n"] {
        talk.client(b"BDAT 1\r\nx");
        talk.server(b"250 ok\r\n");
        talk.client(last.as_bytes());
        talk.server(b"250 ok\r\n");
        talk.told_client();
        talk.told_server();
        talk.now += 59 * MINUTE;
        talk.client(b"NOOP\r\n");
        talk.server(b"250 ok\r\n");
        talk.told_client();
        talk.told_server();
        assert_eq!(talk.mediator.deadline(), Some(talk.now + 5 * MINUTE), "{last}");
    }
}

#[test]
fn ehlo_ends_the_transaction_that_a_drain_would_wait_for() {
    let mut talk = Talk::relaying();
    talk.run("C MAIL FROM:<a@x.example>\ns MAIL FROM:<a@x.example>\nS 250 ok\nc 250 ok");
    talk.client(b"EHLO again\r\n");
    assert_eq!(talk.told_server(), "RSET\r\n");
    talk.server(b"250 ok\r\n");
    talk.told_client();
    talk.run("!drain\nc 421 4.3.2 going down; try again\ns QUIT\n!close server\n!close client");
}

/// Every deadline with a length of its own.
fn distinct() -> Deadlines {
    let seconds = Duration::from_secs;
    Deadlines {
        greeting: seconds(1),
        hello: seconds(2),
        mail: seconds(3),
        rcpt: seconds(4),
        command: seconds(5),
        data: seconds(6),
        content: seconds(7),
        transfer: seconds(100),
        end_of_data: seconds(9),
        client: seconds(10),
        moving: seconds(11),
    }
}

#[test]
fn every_wait_has_its_own_deadline() {
    let steps = [
        ("!dial", 1),
        ("S 220 mx\nc 220 mx", 10),
        ("C EHLO msa\ns EHLO out.example", 2),
        ("S 250-mx\nS 250 STARTTLS\ns STARTTLS", 2),
        ("S 220 go\n!handshake\ns EHLO out.example", 2),
        ("S 250 mx\nc 250 mx", 10),
        ("C MAIL FROM:<>\ns MAIL FROM:<>", 3),
        ("S 250 ok\nc 250 ok\nC RCPT TO:<a@mx.example>\ns RCPT TO:<a@mx.example>", 4),
        ("S 250 ok\nc 250 ok\nC NOOP\ns NOOP", 5),
        ("S 250 ok\nc 250 ok\nC RSET\ns RSET", 5),
        ("S 250 ok\nc 250 ok\nC DATA\ns DATA", 6),
        ("S 354 go\nc 354 go", 7),
        ("C x\ns x", 7),
        ("C .\ns .", 9),
        ("S 250 ok\nc 250 ok", 10),
        ("C QUIT\ns QUIT", 5),
    ];
    // Up to each of them, and then silence.
    for last in 0..steps.len() {
        let now = Instant::now();
        let settings = Outbound { leg: leg(TlsPolicy::Require), deadlines: Arc::new(distinct()) };
        let mut talk = Talk::new(Mediator::outbound(settings, now), now);
        for (step, _) in &steps[..=last] {
            talk.run(step);
        }
        let before = talk.mediator.deadline();
        assert_eq!(before, Some(talk.now + Duration::from_secs(steps[last].1)), "after {}", steps[last].0);
        talk.silence(Duration::from_secs(steps[last].1));
        let told = talk.told_client();
        assert!(told.starts_with("421 4.") || told.starts_with("221 ") || steps[last].0 == "C x\ns x", "{told:?}");
    }
}
