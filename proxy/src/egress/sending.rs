//! Sessions under way: each message at MAIL, another address after a refusal, and what is counted for it.
//!
//! ```text
//!   mail ─┬─ Stay      counted: ramp of the address, history of the sender
//!         ├─ Refuse    slowed, stopped, or no address
//!         └─ Move ──▶ leave, enter: a place, and a message of its ramp reserved ──▶ moved: counted
//!
//!   failover ── a second place; the first is kept, its connection is there still ─┬─ moved:  the first is given up
//!                                                                                 └─ stayed: the second is
//! ```

use super::choice::{Blocked, Left};
use super::health::Healths;
use super::policy::{Policy, Seat};
use super::room::RoomKey;
use super::{Ask, AtMail, EgressAddr, Granted, Moment, NoEgress, Suspicion, Ticket};

impl Policy {
    /// A message at MAIL; `ask` has its account and class. `ticket` is its session, none if that has no place any more. Who stays is counted; who
    /// moves is when it has [`moved`](Self::moved). A slowed sender is told so in either case.
    pub fn mail(&mut self, ticket: Option<Ticket>, ask: &Ask<'_>, now: Moment) -> AtMail {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return AtMail::Refuse(NoEgress::Stopped);
        }
        let (pool, rule) = self.rules.choose(ask, suspicion);
        let seated = ticket.and_then(|ticket| Some((ticket, self.seat(ticket)?)));
        let stays = seated.filter(|(ticket, (room, seat))| self.may_stay(room, (*ticket, seat), pool, suspicion, now));
        if stays.is_none()
            && let Err(Blocked::Never(refused)) = self.pick(&RoomKey::of(ask), pool, suspicion, None, now)
        {
            return AtMail::Refuse(refused);
        }
        if suspicion == Suspicion::High && !self.senders.slowly(ask.tenant, ask.account, ask.class, now.tick) {
            return AtMail::Refuse(NoEgress::Slowed);
        }
        let Some((ticket, (room, seat))) = stays else { return AtMail::Move };
        let today = self.ramps.day(seat.address, now.tick);
        let reserved = seat.reserved.filter(|reserved| today == Some(reserved.day));
        if reserved.is_none() && self.ramps.take(seat.address, &room.operator, 1, now.tick).is_none() {
            // may_stay has looked.
            return AtMail::Move;
        }
        self.senders.sent(ask.tenant, ask.class, now.tick);
        if let Some(session) = self.tickets.get_mut(&ticket) {
            (session.pool, session.rule, session.suspicion, session.counted) = (pool, rule, suspicion, true);
            let reserved = reserved.and_then(|reserved| reserved.less(1));
            session.seat = session.seat.map(|seat| Seat { reserved, ..seat });
        }
        AtMail::Stay
    }

    /// Another address for a session whose own was turned away: at most one for each session, in the same pool, with its whole budget and a place
    /// that is free now, and only while no sender is suspect of all the messages that would be said again there: `asks` has one for each, or one for the
    /// session before there is any. A ramp has to have room for all of them. It does not wait its turn: its tenant has a place already. The ticket has both
    /// places until the session has [`moved`](Self::moved) or [`stayed`](Self::stayed).
    pub fn failover(&mut self, ticket: Ticket, asks: &[Ask<'_>], now: Moment) -> Option<Granted> {
        let now = self.clock.now(now);
        if asks.iter().any(|ask| self.level(ask, now) > Suspicion::Low) {
            return None;
        }
        let messages = u32::try_from(asks.len()).unwrap_or(u32::MAX).max(1);
        let (room, old) = self.seat(ticket)?;
        let session = self.tickets.get(&ticket).filter(|session| !session.failed_over)?;
        let healthy =
            |policy: &Self, address: EgressAddr| Healths::mark(policy.healths.at(&room.operator), address).is_none();
        let left = Left { address: old.address, messages };
        let found = self.pick(&room, session.pool, Suspicion::Low, Some(left), now).ok()?;
        if found.probe || !healthy(self, found.address) {
            return None;
        }
        let decision = self.decision(ticket, found, Some(old.address), now)?;
        self.sit(&room, ticket, self.seat_at(found, now), messages, now);
        if let Some(session) = self.tickets.get_mut(&ticket) {
            (session.aside, session.failed_over) = (Some(Box::new(old)), true);
        }
        Some(Granted { ticket, decision })
    }

    /// The session goes on from the place that it was given last; the connection from the place before is closed. Those of `asks` that have an account are
    /// messages that leave from there: each is counted there, and in its sender's history unless it was at its MAIL.
    pub fn moved(&mut self, ticket: Ticket, asks: &[Ask<'_>], now: Moment) {
        let now = self.clock.now(now);
        let Some(session) = self.tickets.get_mut(&ticket) else { return };
        let (aside, room) = (session.aside.take(), session.room.clone());
        let messages: Vec<&Ask<'_>> = asks.iter().filter(|ask| ask.account.is_some()).collect();
        if let Some(first) = messages.first() {
            // They were reserved with the place.
            let sent = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            let left = |seat: Seat| seat.reserved.and_then(|reserved| reserved.less(sent));
            session.seat = session.seat.map(|seat| Seat { reserved: left(seat), ..seat });
            // Who moves has one, which is not yet; those that fail over are all.
            if !std::mem::replace(&mut session.counted, true) {
                self.senders.sent(first.tenant, first.class, now.tick);
            }
        }
        if let Some(old) = aside {
            self.rise(&room, ticket, *old, now);
            self.pump(&room, now);
        }
    }

    /// The session goes on from where it was before its [`failover`](Self::failover). Its next message asks whether it may.
    pub fn stayed(&mut self, ticket: Ticket, now: Moment) {
        let now = self.clock.now(now);
        let Some(session) = self.tickets.get_mut(&ticket) else { return };
        let Some(old) = session.aside.take() else { return };
        let (new, room) = (session.seat.replace(*old), session.room.clone());
        if let Some(new) = new {
            self.rise(&room, ticket, new, now);
        }
        self.pump(&room, now);
    }
}
