//! Towards an MX: EHLO withheld until TLS is settled. Beyond the dialogues of the table: what is told of it, and bounds.

use super::{Talk, TlsPolicy};

const TLS_ROAD: &str = "
    !dial
    S 220 mx.example ESMTP
    c 220 mx.example ESMTP
    C EHLO msa.example
    s EHLO out.example
    S 250-mx.example hello
    S 250-STARTTLS
    S 250 SIZE 1000
    s STARTTLS
    S 220 go ahead
    !handshake verified
    s EHLO out.example
    S 250-mx.example hello
    S 250-SIZE 2000
    S 250-AUTH PLAIN
    S 250-X-UNHEARD-OF
    S 250-STARTTLS
    S 250-REQUIRETLS
    S 250 PIPELINING
    c 250-mx.example
    c 250-PIPELINING
    c 250-REQUIRETLS
    c 250 SIZE 2000
    C MAIL FROM:<a@b.example>
    s MAIL FROM:<a@b.example>
    S 250 2.1.0 ok
    c 250 2.1.0 ok
    C QUIT
    s QUIT
    S 221 2.0.0 bye
    c 221 2.0.0 bye
    !close server
    !close client";

#[test]
fn ehlo_is_answered_with_what_holds_under_tls() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(TLS_ROAD);
    assert_eq!(
        talk.host.events,
        [
            "<- 220 mx.example ESMTP",
            ">| EHLO msa.example",
            "|> EHLO out.example",
            "|< 250 mx.example hello STARTTLS SIZE 1000",
            "offered mx.example: STARTTLS, SIZE 1000",
            "|> STARTTLS",
            "|< 220 go ahead",
            "|> EHLO out.example",
            "|< 250 mx.example hello SIZE 2000 AUTH PLAIN X-UNHEARD-OF STARTTLS REQUIRETLS PIPELINING",
            "offered mx.example: SIZE 2000, AUTH PLAIN, X-UNHEARD-OF, STARTTLS, REQUIRETLS, PIPELINING",
            "<| 250 mx.example PIPELINING REQUIRETLS SIZE 2000",
            "-> MAIL FROM:<a@b.example>",
            "mail <a@b.example>",
            "<- 250 2.1.0 ok",
            "-> QUIT",
            "<- 221 2.0.0 bye",
            "ended Quit",
        ]
    );
}

#[test]
fn split_at_every_byte() {
    for chunk in 1..40 {
        let mut talk = Talk::outbound(TlsPolicy::Require);
        talk.chunk = chunk;
        talk.run(TLS_ROAD);
    }
}

#[test]
fn a_dial_that_fails_is_told_as_the_greeting() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(
        "!dial fails
        c 421 4.4.1 no way
        !drop server
        !close client",
    );
    assert!(talk.told("ended Unreachable"));
}

#[test]
fn replies_behind_the_220_of_starttls_are_dropped() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(
        "!dial
        S 220 mx
        c 220 mx
        C EHLO msa
        s EHLO out.example
        S 250-mx
        S 250 STARTTLS
        s STARTTLS",
    );
    talk.server(b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n");
    assert!(!talk.mediator.wants_server(), "nothing may be read in the clear any more");
    talk.run(
        "!handshake
        s EHLO out.example
        S 250-mx
        S 250 SIZE 7
        c 250-mx
        c 250 SIZE 7",
    );
    assert!(talk.told("injected 24"));
}

const UP_TO_STARTTLS: &str = "
    !dial
    S 220 mx
    c 220 mx
    C EHLO msa
    s EHLO out.example
    S 250-mx
    S 250-SIZE 9
    S 250 STARTTLS
    s STARTTLS";

