//! STARTTLS of the client, for clients on other hosts.
//!
//! ```text
//!   EHLO ─▶ 250 … STARTTLS ─▶ (client: STARTTLS) ─▶ 220 ─▶ what is pipelined behind it is dropped ─▶ handshake ─┬▶ EHLO again, from memory, and RSET upstream
//!                                   │ in a transaction, twice, or not offered                                    └▶ the session is over
//!                                   └▶ 503, 502; what is pipelined behind it is answered
//! ```
//!
//! Nothing that came in the clear is acted on under TLS (CVE-2011-0411), and nothing that the client said before counts (RFC 3207 §4.2): it says EHLO
//! again. The server notices a RSET.

use std::time::Instant;

use super::action::Action;
use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::machine::{Context, Mediator};
use super::replies;
use super::settings::{ClientTls, Host};
use crate::Reply;
use crate::command::{Command, Verb};

/// How the client's side is secured, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Shield {
    /// In the clear, for good.
    #[default]
    None,
    /// In the clear until STARTTLS; `required`: mail has to wait for it.
    Offered { required: bool },
    /// Under TLS.
    Up,
}

impl Shield {
    /// Whether the client is under TLS.
    pub(super) fn is_up(self) -> bool {
        self == Self::Up
    }
}

impl Mediator {
    /// Offers the client STARTTLS, in every answer to its EHLO until it is there. The driver must then do
    /// [`Action::SecureClient`].
    #[must_use]
    pub fn offering_tls(mut self, tls: ClientTls) -> Self {
        self.shield = match tls {
            ClientTls::Never => Shield::None,
            ClientTls::Offered => Shield::Offered { required: false },
            ClientTls::Required => Shield::Offered { required: true },
        };
        self
    }

    /// The handshake that [`Action::SecureClient`] asked for succeeded.
    pub fn client_secured(&mut self, now: Instant, host: &mut dyn Host) {
        if !matches!(self.front, Front::Handshake) {
            return;
        }
        let cx = &mut Context { now, host };
        self.shield = Shield::Up;
        self.esmtp = false;
        self.front = Front::Hello;
        self.client_heard = now;
        self.resume(cx);
    }

    /// The handshake failed; its connection is dropped already.
    pub fn client_not_secured(&mut self, now: Instant, host: &mut dyn Host) {
        let cx = &mut Context { now, host };
        self.end(cx, Ending::ClientLost);
        self.leave_server(cx);
        self.close_client();
    }

    /// STARTTLS of the client. Its answer needs the end of whatever the server still owes: only then is it known whether a transaction is open.
    pub(super) fn start_tls(&mut self, cx: &mut Context<'_>, line: &[u8]) {
        let refusal = match (self.shield, &self.front) {
            (Shield::None, _) => replies::no_tls_here(),
            (Shield::Up, _) => replies::under_tls_already(),
            (Shield::Offered { .. }, Front::Hello) => replies::say_hello_first(),
            (Shield::Offered { .. }, _) => {
                self.ended_here(cx, Verb::StartTls, line);
                self.front = Front::StartTls;
                return;
            }
        };
        self.refuse(cx, Verb::StartTls, line, refusal);
    }

    /// All before it is answered.
    pub(super) fn answer_start_tls(&mut self, cx: &mut Context<'_>) {
        let topic = Topic::Command(Verb::StartTls);
        if self.envelope.open {
            self.front = Front::Commands;
            self.say(cx, Flow::ReplyMade, topic, &replies::not_in_a_transaction());
            return self.count_error(cx);
        }
        let bytes = self.input.clear();
        if bytes > 0 {
            cx.tell(Event::Pipelined { bytes });
        }
        self.say(cx, Flow::ReplyMade, topic, &replies::go_ahead());
        self.front = Front::Handshake;
        self.actions.push_back(Action::SecureClient);
    }

    /// Whether the client has to encrypt before it may say this.
    pub(super) fn must_encrypt(&self, command: &Command) -> bool {
        let harmless = matches!(
            command.verb(),
            Verb::Ehlo | Verb::Helo | Verb::StartTls | Verb::Noop | Verb::Rset | Verb::Quit | Verb::Unknown
        );
        self.shield == (Shield::Offered { required: true }) && !harmless
    }

    /// The answer to EHLO, or to HELO, with what is offered to this client.
    pub(super) fn hello_for_client(&self, esmtp: bool) -> Reply {
        let Some(hello) = &self.hello else { return replies::ok() };
        if !esmtp {
            return hello.helo();
        }
        let mut ehlo = hello.ehlo();
        if let Shield::Offered { .. } = self.shield {
            ehlo.lines.push("STARTTLS".to_owned());
        }
        ehlo
    }
}
