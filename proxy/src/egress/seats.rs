//! Places given and taken back: the part of the policy that moves sessions.
//!
//! A place is given only here, in [`Policy::sit`], after [`Policy::pick`] found room for it: under the limit of the proxy, of the tenant, and of the
//! address at the operator, all at once. So nobody holds one kind of place while waiting for another.

use super::choice::{Blocked, Found};
use super::clock::{Now, Tick};
use super::gauge::Pace;
use super::health::Healths;
use super::policy::{Policy, Reserved, Seat};
use super::room::{Head, RoomKey, Short};
use super::{NoEgress, Operator, Outcome, Ticket};

/// Rooms looked at for the tenant with the fewest sessions when the proxy as a whole has a place again.
const LOOKED_AT: usize = 8;

/// What a look into a room leads to.
enum Step {
    Seat(Head, Found),
    Refuse(Head, NoEgress),
    Park(Head),
    Wait,
}

impl Policy {
    /// Gives places in a room until there is no more room, or nobody left. A room that nobody is in is forgotten.
    pub(super) fn pump(&mut self, key: &RoomKey, now: Now) {
        self.give(key, now);
        self.settle(key, now.tick);
    }

    fn give(&mut self, key: &RoomKey, now: Now) {
        loop {
            let most = self.rules.limits.sessions.max(1);
            let Some(room) = self.rooms.get_mut(key) else { return };
            if self.sessions >= most {
                if !room.queued && room.heads().next().is_some() {
                    room.queued = true;
                    self.queued.push_back(key.clone());
                }
                return;
            }
            match self.step(key, now) {
                Step::Seat(head, found) => self.begin(key, &head, found, now),
                Step::Refuse(head, refused) => self.refuse(key, &head, refused, now),
                Step::Park(head) => {
                    if let Some(room) = self.rooms.get_mut(key) {
                        room.park(&head.tenant);
                    }
                    self.crowds.entry(head.tenant).or_default().parked.push_back(key.clone());
                }
                Step::Wait => return,
            }
        }
    }

    fn step(&mut self, key: &RoomKey, now: Now) -> Step {
        let Some(room) = self.rooms.get(key) else { return Step::Wait };
        let most = self.rules.limits.per_tenant.max(1);
        let mut best: Option<(Head, Found)> = None;
        let (mut full, mut until) = (false, None::<Tick>);
        for head in room.heads() {
            if self.crowds.get(&head.tenant).is_some_and(|crowd| crowd.sessions >= most) {
                return Step::Park(head);
            }
            let Some(session) = self.tickets.get(&head.ticket) else { continue };
            match self.pick(key, head.pool, session.suspicion, None, now) {
                Ok(found) => {
                    if best.as_ref().is_none_or(|(other, _)| head < *other) {
                        best = Some((head, found));
                    }
                }
                Err(Blocked::Places) => full = true,
                Err(Blocked::Rate(at)) => until = Some(until.map_or(at, |until| until.min(at))),
                Err(Blocked::Never(refused)) => return Step::Refuse(head, refused),
            }
        }
        if let Some((head, found)) = best {
            return Step::Seat(head, found);
        }
        let Some(room) = self.rooms.get_mut(key) else { return Step::Wait };
        match (until, full) {
            (Some(_), _) => room.short = Short::Rate,
            (None, true) => room.short = Short::Places,
            (None, false) => {}
        }
        if let Some(until) = until {
            self.look_again(key, until);
        }
        Step::Wait
    }

