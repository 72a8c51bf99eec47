//! The choice of an address: every address of the pool is looked at, and the best one that has room is taken.

use std::fmt;
use std::sync::Arc;

use super::clock::{MINUTE, Now, Tick};
use super::gauge::{Pace, Room as Space};
use super::health::{Condition, Healths, Mark, Rested};
use super::policy::{Policy, Seat};
use super::room::RoomKey;
use super::{Ask, Budget, Candidate, Decision, EgressAddr, Moment, NoEgress, PassedOver, Suspicion, Ticket};

/// An address that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub address: EgressAddr,
    pub probe: bool,
}

/// An address that turned a session away, which looks for another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub address: EgressAddr,
    /// All of these have to fit into what the other one may send today.
    pub messages: u32,
}

/// Why none was.
#[derive(Debug)]
pub(super) enum Blocked {
    /// Sessions have to end first.
    Places,
    /// Time has to pass first.
    Rate(Tick),
    /// No address of the pool is of use.
    Never(NoEgress),
}

/// What an address looks like to a session.
#[derive(Debug, Clone, Copy)]
struct Sight {
    stands: Stands,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// It may be used now; the higher the better.
    Free(u32),
    /// It may be used if there is nothing else.
    Last,
    /// Its budget is used up for now.
    Full,
    /// Its budget is used up until then.
    Until(Tick),
    /// It is not used, at least until then.
    Out(Option<Tick>),
}

#[derive(Debug, Clone, Copy)]
enum Why {
    Sessions { now: u32, of: u32 },
    Throttled { now: u32, of: u32 },
    Warming { day: u32, used: u32, of: u32 },
    WarmedUp { of: u32, ends: Tick },
    Probe,
    Probing,
    Suspect,
    Listed { minutes: Tick },
    ByHand,
    Unbound,
    Left,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sessions { now, of } => write!(f, "{now} of {of} sessions"),
            Self::Throttled { now, of } => write!(f, "throttled: {now} of {of} sessions"),
            Self::Warming { day, used, of } => write!(f, "warms up, day {}: {used} of {of} messages", day + 1),
            Self::WarmedUp { of, .. } => write!(f, "warms up: all {of} messages of today are sent"),
            Self::Probe => f.write_str("rested: this session is its probe"),
            Self::Probing => f.write_str("rests: another session is its probe"),
            Self::Suspect => f.write_str("rests: a probe is due, but not by a suspect sender"),
            Self::Listed { minutes } => write!(f, "rests for {minutes} more minutes"),
            Self::ByHand => f.write_str("rests: by hand"),
            Self::Unbound => f.write_str("rests: could not be bound"),
            Self::Left => f.write_str("turned this session away"),
        }
    }
}

impl Policy {
    /// How an address looks to a session of a sender so suspect, with so many messages.
    fn look(
        &self,
        room: &RoomKey,
        marks: &[(EgressAddr, Mark)],
        address: EgressAddr,
        (suspicion, messages): (Suspicion, u32),
        now: Now,
    ) -> Sight {
        let out = |until, why| Sight { stands: Stands::Out(until), why };
        let Some(member) = self.addresses.get(&address) else { return out(None, Why::Unbound) };
        if member.by_hand.is_some() {
            return out(None, Why::ByHand);
        }
        let full = self.rules.budget(&room.operator);
        let mark = Healths::mark(marks, address);
        let mut probe = false;
        if let Some(Mark { condition: Condition::Rested(Rested { until, probe: under_way, .. }), .. }) = mark {
            match until {
                None => return out(None, Why::ByHand),
                Some(until) if under_way.is_some() => return out(Some((*until).max(now.tick + MINUTE)), Why::Probing),
                Some(until) if *until > now.tick => {
                    return out(Some(*until), Why::Listed { minutes: (*until - now.tick + MINUTE - 1) / MINUTE });
                }
                Some(_) if suspicion > Suspicion::Low => return out(Some(now.tick), Why::Suspect),
                Some(_) => probe = true,
            }
        }
        let warmth = self.ramps.warmth(address, &room.operator, now.tick);
        if let Some(warmth) = warmth
            && !warmth.allows(messages)
        {
            return out(Some(warmth.ends), Why::WarmedUp { of: warmth.limit, ends: warmth.ends });
        }
        let budget = mark.map_or(full, |mark| mark.budget(full));
        let gauge = self.rooms.get(room).and_then(|room| room.gauge(address));
        let space = gauge.map_or(Space::Yes, |gauge| gauge.room(Pace::of(budget, full), now.tick));
        let sessions = gauge.map_or(0, |gauge| gauge.sessions());
        let why = match (probe, mark, warmth) {
            (true, ..) => Why::Probe,
            (_, Some(_), _) => Why::Throttled { now: sessions, of: budget.sessions },
            (_, None, Some(warmth)) => Why::Warming { day: warmth.day, used: warmth.used, of: warmth.limit },
            _ => Why::Sessions { now: sessions, of: budget.sessions },
        };
        let stands = match space {
            Space::Full => Stands::Full,
            Space::Until(at) => Stands::Until(at),
            Space::Yes if member.unbound_until.is_some_and(|until| until > now.tick) => {
                return Sight { stands: Stands::Last, why: Why::Unbound };
            }
            // A probe that is due goes first: its session may fail over, and the address be of use again.
            Space::Yes if probe => Stands::Free(100),
            Space::Yes => Stands::Free(score(sessions, budget, full)),
        };
        Sight { stands, why }
    }

