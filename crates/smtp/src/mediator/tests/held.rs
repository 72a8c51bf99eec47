//! MAIL that waits for the first RCPT, because only that tells who the server has to be.

use super::{Judgement, Leg, Scribe, Talk, TlsPolicy};
use crate::Reply;

fn judge(line: &str) -> Judgement {
    match line {
        mail if mail.starts_with("MAIL") => Judgement::Hold,
        rcpt if rcpt.contains("strict.example") => Judgement::Move,
        rcpt if rcpt.contains("unmet.example") => {
            Judgement::Refuse(Reply::new(451, (4, 7, 5), "the certificate is not the one that unmet.example asks for"))
        }
        _ => Judgement::Pass,
    }
}

fn relaying() -> Talk {
    let mut talk = Talk::relaying();
    talk.host = Scribe { judge, ..Scribe::default() };
    talk
}

#[test]
fn mail_goes_with_the_first_rcpt() {
    let mut talk = relaying();
    talk.run(
        "C MAIL FROM:<a@acme.example>
        c 250 2.1.0 ok
        C RCPT TO:<b@mx.example>
        s MAIL FROM:<a@acme.example>
        C RCPT TO:<c@mx.example>
        S 250 2.1.0 sender
        s RCPT TO:<b@mx.example>
        s RCPT TO:<c@mx.example>
        S 250 2.1.5 b
        S 250 2.1.5 c
        c 250 2.1.5 b
        c 250 2.1.5 c",
    );
    assert_eq!(
        talk.host.events[..7],
        [
            ">| MAIL FROM:<a@acme.example>",
            "<| 250 2.1.0 ok",
            "|> MAIL FROM:<a@acme.example>",
            "mail <a@acme.example>",
            "|< 250 2.1.0 sender",
            "-> RCPT TO:<b@mx.example>",
            "rcpt <b@mx.example>",
        ]
    );
}

#[test]
fn a_refusal_of_it_is_what_the_recipients_get() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@mx.example>\r\nDATA\r\n");
    talk.run(
        "c 250 2.1.0 ok
        s MAIL FROM:<a@acme.example>
        S 550 5.7.1 not from you
        c 550 5.7.1 not from you
        c 550 5.7.1 not from you
        c 550 5.7.1 not from you
        C BDAT 3 LAST",
    );
    talk.client(b"x\r\n");
    talk.run(
        "c 550 5.7.1 not from you
        C RSET
        s RSET
        S 250 ok
        c 250 ok
        C RCPT TO:<b@mx.example>
        s RCPT TO:<b@mx.example>
        S 503 5.5.1 MAIL first
        c 503 5.5.1 MAIL first",
    );
}

#[test]
fn rcpt_tells_which_server_and_it_is_dialled_again() {
    let mut talk = relaying();
    talk.host.legs = [Leg { ehlo_name: "out.example".into(), tls: TlsPolicy::Require }].into();
    talk.run(
        "C MAIL FROM:<a@acme.example>
        c 250 2.1.0 ok
        C RCPT TO:<b@strict.example>
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out.example
        S 250-mx
        S 250 STARTTLS
        s STARTTLS
        S 220 go
        !handshake verified
        s EHLO out.example
        S 250-mx
        S 250-PIPELINING
        S 250 CHUNKING
        s MAIL FROM:<a@acme.example>
        S 250 2.1.0 sender
        s RCPT TO:<b@strict.example>
        S 250 2.1.5 b
        c 250 2.1.5 b
        C RCPT TO:<c@strict.example>
        s RCPT TO:<c@strict.example>
        S 250 2.1.5 c
        c 250 2.1.5 c",
    );
    let mut talk = relaying();
    talk.host.legs = [Leg { ehlo_name: "out.example".into(), tls: TlsPolicy::Require }].into();
    talk.run(
        "C MAIL FROM:<a@acme.example>
        c 250 2.1.0 ok
        C RCPT TO:<b@strict.example>
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out.example
        S 250 mx
        c 451 4.7.4 TLS is required and the server does not offer it
        !drop server",
    );
}

#[test]
fn a_recipient_whose_domain_is_not_satisfied_is_delayed_alone() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@unmet.example>\r\nRCPT TO:<c@mx.example>\r\n");
    talk.client(b"RCPT TO:<d@unmet.example>\r\nDATA\r\n");
    talk.run(
        "c 250 2.1.0 ok
        c 451 4.7.5 the certificate is not the one that unmet.example asks for
        s MAIL FROM:<a@acme.example>
        S 250 2.1.0 sender
        s RCPT TO:<c@mx.example>
        s DATA
        S 250 2.1.5 c
        S 354 go
        c 250 2.1.5 c
        c 451 4.7.5 the certificate is not the one that unmet.example asks for
        c 354 go",
    );
    let mut talk = relaying();
    talk.host.judge = |line| if line.starts_with("MAIL") { Judgement::Pass } else { judge(line) };
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok");
    for _ in 0..=super::MAX_ERRORS {
        talk.run("C RCPT TO:<b@unmet.example>\nc 451 4.7.5 the certificate is not the one that unmet.example asks for");
    }
    talk.run("C RCPT TO:<b@mx.example>\ns RCPT TO:<b@mx.example>");
}

#[test]
fn nothing_else_than_rcpt_brings_it_out() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\nc 250 2.1.0 ok\nC NOOP\ns NOOP\nS 250 ok\nc 250 ok");
    talk.run("C MAIL FROM:<b@acme.example>\nc 503 5.5.1 there is a MAIL already");
    talk.run("C DATA\nc 503 5.5.1 no valid recipients");
    talk.client(b"BDAT 6\r\nQUIT\r\n");
    talk.run("c 503 5.5.1 no valid recipients\nC RSET\ns RSET\nS 250 ok\nc 250 ok");
    talk.run(
        "C MAIL FROM:<b@acme.example>\nc 250 2.1.0 ok\nC EHLO me\nc 250-mx\nc 250-PIPELINING\nc 250 CHUNKING\ns RSET",
    );
    talk.run("S 250 ok\nC MAIL FROM:<c@acme.example>\nc 250 2.1.0 ok\nC QUIT\ns QUIT");
}

#[test]
fn a_pipelined_rset_does_not_take_the_next_mail_along() {
    let mut talk = relaying();
    talk.client(b"RSET\r\nMAIL FROM:<a@acme.example>\r\n");
    talk.run(
        "s RSET\nS 250 reset\nc 250 reset\nc 250 2.1.0 ok\nC RCPT TO:<b@mx.example>\ns MAIL FROM:<a@acme.example>",
    );
}

#[test]
fn requiretls_is_judged_when_it_goes() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example> REQUIRETLS\nc 550 5.7.30 REQUIRETLS support required");
}
