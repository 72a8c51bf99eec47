//! Which of the node's addresses a session leaves from, and when: pure, with the time passed in.
//!
//! ```text
//!              Ask {tenant, account, class, operator, mx}
//!                │ first rule that fits ──▶ pool ──▶ its addresses of the MX's family
//!                ▼
//!   enter ──▶ room of the operator: waits for a place and a turn ──▶ Granted {ticket, decision}
//!                │            ▲                                          │ dial, talk
//!                │ health: rested, throttled, warming                    │ mail: Stay, Move, Refuse
//!                ▼            │                                          ▼
//!             Refused      learn ◀── every classified reply ── leave: the place is free again
//! ```
//!
//! - [`rules`]: what the configuration says: pools, rules, budgets, ramps. The first rule that fits chooses the pool.
//! - [`operator`]: who runs an MX. Health and budgets belong to an address *towards an operator*.
//! - [`policy`]: [`Policy`], all of it together; the only door to this folder. `sending` is what it does for sessions under way, `learning` what it hears.
//! - [`ask`]: what is asked, decided and refused; [`lesson`]: what is learned, and what changes by it; [`view`]: what people are shown; [`state`]: what
//!   survives a restart.
//! - Inside: `choice` looks at addresses, `seats` gives and takes places, `room` says whose turn it is, `gauge` keeps a budget, `health`, `ramp`,
//!   `suspicion`, `sender` and `witness` remember, `bounded` forgets, `clock` keeps time.
//!
//! # What holds
//!
//! - **A budget is never exceeded**: neither the sessions at once of an address towards an operator, nor those begun in any minute.
//! - **Nobody is refused for being one too many.** Sessions wait, and whoever wants a saturated budget gets the same share of it, however many
//!   connections he opens. A wait that is given up costs nothing.
//! - **A rested address is not used**, but for one probe at a time, when one is due. If every address of a pool rests for a destination, mail for it
//!   is put off: the session is greeted, and each message told `451` ([`NoEgress::reply`]), so that the MSA delays the message and not the
//!   destination. Sending on from an address that was told it is listed prolongs the listing, for all tenants; a delay costs one tenant a retry.
//! - **An address that could not be bound** rests for [`UNBOUND`] from everything, but is tried when there is no other: that costs little, and nobody's
//!   reputation hangs on it.
//! - **IPv4 and IPv6 are apart**: an address serves MX addresses of its family, and has places of its own in either.
//! - **All is bounded.** Tenants, accounts and operators are numbers that an attacker chooses; what was not heard of for longest is forgotten first.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

pub mod ask;
mod bounded;
mod choice;
mod clock;
mod gauge;
mod health;
mod learning;
pub mod lesson;
pub mod operator;
pub mod policy;
mod ramp;
mod room;
pub mod rules;
mod seats;
mod sender;
mod sending;
mod spare;
pub mod state;
mod suspicion;
#[cfg(test)]
mod tests;
pub mod view;
mod witness;

pub use ask::{Ask, AtMail, Candidate, Decision, Entry, Granted, NoEgress, Outcome, PassedOver, Ticket};
pub use lesson::{Change, Evidence, Lesson, Stage, What};
pub use operator::Operator;
pub use policy::Policy;
pub use rules::{Budget, Budgets, Limits, Pool, Rest, Rule, Rules, Thresholds, WarmUp};
pub use state::State;
pub use view::View;

/// How long an address rests after it could not be bound: long enough not to fail session after session, short enough
/// that an address which comes back is soon in use.
pub const UNBOUND: Duration = Duration::from_secs(30);

/// One of the node's addresses, from which sessions leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EgressAddr(pub IpAddr);

impl EgressAddr {
    /// Whether it can dial `mx`.
    pub fn serves(self, mx: IpAddr) -> bool {
        self.0.to_canonical().is_ipv6() == mx.to_canonical().is_ipv6()
    }
}

impl std::fmt::Display for EgressAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time, by both clocks: durations are measured by `now`, which never jumps; what is stored or shown bears `wall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub now: Instant,
    /// The calendar.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment. For the machine around the policy, which is the only one to look at a clock.
    pub fn current() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }
}

/// What kind of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailClass {
    /// Written by one of the tenant's people.
    #[default]
    Submitted,
    /// From elsewhere, passed on: its reverse-path is a rewritten one (`SRS0=`, `SRS1=`).
    Forwarded,
}

/// How suspect a tenant or an account is, from the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspicion {
    /// Nothing against it.
    #[default]
    Low,
    /// Enough for a rule that asks for suspicion (a quarantine pool), and for no failover and no probing.
    Raised,
    /// Slowed as well: a message now and then, `451` for the others.
    High,
    /// Stopped until it has calmed down: `451` for all.
    Severe,
}

impl Suspicion {
    /// The name shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Raised => "raised",
            Self::High => "high",
            Self::Severe => "severe",
        }
    }
}
