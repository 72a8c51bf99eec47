use super::*;
use proptest::prelude::*;

fn client() -> Client {
    Client::new(ClientConfig { hostname: "us.example".into(), xclient: None })
}

fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        from: "a@x.example".parse().unwrap(),
        params: MailParams::default(),
        recipients: recipients.iter().map(|to| (to.parse().unwrap(), RcptParams::default())).collect(),
    }
}

/// What the client says to the server's words.
fn hear(client: &mut Client, words: &str) -> String {
    client.receive(words.as_bytes());
    String::from_utf8(client.take_output()).unwrap()
}

fn events(client: &mut Client) -> Vec<Event> {
    std::iter::from_fn(|| client.next_event()).collect()
}

fn recipients(events: &[Event]) -> Vec<(usize, u16)> {
    events
        .iter()
        .filter_map(|event| if let Event::Recipient(index, reply) = event { Some((*index, reply.code)) } else { None })
        .collect()
}

fn ready(extensions: &str) -> Client {
    let mut client = client();
    assert_eq!(hear(&mut client, "220 mx.example ESMTP\r\n"), "EHLO us.example\r\n");
    assert_eq!(hear(&mut client, &format!("250-mx.example\r\n{extensions}250 HELP\r\n")), "");
    assert_eq!(events(&mut client), [Event::Ready]);
    client
}

#[test]
fn a_pipelined_dialogue_with_two_messages() {
    let mut client = ready("250-PIPELINING\r\n250-SIZE 100\r\n250-8BITMIME\r\n250-DSN\r\n");
    let mut message = envelope(&["b@y.example", "c@y.example"]);
    message.params = MailParams {
        size: Some(3),
        body: Some(crate::command::BodyType::EightBitMime),
        envid: Some("e 1".into()),
        ..MailParams::default()
    };
    message.recipients[1].1.notify = Some(crate::command::Notify::default());
    client.send(message);
    assert_eq!(
        String::from_utf8(client.take_output()).unwrap(),
        "MAIL FROM:<a@x.example> SIZE=3 BODY=8BITMIME ENVID=e+201\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example> NOTIFY=NEVER\r\n"
    );
    assert_eq!(hear(&mut client, "250 ok\r\n550 5.1.1 no\r\n250 ok\r\n"), "DATA\r\n");
    assert_eq!(recipients(&events(&mut client)), [(0, 550), (1, 250)]);
    assert_eq!(client.deadline(), (Step::Data, Duration::from_secs(120)));
    assert_eq!(hear(&mut client, "354 go\r\n"), "");
    assert_eq!(events(&mut client), [Event::Content]);
    client.content(b".\r\n");
    client.finish();
    assert_eq!(client.take_output(), b"..\r\n.\r\n");
    assert_eq!(client.deadline(), (Step::End, Duration::from_secs(600)));
    assert_eq!(hear(&mut client, "250 2.0.0 queued\r\n"), "");
    assert_eq!(events(&mut client), [Event::Done(Some(Reply::new(250, (2, 0, 0), "queued"))), Event::Ready]);
    client.send(envelope(&["d@y.example"]));
    assert!(client.take_output().starts_with(b"MAIL FROM:<a@x.example>\r\nRCPT"));
    assert_eq!(hear(&mut client, "250 ok\r\n450 later\r\n"), "RSET\r\n");
    assert_eq!(hear(&mut client, "250 ok\r\n"), "");
    assert_eq!(events(&mut client).last(), Some(&Event::Ready));
    client.quit();
    assert_eq!(client.take_output(), b"QUIT\r\n");
    hear(&mut client, "221 bye\r\n");
    assert_eq!(events(&mut client), [Event::Closed(None)]);
}

#[test]
fn without_pipelining_one_command_at_a_time_and_helo_if_need_be() {
    let mut client = client();
    hear(&mut client, "220-mx\r\n220 old\r\n");
    assert_eq!(hear(&mut client, "502 what\r\n"), "HELO us.example\r\n");
    assert_eq!(hear(&mut client, "250 mx\r\n"), "");
    let mut message = envelope(&["b@y.example", "c@y.example"]);
    message.params.size = Some(3);
    client.send(message);
    assert_eq!(client.take_output(), b"MAIL FROM:<a@x.example>\r\n");
    assert_eq!(hear(&mut client, "250 ok\r\n"), "RCPT TO:<b@y.example>\r\n");
    assert_eq!(hear(&mut client, "250 ok\r\n"), "RCPT TO:<c@y.example>\r\n");
    assert_eq!(hear(&mut client, "250 ok\r\n"), "DATA\r\n");
}

