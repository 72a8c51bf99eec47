//! A connection to the server that outlives its session: kept when the client says QUIT, taken over by the client's next session.
//!
//! ```text
//!   … 250 to the content ─▶ (client: QUIT) ─▶ 221, ours ─▶ Action::KeepServer ─▶ Kept ┄┄▶ Mediator::taken_over ─▶ 220, ours ─▶ (client: EHLO) ─▶ 250, remembered
//!                                                                                              │ lost, silent, 421, or MAIL refused, as its first word
//!                                                                                              └▶ dial, greeting, EHLO, TLS, EHLO ─▶ what was asked is asked again
//! ```
//!
//! It is kept only when everything is settled: the server took the session's last content, owes nothing, has been told everything, and no transaction is
//! open. Until it has answered once it may be gone without anybody knowing: a server that closes idle connections is no failure of
//! the next session, and one that has enough of a connection may say so in any words to the next MAIL. So its loss, its silence, its 421 and its refusal of the first MAIL are
//! not told to the client, but for content that is under way already (BDAT in one piece with MAIL); the session dials as if nothing had been kept, and asks again. The answer to that is passed.

use std::time::{Duration, Instant};

use super::action::Action;
use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::machine::{Back, Context, Mediator};
use super::moving::Moving;
use super::opening::{Hello, Mx, Opening, Ready, Security, Wire};
use super::replies;
use super::settings::{Host, TlsPolicy};
use crate::Reply;
use crate::command::Verb;

/// How long a server that was taken over may be silent before it is taken for gone.
pub(super) const STALE: Duration = Duration::from_secs(30);

/// What is known of a connection that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub(super) hello: Hello,
    pub(super) security: Security,
}

impl Kept {
    /// Whether the connection is what a session of this policy would have made.
    pub fn satisfies(&self, policy: TlsPolicy) -> bool {
        match policy {
            TlsPolicy::Off => self.security == Security::Clear,
            TlsPolicy::Opportunistic => true,
            TlsPolicy::Require => self.security > Security::Clear,
            TlsPolicy::Verify => self.security == Security::Verified,
        }
    }

    /// In the words of nobody: the server greets each connection once.
    fn greeting(&self) -> Reply {
        let name = self.hello.name();
        Reply::plain(220, if self.hello.is_esmtp() { format!("{name} ESMTP") } else { name.to_owned() })
    }
}

/// Where a session stands in this.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Keeping {
    /// The server took content in this session, and nothing went wrong since.
    pub(super) earned: bool,
    /// The server was taken over, and has not answered yet.
    pub(super) unproven: bool,
    /// The session is on another leg than its first.
    pub(super) moved: bool,
    /// The client said QUIT, which waits for its turn: the server may never hear it.
    pub(super) leaving: bool,
}

impl Mediator {
    /// In place of [`connected`](Self::connected), for the session's first connection: the one of a session before goes on. The client is greeted at once.
    pub fn taken_over(&mut self, now: Instant, kept: Kept, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        let Back::Opening { opening: Opening::Mx(_, state), connected } = &mut self.back else { return };
        let greeting = kept.greeting();
        *state = Mx::Kept(Ready { hello: kept.hello, security: kept.security });
        *connected = true;
        self.keeping.unproven = true;
        self.server_heard = now;
        self.client_heard = now;
        self.front = Front::Hello;
        self.say(cx, Flow::ReplyMade, Topic::Greeting, &greeting);
        self.resume(cx);
    }

    /// What to know of the connection that [`Action::KeepServer`] is about. Once: the session needs it no more.
    pub fn kept(&mut self) -> Option<Kept> {
        Some(Kept { hello: self.hello.take()?, security: self.security })
    }

    /// Whether a QUIT may be answered here, as far as is known when it comes: the server may still owe its last reply.
    pub(super) fn may_be_kept(&self) -> bool {
        let settled = self.keeping.earned
            || self.waiting.iter().any(|awaited| matches!(awaited.topic, Topic::EndOfData | Topic::LastChunk));
        // What it limits (RFC 9422) is counted by connection, and the next session would count anew.
        let limited = || self.hello.as_ref().is_none_or(|hello| hello.has_limits());
        settled
            && !self.keeping.moved
            && self.home.is_some()
            && self.moving.is_none()
            && matches!(self.back, Back::Relaying)
            && !limited()
    }

    /// QUIT, once everything before it is answered: the connection is kept, or hears it.
    pub(super) fn quit_in_turn(&mut self, cx: &mut Context<'_>) {
        let quit = Topic::Command(Verb::Quit);
        if !self.keeping.leaving || self.waiting.head().is_none_or(|head| head.topic != quit) {
            return;
        }
        self.keeping.leaving = false;
        let whole = self.keeping.earned
            && !self.keeping.moved
            && !self.draining
            && !self.envelope.open
            && self.waiting.len() == 1
            && self.moving.is_none()
            && matches!(self.back, Back::Relaying)
            && self.to_server.is_empty()
            && self.parser.is_empty()
            // Again: its last replies may have changed that.
            && cx.host.keep();
        if !whole {
            return self.advance(cx);
        }
        if let Some(line) = self.waiting.answered().and_then(|awaited| awaited.line) {
            cx.tell(Event::Command { flow: Flow::CommandEnded, topic: quit, line: &line.bytes });
        }
        self.say(cx, Flow::ReplyMade, quit, &replies::bye());
        self.end(cx, Ending::Quit);
        self.back = Back::Gone;
        self.actions.push_back(Action::KeepServer);
        self.close_client();
    }

    /// The server that was taken over is of no use, and nobody relies on anything that it said: whether the session can begin anew.
    pub(super) fn could_begin_anew(&self) -> bool {
        self.keeping.unproven
            && self.moving.is_none()
            && matches!(self.back, Back::Relaying)
            && matches!(self.front, Front::Hello | Front::Commands | Front::DataAsked | Front::Quitting)
            && self.waiting.can_be_played_again()
            // Nobody is dialled for a farewell.
            && self.waiting.head().is_none_or(|head| head.topic != Topic::Command(Verb::Quit))
    }

    /// Dials, and asks again what was asked.
    pub(super) fn begin_anew(&mut self, cx: &mut Context<'_>) {
        let topic = self.waiting.head().map_or(Topic::Greeting, |head| head.topic);
        self.moving = Some(Box::new(Moving::without_way_back(cx.now, self.security)));
        cx.tell(Event::Moving { topic, reply: None });
        self.actions.push_back(Action::DropServer);
        self.dial_elsewhere(Mx::Again(Wire::Fresh));
    }

    /// The server that was taken over is gone before the client said EHLO: it is dialled when that comes.
    pub(super) fn lapse(&mut self) -> bool {
        let Back::Opening { opening: Opening::Mx(_, state @ Mx::Kept(_)), connected } = &mut self.back else {
            return false;
        };
        (*state, *connected) = (Mx::Lapsed, false);
        self.keeping.unproven = false;
        self.parser.clear();
        self.to_server.clear();
        self.actions.push_back(Action::DropServer);
        true
    }
}
