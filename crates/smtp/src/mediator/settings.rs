//! What the mediator's user decides: policy hooks, TLS policy, bounds and deadlines.

use std::time::Duration;

use crate::command::Xclient;
use crate::{ForwardPath, Reply, ReversePath};

/// Most commands whose replies are outstanding. A client that pipelines more waits.
pub const MAX_PIPELINE: usize = 256;
/// Most client bytes held while they may not be looked at.
pub const MAX_HELD: usize = 32 * 1024;
/// With this many bytes waiting to be written to one side, the other is not read.
pub const HIGH_WATER: usize = 64 * 1024;
/// Refusals of our own that one session gets before it is closed.
pub const MAX_ERRORS: usize = 50;

/// Decides about the envelope before the server sees it. `Some` refuses with this reply.
pub trait Policy {
    /// About MAIL. `line` is the whole command.
    fn mail(&mut self, from: &ReversePath, line: &[u8]) -> Option<Reply> {
        let _ = (from, line);
        None
    }

    /// About RCPT. `line` is the whole command.
    fn rcpt(&mut self, to: &ForwardPath, line: &[u8]) -> Option<Reply> {
        let _ = (to, line);
        None
    }
}

/// Passes every envelope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transparent;

impl Policy for Transparent {}

/// A check of MAIL alone, as the front door has it.
impl<F: FnMut(&ReversePath) -> Option<Reply>> Policy for F {
    fn mail(&mut self, from: &ReversePath, _: &[u8]) -> Option<Reply> {
        self(from)
    }
}

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

/// How long a mediator waits (RFC 5321 §4.5.3.2, both as client and as server).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The server's greeting.
    pub greeting: Duration,
    /// Replies to EHLO, HELO, STARTTLS and XCLIENT. The client waits for all of them behind one EHLO, so each is shorter than
    /// the five minutes that it grants.
    pub hello: Duration,
    /// Replies to MAIL, RCPT, RSET and the like.
    pub command: Duration,
    /// The reply to DATA.
    pub data: Duration,
    /// The next piece of content.
    pub content: Duration,
    /// All content of a message: a byte a minute must not hold a session for days. 50 MB within it are 15 kB/s.
    pub transfer: Duration,
    /// The reply to the end of data.
    pub end_of_data: Duration,
    /// The client's next command, whole.
    pub client: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            greeting: minutes(5),
            hello: minutes(1),
            command: minutes(5),
            data: minutes(2),
            content: minutes(3),
            transfer: minutes(60),
            end_of_data: minutes(10),
            client: minutes(5),
        }
    }
}

/// A session towards an MX: EHLO is withheld until TLS is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The name to give in EHLO: that of the egress address.
    pub ehlo_name: String,
    /// What to do about STARTTLS.
    pub tls: TlsPolicy,
    /// How long to wait.
    pub deadlines: Deadlines,
}

/// A session that is served without its server, because there is no place for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The server's name, or its address in brackets. Never the client's own name: it would take that for a loop.
    pub name: String,
    /// What every message gets.
    pub refusal: Reply,
    /// How long to wait.
    pub deadlines: Deadlines,
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
    pub deadlines: Deadlines,
}
