//! A connection that outlives its session: the server sees one long session, the client its own.

use std::time::{Duration, Instant};

use super::super::opening::Security;
use super::{Action, Judgement, Kept, Mediator, Talk, TlsPolicy, outbound};

/// A session whose connections are kept, past EHLO.
fn keeping() -> Talk {
    let mut talk = Talk::relaying();
    talk.host.keeps = true;
    talk
}

const MAIL: &str = "
    C MAIL FROM:<a@acme.example>
    s MAIL FROM:<a@acme.example>
    S 250 2.1.0 ok
    c 250 2.1.0 ok
    C RCPT TO:<b@x.example>
    s RCPT TO:<b@x.example>
    S 250 2.1.5 ok
    c 250 2.1.5 ok
    C DATA
    s DATA
    S 354 go ahead
    c 354 go ahead
    C body
    C .
    s body
    s .
    S 250 2.0.0 taken
    c 250 2.0.0 taken";

const KEPT: &str = "
    C QUIT
    c 221 2.0.0 bye
    !keep server
    !close client";

/// Greeted and told of extensions without a word to the server.
const TAKEN_OVER: &str = "
    !take over
    c 220 mx ESMTP
    C EHLO msa
    c 250-mx
    c 250-PIPELINING
    c 250 CHUNKING";

fn kept() -> Kept {
    let mut talk = keeping();
    talk.run(MAIL);
    talk.run(KEPT);
    talk.kept.expect("kept")
}

/// The next session.
fn next(kept: Kept) -> Talk {
    let now = Instant::now();
    let mut talk = Talk::new(Mediator::outbound(outbound(TlsPolicy::Opportunistic), now), now);
    (talk.kept, talk.host.keeps) = (Some(kept), true);
    talk
}

fn taken_over() -> Talk {
    let mut talk = next(kept());
    talk.run(TAKEN_OVER);
    talk.host.events.clear();
    talk
}

/// What a session says that is dialled in the midst.
const DIALLED: &str = "
    !drop server
    !dial
    S 220 mx ESMTP
    s EHLO out.example
    S 250-mx
    S 250-PIPELINING
    S 250 CHUNKING";

#[test]
fn sessions_follow_each_other_on_one_connection() {
    for chunk in [1, 7, usize::MAX] {
        let mut kept = kept();
        for _ in 0..3 {
            let mut talk = next(kept);
            talk.chunk = chunk;
            talk.run(TAKEN_OVER);
            assert_eq!(talk.host.events, ["<| 220 mx ESMTP", ">| EHLO msa", "<| 250 mx PIPELINING CHUNKING"]);
            talk.run(MAIL);
            talk.host.events.clear();
            talk.run(KEPT);
            assert_eq!(talk.host.events, [">| QUIT", "<| 221 2.0.0 bye", "ended Quit"]);
            talk.run("!nothing");
            kept = talk.kept.unwrap();
        }
    }
}

#[test]
fn quit_behind_the_content_is_answered_in_its_turn() {
    for chunk in [1, usize::MAX] {
        let mut talk = keeping();
        talk.chunk = chunk;
        talk.run(MAIL);
        talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabcQUIT\r\n");
        assert_eq!(
            talk.told_server(),
            "MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabc",
            "QUIT waits"
        );
        talk.run("S 250 ok\nc 250 ok\nS 250 ok\nc 250 ok\nS 250 taken\nc 250 taken\nc 221 2.0.0 bye\n!keep server\n!close client");
    }
}

/// As Postfix does it.
#[test]
fn quit_in_one_piece_with_the_dot() {
    for (said, earned) in [("250 2.0.0 taken", true), ("550 5.7.1 no", false)] {
        let mut talk = keeping();
        talk.run(MAIL.split_once("C body").unwrap().0);
        talk.client(b"body\r\n.\r\nQUIT\r\n");
        assert_eq!(talk.told_server(), "body\r\n.\r\n", "QUIT waits");
        let then = if earned { "c 221 2.0.0 bye\n!keep server" } else { "s QUIT\nS 221 bye\nc 221 bye\n!close server" };
        talk.run(&format!("S {said}\nc {said}\n{then}\n!close client"));
    }
}

#[test]
fn what_is_not_settled_is_not_kept() {
    let refused = "C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 550 no\nc 550 no";
    let open = "C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok";
    let quits = "C QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client";
    // Nothing was taken; nothing was asked; a transaction is open.
    for before in [&[refused][..], &[], &[MAIL, open]] {
        let mut talk = keeping();
        before.iter().for_each(|part| talk.run(part));
        talk.run(quits);
    }
    // A refusal behind content that was taken changes nothing.
    let mut talk = keeping();
    [MAIL, refused, KEPT].iter().for_each(|part| talk.run(part));
    // Half a reply is on its way.
    let mut talk = keeping();
    talk.run(MAIL);
    talk.server(b"4");
    talk.run("C QUIT\ns QUIT");
    // Nobody keeps.
    let mut talk = Talk::relaying();
    talk.run(MAIL);
    talk.run(quits);
}

