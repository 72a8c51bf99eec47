//! MAIL, RCPT, DATA and BDAT: judged, passed, held, or answered here.

use std::time::Instant;

use super::content::Verdict;
use super::event::{Event, Flow, Topic};
use super::front::Front;
use super::machine::{Context, Mediator};
use super::replies;
use super::settings::Judgement;
use super::waiting::{Awaited, By, Line, Turn};
use crate::body::BdatCounter;
use crate::command::{Command, Verb};
use crate::{ForwardPath, Reply, ReversePath};

/// What is known of the transaction.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// There is one.
    pub(super) open: bool,
    /// When its content began.
    pub(super) content_since: Option<Instant>,
    /// The MAIL that the server accepted, as long as it may be played again on another leg.
    pub(super) mail: Option<Box<[u8]>>,
    /// There is no way back: the client knows of a recipient that was accepted, or the server has content.
    pub(super) committed: bool,
    /// A MAIL that the client has its answer to, and the server has not heard yet.
    pub(super) held: Option<Box<[u8]>>,
    /// The server's refusal of a MAIL to which the client was told yes: what its recipients and content get.
    pub(super) void: Option<Box<Reply>>,
}

impl Mediator {
    pub(super) fn mail(&mut self, cx: &mut Context<'_>, from: &ReversePath, command: &Command, line: &[u8]) {
        if self.envelope.held.is_some() {
            return self.refuse(cx, Verb::Mail, line, replies::nested_mail());
        }
        self.envelope.void = None;
        match cx.host.mail(from, line) {
            Judgement::Refuse(refusal) => self.refuse(cx, Verb::Mail, line, refusal),
            Judgement::Move if self.home.is_some() => self.mail_elsewhere(cx, line),
            judgement => {
                if let Some(refusal) = self.objection(command) {
                    self.refuse(cx, Verb::Mail, line, refusal.clone());
                    self.envelope.void = Some(Box::new(refusal));
                } else if judgement == Judgement::Hold && self.home.is_some() {
                    self.envelope.open = true;
                    self.envelope.held = Some(line.into());
                    self.answer(cx, Verb::Mail, line, replies::sender_ok());
                } else {
                    self.envelope.open = true;
                    self.pass_envelope(cx, command, line);
                    cx.tell(Event::Mail(from));
                }
            }
        }
    }

    /// The MAIL waits until there is another leg.
    pub(super) fn mail_elsewhere(&mut self, cx: &mut Context<'_>, line: &[u8]) {
        self.envelope.open = true;
        self.hold_back(cx, Topic::Command(Verb::Mail), line);
        self.wish_to_move(cx, None);
    }

    pub(super) fn rcpt(&mut self, cx: &mut Context<'_>, to: &ForwardPath, command: &Command, line: &[u8]) {
        if let Some(void) = self.envelope.void.clone() {
            return self.answer(cx, Verb::Rcpt, line, *void);
        }
        let judgement = cx.host.rcpt(to, line);
        if let Judgement::Refuse(refusal) = judgement {
            // Not the client's error: it cannot know what a recipient's domain demands.
            return self.answer(cx, Verb::Rcpt, line, refusal);
        }
        let Some(mail) = self.envelope.held.take() else {
            self.pass_envelope(cx, command, line);
            return cx.tell(Event::Rcpt(to));
        };
        let mail = Line { bytes: mail, turn: Turn::First };
        if judgement == Judgement::Move {
            self.hold_back(cx, Topic::Command(Verb::Rcpt), line);
            return self.wish_to_move(cx, Some(mail));
        }
        let topic = Topic::Command(Verb::Mail);
        self.waiting.push(Awaited { topic, since: cx.now, by: By::ServerForUs, line: Some(mail) });
        self.hold_back(cx, Topic::Command(Verb::Rcpt), line);
        self.advance(cx);
    }

    pub(super) fn data(&mut self, cx: &mut Context<'_>, line: &[u8]) {
        if let Some(refusal) = self.no_content() {
            return self.answer(cx, Verb::Data, line, refusal);
        }
        self.pass(cx, Topic::Command(Verb::Data), line);
        self.front = Front::DataAsked;
    }

    pub(super) fn bdat(&mut self, cx: &mut Context<'_>, size: u64, last: bool, line: &[u8]) {
        if let Some(refusal) = self.no_content() {
            return self.refuse_chunk(cx, size, last, line, refusal);
        }
        let topic = if last { Topic::LastChunk } else { Topic::Command(Verb::Bdat) };
        self.pass(cx, topic, line);
        self.envelope.committed = true;
        self.front = Front::Chunk { left: BdatCounter::new(size), last, verdict: None };
        self.envelope.content_since.get_or_insert(cx.now);
        if size == 0 {
            self.chunk_done(cx);
        }
    }

