//! The waiting room of one operator: who is next when a place becomes free.
//!
//! ```text
//!   lane of a pool:  tenant ─ tenant ─ tenant …   each with its own queue, first come first served
//! ```
//!
//! Tenants take turns, not sessions, so opening more connections gains nothing. Which turn it is depends on what is short:
//!
//! - **Sessions begun** (the rate): who has begun fewest. Start-time fair queueing: a tenant's `turn` grows with each session begun; one that comes back
//!   begins where the room is, so absence saves nothing up and costs nothing.
//! - **Places**: who holds fewest, and of those who had them for the shortest time, so that long sessions are no gain either. A lead or debt of
//!   more than [`LEAD`] is forgotten.
//!
//! Everything here costs the logarithm of the number of tenants that wait, whatever happens.

use std::collections::{BTreeSet, HashMap, VecDeque};

use warren_launcher_api::TenantName;

use super::clock::{MINUTE, SECOND, Tick};
use super::gauge::Gauge;
use super::{Ask, EgressAddr, Operator, Ticket};

/// Debts of place time beyond this are forgotten, and so is who was not here for so long.
const LEAD: Tick = 2 * MINUTE;

/// Who comes back within this time was not away.
const AWAY: Tick = SECOND;

/// An operator's MXs of one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RoomKey {
    pub operator: Operator,
    pub ipv6: bool,
}

impl RoomKey {
    /// Where a session waits.
    pub(super) fn of(ask: &Ask<'_>) -> Self {
        Self { operator: ask.operator.clone(), ipv6: ask.mx.to_canonical().is_ipv6() }
    }
}

/// What tenants wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Short {
    #[default]
    Places,
    Rate,
}

/// Who waits for an operator, and who is there.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Of the addresses that were used lately.
    pub gauges: Vec<(EgressAddr, Gauge)>,
    pub short: Short,
    /// Whether the proxy as a whole has to have a place first: the room stands in that queue.
    pub queued: bool,
    /// When it is looked at again.
    pub due: Option<Tick>,
    shares: HashMap<TenantName, Share>,
    lanes: Vec<Lane>,
    turn: u64,
    used: Tick,
    idle: VecDeque<(Tick, TenantName)>,
    sessions: u32,
    waiting: u32,
}

/// What a tenant has and had of a room.
#[derive(Debug, Default)]
struct Share {
    sessions: u32,
    turn: u64,
    used: Tick,
    /// The tenant has as many sessions as it may have: it is in no lane until one ends.
    parked: bool,
    queues: Vec<(usize, VecDeque<Ticket>)>,
    seen: Tick,
}

/// Tenants that wait for addresses of one pool, in either order. Of equals, whose session came first.
#[derive(Debug, Default)]
struct Lane {
    pool: usize,
    by_turn: BTreeSet<(u64, Ticket, TenantName)>,
    by_places: BTreeSet<(u32, Tick, Ticket, TenantName)>,
    by_used: BTreeSet<(Tick, TenantName)>,
}

/// The next of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub tenant: TenantName,
    pub ticket: Ticket,
    pub pool: usize,
    order: (u64, Tick),
}

impl Room {
    /// A session comes to wait.
    pub(super) fn wait(&mut self, tenant: &TenantName, pool: usize, ticket: Ticket, now: Tick) {
        self.waiting += 1;
        let (turn, used) = (self.turn, self.used);
        self.change(tenant, |share| {
            if share.queues.is_empty() {
                share.turn = share.turn.max(turn);
                // Who was away has no claim; who comes back at once, as an MSA with one connection does, has all of it.
                let away = share.sessions == 0 && share.seen + AWAY <= now;
                share.used = share.used.clamp(if away { used } else { used - LEAD }, used + LEAD);
            }
            share.seen = now;
            match share.queues.iter_mut().find(|(known, _)| *known == pool) {
                Some((_, queue)) => queue.push_back(ticket),
                None => share.queues.push((pool, VecDeque::from([ticket]))),
            }
        });
    }

    /// A session waits no more. As if it had never come.
    pub(super) fn abandon(&mut self, tenant: &TenantName, pool: usize, ticket: Ticket, now: Tick) {
        self.waiting = self.waiting.saturating_sub(1);
        self.change(tenant, |share| {
            share.take_out(pool, ticket);
            share.parked &= !share.queues.is_empty();
        });
        self.rested(tenant, now);
    }

    /// A waiting session begins.
    pub(super) fn begin(&mut self, head: &Head, now: Tick) {
        self.waiting = self.waiting.saturating_sub(1);
        self.sessions += 1;
        // The room is where the last of those who wait are; who comes back later begins there.
        let turn = self.lanes.iter().filter_map(|lane| lane.by_turn.first()).map(|(turn, ..)| *turn).min();
        let used = self.lanes.iter().filter_map(|lane| lane.by_used.first()).map(|(used, _)| *used).min();
        (self.turn, self.used) = (self.turn.max(turn.unwrap_or(0)), self.used.max(used.unwrap_or(0)));
        self.change(&head.tenant, |share| {
            share.take_out(head.pool, head.ticket);
            share.sessions += 1;
            share.turn += 1;
            share.seen = now;
        });
        self.purge(now);
    }

