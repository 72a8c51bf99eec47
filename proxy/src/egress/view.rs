//! What people are shown of the policy: everything that is not as if nothing had ever happened.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use warren_launcher_api::TenantName;

use std::collections::BTreeSet;

use super::clock::{Now, Tick};
use super::health::{Condition, Healths, Rested};
use super::policy::{Member, Policy};
use super::room::RoomKey;
use super::{Budget, EgressAddr, Evidence, MailClass, Moment, Operator, Suspicion};

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

impl Policy {
    /// What people are shown.
    pub fn view(&self, now: Moment) -> View {
        let now = self.clock.now(now);
        View {
            at: now.wall,
            sessions: self.sessions,
            waiting: self.rooms.values().map(|room| room.waiting()).sum(),
            addresses: self
                .addresses
                .iter()
                .map(|(address, member)| self.address_view(*address, member, now))
                .collect(),
            destinations: self.destination_views(now),
            senders: self.sender_views(now.tick),
        }
    }

    fn address_view(&self, address: EgressAddr, member: &Member, now: Now) -> AddressView {
        let pools = self.rules.pools.iter().filter(|pool| pool.addresses.contains(&address));
        let unbound = member.unbound_until.filter(|until| *until > now.tick);
        let could_not = || {
            let at = now.calendar(unbound? - super::clock::ticks(super::UNBOUND));
            Some(Evidence { at, what: "could not be bound".into(), list: None, reply: String::new() })
        };
        AddressView {
            address,
            pools: pools.map(|pool| Arc::clone(&pool.name)).collect(),
            sessions: member.sessions,
            rested: member.by_hand.clone().or_else(could_not),
            until: if member.by_hand.is_some() { None } else { unbound.map(|until| now.calendar(until)) },
            warming_day: self.ramps.day(address, now.tick).map(|day| day + 1),
        }
    }

    fn destination_views(&self, now: Now) -> Vec<DestinationView> {
        let marked = self.healths.all().map(|(operator, address, _)| (operator.clone(), address));
        let used = self
            .rooms
            .iter()
            .flat_map(|(key, room)| room.gauges.iter().map(|(address, _)| (key.operator.clone(), *address)));
        let warming = self.ramps.counted().map(|(address, operator)| (operator.clone(), address));
        let all: BTreeSet<(Operator, EgressAddr)> = marked.chain(used).chain(warming).collect();
        all.into_iter().map(|(operator, address)| self.destination_view(address, operator, now)).collect()
    }

    fn destination_view(&self, address: EgressAddr, operator: Operator, now: Now) -> DestinationView {
        let full = self.rules.budget(&operator);
        let mark = Healths::mark(self.healths.at(&operator), address);
        let warmth = self.ramps.warmth(address, &operator, now.tick);
        let (health, until) = match mark.map(|mark| mark.condition) {
            Some(Condition::Rested(Rested { until: Some(until), probe, .. }))
                if probe.is_some() || until <= now.tick =>
            {
                (Health::Probing, Some(until))
            }
            Some(Condition::Rested(rested)) => (Health::Rested, rested.until),
            Some(Condition::Throttled { .. }) => (Health::Throttled, None),
            None if warmth.is_some() => (Health::Warming, None),
            None => (Health::Healthy, None),
        };
        let room = RoomKey { operator, ipv6: address.0.to_canonical().is_ipv6() };
        let (gauge, waiting) = match self.rooms.get(&room) {
            Some(room) => (room.gauge(address).cloned().unwrap_or_default(), room.waiting()),
            None => Default::default(),
        };
        DestinationView {
            address,
            health,
            since: mark.map(|mark| now.calendar(mark.since)),
            until: until.map(|until| now.calendar(until)),
            by_hand: matches!(mark.map(|mark| mark.condition), Some(Condition::Rested(Rested { until: None, .. }))),
            evidence: mark.map(|mark| mark.evidence.clone()).unwrap_or_default(),
            sessions: gauge.sessions(),
            begun: gauge.begun(now.tick),
            budget: mark.map_or(full, |mark| mark.budget(full)),
            waiting,
            warming: warmth.map(|warmth| (warmth.used, warmth.limit)),
            operator: room.operator,
        }
    }

    fn sender_views(&self, now: Tick) -> Vec<SenderView> {
        let view = |seen: super::suspicion::Seen<'_>| SenderView {
            tenant: seen.tenant.clone(),
            account: seen.account.map(str::to_owned),
            class: seen.class,
            suspicion: seen.suspicion,
            score: seen.score,
            why: seen.why,
        };
        self.senders.seen(now).into_iter().map(view).collect()
    }
}
