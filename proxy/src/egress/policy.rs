//! The policy: everything of this folder, put together.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use warren_launcher_api::TenantName;

use super::bounded::Bounded;
use super::clock::{Clock, Now, Tick, ticks};
use super::health::{self, Condition, Healths, Rested, Turn};
use super::ramp::Ramps;
use super::room::{Room, RoomKey};
use super::suspicion::{self, Senders};
use super::{
    Ask, AtMail, Change, Decision, EgressAddr, Entry, Evidence, Granted, Lesson, Moment, NoEgress, Operator, Outcome,
    Rules, Stage, State, Suspicion, Ticket, UNBOUND, What,
};

/// Networks of big providers that are remembered.
const HOMES: usize = 10_000;

/// All egress addresses, what is known about them, and everybody who leaves or waits.
#[derive(Debug)]
pub struct Policy {
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) addresses: BTreeMap<EgressAddr, Member>,
    pub(super) healths: Healths,
    pub(super) ramps: Ramps,
    pub(super) senders: Senders,
    homes: Bounded<String, Operator>,
    pub(super) rooms: HashMap<RoomKey, Room>,
    pub(super) tickets: HashMap<Ticket, Session>,
    pub(super) crowds: HashMap<TenantName, Crowd>,
    /// Rooms in which somebody could go on if the proxy as a whole had a place.
    pub(super) queued: VecDeque<RoomKey>,
    pub(super) due: BTreeSet<(Tick, RoomKey)>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) sessions: u32,
    pub(super) last_ticket: u64,
    pub(super) last_turn: u64,
}

/// One of the addresses.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// It rests towards all operators, because a human said so.
    pub by_hand: Option<Evidence>,
    /// It could not be bound lately.
    pub unbound_until: Option<Tick>,
    pub sessions: u32,
    /// When it was chosen last: a number that grows.
    pub turn: u64,
}

/// A session, from coming in to leaving.
#[derive(Debug)]
pub(super) struct Session {
    pub tenant: TenantName,
    pub account: Option<String>,
    pub class: super::MailClass,
    pub room: RoomKey,
    pub pool: usize,
    pub rule: Option<usize>,
    pub suspicion: Suspicion,
    /// None while it waits.
    pub seat: Option<Seat>,
}

/// The place that a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub address: EgressAddr,
    pub since: Tick,
    pub probe: bool,
    /// On this day of the ramp a message was counted that has not come yet.
    pub reserved: Option<usize>,
    pub failed_over: bool,
}

/// The sessions of a tenant.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Under way.
    pub sessions: u32,
    /// Those that wait among them.
    pub tickets: u32,
    /// Rooms in which it waits for having fewer sessions.
    pub parked: VecDeque<RoomKey>,
}

impl Policy {
    /// A policy of these rules that remembers what another one knew.
    pub fn new(rules: Rules, state: Option<State>, now: Moment) -> Self {
        let clock = Clock::new(now.now);
        let mut policy = Self {
            addresses: BTreeMap::new(),
            healths: Healths::new(),
            ramps: Ramps::default(),
            senders: Senders::new(),
            homes: Bounded::new(HOMES),
            rooms: HashMap::new(),
            tickets: HashMap::new(),
            crowds: HashMap::new(),
            queued: VecDeque::new(),
            due: BTreeSet::new(),
            outcomes: Vec::new(),
            sessions: 0,
            last_ticket: 0,
            last_turn: 0,
            rules,
            clock,
        };
        policy.configure(clock.now(now));
        if let Some(state) = state {
            policy.restore_state(state, clock.now(now));
        }
        policy
    }

    /// Takes over changed rules. Sessions under way keep their places; sessions that wait, wait by the new rules.
    pub fn reload(&mut self, rules: Rules, now: Moment) {
        let now = self.clock.now(now);
        self.rules = rules;
        self.configure(now);
        self.sort_anew(now);
    }