    /// A session ends that held a place for so long.
    pub(super) fn end(&mut self, tenant: &TenantName, held: Tick, now: Tick) {
        self.sessions = self.sessions.saturating_sub(1);
        let most = self.used + LEAD;
        self.change(tenant, |share| {
            share.sessions = share.sessions.saturating_sub(1);
            share.used = (share.used + held).min(most);
        });
        self.rested(tenant, now);
    }

    /// The tenant waits outside of all lanes until [`unpark`](Self::unpark): it has all the sessions that it may have.
    pub(super) fn park(&mut self, tenant: &TenantName) {
        self.change(tenant, |share| share.parked = true);
    }

    pub(super) fn unpark(&mut self, tenant: &TenantName) {
        if self.is_parked(tenant) {
            self.change(tenant, |share| share.parked = false);
        }
    }

    pub(super) fn is_parked(&self, tenant: &TenantName) -> bool {
        self.shares.get(tenant).is_some_and(|share| share.parked)
    }

    /// The next of each lane.
    pub(super) fn heads(&self) -> impl Iterator<Item = Head> + '_ {
        self.lanes.iter().filter_map(|lane| {
            let (tenant, order) = match self.short {
                Short::Rate => lane.by_turn.first().map(|(turn, _, tenant)| (tenant, (*turn, 0)))?,
                Short::Places => {
                    lane.by_places.first().map(|(held, used, _, tenant)| (tenant, (u64::from(*held), *used)))?
                }
            };
            let queues = &self.shares.get(tenant)?.queues;
            let ticket = *queues.iter().find(|(pool, _)| *pool == lane.pool)?.1.front()?;
            Some(Head { tenant: tenant.clone(), ticket, pool: lane.pool, order })
        })
    }

    pub(super) fn gauge(&self, address: EgressAddr) -> Option<&Gauge> {
        self.gauges.iter().find(|(known, _)| *known == address).map(|(_, gauge)| gauge)
    }

    pub(super) fn gauge_mut(&mut self, address: EgressAddr) -> &mut Gauge {
        let place = self.gauges.iter().position(|(known, _)| *known == address).unwrap_or_else(|| {
            self.gauges.push((address, Gauge::default()));
            self.gauges.len() - 1
        });
        &mut self.gauges[place].1
    }

    /// Sessions that wait, those of tenants that may have no more among them.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Whether anybody is here.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions == 0 && self.waiting == 0
    }

    /// Changes a share, and its places in the orders of the lanes.
    fn change(&mut self, tenant: &TenantName, change: impl FnOnce(&mut Share)) {
        if !self.shares.contains_key(tenant) {
            self.shares.insert(tenant.clone(), Share { turn: self.turn, used: self.used, ..Share::default() });
        }
        let Some(share) = self.shares.get_mut(tenant) else { return };
        if !share.parked {
            for (pool, queue) in &share.queues {
                if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pool == *pool)
                    && let Some(first) = queue.front()
                {
                    lane.by_turn.remove(&(share.turn, *first, tenant.clone()));
                    lane.by_places.remove(&(share.sessions, share.used, *first, tenant.clone()));
                    lane.by_used.remove(&(share.used, tenant.clone()));
                }
            }
        }
        change(share);
        if !share.parked {
            for (pool, queue) in &share.queues {
                let Some(first) = queue.front() else { continue };
                let place = self.lanes.iter().position(|lane| lane.pool == *pool).unwrap_or_else(|| {
                    self.lanes.push(Lane { pool: *pool, ..Lane::default() });
                    self.lanes.len() - 1
                });
                let lane = &mut self.lanes[place];
                lane.by_turn.insert((share.turn, *first, tenant.clone()));
                lane.by_places.insert((share.sessions, share.used, *first, tenant.clone()));
                lane.by_used.insert((share.used, tenant.clone()));
            }
        }
    }

    /// Remembers when a tenant was here last, if it is gone now.
    fn rested(&mut self, tenant: &TenantName, now: Tick) {
        if let Some(share) = self.shares.get_mut(tenant)
            && share.is_idle()
        {
            share.seen = now;
            self.idle.push_back((now, tenant.clone()));
        }
        self.purge(now);
    }

    /// Forgets tenants that were not here for a while: each time two at most, more than come.
    fn purge(&mut self, now: Tick) {
        for _ in 0..2 {
            let Some((at, _)) = self.idle.front() else { return };
            if *at + LEAD > now {
                return;
            }
            let Some((at, tenant)) = self.idle.pop_front() else { return };
            if self.shares.get(&tenant).is_some_and(|share| share.is_idle() && share.seen == at) {
                self.shares.remove(&tenant);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.shares.len()
    }
}

impl Share {
    fn take_out(&mut self, pool: usize, ticket: Ticket) {
        if let Some((_, queue)) = self.queues.iter_mut().find(|(known, _)| *known == pool) {
            queue.retain(|known| *known != ticket);
        }
        self.queues.retain(|(_, queue)| !queue.is_empty());
    }

    fn is_idle(&self) -> bool {
        self.sessions == 0 && self.queues.is_empty()
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.order, self.ticket).cmp(&(other.order, other.ticket))
    }
}
