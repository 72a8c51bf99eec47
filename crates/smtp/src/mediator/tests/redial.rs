//! Another leg at MAIL: the client sees nothing of it but the reply.

use std::time::Duration;

use super::{Judgement, Leg, Scribe, Talk, TlsPolicy, leg};

/// Mail of the account `other` leaves from elsewhere.
fn judge(line: &str) -> Judgement {
    if line.contains("other@") { Judgement::Move } else { Judgement::Pass }
}

fn relaying() -> Talk {
    let mut talk = Talk::relaying();
    let legs = [Leg { ehlo_name: "out2.example".into(), tls: TlsPolicy::Off }].into();
    talk.host = Scribe { judge, legs, ..Scribe::default() };
    talk
}

const ELSEWHERE: &str = "
    C MAIL FROM:<other@acme.example>
    !set aside
    !quit aside
    !dial
    S 220 mx ESMTP
    s EHLO out2.example
    S 250-mx
    S 250-PIPELINING
    S 250 CHUNKING
    s MAIL FROM:<other@acme.example>
    S 250 2.1.0 ok
    c 250 2.1.0 ok";

#[test]
fn mail_of_another_pool_is_dialled_again() {
    for chunk in [1, 2, 7, usize::MAX] {
        let mut talk = relaying();
        talk.chunk = chunk;
        talk.run(ELSEWHERE);
        talk.run("C QUIT\ns QUIT\nS 221 bye\nc 221 bye\n!close server\n!close client");
        assert_eq!(
            talk.host.events,
            [
                "|> QUIT",
                "moving at MAIL: wanted",
                "|< 220 mx ESMTP",
                "|> EHLO out2.example",
                "|< 250 mx PIPELINING CHUNKING",
                "offered mx: PIPELINING, CHUNKING",
                "moved",
                "-> MAIL FROM:<other@acme.example>",
                "mail <other@acme.example>",
                "<- 250 2.1.0 ok",
                "-> QUIT",
                "<- 221 bye",
                "ended Quit",
            ]
        );
    }
}

#[test]
fn what_is_pipelined_behind_it_is_held_and_what_is_before_it_is_waited_for() {
    let mut talk = relaying();
    talk.client(b"RSET\r\nMAIL FROM:<other@acme.example>\r\nRCPT TO:<a@mx.example>\r\nDATA\r\n");
    talk.run(
        "s RSET
        !nothing
        S 250 reset
        c 250 reset
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out2.example
        S 250-mx
        S 250-PIPELINING
        S 250-CHUNKING
        S 250 SIZE 7
        s MAIL FROM:<other@acme.example>
        s RCPT TO:<a@mx.example>
        s DATA
        S 250 one
        S 250 two
        S 354 go
        c 250 one
        c 250 two
        c 354 go",
    );
    let mut talk = relaying();
    talk.client(b"MAIL FROM:<other@acme.example>\r\n");
    while talk.mediator.wants_client() {
        talk.client(&[b'x'; 4096]);
    }
    assert!(talk.mediator.input.len() < 2 * super::MAX_HELD);
}

#[test]
fn tls_is_done_again() {
    let mut talk = relaying();
    talk.host.legs = [leg(TlsPolicy::Opportunistic)].into();
    talk.run(
        "C MAIL FROM:<other@acme.example>
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out.example
        S 250-mx
        S 250 STARTTLS
        s STARTTLS
        S 220 go
        !handshake
        s EHLO out.example
        S 250-mx
        S 250-PIPELINING
        S 250 CHUNKING
        s MAIL FROM:<other@acme.example>",
    );
}

