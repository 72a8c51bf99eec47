//! The server refuses the address that the session comes from: one more leg, from another.

use std::time::Duration;

use super::{Action, Leg, Scribe, Talk, TlsPolicy, leg};

/// The second leg's name is `out2.example`.
fn second(talk: Talk, tls: TlsPolicy) -> Talk {
    let legs = [leg(tls), Leg { ehlo_name: "out2.example".into(), tls }].into();
    let host = Scribe { fail_over: |reply| reply.text().contains("listed"), legs, ..Scribe::default() };
    Talk { host, ..talk }
}

fn fresh() -> Talk {
    second(Talk::outbound(TlsPolicy::Off), TlsPolicy::Off)
}

fn relaying() -> Talk {
    let mut talk = second(Talk::relaying(), TlsPolicy::Off);
    talk.host.legs.pop_front();
    talk
}

#[test]
fn at_the_greeting() {
    for (refusal, leave) in
        [("S 554-5.7.1 listed\nS 554 5.7.1 by somebody", "!quit aside"), ("S 421 4.7.0 listed", "!leave aside")]
    {
        let mut talk = fresh();
        talk.run(&format!("!dial\n{refusal}\n!set aside\n!dial\nS 220 mx two\n{leave}\nc 220 mx two"));
        talk.run("C EHLO msa\ns EHLO out2.example\nS 250 mx\nc 250 mx\nC NOOP\ns NOOP");
    }
}

#[test]
fn at_the_greeting_of_both() {
    let mut talk = fresh();
    talk.run(
        "!dial
        S 554 5.7.1 listed
        !set aside
        !dial
        S 554 5.7.1 listed as well
        !take back
        c 554 5.7.1 listed
        C EHLO msa
        c 554 5.7.1 listed
        C QUIT
        s QUIT",
    );
    assert_eq!(
        talk.host.events[..4],
        ["moving at Greeting: 554 5.7.1 listed", "|< 554 5.7.1 listed as well", "stayed", "<- 554 5.7.1 listed",]
    );
    let mut talk = fresh();
    talk.run("!dial\nS 421 4.7.0 listed\n!set aside\n!dial fails\n!take back\nc 421 4.7.0 listed\n!drop server\n!close client");
    assert!(talk.told("ended ServerRefused"));
}

#[test]
fn at_ehlo() {
    for (refusal, leave) in [("550 5.7.1 listed", "quit"), ("450 4.7.1 listed", "quit"), ("421 4.7.0 listed", "leave")]
    {
        let mut talk = fresh();
        talk.run("!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example");
        talk.run(&format!("S {refusal}\n!set aside\n!dial\nS 220 mx\ns EHLO out2.example"));
        talk.run(&format!("S 250-mx\nS 250 SIZE 5\n!{leave} aside\nc 250-mx\nc 250 SIZE 5"));
    }
    // Of no use: what follows is what would have followed.
    let mut talk = fresh();
    talk.run("!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example\nS 550 5.7.1 listed\n!set aside\n!dial fails\n!take back\ns HELO out.example\nS 250 mx\nc 250 mx");
}

#[test]
fn at_the_greeting_of_a_leg_that_is_dialled_again_in_the_clear() {
    let mut talk = second(Talk::outbound(TlsPolicy::Opportunistic), TlsPolicy::Opportunistic);
    talk.host.legs.push_front(leg(TlsPolicy::Opportunistic));
    talk.run(
        "!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example\nS 250-mx\nS 250 STARTTLS\ns STARTTLS\nS 220 go",
    );
    talk.run(
        "!handshake fails\n!drop server\n!dial\nS 554 5.7.1 listed\n!set aside\n!dial\nS 220 mx\ns EHLO out2.example",
    );
    // The client has had its greeting: it waits for the answer to EHLO.
    talk.run("S 250 mx\n!quit aside\nc 250 mx\nC NOOP\ns NOOP");
}

#[test]
fn at_ehlo_under_tls_the_new_leg_has_tls_as_well() {
    let opened = |talk: &mut Talk, handshake: &str| {
        talk.run(
            "!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example\nS 250-mx\nS 250 STARTTLS\ns STARTTLS\nS 220 go",
        );
        talk.driver(handshake);
        talk.run("s EHLO out.example\nS 550 5.7.1 listed\n!set aside\n!dial\nS 220 mx\ns EHLO out2.example");
    };
    let talk = || second(Talk::outbound(TlsPolicy::Opportunistic), TlsPolicy::Opportunistic);
    let mut well = talk();
    opened(&mut well, "handshake");
    well.run("S 250-mx\nS 250 STARTTLS\ns STARTTLS\nS 220 go\n!handshake\ns EHLO out2.example\nS 250 mx\n!quit aside\nc 250 mx");
    let mut clear = talk();
    opened(&mut clear, "handshake");
    clear.run("S 250 mx\n!take back\ns HELO out.example");
    let mut broken = talk();
    opened(&mut broken, "handshake");
    broken.run("S 250-mx\nS 250 STARTTLS\ns STARTTLS\nS 220 go\n!handshake fails\n!take back\ns HELO out.example");
    let mut unverified = talk();
    opened(&mut unverified, "handshake verified");
    unverified.run("S 250-mx\nS 250 STARTTLS\ns STARTTLS\nS 220 go\n!handshake\ns EHLO out2.example\nS 250 mx\n!take back\ns HELO out.example");
}

