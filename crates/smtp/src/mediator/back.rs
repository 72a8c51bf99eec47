//! The server's side: replies matched to commands, the opening, loss, and silence.

use std::time::{Duration, Instant};

use super::action::Action;
use super::content::Verdict;
use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::keeping::STALE;
use super::machine::{Back, Context, Mediator};
use super::opening::{Hello, Mx, Opening, Step};
use super::replies;
use super::waiting::{Awaited, By};
use crate::Reply;
use crate::body::DataScanner;
use crate::command::Verb;
use crate::ehlo::server_name;
use crate::reply::Severity;

/// Who did not say anything for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silent {
    Server,
    Client,
}

impl Mediator {
    pub(super) fn read_replies(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if matches!(self.back, Back::Gone) {
            return;
        }
        if !bytes.is_empty() {
            cx.tell(Event::Heard { bytes: bytes.len() });
        }
        self.parser.push(bytes);
        loop {
            match self.parser.next_reply() {
                Ok(None) => return,
                Ok(Some(reply)) => {
                    self.reply(cx, reply);
                    self.server_heard = cx.now;
                }
                Err(_) => {
                    return self.server_lost(cx, Ending::Violation("no reply, but garbage"), replies::server_garbled());
                }
            }
            if matches!(self.back, Back::Gone) {
                return;
            }
        }
    }

    pub(super) fn reply(&mut self, cx: &mut Context<'_>, reply: Reply) {
        match &mut self.back {
            Back::Opening { opening, .. } => {
                let Some(topic) = opening.awaits() else {
                    return self.unasked(cx, &reply);
                };
                if self.could_fail_over_at(topic, &reply) && cx.host.fail_over(topic, &reply) {
                    return self.fail_over(cx, topic, reply);
                }
                let Back::Opening { opening, .. } = &mut self.back else { return };
                let step = opening.reply(&reply);
                let passed = match step {
                    Step::Greet => true,
                    // Of a leg that the client knows nothing of.
                    Step::RefuseSession | Step::RejectHello | Step::PassAndClose => self.moving.is_none(),
                    _ => false,
                };
                if !passed {
                    cx.tell(Event::Reply { flow: Flow::ReplyEnded, topic, reply: &reply });
                }
                if topic == Topic::Command(Verb::Ehlo) && reply.is_positive() {
                    let name = server_name(&reply);
                    cx.tell(Event::Offered { name, lines: reply.lines.get(1..).unwrap_or_default() });
                }
                self.perform(cx, step, Some(&reply));
            }
            Back::Relaying => self.relay(cx, &reply),
            Back::Gone => {}
        }
    }

