//! `[egress]`: where mail leaves, and how gently. See `docs/egress.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::TenantName;
use crate::defaults;
use crate::values::Network;

/// The pool of what no rule sends elsewhere.
pub const DEFAULT_POOL: &str = "default";

/// `[egress]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Addresses of this host that mail leaves from; at least one.
    pub addresses: Vec<IpAddr>,
    /// What an address is called in EHLO, where that is not the node's host name; see [`Egress::ehlo_name`].
    pub names: BTreeMap<IpAddr, String>,
    /// Addresses by the name of their pool; [`DEFAULT_POOL`] is always there, and no pool is empty.
    pub pools: BTreeMap<String, Vec<IpAddr>>,
    /// Which mail uses which pool: the first that fits. What none fits uses [`DEFAULT_POOL`].
    pub rules: Vec<EgressRule>,
    /// How much one address does to one destination.
    pub budgets: Budgets,
    /// Addresses that are new to the world.
    pub warm_up: WarmUp,
    /// How long an address rests where it was turned away.
    pub rest: Rest,
    /// From when on senders are suspect.
    pub suspicion: Thresholds,
    /// Networks that may be dialled though they are internal, such as a lab's.
    pub allow_networks: Vec<Network>,
    /// Addresses of the node's own receiver as given; see [`Node::receiver_addresses`](crate::Node::receiver_addresses).
    pub receiver: Vec<IpAddr>,
    /// Outbound sessions at once.
    pub max_sessions: u32,
    /// Of one tenant.
    pub max_sessions_per_tenant: u32,
    /// How long a session waits for its turn, its greeting withheld.
    pub max_wait: Duration,
}

impl Egress {
    /// What `address` is called in EHLO on a node of this host name. Its reverse DNS has to say the same.
    pub fn ehlo_name<'a>(&'a self, address: IpAddr, hostname: &'a str) -> &'a str {
        self.names.get(&address.to_canonical()).map_or(hostname, String::as_str)
    }

    /// The pools that an address is in, by name.
    pub fn pools_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.pools.iter().filter(move |(_, all)| all.contains(&address)).map(|(name, _)| name.as_str())
    }

    /// Tenants that rules name.
    pub fn named_tenants(&self) -> BTreeSet<&TenantName> {
        self.rules.iter().flat_map(|rule| &rule.tenants).collect()
    }
}

/// `[[egress.rules]]`: what has all that is asked for uses the pool. Whatever is empty asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    /// Its addresses are used.
    pub pool: String,
    /// Of one of these tenants.
    pub tenants: Vec<TenantName>,
    /// From one of these reverse-paths, in lower case.
    pub accounts: Vec<String>,
    /// To one of these destinations: operators, such as `google.com`, in lower case.
    pub destinations: Vec<String>,
    /// Written by the tenant's people, or forwarded for them.
    pub class: Option<MailClass>,
    /// Of a sender who is at least this suspect.
    pub suspicion: Option<SuspicionLevel>,
}

impl EgressRule {
    /// Whether it takes whatever comes.
    pub fn takes_all(&self) -> bool {
        self.tenants.is_empty()
            && self.accounts.is_empty()
            && self.destinations.is_empty()
            && self.class.is_none()
            && self.suspicion.is_none()
    }
}

/// `[[egress.rules]] class`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailClass {
    /// Written by one of the tenant's people.
    Submitted,
    /// From elsewhere, passed on: its reverse-path is a rewritten one.
    Forwarded,
}

/// `[[egress.rules]] suspicion`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SuspicionLevel {
    /// Too much of its mail is refused.
    Raised,
    /// Far too much: it is slowed as well.
    High,
    /// Nearly all of it: it is stopped for a while.
    Severe,
}

/// `[egress.budgets]`: what one address does to one destination. Sessions beyond it wait for their turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// Of every destination that has none of its own.
    pub every: Budget,
    /// Of destinations by their operator's name, in lower case.
    pub destinations: BTreeMap<String, Budget>,
}

/// How much one address does to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Sessions at once.
    pub sessions: u32,
    /// Sessions begun in a minute.
    pub sessions_per_minute: u32,
}

/// `[egress.warm_up]`: what a new address sends, so that the world gets used to it. What lies beyond leaves from the pool's other addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    /// When the first day of an address begins; one that is not here is established.
    pub since: BTreeMap<IpAddr, SystemTime>,
    /// Messages on each day, towards one destination. Behind the last day the address is established.
    pub daily: Vec<u32>,
}

/// `[egress.rest]`: how long an address rests where it was turned away, before it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// At first.
    pub first: Duration,
    /// At most: each try that fails doubles it.
    pub longest: Duration,
}

impl Default for Rest {
    /// [`EGRESS_REST`](defaults::EGRESS_REST), with its reasons.
    fn default() -> Self {
        defaults::EGRESS_REST
    }
}

/// `[egress.suspicion]`: the scores, from 0 to 100, from which a sender is suspect, and what comes of it. 101 is never reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// From which it is raised.
    pub raised: u32,
    /// From which it is high; at least `raised`.
    pub high: u32,
    /// From which it is severe; at least `high`.
    pub severe: u32,
    /// Destinations that have to speak against a sender before it is slowed.
    pub high_destinations: u32,
    /// Destinations that have to before it is stopped; at least as many.
    pub severe_destinations: u32,
    /// Whoever is slowed sends a message in so long.
    pub every: Duration,
    /// So many times a sender's usual volume are a jump.
    pub jump: u32,
    /// Fewer messages in an hour are none.
    pub jump_from: u32,
}

impl Default for Thresholds {
    /// [`SUSPICION`](defaults::SUSPICION), with its reasons.
    fn default() -> Self {
        defaults::SUSPICION
    }
}