/// What the second leg says before it takes over; `QUIT` is the last word to the first.
fn ready(talk: &mut Talk, leave: &str) {
    talk.run("!set aside\n!dial\nS 220 mx\ns EHLO out2.example");
    talk.server(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    assert_eq!(talk.actions(), [Action::LeaveAside { quit: leave == "quit" }]);
}

#[test]
fn at_mail() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 550 5.7.1 listed");
    ready(&mut talk, "quit");
    talk.run(
        "s MAIL FROM:<a@acme.example>
        S 250 2.1.0 ok
        c 250 2.1.0 ok
        C RCPT TO:<b@mx.example>
        s RCPT TO:<b@mx.example>
        S 250 2.1.5 ok
        c 250 2.1.5 ok",
    );
    assert_eq!(
        talk.host.events[..9],
        [
            "-> MAIL FROM:<a@acme.example>",
            "mail <a@acme.example>",
            "moving at MAIL: 550 5.7.1 listed",
            "|< 220 mx",
            "|> EHLO out2.example",
            "|< 250 mx PIPELINING CHUNKING",
            "offered mx: PIPELINING, CHUNKING",
            "moved",
            "|> MAIL FROM:<a@acme.example>",
        ]
    );
    // The new leg's own words count then.
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 421 4.7.0 listed");
    ready(&mut talk, "leave");
    talk.run("s MAIL FROM:<a@acme.example>\nS 550 5.7.1 listed as well\nc 550 5.7.1 listed as well\nC NOOP\ns NOOP");
}

#[test]
fn at_rcpt_with_everything_pipelined() {
    for chunk in [1, 3, usize::MAX] {
        let mut talk = relaying();
        talk.chunk = chunk;
        talk.client(
            b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nSTARTTLS\r\nRCPT TO:<c@mx.example>\r\nDATA\r\n",
        );
        talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\ns RCPT TO:<c@mx.example>\ns DATA");
        talk.chunk = usize::MAX;
        // Even a 354: its connection is dropped, without a QUIT that could be content.
        talk.server(b"250 2.1.0 ok\r\n550 5.7.1 listed\r\n550 5.7.1 listed\r\n354 go\r\n");
        talk.run("c 250 2.1.0 ok");
        ready(&mut talk, "leave");
        talk.run(
            "s MAIL FROM:<a@acme.example>
            S 250 2.1.0 ok
            s RCPT TO:<b@mx.example>
            s RCPT TO:<c@mx.example>
            s DATA
            S 250 2.1.5 b
            c 250 2.1.5 b
            c 502 5.5.1 STARTTLS is not offered here
            S 550 5.1.1 no c
            c 550 5.1.1 no c
            S 354 go
            c 354 go
            C x
            C .
            s x
            s .
            S 250 queued
            c 250 queued",
        );
    }
}

#[test]
fn at_the_second_rcpt_only_what_was_not_answered_is_played_again() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok");
    talk.run("C RCPT TO:<b@mx.example>\ns RCPT TO:<b@mx.example>\nS 550 5.1.1 no b\nc 550 5.1.1 no b");
    talk.run("C RCPT TO:<c@mx.example>\ns RCPT TO:<c@mx.example>\nS 554 5.7.1 listed");
    ready(&mut talk, "quit");
    talk.run("s MAIL FROM:<a@acme.example>\nS 250 ok\ns RCPT TO:<c@mx.example>\nS 250 c\nc 250 c");
}

#[test]
fn a_refusal_of_the_played_mail_is_what_the_recipients_get() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@mx.example>\r\nDATA\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\ns RCPT TO:<c@mx.example>\ns DATA");
    talk.run("S 250 2.1.0 ok\nc 250 2.1.0 ok\nS 550 5.7.1 listed");
    ready(&mut talk, "leave");
    talk.run(
        "s MAIL FROM:<a@acme.example>
        S 451 4.7.1 greylisted
        c 451 4.7.1 greylisted
        c 451 4.7.1 greylisted
        c 451 4.7.1 greylisted
        C RCPT TO:<d@mx.example>
        c 451 4.7.1 greylisted
        C RSET
        s RSET
        S 250 ok
        c 250 ok
        C MAIL FROM:<a@acme.example>
        s MAIL FROM:<a@acme.example>",
    );
    // With its last words.
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\nS 250 ok\nc 250 ok\nS 550 5.7.1 listed");
    ready(&mut talk, "quit");
    talk.run("s MAIL FROM:<a@acme.example>\nS 421 4.3.2 no\nc 421 4.3.2 no");
    assert!(talk.told("ended ServerRefused") && talk.actions().ends_with(&[Action::CloseClient]));
}

/// A session whose RCPT was refused, the second leg being under way.
fn refused_at_rcpt() -> Talk {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@mx.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\ns RCPT TO:<c@mx.example>");
    talk.server(b"250 2.1.0 ok\r\n550 5.7.1 listed\r\n250 2.1.5");
    talk.run("c 250 2.1.0 ok\n!set aside");
    talk
}