    /// Does what the opening says.
    pub(super) fn perform(&mut self, cx: &mut Context<'_>, step: Step, reply: Option<&Reply>) {
        let pass = |this: &mut Self, cx: &mut Context<'_>| {
            let topic = this.awaited_by_client();
            if let Some(reply) = reply {
                this.say(cx, Flow::ReplyPassed, topic, reply);
            }
        };
        match step {
            Step::RefuseSession | Step::RejectHello | Step::PassAndClose if self.moving.is_some() => {
                let reason = reply.cloned().unwrap_or_else(replies::server_lost);
                self.stay(cx, reason);
            }
            Step::Fail(_, reason) if self.moving.is_some() => self.stay(cx, reason),
            Step::Greet => {
                self.moved(cx);
                pass(self, cx);
                self.front = Front::Hello;
                self.client_heard = cx.now;
            }
            Step::RefuseSession => {
                pass(self, cx);
                self.end(cx, Ending::ServerRefused);
                self.refusal = reply.cloned().map(Box::new);
                self.front = Front::Hello;
                self.client_heard = cx.now;
            }
            Step::RejectHello => {
                pass(self, cx);
                self.refusal = reply.cloned().map(Box::new);
                self.front = Front::Hello;
                self.client_heard = cx.now;
            }
            Step::Send(verb, line) => self.send(cx, verb, &line),
            Step::Handshake => {
                let bytes = self.parser.clear();
                if bytes > 0 {
                    cx.tell(Event::Injected { bytes });
                }
                self.actions.push_back(Action::Handshake);
            }
            Step::Redial => {
                self.to_server.clear();
                self.parser.clear();
                if let Back::Opening { connected, .. } = &mut self.back {
                    *connected = false;
                }
                self.actions.extend([Action::DropServer, Action::Dial]);
            }
            Step::Answer(ready) => self.arrived(cx, ready),
            Step::Relay => self.relaying(cx),
            Step::PassAndClose => {
                self.end(cx, Ending::ServerRefused);
                pass(self, cx);
                self.drop_server();
                self.close_client();
            }
            Step::Fail(ending, reply) => self.give_up(cx, ending, reply),
        }
    }

    /// Answers the EHLO or HELO that the client waits for.
    pub(super) fn open(&mut self, cx: &mut Context<'_>, hello: Hello) {
        self.esmtp = !matches!(self.front, Front::Waiting { hello: Some(Verb::Helo) });
        let topic = self.awaited_by_client();
        self.hello = Some(hello);
        let answer = self.hello_for_client(self.esmtp);
        self.say(cx, Flow::ReplyMade, topic, &answer);
        self.relaying(cx);
    }

    fn relaying(&mut self, cx: &mut Context<'_>) {
        self.back = Back::Relaying;
        self.front = Front::Commands;
        self.client_heard = cx.now;
    }

    /// A reply while commands are passed through.
    fn relay(&mut self, cx: &mut Context<'_>, reply: &Reply) {
        // A chunk is acknowledged when it is there, not before. One that is swallowed is not the server's to acknowledge.
        if let Front::Chunk { verdict: None, .. } = self.front
            && self.waiting.len() == 1
            && reply.is_positive()
        {
            return self.server_lost(cx, Ending::Violation("2xx before the chunk was sent"), replies::server_garbled());
        }
        let Some(awaited) = self.waiting.answered() else {
            return self.unasked(cx, reply);
        };
        if !fits(awaited.topic, reply) {
            cx.tell(Event::Reply { flow: Flow::ReplyEnded, topic: awaited.topic, reply });
            self.data_refused(awaited.topic);
            self.waiting.push_front(awaited);
            return self.server_lost(cx, Ending::Violation("a reply that does not fit"), replies::server_garbled());
        }
        if self.could_fail_over(&awaited, reply) && cx.host.fail_over(awaited.topic, reply) {
            let topic = awaited.topic;
            self.waiting.push_front(awaited);
            return self.fail_over(cx, topic, reply.clone());
        }
        if stale(awaited.topic, reply) && awaited.line.is_some() && self.could_begin_anew() {
            cx.tell(Event::Stale { reply });
            self.waiting.push_front(awaited);
            return self.begin_anew(cx);
        }
        self.keeping.unproven = false;
        if let By::ServerForUs = awaited.by {
            cx.tell(Event::Reply { flow: Flow::ReplyEnded, topic: awaited.topic, reply });
            if reply.code == 421 {
                self.drop_server();
                return self.give_up(cx, Ending::ServerRefused, reply.clone());
            }
            match awaited.topic {
                Topic::Command(Verb::Mail) => self.mail_answered(awaited.line, reply),
                _ => self.transaction_over(),
            }
        } else {
            self.say(cx, Flow::ReplyPassed, awaited.topic, reply);
            self.passed(cx, awaited, reply);
        }
        if reply.code == 421 && !matches!(self.front, Front::Done) {
            self.end(cx, Ending::ServerRefused);
            self.drop_server();
            return self.close_client();
        }
        self.say_ours(cx);
        self.depart(cx);
        self.advance(cx);
        self.quit_in_turn(cx);
    }

    /// What a reply that was passed changes.
    fn passed(&mut self, cx: &mut Context<'_>, awaited: Awaited, reply: &Reply) {
        match awaited.topic {
            Topic::Command(Verb::Mail) if !reply.is_positive() => self.transaction_over(),
            Topic::Command(Verb::Mail) => {
                // Said again: the end of the message before it may have been answered since.
                (self.envelope.open, self.envelope.committed) = (true, false);
                self.envelope.mail = awaited.line.map(|line| line.bytes);
            }
            Topic::Command(Verb::Rcpt) if reply.is_positive() => self.commit(),
            Topic::Command(Verb::Bdat) => self.commit(),
            Topic::Command(Verb::Rset) => self.transaction_over(),
            Topic::EndOfData | Topic::LastChunk => {
                self.keeping.earned = reply.is_positive();
                self.fruitless = 0;
                self.transaction_over();
            }
            Topic::Command(Verb::Data) if reply.code == 354 => {
                self.front = Front::Body { scanner: DataScanner::new(), verdict: None };
                self.client_heard = cx.now;
                self.envelope.content_since = Some(cx.now);
            }
            Topic::Command(Verb::Data) => self.front = Front::Commands,
            Topic::Command(Verb::Quit) => {
                self.end(cx, Ending::Quit);
                self.close_server();
                self.close_client();
            }
            _ => {}
        }
        if self.waiting.is_empty() {
            self.client_heard = cx.now;
        }
    }

    /// From here on the session stays on its leg.
    fn commit(&mut self) {
        (self.envelope.committed, self.envelope.mail) = (true, None);
    }

    /// A reply to nothing: last words, or a verdict before the content was sent.
    fn unasked(&mut self, cx: &mut Context<'_>, reply: &Reply) {
        let refuses = matches!(reply.severity(), Severity::Transient | Severity::Permanent);
        // The last words of a connection that nobody used: they are for the session before.
        let stale = matches!(&self.back, Back::Opening { opening: Opening::Mx(_, Mx::Kept(_)), .. });
        if stale || (reply.code == 421 && self.could_begin_anew()) {
            cx.tell(Event::Stale { reply });
            if !self.lapse() {
                self.begin_anew(cx);
            }
            return;
        }
        match &mut self.front {
            Front::Body { verdict, .. } if refuses => {
                // The message cannot be accepted any more, so its rest is not sent either.
                verdict.get_or_insert_with(|| {
                    Box::new(Verdict { flow: Flow::ReplyPassed, reply: reply.clone(), goes_on: false })
                });
                self.end(cx, Ending::ServerRefused);
                self.drop_server();
            }
            _ if reply.code == 421 => {
                self.end(cx, Ending::ServerRefused);
                self.say(cx, Flow::ReplyPassed, Topic::Greeting, reply);
                self.drop_server();
                self.close_client();
            }
            _ => {
                cx.tell(Event::Reply { flow: Flow::ReplyEnded, topic: Topic::Greeting, reply });
                self.server_lost(cx, Ending::Violation("a reply to nothing"), replies::server_garbled());
            }
        }
    }

    pub(super) fn opening_lost(&mut self, cx: &mut Context<'_>, ending: Ending, reply: Reply) {
        if self.lapse() {
            return;
        }
        if let Back::Opening { opening, .. } = &mut self.back {
            let step = opening.lost(ending, reply);
            self.perform(cx, step, None);
        }
    }

    /// The server is of no use any more. The client learns it with `reply`, behind the content that it is sending.
    pub(super) fn server_lost(&mut self, cx: &mut Context<'_>, ending: Ending, reply: Reply) {
        match (&self.back, &self.refusal) {
            (Back::Gone, _) => return,
            (Back::Opening { .. }, None) => return self.opening_lost(cx, ending, reply),
            (Back::Opening { .. }, Some(_)) | (Back::Relaying, _) => {}
        }
        if self.could_begin_anew() {
            return self.begin_anew(cx);
        }
        if self.waiting.head().is_some_and(|head| head.topic == Topic::Command(Verb::Quit)) {
            self.end(cx, Ending::Quit);
            self.drop_server();
            self.say(cx, Flow::ReplyMade, Topic::Command(Verb::Quit), &replies::bye());
            return self.close_client();
        }
        self.drop_server();
        self.client_heard = cx.now;
        match &mut self.front {
            Front::Body { verdict, .. } | Front::Chunk { verdict, .. } => {
                let verdict =
                    verdict.get_or_insert_with(|| Box::new(Verdict { flow: Flow::ReplyMade, reply, goes_on: false }));
                verdict.goes_on = false;
                self.end(cx, ending);
            }
            _ => self.give_up(cx, ending, reply),
        }
    }

    /// When somebody's silence becomes too long, and whose.
    pub(super) fn due(&self) -> Option<(Instant, Silent)> {
        let server = |since: Instant, limit: Duration| Some((since + limit, Silent::Server));
        let client = |limit: Duration| {
            let silent = self.client_heard + limit;
            // However busily it talks.
            let slow = self.envelope.content_since.map(|since| since + self.deadlines.transfer);
            Some((slow.map_or(silent, |slow| slow.min(silent)), Silent::Client))
        };
        if let Front::Handshake | Front::Done = self.front {
            return None;
        }
        if let Back::Opening { opening, connected } = &self.back {
            let usual = match opening.awaits() {
                None if matches!(self.front, Front::Hello) => client(self.deadlines.client),
                _ if !connected => None,
                Some(Topic::Greeting) => server(self.server_heard, self.deadlines.greeting),
                Some(_) => server(self.server_heard, self.deadlines.hello),
                None => None,
            };
            return match &self.moving {
                Some(moving) => usual.map(|(at, silent)| (at.min(moving.since() + self.deadlines.moving), silent)),
                None => usual,
            };
        }
        match (&self.front, self.waiting.head()) {
            (Front::Body { .. } | Front::Chunk { .. }, _) => client(self.deadlines.content),
            (_, Some(head)) => {
                let limit = match head.topic {
                    Topic::Command(Verb::Data) => self.deadlines.data,
                    Topic::Command(Verb::Mail) => self.deadlines.mail,
                    Topic::Command(Verb::Rcpt) => self.deadlines.rcpt,
                    Topic::EndOfData | Topic::LastChunk => self.deadlines.end_of_data,
                    _ => self.deadlines.command,
                };
                let limit = if self.could_begin_anew() { limit.min(STALE) } else { limit };
                server(head.since.max(self.server_heard), limit)
            }
            (_, None) => client(self.deadlines.client),
        }
    }

    pub(super) fn expired(&mut self, cx: &mut Context<'_>, silent: Silent) {
        // A client that waits for room is not silent.
        if silent == Silent::Server || !self.to_server.is_empty() {
            return self.server_lost(cx, Ending::TimedOut, replies::server_silent());
        }
        self.give_up(cx, Ending::TimedOut, replies::client_silent());
    }
}

/// Whether this may be about sessions before, as the first reply of a connection that was taken over: servers count by connection, and do not all say 421 when it is
/// enough. A new connection's word is the last.
fn stale(topic: Topic, reply: &Reply) -> bool {
    let quits = topic == Topic::Command(Verb::Quit);
    let refuses = matches!(reply.severity(), Severity::Transient | Severity::Permanent);
    (reply.code == 421 && !quits) || (refuses && topic == Topic::Command(Verb::Mail))
}

/// Whether a reply can be an answer to this at all.
fn fits(topic: Topic, reply: &Reply) -> bool {
    match topic {
        Topic::Command(Verb::Data) => reply.code == 354 || reply.is_transient() || reply.is_permanent(),
        _ => reply.severity() != Severity::Intermediate,
    }
}