    /// Why no content is taken: its MAIL is void, or nobody asked for the server yet.
    fn no_content(&self) -> Option<Reply> {
        match &self.envelope.void {
            Some(void) => Some((**void).clone()),
            None => self.envelope.held.is_some().then(replies::no_recipients),
        }
    }

    /// Refuses a chunk whose content follows all the same: it must not run as commands.
    pub(super) fn refuse_chunk(&mut self, cx: &mut Context<'_>, size: u64, last: bool, line: &[u8], reply: Reply) {
        self.ended_here(cx, Verb::Bdat, line);
        let verdict = Verdict { flow: Flow::ReplyMade, reply, goes_on: true };
        self.front = Front::Chunk { left: BdatCounter::new(size), last, verdict: Some(Box::new(verdict)) };
        if size == 0 {
            self.chunk_done(cx);
        }
    }

    /// Why this leg may not have a MAIL (RFC 8689 §4.2.1: what must not leave without TLS is returned, not sent).
    fn objection(&self, command: &Command) -> Option<Reply> {
        let Command::Mail { params, .. } = command else { return None };
        (params.require_tls && self.requiretls == Some(false)).then(replies::requiretls)
    }

    /// The server answered a MAIL that the client had its answer to.
    pub(super) fn mail_answered(&mut self, line: Option<Line>, reply: &Reply) {
        self.envelope.committed = false;
        if reply.is_positive() {
            self.envelope.open = true;
            self.envelope.mail = line.map(|line| line.bytes);
        } else {
            self.envelope.void = Some(Box::new(reply.clone()));
        }
    }

    /// A command that waits for its turn to be sent; whatever the client says next waits behind it.
    pub(super) fn hold_back(&mut self, cx: &mut Context<'_>, topic: Topic, line: &[u8]) {
        let line = Some(Line { bytes: line.into(), turn: Turn::First });
        self.waiting.push(Awaited { topic, since: cx.now, by: By::Server, line });
    }

    /// Sends what was held back, up to a MAIL of ours whose answer decides about the rest.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) {
        if self.moving.is_some() || !self.waiting.holds_back() {
            return;
        }
        let mut stopped = false;
        for awaited in self.waiting.take() {
            let kept_back = self.keeping.leaving && awaited.topic == Topic::Command(Verb::Quit);
            if stopped || kept_back || !awaited.is_unsent() {
                stopped |= matches!((&awaited.by, awaited.topic), (By::ServerForUs, Topic::Command(Verb::Mail)));
                self.waiting.push(awaited);
            } else if let Some(awaited) = self.dispatch(cx, awaited) {
                stopped = matches!((&awaited.by, awaited.topic), (By::ServerForUs, Topic::Command(Verb::Mail)));
                self.waiting.push(awaited);
            }
        }
        self.say_ours(cx);
    }

    /// Sends a command that was held back, or finds that it is not to be sent.
    fn dispatch(&mut self, cx: &mut Context<'_>, awaited: Awaited) -> Option<Awaited> {
        let Awaited { topic: topic @ Topic::Command(verb), by, line: Some(line), .. } = awaited else {
            return Some(awaited);
        };
        let (first, for_us) = (line.turn == Turn::First, matches!(by, By::ServerForUs));
        let command = Command::parse(&line.bytes).ok();
        if matches!(verb, Verb::Mail | Verb::Rset) {
            self.envelope.void = None;
        }
        let refusal = match verb {
            Verb::Rcpt | Verb::Data if self.envelope.void.is_some() => self.envelope.void.as_deref().cloned(),
            // It was judged by the leg of then: this one may have other certificates.
            Verb::Rcpt => match &command {
                Some(Command::Rcpt { to, .. }) => match cx.host.rcpt(to, &line.bytes) {
                    Judgement::Refuse(refusal) => Some(refusal),
                    Judgement::Pass | Judgement::Move | Judgement::Hold => None,
                },
                _ => None,
            },
            Verb::Mail => command.as_ref().and_then(|command| self.objection(command)),
            _ => None,
        };
        if let Some(refusal) = refusal {
            if first && !for_us {
                self.ended_here(cx, verb, &line.bytes);
            }
            if verb == Verb::Mail {
                self.envelope.void = Some(Box::new(refusal.clone()));
            }
            return (!for_us).then_some(Awaited { topic, since: cx.now, by: By::Us(refusal), line: None });
        }
        let flow = if first && !for_us { Flow::CommandPassed } else { Flow::CommandSent };
        cx.tell(Event::Command { flow, topic, line: &line.bytes });
        self.to_server.push(&line.bytes);
        self.to_server.push(b"\r\n");
        self.server_heard = cx.now;
        match command {
            Some(Command::Mail { from, .. }) if first => cx.tell(Event::Mail(&from)),
            Some(Command::Rcpt { to, .. }) if first => cx.tell(Event::Rcpt(&to)),
            _ => {}
        }
        let line = Some(Line { turn: Turn::Sent, ..line });
        Some(Awaited { topic, since: cx.now, by, line })
    }
}