/// What the new leg does, up to where it is of no use, and the reply to MAIL.
const OF_NO_USE: [(&str, &str); 9] = [
    ("!dial fails", "451 4.4.1 no way"),
    ("!dial\n!server closes", "451 4.4.2 lost the connection to the server"),
    ("!dial\nS 554 5.7.1 you are on a list", "451 4.4.1 you are on a list"),
    ("!dial\nS 421 4.3.2 busy", "451 4.4.1 busy"),
    ("!dial\nnonsense", "451 4.5.0 the server broke the protocol"),
    ("!dial\nS 220 mx\ns EHLO out2.example\nS 451 4.3.0 no", "451 4.3.0 no"),
    ("!dial\nS 220 mx\ns EHLO out2.example\nS 502 what\ns HELO out2.example\nS 550 5.7.1 no name", "451 4.4.1 no name"),
    (
        "!dial\nS 220 mx\ns EHLO out2.example\nS 250-mx\nS 250 PIPELINING",
        "451 4.3.5 the server offers less when reached from elsewhere",
    ),
    (
        "!dial\nS 220 mx\ns EHLO out2.example\nS 502 what\ns HELO out2.example\nS 250 mx",
        "451 4.3.5 the server offers less when reached from elsewhere",
    ),
];

#[test]
fn a_leg_of_no_use_delays_this_message_and_the_next_is_tried_anew() {
    for (failure, reply) in OF_NO_USE {
        let mut talk = relaying();
        talk.client(b"MAIL FROM:<other@acme.example>\r\nRCPT TO:<a@mx.example>\r\nDATA\r\nBDAT 4 LAST\r\nx\r\n");
        talk.client(b"\nRSET\r\nEHLO me\r\n");
        talk.run("!set aside\n!quit aside");
        for line in failure.lines() {
            match line {
                "nonsense" => talk.server(b"nonsense\r\n"),
                line => {
                    // The expectations of a whole dialogue are checked at its end.
                    let (who, text) = line.split_at(1);
                    match who {
                        "!" => talk.driver(text),
                        "S" => talk.server(format!("{}\r\n", text.trim_start()).as_bytes()),
                        _ => talk.expect(line, &format!("{}\r\n", text.trim_start()), false),
                    }
                }
            }
        }
        let actions = talk.actions();
        assert_eq!(actions, [super::Action::DropServer], "{failure}");
        let refused = format!("c {reply}\n").repeat(4);
        talk.run(&format!("{refused}c 250 2.0.0 ok\nc 250-mx\nc 250-PIPELINING\nc 250 CHUNKING"));
        assert!(talk.host.events.contains(&"stayed".to_owned()));
        assert_eq!(talk.mediator.ending(), None);
        assert!(!talk.mediator.in_transaction());
        talk.host.legs.clear();
        // Whoever it is from: the leg that there was is gone.
        talk.run(
            "C MAIL FROM:<alice@acme.example>
            !dial
            S 220 mx
            s EHLO out.example
            S 250-mx
            S 250-PIPELINING
            S 250 CHUNKING
            s MAIL FROM:<alice@acme.example>
            S 250 ok
            c 250 ok
            C NOOP
            s NOOP",
        );
    }
}

#[test]
fn without_a_leg_the_rest_is_served_here() {
    let mut talk = relaying();
    talk.run(
        "C MAIL FROM:<other@acme.example>\n!set aside\n!quit aside\n!dial fails\nc 451 4.4.1 no way\n!drop server",
    );
    talk.run("C NOOP\nc 250 2.0.0 ok\nC QUIT\nc 221 2.0.0 bye\n!close client");
    let mut talk = relaying();
    talk.run(
        "C MAIL FROM:<other@acme.example>\n!set aside\n!quit aside\n!dial fails\nc 451 4.4.1 no way\n!drop server",
    );
    talk.silence(Duration::from_secs(300));
    talk.run("c 421 4.4.2 timeout\n!close client");
}

