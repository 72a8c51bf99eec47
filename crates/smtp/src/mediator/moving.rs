//! Moving a session from one leg, a connection to the server, to another, while the client waits for a reply.
//!
//! ```text
//!   the driver wants it (MAIL; RCPT of a held MAIL)    QUIT ─▶ dial ─▶ greeting, EHLO, TLS, EHLO ─┬▶ MAIL, RCPT
//!                                                                                                 └▶ of no use: 451, the next MAIL dials again
//!   the server refused (greeting, EHLO, MAIL, RCPT)    set aside ─▶ dial ─▶ …  ─┬▶ leave the old leg, play again
//!                                                                               └▶ of no use: take the old leg back, pass its reply
//! ```
//!
//! What is played again: the MAIL, if the client has its answer already, and everything that the server owes a reply to. The client sees
//! nothing of it but the replies. A leg is of use if its TLS is not weaker than the old one's, and its extensions cover what the
//! client was told and uses. After a refusal a session moves once, and only while nothing was promised: no recipient
//! accepted, no content sent.

use std::time::Instant;

use super::action::Action;
use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::keeping::Keeping;
use super::machine::{Back, Context, Mediator};
use super::opening::{Mx, Opening, Ready, Security, Wire};
use super::outgoing::Outgoing;
use super::replies;
use super::settings::{Leg, TlsPolicy};
use super::stand_in::Absent;
use super::waiting::{Awaited, By, Line};
use crate::command::{Command, Verb};
use crate::reply::ReplyParser;
use crate::{Extensions, Reply};

/// A move, while it lasts.
#[derive(Debug)]
pub(super) struct Moving {
    /// Since when the client waits; dials do not count.
    since: Instant,
    /// The old leg is left, or set aside.
    started: bool,
    /// How the old leg was secured.
    floor: Security,
    /// The leg to go back to.
    old: Option<Old>,
    /// A MAIL that comes first, because the client has its answer.
    mail: Option<Line>,
    /// The old leg was a session's before and is gone: this one is what the client takes for its first.
    anew: bool,
}

/// A leg that was set aside, and the refusal that was the reason.
#[derive(Debug)]
struct Old {
    back: Back,
    parser: ReplyParser,
    to_server: Outgoing,
    refusal: Reply,
}

impl Moving {
    /// Of a leg that is gone, secured like that.
    pub(super) fn without_way_back(now: Instant, floor: Security) -> Self {
        Self { since: now, started: true, floor, old: None, mail: None, anew: true }
    }

    /// There is a connection. In the clear it would be weaker than what there was.
    pub(super) fn connected(&mut self, leg: &mut Leg, now: Instant) {
        self.since = now;
        if self.floor > Security::Clear && leg.tls.allows_clear() {
            leg.tls = TlsPolicy::Require;
        }
    }

    /// By when it has to be over.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl Mediator {
    /// The driver wants another leg for what is held back.
    pub(super) fn wish_to_move(&mut self, cx: &mut Context<'_>, mail: Option<Line>) {
        let (since, floor) = (cx.now, self.security);
        self.moving = Some(Box::new(Moving { since, started: false, floor, old: None, mail, anew: false }));
        self.depart(cx);
    }

    /// Leaves the old leg, once it owes no reply.
    pub(super) fn depart(&mut self, cx: &mut Context<'_>) {
        let Some(head) = self.waiting.head().filter(|head| head.is_unsent()) else { return };
        let topic = head.topic;
        let Some(moving) = self.moving.as_mut().filter(|moving| !moving.started) else { return };
        moving.started = true;
        if !matches!(self.back, Back::Gone) {
            cx.tell(Event::Command { flow: Flow::CommandSent, topic: Topic::Command(Verb::Quit), line: b"QUIT" });
            self.actions.extend([Action::SetAside, Action::LeaveAside { quit: true }]);
        }
        cx.tell(Event::Moving { topic, reply: None });
        self.dial_elsewhere(Mx::Again(Wire::Fresh));
    }

