//! The mediator as its driver sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::action::Action;
use super::client_tls::Shield;
use super::envelope::Envelope;
use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::keeping::Keeping;
use super::moving::Moving;
use super::opening::{HandedOver, Hello, Mx, Opening, Security};
use super::outgoing::Outgoing;
use super::settings::{Deadlines, HIGH_WATER, HandOver, Host, Leg, MAX_HELD, Outbound};
use super::stand_in::Absent;
use super::waiting::Waiting;
use super::{replies, settings};
use crate::Reply;
use crate::command::Verb;
use crate::line::{LineBuffer, MAX_COMMAND_LINE};
use crate::reply::ReplyParser;

/// Where the server's side stands.
#[derive(Debug)]
pub(super) enum Back {
    /// Being opened; `connected` tells whether there is a connection at present.
    Opening {
        opening: Opening,
        connected: bool,
    },
    Relaying,
    Gone,
}

impl Back {
    pub(super) fn opening(opening: Opening) -> Self {
        Self::Opening { opening, connected: false }
    }
}

/// A session that passes through. See the [module](super).
#[derive(Debug)]
pub struct Mediator {
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) front: Front,
    pub(super) back: Back,
    pub(super) input: LineBuffer,
    pub(super) parser: ReplyParser,
    pub(super) waiting: Waiting,
    pub(super) to_client: Outgoing,
    pub(super) to_server: Outgoing,
    pub(super) actions: VecDeque<Action>,
    /// The answers to EHLO and HELO.
    pub(super) hello: Option<Hello>,
    /// The server's refusal of the session, or of EHLO.
    pub(super) refusal: Option<Box<Reply>>,
    /// MAIL and RCPT go out as they were understood, not as they were written.
    pub(super) exact: bool,
    /// How further legs are opened; `None`: there are no others.
    pub(super) home: Option<Leg>,
    /// Another leg is under way.
    pub(super) moving: Option<Box<Moving>>,
    /// The session moved because it was refused: once is enough.
    pub(super) failed_over: bool,
    pub(super) keeping: Keeping,
    /// Of the present leg.
    pub(super) security: Security,
    /// Whether the present leg honours REQUIRETLS; `None`: not for us to say.
    pub(super) requiretls: Option<bool>,
    /// The client said EHLO, and was told of extensions.
    pub(super) esmtp: bool,
    /// There is no server.
    pub(super) absent: Option<Box<Absent>>,
    pub(super) envelope: Envelope,
    pub(super) shield: Shield,
    pub(super) draining: bool,
    pub(super) client_closed: bool,
    pub(super) errors: usize,
    /// Commands since the last message.
    pub(super) fruitless: usize,
    /// When the client last said something whole: a command, or content. The first half of a line is no sign of life.
    pub(super) client_heard: Instant,
    pub(super) server_heard: Instant,
    pub(super) ended: Option<Ending>,
}

/// What every step needs: the time, and who is told.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) host: &'a mut dyn Host,
}

impl Context<'_> {
    pub(super) fn tell(&mut self, event: Event<'_>) {
        self.host.event(self.now, event);
    }
}

impl Mediator {
    /// A session of an MSA towards an MX. The client is greeted once the MX is.
    pub fn outbound(settings: Outbound, now: Instant) -> Self {
        let deadlines = settings.deadlines;
        let opening = Opening::Mx(Box::new(settings.leg.clone()), Mx::Greeting);
        let requiretls = Some(false);
        Self { home: Some(settings.leg), requiretls, ..Self::new(Back::opening(opening), deadlines, None, now) }
    }

    /// A session of a client, greeted and authenticated, towards the MSA that serves it.
    pub fn hand_over(settings: HandOver, now: Instant) -> Self {
        let deadlines = Arc::clone(&settings.deadlines);
        let hello = Hello::given(&settings.ehlo_reply);
        Self {
            exact: true,
            ..Self::new(
                Back::opening(Opening::HandOver(Box::new(settings), HandedOver::Greeting)),
                deadlines,
                Some(hello),
                now,
            )
        }
    }

    pub(super) fn new(back: Back, deadlines: Arc<Deadlines>, hello: Option<Hello>, now: Instant) -> Self {
        Self {
            deadlines,
            front: Front::Waiting { hello: None },
            back,
            input: LineBuffer::new(MAX_COMMAND_LINE),
            parser: ReplyParser::new(),
            waiting: Waiting::default(),
            to_client: Outgoing::default(),
            to_server: Outgoing::default(),
            actions: VecDeque::from([Action::Dial]),
            hello,
            refusal: None,
            exact: false,
            home: None,
            moving: None,
            failed_over: false,
            keeping: Keeping::default(),
            security: Security::Clear,
            requiretls: None,
            esmtp: false,
            absent: None,
            envelope: Envelope::default(),
            shield: Shield::default(),
            draining: false,
            client_closed: false,
            errors: 0,
            fruitless: 0,
            client_heard: now,
            server_heard: now,
            ended: None,
        }
    }