#[test]
fn the_parameters_in_use_are_covered() {
    let dialogue = |told: &str, mail: &str, offers: &str| {
        let mut talk = Talk::outbound(TlsPolicy::Off);
        talk.host = Scribe { judge, ..Scribe::default() };
        talk.run("!dial\nS 220 mx\nc 220 mx\nC EHLO msa\ns EHLO out.example");
        talk.server(format!("250-mx\r\n250 {told}\r\n").as_bytes());
        talk.told_client();
        talk.client(format!("MAIL FROM:<other@acme.example> {mail}\r\n").as_bytes());
        talk.run("!set aside\n!quit aside\n!dial\nS 220 mx\ns EHLO out.example");
        talk.server(format!("250-mx\r\n250 {offers}\r\n").as_bytes());
        talk.told_server() == format!("MAIL FROM:<other@acme.example> {mail}\r\n")
    };
    assert!(dialogue("SIZE 1000", "SIZE=900", "SIZE 2000"));
    assert!(dialogue("SIZE 1000", "SIZE=900", "SIZE 950"), "smaller, but this message fits");
    assert!(dialogue("SIZE 1000", "SIZE=900", "SIZE"), "no limit");
    assert!(!dialogue("SIZE 1000", "SIZE=900", "SIZE 800"));
    assert!(!dialogue("SIZE 1000", "BODY=7BIT", "SIZE 950"), "nobody knows whether it fits");
    assert!(!dialogue("SIZE", "SIZE=1", "8BITMIME"));
    assert!(!dialogue("8BITMIME", "BODY=8BITMIME", "PIPELINING"));
    assert!(!dialogue("DSN", "RET=HDRS", "PIPELINING"));
    assert!(!dialogue("PIPELINING", "SMTPUTF8", "PIPELINING"), "in use without having been offered");
    assert!(!dialogue("LIMITS RCPTMAX=100", "BODY=7BIT", "LIMITS RCPTMAX=10"));
}

#[test]
fn requiretls_is_judged_where_the_mail_goes() {
    let mut talk = relaying();
    talk.run(
        "C MAIL FROM:<other@acme.example> REQUIRETLS
        !set aside
        !quit aside
        !dial
        S 220 mx
        s EHLO out2.example
        S 250-mx
        S 250-PIPELINING
        S 250 CHUNKING
        c 451 4.3.5 the server offers less when reached from elsewhere
        !drop server",
    );
}

#[test]
fn a_slow_new_leg_is_given_up() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<other@acme.example>\n!set aside\n!quit aside\n!dial\nS 220 mx\ns EHLO out2.example");
    talk.silence(Duration::from_secs(60));
    talk.run("c 451 4.4.2 the server does not answer\n!drop server");
    // Byte by byte, each within its time, but not all of them.
    let mut talk = relaying();
    talk.run("C MAIL FROM:<other@acme.example>\n!set aside\n!quit aside\n!dial");
    talk.now += Duration::from_secs(110);
    talk.run("S 220 mx\ns EHLO out2.example");
    talk.silence(Duration::from_secs(10));
    talk.run("c 451 4.4.2 the server does not answer\n!drop server");
}

#[test]
fn a_client_that_leaves_meanwhile_is_noticed_in_the_end() {
    let mut talk = relaying();
    talk.run("C MAIL FROM:<other@acme.example>\n!set aside\n!quit aside\n!dial\n!client closes\n!nothing");
    talk.run("S 220 mx\ns EHLO out2.example\nS 250-mx\nS 250-PIPELINING\nS 250 CHUNKING\ns MAIL FROM:<other@acme.example>\nS 250 ok\nc 250 ok\ns QUIT\n!close server\n!close client");
}

#[test]
fn the_new_leg_that_is_refused_is_followed_by_one_more() {
    let mut talk = relaying();
    talk.host.legs.push_back(Leg { ehlo_name: "out3.example".into(), tls: TlsPolicy::Off });
    talk.host.fail_over = |reply| reply.text().contains("list");
    talk.run(
        "C MAIL FROM:<other@acme.example>
        !set aside
        !quit aside
        !dial
        S 554 5.7.1 you are on a list
        !drop server
        !dial
        S 220 mx
        s EHLO out3.example
        S 250-mx
        S 250-PIPELINING
        S 250 CHUNKING
        s MAIL FROM:<other@acme.example>
        S 550 5.7.1 you are on a list, too
        c 550 5.7.1 you are on a list, too",
    );
    assert!(talk.told("moving at Greeting: 554 5.7.1 you are on a list"));
}