    /// Whether the session could go on over another leg, as far as SMTP is concerned: what was asked can be asked again, and nothing was
    /// promised. A refusal of DATA is too late for that: its recipients have their answers.
    pub(super) fn could_fail_over(&self, awaited: &Awaited, reply: &Reply) -> bool {
        let topic = match awaited.topic {
            Topic::Command(Verb::Mail) => true,
            Topic::Command(Verb::Rcpt) => self.envelope.mail.is_some() && !self.envelope.committed,
            _ => false,
        };
        topic
            && self.may_move_once(reply)
            && self.moving.is_none()
            && awaited.line.is_some()
            && self.waiting.can_be_played_again()
    }

    /// The same, while the leg is being opened.
    pub(super) fn could_fail_over_at(&self, topic: Topic, reply: &Reply) -> bool {
        matches!(topic, Topic::Greeting | Topic::Command(Verb::Ehlo | Verb::Helo))
            && self.may_move_once(reply)
            && self.moving.as_ref().is_none_or(|moving| moving.old.is_none())
    }

    fn may_move_once(&self, reply: &Reply) -> bool {
        self.home.is_some() && !self.failed_over && (reply.is_transient() || reply.is_permanent())
    }

    /// The driver agreed: the leg is set aside, with its refusal, and another is dialled.
    pub(super) fn fail_over(&mut self, cx: &mut Context<'_>, topic: Topic, refusal: Reply) {
        self.failed_over = true;
        cx.tell(Event::Moving { topic, reply: Some(&refusal) });
        if self.moving.is_some() {
            // The leg that was refused is the new one already.
            self.actions.push_back(Action::DropServer);
            return self.dial_elsewhere(Mx::Again(Wire::Fresh));
        }
        let floor = match &self.back {
            Back::Opening { opening, .. } => opening.security(),
            Back::Relaying | Back::Gone => self.security,
        };
        let old = Old {
            back: std::mem::replace(&mut self.back, Back::Gone),
            parser: std::mem::take(&mut self.parser),
            to_server: std::mem::take(&mut self.to_server),
            refusal,
        };
        let mail = (topic == Topic::Command(Verb::Rcpt)).then(|| self.envelope.mail.clone()).flatten();
        let mail = mail.map(|bytes| Line { bytes, turn: super::waiting::Turn::Again });
        self.moving = Some(Box::new(Moving { since: cx.now, started: true, floor, old: Some(old), mail, anew: false }));
        self.actions.push_back(Action::SetAside);
        // It may be the greeting of a leg that is dialled again in the clear: the client has had one.
        let greeted = !matches!(self.front, Front::Waiting { hello: None });
        self.dial_elsewhere(if greeted { Mx::Again(Wire::Fresh) } else { Mx::Greeting });
    }

    pub(super) fn dial_elsewhere(&mut self, state: Mx) {
        let Some(home) = self.home.clone() else { return };
        // It is another leg that the session is on from here, and not what the client was told of.
        self.keeping = Keeping { moved: true, leaving: self.keeping.leaving, ..Keeping::default() };
        self.to_server.clear();
        self.parser.clear();
        self.back = Back::opening(Opening::Mx(Box::new(home), state));
        self.actions.push_back(Action::Dial);
    }