    fn configure(&mut self, now: Now) {
        let mut known = std::mem::take(&mut self.addresses);
        self.addresses =
            self.rules.addresses().map(|address| (address, known.remove(&address).unwrap_or_default())).collect();
        self.ramps.configure(&self.rules.warm_up, now);
        let addresses: Vec<EgressAddr> = self.addresses.keys().copied().collect();
        self.healths.keep(&addresses);
    }

    /// Who runs an MX. Beyond [`Operator::of`], the networks of the big providers are remembered by their own names for them, so that a name that
    /// a tenant made for an address of theirs, or none, is no way around their budgets.
    pub fn operator(&mut self, mx_name: Option<&str>, mx: IpAddr) -> Operator {
        let named = Operator::of(mx_name, mx);
        let network = Operator::of(None, mx).to_string();
        if named.is_big_provider() {
            self.homes.entry(&network, || named.clone()).clone_from(&named);
            return named;
        }
        self.homes.touch(&network).cloned().unwrap_or(named)
    }

    /// A session wants to leave. It gets a place, or waits its fair turn, or no address serves it.
    pub fn enter(&mut self, ask: &Ask<'_>, now: Moment) -> Entry {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return Entry::Refused(NoEgress::Stopped);
        }
        let (pool, rule) = self.rules.choose(ask, suspicion);
        self.healths.touch(ask.operator);
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let room = RoomKey { operator: ask.operator.clone(), ipv6: ask.mx.to_canonical().is_ipv6() };
        let session = Session {
            tenant: ask.tenant.clone(),
            account: ask.account.map(str::to_owned),
            class: ask.class,
            room: room.clone(),
            pool,
            rule,
            suspicion,
            seat: None,
        };
        self.tickets.insert(ticket, session);
        self.crowds.entry(ask.tenant.clone()).or_default().tickets += 1;
        self.rooms.entry(room.clone()).or_default().wait(ask.tenant, pool, ticket, now.tick);
        self.pump(&room, now);
        match self.outcomes.iter().rposition(|outcome| outcome.ticket == ticket) {
            None => Entry::Wait(ticket),
            Some(place) => match self.outcomes.swap_remove(place).result {
                Ok(decision) => Entry::Granted(Granted { ticket, decision }),
                Err(refused) => Entry::Refused(refused),
            },
        }
    }

    /// What became of waiting sessions since the last call. To be called after every other call that changes anything, and at [`due`](Self::due).
    pub fn next(&mut self, now: Moment) -> Vec<Outcome> {
        let now = self.clock.now(now);
        while let Some((at, _)) = self.due.first()
            && *at <= now.tick
        {
            let Some((_, room)) = self.due.pop_first() else { break };
            if let Some(known) = self.rooms.get_mut(&room) {
                known.due = None;
            }
            self.pump(&room, now);
        }
        std::mem::take(&mut self.outcomes)
    }

    /// When [`next`](Self::next) is to be called though nothing happened.
    pub fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| self.clock.instant(*at))
    }

    /// A message at MAIL in the session of `ticket`; `ask` has its account and class. Counts it where it stays. A message that
    /// moves is not counted: neither towards the ramp of the address that it leaves from, nor in its sender's history.
    pub fn mail(&mut self, ticket: Ticket, ask: &Ask<'_>, now: Moment) -> AtMail {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return AtMail::Refuse(NoEgress::Stopped);
        }
        let (pool, rule) = self.rules.choose(ask, suspicion);
        let Some((room, seat)) = self.seat(ticket) else { return AtMail::Move };
        if !self.may_stay(&room, &seat, pool, suspicion, now) {
            return match self.pick(&room, pool, suspicion, None, now) {
                Err(super::choice::Blocked::Never(refused)) => AtMail::Refuse(refused),
                _ => AtMail::Move,
            };
        }
        if suspicion == Suspicion::High && !self.senders.slowly(ask.tenant, ask.account, ask.class, now.tick) {
            return AtMail::Refuse(NoEgress::Slowed);
        }
        let today = self.ramps.day(seat.address, now.tick);
        if (seat.reserved.is_none() || seat.reserved != today)
            && self.ramps.take(seat.address, &room.operator, now.tick).is_none()
        {
            // may_stay has looked.
            return AtMail::Move;
        }
        self.senders.sent(ask.tenant, ask.class, now.tick);
        if let Some(session) = self.tickets.get_mut(&ticket) {
            (session.pool, session.rule, session.suspicion) = (pool, rule, suspicion);
            session.seat = session.seat.map(|seat| Seat { reserved: None, ..seat });
        }
        AtMail::Stay
    }

    /// Another address for a session whose own was turned away: at most one for each session, in the same pool, with its whole budget and a place
    /// that is free now, and only while the sender is not suspect. The ticket moves there; the place at the old address is given up, so the old
    /// connection is to be closed first. It does not wait its turn: its tenant has a place already.
    pub fn failover(&mut self, ticket: Ticket, ask: &Ask<'_>, now: Moment) -> Option<Granted> {
        let now = self.clock.now(now);
        if self.level(ask, now) > Suspicion::Low {
            return None;
        }
        let (room, old) = self.seat(ticket)?;
        let pool = self.tickets.get(&ticket)?.pool;
        let healthy =
            |policy: &Self, address: EgressAddr| Healths::mark(policy.healths.at(&room.operator), address).is_none();
        let found = self.pick(&room, pool, Suspicion::Low, Some(old.address), now).ok()?;
        if old.failed_over || found.probe || !healthy(self, found.address) {
            return None;
        }
        let decision = self.decision(ticket, found, Some(old.address), now)?;
        self.rise(&room, ticket, old, now);
        self.sit(&room, ticket, Seat { failed_over: true, ..self.seat_at(found, now) }, now);
        self.pump(&room, now);
        Some(Granted { ticket, decision })
    }

    /// A session is over, or nobody waits for it any more.
    pub fn leave(&mut self, ticket: Ticket, now: Moment) {
        let now = self.clock.now(now);
        self.outcomes.retain(|outcome| outcome.ticket != ticket);
        self.depart(ticket, now);
    }

    /// Learns from what a session went through.
    pub fn learn(&mut self, lesson: &Lesson<'_>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        match lesson.what {
            What::NotBound => self.not_bound(lesson.egress, now),
            What::Slow { evidence } => {
                let evidence = || health::evidence("slow", None, evidence, now);
                self.heard(lesson, health::Word::Slower, evidence, now)
            }
            What::Reply { stage, verdict, code, text } => {
                let said = || format!("{code} {text}");
                let evidence = || health::evidence(verdict.class.name(), verdict.list.as_deref(), &said(), now);
                let mut changes = self.heard(lesson, health::Word::of(stage, verdict), evidence, now);
                changes.extend(self.heard_of_sender(lesson, suspicion::Word::of(stage, verdict), now));
                changes
            }
        }
    }

    fn not_bound(&mut self, address: EgressAddr, now: Now) -> Vec<Change> {
        let Some(member) = self.addresses.get_mut(&address) else { return Vec::new() };
        let news = member.unbound_until.is_none_or(|until| until <= now.tick);
        member.unbound_until = Some(now.tick + ticks(UNBOUND));
        if news { vec![Change::Unbound { address }] } else { Vec::new() }
    }

    fn heard(
        &mut self,
        lesson: &Lesson<'_>,
        word: health::Word,
        evidence: impl FnOnce() -> Evidence,
        now: Now,
    ) -> Vec<Change> {
        let (address, operator) = (lesson.egress, lesson.operator.clone());
        if word == health::Word::Silent || !self.addresses.contains_key(&address) {
            return Vec::new();
        }
        let turn = self.healths.hear((address, &operator), lesson.ticket, word, evidence, self.rules.rest, now.tick);
        if turn != Turn::Same {
            for ipv6 in [false, true] {
                self.pump(&RoomKey { operator: operator.clone(), ipv6 }, now);
            }
        }
        let mark = Healths::mark(self.healths.at(&operator), address);
        let change = match (turn, mark) {
            (Turn::Readmitted, _) => Change::Readmitted { address, operator: Some(operator), by_hand: false },
            (Turn::Recovered, _) => Change::Recovered { address, operator },
            (Turn::Rested, Some(mark)) => {
                let Condition::Rested(Rested { until, .. }) = mark.condition else { return Vec::new() };
                let evidence = mark.evidence[0].clone();
                Change::Rested {
                    address,
                    operator: Some(operator),
                    evidence,
                    until: until.map(|until| now.calendar(until)),
                }
            }
            (Turn::Throttled, Some(mark)) => {
                let budget = mark.budget(self.rules.budget(&operator));
                let evidence = mark.evidence[0].clone();
                let (sessions, sessions_per_minute) = (budget.sessions, budget.sessions_per_minute);
                Change::Throttled { address, operator, evidence, sessions, sessions_per_minute }
            }
            _ => return Vec::new(),
        };
        vec![change]
    }

    fn heard_of_sender(&mut self, lesson: &Lesson<'_>, word: Option<suspicion::Word>, now: Now) -> Vec<Change> {
        let Some(word) = word else { return Vec::new() };
        let shifts = self.senders.hear(lesson.tenant, lesson.account, lesson.class, (lesson.operator, word), now.tick);
        let change = |shift: suspicion::Shift| Change::Suspicion {
            tenant: lesson.tenant.clone(),
            account: shift.account,
            class: lesson.class,
            from: shift.from,
            to: shift.to,
            why: shift.why,
        };
        shifts.into_iter().map(change).collect()
    }

    /// Lets an address rest by hand, towards one operator or all, until [`restore`](Self::restore).
    pub fn rest(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        let evidence = health::evidence("by hand", None, "", now);
        let Some(member) = self.addresses.get_mut(&address) else { return Vec::new() };
        let news = match operator {
            None => member.by_hand.replace(evidence.clone()).is_none(),
            Some(operator) => self.healths.rest_by_hand(address, operator, evidence.clone(), now.tick),
        };
        if !news {
            return Vec::new();
        }
        self.pump_all(operator, now);
        vec![Change::Rested { address, operator: operator.cloned(), evidence, until: None }]
    }

    /// Uses an address again, whoever had it rest: towards one operator, or all.
    pub fn restore(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        let mut news = false;
        match operator {
            Some(operator) => news |= self.healths.forget(address, operator),
            None => {
                if let Some(member) = self.addresses.get_mut(&address) {
                    news |= member.by_hand.take().is_some() | member.unbound_until.take().is_some();
                }
                let marked = self.healths.all().filter(|(_, marked, _)| *marked == address);
                let marked: Vec<Operator> = marked.map(|(operator, ..)| operator.clone()).collect();
                for operator in marked {
                    news |= self.healths.forget(address, &operator);
                }
            }
        }
        self.pump_all(operator, now);
        if news { vec![Change::Readmitted { address, operator: operator.cloned(), by_hand: true }] } else { Vec::new() }
    }

    /// What [`enter`](Self::enter) would decide if there were places enough. Nothing is changed by asking.
    pub fn explain(&self, ask: &Ask<'_>, now: Moment) -> Result<Decision, NoEgress> {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return Err(NoEgress::Stopped);
        }
        self.explained(ask, suspicion, now)
    }

    /// How suspect a sender is.
    pub fn suspicion(&self, ask: &Ask<'_>, now: Moment) -> Suspicion {
        self.level(ask, self.clock.now(now))
    }

    fn level(&self, ask: &Ask<'_>, now: Now) -> Suspicion {
        self.senders.level(ask.tenant, ask.account, ask.class, now.tick)
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sessions under way.
    pub fn sessions(&self) -> u32 {
        self.sessions
    }
}

impl Stage {
    /// The stage of a command by its verb, as [`warren_session::Said`] has it: empty for the greeting, `.` for the end of data.
    pub fn of_verb(verb: &str) -> Self {
        match verb {
            "" => Self::Greeting,
            "MAIL" => Self::Mail,
            "RCPT" => Self::Recipient,
            "DATA" | "BDAT" | "." => Self::Content,
            _ => Self::Hello,
        }
    }
}