#[test]
fn a_server_with_limits_is_not_kept() {
    let mut talk = Talk::outbound(TlsPolicy::Off);
    talk.host.keeps = true;
    talk.run(
        "!dial
        S 220 mx ESMTP
        c 220 mx ESMTP
        C EHLO msa
        s EHLO out.example
        S 250-mx
        S 250 LIMITS MAILMAX=2
        c 250-mx
        c 250 LIMITS MAILMAX=2",
    );
    talk.run(MAIL);
    talk.run("C QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client");
}

#[test]
fn going_down_keeps_nothing() {
    let mut talk = keeping();
    talk.run(MAIL.split_once("C body").unwrap().0);
    talk.client(b"body\r\n.\r\nQUIT\r\n");
    talk.run(
        "!drain\ns body\ns .\nS 250 taken\nc 250 taken\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client",
    );
}

#[test]
fn one_that_was_closed_meanwhile_is_dialled_at_ehlo() {
    for last in ["!server closes", "S 421 4.4.2 idle too long", "S 250 what", "S nonsense"] {
        let mut talk = next(kept());
        talk.run("!take over\nc 220 mx ESMTP");
        talk.run(last);
        talk.run("!drop server\nC NOOP\nc 250 2.0.0 ok");
        talk.run(
            "C EHLO msa
            !drop server
            !dial
            S 220 mx ESMTP
            s EHLO out.example
            S 250-mx
            S 250 SIZE 5
            c 250-mx
            c 250 SIZE 5",
        );
        talk.run(MAIL);
    }
}

#[test]
fn one_that_was_closed_and_nobody_needs_is_let_be() {
    let mut talk = next(kept());
    talk.run("!take over\nc 220 mx ESMTP\n!server closes\n!drop server");
    talk.run("C QUIT\nc 221 2.0.0 bye\n!drop server\n!close client");
    let mut talk = next(kept());
    talk.run("!take over\nc 220 mx ESMTP\n!server closes\n!drop server");
    talk.silence(Duration::from_secs(300));
    talk.run("c 421 4.4.2 timeout\n!drop server\n!close client");
    let mut talk = taken_over();
    talk.run("C QUIT\ns QUIT\n!server closes\nc 221 2.0.0 bye\n!drop server\n!close client");
    let mut talk = taken_over();
    talk.run("C QUIT\ns QUIT\nS 421 idle\nc 421 idle\n!close server\n!close client");
}

#[test]
fn one_that_is_gone_at_mail_is_dialled_and_asked_again() {
    for chunk in [1, usize::MAX] {
        for lost in ["!server closes", "S 421 4.7.0 too many messages"] {
            let mut talk = taken_over();
            talk.chunk = chunk;
            talk.run("C MAIL FROM:<a@acme.example>\nC RCPT TO:<b@x.example>\nC DATA\ns MAIL FROM:<a@acme.example>\ns RCPT TO:<b@x.example>\ns DATA");
            talk.run(lost);
            talk.run(&format!(
                "{DIALLED}
                s MAIL FROM:<a@acme.example>
                s RCPT TO:<b@x.example>
                s DATA
                S 250 ok
                c 250 ok
                S 250 ok
                c 250 ok
                S 354 go
                c 354 go
                C .
                s .
                S 250 taken
                c 250 taken",
            ));
            assert!(lost.starts_with('!') || talk.told("stale 421 4.7.0 too many messages"), "{:#?}", talk.host.events);
            // The session is not where it began.
            talk.run("C QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client");
        }
    }
}

#[test]
fn one_that_is_gone_between_is_dialled_at_once() {
    for lost in ["!server closes", "S 421 4.4.2 idle"] {
        let mut talk = taken_over();
        talk.run(lost);
        // What comes meanwhile waits.
        talk.run("C MAIL FROM:<a@acme.example>");
        talk.run(&format!("{DIALLED}\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok"));
    }
}

/// As if there had been no connection: the client tries its next server.
#[test]
fn one_that_cannot_be_dialled_again_is_unreachable() {
    for before in [
        "",
        "C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>",
        // Its RSET is nobody's question.
        "C EHLO again\nc 250-mx\nc 250-PIPELINING\nc 250 CHUNKING\ns RSET",
    ] {
        let mut talk = taken_over();
        talk.run(before);
        talk.run(
            "!server closes\n!drop server\n!dial fails\nc 421 4.4.1 no way\n!drop server\n!close client\n!nothing",
        );
        assert_eq!(talk.host.events.iter().filter(|event| event.starts_with("ended")).count(), 1);
    }
    let mut talk = taken_over();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\n!server closes\n!drop server\n!dial");
    talk.run("S 554 5.7.1 not you\nc 421 4.4.1 not you\ns QUIT\n!close server\n!close client");
}

#[test]
fn one_that_offers_less_than_was_told_is_left_to_the_next_session() {
    let mut talk = taken_over();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\n!server closes");
    talk.run(
        "!drop server
        !dial
        S 220 mx
        s EHLO out.example
        S 250 mx
        c 421 4.3.5 the server offers less when reached from elsewhere
        s QUIT
        !close server
        !close client",
    );
}