#[test]
fn a_refusal_of_mail_is_every_recipients() {
    let mut client = ready("250-PIPELINING\r\n");
    client.send(envelope(&["b@y.example", "c@y.example"]));
    client.take_output();
    assert_eq!(hear(&mut client, "451 4.7.1 slow\r\n503 x\r\n503 x\r\n"), "");
    let seen = events(&mut client);
    assert_eq!(recipients(&seen), [(0, 451), (1, 451)]);
    assert_eq!(seen[2..], [Event::Done(None), Event::Ready]);
}

#[test]
fn a_refusal_of_data_is_done_and_the_session_lives_on() {
    let mut client = ready("250-PIPELINING\r\n");
    client.send(envelope(&["b@y.example"]));
    client.take_output();
    hear(&mut client, "250 ok\r\n250 ok\r\n");
    assert_eq!(hear(&mut client, "554 5.7.1 no\r\n"), "RSET\r\n");
    assert_eq!(events(&mut client)[1], Event::Done(Some(Reply::new(554, (5, 7, 1), "no"))));
    hear(&mut client, "250 ok\r\n");
    assert_eq!(events(&mut client), [Event::Ready]);
}

#[test]
fn what_the_server_cannot_take_is_refused_here() {
    let mut client = ready("250-SIZE 100\r\n");
    let mut large = envelope(&["b@y.example"]);
    large.params.size = Some(101);
    client.send(large);
    client.send(envelope(&["ö@y.example"]));
    assert!(client.take_output().is_empty());
    assert_eq!(recipients(&events(&mut client)), [(0, 552), (0, 550)]);
    assert!(client.is_ready());
}

fn in_content(size: Option<u64>) -> Client {
    let mut client = ready("250-PIPELINING\r\n");
    let mut message = envelope(&["b@y.example"]);
    message.params.size = size;
    client.send(message);
    client.take_output();
    hear(&mut client, "250 ok\r\n250 ok\r\n");
    hear(&mut client, "354 go\r\n");
    events(&mut client);
    client
}

#[test]
fn incomplete_or_illegal_content_is_never_ended() {
    let mut client = in_content(Some(9));
    client.content(b"short\r\n");
    client.finish();
    assert_eq!(events(&mut client), [Event::Closed(Some(Failure::Incomplete { expected: 9, got: 7 }))]);
    assert!(client.take_output().is_empty());
    let mut client = in_content(None);
    client.content(b"a\n.\n");
    client.finish();
    assert_eq!(events(&mut client), [Event::Closed(Some(Failure::Content(BareLineEnd::Lf)))]);
    assert!(client.take_output().is_empty());
    let mut client = in_content(None);
    client.content(b"half");
    client.quit();
    assert!(client.take_output().is_empty());
}

#[test]
fn loss_after_the_dot_is_no_success() {
    let mut client = in_content(None);
    client.content(b"x\r\n");
    client.finish();
    client.disconnected();
    assert_eq!(events(&mut client), [Event::Closed(Some(Failure::Lost { during: Step::End }))]);
}

#[test]
fn senseless_servers_end_the_session() {
    let mut client = client();
    hear(&mut client, "HTTP/1.1 400 Bad\r\n");
    assert!(matches!(events(&mut client)[..], [Event::Closed(Some(Failure::Protocol { during: Step::Greeting, .. }))]));
    let mut client = ready("");
    hear(&mut client, "250 surprise\r\n");
    assert!(matches!(events(&mut client)[..], [Event::Closed(Some(Failure::Unexpected { during: Step::Idle, .. }))]));
    let mut client = ready("250-PIPELINING\r\n");
    client.send(envelope(&["b@y.example"]));
    hear(&mut client, "250 ok\r\n421 4.3.2 going down\r\n");
    assert!(matches!(events(&mut client)[..], [Event::Closed(Some(Failure::Refused { during: Step::Rcpt, .. }))]));
    let mut client = in_content(None);
    hear(&mut client, "250 thanks already\r\n");
    assert!(matches!(
        events(&mut client)[..],
        [Event::Closed(Some(Failure::Unexpected { during: Step::Content, .. }))]
    ));
}

