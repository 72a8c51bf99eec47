//! DATA and BDAT, beyond the dialogues of the table.

use super::Talk;

/// A session in which DATA got its 354.
fn in_data() -> Talk {
    let mut talk = Talk::relaying();
    talk.run(
        "C MAIL FROM:<a@b.example>
        s MAIL FROM:<a@b.example>
        S 250 ok
        c 250 ok
        C DATA
        s DATA
        S 354 go
        c 354 go",
    );
    talk.host.events.clear();
    talk
}

#[test]
fn content_passes_unchanged_split_anywhere() {
    let wire = b"Subject: x\r\n\r\n..dot\r\n.\r.\r\n\0\x85\xe2\x80\xa8\x0b\xff .\r\n . \r\n.x\r\n\r\n.\r\n";
    let legal: Vec<u8> = wire.iter().enumerate().filter(|(at, _)| *at != 22).map(|(_, byte)| *byte).collect();
    for chunk in 1..legal.len() {
        let mut talk = in_data();
        talk.chunk = chunk;
        talk.client(&legal);
        assert_eq!(talk.mediator.to_server.bytes(), legal);
        talk.told_server();
        talk.run("S 250 2.0.0 queued\nc 250 2.0.0 queued\nC RSET\ns RSET");
        assert!(talk.told("content end"));
    }
}

#[test]
fn content_that_goes_out_at_once_keeps_its_order() {
    let wire = b"Subject: x\r\n\r\n..dot\r\n.x\r\n\r\n.\r\nMAIL FROM:<c@d.example>\r\n";
    for chunk in 1..=wire.len() {
        let mut talk = in_data();
        (talk.chunk, talk.direct) = (chunk, Some(Vec::new()));
        let mut got = Vec::new();
        for bytes in wire.chunks(chunk) {
            talk.client(bytes);
            got.append(talk.direct.as_mut().unwrap());
            got.extend(talk.told_server().bytes());
        }
        assert_eq!(got, wire, "{chunk} at a time");
        assert!(talk.told("content end"));
    }
}

#[test]
fn what_follows_the_end_is_commands() {
    let mut talk = in_data();
    talk.client(b"x\r\n.\r\nMAIL FROM:<c@d.example>\r\nQUIT\r\n");
    talk.run(
        "s x
        s .
        s MAIL FROM:<c@d.example>
        s QUIT
        S 250 queued
        c 250 queued
        S 250 ok
        c 250 ok
        S 221 bye
        c 221 bye
        !close server
        !close client",
    );
}

#[test]
fn bare_line_ends_never_reach_the_server_with_an_end() {
    for smuggled in [
        &b"x\n.\nMAIL FROM:<evil@e.example>\r\n.\r\n"[..],
        b"x\n.\r\nQUIT\r\n.\r\n",
        b"x\r\n.\nQUIT\r\n.\r\n",
        b"x\r.\rQUIT\r\n.\r\n",
        b"x\r\n.\rQUIT\r\n.\r\n",
        b"x\r\r\n.\r\n",
        b"\n.\r\n\r\n.\r\n",
    ] {
        for chunk in [1, 2, 3, usize::MAX] {
            let mut talk = in_data();
            talk.chunk = chunk;
            talk.client(smuggled);
            let actions = talk.actions();
            assert_eq!(actions, [super::Action::DropServer, super::Action::CloseClient], "{smuggled:?}");
            assert_eq!(talk.told_server(), "", "what was not written is withdrawn");
            assert_eq!(
                talk.told_client(),
                "550 5.6.11 bare CR or LF in the message\r\n421 4.3.2 closing this session\r\n"
            );
            assert!(!talk.told("content end") && talk.told("ended Violation(\"bare CR or LF in content\")"));
        }
    }
}

#[test]
fn a_message_that_is_cut_off_is_never_completed() {
    for cut in [&b""[..], b"half a", b"line\r\n", b"line\r\n.", b"line\r\n.\r"] {
        let mut talk = in_data();
        talk.client(cut);
        talk.told_server();
        talk.run("!client closes\n!drop server\n!close client");
        assert!(talk.told("ended ClientLost"));
    }
}

