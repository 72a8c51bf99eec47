//! The proxy's socket: what `warren egress` may ask, and its metrics.
//!
//! Packets on `$run/proxy.sock`, for root; the platform may ask for metrics, and nothing else. A connection has one question under way at a
//! time: every request gets exactly one reply, in order. Texts that a peer chose are told as they are; whoever shows them escapes them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;

/// A question for the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EgressRequest {
    /// All that is known, as rows. `from: 0` has the proxy take a picture, which the connection keeps until it asks for another; further pages of
    /// the same picture are asked for by the number of rows that came already.
    Snapshot {
        /// Rows had.
        #[serde(default)]
        from: u64,
    },
    /// Use an address no more, until it is restored; only towards one destination if that is named.
    Rest {
        /// Which.
        address: IpAddr,
        /// An operator's name, as shown.
        destination: Option<String>,
    },
    /// Use an address again, whoever or whatever had it rest.
    Restore {
        /// Which.
        address: IpAddr,
        /// An operator's name, as shown; all of them if none.
        destination: Option<String>,
    },
    /// Which address would be chosen now, and why. Nothing is changed by asking.
    Explain(Explain),
    /// What is counted, as a page in the text format of Prometheus (`warren-metrics`). `from: 0` has it written, and the connection keep it; the rest is asked
    /// for by the number of bytes that came already.
    Metrics {
        /// Bytes had.
        #[serde(default)]
        from: u64,
    },
}

/// A session that somebody might want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// Whose.
    pub tenant: TenantName,
    /// The reverse-path, where it is known.
    pub account: Option<String>,
    /// What kind of mail.
    pub class: MailClass,
    /// Name of the MX host.
    pub mx: String,
    /// Its address.
    pub address: IpAddr,
}

/// What kind of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailClass {
    /// Written by one of the tenant's people.
    Submitted,
    /// From elsewhere, passed on.
    Forwarded,
}

/// An answer of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EgressReply {
    /// To [`EgressRequest::Snapshot`].
    Rows {
        /// The next rows.
        rows: Vec<Row>,
        /// Whether there are others behind them.
        more: bool,
    },
    /// To [`EgressRequest::Rest`] and [`EgressRequest::Restore`]: done.
    Done {
        /// What changed by it, a line each; nothing if it was so already.
        changes: Vec<String>,
    },
    /// To [`EgressRequest::Explain`].
    Explained(Box<Explained>),
    /// To [`EgressRequest::Metrics`].
    Metrics {
        /// The next piece of the page.
        text: String,
        /// Whether there is more behind it.
        more: bool,
    },
    /// It cannot be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// One line of the picture. In this order: the node, pools, rules, addresses, destinations, senders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Row {
    /// The proxy as a whole.
    Node(NodeRow),
    /// A pool.
    Pool(PoolRow),
    /// A rule; the first that fits chooses the pool.
    Rule(RuleRow),
    /// An egress address.
    Address(AddressRow),
    /// An address as one destination treats it.
    Destination(DestinationRow),
    /// A sender who is not beyond doubt.
    Sender(SenderRow),
}

/// The proxy as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// When the picture was taken.
    pub at_unix_ms: u64,
    /// Sessions that go on.
    pub sessions: u64,
    /// Sessions that wait for their turn.
    pub waiting: u64,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its place, from 1.
    pub number: u32,
    /// What it asks for, in words.
    pub when: String,
    /// The pool that is used then.
    pub pool: String,
}

/// An egress address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// Which.
    pub address: IpAddr,
    /// What it is called in EHLO.
    pub name: String,
    /// The pools that it is in.
    pub pools: Vec<String>,
    /// Sessions that go on from it.
    pub sessions: u64,
    /// Whether it is used.
    pub health: HealthRow,
    /// The day of its warm-up ramp, from 1, if it is on one.
    pub warming_day: Option<u32>,
}

/// An address as one destination treats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRow {
    /// Which address.
    pub address: IpAddr,
    /// The destination's operator.
    pub destination: String,
    /// Whether it is used for that destination.
    pub health: HealthRow,
    /// Sessions that go on.
    pub sessions: u32,
    /// As many may at once, now.
    pub sessions_limit: u32,
    /// Sessions begun within the last minute.
    pub begun: u32,
    /// As many may begin in a minute, now.
    pub begun_limit: u32,
    /// Sessions that wait for the destination; they take whichever address is free first.
    pub waiting: u32,
    /// What it may send today, if it is on its warm-up ramp.
    pub warming: Option<WarmingRow>,
}

/// How well something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRow {
    /// In a word.
    pub state: HealthState,
    /// Since when.
    pub since_unix_ms: Option<u64>,
    /// Until when, unless something happens before.
    pub until_unix_ms: Option<u64>,
    /// Whether somebody said so by `warren egress`.
    pub by_hand: bool,
    /// What was heard, the newest first.
    pub evidence: Vec<EvidenceRow>,
}

/// How well something is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// In use.
    Healthy,
    /// In use with less than its budget, as the destination wants.
    Throttled,
    /// Not in use.
    Rested,
    /// In use for a few sessions, to see whether it is well again.
    Probing,
    /// In use up to its ramp.
    Warming,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// When.
    pub at_unix_ms: u64,
    /// What it was taken for.
    pub what: String,
    /// The block list, where one was named.
    pub list: Option<String>,
    /// The reply, as it was said.
    pub reply: String,
}

/// What a new address may send today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmingRow {
    /// Messages sent.
    pub sent: u32,
    /// As many there may be.
    pub limit: u32,
}

/// A sender who is not beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderRow {
    /// Whose.
    pub tenant: TenantName,
    /// The reverse-path; none for the tenant as a whole.
    pub account: Option<String>,
    /// What kind of mail.
    pub class: MailClass,
    /// How suspect, in a word.
    pub suspicion: String,
    /// How suspect, from 0 to 100.
    pub score: u32,
    /// What that rests on, in words.
    pub why: String,
}

/// Which address would be chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The destination's operator.
    pub destination: String,
    /// The sender's suspicion, in a word.
    pub suspicion: String,
    /// The rule that chose the pool.
    pub rule: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// The address that would be dialled from, if there is one.
    pub chosen: Option<IpAddr>,
    /// Why that one, or why none.
    pub why: String,
    /// Every address that was looked at.
    pub candidates: Vec<CandidateRow>,
}

/// An address that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateRow {
    /// Which.
    pub address: IpAddr,
    /// The higher the better, 100 at best; none if it is out of the question.
    pub score: Option<u32>,
    /// Why.
    pub why: String,
}
