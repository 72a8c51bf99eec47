//! Sessions that are served without a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Scribe, Talk};
use crate::Reply;
use crate::mediator::{Mediator, StandIn};

fn talk() -> Talk {
    let now = Instant::now();
    let settings =
        StandIn { name: "mx.example".into(), refusal: Reply::new(451, (4, 3, 2), "busy"), deadlines: Arc::default() };
    let mut host = Scribe::default();
    let mediator = Mediator::stand_in(settings, now, &mut host);
    Talk { host, ..Talk::new(mediator, now) }
}

const HELLO: &str = "
    c 220 mx.example ESMTP
    C EHLO msa
    c 250-mx.example
    c 250-PIPELINING
    c 250-8BITMIME
    c 250-SMTPUTF8
    c 250-DSN
    c 250-ENHANCEDSTATUSCODES
    c 250-CHUNKING
    c 250-BINARYMIME
    c 250-REQUIRETLS
    c 250-SIZE
    c 250 DELIVERBY";

#[test]
fn a_message_is_delayed_and_the_session_lives() {
    for chunk in [1, 2, 7, usize::MAX] {
        let mut talk = talk();
        talk.chunk = chunk;
        assert_eq!(talk.actions(), [], "nobody is dialled");
        talk.run(HELLO);
        // One command at a time, then all at once: every reply in its turn, none of them final for a recipient.
        talk.run(
            "C MAIL FROM:<a@b.example> SIZE=99999999999
            c 451 4.3.2 busy
            C RSET
            c 250 2.0.0 ok",
        );
        talk.client(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@mx.example>\r\nDATA\r\nNOOP\r\n");
        talk.run(
            "c 451 4.3.2 busy
            c 451 4.3.2 busy
            c 451 4.3.2 busy
            c 250 2.0.0 ok
            C QUIT
            c 221 2.0.0 bye
            !close client",
        );
        assert!(talk.told("<| 451 4.3.2 busy") && talk.told("ended Quit"), "{:?}", talk.host.events);
    }
}

#[test]
fn a_chunk_is_swallowed() {
    let mut talk = talk();
    talk.run(HELLO);
    talk.client(b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\nBDAT 6\r\nQUIT\r\nBDAT 0 LAST\r\nNOOP\r\n");
    talk.run(
        "c 451 4.3.2 busy
        c 451 4.3.2 busy
        c 451 4.3.2 busy
        c 250 2.0.0 ok",
    );
    assert_eq!(talk.mediator.ending(), None, "QUIT was content");
}

#[test]
fn helo_and_senseless_clients() {
    let mut talk = talk();
    talk.run(
        "c 220 mx.example ESMTP
        C MAIL FROM:<a@b.example>
        c 503 5.5.1 say EHLO first
        C HELO msa
        c 250 mx.example
        C STARTTLS
        c 502 5.5.1 STARTTLS is not offered here
        C AUTH PLAIN c2VjcmV0
        c 503 5.5.1 AUTH is not possible now
        C XCLIENT NAME=x
        c 550 5.7.0 not authorized
        C WHATEVER
        c 500 5.5.2 command not recognized",
    );
    assert!(!talk.host.events.iter().any(|event| event.contains("c2VjcmV0")));
    for _ in 0..46 {
        talk.client(b"MAIL FROM:<a@b.example>\r\n");
    }
    assert!(talk.told_client().ends_with("421 4.7.0 too many errors\r\n"));
    talk.run("!close client");
}

#[test]
fn it_ends_with_its_client_with_silence_and_with_the_program() {
    let mut left = talk();
    left.run("c 220 mx.example ESMTP\n!client closes\n!close client");
    assert!(left.told("ended ClientLost"));
    let mut silent = talk();
    silent.run(HELLO);
    silent.silence(Duration::from_secs(300));
    silent.run("c 421 4.4.2 timeout\n!close client");
    let mut drained = talk();
    drained.run("c 220 mx.example ESMTP\n!drain\nc 421 4.3.2 going down; try again\n!close client");
}