    /// What to do next besides moving bytes; ask after every other call.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Bytes for the client.
    pub fn to_client(&mut self) -> &mut Outgoing {
        &mut self.to_client
    }

    /// Bytes for the server.
    pub fn to_server(&mut self) -> &mut Outgoing {
        &mut self.to_server
    }

    /// Whether to read from the client. While not, its bytes wait in the kernel.
    pub fn wants_client(&self) -> bool {
        !self.client_closed
            && !matches!(self.front, Front::StartTls | Front::Handshake | Front::Done)
            && self.input.len() < MAX_HELD
            && self.to_server.len() < HIGH_WATER
            && self.to_client.len() < HIGH_WATER
            && self.waiting.len() < settings::MAX_PIPELINE
    }

    /// Whether to read from the server.
    pub fn wants_server(&self) -> bool {
        let there = match &self.back {
            Back::Opening { opening, connected } => *connected && !matches!(opening, Opening::Mx(_, Mx::Handshake)),
            Back::Relaying => true,
            Back::Gone => false,
        };
        there && self.to_client.len() < HIGH_WATER
    }

    /// Whether a mail transaction is open: a good reason to wait before ending.
    pub fn in_transaction(&self) -> bool {
        self.envelope.open
    }

    /// How the session ended, once that is decided.
    pub fn ending(&self) -> Option<Ending> {
        self.ended
    }

    /// The connection that [`Action::Dial`] asked for stands.
    pub fn connected(&mut self, now: Instant, host: &mut dyn Host) {
        if let Back::Opening { connected, opening } = &mut self.back {
            *connected = true;
            if let (Opening::Mx(leg, _), Some(new)) = (&mut *opening, host.leg()) {
                **leg = new;
            }
            if let (Opening::Mx(leg, _), Some(moving)) = (opening, &mut self.moving) {
                moving.connected(leg, now);
            }
            self.server_heard = now;
        }
    }

    /// The connection that [`Action::Dial`] asked for cannot be had; the client gets `reply`.
    pub fn not_connected(&mut self, now: Instant, reply: Reply, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        match self.moving {
            Some(_) => self.stay(cx, reply),
            None => self.give_up(cx, Ending::Unreachable, reply),
        }
        self.resume(cx);
    }

    /// The handshake that [`Action::Handshake`] asked for succeeded; `verified`: the certificate names the server and leads to a
    /// trusted root.
    pub fn handshake_done(&mut self, now: Instant, verified: bool, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.server_heard = now;
        if let Back::Opening { opening, .. } = &mut self.back {
            let step = opening.secured(verified);
            self.perform(cx, step, None);
        }
        self.resume(cx);
    }

    /// The handshake failed; its connection is dropped already.
    pub fn handshake_failed(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.opening_lost(cx, Ending::ServerLost, replies::server_lost());
        self.resume(cx);
    }

    /// The client sent these.
    pub fn client_bytes(&mut self, now: Instant, bytes: &[u8], host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.pump(cx, bytes);
        self.settle(cx);
    }

