//! What can be found.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Answers are slowed on purpose: byte by byte, or one slow reply after the other.
    Tarpit,
    /// Refused for its pace: by words, or a refusal of what was taken from the same address a moment ago.
    Throttle,
    /// One of our addresses is answered much later than the others.
    SlowAddress,
    /// An address, sender or message is refused for its reputation.
    Listing,
    /// To be tried again later.
    Greylisting,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Tarpit, Self::Throttle, Self::SlowAddress, Self::Listing, Self::Greylisting];

    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tarpit => "tarpit",
            Self::Throttle => "throttle",
            Self::SlowAddress => "slow_address",
            Self::Listing => "listing",
            Self::Greylisting => "greylisting",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something was found; [`Event`](crate::Event) is its record.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What.
    pub kind: EventKind,
    /// The address that we came from.
    pub egress: IpAddr,
    /// The verb whose reply showed it.
    pub verb: String,
    /// The code of that reply.
    pub code: Option<u16>,
    /// The list that the reply named.
    pub list: Option<String>,
    /// What it is concluded from. Durations are in microseconds.
    pub evidence: serde_json::Value,
}
