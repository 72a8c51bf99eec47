//! What the policy learns from sessions, and what changes by it.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;
use warren_session::Verdict;

use super::{EgressAddr, MailClass, Operator, Suspicion, Ticket};

/// Something that a session went through.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// The session; none for what others noticed, such as the detection of slowness.
    pub ticket: Option<Ticket>,
    /// Whose.
    pub tenant: &'a TenantName,
    /// The reverse-path, where it is known.
    pub account: Option<&'a str>,
    /// What kind of mail.
    pub class: MailClass,
    /// The address that it left from.
    pub egress: EgressAddr,
    /// Where it went.
    pub operator: &'a Operator,
    /// What it went through.
    pub what: What<'a>,
}

/// What a session went through.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A reply of the MX to the greeting, EHLO, MAIL, RCPT or content. All of them, good and bad: rates need both.
    Reply {
        /// To what.
        stage: Stage,
        /// Its meaning, by [`warren_session::classify()`].
        verdict: &'a Verdict,
        /// Its code.
        code: u16,
        /// Its text.
        text: &'a str,
    },
    /// Answers came slower than this operator's baseline, to this address and not to others.
    Slow {
        /// What was measured, in words.
        evidence: &'a str,
    },
    /// The address could not be bound.
    NotBound,
}

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The connection.
    Greeting,
    /// EHLO, HELO, STARTTLS.
    Hello,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, BDAT, the end of data.
    Content,
}

/// What was heard that speaks against an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    pub at: SystemTime,
    /// What it was taken for: a class of [`warren_session::Class`], `slow`, or `by hand`.
    pub what: String,
    /// The block list, where one was named.
    pub list: Option<String>,
    /// The reply, as it was said, cut to a bound.
    pub reply: String,
}

/// Something that is otherwise than before: to be logged, recorded, stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// An address rests. No `operator`: towards all.
    Rested {
        /// Which.
        address: EgressAddr,
        /// For whom.
        operator: Option<Operator>,
        /// Why.
        evidence: Evidence,
        /// When it is probed; none if a human has to restore it.
        until: Option<SystemTime>,
    },
    /// An address is used again, gently at first, or as if nothing had been if it was restored by hand.
    Readmitted {
        /// Which.
        address: EgressAddr,
        /// For whom.
        operator: Option<Operator>,
        /// Whether a human said so.
        by_hand: bool,
    },
    /// An address does less at an operator.
    Throttled {
        /// Which.
        address: EgressAddr,
        /// For whom.
        operator: Operator,
        /// Why.
        evidence: Evidence,
        /// Sessions at once from now on.
        sessions: u32,
        /// Sessions begun in a minute from now on.
        sessions_per_minute: u32,
    },
    /// A throttled address has its whole budget again.
    Recovered {
        /// Which.
        address: EgressAddr,
        /// For whom.
        operator: Operator,
    },
    /// An address could not be bound, and is passed over for a while.
    Unbound {
        /// Which.
        address: EgressAddr,
    },
    /// A sender is more or less suspect than before.
    Suspicion {
        /// Whose.
        tenant: TenantName,
        /// The reverse-path; none for the tenant as a whole.
        account: Option<String>,
        /// What kind of mail.
        class: MailClass,
        /// Before.
        from: Suspicion,
        /// Now.
        to: Suspicion,
        /// What it rests on, in words.
        why: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let towards = |operator: &Option<Operator>| match operator {
            Some(operator) => format!(" for {operator}"),
            None => String::new(),
        };
        match self {
            Self::Rested { address, operator, evidence, .. } => {
                write!(f, "{address} rests{}: {}", towards(operator), evidence.what)
            }
            Self::Readmitted { address, operator, .. } => write!(f, "{address} is used again{}", towards(operator)),
            Self::Throttled { address, operator, sessions, sessions_per_minute, evidence } => write!(
                f,
                "{address} does less for {operator}: {sessions} sessions at once, {sessions_per_minute} a minute: {}",
                evidence.what
            ),
            Self::Recovered { address, operator } => write!(f, "{address} has its whole budget again for {operator}"),
            Self::Unbound { address } => write!(f, "{address} could not be bound"),
            Self::Suspicion { tenant, account, to, why, .. } => {
                let who =
                    account.as_deref().map_or_else(|| tenant.to_string(), |account| format!("{account} of {tenant}"));
                write!(f, "suspicion of {who} is {} now: {why}", to.name())
            }
        }
    }
}