    /// A leg is ready: if the session is on the move, it has to be of use.
    pub(super) fn arrived(&mut self, cx: &mut Context<'_>, ready: Ready) {
        let hello_due = matches!(self.front, Front::Waiting { .. });
        let unfit = match &self.moving {
            Some(moving) if ready.security < moving.floor => Some(replies::weaker_tls()),
            Some(moving) if !hello_due && !self.covered(moving, &ready) => Some(replies::covers_less()),
            _ => None,
        };
        if let Some(reply) = unfit {
            return self.stay(cx, reply);
        }
        let mail = self.moved(cx);
        self.security = ready.security;
        self.requiretls = Some(ready.hello.offers("REQUIRETLS"));
        if hello_due {
            return self.open(cx, ready.hello);
        }
        self.absent = None;
        self.back = Back::Relaying;
        self.waiting.unsend();
        if let Some(line) = mail {
            let topic = Topic::Command(Verb::Mail);
            self.waiting.push_front(Awaited { topic, since: cx.now, by: By::ServerForUs, line: Some(line) });
        }
        self.advance(cx);
        self.quit_in_turn(cx);
    }

    /// The new leg took over: the old one is left. What comes first on the new one.
    pub(super) fn moved(&mut self, cx: &mut Context<'_>) -> Option<Line> {
        let moving = self.moving.take()?;
        let old = moving.old.as_ref();
        // It may have answered DATA with 354, and would take a QUIT for content.
        let asked_for_data = self.waiting.iter().any(|awaited| awaited.topic == Topic::Command(Verb::Data));
        let quit = old.is_some_and(|old| old.refusal.code != 421) && !asked_for_data;
        cx.tell(Event::Moved { quit });
        if old.is_some() {
            self.actions.push_back(Action::LeaveAside { quit });
        }
        moving.mail
    }

    /// The new leg is of no use. With an old one the session goes on there, and its refusal passes; else the client is told to come
    /// again, with `reply` as the reason.
    pub(super) fn stay(&mut self, cx: &mut Context<'_>, reply: Reply) {
        let Some(moving) = self.moving.take() else { return };
        cx.tell(Event::Stayed);
        if moving.anew {
            // As if it had never been: the client tries its next server, or comes back and is told what is offered now.
            return self.give_up(cx, Ending::Unreachable, Reply { code: 421, ..reply });
        }
        let Some(old) = moving.old else { return self.vacate(cx, &reply) };
        self.actions.push_back(Action::TakeBack);
        (self.back, self.parser, self.to_server) = (old.back, old.parser, old.to_server);
        self.server_heard = cx.now;
        self.reply(cx, old.refusal);
    }

    /// There is no server any more, but a client that may go on: each of its messages is tried anew.
    fn vacate(&mut self, cx: &mut Context<'_>, reason: &Reply) {
        let reply = replies::not_over_this_leg(reason);
        self.drop_server();
        self.transaction_over();
        for mut awaited in self.waiting.take() {
            // The client has its answer, or never asked.
            if matches!(awaited.by, By::ServerForUs) {
                continue;
            }
            if let Some(line) = awaited.line.take() {
                cx.tell(Event::Command { flow: Flow::CommandEnded, topic: awaited.topic, line: &line.bytes });
            }
            if !matches!(awaited.by, By::Us(_)) {
                awaited.by = By::Us(reply.clone());
            }
            self.waiting.push(awaited);
        }
        self.absent = Some(Box::new(Absent { reply, again: true }));
        self.client_heard = cx.now;
        self.say_ours(cx);
    }

    /// Whether a leg offers what the client was told, and what it uses.
    fn covered(&self, moving: &Moving, ready: &Ready) -> bool {
        let (_, offered) = Extensions::parse(&ready.hello.ehlo());
        let told = match &self.hello {
            // One that has just secured its own side will be told again.
            Some(hello) if self.esmtp || matches!(self.front, Front::Hello) => Extensions::parse(&hello.ehlo()).1,
            _ => Extensions::default(),
        };
        let lines = moving.mail.iter().chain(self.waiting.iter().filter_map(|awaited| awaited.line.as_ref()));
        let used: Vec<Command> = lines.filter_map(|line| Command::parse(&line.bytes).ok()).collect();
        let size = used.iter().find_map(|command| match command {
            Command::Mail { params, .. } => params.size,
            _ => None,
        });
        offered.covers(&told, size) && used.iter().all(|command| offered.allows(command))
    }
}