    /// The addresses of a pool that serve the room's family.
    fn family(&self, pool: usize, ipv6: bool) -> impl Iterator<Item = EgressAddr> + '_ {
        let all = self.rules.pools.get(pool).map_or(&[][..], |pool| &pool.addresses);
        all.iter().copied().filter(move |address| address.0.to_canonical().is_ipv6() == ipv6)
    }

    /// The best address of a pool that has room, not the one that was `left`.
    pub(super) fn pick(
        &self,
        room: &RoomKey,
        pool: usize,
        suspicion: Suspicion,
        left: Option<Left>,
        now: Now,
    ) -> Result<Found, Blocked> {
        let marks = self.healths.at(&room.operator);
        let (mut free, mut last) = (None, None);
        let (mut full, mut until): (bool, Option<Tick>) = (false, None);
        let (mut rests, mut warms): (Option<Option<Tick>>, Option<Tick>) = (None, None);
        let mut any = false;
        let (left, messages) = (left.map(|left| left.address), left.map_or(1, |left| left.messages));
        for address in self.family(pool, room.ipv6).filter(|address| Some(*address) != left) {
            any = true;
            let sight = self.look(room, marks, address, (suspicion, messages), now);
            // Of equals the one that was not chosen for longest.
            let turn = std::cmp::Reverse(self.addresses.get(&address).map_or(0, |member| member.turn));
            let found = Found { address, probe: matches!(sight.why, Why::Probe) };
            match (sight.stands, sight.why) {
                (Stands::Free(score), _) => {
                    if free.as_ref().is_none_or(|(best, _)| (score, found.probe, turn) > *best) {
                        free = Some(((score, found.probe, turn), found));
                    }
                }
                (Stands::Last, _) => {
                    if last.as_ref().is_none_or(|(best, _)| turn > *best) {
                        last = Some((turn, found));
                    }
                }
                (Stands::Full, _) => full = true,
                (Stands::Until(at), _) => until = Some(until.map_or(at, |until| until.min(at))),
                (Stands::Out(_), Why::WarmedUp { ends, .. }) => {
                    warms = Some(warms.map_or(ends, |known| known.min(ends)))
                }
                (Stands::Out(at), _) => rests = Some([rests.flatten(), at].into_iter().flatten().min()),
            }
        }
        if let Some((_, found)) = free {
            return Ok(found);
        }
        match (until, full, last) {
            (Some(until), ..) => Err(Blocked::Rate(until)),
            (None, true, _) => Err(Blocked::Places),
            (None, false, Some((_, found))) => Ok(found),
            (None, false, None) if !any => Err(Blocked::Never(NoEgress::Family { ipv6: room.ipv6 })),
            (None, false, None) => Err(Blocked::Never(match (rests, warms) {
                (None, Some(ends)) => NoEgress::WarmedUp { until: now.calendar(ends) },
                (rests, _) => NoEgress::Rested { until: rests.flatten().map(|until| now.calendar(until)) },
            })),
        }
    }

    /// Whether a session may send another message from where it is.
    pub(super) fn may_stay(
        &self,
        room: &RoomKey,
        (ticket, seat): (Ticket, &Seat),
        pool: usize,
        suspicion: Suspicion,
        now: Now,
    ) -> bool {
        if !self.family(pool, room.ipv6).any(|address| address == seat.address) {
            return false;
        }
        let by_hand = self.addresses.get(&seat.address).is_none_or(|member| member.by_hand.is_some());
        let rests = match Healths::mark(self.healths.at(&room.operator), seat.address) {
            // A probe that has its answer is none any more.
            Some(Mark { condition: Condition::Rested(Rested { probe, .. }), .. }) => {
                *probe != Some(ticket) || suspicion > Suspicion::Low
            }
            _ => false,
        };
        let today = self.ramps.day(seat.address, now.tick);
        let reserved = seat.reserved.is_some_and(|reserved| today == Some(reserved.day));
        let warmth = self.ramps.warmth(seat.address, &room.operator, now.tick);
        !by_hand && !rests && (reserved || warmth.is_none_or(|warmth| warmth.allows(1)))
    }

    /// The decision for a session that waits, or that leaves the address `left`.
    pub(super) fn decision(
        &self,
        ticket: Ticket,
        found: Found,
        left: Option<EgressAddr>,
        now: Now,
    ) -> Option<Decision> {
        let session = self.tickets.get(&ticket)?;
        let (room, pool) = (&session.room, session.pool);
        let mut decision = self.written(room, (pool, session.rule), session.suspicion, found, now);
        if let Some(left) = left {
            decision.reason = format!("failover from {left}");
            for candidate in decision.candidates.iter_mut().filter(|candidate| candidate.address == left) {
                (candidate.score, candidate.why) = (None, Why::Left.to_string());
            }
        }
        Some(decision)
    }

    /// Why a session with this `ask` leaves from `egress`, as it looks now: it is dialled again.
    pub fn decided(&self, ticket: Ticket, ask: &Ask<'_>, egress: EgressAddr, now: Moment) -> Decision {
        let now = self.clock.now(now);
        let mut decision = match self.tickets.get(&ticket).and_then(|session| Some((session, session.seat?))) {
            Some((session, seat)) => {
                let found = Found { address: seat.address, probe: seat.probe };
                self.written(&session.room, (session.pool, session.rule), session.suspicion, found, now)
            }
            // Of a session that has gone already: as if it came.
            None => {
                let suspicion = self.level(ask, now);
                let found = Found { address: egress, probe: false };
                self.written(&RoomKey::of(ask), self.rules.choose(ask, suspicion), suspicion, found, now)
            }
        };
        decision.reason = "the session's own, dialled again".to_owned();
        decision
    }

    fn written(
        &self,
        room: &RoomKey,
        (pool, rule): (usize, Option<u32>),
        suspicion: Suspicion,
        found: Found,
        now: Now,
    ) -> Decision {
        let (mut reason, mut candidates) = (String::new(), Vec::new());
        for (candidate, stands) in self.candidates(room, pool, suspicion, now) {
            if candidate.address == found.address {
                reason = match (found.probe, stands) {
                    (true, _) => "probe".to_owned(),
                    (_, Stands::Last) => "no other is left".to_owned(),
                    (_, Stands::Free(_)) => "most room, or its turn".to_owned(),
                    _ => "would wait for a place".to_owned(),
                };
            }
            candidates.push(candidate);
        }
        let (rule, pool) = self.names_of(rule, pool);
        let (operator, egress, probe) = (room.operator.clone(), found.address, found.probe);
        Decision { egress, rule, pool, operator, suspicion, probe, reason, candidates }
    }

    /// Every address of a pool as it looks to a session, in their order.
    fn candidates(
        &self,
        room: &RoomKey,
        pool: usize,
        suspicion: Suspicion,
        now: Now,
    ) -> impl Iterator<Item = (Candidate, Stands)> {
        let marks = self.healths.at(&room.operator);
        self.family(pool, room.ipv6).map(move |address| {
            let sight = self.look(room, marks, address, (suspicion, 1), now);
            let (score, more) = match sight.stands {
                Stands::Free(score) => (Some(score), ""),
                Stands::Last => (Some(0), ""),
                Stands::Full => (None, ": full"),
                Stands::Until(_) => (None, ": the minute is full"),
                Stands::Out(_) => (None, ""),
            };
            (Candidate { address, score, why: format!("{}{more}", sight.why) }, sight.stands)
        })
    }

    /// As people are told them.
    fn names_of(&self, rule: Option<u32>, pool: usize) -> (Arc<str>, Arc<str>) {
        let rule = rule.map_or_else(|| Arc::from("default"), |rule| Arc::from(format!("rule {}", rule + 1)));
        (rule, self.rules.pools.get(pool).map_or_else(|| Arc::from(""), |pool| Arc::clone(&pool.name)))
    }

    /// What a session has to choose from that got no address, as it looks now.
    pub fn passed_over(&self, ask: &Ask<'_>, now: Moment) -> PassedOver {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        let (pool, rule) = self.rules.choose(ask, suspicion);
        let room = RoomKey::of(ask);
        let candidates = self.candidates(&room, pool, suspicion, now).map(|(candidate, _)| candidate).collect();
        let (rule, pool) = self.names_of(rule, pool);
        PassedOver { rule, pool, suspicion, candidates }
    }

    /// The decision for a session that asks, whether or not there is room.
    pub(super) fn explained(&self, ask: &Ask<'_>, suspicion: Suspicion, now: Now) -> Result<Decision, NoEgress> {
        let (pool, rule) = self.rules.choose(ask, suspicion);
        let room = RoomKey::of(ask);
        let found = match self.pick(&room, pool, suspicion, None, now) {
            Ok(found) => found,
            Err(Blocked::Never(refused)) => return Err(refused),
            Err(_) => {
                let marks = self.healths.at(&room.operator);
                let waits = |address: &EgressAddr| {
                    let sight = self.look(&room, marks, *address, (suspicion, 1), now);
                    matches!(sight.stands, Stands::Full | Stands::Until(_))
                };
                let address = self.family(pool, room.ipv6).find(waits).ok_or(NoEgress::Family { ipv6: room.ipv6 })?;
                Found { address, probe: false }
            }
        };
        Ok(self.written(&room, (pool, rule), suspicion, found, now))
    }
}

/// The part of the whole budget's places that is free, in hundredths, and never nothing. A throttled address has less to begin with.
fn score(sessions: u32, budget: Budget, full: Budget) -> u32 {
    let free = u64::from(budget.sessions.saturating_sub(sessions));
    u32::try_from(free * 100 / u64::from(full.sessions.max(1))).unwrap_or(100).clamp(1, 100)
}
