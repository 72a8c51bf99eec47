//! Addresses that are new to the world: how many messages each sent to each operator today.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::clock::{DAY, MINUTE, Now, Tick};
use super::policy::Reserved;
use super::{EgressAddr, Operator, WarmUp};

/// Operators × warming addresses at once. Behind it newcomers find the ramp used up, and leave from established addresses: a ramp that was forgotten
/// could be exceeded.
const BOUND: usize = 20_000;

/// The ramps of all addresses that warm up.
#[derive(Debug, Default)]
pub(super) struct Ramps {
    since: BTreeMap<EgressAddr, (Tick, WarmUp)>,
    used: HashMap<(EgressAddr, Operator), Used>,
    swept: Option<Tick>,
}

/// Messages of a day of the ramp, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Used {
    day: u32,
    messages: u32,
}

/// How far an address is at an operator today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Warmth {
    /// From 0.
    pub day: u32,
    /// Messages of today.
    pub used: u32,
    /// As many as there may be.
    pub limit: u32,
    /// When the next day begins.
    pub ends: Tick,
}

impl Warmth {
    /// Whether so many more messages fit into today.
    pub(super) fn allows(&self, messages: u32) -> bool {
        self.used.saturating_add(messages) <= self.limit
    }
}

/// One counter, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredRamp {
    address: EgressAddr,
    operator: Operator,
    day: u32,
    messages: u32,
}

impl Ramps {
    /// Takes over what the configuration says. Counters stay.
    pub(super) fn configure(&mut self, warm_up: &BTreeMap<EgressAddr, WarmUp>, now: Now) {
        let placed = |(address, ramp): (&EgressAddr, &WarmUp)| {
            // The same ramp keeps its days where they are, though the calendar may have been set since.
            let known = self.since.get(address).filter(|(_, known)| known == ramp).map(|(since, _)| *since);
            (*address, (known.unwrap_or_else(|| now.of(ramp.since)), ramp.clone()))
        };
        self.since = warm_up.iter().map(placed).collect();
        self.used.retain(|(address, _), _| warm_up.contains_key(address));
    }

    /// The day of an address's ramp, from 0; none if it is established.
    pub(super) fn day(&self, address: EgressAddr, now: Tick) -> Option<u32> {
        Some(self.today(address, now)?.0)
    }

    /// The same with its limit, and when the next day begins.
    fn today(&self, address: EgressAddr, now: Tick) -> Option<(u32, u32, Tick)> {
        let (since, ramp) = self.since.get(&address)?;
        let day = u32::try_from((now - since).max(0) / DAY).ok()?;
        let limit = *ramp.daily.get(usize::try_from(day).ok()?)?;
        Some((day, limit, since + (Tick::from(day) + 1) * DAY))
    }

    /// How far an address is at an operator; none if it is established.
    pub(super) fn warmth(&self, address: EgressAddr, operator: &Operator, now: Tick) -> Option<Warmth> {
        let (day, limit, ends) = self.today(address, now)?;
        let used = match self.used.get(&(address, operator.clone())) {
            Some(used) if used.day == day => used.messages,
            Some(_) => 0,
            None if self.used.len() >= BOUND => limit,
            None => 0,
        };
        Some(Warmth { day, used, limit, ends })
    }

    /// So many more messages, if today's ramp allows all of them. An established address has no ramp. Tells the day they were counted on.
    pub(super) fn take(
        &mut self,
        address: EgressAddr,
        operator: &Operator,
        messages: u32,
        now: Tick,
    ) -> Option<Option<u32>> {
        self.sweep(now);
        let Some(warmth) = self.warmth(address, operator, now) else { return Some(None) };
        if !warmth.allows(messages) {
            return None;
        }
        let used = Used { day: warmth.day, messages: warmth.used + messages };
        self.used.insert((address, operator.clone()), used);
        Some(Some(warmth.day))
    }

    /// Messages that were counted never came.
    pub(super) fn give(&mut self, address: EgressAddr, operator: &Operator, reserved: Reserved) {
        if let Some(used) = self.used.get_mut(&(address, operator.clone()))
            && used.day == reserved.day
        {
            used.messages = used.messages.saturating_sub(reserved.messages);
        }
    }

    /// Forgets other days once there are many of them: at most once a minute, because it looks at all.
    fn sweep(&mut self, now: Tick) {
        if self.used.len() < BOUND || self.swept.is_some_and(|at| now < at + MINUTE) {
            return;
        }
        self.swept = Some(now);
        let mut used = std::mem::take(&mut self.used);
        used.retain(|(address, _), used| used.messages > 0 && self.day(*address, now) == Some(used.day));
        self.used = used;
    }

    /// Counters above zero, for people and for storing.
    pub(super) fn counted(&self) -> impl Iterator<Item = (EgressAddr, &Operator)> {
        self.used.iter().filter(|(_, used)| used.messages > 0).map(|((address, operator), _)| (*address, operator))
    }

    /// By a name that stays the same, so that whoever stores it finds what changed.
    pub(super) fn stored(&self, now: Tick) -> BTreeMap<String, StoredRamp> {
        let today = |address: EgressAddr, used: &Used| used.messages > 0 && self.day(address, now) == Some(used.day);
        let all = self.used.iter().filter(|((address, _), used)| today(*address, used));
        let stored = |((address, operator), used): (&(EgressAddr, Operator), &Used)| {
            let (name, operator) = (format!("{address} {operator}"), operator.clone());
            (name, StoredRamp { address: *address, operator, day: used.day, messages: used.messages })
        };
        all.map(stored).collect()
    }

    pub(super) fn restore(&mut self, stored: BTreeMap<String, StoredRamp>) {
        for one in stored.into_values().take(BOUND).filter(|one| self.since.contains_key(&one.address)) {
            self.used.insert((one.address, one.operator), Used { day: one.day, messages: one.messages });
        }
    }
}
