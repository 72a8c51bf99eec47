//! What replies and their times say about the one who gives them.
//!
//! ```text
//!   reply ─▶ classify ─▶ Watch (one session) ─▶ Finding: tarpit · throttle · slow to one address · listing · greylisting
//!   its time, its pieces ──┘      │ ▲
//!                        samples  ▼ │ what is usual
//!                              Senses: curves by operator, egress address and verb, of bounded size
//! ```
//!
//! A reply that comes fast costs its session a look at the clock; what was collected, one time a verb, is learned when the
//! session ends. Only a reply that took a second or more is judged at once. What is far above the usual is not learned: a tarpit must not become
//! the baseline that it is measured against. Everything here is pure, with the time passed in; [`Shared`] puts a lock around it. What is usual is kept over
//! restarts as [`Baseline`]s; who keeps them is another's business.

mod baselines;
mod curve;
mod findings;
mod senses;
mod watch;

pub use baselines::{Baseline, MOST_BASELINES};
pub use curve::{Clock, Curve, Heard, Recent, Usual};
pub use findings::{EventKind, Finding};
pub use senses::{Comparison, Pace, Senses, Shared};
pub use watch::{Answer, Pieces, Watch};

use std::time::Duration;

/// From when on something counts. The defaults are meant for the internet: nothing there takes a second without a reason, and
/// many take ten with a good one.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// A reply that took no longer is never slow.
    pub floor: Duration,
    /// Slow is so many times the usual.
    pub factor: f32,
    /// A reply that drips in for so long is a tarpit's.
    pub drip: Duration,
    /// Replies that make a curve count.
    pub ready: u32,
    /// By how much replies to one address have to be later than to others.
    pub lateness: Duration,
    /// What stays slow for so long is usual from then on.
    pub thaw: Duration,
    /// How long what was heard of an address counts in comparisons.
    pub fresh: Duration,
    /// How often the same address of the same operator is spoken of as slow.
    pub repeat: Duration,
    /// Operators that are remembered.
    pub operators: usize,
    /// Egress addresses that are remembered of one operator.
    pub addresses: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            // A cold DNS cache at the MX costs about as much.
            floor: Duration::from_secs(1),
            factor: 4.0,
            // A reply fits into a packet; no network spreads it over seconds, byte by byte.
            drip: Duration::from_secs(2),
            ready: 5,
            lateness: Duration::from_millis(500),
            thaw: Duration::from_secs(24 * 3_600),
            fresh: Duration::from_secs(3_600),
            repeat: Duration::from_secs(600),
            operators: 2_000,
            addresses: 32,
        }
    }
}

/// The verbs that are told apart. Others take no time worth a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, before the content.
    Data,
    /// The end of the content.
    End,
}

impl Verb {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// Each of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Greeting, Self::Ehlo, Self::Mail, Self::Rcpt, Self::Data, Self::End];

    /// From the word in a record; `.` is the end of data, the empty word the greeting.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "" => Some(Self::Greeting),
            "EHLO" | "HELO" => Some(Self::Ehlo),
            "MAIL" => Some(Self::Mail),
            "RCPT" => Some(Self::Rcpt),
            "DATA" => Some(Self::Data),
            "." => Some(Self::End),
            _ => None,
        }
    }

    /// The word in a record.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Greeting => "",
            Self::Ehlo => "EHLO",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::End => ".",
        }
    }

    /// What is taken for slow of an operator that nothing is known of. Servers let clients wait for their greeting on purpose
    /// (Postfix's postscreen 6 s, Sendmail's greet_pause 5 s), call back before they answer RCPT, and scan content.
    fn unheard_of(self) -> Duration {
        Duration::from_secs(match self {
            Self::Greeting | Self::Rcpt => 15,
            Self::Ehlo | Self::Mail | Self::Data => 5,
            Self::End => 60,
        })
    }
}
