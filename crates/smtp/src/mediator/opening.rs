//! How a session with the server is opened: pure transitions from reply to next step.
//!
//! ```text
//!  towards an MX                                               handing over to an MSA
//!  greeting ─▶ (client: EHLO) ─▶ EHLO ─▶ STARTTLS ─▶ TLS ─▶ EHLO   greeting ─▶ XCLIENT ─▶ EHLO
//!                                 │         │refused    │failed │
//!                                 │5xx      ▼           ▼       ▼
//!                                 └▶ HELO  as it is   dial again, in the clear
//! ```

use super::event::{Ending, Topic};
use super::replies;
use super::settings::{HandOver, Leg, TlsPolicy};
use crate::command::Verb;
use crate::reply::Severity;
use crate::{Extensions, Reply};

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass the reply: it is the client's greeting.
    Greet,
    /// Pass the reply: it is the client's greeting, and a refusal.
    RefuseSession,
    /// Send this command.
    Send(Verb, String),
    /// Do a TLS handshake.
    Handshake,
    /// Drop the connection and dial again, not to try TLS.
    Redial,
    /// The leg is ready: answer the client's EHLO or HELO, and relay.
    Answer(Ready),
    /// Answer the client's EHLO or HELO with this refusal of the server, now and later.
    RejectHello,
    /// Relay: the client was answered before.
    Relay,
    /// Pass the reply and close.
    PassAndClose,
    /// Close with this reply.
    Fail(Ending, Reply),
}

/// A leg that can be relayed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) hello: Hello,
    pub(super) security: Security,
}

/// How a leg is secured, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Security {
    Clear,
    Encrypted,
    /// With a certificate that is trusted.
    Verified,
}

/// What most answers to EHLO are shorter than.
const EHLO_ROOM: usize = 256;

/// The remembered answers to EHLO and HELO: the lines of the former, of which the first begins with the latter's. One text, because every session keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello(Box<str>);

impl Hello {
    fn new(name: &str, offered: Extensions, security: Security) -> Self {
        let name = if name.is_empty() { "server" } else { name };
        // What we cannot keep up, or do ourselves, is not offered on.
        let kept = Extensions {
            starttls: false,
            // RFC 8689 §2: only from a server that proved who it is.
            requiretls: offered.requiretls && security == Security::Verified,
            auth: Vec::new(),
            xclient: Vec::new(),
            other: Vec::new(),
            ..offered
        };
        let mut text = String::with_capacity(EHLO_ROOM);
        text.push_str(name);
        kept.each_line(|line| text.extend(["\n", line]));
        Self(text.into())
    }

    /// The name that the server gave itself.
    pub(super) fn name(&self) -> &str {
        self.0.split([' ', '\n']).next().unwrap_or_default()
    }

    /// Whether anything is offered.
    pub(super) fn is_esmtp(&self) -> bool {
        self.0.contains('\n')
    }

    /// Whether the server limits what a connection may do (RFC 9422).
    pub(super) fn has_limits(&self) -> bool {
        self.0.lines().skip(1).any(|line| line.starts_with("LIMITS"))
    }

    /// Whether this extension, which has no parameters, is among what is offered.
    pub(super) fn offers(&self, extension: &str) -> bool {
        self.0.lines().skip(1).any(|line| line == extension)
    }

    /// From an EHLO reply that is given: positive, without an enhanced status code.
    pub(super) fn given(ehlo: &Reply) -> Self {
        Self(ehlo.lines.join("\n").into())
    }

    /// The answer to EHLO.
    pub(super) fn ehlo(&self) -> Reply {
        Reply { code: 250, enhanced: None, lines: self.0.lines().map(str::to_owned).collect() }
    }

    /// The answer to HELO.
    pub(super) fn helo(&self) -> Reply {
        Reply::plain(250, self.name())
    }
}

/// Where the opening stands: what the next reply answers.
#[derive(Debug)]
pub(super) enum Opening {
    Mx(Box<Leg>, Mx),
    HandOver(Box<HandOver>, HandedOver),
}

/// Towards an MX.
#[derive(Debug)]
pub(super) enum Mx {
    /// The first dial's greeting.
    Greeting,
    /// The client's turn to say EHLO.
    Greeted,
    /// The same, on a connection that was opened for a session before.
    Kept(Ready),
    /// The same, and that connection is gone.
    Lapsed,
    Ehlo(Wire),
    Helo(Wire),
    /// In the clear, the hello would be this.
    StartTls(Hello),
    Handshake,
    /// A further dial's greeting, which the client does not see.
    Again(Wire),
}