#[test]
fn xclient_is_followed_by_a_new_greeting_and_ehlo() {
    let xclient = Xclient { addr: Some("192.0.2.1".parse().unwrap()), ..Xclient::default() };
    let mut client = Client::new(ClientConfig { hostname: "us.example".into(), xclient: Some(xclient) });
    hear(&mut client, "220 msa\r\n");
    assert_eq!(
        hear(&mut client, "250-msa\r\n250 XCLIENT NAME ADDR\r\n"),
        "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.1\r\n"
    );
    assert_eq!(hear(&mut client, "220 msa\r\n"), "EHLO us.example\r\n");
    hear(&mut client, "250-msa\r\n250 XCLIENT NAME ADDR\r\n");
    assert_eq!(events(&mut client), [Event::Ready]);
}

#[test]
fn hundreds_of_recipients_go_out_in_windows() {
    let mut client = ready("250-PIPELINING\r\n");
    let names: Vec<String> = (0..250).map(|n| format!("u{n}@y.example")).collect();
    client.send(envelope(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut commands = String::from_utf8(client.take_output()).unwrap().lines().count();
    assert_eq!(commands, 100);
    for _ in 0..251 {
        commands += hear(&mut client, "250 ok\r\n").lines().count();
    }
    assert_eq!(commands, 252, "MAIL, 250 RCPT, DATA");
    assert_eq!(recipients(&events(&mut client)).len(), 250);
}

#[test]
fn the_two_machines_understand_each_other() {
    use crate::server::{Event as Heard, Server, ServerConfig};
    for (pipelining, cut) in [(true, 1), (true, 7), (false, 3), (true, 100_000)] {
        let extensions = Extensions { pipelining, size: Some(0), ..Extensions::default() };
        let mut server = Server::new(ServerConfig::new("mx.example", extensions));
        let mut client = client();
        let (mut got, mut done) = (Vec::new(), false);
        for _ in 0..1_000 {
            while let Some(event) = server.next_event() {
                match event {
                    Heard::Content(bytes) => got.extend(bytes),
                    event if event.wants_answer() => server.accept(),
                    _ => {}
                }
            }
            server.take_output().chunks(cut).for_each(|chunk| client.receive(chunk));
            while let Some(event) = client.next_event() {
                match event {
                    Event::Ready if got.is_empty() => client.send(envelope(&["b@y.example"])),
                    Event::Ready => client.quit(),
                    Event::Content => {
                        client.content(b".a\r\n");
                        client.content(b"\r\n..");
                        client.finish();
                    }
                    Event::Closed(failure) => done = failure.is_none(),
                    Event::Recipient(..) | Event::Done(_) => {}
                }
            }
            client.take_output().chunks(cut).for_each(|chunk| {
                server.receive(chunk);
            });
            if done {
                break;
            }
        }
        assert!(done && got == b".a\r\n\r\n..\r\n", "{pipelining} {cut} {got:?}");
    }
}

proptest! {
    /// Whatever a server says, in whatever pieces: nothing panics, no recipient is answered twice, nothing counts as delivered
    /// before the end of data was written, and the end of data is written at most once a message.
    #[test]
    fn a_senseless_server_never_makes_a_success(
        words in proptest::collection::vec(prop_oneof![
            8 => Just("250 ok\r\n"), 4 => Just("220 mx\r\n"), 4 => Just("354 go\r\n"),
            4 => Just("250-mx\r\n250 PIPELINING\r\n"), 2 => Just("451 later\r\n"),
            2 => Just("550 no\r\n"), 1 => Just("421 bye\r\n"), 1 => Just("garbage\r\n"),
            1 => Just("250-"), 1 => Just("334 what\n"),
        ], 0..40),
        cut in 1usize..40,
    ) {
        let mut client = client();
        let (mut told, mut ended, mut succeeded) = (0, 0, 0);
        for chunk in words.concat().as_bytes().chunks(cut) {
            client.receive(chunk);
            while let Some(event) = client.next_event() {
                match event {
                    Event::Ready => {
                        told = 0;
                        client.send(envelope(&["b@y.example", "c@y.example"]));
                    }
                    Event::Recipient(index, _) => {
                        prop_assert_eq!(index, told);
                        told += 1;
                    }
                    Event::Content => {
                        client.content(b"x\r\n");
                        client.finish();
                        ended += 1;
                    }
                    Event::Done(answer) => succeeded += usize::from(answer.is_some_and(|reply| reply.is_positive())),
                    Event::Closed(_) => prop_assert!(client.is_closed()),
                }
            }
            let output = client.take_output();
            prop_assert!(output.windows(5).filter(|bytes| *bytes == b"\r\n.\r\n").count() <= 1);
        }
        prop_assert!(succeeded <= ended);
    }
}
