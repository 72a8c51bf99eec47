//! Sessions without a server: there is no place to dial it, or no way to it for a message that must leave from elsewhere.
//!
//! ```text
//!   220 ─▶ (client: EHLO) ─▶ everything is offered ─▶ (client: MAIL) ─▶ 451 4.3.2, and the same to what is pipelined behind it
//! ```
//!
//! Clients take a 421 in place of the greeting for a failure of the whole site: Postfix suspends the destination, Exim
//! notes a host retry. A refusal of MAIL delays that message only.

use std::time::Instant;

use super::event::{Ending, Flow, Topic};
use super::front::Front;
use super::machine::{Back, Context, Mediator};
use super::opening::Hello;
use super::replies;
use super::settings::{Host, Judgement, StandIn};
use crate::command::{Command, Verb};
use crate::{Extensions, Reply};

/// There is no server.
#[derive(Debug, Clone)]
pub(super) struct Absent {
    /// What everything gets that needs one.
    pub(super) reply: Reply,
    /// Whether each MAIL dials again.
    pub(super) again: bool,
}

impl Mediator {
    /// A session that is served here, without a server: it is greeted at once, and its messages are refused.
    pub fn stand_in(settings: StandIn, now: Instant, host: &mut dyn Host) -> Self {
        let StandIn { name, refusal, deadlines } = settings;
        let greeting = Reply::plain(220, format!("{name} ESMTP"));
        let hello = Hello::given(&everything().to_reply(&name));
        let mut mediator = Self::new(Back::Gone, deadlines, Some(hello), now);
        mediator.absent = Some(Box::new(Absent { reply: refusal, again: false }));
        mediator.front = Front::Hello;
        mediator.actions.clear();
        mediator.say(&mut Context { now, host }, Flow::ReplyMade, Topic::Greeting, &greeting);
        mediator
    }

    /// A command in a session without a server.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>, absent: Absent, command: &Command, line: &[u8]) {
        let verb = command.verb();
        match command {
            Command::Ehlo(_) | Command::Helo(_) => {
                self.answer_hello(cx, verb, line);
                self.front = Front::Commands;
            }
            Command::Quit => {
                self.answer(cx, verb, line, replies::bye());
                self.end(cx, Ending::Quit);
                self.close_client();
            }
            Command::Noop | Command::Rset => self.answer(cx, verb, line, replies::ok()),
            Command::Bdat { size, last } => self.refuse_chunk(cx, *size, *last, line, absent.reply),
            Command::StartTls => self.start_tls(cx, line),
            Command::Auth { .. } => self.refuse(cx, verb, line, replies::no_auth_here()),
            Command::Xclient(_) => self.refuse(cx, verb, line, replies::no_xclient_here()),
            Command::Unknown(_) => self.refuse(cx, verb, line, replies::unknown_command()),
            _ if matches!(self.front, Front::Hello) => self.refuse(cx, verb, line, replies::say_hello_first()),
            _ if self.must_encrypt(command) => self.refuse(cx, verb, line, replies::starttls_first()),
            Command::Mail { from, .. } if absent.again => match cx.host.mail(from, line) {
                Judgement::Refuse(refusal) => self.refuse(cx, verb, line, refusal),
                Judgement::Pass | Judgement::Move | Judgement::Hold => self.mail_elsewhere(cx, line),
            },
            Command::Mail { .. } => self.refuse(cx, verb, line, absent.reply),
            // 451, not 503: pipelined behind MAIL, and a 5xx would be a verdict on the recipient.
            Command::Rcpt { .. } | Command::Data | Command::Vrfy(_) | Command::Expn(_) | Command::Help => {
                self.answer(cx, verb, line, absent.reply);
            }
        }
    }

    /// Answers EHLO or HELO from memory.
    pub(super) fn answer_hello(&mut self, cx: &mut Context<'_>, verb: Verb, line: &[u8]) {
        self.esmtp |= verb == Verb::Ehlo;
        let hello = self.hello_for_client(verb == Verb::Ehlo);
        self.answer(cx, verb, line, hello);
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
