//! What a record keeps while its session goes on.

use std::time::SystemTime;

use warren_session::{Door, Recorder, SessionId, SessionStart};
use warren_smtp::ReversePath;
use warren_smtp::mediator::{Event, Observer};

use super::*;

fn record() -> SessionRecord {
    let start = SessionStart {
        id: SessionId::new(),
        tenant: "acme".parse().unwrap(),
        cell: None,
        door: Door::Redirect,
        mx: "192.0.2.1:25".parse().unwrap(),
        mx_name: None,
        mx_operator: None,
        at: SystemTime::now(),
    };
    SessionRecord::new(Recorder::off().0.session(start), Instant::now())
}

impl SessionRecord {
    fn hears(&mut self, event: Event<'_>) {
        self.event(Instant::now(), event);
    }

    fn says(&mut self, flow: Flow, verb: Verb, line: &str) {
        self.hears(Event::Command { flow, topic: Topic::Command(verb), line: line.as_bytes() });
    }

    fn mail(&mut self) {
        self.says(Flow::CommandPassed, Verb::Mail, "MAIL FROM:<a@b.example>");
        self.hears(Event::Mail(&"a@b.example".parse::<ReversePath>().unwrap()));
    }

    fn rcpt(&mut self) {
        self.says(Flow::CommandPassed, Verb::Rcpt, "RCPT TO:<c@d.example>");
        self.hears(Event::Rcpt(&"c@d.example".parse::<ForwardPath>().unwrap()));
    }

    fn replied(&mut self, verb: Verb, code: u16) {
        let reply = Reply::plain(code, "so");
        self.hears(Event::Reply { flow: Flow::ReplyPassed, topic: Topic::Command(verb), reply: &reply });
    }

    fn open(&self) -> Vec<(u32, usize)> {
        self.open.iter().map(|open| (open.message.n, open.recipients.len())).collect()
    }
}

#[test]
fn messages_without_a_verdict_are_not_kept_for_the_whole_session() {
    let mut record = record();
    for n in 1..=5_000 {
        let taken = n % 2 == 0;
        record.mail();
        record.replied(Verb::Mail, if taken { 250 } else { 450 });
        record.rcpt();
        record.replied(Verb::Rcpt, if taken { 550 } else { 503 });
        assert_eq!(record.open(), [(n, 1)]);
    }
    // Those that were refused are told once, and those that were given up once more.
    assert_eq!(record.tally.failed, 5_000);
    record.finish();
}

#[test]
fn what_is_pipelined_is_kept_until_it_is_answered() {
    let mut record = record();
    (0..3).for_each(|_| record.mail());
    assert_eq!(record.open(), [(1, 0), (2, 0), (3, 0)]);
    record.replied(Verb::Mail, 450);
    assert_eq!(record.open(), [(1, 0), (2, 0), (3, 0)]);
    record.replied(Verb::Mail, 250);
    assert_eq!(record.open(), [(2, 0), (3, 0)]);
}

#[test]
fn a_mail_that_is_said_again_is_of_its_own_message_whatever_is_pipelined_behind_it() {
    let mut record = record();
    record.mail();
    record.replied(Verb::Mail, 250);
    record.rcpt();
    record.mail();
    let refusal = Reply::plain(554, "listed");
    record.hears(Event::Moving { topic: Topic::Command(Verb::Rcpt), reply: Some(&refusal) });
    record.hears(Event::Moved { quit: true });
    record.says(Flow::CommandSent, Verb::Mail, "MAIL FROM:<a@b.example>");
    record.hears(Event::Reply {
        flow: Flow::ReplyEnded,
        topic: Topic::Command(Verb::Mail),
        reply: &Reply::plain(250, "ok"),
    });
    assert_eq!(record.open(), [(1, 1), (2, 0)]);
    record.says(Flow::CommandSent, Verb::Rcpt, "RCPT TO:<c@d.example>");
    record.replied(Verb::Rcpt, 250);
    assert_eq!(record.open[0].accepted, [1]);
}
