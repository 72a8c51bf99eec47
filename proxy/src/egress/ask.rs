//! What is asked of the policy, and what it answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;
use warren_smtp::Reply;

use super::{EgressAddr, MailClass, Operator, Suspicion};

/// A session, or a message in one, that wants to leave.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Whose.
    pub tenant: &'a TenantName,
    /// The reverse-path, once it is known: at MAIL. Empty for a bounce.
    pub account: Option<&'a str>,
    /// What kind of mail; [`MailClass::Submitted`] until MAIL says otherwise.
    pub class: MailClass,
    /// Who runs the MX; [`Operator::of`].
    pub operator: &'a Operator,
    /// The MX's address.
    pub mx: IpAddr,
}

/// Stands for a session from [`enter`](super::Policy::enter) to [`leave`](super::Policy::leave), waiting or under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Ticket(pub(super) u64);

/// What became of coming in.
#[derive(Debug)]
pub enum Entry {
    /// Dial at once.
    Granted(Granted),
    /// Wait: [`Policy::next`](super::Policy::next) will tell. Whoever waits no longer says [`leave`](super::Policy::leave).
    Wait(Ticket),
    /// No address serves this destination now. There is nothing to leave.
    Refused(NoEgress),
}

/// A place for a session. It is held until [`leave`](super::Policy::leave).
#[derive(Debug, Clone)]
pub struct Granted {
    /// The session.
    pub ticket: Ticket,
    /// The address to dial from, and why.
    pub decision: Decision,
}

/// How waiting ended for a session.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub ticket: Ticket,
    /// A place, or why there will be none: then the ticket is void.
    pub result: Result<Decision, NoEgress>,
}

/// What to do with a message at MAIL.
#[derive(Debug)]
pub enum AtMail {
    /// It may leave where its session is.
    Stay,
    /// It has to leave from another pool or address: leave, and enter again with the same [`Ask`], now that the account is in it.
    Move,
    /// It may not leave now: refuse MAIL with [`NoEgress::reply`].
    Refuse(NoEgress),
}

/// What was chosen, among what, and why. Stored with the leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The address to bind.
    pub egress: EgressAddr,
    /// The rule that chose the pool: `rule 1` as they stand in the configuration, `default` if none fits.
    pub rule: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// Who runs the MX.
    pub operator: Operator,
    /// How suspect the sender was.
    pub suspicion: Suspicion,
    /// The session finds out whether a rested address is well again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// Why this address.
    pub reason: String,
    /// Every address of the pool, in its order.
    pub candidates: Vec<Candidate>,
}

/// An address that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub address: EgressAddr,
    /// The higher the better, 100 at best; none if it is out of the question.
    pub score: Option<u32>,
    /// Why.
    pub why: String,
}

/// What a session had to choose from that got none: for its record, in place of a [`Decision`].
#[derive(Debug, Clone, PartialEq)]
pub struct PassedOver {
    /// The rule that chose the pool, as in [`Decision::rule`].
    pub rule: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// How suspect the sender was.
    pub suspicion: Suspicion,
    /// Every address of the pool, in its order.
    pub candidates: Vec<Candidate>,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, pool, suspicion, candidates } = self;
        write!(f, "{rule}, pool {pool}, suspicion {}", suspicion.name())?;
        for Candidate { address, score, why } in candidates {
            write!(f, "; {address}: {why}")?;
            if let Some(score) = score {
                write!(f, " (score {score})")?;
            }
        }
        Ok(())
    }
}

/// No address serves the destination now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoEgress {
    /// The pool has no address of the MX's family. Another MX may have one of the other.
    #[error("no egress address for {}", if *.ipv6 { "IPv6" } else { "IPv4" })]
    Family {
        /// Which family.
        ipv6: bool,
    },
    /// Every address rests for this destination.
    #[error("every egress address rests for this destination")]
    Rested {
        /// When the first of them is probed again; none if that takes a human.
        until: Option<SystemTime>,
    },
    /// The ramps of all addresses that warm up are used up for today, and there is no established one.
    #[error("the egress addresses warm up, and have sent what they may today")]
    WarmedUp {
        /// When the next day of the ramp begins.
        until: SystemTime,
    },
    /// The sender is slowed.
    #[error("the sender is slowed: too many of its messages were refused")]
    Slowed,
    /// The sender is stopped.
    #[error("the sender is stopped for a while: too many of its messages were refused")]
    Stopped,
}

impl NoEgress {
    /// Whether the MSA had better try another MX at once: `421` instead of a greeting. Everything else is a matter of messages, and refused at MAIL.
    pub fn try_next_mx(&self) -> bool {
        matches!(self, Self::Family { .. })
    }

    /// What the MSA is told.
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self {
            // RFC 3463 §3.5: no answer from host, as for a dial that failed.
            Self::Family { .. } => (421, (4, 4, 1)),
            // §3.4: system not accepting network messages, that is, ours.
            Self::Rested { .. } | Self::WarmedUp { .. } => (451, (4, 3, 2)),
            // §3.8: delivery not authorized.
            Self::Slowed | Self::Stopped => (451, (4, 7, 1)),
        };
        Reply::new(code, enhanced, format!("{self}; try again later"))
    }
}