#[test]
fn a_leg_of_no_use_and_the_first_goes_on_where_it_was() {
    for failure in [
        "!dial fails",
        "!dial\n!server closes",
        "!dial\nS 554 5.7.1 listed",
        "!dial\nS 220 mx\ns EHLO out2.example\nS 250-mx\nS 250 PIPELINING",
        "!dial\nS 220 mx\ns EHLO out2.example\nS 450 no",
        "!dial\nS 220 mx\ns EHLO out2.example\nS 250-mx\nS 250-PIPELINING\nS 250-CHUNKING\nS 250 LIMITS RCPTMAX=1",
    ] {
        let mut talk = refused_at_rcpt();
        talk.run(&format!("{failure}\n!take back\nc 550 5.7.1 listed"));
        // In the midst of the reply that it was giving.
        talk.run("S  c\nc 250 2.1.5 c\nC DATA\ns DATA\nS 354 go\nc 354 go");
    }
    let mut talk = refused_at_rcpt();
    talk.run("!dial\nS 220 mx\ns EHLO out2.example");
    talk.silence(Duration::from_secs(60));
    talk.run("!take back\nc 550 5.7.1 listed\n!server closes\nc 421 4.4.2 lost the connection to the server\n!drop server\n!close client");
}

#[test]
fn not_where_something_was_promised() {
    // A recipient was accepted.
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@mx.example>\r\nDATA\r\n");
    talk.told_server();
    talk.run("S 250 ok\nS 250 b\nc 250 ok\nc 250 b\nS 550 5.7.1 listed\nc 550 5.7.1 listed\nS 554 5.7.1 listed\nc 554 5.7.1 listed\n!nothing");
    // Content was sent.
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nBDAT 2 LAST\r\nxx");
    talk.told_server();
    talk.run("S 250 ok\nS 550 5.7.1 listed\nS 503 no\nc 250 ok\nc 550 5.7.1 listed\nc 503 no\n!nothing");
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nBDAT 2\r\nxx");
    talk.told_server();
    talk.run("S 250 ok\nS 550 no b\nS 503 no\nc 250 ok\nc 550 no b\nc 503 no");
    talk.run("C RCPT TO:<c@mx.example>\ns RCPT TO:<c@mx.example>\nS 550 5.7.1 listed\nc 550 5.7.1 listed\n!nothing");
    // At the end of the content.
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\n");
    talk.told_server();
    talk.run("S 250 ok\nS 250 b\nS 354 go\nc 250 ok\nc 250 b\nc 354 go\nC .\ns .\nS 554 5.7.1 listed\nc 554 5.7.1 listed\n!nothing");
    // The next message is another matter.
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 554 5.7.1 listed");
    ready(&mut talk, "quit");
}

#[test]
fn at_data_all_recipients_have_their_answers() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok");
    talk.run("C RCPT TO:<b@mx.example>\ns RCPT TO:<b@mx.example>\nS 450 4.2.0 later\nc 450 4.2.0 later");
    talk.run("C DATA\ns DATA\nS 554 5.7.1 listed\nc 554 5.7.1 listed\n!nothing");
}

#[test]
fn once_in_a_session() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 550 5.7.1 listed");
    ready(&mut talk, "quit");
    talk.run("s MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok\nC RCPT TO:<b@mx.example>\ns RCPT TO:<b@mx.example>");
    talk.run("S 550 5.7.1 listed\nc 550 5.7.1 listed\n!nothing");
}

#[test]
fn not_if_the_driver_does_not_want_it() {
    let mut talk = relaying();
    talk.run(
        "C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 550 5.7.1 spam\nc 550 5.7.1 spam\n!nothing",
    );
    let mut talk = fresh();
    talk.host.fail_over = |_| false;
    talk.run("!dial\nS 554 5.7.1 listed\nc 554 5.7.1 listed\n!nothing");
}

#[test]
fn what_cannot_be_kept_is_not_played_again() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\n");
    let long = format!("RCPT TO:<{}@mx.example> NOTIFY=NEVER ORCPT=rfc822;{}\r\n", "b".repeat(200), "c".repeat(400));
    let count = super::MAX_REPLAY / long.len() + 1;
    talk.client(long.repeat(count).as_bytes());
    talk.told_server();
    talk.run("S 250 ok\nc 250 ok\nS 550 5.7.1 listed\nc 550 5.7.1 listed\n!nothing");
}

#[test]
fn the_second_ehlo_is_played_as_the_rset_that_it_was() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nEHLO again\r\nMAIL FROM:<b@acme.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RSET\ns MAIL FROM:<b@acme.example>\nS 550 5.7.1 listed");
    ready(&mut talk, "quit");
    talk.run(
        "s MAIL FROM:<a@acme.example>
        s RSET
        s MAIL FROM:<b@acme.example>
        S 250 a
        c 250 a
        c 250-mx
        c 250-PIPELINING
        c 250 CHUNKING
        S 250 reset
        S 250 b
        c 250 b",
    );
}
