//! STARTTLS of the client: nothing from before it counts behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Scribe, Talk, TlsPolicy, outbound};
use crate::Reply;
use crate::mediator::{ClientTls, Ending, Mediator, StandIn};

fn talk(tls: ClientTls) -> Talk {
    let now = Instant::now();
    Talk::new(Mediator::outbound(outbound(TlsPolicy::Off), now).offering_tls(tls), now)
}

const HELLO: &str = "
    !dial
    S 220 mx ESMTP
    c 220 mx ESMTP
    C EHLO msa
    s EHLO out.example
    S 250-mx
    S 250 PIPELINING
    c 250-mx
    c 250-PIPELINING
    c 250 STARTTLS";

/// Behind STARTTLS: EHLO from memory, and the server sees a RSET.
const HELLO_AGAIN: &str = "
    C EHLO msa
    c 250-mx
    c 250 PIPELINING
    s RSET
    S 250 ok";

fn offered() -> Talk {
    let mut talk = talk(ClientTls::Offered);
    talk.run(HELLO);
    talk.host.events.clear();
    talk
}

#[test]
fn a_message_under_tls() {
    for chunk in [1, 2, 7, usize::MAX] {
        let mut talk = talk(ClientTls::Required);
        talk.chunk = chunk;
        talk.run(HELLO);
        talk.host.events.clear();
        talk.run(
            "C STARTTLS
            c 220 2.0.0 go ahead
            !secure client",
        );
        talk.run(HELLO_AGAIN);
        talk.run(
            "C MAIL FROM:<a@b.example>
            s MAIL FROM:<a@b.example>
            S 250 ok
            c 250 ok
            C QUIT
            s QUIT
            S 221 bye
            c 221 bye
            !close server
            !close client",
        );
        assert_eq!(
            talk.host.events[..6],
            [">| STARTTLS", "<| 220 2.0.0 go ahead", ">| EHLO msa", "<| 250 mx PIPELINING", "|> RSET", "|< 250 ok"]
        );
    }
}

