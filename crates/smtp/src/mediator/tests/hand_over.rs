//! The front door's session towards the tenant's MSA.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::Extensions;
use crate::command::Xclient;

fn hand_over(redials: u8) -> Talk {
    let now = Instant::now();
    let settings = HandOver {
        xclient: Some(Xclient { login: Some("alice@acme.example".into()), ..Xclient::default() }),
        redials,
        ehlo_name: "mail.example".into(),
        ehlo_reply: Extensions { pipelining: true, ..Extensions::default() }.to_reply("mail.example"),
        deadlines: Arc::default(),
    };
    let judge = |line: &str| {
        let theirs = line.contains("eve@");
        theirs.then(|| Reply::new(553, (5, 7, 1), "not your address")).into()
    };
    Talk { host: Scribe { judge, ..Scribe::default() }, ..Talk::new(Mediator::hand_over(settings, now), now) }
}

const OPENED: &str = "
    !dial
    S 220 msa ESMTP
    s XCLIENT NAME=[UNAVAILABLE] LOGIN=alice@acme.example
    S 220 msa ESMTP
    s EHLO mail.example
    S 250-msa
    S 250 XCLIENT NAME LOGIN
    s MAIL FROM:<alice@acme.example> SIZE=5 X-MORE=1";

#[test]
fn the_client_is_introduced_and_then_relayed() {
    let mut talk = hand_over(0);
    talk.client(b"MAIL FROM:<alice@acme.example> SIZE=5 X-MORE=1\r\n");
    talk.run(OPENED);
}

#[test]
fn mail_is_checked_and_passed_as_it_was_understood() {
    let mut talk = hand_over(0);
    talk.run("!dial\nS 220 msa\ns XCLIENT NAME=[UNAVAILABLE] LOGIN=alice@acme.example\nS 220 msa\ns EHLO mail.example\nS 250 msa");
    talk.client(b"MAIL FROM:<eve@acme.example>\r\nRCPT TO:<a@b.example>\r\n");
    talk.run("c 553 5.7.1 not your address\ns RCPT TO:<a@b.example>\nS 503 5.5.1 MAIL first\nc 503 5.5.1 MAIL first");
    talk.run("C mail from: <\"alice\"@ACME.example>\ns MAIL FROM:<alice@ACME.example>\nS 250 ok\nc 250 ok");
}

#[test]
fn a_hello_is_answered_for_the_front_door() {
    let mut talk = hand_over(0);
    talk.run("!dial\nS 220 msa\ns XCLIENT NAME=[UNAVAILABLE] LOGIN=alice@acme.example\nS 220 msa\ns EHLO mail.example\nS 250 msa");
    talk.run("C EHLO me\nc 250-mail.example\nc 250 PIPELINING\ns RSET\nS 250 ok");
    talk.run("C AUTH PLAIN AGEAYg==\nc 503 5.5.1 AUTH is not possible now\nC STARTTLS\nc 502 5.5.1 STARTTLS is not offered here");
}

#[test]
fn an_msa_that_was_falling_asleep_is_dialled_again() {
    let mut talk = hand_over(1);
    talk.client(b"MAIL FROM:<alice@acme.example>\r\n");
    talk.run("!dial\n!server closes\n!drop server");
    talk.run("!dial\nS 220 msa\ns XCLIENT NAME=[UNAVAILABLE] LOGIN=alice@acme.example\nS 220 msa\ns EHLO mail.example\nS 250 msa\ns MAIL FROM:<alice@acme.example>");
    let mut talk = hand_over(1);
    talk.run("!dial\n!server closes\n!drop server\n!dial\n!server closes\nc 421 4.4.2 lost the connection to the server\n!drop server\n!close client");
}

#[test]
fn an_msa_that_refuses_is_a_temporary_failure() {
    let mut talk = hand_over(0);
    talk.run("!dial\nS 220 msa\ns XCLIENT NAME=[UNAVAILABLE] LOGIN=alice@acme.example\nS 550 5.7.0 no\nc 421 4.3.2 the mail service cannot take this session now\n!drop server\n!close client");
}