/// What is known of the connection's security.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// TLS may still be tried.
    Fresh,
    Secured {
        verified: bool,
    },
    /// Dialled in the clear after TLS failed.
    Clear,
}

impl Wire {
    fn security(self) -> Security {
        match self {
            Self::Secured { verified: true } => Security::Verified,
            Self::Secured { verified: false } => Security::Encrypted,
            Self::Fresh | Self::Clear => Security::Clear,
        }
    }
}

/// Towards an MSA that trusts us.
#[derive(Debug, Clone, Copy)]
pub(super) enum HandedOver {
    Greeting,
    Xclient,
    Ehlo,
}

impl Opening {
    /// The server answered.
    pub(super) fn reply(&mut self, reply: &Reply) -> Step {
        match self {
            Self::Mx(leg, state) => state.reply(leg, reply),
            Self::HandOver(hand_over, state) => state.reply(hand_over, reply),
        }
    }

    /// The client said EHLO or HELO. Only after its greeting.
    pub(super) fn hello(&mut self) -> Step {
        match self {
            Self::Mx(leg, state) => match std::mem::replace(state, Mx::Ehlo(Wire::Fresh)) {
                Mx::Kept(ready) => Step::Answer(ready),
                Mx::Lapsed => {
                    *state = Mx::Again(Wire::Fresh);
                    Step::Redial
                }
                _ => ehlo(&leg.ehlo_name),
            },
            Self::HandOver(..) => Step::Relay,
        }
    }

    /// The handshake succeeded.
    pub(super) fn secured(&mut self, verified: bool) -> Step {
        let Self::Mx(leg, state) = self else { return Step::Relay };
        if leg.tls == TlsPolicy::Verify && !verified {
            return Step::Fail(Ending::TlsFailed, replies::tls_failed());
        }
        *state = Mx::Ehlo(Wire::Secured { verified });
        ehlo(&leg.ehlo_name)
    }

    /// The connection was lost, stalled, or failed in its handshake.
    pub(super) fn lost(&mut self, ending: Ending, reply: Reply) -> Step {
        if let Self::Mx(leg, state) = self
            && matches!(
                state,
                Mx::StartTls(_) | Mx::Handshake | Mx::Ehlo(Wire::Secured { .. }) | Mx::Helo(Wire::Secured { .. })
            )
        {
            if leg.tls.allows_clear() {
                *state = Mx::Again(Wire::Clear);
                return Step::Redial;
            }
            return Step::Fail(Ending::TlsFailed, replies::tls_failed());
        }
        if let Self::HandOver(hand_over, HandedOver::Greeting) = self
            && let Some(left) = hand_over.redials.checked_sub(1)
        {
            hand_over.redials = left;
            return Step::Redial;
        }
        Step::Fail(ending, reply)
    }

    /// How the leg is secured so far.
    pub(super) fn security(&self) -> Security {
        match self {
            Self::Mx(_, Mx::Ehlo(wire) | Mx::Helo(wire)) => wire.security(),
            Self::Mx(_, Mx::Kept(ready)) => ready.security,
            _ => Security::Clear,
        }
    }

    /// Whether a server's reply is awaited, and which.
    pub(super) fn awaits(&self) -> Option<Topic> {
        let verb = match self {
            Self::Mx(_, Mx::Greeted | Mx::Kept(_) | Mx::Lapsed | Mx::Handshake) => return None,
            Self::Mx(_, Mx::Greeting | Mx::Again(_)) | Self::HandOver(_, HandedOver::Greeting) => {
                return Some(Topic::Greeting);
            }
            Self::Mx(_, Mx::Ehlo(_)) | Self::HandOver(_, HandedOver::Ehlo) => Verb::Ehlo,
            Self::Mx(_, Mx::Helo(_)) => Verb::Helo,
            Self::Mx(_, Mx::StartTls(_)) => Verb::StartTls,
            Self::HandOver(_, HandedOver::Xclient) => Verb::Xclient,
        };
        Some(Topic::Command(verb))
    }
}