    /// The client sent these, to a driver that writes content from the buffer it was read into. Returned are the content that goes to the server now, of
    /// which [`Outgoing::push`] takes what the server does not, and the bytes for [`client_bytes`](Self::client_bytes), which comes next.
    pub fn client_content<'b>(&mut self, now: Instant, bytes: &'b [u8], host: &mut dyn Host) -> (&'b [u8], &'b [u8]) {
        self.content_through(&mut Context { now, host }, bytes)
    }

    /// Whether what the client sends next is content, so that reading much at once pays.
    pub fn streams(&self) -> bool {
        matches!(self.front, Front::Body { .. } | Front::Chunk { .. })
    }

    /// The client will send no more: it closed, or its connection broke.
    pub fn client_closed(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.client_closed = true;
        self.settle(cx);
    }

    /// The server sent these.
    pub fn server_bytes(&mut self, now: Instant, bytes: &[u8], host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.read_replies(cx, bytes);
        self.pump(cx, &[]);
        self.settle(cx);
    }

    /// The server closed, or its connection broke.
    pub fn server_closed(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.server_lost(cx, Ending::ServerLost, replies::server_lost());
        self.resume(cx);
    }

    /// Bytes were written: there may be room for commands that are held.
    pub fn wrote(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.pump(cx, &[]);
        self.settle(cx);
    }

    /// End soon: at once if no transaction is open, else behind it.
    pub fn drain(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.draining = true;
        self.settle(cx);
    }

    /// When to call [`tick`](Self::tick) if nothing else happens. Dials and handshakes have their driver's deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        self.due().map(|(at, _)| at)
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        if let Some((at, silent)) = self.due()
            && at <= now
        {
            self.expired(cx, silent);
            self.resume(cx);
        }
    }

    /// Goes on with what is at hand already.
    pub(super) fn resume(&mut self, cx: &mut Context<'_>) {
        self.read_replies(cx, &[]);
        self.pump(cx, &[]);
        self.settle(cx);
    }

    /// Gives the client a reply, in its turn already.
    pub(super) fn say(&mut self, cx: &mut Context<'_>, flow: Flow, topic: Topic, reply: &Reply) {
        cx.tell(Event::Reply { flow, topic, reply });
        // Also to a client that closed: it may have closed its own direction only, and wait for the answer to its message.
        self.to_client.push_reply(reply);
    }

    /// Sends the server a command of our own.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, verb: Verb, line: &str) {
        cx.tell(Event::Command { flow: Flow::CommandSent, topic: Topic::Command(verb), line: line.as_bytes() });
        self.to_server.push(line.as_bytes());
        self.to_server.push(b"\r\n");
        self.server_heard = cx.now;
    }

    /// Tells how the session ended, once.
    pub(super) fn end(&mut self, cx: &mut Context<'_>, ending: Ending) {
        if self.ended.is_none() {
            self.ended = Some(ending);
            cx.tell(Event::Ended(ending));
        }
    }

    /// Ends the server's side without a farewell.
    pub(super) fn drop_server(&mut self) {
        if !matches!(self.back, Back::Gone) {
            self.back = Back::Gone;
            self.to_server.clear();
            self.parser.clear();
            self.actions.push_back(Action::DropServer);
        }
    }

    /// Ends the server's side, in order where that is possible.
    pub(super) fn leave_server(&mut self, cx: &mut Context<'_>) {
        let idle = match &self.back {
            Back::Opening { opening: Opening::Mx(_, Mx::Greeted | Mx::Kept(_)), .. } => true,
            Back::Relaying => self.front.between_messages(),
            Back::Opening { .. } | Back::Gone => false,
        };
        if !idle {
            return self.drop_server();
        }
        self.send(cx, Verb::Quit, "QUIT");
        self.close_server();
    }

    pub(super) fn close_server(&mut self) {
        self.back = Back::Gone;
        self.parser.clear();
        self.actions.push_back(Action::CloseServer);
    }

    pub(super) fn close_client(&mut self) {
        if !matches!(self.front, Front::Done) {
            self.front = Front::Done;
            self.moving = None;
            self.input.clear();
            self.waiting.clear();
            self.transaction_over();
            self.actions.push_back(Action::CloseClient);
        }
    }

    pub(super) fn transaction_over(&mut self) {
        let Envelope { held, void, content_since, .. } = std::mem::take(&mut self.envelope);
        // The client may be ahead, in the next one: even in its content, which is as slow as it is.
        let content_since = content_since.filter(|_| self.streams());
        self.envelope = Envelope { open: held.is_some(), held, void, content_since, ..Envelope::default() };
    }

    /// Ends everything: `reply` takes the place of the next one that the client waits for.
    pub(super) fn give_up(&mut self, cx: &mut Context<'_>, ending: Ending, reply: Reply) {
        if matches!(self.front, Front::Done) {
            return self.drop_server();
        }
        self.end(cx, ending);
        self.leave_server(cx);
        let topic = self.awaited_by_client();
        self.say(cx, Flow::ReplyMade, topic, &reply);
        self.close_client();
    }

    /// What the client's next reply is about.
    pub(super) fn awaited_by_client(&self) -> Topic {
        match (&self.front, self.waiting.head()) {
            (Front::Waiting { hello: Some(verb) }, _) => Topic::Command(*verb),
            (Front::Body { .. }, _) => Topic::EndOfData,
            (Front::StartTls, None) => Topic::Command(Verb::StartTls),
            (_, Some(head)) => head.topic,
            (_, None) => Topic::Greeting,
        }
    }
}
