//! What a client says while its session moves, and what was said of its recipients before.

use super::{Action, Judgement, Leg, Reply, Scribe, Talk, TlsPolicy, leg};

/// A session with a second leg to go to when it is refused.
fn relaying() -> Talk {
    let legs = [Leg { ehlo_name: "out2.example".into(), ..leg(TlsPolicy::Off) }].into();
    let host = Scribe { fail_over: |reply| reply.text().contains("listed"), legs, ..Scribe::default() };
    Talk { host, ..Talk::relaying() }
}

/// The second leg, up to its answer to EHLO.
fn dialled(talk: &mut Talk) {
    talk.run("!set aside\n!dial\nS 220 mx\ns EHLO out2.example");
}

fn ready(talk: &mut Talk) {
    talk.server(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    assert_eq!(talk.actions(), [Action::LeaveAside { quit: true }]);
}

#[test]
fn commands_that_come_while_the_session_moves_wait_for_the_new_leg() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<a@acme.example>\ns MAIL FROM:<a@acme.example>\nS 550 5.7.1 listed\n!set aside");
    talk.run("C RCPT TO:<b@mx.example>\n!dial\nC BDAT 6 LAST\nC RSET\nC NOOP");
    talk.run("S 220 mx\ns EHLO out2.example");
    ready(&mut talk);
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\ns BDAT 6 LAST\ns RSET\ns NOOP");
    talk.run("S 250 ok\nc 250 ok\nS 250 b\nc 250 b\nS 250 queued\nc 250 queued\nS 250 noop\nc 250 noop");
}

#[test]
fn an_answer_of_ours_at_the_end_holds_nothing_up() {
    let mut talk = relaying();
    talk.host.judge = |line| match line.contains("strict") {
        true => Judgement::Refuse(Reply::new(451, (4, 7, 5), "TLS")),
        false => Judgement::Pass,
    };
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@strict.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\nS 550 5.7.1 listed");
    dialled(&mut talk);
    ready(&mut talk);
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>");
    talk.run("S 250 ok\nc 250 ok\nS 250 b\nc 250 b\nc 451 4.7.5 TLS");
    // The same where the played MAIL decides about the rest.
    let mut talk = relaying();
    talk.host.judge = |line| match line.contains("strict") {
        true => Judgement::Refuse(Reply::new(451, (4, 7, 5), "TLS")),
        false => Judgement::Pass,
    };
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@strict.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\nS 250 ok\nc 250 ok\nS 550 5.7.1 listed");
    dialled(&mut talk);
    ready(&mut talk);
    talk.run("s MAIL FROM:<a@acme.example>\nC DATA\nS 250 ok\ns RCPT TO:<b@mx.example>\ns DATA");
    talk.run("S 250 b\nc 250 b\nc 451 4.7.5 TLS\nS 354 go\nc 354 go");
}

#[test]
fn recipients_are_judged_by_the_leg_that_takes_them() {
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<a@acme.example>\r\nRCPT TO:<b@mx.example>\r\nRCPT TO:<c@strict.example>\r\n");
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>\ns RCPT TO:<c@strict.example>");
    talk.run("S 550 5.7.1 listed");
    dialled(&mut talk);
    // The new leg has other certificates.
    talk.host.judge = |line| match line.contains("strict") {
        true => Judgement::Refuse(Reply::new(451, (4, 7, 5), "TLS")),
        false => Judgement::Pass,
    };
    ready(&mut talk);
    talk.run("s MAIL FROM:<a@acme.example>\ns RCPT TO:<b@mx.example>");
    talk.run("S 250 ok\nc 250 ok\nS 250 b\nc 250 b\nc 451 4.7.5 TLS");
}