#[test]
fn what_is_pipelined_behind_it_is_dropped() {
    let mut talk = offered();
    talk.client(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@b.example>\r\nRCPT");
    assert!(!talk.mediator.wants_client(), "the rest is the handshake's");
    talk.run(
        "c 220 2.0.0 go ahead
        !secure client",
    );
    assert!(talk.mediator.wants_client());
    talk.run(HELLO_AGAIN);
    assert!(talk.told("pipelined 43") && !talk.told(">| EHLO evil"), "{:?}", talk.host.events);
}

#[test]
fn it_waits_for_its_turn() {
    let mut talk = offered();
    talk.client(b"NOOP\r\nRSET\r\nSTARTTLS\r\nMAIL FROM:<evil@b.example>\r\n");
    talk.run(
        "s NOOP
        s RSET
        !nothing
        S 250 noop
        c 250 noop
        !nothing
        S 250 rset
        c 250 rset
        c 220 2.0.0 go ahead
        !secure client",
    );
    talk.run(HELLO_AGAIN);
}

#[test]
fn an_ehlo_that_ends_a_transaction_makes_room_for_it() {
    let mut talk = offered();
    talk.run(
        "C MAIL FROM:<a@b.example>
        s MAIL FROM:<a@b.example>
        S 250 ok
        c 250 ok
        C EHLO msa
        s RSET
        c 250-mx
        c 250-PIPELINING
        c 250 STARTTLS
        C STARTTLS
        !nothing
        S 250 reset
        c 220 2.0.0 go ahead
        !secure client",
    );
    talk.run(HELLO_AGAIN);
}

#[test]
fn not_in_a_transaction() {
    let mut talk = offered();
    talk.client(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\nRCPT TO:<c@mx.example>\r\n");
    talk.run(
        "s MAIL FROM:<a@b.example>
        S 250 ok
        c 250 ok
        c 503 5.5.1 not in a mail transaction
        s RCPT TO:<c@mx.example>
        S 250 rcpt
        c 250 rcpt
        !nothing",
    );
}

#[test]
fn not_twice_not_before_ehlo_and_not_with_a_parameter() {
    let mut talk = talk(ClientTls::Offered);
    talk.run(
        "!dial
        S 220 mx ESMTP
        c 220 mx ESMTP
        C STARTTLS
        c 503 5.5.1 say EHLO first
        C EHLO msa
        s EHLO out.example
        S 250 mx
        c 250-mx
        c 250 STARTTLS",
    );
    talk.client(b"STARTTLS now\r\n");
    assert!(talk.told_client().starts_with("501 "));
    talk.run(
        "C STARTTLS
        c 220 2.0.0 go ahead
        !secure client
        C MAIL FROM:<a@b.example>
        c 503 5.5.1 say EHLO first
        C STARTTLS
        c 503 5.5.1 say EHLO first
        C HELO msa
        c 250 mx
        s RSET
        S 250 ok
        C STARTTLS
        c 503 5.5.1 TLS is there already
        !nothing",
    );
}

#[test]
fn not_where_it_is_not_offered() {
    let mut talk = Talk::relaying();
    talk.run(
        "C STARTTLS
        c 502 5.5.1 STARTTLS is not offered here
        !nothing",
    );
}

#[test]
fn a_handshake_that_fails_ends_the_session() {
    let mut talk = offered();
    talk.client(b"STARTTLS\r\nQUIT\r\n");
    talk.run(
        "c 220 2.0.0 go ahead
        !securing client fails
        s QUIT
        !close server
        !close client",
    );
    assert_eq!(talk.mediator.ending(), Some(Ending::ClientLost));
}

#[test]
fn mail_waits_for_it_where_it_is_required() {
    let mut talk = talk(ClientTls::Required);
    talk.run(HELLO);
    talk.client(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@mx.example>\r\nDATA\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    talk.run(
        "c 530 5.7.0 must issue a STARTTLS command first
        c 530 5.7.0 must issue a STARTTLS command first
        c 530 5.7.0 must issue a STARTTLS command first
        c 530 5.7.0 must issue a STARTTLS command first
        s NOOP
        S 250 ok
        c 250 ok",
    );
    assert_eq!(talk.mediator.ending(), None, "QUIT was content");
}

#[test]
fn a_stand_in_offers_it_too() {
    let now = Instant::now();
    let refusal = Reply::new(451, (4, 3, 2), "busy");
    let settings = StandIn { name: "mx.example".into(), refusal, deadlines: Arc::default() };
    let mut host = Scribe::default();
    let mediator = Mediator::stand_in(settings, now, &mut host).offering_tls(ClientTls::Required);
    let mut talk = Talk { host, ..Talk::new(mediator, now) };
    talk.run("c 220 mx.example ESMTP\nC STARTTLS\nc 503 5.5.1 say EHLO first");
    talk.client(b"EHLO msa\r\n");
    assert!(talk.told_client().ends_with("DELIVERBY\r\n250 STARTTLS\r\n"));
    talk.client(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\nMAIL FROM:<evil@b.example>\r\n");
    talk.run(
        "c 530 5.7.0 must issue a STARTTLS command first
        c 220 2.0.0 go ahead
        !secure client
        C MAIL FROM:<a@b.example>
        c 503 5.5.1 say EHLO first",
    );
    talk.client(b"EHLO msa\r\n");
    assert!(talk.told_client().ends_with("250 DELIVERBY\r\n"));
    talk.run(
        "C MAIL FROM:<a@b.example>
        c 451 4.3.2 busy
        C QUIT
        c 221 2.0.0 bye
        !close client",
    );
}

#[test]
fn whoever_is_silent_under_tls_is_given_up() {
    let mut talk = offered();
    talk.run("C STARTTLS\nc 220 2.0.0 go ahead");
    assert_eq!(talk.mediator.deadline(), None, "the driver has its own");
    talk.run("!secure client");
    talk.silence(Duration::from_secs(300));
    talk.run("s QUIT\nc 421 4.4.2 timeout\n!close server\n!close client");
}
