//! What a record keeps while its session goes on.

use std::time::SystemTime;

use warren_session::{Door, Reader, Recorder, RecorderSettings, SessionId, SessionStart, recorder::database};
use warren_smtp::ReversePath;
use warren_smtp::command::Verb;
use warren_smtp::mediator::{Event, Flow, Observer, Topic};

use super::*;

fn record() -> SessionRecord {
    recorded_by(&Recorder::off().0)
}

fn recorded_by(recorder: &Recorder) -> SessionRecord {
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
    SessionRecord::new(recorder.session(start), Instant::now())
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
        self.rcpt_to("c@d.example");
    }

    fn rcpt_to(&mut self, path: &str) {
        self.says(Flow::CommandPassed, Verb::Rcpt, &format!("RCPT TO:<{path}>"));
        self.hears(Event::Rcpt(&path.parse::<ForwardPath>().unwrap()));
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

#[tokio::test]
async fn a_message_to_many_is_recorded_with_all_of_them() {
    let long = Duration::from_secs(30);
    let folder = tempfile::tempdir().unwrap();
    // However busy the disk is: what the spool file holds is not read here.
    let settings = RecorderSettings { patience: long, ..RecorderSettings::new(folder.path()) };
    let (recorder, thread) = Recorder::in_directory(folder.path(), settings).unwrap();
    let mut record = recorded_by(&recorder);
    record.mail();
    record.replied(Verb::Mail, 250);
    for n in 1..=40 {
        record.rcpt_to(&format!("{n}@d.example"));
        record.replied(Verb::Rcpt, if n == 7 { 550 } else { 250 });
    }
    record.says(Flow::CommandPassed, Verb::Data, "DATA");
    record.replied(Verb::Data, 354);
    record.hears(Event::Content(b"Message-ID: <1@b.example>\r\n\r\n.\r\n"));
    record.hears(Event::ContentEnd);
    record.hears(Event::Command { flow: Flow::CommandPassed, topic: Topic::EndOfData, line: b"." });
    let taken = Reply::new(250, (2, 6, 0), "taken");
    record.hears(Event::Reply { flow: Flow::ReplyPassed, topic: Topic::EndOfData, reply: &taken });
    let id = record.id().to_string();
    assert_eq!((record.tally.delivered, record.tally.failed), (39, 1));
    record.finish();
    recorder.flush().await;
    thread.finish(long).await;

    let recorded = Reader::open(&database(folder.path())).await.unwrap().load(&id).await.unwrap();
    let [message] = &recorded.messages[..] else { panic!("{:?}", recorded.messages) };
    let facts = (message.class.as_str(), message.code, message.size, message.message_id.as_deref());
    assert_eq!(facts, ("delivered", Some(250), 32, Some("<1@b.example>")));
    assert_eq!(recorded.recipients.len(), 40);
    for (n, recipient) in (1..).zip(&recorded.recipients) {
        assert_eq!(
            (recipient.class == "delivered", recipient.text.as_str()),
            if n == 7 { (false, "so") } else { (true, "2.6.0 taken") }
        );
        assert_eq!(recipient.forward_path, format!("{n}@d.example"));
    }
}