impl Mx {
    fn reply(&mut self, leg: &Leg, reply: &Reply) -> Step {
        let positive = reply.severity() == Severity::Positive;
        match std::mem::replace(self, Self::Greeted) {
            // The same words as for a lost connection: STARTTLS did not come about.
            Self::StartTls(_) if reply.code == 421 && leg.tls.allows_clear() => {
                *self = Self::Again(Wire::Clear);
                Step::Redial
            }
            Self::StartTls(_) if reply.code == 220 => {
                *self = Self::Handshake;
                Step::Handshake
            }
            Self::StartTls(hello) if leg.tls.allows_clear() => Step::Answer(Ready { hello, security: Security::Clear }),
            Self::StartTls(_) => Step::Fail(Ending::TlsFailed, replies::tls_failed()),
            Self::Again(wire) if positive => {
                *self = Self::Ehlo(wire);
                ehlo(&leg.ehlo_name)
            }
            // 421 whatever the MX said: it had taken the session before.
            Self::Again(_) => Step::Fail(Ending::ServerRefused, Reply::new(421, (4, 4, 1), reply.text())),
            _ if reply.code == 421 => Step::PassAndClose,
            // There is nothing to go on with yet.
            _ if reply.severity() == Severity::Intermediate => {
                Step::Fail(Ending::Violation("a reply that does not fit"), replies::server_garbled())
            }
            Self::Greeting if positive => Step::Greet,
            Self::Greeting => Step::RefuseSession,
            Self::Ehlo(wire) if positive => self.offered(leg, wire, reply),
            Self::Ehlo(wire) if reply.is_permanent() => {
                *self = Self::Helo(wire);
                Step::Send(Verb::Helo, format!("HELO {}", leg.ehlo_name))
            }
            Self::Helo(wire) if positive => {
                if wire.security() == Security::Clear && !leg.tls.allows_clear() {
                    return Step::Fail(Ending::TlsFailed, replies::tls_not_offered());
                }
                let name = reply.lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
                let security = wire.security();
                Step::Answer(Ready { hello: Hello::new(name, Extensions::default(), security), security })
            }
            // As if TLS had failed: STARTTLS is broken there, and whoever would do without it gets no 5xx for it. What is no matter of the protocol but a verdict is
            // one in the clear, too.
            Self::Helo(Wire::Secured { .. }) if leg.tls.allows_clear() && (500..550).contains(&reply.code) => {
                *self = Self::Again(Wire::Clear);
                Step::Redial
            }
            Self::Ehlo(_) | Self::Helo(_) => Step::RejectHello,
            // Nothing was asked.
            Self::Greeted | Self::Kept(_) | Self::Lapsed | Self::Handshake => {
                Step::Fail(Ending::Violation("a reply to nothing"), replies::server_garbled())
            }
        }
    }

    fn offered(&mut self, leg: &Leg, wire: Wire, reply: &Reply) -> Step {
        let (name, offered) = Extensions::parse(reply);
        let starttls = offered.starttls;
        let security = wire.security();
        let hello = Hello::new(&name, offered, security);
        if wire == Wire::Fresh && starttls && leg.tls != TlsPolicy::Off {
            *self = Self::StartTls(hello);
            return Step::Send(Verb::StartTls, "STARTTLS".to_owned());
        }
        if security == Security::Clear && !leg.tls.allows_clear() {
            return Step::Fail(Ending::TlsFailed, replies::tls_not_offered());
        }
        Step::Answer(Ready { hello, security })
    }
}

impl HandedOver {
    fn reply(&mut self, hand_over: &HandOver, reply: &Reply) -> Step {
        if reply.severity() != Severity::Positive {
            return Step::Fail(Ending::ServerRefused, replies::hand_over_refused());
        }
        let next = match (*self, &hand_over.xclient) {
            (Self::Greeting, Some(xclient)) => (Self::Xclient, Step::Send(Verb::Xclient, format!("XCLIENT{xclient}"))),
            (Self::Greeting, None) | (Self::Xclient, _) => (Self::Ehlo, ehlo(&hand_over.ehlo_name)),
            (Self::Ehlo, _) => (Self::Ehlo, Step::Relay),
        };
        *self = next.0;
        next.1
    }
}

fn ehlo(name: &str) -> Step {
    Step::Send(Verb::Ehlo, format!("EHLO {name}"))
}
