//! What people are shown of the policy: everything that is not as if nothing had ever happened.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use warren_launcher_api::TenantName;

use super::{Budget, EgressAddr, Evidence, MailClass, Operator, Suspicion};

/// The policy at a moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// When.
    pub at: SystemTime,
    /// Sessions under way.
    pub sessions: u32,
    /// Sessions that wait.
    pub waiting: u32,
    /// Every address, in the order of the pools.
    pub addresses: Vec<AddressView>,
    /// Addresses at operators where something goes on or is remembered, by operator and address.
    pub destinations: Vec<DestinationView>,
    /// Senders that are not [`Suspicion::Low`], the most suspect first.
    pub senders: Vec<SenderView>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddressView {
    /// Which.
    pub address: EgressAddr,
    /// The pools that it is in.
    pub pools: Vec<Arc<str>>,
    /// Sessions under way from it.
    pub sessions: u32,
    /// Why it rests towards all operators, if it does: by hand, or because it could not be bound.
    pub rested: Option<Evidence>,
    /// When that ends by itself.
    pub until: Option<SystemTime>,
    /// The day of its ramp, from 1, if it warms up.
    pub warming_day: Option<u32>,
}

/// An address at an operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DestinationView {
    /// Which.
    pub address: EgressAddr,
    /// Where.
    pub operator: Operator,
    /// How it is.
    pub health: Health,
    /// Since when.
    pub since: Option<SystemTime>,
    /// When it is probed.
    pub until: Option<SystemTime>,
    /// Whether a human said so.
    pub by_hand: bool,
    /// What speaks against it, the newest first.
    pub evidence: Vec<Evidence>,
    /// Sessions under way.
    pub sessions: u32,
    /// Sessions begun within the last minute, about.
    pub begun: u32,
    /// What it may do now.
    pub budget: Budget,
    /// Sessions that wait for the operator, of the address's family. They take whichever address is free first.
    pub waiting: u32,
    /// Messages of today, and as many as there may be, if it warms up.
    pub warming: Option<(u32, u32)>,
}

/// How an address is at an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has its whole budget.
    Healthy,
    /// It has less, and gets more as long as nobody minds.
    Throttled,
    /// It is not used.
    Rested,
    /// It is rested, and a session is finding out whether it is well again, or the next one will.
    Probing,
    /// It is new, and has its ramp.
    Warming,
}

/// A sender.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SenderView {
    /// Whose.
    pub tenant: TenantName,
    /// The reverse-path; none for the tenant as a whole.
    pub account: Option<String>,
    /// What kind of mail.
    pub class: MailClass,
    /// How suspect.
    pub suspicion: Suspicion,
    /// From 0 to 100.
    pub score: u32,
    /// What that rests on, in words.
    pub why: String,
}
