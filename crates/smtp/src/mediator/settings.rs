//! What the mediator's user decides: policy hooks, TLS policy, bounds and deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, Observer, Topic};
use crate::command::Xclient;
use crate::{ForwardPath, Reply, ReversePath};

/// Most commands whose replies are outstanding. A client that pipelines more waits.
pub const MAX_PIPELINE: usize = 256;
/// Most client bytes held while they may not be looked at.
pub const MAX_HELD: usize = 32 * 1024;
/// Most bytes that a driver reads from the client at once. While no content streams, [`MAX_HELD`] is enough.
pub const MAX_READ: usize = 128 * 1024;
/// With this many bytes waiting to be written to one side, the other is not read.
pub const HIGH_WATER: usize = 64 * 1024;
/// Refusals of our own that one session gets before it is closed.
pub const MAX_ERRORS: usize = 50;
/// Commands that one session gets to give without a message whole: RSET, NOOP, EHLO again, MAIL without recipients. Recipients and chunks that are passed do
/// not count: the server limits the former, [`Deadlines::transfer`] the latter.
pub const MAX_FRUITLESS: usize = 1_000;

/// Bytes of commands kept, at most, to be played again on another leg. A pipeline that is longer stays where it is.
pub const MAX_REPLAY: usize = 32 * 1024;

/// What becomes of a MAIL or RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is passed.
    Pass,
    /// The client gets this reply, the server nothing.
    Refuse(Reply),
    /// It is passed on another leg: the present one is left, and [`Action::Dial`](super::Action::Dial) follows. Of RCPTs only the first of a MAIL that
    /// was held may do so; for others it is [`Pass`](Self::Pass).
    Move,
    /// Of MAIL: it is answered here, and passed with the first RCPT. Should the server refuse it then, RCPT gets that reply.
    Hold,
}

impl From<Option<Reply>> for Judgement {
    /// Refuses with this reply, if there is one.
    fn from(refusal: Option<Reply>) -> Self {
        refusal.map_or(Self::Pass, Self::Refuse)
    }
}

/// Decides what the mediator cannot know. The defaults pass everything, and never move.
pub trait Policy {
    /// About MAIL. `line` is the whole command.
    fn mail(&mut self, from: &ReversePath, line: &[u8]) -> Judgement {
        let _ = (from, line);
        Judgement::Pass
    }

    /// About RCPT. `line` is the whole command.
    fn rcpt(&mut self, to: &ForwardPath, line: &[u8]) -> Judgement {
        let _ = (to, line);
        Judgement::Pass
    }

    /// The server refused `topic`, and the session could go on over another leg, as far as SMTP is concerned. Whether it shall: the next dial leads
    /// there then.
    fn fail_over(&mut self, topic: Topic, reply: &Reply) -> bool {
        let _ = (topic, reply);
        false
    }

    /// The client said QUIT, and everything is settled or about to be: whether its answer is ours to give, and the connection to the server kept
    /// ([`Action::KeepServer`](super::Action::KeepServer)).
    fn keep(&mut self) -> bool {
        false
    }

    /// How to open the leg that was dialled just now; `None`: as the session's settings say.
    fn leg(&mut self) -> Option<Leg> {
        None
    }
}

/// Whoever drives a mediator: hears what happens, and decides.
pub trait Host: Observer + Policy {}

impl<T: Observer + Policy> Host for T {}

/// Passes every envelope.
impl Policy for () {}

/// Whoever only listens passes every envelope.
impl<F: FnMut(Instant, Event<'_>)> Policy for F {}

/// What a session towards an MX does about STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsPolicy {
    /// Never.
    Off,
    /// If offered; in the clear if it fails.
    #[default]
    Opportunistic,
    /// Always, with whatever certificate.
    Require,
    /// Always, with a certificate that names the MX and leads to a trusted root.
    Verify,
}

impl TlsPolicy {
    /// Whether the session goes on in the clear if there is no TLS.
    pub fn allows_clear(self) -> bool {
        matches!(self, Self::Off | Self::Opportunistic)
    }
}

/// Whether a client is offered STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientTls {
    /// No.
    #[default]
    Never,
    /// It may.
    Offered,
    /// It has to, or it gets `530 5.7.0` for its mail (RFC 3207 §4).
    Required,
}

/// How long a mediator waits: at least as long as RFC 5321 §4.5.3.2 asks for, both as client and as server. The proxy's are for its configuration to say
/// (`[proxy.timeouts]`), by the names of these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The server's greeting: five minutes (§4.5.3.2.1).
    pub greeting: Duration,
    /// Replies to EHLO, HELO, STARTTLS and XCLIENT. The client waits for all of them behind one EHLO, so each is shorter than
    /// the five minutes that it grants: one minute.
    pub hello: Duration,
    /// The reply to MAIL: five minutes (§4.5.3.2.2).
    pub mail: Duration,
    /// The reply to RCPT: five minutes (§4.5.3.2.3).
    pub rcpt: Duration,
    /// Replies to RSET, NOOP, QUIT and the like: five minutes.
    pub command: Duration,
    /// The reply to DATA: two minutes (§4.5.3.2.4).
    pub data: Duration,
    /// The next piece of content, brought by the client or taken by the server: three minutes (§4.5.3.2.5).
    pub content: Duration,
    /// All content of a message, an hour: a byte a minute must not hold a session for days. 50 MB within it are 15 kB/s.
    pub transfer: Duration,
    /// The reply to the end of data: ten minutes (§4.5.3.2.6), for a shorter wait makes mail arrive twice.
    pub end_of_data: Duration,
    /// The client's next command, whole: five minutes (§4.5.3.2.7).
    pub client: Duration,
    /// Another leg, from the wish for it to its first use, dials not counted: two minutes, since the client waits for the reply to its MAIL or RCPT meanwhile.
    pub moving: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            greeting: minutes(5),
            hello: minutes(1),
            mail: minutes(5),
            rcpt: minutes(5),
            command: minutes(5),
            data: minutes(2),
            content: minutes(3),
            transfer: minutes(60),
            end_of_data: minutes(10),
            client: minutes(5),
            moving: minutes(2),
        }
    }
}

/// How one leg, a connection to an MX, is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The name to give in EHLO: that of the egress address.
    pub ehlo_name: String,
    /// What to do about STARTTLS.
    pub tls: TlsPolicy,
}

/// A session towards an MX: EHLO is withheld until TLS is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// How legs are opened, where [`Policy::leg`] says nothing else.
    pub leg: Leg,
    /// How long to wait.
    pub deadlines: Arc<Deadlines>,
}

/// A session that is served without its server, because there is no place for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The server's name, or its address in brackets. Never the client's own name: it would take that for a loop.
    pub name: String,
    /// What every message gets.
    pub refusal: Reply,
    /// How long to wait.
    pub deadlines: Arc<Deadlines>,
}

/// A session handed on to an MSA that speaks XCLIENT, for a client that was already greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    /// Who the client is; `None` to introduce nobody.
    pub xclient: Option<Xclient>,
    /// How often to dial again when the server closes before its greeting: an MSA that was just falling asleep.
    pub redials: u8,
    /// The name to give in EHLO afterwards.
    pub ehlo_name: String,
    /// What the client gets if it says EHLO again; the first line is ours, the rest are extensions.
    pub ehlo_reply: Reply,
    /// How long to wait.
    pub deadlines: Arc<Deadlines>,
}