    /// Has a room looked at again then, if not before.
    fn look_again(&mut self, key: &RoomKey, at: Tick) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        if room.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = room.due.replace(at) {
            self.due.remove(&(due, key.clone()));
        }
        self.due.insert((at, key.clone()));
    }

    fn begin(&mut self, key: &RoomKey, head: &Head, found: Found, now: Now) {
        let decision = self.decision(head.ticket, found, None, now);
        if let Some(room) = self.rooms.get_mut(key) {
            room.begin(head, now.tick);
        }
        self.sessions += 1;
        self.crowds.entry(head.tenant.clone()).or_default().sessions += 1;
        let seat = self.seat_at(found, now);
        self.sit(key, head.ticket, seat, 1, now);
        if let Some(decision) = decision {
            self.outcomes.push(Outcome { ticket: head.ticket, result: Ok(decision) });
        }
    }

    fn refuse(&mut self, key: &RoomKey, head: &Head, refused: NoEgress, now: Now) {
        if let Some(room) = self.rooms.get_mut(key) {
            room.abandon(&head.tenant, head.pool, head.ticket, now.tick);
        }
        self.tickets.remove(&head.ticket);
        self.one_less(&head.tenant);
        self.outcomes.push(Outcome { ticket: head.ticket, result: Err(refused) });
    }

    pub(super) fn seat_at(&self, found: Found, now: Now) -> Seat {
        Seat { address: found.address, since: now.tick, probe: found.probe, reserved: None }
    }

    /// The place that a session has.
    pub(super) fn seat(&self, ticket: Ticket) -> Option<(RoomKey, Seat)> {
        let session = self.tickets.get(&ticket)?;
        Some((session.room.clone(), session.seat?))
    }

    /// Gives a session a place that was found free, for so many messages.
    pub(super) fn sit(&mut self, key: &RoomKey, ticket: Ticket, mut seat: Seat, messages: u32, now: Now) {
        let full = self.rules.budget(&key.operator);
        let mark = Healths::mark(self.healths.at(&key.operator), seat.address);
        let pace = Pace::of(mark.map_or(full, |mark| mark.budget(full)), full);
        if let Some(room) = self.rooms.get_mut(key) {
            room.gauge_mut(seat.address).take(pace, now.tick);
        }
        // Every session has a message: it is counted before it comes, so that those that come together find the ramp used.
        let day = self.ramps.take(seat.address, &key.operator, messages, now.tick).flatten();
        seat.reserved = day.map(|day| Reserved { day, messages });
        if seat.probe {
            self.healths.probing(seat.address, &key.operator, ticket);
        }
        self.last_turn += 1;
        if let Some(member) = self.addresses.get_mut(&seat.address) {
            member.sessions += 1;
            member.turn = self.last_turn;
        }
        if let Some(session) = self.tickets.get_mut(&ticket) {
            session.seat = Some(seat);
        }
    }

    /// Takes a session's place back.
    pub(super) fn rise(&mut self, key: &RoomKey, ticket: Ticket, seat: Seat, now: Now) {
        if let Some(room) = self.rooms.get_mut(key) {
            room.gauge_mut(seat.address).give();
        }
        if let Some(reserved) = seat.reserved {
            self.ramps.give(seat.address, &key.operator, reserved);
        }
        if seat.probe {
            self.healths.probed(seat.address, &key.operator, ticket, now.tick);
        }
        if let Some(member) = self.addresses.get_mut(&seat.address) {
            member.sessions = member.sessions.saturating_sub(1);
        }
    }

    /// A session goes for good; whoever can have its place gets it.
    pub(super) fn depart(&mut self, ticket: Ticket, now: Now) {
        let Some(session) = self.tickets.remove(&ticket) else { return };
        let (key, tenant) = (session.room, session.tenant);
        match session.seat {
            None => {
                if let Some(room) = self.rooms.get_mut(&key) {
                    room.abandon(&tenant, session.pool, ticket, now.tick);
                    if !room.is_parked(&tenant)
                        && let Some(crowd) = self.crowds.get_mut(&tenant)
                    {
                        crowd.parked.retain(|parked| *parked != key);
                    }
                }
            }
            Some(seat) => {
                for seat in [session.aside.map(|aside| *aside), Some(seat)].into_iter().flatten() {
                    self.rise(&key, ticket, seat, now);
                }
                if let Some(room) = self.rooms.get_mut(&key) {
                    room.end(&tenant, now.tick - seat.since, now.tick);
                }
                self.sessions = self.sessions.saturating_sub(1);
                if let Some(crowd) = self.crowds.get_mut(&tenant) {
                    crowd.sessions = crowd.sessions.saturating_sub(1);
                }
                self.unpark(&tenant, now);
            }
        }
        self.pump(&key, now);
        self.admit(now);
        self.one_less(&tenant);
    }

    /// A tenant may have one more session: rooms in which it waits for that are looked at until it has.
    fn unpark(&mut self, tenant: &warren_launcher_api::TenantName, now: Now) {
        let most = self.rules.limits.per_tenant.max(1);
        while let Some(crowd) = self.crowds.get_mut(tenant)
            && crowd.sessions < most
            && let Some(key) = crowd.parked.pop_front()
        {
            if let Some(room) = self.rooms.get_mut(&key) {
                room.unpark(tenant);
            }
            self.pump(&key, now);
        }
    }

    /// The proxy as a whole may have one more session: of the rooms that wait for that, the first few are looked at for the tenant with the fewest.
    fn admit(&mut self, now: Now) {
        while self.sessions < self.rules.limits.sessions.max(1) {
            let held = |key: &RoomKey| {
                let heads = self.rooms.get(key).into_iter().flat_map(|room| room.heads());
                heads.map(|head| self.crowds.get(&head.tenant).map_or(0, |crowd| crowd.sessions)).min()
            };
            let looked_at = self.queued.iter().take(LOOKED_AT).enumerate();
            let Some((_, place)) = looked_at.map(|(place, key)| (held(key).unwrap_or(0), place)).min() else { return };
            let Some(key) = self.queued.remove(place) else { return };
            if let Some(room) = self.rooms.get_mut(&key) {
                room.queued = false;
            }
            self.pump(&key, now);
        }
    }

    fn one_less(&mut self, tenant: &warren_launcher_api::TenantName) {
        if let Some(crowd) = self.crowds.get_mut(tenant) {
            crowd.tickets = crowd.tickets.saturating_sub(1);
            if crowd.tickets == 0 {
                self.crowds.remove(tenant);
            }
        }
    }

    /// Forgets a room that nobody is in, once its budgets are as if nobody had ever been.
    fn settle(&mut self, key: &RoomKey, now: Tick) {
        let Some(room) = self.rooms.get(key) else { return };
        if !room.is_empty() || room.queued {
            return;
        }
        let forgotten = room.gauges.iter().map(|(_, gauge)| gauge.forgotten_at()).max().unwrap_or(now);
        if forgotten > now {
            return self.look_again(key, forgotten);
        }
        if let Some(due) = self.rooms.remove(key).and_then(|room| room.due) {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// Looks into all rooms of an operator, or all there are.
    pub(super) fn pump_all(&mut self, operator: Option<&Operator>, now: Now) {
        let concerned = |key: &&RoomKey| operator.is_none_or(|operator| key.operator == *operator);
        let keys: Vec<RoomKey> = self.rooms.keys().filter(concerned).cloned().collect();
        for key in keys {
            self.pump(&key, now);
        }
    }

    /// Sorts those who wait by changed rules, in the order in which they came.
    pub(super) fn sort_anew(&mut self, now: Now) {
        let mut all: Vec<Ticket> = self.tickets.keys().copied().collect();
        all.sort_unstable();
        for ticket in all {
            let Some(session) = self.tickets.get_mut(&ticket) else { continue };
            let (key, tenant, old) = (session.room.clone(), session.tenant.clone(), session.pool);
            let (account, class) = (session.account.clone(), session.class);
            let mx: std::net::IpAddr =
                if key.ipv6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
            let ask = super::Ask { tenant: &tenant, account: account.as_deref(), class, operator: &key.operator, mx };
            (session.pool, session.rule) = self.rules.choose(&ask, session.suspicion);
            if session.seat.is_none()
                && let Some(room) = self.rooms.get_mut(&key)
            {
                room.abandon(&tenant, old, ticket, now.tick);
                room.wait(&tenant, session.pool, ticket, now.tick);
            }
        }
        // A limit may have been raised: nobody is parked, and whoever has to be will be.
        for (tenant, crowd) in &mut self.crowds {
            for key in crowd.parked.drain(..) {
                if let Some(room) = self.rooms.get_mut(&key) {
                    room.unpark(tenant);
                }
            }
        }
        self.pump_all(None, now);
        self.admit(now);
    }
}
