//! Standing in for a server that there is no place to dial.
//!
//! ```text
//!   220 ─▶ (client: EHLO) ─▶ everything is offered ─▶ (client: MAIL) ─▶ 451 4.3.2, and the same to what is pipelined behind it
//! ```
//!
//! Clients take a 421 in place of the greeting for a failure of the whole site: Postfix suspends the destination, Exim
//! notes a host retry. A refusal of MAIL delays that message only.

use std::sync::Arc;
use std::time::Instant;

use super::event::{Ending, Flow, Topic};
use super::front::{Front, Verdict};
use super::machine::{Back, Context, Mediator};
use super::replies;
use super::settings::{Host, StandIn};
use crate::body::BdatCounter;
use crate::command::{Command, Verb};
use crate::{Extensions, Reply};

impl Mediator {
    /// A session that is served here, without a server: it is greeted at once, and its messages are refused.
    pub fn stand_in(settings: StandIn, now: Instant, host: &mut dyn Host) -> Self {
        let greeting = Reply::plain(220, format!("{} ESMTP", settings.name));
        let mut mediator = Self::new(Back::Gone, settings.deadlines, None, now);
        mediator.stand_in = Some(Arc::new(settings));
        mediator.front = Front::Hello;
        mediator.actions.clear();
        mediator.say(&mut Context { now, host }, Flow::ReplyMade, Topic::Greeting, &greeting);
        mediator
    }

    /// A command in a session without a server.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>, settings: &StandIn, command: &Command, line: &[u8]) {
        let verb = command.verb();
        match command {
            Command::Ehlo(_) => {
                self.answer(cx, verb, line, everything().to_reply(&settings.name));
                self.front = Front::Commands;
            }
            Command::Helo(_) => {
                self.answer(cx, verb, line, Reply::plain(250, settings.name.clone()));
                self.front = Front::Commands;
            }
            Command::Quit => {
                self.answer(cx, verb, line, replies::bye());
                self.end(cx, Ending::Quit);
                self.close_client();
            }
            Command::Noop | Command::Rset => self.answer(cx, verb, line, replies::ok()),
            // Its content follows, whatever the answer: it must not run as commands.
            Command::Bdat { size, last } => {
                self.ended_here(cx, verb, line);
                let verdict = Verdict { flow: Flow::ReplyMade, reply: settings.refusal.clone() };
                self.front = Front::Chunk { left: BdatCounter::new(*size), last: *last, verdict: Some(verdict) };
                if *size == 0 {
                    self.chunk_done(cx);
                }
            }
            Command::StartTls => self.refuse(cx, verb, line, replies::no_tls_here()),
            Command::Auth { .. } => self.refuse(cx, verb, line, replies::no_auth_here()),
            Command::Xclient(_) => self.refuse(cx, verb, line, replies::no_xclient_here()),
            Command::Unknown(_) => self.refuse(cx, verb, line, replies::unknown_command()),
            _ if matches!(self.front, Front::Hello) => self.refuse(cx, verb, line, replies::say_hello_first()),
            Command::Mail { .. } => self.refuse(cx, verb, line, settings.refusal.clone()),
            // 451, not 503: pipelined behind MAIL, and a 5xx would be a verdict on the recipient.
            Command::Rcpt { .. } | Command::Data | Command::Vrfy(_) | Command::Expn(_) | Command::Help => {
                self.answer(cx, verb, line, settings.refusal.clone());
            }
        }
    }

    /// The end of a chunk that went nowhere; the session goes on.
    pub(super) fn chunk_refused(&mut self, cx: &mut Context<'_>, last: bool, verdict: &Verdict) {
        let topic = if last { Topic::LastChunk } else { Topic::Command(Verb::Bdat) };
        self.say(cx, verdict.flow, topic, &verdict.reply);
    }
}

/// Every extension that an MX may have, so that nothing is returned to its sender for the lack of one; nothing will be taken anyway.
fn everything() -> Extensions {
    Extensions {
        pipelining: true,
        size: Some(0),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        enhanced_status_codes: true,
        chunking: true,
        binarymime: true,
        requiretls: true,
        deliver_by: Some(0),
        ..Extensions::default()
    }
}