/// A MAIL that the client had its answer to is nobody's reply any more.
#[test]
fn what_the_client_did_not_wait_for_is_not_answered() {
    let mut talk = taken_over();
    talk.host.judge = |line| if line.starts_with("MAIL") { Judgement::Hold } else { Judgement::Pass };
    talk.run("C MAIL FROM:<a@acme.example>\nc 250 2.1.0 ok\nC RCPT TO:<b@x.example>\ns MAIL FROM:<a@acme.example>");
    talk.run("!server closes\n!drop server\n!dial fails\nc 421 4.4.1 no way\n!drop server\n!close client");
}

/// Its refusal is its own: the session moved away from the connection that was taken over.
#[test]
fn one_that_was_moved_to_is_believed() {
    let mut talk = taken_over();
    talk.host.judge = |_| Judgement::Move;
    talk.run(
        "C MAIL FROM:<a@acme.example>
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out.example
        S 250-mx
        S 250-PIPELINING
        S 250 CHUNKING
        s MAIL FROM:<a@acme.example>
        S 421 4.7.0 go away
        c 421 4.7.0 go away
        !drop server
        !close client",
    );
}

/// 421 or not: another address is tried, not the same once more.
#[test]
fn a_refusal_of_the_address_fails_over() {
    let mut talk = taken_over();
    talk.host.fail_over = |reply| reply.text().contains("blocked");
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 421 4.7.1 blocked\n!set aside\n!dial");
}

#[test]
fn one_that_answered_is_like_any_other() {
    for lost in ["!server closes\nc 421 4.4.2 lost the connection to the server", "S 421 enough\nc 421 enough"] {
        let mut talk = taken_over();
        talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok");
        talk.run("C RCPT TO:<b@x.example>\ns RCPT TO:<b@x.example>");
        talk.run(lost);
        assert_eq!(talk.actions(), [Action::DropServer, Action::CloseClient]);
    }
}

/// Servers count messages and errors by connection, and not all say 421 when it is enough.
#[test]
fn a_refusal_of_mail_is_asked_for_again() {
    for said in ["451 4.7.1 later", "452 too many messages in this session", "550 5.7.1 no more of you"] {
        let mut talk = taken_over();
        talk.run(&format!("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS {said}\n{DIALLED}\ns MAIL FROM:<a@acme.example>"));
        assert!(talk.told(&format!("stale {said}")), "{:#?}", talk.host.events);
        // The new connection's word is the last.
        talk.run(&format!(
            "S {said}\nc {said}\n!nothing\nC QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client"
        ));
    }
}

/// MAIL was taken: what follows is about this message.
#[test]
fn a_refusal_of_anything_else_is_an_answer() {
    let mut talk = taken_over();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 250 ok\nc 250 ok");
    talk.run("C RCPT TO:<b@x.example>\ns RCPT TO:<b@x.example>\nS 550 5.1.1 nobody\nc 550 5.1.1 nobody\n!nothing");
    let mut talk = taken_over();
    talk.run("C NOOP\ns NOOP\nS 502 what\nc 502 what\n!nothing");
}

#[test]
fn content_that_is_under_way_is_not_asked_again() {
    let mut talk = taken_over();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabc");
    talk.told_server();
    talk.run("!server closes\nc 421 4.4.2 lost the connection to the server\n!drop server\n!close client");
}

#[test]
fn one_that_is_silent_is_gone() {
    let mut talk = taken_over();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>");
    talk.silence(Duration::from_secs(30));
    talk.run(&format!("{DIALLED}\ns MAIL FROM:<a@acme.example>"));
    talk.silence(Duration::from_secs(300));
    talk.run("c 421 4.4.2 the server does not answer\n!drop server\n!close client");
    // Content is under way: it cannot begin anew, and is waited for.
    let mut talk = taken_over();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabc");
    talk.told_server();
    talk.silence(Duration::from_secs(300));
}

#[test]
fn the_new_connection_is_no_weaker() {
    let mut kept = kept();
    kept.security = Security::Encrypted;
    let mut talk = next(kept);
    talk.run(TAKEN_OVER);
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\n!server closes");
    talk.run(&format!(
        "{DIALLED}\nc 421 4.7.4 TLS is required and the server does not offer it\ns QUIT\n!close server\n!close client"
    ));
}

#[test]
fn a_connection_serves_sessions_that_ask_for_no_more_than_it_is() {
    use TlsPolicy::{Off, Opportunistic, Require, Verify};
    let all = [Off, Opportunistic, Require, Verify];
    for (security, fits) in [
        (Security::Clear, &[Off, Opportunistic][..]),
        (Security::Encrypted, &[Opportunistic, Require]),
        (Security::Verified, &[Opportunistic, Require, Verify]),
    ] {
        let kept = Kept { security, ..kept() };
        assert_eq!(all.into_iter().filter(|policy| kept.satisfies(*policy)).collect::<Vec<_>>(), fits);
    }
}

#[test]
fn who_says_helo_is_told_the_name() {
    let mut talk = next(kept());
    talk.run("!take over\nc 220 mx ESMTP\nC HELO msa\nc 250 mx");
    talk.run(MAIL);
}