#[test]
fn tls_that_is_required_is_had_or_the_session_ends_with_421() {
    let not_offered = "
        !dial
        S 220 mx
        c 220 mx
        C EHLO msa
        s EHLO out.example
        S 250 mx
        c 421 4.7.4 TLS is required and the server does not offer it
        s QUIT
        !close server
        !close client";
    for policy in [TlsPolicy::Require, TlsPolicy::Verify] {
        Talk::outbound(policy).run(not_offered);
        for failure in
            ["S 220 go\n!handshake fails", "!server closes", "S 220 go\n!handshake\ns EHLO out.example\n!server closes"]
        {
            let failure = if policy == TlsPolicy::Verify {
                failure.replace("!handshake\n", "!handshake verified\n")
            } else {
                failure.into()
            };
            let mut talk = Talk::outbound(policy);
            talk.run(UP_TO_STARTTLS);
            talk.run(&format!(
                "{failure}\nc 421 4.7.5 TLS is required and could not be established\n!drop server\n!close client"
            ));
            assert!(talk.told("ended TlsFailed"));
        }
    }
    let mut talk = Talk::outbound(TlsPolicy::Require);
    talk.run(UP_TO_STARTTLS);
    talk.run(
        "S 454 no\nc 421 4.7.5 TLS is required and could not be established\ns QUIT\n!close server\n!close client",
    );
    let mut talk = Talk::outbound(TlsPolicy::Verify);
    talk.run(UP_TO_STARTTLS);
    talk.run("S 220 go\n!handshake\nc 421 4.7.5 TLS is required and could not be established");
    let mut talk = Talk::outbound(TlsPolicy::Verify);
    talk.run(UP_TO_STARTTLS);
    talk.run("S 220 go\n!handshake verified\ns EHLO out.example");
}

#[test]
fn what_is_pipelined_behind_ehlo_is_held() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial\nS 220 mx\nc 220 mx");
    talk.client(b"EHLO msa\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n");
    talk.run(
        "s EHLO out.example
        S 250 mx
        c 250 mx
        s MAIL FROM:<a@b.example>
        s RCPT TO:<c@d.example>",
    );
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example");
    while talk.mediator.wants_client() {
        talk.client(&[b'x'; 4096]);
    }
    assert!(talk.mediator.input.len() < 2 * super::MAX_HELD);
}

#[test]
fn a_refused_greeting_is_passed_and_only_quit_is_left() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(
        "!dial
        S 554-5.7.1 you are on
        S 554 5.7.1 a list
        c 554-5.7.1 you are on
        c 554 5.7.1 a list
        C EHLO msa
        c 554-5.7.1 you are on
        c 554 5.7.1 a list
        !server closes
        c 421 4.4.2 lost the connection to the server
        !drop server
        !close client",
    );
    assert!(talk.told("ended ServerRefused"));
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run("!dial\nS 421 4.3.2 busy\nc 421 4.3.2 busy\n!drop server\n!close client");
}

#[test]
fn garbage_instead_of_a_greeting() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"\0\0\0\0\r\n", &[b'2'; 10_000]] {
        let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
        talk.run("!dial");
        talk.server(garbage);
        talk.run("c 421 4.5.0 the server broke the protocol\n!drop server\n!close client");
    }
}

#[test]
fn requiretls_is_offered_only_by_a_server_that_proved_who_it_is() {
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(UP_TO_STARTTLS);
    talk.run(
        "S 220 go
        !handshake
        s EHLO out.example
        S 250-mx
        S 250 REQUIRETLS
        c 250 mx
        C MAIL FROM:<a@b.example> REQUIRETLS
        c 550 5.7.30 REQUIRETLS support required",
    );
    // What was pipelined behind it is answered here: the server knows of no MAIL.
    talk.client(b"RCPT TO:<c@d.example>\r\nDATA\r\n");
    talk.run(
        "c 550 5.7.30 REQUIRETLS support required
        c 550 5.7.30 REQUIRETLS support required
        C MAIL FROM:<a@b.example>
        s MAIL FROM:<a@b.example>",
    );
    let mut talk = Talk::outbound(TlsPolicy::Opportunistic);
    talk.run(UP_TO_STARTTLS);
    talk.run(
        "S 220 go
        !handshake verified
        s EHLO out.example
        S 250-mx
        S 250 REQUIRETLS
        c 250-mx
        c 250 REQUIRETLS
        C MAIL FROM:<a@b.example> REQUIRETLS
        s MAIL FROM:<a@b.example> REQUIRETLS",
    );
    // A server in the clear may say what it likes.
    let mut talk = Talk::outbound(TlsPolicy::Off);
    talk.run(
        "!dial
        S 220 mx
        c 220 mx
        C EHLO msa
        s EHLO out.example
        S 250-mx
        S 250 REQUIRETLS
        c 250 mx
        C MAIL FROM:<a@b.example> REQUIRETLS
        c 550 5.7.30 REQUIRETLS support required",
    );
}

#[test]
fn there_is_nothing_to_go_on_with_before_a_message() {
    for opening in ["", "S 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example"] {
        let mut talk = Talk::outbound(TlsPolicy::Off);
        talk.run(&format!("!dial\n{opening}\nS 354 go on\nc 421 4.5.0 the server broke the protocol\ns QUIT\n!close server\n!close client"));
    }
}
