//! Deadlines: who was silent, and what comes of it.

use std::time::Duration;

use super::{Talk, TlsPolicy};

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