#[test]
fn a_refused_data_leads_back_to_commands() {
    let mut talk = Talk::relaying();
    talk.run("C DATA\ns DATA\nS 503 5.5.1 no\nc 503 5.5.1 no\nC NOOP\ns NOOP\nS 250 ok\nc 250 ok");
}

#[test]
fn chunks_are_opaque() {
    for chunk in 1..30 {
        let mut talk = Talk::relaying();
        talk.chunk = chunk;
        talk.client(b"MAIL FROM:<>\r\nBDAT 16\r\nQUIT\r\n.\r\n\n\r\0\xff.\r\nBDAT 0\r\nBDAT 2 LAST\r\n\r\nNOOP\r\n");
        assert_eq!(
            talk.mediator.to_server.bytes(),
            b"MAIL FROM:<>\r\nBDAT 16\r\nQUIT\r\n.\r\n\n\r\0\xff.\r\nBDAT 0\r\nBDAT 2 LAST\r\n\r\nNOOP\r\n"
        );
        talk.told_server();
        talk.run("S 250 a\nS 250 b\nS 250 c\nS 250 d\nS 250 e\nc 250 a\nc 250 b\nc 250 c\nc 250 d\nc 250 e");
        assert_eq!(talk.host.events.iter().filter(|event| *event == "content end").count(), 1);
        assert!(!talk.mediator.in_transaction());
    }
}

#[test]
fn a_chunk_is_not_acknowledged_before_it_is_there() {
    let mut talk = Talk::relaying();
    talk.client(b"BDAT 10 LAST\r\n12345");
    talk.told_server();
    talk.run("S 250 queued\n!drop server\n!nothing");
    talk.client(b"67890");
    talk.run("c 421 4.5.0 the server broke the protocol\n!close client");
}

#[test]
fn a_malformed_chunk_ends_the_session() {
    for line in ["BDAT", "BDAT x", "BDAT -1", "BDAT 99999999999999999999999999", "BDAT 1 LAST x"] {
        let mut talk = Talk::relaying();
        talk.client(format!("{line}\r\nQUIT\r\n").as_bytes());
        talk.run("c 421 4.5.2 BDAT malformed or out of place; closing\ns QUIT\n!close server\n!close client");
    }
}

#[test]
fn a_chunk_that_is_swallowed_is_not_the_servers_to_acknowledge() {
    let mut talk = Talk::relaying();
    talk.host.judge = |_| super::Judgement::Hold;
    talk.client(b"MAIL FROM:<a@b.example>\r\nNOOP\r\nBDAT 10 LAST\r\n12345");
    // The answer to NOOP, while a chunk of a MAIL without recipients is swallowed.
    talk.run("c 250 2.1.0 ok\ns NOOP\nS 250 noop\nc 250 noop\n!nothing");
    talk.client(b"67890NOOP\r\n");
    talk.run("c 503 5.5.1 no valid recipients\ns NOOP\nS 250 ok\nc 250 ok");
}

#[test]
fn the_answer_to_one_message_does_not_end_the_next_one() {
    let first = b"MAIL FROM:<>\r\nRCPT TO:<b@c.example>\r\nBDAT 1 LAST\r\nx";
    let mut talk = Talk::relaying();
    talk.client(first);
    talk.client(b"MAIL FROM:<>\r\nRCPT TO:<b@c.example>\r\n");
    talk.told_server();
    talk.run("S 250 a\nS 250 b\nS 250 queued\nc 250 a\nc 250 b\nc 250 queued\nS 250 c\nS 250 d\nc 250 c\nc 250 d");
    assert!(talk.mediator.in_transaction());
    talk.run("!drain\n!nothing");

    // However slowly the next one comes, it comes to an end.
    let mut talk = Talk::relaying();
    talk.client(first);
    talk.client(b"MAIL FROM:<>\r\nRCPT TO:<b@c.example>\r\nBDAT 1000000 LAST\r\nx");
    talk.told_server();
    talk.run("S 250 a\nS 250 b\nS 250 queued\nc 250 a\nc 250 b\nc 250 queued");
    let began = talk.now;
    while talk.mediator.ending().is_none() {
        talk.now += super::Duration::from_secs(170);
        talk.mediator.tick(talk.now, &mut talk.host);
        talk.client(b"x");
        talk.told_server();
        assert!(talk.now - began < super::Duration::from_secs(2 * 3600), "a byte in three minutes goes on for ever");
    }
}
